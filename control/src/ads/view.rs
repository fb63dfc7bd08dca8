//! The configuration as one client may see it.

use std::sync::Arc;

use malla_xds::envoy::listener::Listener;
use malla_xds::names::inbound_workload;
use malla_xds::{Answer, Resource, ResourceType, SpiffeId, View};
use prost::Message;

use crate::resources::Resources;

/// Resources, seen with an identity.
pub(super) struct ClientView<'a> {
    pub(super) resources: &'a Resources,
    pub(super) identity: &'a SpiffeId,
    /// Whether the client makes calls only. Stock gRPC rejects the listener of a port that carries raw connections alone; it is told
    /// what it is told of a name that does not exist, so that calls fail at once and nothing is rejected.
    pub(super) calls_only: bool,
}

impl ClientView<'_> {
    fn may_have(&self, kind: ResourceType, name: &str) -> Result<(), SpiffeId> {
        match self.resources.required_identity(kind, name) {
            Some(required) if required != *self.identity => Err(required),
            _ => Ok(()),
        }
    }

    /// A resource as this client sees it.
    fn seen(&self, kind: ResourceType, found: &Arc<Resource>) -> Arc<Resource> {
        let seen = self.resources.seen_from(self.identity.namespace(), found);
        if self.calls_only && kind == ResourceType::Listener && carries_no_calls(seen) {
            return Arc::new(self.resources.unknown_listener(&seen.name));
        }
        seen.clone()
    }
}

/// Whether a listener is that of a destination without HTTP.
fn carries_no_calls(resource: &Resource) -> bool {
    inbound_workload(&resource.name).is_none()
        && Listener::decode(resource.body.as_ref()).is_ok_and(|listener| listener.api_listener.is_none())
}

impl View for ClientView<'_> {
    fn version(&self) -> &str {
        self.resources.version()
    }

    fn resource(&self, kind: ResourceType, name: &str) -> Answer {
        match self.may_have(kind, name) {
            Err(required) => {
                Answer::Denied(format!("it is for {required}; this client's certificate says {}", self.identity))
            }
            Ok(()) => match self.resources.get(kind, name) {
                Some(found) => Answer::Found(self.seen(kind, &found)),
                None => Answer::Absent,
            },
        }
    }

    fn stub(&self, kind: ResourceType, name: &str) -> Option<Arc<Resource>> {
        match kind {
            ResourceType::Listener => Some(Arc::new(self.resources.unknown_listener(name))),
            _ => Resource::empty(kind, name).map(Arc::new),
        }
    }

    fn all(&self, kind: ResourceType) -> Vec<Arc<Resource>> {
        let permitted = self.resources.all(kind).filter(|resource| self.may_have(kind, &resource.name).is_ok());
        permitted.map(|resource| self.seen(kind, resource)).collect()
    }
}
