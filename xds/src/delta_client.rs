//! The client's half of delta ADS: subscriptions and responses in, requests out.
//!
//! Outlives streams: what was accepted stays accepted across disconnects and is told to the next server by version, so that
//! nothing unchanged travels again. Holds names and versions, not resources: those are given to the caller, who decides on
//! each of them, and whose rejections become one NACK that names them. Knows neither time nor sockets.

use std::collections::BTreeMap;

use crate::envoy::{core, rpc};
use crate::names::Name;
use crate::resource::ResourceType;
use crate::wire::{Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse};

/// Longest text of a NACK, in bytes: it travels in one message with everything else.
const MESSAGE_LIMIT: usize = 8192;

/// What a client wants, has, and has said on the present stream.
#[derive(Debug)]
pub struct DeltaClient {
    node: core::Node,
    types: BTreeMap<ResourceType, BTreeMap<Name, Subscription>>,
    /// The present stream, if there is one.
    stream: Option<Stream>,
}

#[derive(Debug, Default)]
struct Subscription {
    /// Canonical name and version of what was accepted.
    accepted: Option<(Name, String)>,
    /// Whether the server has said anything about it, ever: a resource, good or bad, or that there is none.
    answered: bool,
}

#[derive(Debug, Default)]
struct Stream {
    node_sent: bool,
    /// Types of which the first request has been sent.
    started: Vec<ResourceType>,
    received: bool,
}

/// What a response says about names that were asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Change<'a> {
    /// A new or changed resource.
    Set {
        /// Its type.
        kind: ResourceType,
        /// The names under which it was asked for: its own, aliases of it, or several; never empty.
        asked: &'a [Name],
        /// Its canonical name.
        name: &'a str,
        /// Its version.
        version: &'a str,
        /// The encoded resource.
        resource: &'a Any,
    },
    /// There is no such resource (any more).
    Removed {
        /// Its type.
        kind: ResourceType,
        /// The name under which it was asked for.
        asked: &'a Name,
    },
    /// The server refuses to give it, and says why. What was accepted before stays.
    Refused {
        /// Its type.
        kind: ResourceType,
        /// The name under which it was asked for.
        asked: &'a Name,
        /// The server's words.
        reason: &'a str,
    },
}

impl DeltaClient {
    /// A client that wants nothing yet. `node` goes with the first request of each stream.
    pub fn new(node: core::Node) -> Self {
        DeltaClient { node, types: BTreeMap::new(), stream: None }
    }

    /// Wants names from now on. Returns the request to send, or `None` without a stream or if nothing is new.
    pub fn subscribe<N: Into<Name>>(
        &mut self,
        kind: ResourceType,
        names: impl IntoIterator<Item = N>,
    ) -> Option<DeltaDiscoveryRequest> {
        let subscriptions = self.types.entry(kind).or_default();
        let mut new = Vec::new();
        for name in names.into_iter().map(Into::into) {
            subscriptions.entry(name).or_insert_with_key(|name| {
                new.push(name.to_string());
                Subscription::default()
            });
        }
        if new.is_empty() { None } else { self.request(kind, new, Vec::new()) }
    }

    /// Wants names no longer, and forgets what was accepted. Returns the request to send, or `None` without a stream or if
    /// none of them was wanted.
    pub fn unsubscribe<'a>(
        &mut self,
        kind: ResourceType,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Option<DeltaDiscoveryRequest> {
        let subscriptions = self.types.get_mut(&kind)?;
        let gone: Vec<String> =
            names.into_iter().filter(|name| subscriptions.remove(*name).is_some()).map(str::to_owned).collect();
        // A type that the server has not heard of on this stream needs no farewell either.
        let started = self.stream.as_ref().is_some_and(|stream| stream.started.contains(&kind));
        if gone.is_empty() || !started { None } else { self.request(kind, Vec::new(), gone) }
    }

    /// A stream was opened: returns what to send first, for each type all wanted names and the versions of what was accepted.
    pub fn connected(&mut self) -> Vec<DeltaDiscoveryRequest> {
        self.stream = Some(Stream::default());
        let wanted: Vec<(ResourceType, Vec<String>)> = self
            .types
            .iter()
            .filter(|(_, subscriptions)| !subscriptions.is_empty())
            .map(|(kind, subscriptions)| (*kind, subscriptions.keys().map(|name| name.to_string()).collect()))
            .collect();
        wanted.into_iter().filter_map(|(kind, names)| self.request(kind, names, Vec::new())).collect()
    }

    /// The stream ended. Returns whether the server had said anything on it: if not, back off before the next.
    pub fn disconnected(&mut self) -> bool {
        self.stream.take().is_some_and(|stream| stream.received)
    }

    /// A response came in. `decide` is called for each resource and removal that concerns a wanted name, in order, and
    /// returns why it cannot be accepted, if it cannot (the verdict on a removal or refusal is ignored). Returns the
    /// acknowledgement or rejection to send.
    pub fn response(
        &mut self,
        response: &DeltaDiscoveryResponse,
        mut decide: impl FnMut(Change<'_>) -> Result<(), String>,
    ) -> DeltaDiscoveryRequest {
        if let Some(stream) = &mut self.stream {
            stream.received = true;
        }
        let mut answer = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..Default::default()
        };
        let Some(kind) = ResourceType::from_type_url(&response.type_url) else {
            answer.error_detail = Some(invalid(format!("{}: a type that was not asked for", response.type_url)));
            return answer;
        };
        let subscriptions = self.types.entry(kind).or_default();
        let mut errors: Vec<String> = Vec::new();
        for resource in &response.resources {
            let names = std::iter::once(&resource.name).chain(&resource.aliases);
            let mut asked: Vec<Name> =
                names.filter_map(|name| subscriptions.get_key_value(&**name)).map(|(name, _)| name.clone()).collect();
            asked.sort();
            asked.dedup();
            // Without a body it is a heartbeat. Without a subscription it is late: the name was unsubscribed meanwhile.
            let Some(any) = resource.resource.as_ref().filter(|_| !asked.is_empty()) else { continue };
            let verdict = if any.type_url == kind.type_url() {
                let (name, version) = (resource.name.as_str(), resource.version.as_str());
                decide(Change::Set { kind, asked: &asked, name, version, resource: any })
            } else {
                Err(format!("is a {}, not a {}", any.type_url, kind.type_url()))
            };
            let accepted = verdict.is_ok();
            for name in &asked {
                let Some(subscription) = subscriptions.get_mut(name) else { continue };
                subscription.answered = true;
                if accepted {
                    subscription.accepted = Some((resource.name.as_str().into(), resource.version.clone()));
                }
            }
            errors.extend(verdict.err().map(|error| format!("{}: {error}", resource.name)));
        }
        for removed in &response.removed_resources {
            for (asked, subscription) in subscriptions.iter_mut() {
                let canonical = subscription.accepted.as_ref().map(|(name, _)| name);
                if **asked == **removed || canonical.is_some_and(|name| **name == **removed) {
                    *subscription = Subscription { accepted: None, answered: true };
                    let _ = decide(Change::Removed { kind, asked });
                }
            }
        }
        for refused in &response.resource_errors {
            let name = refused.resource_name.as_ref().map_or("", |name| &name.name);
            let reason = refused.error_detail.as_ref().map_or("", |status| &status.message);
            if let Some((asked, _)) = subscriptions.get_key_value(name) {
                let _ = decide(Change::Refused { kind, asked, reason });
            }
            if let Some(subscription) = subscriptions.get_mut(name) {
                subscription.answered = true;
            }
        }
        answer.error_detail = (!errors.is_empty()).then(|| invalid(errors.join("; ")));
        answer
    }

    /// Wanted names of which the server has never said anything: what a resource timer is for.
    pub fn unanswered(&self) -> impl Iterator<Item = (ResourceType, &Name)> {
        self.types.iter().flat_map(|(kind, subscriptions)| {
            subscriptions.iter().filter(|(_, subscription)| !subscription.answered).map(|(name, _)| (*kind, name))
        })
    }

    /// Whether a name is wanted.
    pub fn is_subscribed(&self, kind: ResourceType, name: &str) -> bool {
        self.types.get(&kind).is_some_and(|subscriptions| subscriptions.contains_key(name))
    }

    /// Names wanted of a type, sorted.
    pub fn subscriptions(&self, kind: ResourceType) -> impl Iterator<Item = &Name> {
        self.types.get(&kind).into_iter().flat_map(BTreeMap::keys)
    }

    /// The accepted version of a name.
    pub fn accepted_version(&self, kind: ResourceType, name: &str) -> Option<&str> {
        self.types.get(&kind)?.get(name)?.accepted.as_ref().map(|(_, version)| version.as_str())
    }

    /// A request on the present stream. The first of a type tells everything wanted and the versions already there.
    fn request(
        &mut self,
        kind: ResourceType,
        mut subscribe: Vec<String>,
        unsubscribe: Vec<String>,
    ) -> Option<DeltaDiscoveryRequest> {
        let stream = self.stream.as_mut()?;
        let mut versions = BTreeMap::new();
        if !stream.started.contains(&kind) {
            stream.started.push(kind);
            let subscriptions = self.types.get(&kind)?;
            subscribe = subscriptions.keys().map(|name| name.to_string()).collect();
            for (name, subscription) in subscriptions {
                if let Some((_, version)) = &subscription.accepted {
                    versions.insert(name.to_string(), version.clone());
                }
            }
        }
        let node = (!std::mem::replace(&mut stream.node_sent, true)).then(|| self.node.clone());
        Some(DeltaDiscoveryRequest {
            node,
            type_url: kind.type_url().to_owned(),
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            initial_resource_versions: versions.into_iter().collect(),
            ..Default::default()
        })
    }
}

fn invalid(mut message: String) -> rpc::Status {
    /// `google.rpc.Code.INVALID_ARGUMENT`.
    const INVALID_ARGUMENT: i32 = 3;
    message.truncate(message.floor_char_boundary(MESSAGE_LIMIT));
    rpc::Status { code: INVALID_ARGUMENT, message, details: Vec::new() }
}
