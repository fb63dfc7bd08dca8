//! The configuration as one client may see it.

use std::sync::Arc;

use malla_xds::{Answer, Resource, ResourceType, SpiffeId, View};

use crate::resources::Resources;

/// Resources, seen with an identity.
pub(super) struct ClientView<'a> {
    pub(super) resources: &'a Resources,
    pub(super) identity: &'a SpiffeId,
}

impl ClientView<'_> {
    fn may_have(&self, kind: ResourceType, name: &str) -> Result<(), SpiffeId> {
        match self.resources.required_identity(kind, name) {
            Some(required) if required != *self.identity => Err(required),
            _ => Ok(()),
        }
    }
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
                Some(found) => Answer::Found(self.resources.seen_from(self.identity.namespace(), &found).clone()),
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
        let namespace = self.identity.namespace();
        let permitted = self.resources.all(kind).filter(|resource| self.may_have(kind, &resource.name).is_ok());
        permitted.map(|resource| self.resources.seen_from(namespace, resource).clone()).collect()
    }
}
