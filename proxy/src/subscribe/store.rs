//! What has been received, resource by resource, and what is still awaited. Names, not links.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use malla_xds::ResourceType;

use crate::decode::{ClusterSpec, Decoded, EndpointSpec, InboundSpec, ListenerSpec, RouteTable, TrustBundle};
use crate::names::Name;

/// What is known of a name that was asked for.
#[derive(Debug)]
pub(super) enum Known<T: ?Sized> {
    /// Nothing yet. The deadline runs only while there is a stream.
    Waiting(Option<Instant>),
    /// The last good resource.
    Ready(Arc<T>),
    /// There is none that can be used: absent, denied, never good, or not answered in time.
    Nothing,
}

/// The resources of one type.
#[derive(Debug)]
pub(super) struct Set<T>(HashMap<Name, Known<T>>);

/// Everything that was asked for.
#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) listeners: Set<ListenerSpec>,
    pub(super) inbound: Set<InboundSpec>,
    pub(super) routes: Set<RouteTable>,
    pub(super) clusters: Set<ClusterSpec>,
    pub(super) endpoints: Set<Vec<EndpointSpec>>,
    pub(super) secrets: Set<TrustBundle>,
}

impl<T> Default for Set<T> {
    fn default() -> Self {
        Set(HashMap::new())
    }
}

impl<T> Set<T> {
    /// What is known of a name; a name that was never asked for is waited for.
    pub(super) fn get(&self, name: &str) -> &Known<T> {
        self.0.get(name).unwrap_or(&Known::Waiting(None))
    }

    /// The last good resource of a name.
    pub(super) fn ready(&self, name: &str) -> Option<&Arc<T>> {
        match self.0.get(name) {
            Some(Known::Ready(resource)) => Some(resource),
            _ => None,
        }
    }

    fn set(&mut self, name: &Name, resource: &Arc<T>) {
        if let Some(known) = self.0.get_mut(name) {
            *known = Known::Ready(resource.clone());
        }
    }

    /// What is good stays: what referred to it would only get worse.
    fn nothing_unless_ready(&mut self, name: &str) {
        if let Some(known) = self.0.get_mut(name).filter(|known| !matches!(known, Known::Ready(_))) {
            *known = Known::Nothing;
        }
    }
}

/// Calls a method on the set of a type. Listeners of this workload's own ports have names of their own.
macro_rules! on {
    ($store:expr, $kind:expr, $name:expr, $set:ident => $call:expr) => {
        match $kind {
            ResourceType::Listener if malla_xds::names::inbound_workload($name).is_some() => {
                let $set = &mut $store.inbound;
                $call
            }
            ResourceType::Listener => {
                let $set = &mut $store.listeners;
                $call
            }
            ResourceType::Route => {
                let $set = &mut $store.routes;
                $call
            }
            ResourceType::Cluster => {
                let $set = &mut $store.clusters;
                $call
            }
            ResourceType::Endpoints => {
                let $set = &mut $store.endpoints;
                $call
            }
            ResourceType::Secret => {
                let $set = &mut $store.secrets;
                $call
            }
        }
    };
}

impl Store {
    /// A name is asked for from now on.
    pub(super) fn expect(&mut self, kind: ResourceType, name: &Name, deadline: Option<Instant>) {
        on!(self, kind, name, set => { set.0.entry(name.clone()).or_insert(Known::Waiting(deadline)); });
    }

    /// A name is no longer asked for.
    pub(super) fn forget(&mut self, kind: ResourceType, name: &str) {
        on!(self, kind, name, set => { set.0.remove(name); });
    }

    /// A resource arrived and was found good. `asked` are the names under which it was asked for.
    pub(super) fn set(&mut self, asked: &[Name], decoded: &Decoded) {
        for name in asked {
            match decoded {
                Decoded::Listener(resource) => self.listeners.set(name, resource),
                Decoded::Inbound(resource) => self.inbound.set(name, resource),
                Decoded::Route(resource) => self.routes.set(name, resource),
                Decoded::Cluster(resource) => self.clusters.set(name, resource),
                Decoded::Endpoints(resource) => self.endpoints.set(name, resource),
                Decoded::Secret(resource) => self.secrets.set(name, resource),
            }
        }
    }

    /// There is nothing new that can be used: refused by either side. What was good stays.
    pub(super) fn refused(&mut self, kind: ResourceType, name: &str) {
        on!(self, kind, name, set => set.nothing_unless_ready(name));
    }

    /// The server says that there is no such resource. A destination that has gone is gone; what a destination refers to stays as it
    /// last was, and so do this workload's own ports.
    pub(super) fn removed(&mut self, kind: ResourceType, name: &str) {
        match self.listeners.0.get_mut(name) {
            Some(known) if kind == ResourceType::Listener => *known = Known::Nothing,
            _ => self.refused(kind, name),
        }
    }

    /// Deadlines of everything awaited: set when a stream opens, unset when it ends.
    pub(super) fn set_deadlines(&mut self, deadline: Option<Instant>) {
        fn each<T>(set: &mut Set<T>, deadline: Option<Instant>) {
            for known in set.0.values_mut() {
                if let Known::Waiting(awaited) = known {
                    *awaited = deadline;
                }
            }
        }
        each(&mut self.listeners, deadline);
        each(&mut self.inbound, deadline);
        each(&mut self.routes, deadline);
        each(&mut self.clusters, deadline);
        each(&mut self.endpoints, deadline);
        each(&mut self.secrets, deadline);
    }

    /// Gives up waiting for what is overdue. Returns whether anything was.
    pub(super) fn give_up(&mut self, now: Instant) -> bool {
        fn each<T>(set: &mut Set<T>, now: Instant) -> bool {
            let mut any = false;
            for known in set.0.values_mut() {
                if matches!(known, Known::Waiting(Some(deadline)) if *deadline <= now) {
                    *known = Known::Nothing;
                    any = true;
                }
            }
            any
        }
        // Not `||`: every set must be looked at.
        each(&mut self.listeners, now)
            | each(&mut self.inbound, now)
            | each(&mut self.routes, now)
            | each(&mut self.clusters, now)
            | each(&mut self.endpoints, now)
            | each(&mut self.secrets, now)
    }
}
