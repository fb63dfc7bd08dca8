//! The server's half of state-of-the-world ADS, for one stream: requests and changes in, responses out.
//!
//! For clients that know only this flavour (every gRPC client). Answers with listeners and clusters are complete, those with
//! routes, endpoints and secrets hold what changed. What no longer exists is told by leaving it out (clusters) or by an empty
//! resource (everything else), after the client has taken the listeners and routes that no longer refer to it. Listeners go
//! by the name that was asked for (xDS protocol, "State of the World").

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::names::Name;
use crate::progress::{Extent, Progress, SentName, TypeProgress};
use crate::resource::{Answer, Resource, ResourceType, View};
use crate::server::{Limits, Push, Reply, StreamError, WILDCARD, denial, has_wildcard};
use crate::wire::{Any, DiscoveryRequest, DiscoveryResponse};

/// The state of one stream.
#[derive(Debug)]
pub struct SotwServer {
    types: BTreeMap<ResourceType, Subscription>,
    limits: Limits,
    last_nonce: u64,
}

#[derive(Debug, Default)]
struct Subscription {
    wildcard: bool,
    /// Whether the client ever named something: from then on, no names means nothing rather than everything.
    has_named: bool,
    names: BTreeSet<Name>,
    /// By the name that was asked for. Resources are kept because complete answers repeat them.
    sent: BTreeMap<Name, Sent>,
    /// Nonce of the last response; zero before the first.
    nonce: u64,
    deletions_due: bool,
    progress: Progress,
}

#[derive(Debug, Clone)]
struct Sent {
    resource: Arc<Resource>,
    /// False for the stub of a name that does not exist.
    real: bool,
}

/// Whether deletions may be told now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deletions {
    Held,
    Told,
}

/// What changed since the last response.
#[derive(Default)]
struct Change {
    /// Names to send, or, for listeners and clusters, names for whose sake the complete set is sent.
    names: BTreeSet<Name>,
    denied: Vec<(Name, String)>,
    /// A name went away: a complete answer is needed, though nothing is to be added.
    shrunk: bool,
}

type Responses = Vec<DiscoveryResponse>;

impl SotwServer {
    /// A stream that has just been opened.
    pub fn new(limits: Limits) -> Self {
        SotwServer { types: BTreeMap::new(), limits, last_nonce: 0 }
    }

    /// The client sent a request. `view` must be the one of the last [`push`](Self::push), if there was one.
    ///
    /// # Errors
    /// The client exceeds a limit: the stream must end.
    pub fn request(
        &mut self,
        request: &DiscoveryRequest,
        view: &impl View,
    ) -> Result<Reply<DiscoveryResponse>, StreamError> {
        let mut reply = Reply::default();
        let Some(kind) = ResourceType::from_type_url(&request.type_url) else {
            if request.response_nonce.is_empty() {
                self.last_nonce = self.last_nonce.wrapping_add(1);
                let (type_url, nonce) = (request.type_url.clone(), self.last_nonce.to_string());
                reply.responses.push(DiscoveryResponse { type_url, nonce, ..Default::default() });
            }
            return Ok(reply);
        };
        let limits = self.limits;
        let subscription = self.types.entry(kind).or_default();
        let rejection = subscription.progress.answered(&request.response_nonce, request.error_detail.as_ref());
        reply.rejection = rejection.map(|rejection| (kind, rejection));
        let first = subscription.nonce == 0;
        let fresh = request.response_nonce == subscription.nonce.to_string();
        if !first && !fresh && !request.response_nonce.is_empty() {
            // Written before the client saw our last response, whose answer will repeat what it wants. But what it did not want
            // in between it has forgotten, and must be sent again if it comes back.
            if !subscription.wildcard {
                subscription.names.retain(|name| request.resource_names.iter().any(|wanted| **wanted == **name));
                subscription.sent.retain(|name, _| subscription.names.contains(name));
                subscription.progress.forget_unless(|name| subscription.names.contains(name));
            }
            return Ok(reply);
        }

        let mut wanted: BTreeSet<Name> = BTreeSet::new();
        let mut wildcard = request.resource_names.is_empty() && !subscription.has_named && has_wildcard(kind);
        for name in &request.resource_names {
            if name == WILDCARD {
                wildcard |= has_wildcard(kind);
                continue;
            }
            limits.admit(kind, name, wanted.len())?;
            wanted.insert(name.as_str().into());
        }
        subscription.has_named |= !request.resource_names.is_empty();
        let asked: BTreeSet<Name> = wanted.difference(&subscription.names).cloned().collect();
        let dropped: Vec<Name> = subscription.names.difference(&wanted).cloned().collect();
        let widened = wildcard && !subscription.wildcard;
        subscription.wildcard = wildcard;
        subscription.names = wanted;
        if !wildcard {
            subscription.progress.forget_unless(|name| subscription.names.contains(name));
            dropped.iter().for_each(|name| drop(subscription.sent.remove(name)));
        }
        if !asked.is_empty() || widened {
            let change = subscription.compare(kind, view, &asked, Deletions::Held);
            reply.denied.extend(change.denied.iter().map(|(name, why)| (kind, name.clone(), why.clone())));
            let incomplete = !is_complete(kind) && change.names.is_empty() && change.denied.is_empty();
            if !incomplete {
                self.send(kind, change, view, &mut reply.responses)?;
            }
            if let Some(subscription) = self.types.get_mut(&kind) {
                subscription.progress.reached(view.version());
            }
        }
        self.delete(view, &mut reply.responses)?;
        Ok(reply)
    }

    /// The configuration changed.
    ///
    /// # Errors
    /// The client exceeds a limit: the stream must end.
    pub fn push(&mut self, view: &impl View, what: Push) -> Result<Responses, StreamError> {
        let mut responses = Vec::new();
        let mut warming = BTreeSet::new();
        for kind in ResourceType::ALL {
            let Some(subscription) = self.types.get_mut(&kind) else { continue };
            let mut change;
            if kind == ResourceType::Endpoints && what == Push::AllButEndpoints {
                warming.retain(|name| subscription.names.contains(name));
                change = Change::default();
                for name in &warming {
                    subscription.consider(kind, name, view, true, Deletions::Held, &mut change);
                }
            } else {
                let asked =
                    if kind == ResourceType::Endpoints { std::mem::take(&mut warming) } else { BTreeSet::new() };
                change = subscription.compare(kind, view, &asked, Deletions::Held);
                if kind == ResourceType::Cluster {
                    warming.clone_from(&change.names);
                }
            }
            if !change.names.is_empty() || change.shrunk {
                self.send(kind, change, view, &mut responses)?;
            }
            if let Some(subscription) = self.types.get_mut(&kind)
                && (kind != ResourceType::Endpoints || what == Push::All)
            {
                subscription.progress.reached(view.version());
            }
        }
        self.delete(view, &mut responses)?;
        Ok(responses)
    }

    /// What is shown to people.
    pub fn progress(&self) -> Vec<TypeProgress> {
        self.types
            .iter()
            .map(|(kind, subscription)| TypeProgress {
                kind: *kind,
                subscriptions: if subscription.wildcard { subscription.sent.len() } else { subscription.names.len() },
                names: match kind {
                    ResourceType::Listener | ResourceType::Route => subscription.names.iter().cloned().collect(),
                    _ => Vec::new(),
                },
                applied: subscription.progress.applied().cloned(),
                unanswered: subscription.progress.unanswered(),
                rejections: subscription.progress.rejections(),
            })
            .collect()
    }

    /// Tells deletions that are due, once the client has taken listeners and routes.
    fn delete(&mut self, view: &impl View, responses: &mut Responses) -> Result<(), StreamError> {
        use ResourceType::{Cluster, Endpoints, Listener, Route, Secret};
        for kind in [Listener, Route] {
            let Some(subscription) = self.types.get_mut(&kind) else { continue };
            subscription.progress.forget_unless(|name| matches!(view.resource(kind, name), Answer::Found(_)));
            if !subscription.progress.is_settled() {
                return Ok(());
            }
        }
        for kind in [Route, Cluster, Endpoints, Secret] {
            let Some(subscription) = self.types.get_mut(&kind).filter(|subscription| subscription.deletions_due) else {
                continue;
            };
            let change = subscription.compare(kind, view, &BTreeSet::new(), Deletions::Told);
            if !change.names.is_empty() || change.shrunk {
                self.send(kind, change, view, responses)?;
            }
        }
        Ok(())
    }

    fn send(
        &mut self,
        kind: ResourceType,
        change: Change,
        view: &impl View,
        responses: &mut Responses,
    ) -> Result<(), StreamError> {
        let Some(subscription) = self.types.get_mut(&kind) else { return Ok(()) };
        let names: Vec<Name> = if is_complete(kind) {
            subscription.sent.keys().cloned().collect()
        } else {
            change.names.into_iter().collect()
        };
        let body = |name: &Name| {
            let sent = subscription.sent.get(name)?;
            Some(Any { type_url: kind.type_url().to_owned(), value: sent.resource.render_as(name) })
        };
        self.last_nonce = self.last_nonce.wrapping_add(1);
        responses.push(DiscoveryResponse {
            version_info: view.version().to_owned(),
            resources: names.iter().filter_map(body).collect(),
            type_url: kind.type_url().to_owned(),
            nonce: self.last_nonce.to_string(),
            resource_errors: change.denied.iter().map(|(name, reason)| denial(name, reason)).collect(),
        });
        subscription.nonce = self.last_nonce;
        subscription.progress.forget(&names);
        let extent = if is_complete(kind) { Extent::Complete } else { Extent::Partial };
        let names = names.into_iter().filter_map(|asked| {
            let resource = subscription.sent.get(&asked)?.resource.name.clone();
            Some(SentName { asked, resource })
        });
        subscription.progress.sent(self.last_nonce, view.version(), names.collect(), extent);
        if subscription.progress.unanswered() > self.limits.unanswered {
            return Err(StreamError::NeverAnswers { kind, limit: self.limits.unanswered });
        }
        Ok(())
    }
}

/// Whether answers of a type are complete, so that leaving out is deleting.
fn is_complete(kind: ResourceType) -> bool {
    matches!(kind, ResourceType::Listener | ResourceType::Cluster)
}

impl Subscription {
    /// Compares all that the client subscribes to with what it was sent, and brings `sent` up to date. Names in `asked` count
    /// as changed in any case.
    fn compare(
        &mut self,
        kind: ResourceType,
        view: &impl View,
        asked: &BTreeSet<Name>,
        deletions: Deletions,
    ) -> Change {
        self.deletions_due = false;
        let mut names = self.names.clone();
        names.extend(self.sent.keys().cloned());
        if self.wildcard {
            names.extend(view.all(kind).iter().map(|resource| resource.name.clone()));
        }
        let mut change = Change::default();
        for name in &names {
            self.consider(kind, name, view, asked.contains(name), deletions, &mut change);
        }
        change
    }

    fn consider(
        &mut self,
        kind: ResourceType,
        name: &Name,
        view: &impl View,
        asked: bool,
        deletions: Deletions,
        change: &mut Change,
    ) {
        let named = self.names.contains(name);
        let found = match view.resource(kind, name) {
            // A wildcard stands for resources under their own names.
            Answer::Found(resource) if named || self.wildcard => Some(resource),
            Answer::Denied(reason) => {
                if asked {
                    change.denied.push((name.clone(), reason));
                }
                None
            }
            Answer::Found(_) | Answer::Absent => None,
        };
        let sent = self.sent.get(name);
        let held = found.is_none()
            && !asked
            && kind != ResourceType::Listener
            && deletions == Deletions::Held
            && sent.is_some_and(|sent| sent.real);
        if held {
            self.deletions_due = true;
            return;
        }
        let real = found.is_some();
        match found.or_else(|| named.then(|| view.stub(kind, name)).flatten()) {
            Some(resource) => {
                if asked || sent.is_none_or(|sent| sent.resource.version != resource.version) {
                    self.sent.insert(name.clone(), Sent { resource, real });
                    change.names.insert(name.clone());
                }
            }
            None => change.shrunk |= self.sent.remove(name).is_some() && is_complete(kind),
        }
    }
}
