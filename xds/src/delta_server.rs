//! The server's half of delta ADS, for one stream: requests and changes in, responses out.
//!
//! Keeps per type what the client asked for and what it was last sent. Every name asked for is answered, every time. Nothing
//! that the client already has is sent again. Deletions wait until the client has taken the listeners and routes that no
//! longer refer to what is deleted. Knows neither time nor sockets (xDS protocol, "Incremental xDS").

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::names::Name;
use crate::progress::{Extent, Progress, SentName, TypeProgress};
use crate::resource::{Answer, Resource, ResourceType, View};
use crate::server::{Limits, Push, Reply, StreamError, WILDCARD, denial, has_wildcard};
use crate::wire::{self, DeltaDiscoveryRequest, DeltaDiscoveryResponse};

/// Resources of a response are split at this size, in bytes: well under the 4 MiB that gRPC receives by default.
const RESPONSE_SIZE: usize = 1 << 20;

/// The state of one stream.
#[derive(Debug)]
pub struct DeltaServer {
    types: BTreeMap<ResourceType, Subscription>,
    /// Clusters sent anew whose endpoints must follow, unchanged or not: the client waits for them (Envoy, "warming").
    warming: BTreeSet<Name>,
    limits: Limits,
    last_nonce: u64,
}

#[derive(Debug, Default)]
struct Subscription {
    started: bool,
    wildcard: bool,
    names: BTreeSet<Name>,
    /// By the name that was asked for (under a wildcard: the canonical name).
    sent: BTreeMap<Name, Sent>,
    /// Something that was sent no longer exists, and the client has not been told.
    deletions_due: bool,
    progress: Progress,
}

#[derive(Debug)]
struct Sent {
    version: Name,
    /// False for the stub of a name that does not exist.
    real: bool,
}

/// Whether deletions may be told now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deletions {
    Held,
    Told,
}

/// A response in the making.
#[derive(Default)]
struct Batch {
    /// By canonical name, with the names that were asked for.
    resources: BTreeMap<Name, (Arc<Resource>, Vec<Name>)>,
    removed: Vec<Name>,
    denied: Vec<(Name, String)>,
}

type Responses = Vec<DeltaDiscoveryResponse>;

impl DeltaServer {
    /// A stream that has just been opened.
    pub fn new(limits: Limits) -> Self {
        DeltaServer { types: BTreeMap::new(), warming: BTreeSet::new(), limits, last_nonce: 0 }
    }

    /// The client sent a request. `view` must be the one of the last [`push`](Self::push), if there was one.
    ///
    /// # Errors
    /// The client exceeds a limit: the stream must end.
    pub fn request(
        &mut self,
        request: &DeltaDiscoveryRequest,
        view: &impl View,
    ) -> Result<Reply<DeltaDiscoveryResponse>, StreamError> {
        let mut reply = Reply::default();
        let Some(kind) = ResourceType::from_type_url(&request.type_url) else {
            reply.responses.extend(self.nothing_of_that_type(request));
            return Ok(reply);
        };
        let limits = self.limits;
        let subscription = self.types.entry(kind).or_default();
        let rejection = subscription.progress.answered(&request.response_nonce, request.error_detail.as_ref());
        reply.rejection = rejection.map(|rejection| (kind, rejection));

        let mut batch = Batch::default();
        subscription.unsubscribe(kind, &request.resource_names_unsubscribe, view, &mut batch);
        let first = !subscription.started;
        subscription.started = true;
        let mut whole = false;
        if first && request.resource_names_subscribe.is_empty() && has_wildcard(kind) {
            subscription.wildcard = true;
            whole = true;
        }
        let mut asked: BTreeSet<Name> = BTreeSet::new();
        for name in &request.resource_names_subscribe {
            if name == WILDCARD {
                whole |= has_wildcard(kind);
                subscription.wildcard |= has_wildcard(kind);
                continue;
            }
            limits.admit(kind, name, subscription.names.len())?;
            let name = Name::from(name.as_str());
            subscription.names.insert(name.clone());
            asked.insert(name);
        }
        if first {
            // What the client still has from an earlier stream counts as sent, and as asked for only where it differs.
            for (name, version) in &request.initial_resource_versions {
                if subscription.wildcard || subscription.names.contains(&**name) {
                    limits.admit(kind, name, subscription.sent.len())?;
                    let name = Name::from(name.as_str());
                    asked.remove(&name);
                    subscription.sent.insert(name, Sent { version: version.as_str().into(), real: true });
                }
            }
            whole = true;
        }
        if kind == ResourceType::Endpoints {
            asked.extend(self.warming.iter().filter(|name| subscription.names.contains(*name)).cloned());
            self.warming.clear();
        }
        let answer_even_if_empty = whole && subscription.wildcard;
        if whole {
            subscription.collect(kind, view, &asked, Deletions::Held, &mut batch);
        } else {
            for name in &asked {
                subscription.consider(kind, name, view, true, Deletions::Held, &mut batch);
            }
        }
        reply.denied.extend(batch.denied.iter().map(|(name, why)| (kind, name.clone(), why.clone())));
        self.send(kind, batch, answer_even_if_empty, view, &mut reply.responses)?;
        if whole {
            self.reached(kind, view);
        }
        self.follow_with_endpoints(view, &mut reply.responses)?;
        self.delete(view, &mut reply.responses)?;
        Ok(reply)
    }

    /// The configuration changed.
    ///
    /// # Errors
    /// The client exceeds a limit: the stream must end.
    pub fn push(&mut self, view: &impl View, what: Push) -> Result<Responses, StreamError> {
        let mut responses = Vec::new();
        for kind in ResourceType::ALL {
            if kind == ResourceType::Endpoints {
                self.follow_with_endpoints(view, &mut responses)?;
                if what == Push::AllButEndpoints {
                    continue;
                }
            }
            let Some(subscription) = self.types.get_mut(&kind) else { continue };
            let mut batch = Batch::default();
            subscription.collect(kind, view, &BTreeSet::new(), Deletions::Held, &mut batch);
            self.send(kind, batch, false, view, &mut responses)?;
            self.reached(kind, view);
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

    fn reached(&mut self, kind: ResourceType, view: &impl View) {
        if let Some(subscription) = self.types.get_mut(&kind) {
            subscription.progress.reached(view.version());
        }
    }

    /// Endpoints of clusters that were just sent follow at once.
    fn follow_with_endpoints(&mut self, view: &impl View, responses: &mut Responses) -> Result<(), StreamError> {
        let Some(endpoints) = self.types.get_mut(&ResourceType::Endpoints) else { return Ok(()) };
        let mut batch = Batch::default();
        for name in std::mem::take(&mut self.warming) {
            if endpoints.names.contains(&name) {
                endpoints.consider(ResourceType::Endpoints, &name, view, true, Deletions::Held, &mut batch);
            }
        }
        self.send(ResourceType::Endpoints, batch, false, view, responses)
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
            let mut batch = Batch::default();
            subscription.collect(kind, view, &BTreeSet::new(), Deletions::Told, &mut batch);
            self.send(kind, batch, false, view, responses)?;
        }
        Ok(())
    }

    /// Turns a batch into responses, the way they are remembered until answered.
    fn send(
        &mut self,
        kind: ResourceType,
        batch: Batch,
        even_if_empty: bool,
        view: &impl View,
        responses: &mut Responses,
    ) -> Result<(), StreamError> {
        if kind == ResourceType::Cluster {
            self.warming.extend(batch.resources.keys().cloned());
        }
        let Some(subscription) = self.types.get_mut(&kind) else { return Ok(()) };
        let denied = batch.denied.iter().map(|(name, reason)| denial(name, reason)).collect::<Vec<_>>();
        if batch.resources.is_empty() && batch.removed.is_empty() && denied.is_empty() && !even_if_empty {
            return Ok(());
        }
        let mut response = DeltaDiscoveryResponse {
            system_version_info: view.version().to_owned(),
            type_url: kind.type_url().to_owned(),
            removed_resources: batch.removed.iter().map(|name| name.to_string()).collect(),
            resource_errors: denied,
            ..Default::default()
        };
        let mut size = 0_usize;
        let mut names: Vec<SentName> =
            batch.removed.into_iter().map(|name| SentName { asked: name.clone(), resource: name }).collect();
        let mut remaining = batch.resources.into_values().peekable();
        loop {
            let fits = |size: usize, resource: &Resource| {
                size == 0 || size.saturating_add(resource.body.len()) <= RESPONSE_SIZE
            };
            while let Some((resource, asked)) = remaining.next_if(|(resource, _)| fits(size, resource)) {
                size = size.saturating_add(resource.body.len().max(1));
                names.extend(asked.into_iter().map(|asked| SentName { asked, resource: resource.name.clone() }));
                response.resources.push(on_the_wire(&resource));
            }
            self.last_nonce = self.last_nonce.wrapping_add(1);
            response.nonce = self.last_nonce.to_string();
            subscription.progress.forget(names.iter().map(|name| &name.asked));
            subscription.progress.sent(self.last_nonce, view.version(), std::mem::take(&mut names), Extent::Partial);
            let rest = DeltaDiscoveryResponse {
                system_version_info: response.system_version_info.clone(),
                type_url: response.type_url.clone(),
                ..Default::default()
            };
            responses.push(std::mem::replace(&mut response, rest));
            size = 0;
            if remaining.peek().is_none() {
                break;
            }
        }
        if subscription.progress.unanswered() > self.limits.unanswered {
            return Err(StreamError::NeverAnswers { kind, limit: self.limits.unanswered });
        }
        Ok(())
    }

    /// Names of a type that does not exist here do not exist either; answers to that answer are left alone.
    fn nothing_of_that_type(&mut self, request: &DeltaDiscoveryRequest) -> Option<DeltaDiscoveryResponse> {
        request.response_nonce.is_empty().then(|| {
            self.last_nonce = self.last_nonce.wrapping_add(1);
            DeltaDiscoveryResponse {
                type_url: request.type_url.clone(),
                removed_resources: request.resource_names_subscribe.clone(),
                nonce: self.last_nonce.to_string(),
                ..Default::default()
            }
        })
    }
}

impl Subscription {
    /// Compares all that the client subscribes to with what it was sent. Names in `asked` are answered in any case.
    fn collect(
        &mut self,
        kind: ResourceType,
        view: &impl View,
        asked: &BTreeSet<Name>,
        deletions: Deletions,
        batch: &mut Batch,
    ) {
        self.deletions_due = false;
        let mut names: BTreeSet<Name> = self.names.clone();
        if self.wildcard {
            names.extend(self.sent.keys().cloned());
            names.extend(view.all(kind).iter().map(|resource| resource.name.clone()));
        }
        for name in &names {
            self.consider(kind, name, view, asked.contains(name), deletions, batch);
        }
    }

    /// Puts a name into the batch if the client must hear about it.
    fn consider(
        &mut self,
        kind: ResourceType,
        name: &Name,
        view: &impl View,
        asked: bool,
        deletions: Deletions,
        batch: &mut Batch,
    ) {
        let sent = self.sent.get(name);
        let found = match view.resource(kind, name) {
            Answer::Found(resource) => Some(resource),
            Answer::Absent => None,
            Answer::Denied(reason) => {
                if asked {
                    batch.denied.push((name.clone(), reason));
                }
                None
            }
        };
        // A listener that is gone is replaced at once by one that says so; everything else may still be referred to.
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
        let named = self.names.contains(name);
        match found.or_else(|| named.then(|| view.stub(kind, name)).flatten()) {
            Some(resource) => {
                if !asked && sent.is_some_and(|sent| sent.version == resource.version) {
                    return;
                }
                self.sent.insert(name.clone(), Sent { version: resource.version.clone(), real });
                let entry = batch.resources.entry(resource.name.clone()).or_insert_with(|| (resource, Vec::new()));
                entry.1.push(name.clone());
            }
            None => {
                if self.sent.remove(name).is_some() || asked {
                    batch.removed.push(name.clone());
                }
            }
        }
    }

    fn unsubscribe(&mut self, kind: ResourceType, names: &[String], view: &impl View, batch: &mut Batch) {
        for name in names {
            if name == WILDCARD {
                self.wildcard = false;
                self.sent.retain(|name, _| self.names.contains(name));
                continue;
            }
            let Some(name) = self.names.take(&**name) else { continue };
            self.sent.remove(&name);
            if self.wildcard {
                // The client has dropped it, though it still asks for everything: tell it what is there.
                match view.resource(kind, &name) {
                    Answer::Found(resource) if resource.name == name => {
                        self.consider(kind, &name, view, true, Deletions::Held, batch);
                    }
                    _ => batch.removed.push(name.clone()),
                }
            }
        }
        if !self.wildcard {
            self.progress.forget_unless(|name| self.names.contains(name));
        }
    }
}

fn on_the_wire(resource: &Resource) -> wire::Resource {
    wire::Resource {
        version: resource.version.to_string(),
        resource: Some(wire::Any { type_url: resource.kind.type_url().to_owned(), value: resource.body.clone() }),
        name: resource.name.to_string(),
        aliases: resource.aliases.iter().map(|alias| alias.to_string()).collect(),
    }
}
