//! The directory's mind: look-ups, responses and time in; requests and snapshots out. No I/O, no clock.
//!
//! It asks for listeners of what is looked up, and for what those refer to, as soon as they refer to it; it stops asking for what
//! has been idle or unreferenced for a while. The number of destinations is bounded: names come from clients.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use malla_xds::envoy::core;
use malla_xds::names::{ROOT_CA, inbound_workload};
use malla_xds::wire::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use malla_xds::{Change, DeltaClient, ResourceType};
use tokio::sync::oneshot;

use super::Ask;
use super::link::{Link, Linker};
use super::status::Status;
use super::store::{Known, Store};
use crate::decode::cluster::Discovery;
use crate::decode::listener::{RouteSource, ServiceSpec};
use crate::decode::{self, Decoded, Fault, ListenerSpec, RouteTable, TrustBundle};
use crate::names::Name;
use crate::reason::Reason;
use crate::snapshot::{Destination, Outbound, Snapshot};

/// Destinations that are subscribed to at once.
const DESTINATIONS: usize = 4096;
/// How long a resource may stay unanswered while there is a stream before what refers to it goes on without it.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// Time between two sweeps; the unit in which idleness is counted.
pub(super) const SWEEP: Duration = Duration::from_secs(30);
/// Sweeps after which a destination of the mesh that nobody looked up is dropped: ten minutes.
const IDLE: u32 = 20;
/// The same for names that the mesh does not know.
const IDLE_UNKNOWN: u32 = 2;

type Waiter = oneshot::Sender<Result<Arc<Outbound>, Reason>>;

/// All that the directory knows and wants.
#[derive(Debug)]
pub(super) struct World {
    client: DeltaClient,
    store: Store,
    linker: Linker,
    inbound: Option<Name>,
    wanted: HashMap<Name, Wanted>,
    waiters: HashMap<Name, Vec<Waiter>>,
    /// Subscriptions that nothing referred to at the last sweep.
    unreferenced: BTreeSet<(ResourceType, Name)>,
    connected: bool,
    tick: Arc<AtomicU32>,
    snapshot: Arc<Snapshot>,
    status: Arc<Status>,
}

/// A destination that somebody looked up.
#[derive(Debug)]
struct Wanted {
    last_used: Arc<AtomicU32>,
    /// Named by the settings: kept though idle.
    pinned: bool,
}

impl World {
    /// A world that wants this workload's own ports, if any, the trust bundle, and the destinations of the settings.
    pub(super) fn new(
        node: core::Node,
        inbound: Option<Name>,
        pinned: impl IntoIterator<Item = Name>,
        tick: Arc<AtomicU32>,
        status: Arc<Status>,
    ) -> Self {
        let wanted = pinned.into_iter().map(|name| (name, Wanted { last_used: Arc::default(), pinned: true }));
        let mut world = World {
            client: DeltaClient::new(node),
            store: Store::default(),
            linker: Linker::default(),
            inbound,
            wanted: wanted.collect(),
            waiters: HashMap::new(),
            unreferenced: BTreeSet::new(),
            connected: false,
            tick,
            snapshot: Arc::default(),
            status,
        };
        world.subscribe_referenced(None);
        world
    }

    /// What is applied.
    pub(super) fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// The trust bundle that the server distributes.
    pub(super) fn trust(&self) -> Option<&Arc<TrustBundle>> {
        self.store.secrets.ready(ROOT_CA)
    }

    /// Somebody looks up a name that was not in the snapshot. Returns what to send.
    pub(super) fn ask(&mut self, ask: Ask, now: Instant) -> Vec<DeltaDiscoveryRequest> {
        let Ask { name, answer } = ask;
        if let Some(known) = self.snapshot.outbound.get(&name) {
            let _ = answer.send(Ok(known.outbound.clone()));
            return Vec::new();
        }
        let tick = self.tick.load(Ordering::Relaxed);
        if let Some(wanted) = self.wanted.get(&name) {
            wanted.last_used.store(tick, Ordering::Relaxed);
            if matches!(self.store.listeners.get(&name), Known::Nothing) {
                let _ = answer.send(Err(Reason::NoConfiguration));
            } else {
                let waiters = self.waiters.entry(name).or_default();
                waiters.retain(|waiter| !waiter.is_closed());
                waiters.push(answer);
            }
            return Vec::new();
        }
        let mut requests = Vec::new();
        if self.wanted.len() >= DESTINATIONS {
            let Some(victim) = self.least_useful(tick) else {
                let _ = answer.send(Err(Reason::Overloaded));
                return Vec::new();
            };
            requests.extend(self.drop_destinations(&[victim]));
        }
        let last_used = Arc::new(AtomicU32::new(tick));
        self.wanted.insert(name.clone(), Wanted { last_used, pinned: false });
        self.waiters.insert(name.clone(), vec![answer]);
        requests.extend(self.subscribe(ResourceType::Listener, vec![name], Some(now)));
        requests
    }

    /// A stream was opened. Returns what to send first.
    pub(super) fn connected(&mut self, now: Instant) -> Vec<DeltaDiscoveryRequest> {
        self.connected = true;
        self.store.set_deadlines(Some(now + ANSWER_LIMIT));
        self.client.connected()
    }

    /// The stream ended. Returns whether the server had said anything on it.
    pub(super) fn disconnected(&mut self) -> bool {
        self.connected = false;
        self.store.set_deadlines(None);
        self.client.disconnected()
    }

    /// A response came in. Returns what to send: the verdict first.
    pub(super) fn response(&mut self, response: &DeltaDiscoveryResponse, now: Instant) -> Vec<DeltaDiscoveryRequest> {
        let (store, status) = (&mut self.store, &self.status);
        let verdict = self.client.response(response, |change| apply(change, store, status));
        self.status.response(verdict.error_detail.as_ref().map(|detail| detail.message.as_str()));
        let mut requests = vec![verdict];
        // Endpoints and secrets refer to nothing.
        let kind = ResourceType::from_type_url(&response.type_url);
        if !matches!(kind, Some(ResourceType::Endpoints | ResourceType::Secret)) {
            requests.extend(self.subscribe_referenced(Some(now)));
        }
        self.link();
        requests
    }

    /// A second or so has passed: what is overdue is given up.
    pub(super) fn check_deadlines(&mut self, now: Instant) {
        if self.store.give_up(now) {
            self.link();
        }
    }

    /// A sweep is due: idle destinations and what nothing refers to any more are dropped. Returns what to send.
    pub(super) fn sweep(&mut self, now: Instant) -> Vec<DeltaDiscoveryRequest> {
        let tick = self.tick.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        self.waiters.retain(|_, waiters| {
            waiters.retain(|waiter| !waiter.is_closed());
            !waiters.is_empty()
        });
        let idle: Vec<Name> =
            self.wanted.keys().filter(|name| self.idle(name, tick) >= self.patience(name)).cloned().collect();
        let mut requests = Vec::from_iter(self.drop_destinations(&idle));
        let referenced = self.referenced();
        let mut unreferenced = BTreeSet::new();
        for kind in ResourceType::ALL {
            let lost = self.client.subscriptions(kind).map(|name| (kind, name.clone()));
            unreferenced.extend(lost.filter(|subscription| !referenced.contains(subscription)));
        }
        // What was unreferenced at the last sweep too has had its time: a weight may come back from zero.
        for kind in ResourceType::ALL {
            let gone: Vec<Name> = unreferenced
                .iter()
                .filter(|subscription| subscription.0 == kind && self.unreferenced.contains(*subscription))
                .map(|(_, name)| name.clone())
                .collect();
            requests.extend(self.unsubscribe(kind, &gone));
        }
        self.unreferenced = unreferenced;
        let wanted = &self.wanted;
        self.linker.retain(|name| wanted.contains_key(name), &self.store);
        requests.extend(self.subscribe_referenced(Some(now)));
        self.link();
        requests
    }

    /// Sweeps since a destination was last used; none for those of the settings and those that somebody waits for.
    fn idle(&self, name: &str, tick: u32) -> u32 {
        match self.wanted.get(name) {
            Some(wanted) if !wanted.pinned && !self.waiters.contains_key(name) => {
                tick.wrapping_sub(wanted.last_used.load(Ordering::Relaxed))
            }
            _ => 0,
        }
    }

    fn patience(&self, name: &str) -> u32 {
        let of_the_mesh =
            self.store.listeners.ready(name).is_some_and(|spec| matches!(**spec, ListenerSpec::Service(_)));
        if of_the_mesh { IDLE } else { IDLE_UNKNOWN }
    }

    /// The destination to drop for a new one: the longest idle of those that the mesh does not know, else the longest idle of all.
    /// None that is in use.
    fn least_useful(&self, tick: u32) -> Option<Name> {
        let candidates = self.wanted.keys().map(|name| (name, self.idle(name, tick)));
        let idle = candidates.filter(|(_, idle)| *idle >= 1);
        idle.max_by_key(|(name, idle)| (self.patience(name) == IDLE_UNKNOWN, *idle)).map(|(name, _)| name.clone())
    }

    fn drop_destinations(&mut self, names: &[Name]) -> Option<DeltaDiscoveryRequest> {
        if names.is_empty() {
            return None;
        }
        for name in names {
            self.wanted.remove(name);
            self.waiters.remove(name);
        }
        self.unsubscribe(ResourceType::Listener, names)
    }

    fn unsubscribe(&mut self, kind: ResourceType, names: &[Name]) -> Option<DeltaDiscoveryRequest> {
        for name in names {
            self.store.forget(kind, name);
            self.status.solved(kind, name);
        }
        self.client.unsubscribe(kind, names.iter().map(|name| &**name))
    }

    /// Subscribes to whatever is referred to and not subscribed to yet.
    fn subscribe_referenced(&mut self, now: Option<Instant>) -> Vec<DeltaDiscoveryRequest> {
        let mut new: BTreeMap<ResourceType, Vec<Name>> = BTreeMap::new();
        for (kind, name) in self.referenced() {
            if !self.client.is_subscribed(kind, &name) {
                new.entry(kind).or_default().push(name);
            }
        }
        new.into_iter().filter_map(|(kind, names)| self.subscribe(kind, names, now)).collect()
    }

    fn subscribe(
        &mut self,
        kind: ResourceType,
        names: Vec<Name>,
        now: Option<Instant>,
    ) -> Option<DeltaDiscoveryRequest> {
        let deadline = now.filter(|_| self.connected).map(|now| now + ANSWER_LIMIT);
        for name in &names {
            self.store.expect(kind, name, deadline);
        }
        self.client.subscribe(kind, names)
    }

    /// Names subscribed to, by type.
    pub(super) fn subscriptions(&self) -> BTreeMap<ResourceType, usize> {
        ResourceType::ALL.map(|kind| (kind, self.client.subscriptions(kind).count())).into()
    }

    /// Everything that is wanted or referred to, by the newest resources and by those that serve.
    fn referenced(&self) -> BTreeSet<(ResourceType, Name)> {
        let mut referenced = References::default();
        referenced.add(ResourceType::Secret, &ROOT_CA.into());
        for name in self.wanted.keys().chain(&self.inbound) {
            referenced.add(ResourceType::Listener, name);
        }
        for name in self.wanted.keys() {
            if let Some(spec) = self.store.listeners.ready(name) {
                referenced.listener(spec, &self.store);
            }
        }
        for (spec, table) in self.linker.serving() {
            referenced.listener(spec, &self.store);
            if let Some(table) = table {
                referenced.table(table, &self.store);
            }
        }
        let newest = self.inbound.as_ref().and_then(|name| self.store.inbound.ready(name));
        for spec in newest.into_iter().chain(self.linker.serving_inbound()) {
            for port in &spec.ports {
                referenced.cluster(&port.cluster, &self.store);
            }
        }
        referenced.0
    }

    /// Makes a new snapshot if anything changed, and answers who waits.
    fn link(&mut self) {
        if let Some(spec) = self.inbound.as_ref().and_then(|name| self.store.inbound.ready(name)) {
            self.linker.place(&spec.place);
        }
        let mut outbound = HashMap::with_capacity(self.wanted.len());
        let mut changed = false;
        for (name, wanted) in &self.wanted {
            let before = self.snapshot.outbound.get(name);
            let after = match self.linker.outbound(name, &self.store) {
                Link::Ready(outbound) => Some(outbound),
                Link::Waiting => None,
                Link::Nothing => {
                    for waiter in self.waiters.remove(name).unwrap_or_default() {
                        let _ = waiter.send(Err(Reason::NoConfiguration));
                    }
                    None
                }
            };
            changed |= match (before, &after) {
                (Some(before), Some(after)) => !Arc::ptr_eq(&before.outbound, after),
                (None, None) => false,
                _ => true,
            };
            if let Some(after) = after {
                outbound.insert(name.clone(), Destination { outbound: after, last_used: wanted.last_used.clone() });
            }
        }
        changed |= outbound.len() != self.snapshot.outbound.len();
        let inbound = self.inbound.as_ref().and_then(|name| self.linker.inbound(name, &self.store));
        changed |= match (&self.snapshot.inbound, &inbound) {
            (Some(before), Some(after)) => !Arc::ptr_eq(before, after),
            (None, None) => false,
            _ => true,
        };
        if changed {
            self.snapshot = Arc::new(Snapshot { outbound, inbound });
        }
    }

    /// Answers who waits for what the snapshot now holds; to be called once the snapshot can be seen.
    pub(super) fn answer_waiters(&mut self) {
        let snapshot = &self.snapshot;
        self.waiters.retain(|name, waiters| match snapshot.outbound.get(name) {
            Some(known) => {
                for waiter in waiters.drain(..) {
                    let _ = waiter.send(Ok(known.outbound.clone()));
                }
                false
            }
            None => true,
        });
    }
}

/// Takes over one change of a response, or says why not.
fn apply(change: Change<'_>, store: &mut Store, status: &Status) -> Result<(), String> {
    match change {
        Change::Set { kind, asked, name, resource, .. } => {
            // The decoder is meant never to panic; if it does all the same, the resource is refused and everything else lives.
            let decoded = catch_unwind(AssertUnwindSafe(|| decode::decode(kind, name, resource)))
                .unwrap_or_else(|_| Err(Fault::new("this sidecar met a defect of its own while it read the resource")));
            match decoded {
                Ok(decoded) => {
                    store.set(asked, &decoded);
                    asked.iter().for_each(|name| status.solved(kind, name));
                    if let Decoded::Inbound(own) = &decoded
                        && own.unknown_workload
                    {
                        unknown_workload(&own.name, status);
                    }
                    Ok(())
                }
                Err(fault) => {
                    let fault = fault.to_string();
                    for name in asked {
                        store.refused(kind, name);
                        status.problem(kind, name, format!("rejected: {fault}"));
                    }
                    tracing::warn!(%kind, resource = name, problem = %fault, "refused configuration, the last good one serves on");
                    Err(fault)
                }
            }
        }
        Change::Removed { kind, asked } => {
            store.removed(kind, asked);
            status.problem(kind, asked, "the control server has no such resource".to_owned());
            Ok(())
        }
        Change::Refused { kind, asked, reason } => {
            store.refused(kind, asked);
            status.problem(kind, asked, format!("the control server refuses it: {reason}"));
            tracing::warn!(%kind, resource = %asked, reason, "the control server refuses a resource");
            Ok(())
        }
    }
}

/// The control server has answered, and knows no workload of this name: all looks well, and nobody can come in.
fn unknown_workload(listener: &Name, status: &Status) {
    let workload = inbound_workload(listener).unwrap_or_default();
    let problem =
        "the configuration has no Workload of this name, so nothing comes in: is --workload or --namespace misspelt?";
    tracing::warn!(workload, "{problem}");
    status.problem(ResourceType::Listener, listener, problem.to_owned());
}

/// Collects references, each followed once.
#[derive(Default)]
struct References(BTreeSet<(ResourceType, Name)>);

impl References {
    fn add(&mut self, kind: ResourceType, name: &Name) -> bool {
        self.0.insert((kind, name.clone()))
    }

    fn listener(&mut self, spec: &ListenerSpec, store: &Store) {
        let ListenerSpec::Service(service) = spec else { return };
        if let ServiceSpec { http: Some(RouteSource::Named(name)), .. } = service
            && self.add(ResourceType::Route, name)
            && let Some(table) = store.routes.ready(name)
        {
            self.table(table, store);
        }
        service.clusters().for_each(|name| self.cluster(name, store));
    }

    fn table(&mut self, table: &RouteTable, store: &Store) {
        table.clusters().for_each(|name| self.cluster(name, store));
    }

    fn cluster(&mut self, name: &Name, store: &Store) {
        if self.add(ResourceType::Cluster, name)
            && let Some(spec) = store.clusters.ready(name)
            && let Discovery::Named(service) = &spec.discovery
        {
            self.add(ResourceType::Endpoints, service);
        }
    }
}
