//! A compiled resource: encoded once, versioned by its content, shared by all streams.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use crate::canonical;
use crate::envoy::{core, endpoint, listener, protobuf, route};
use crate::names::Name;

/// The types of resources that Malla distributes, in the order in which a change is pushed (make before break: what is
/// referred to comes before what refers to it).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceType {
    /// Clusters (CDS).
    Cluster,
    /// Endpoints of clusters (EDS).
    Endpoints,
    /// Listeners (LDS).
    Listener,
    /// Route configurations (RDS).
    Route,
    /// Secrets (SDS).
    Secret,
}

impl ResourceType {
    /// All types, in push order.
    pub const ALL: [ResourceType; 5] = [
        ResourceType::Cluster,
        ResourceType::Endpoints,
        ResourceType::Listener,
        ResourceType::Route,
        ResourceType::Secret,
    ];

    /// The type URL on the wire.
    pub const fn type_url(self) -> &'static str {
        match self {
            ResourceType::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            ResourceType::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            ResourceType::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            ResourceType::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            ResourceType::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        }
    }

    /// The type that a type URL names, if Malla knows it.
    pub fn from_type_url(type_url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == type_url)
    }

    /// Short word for people, metrics and JSON: `clusters`, `endpoints`, `listeners`, `routes`, `secrets`.
    pub const fn word(self) -> &'static str {
        match self {
            ResourceType::Cluster => "clusters",
            ResourceType::Endpoints => "endpoints",
            ResourceType::Listener => "listeners",
            ResourceType::Route => "routes",
            ResourceType::Secret => "secrets",
        }
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A compiled resource.
#[derive(Clone, PartialEq, Eq)]
pub struct Resource {
    /// Its type.
    pub kind: ResourceType,
    /// Canonical name.
    pub name: Name,
    /// Other names under which it is found.
    pub aliases: Vec<Name>,
    /// Content hash, hexadecimal: equal exactly when name and content are.
    pub version: Name,
    /// The encoded message, without its `Any`.
    pub body: Bytes,
}

impl Resource {
    /// Encodes a resource. `name` must be the name inside `message`, so that the version tells resources apart too.
    pub fn new(
        kind: ResourceType,
        name: impl Into<Name>,
        aliases: impl IntoIterator<Item = Name>,
        message: &impl Message,
    ) -> Self {
        let body = canonical::encode(kind, message);
        Resource {
            kind,
            name: name.into(),
            aliases: aliases.into_iter().collect(),
            version: version(&body),
            body: body.into(),
        }
    }

    /// The empty resource that says "nothing there" without removing: a route configuration without virtual hosts, a load
    /// assignment without endpoints, a listener without filter chains. `None` for clusters and secrets, whose absence is
    /// told by removal.
    pub fn empty(kind: ResourceType, name: &str) -> Option<Self> {
        let text = name.to_owned();
        Some(match kind {
            ResourceType::Route => {
                let message = route::RouteConfiguration { name: text, ..Default::default() };
                Resource::new(kind, name, [], &message)
            }
            ResourceType::Endpoints => {
                let message = endpoint::ClusterLoadAssignment { cluster_name: text, ..Default::default() };
                Resource::new(kind, name, [], &message)
            }
            ResourceType::Listener => {
                let message = listener::Listener { name: text, ..Default::default() };
                Resource::new(kind, name, [], &message)
            }
            ResourceType::Cluster | ResourceType::Secret => return None,
        })
    }

    /// The body under another name, for clients that do not know aliases. Only listeners have aliases; their name is a
    /// scalar (field 1), and of a scalar that occurs twice the last one counts (protobuf encoding, "Last One Wins").
    pub fn render_as(&self, name: &str) -> Bytes {
        if *name == *self.name || self.kind != ResourceType::Listener {
            return self.body.clone();
        }
        let mut body = Vec::with_capacity(self.body.len().saturating_add(name.len()).saturating_add(6));
        body.extend_from_slice(&self.body);
        prost::encoding::string::encode(1, &name.to_owned(), &mut body);
        body.into()
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} at {} ({} bytes)", self.kind, self.name, self.version, self.body.len())
    }
}

/// The content hash of an encoded message. Stable between processes and releases, so that a restarted or second control
/// server calls the same content by the same version.
pub fn version(body: &[u8]) -> Name {
    format!("{:016x}", rapidhash::v3::rapidhash_v3(body)).into()
}

/// What a set of resources says about a name.
#[derive(Debug, Clone)]
pub enum Answer {
    /// The resource, found by its own name or an alias.
    Found(Arc<Resource>),
    /// There is none of that name.
    Absent,
    /// There may be, but not for this client. The text says why.
    Denied(String),
}

/// What a server's state machine reads: the configuration as one client may see it.
pub trait View {
    /// Version of the whole, for people.
    fn version(&self) -> &str;
    /// The resource of a name.
    fn resource(&self, kind: ResourceType, name: &str) -> Answer;
    /// What to send where there is none: an empty resource under that name. `None`: absence is told by removal.
    fn stub(&self, kind: ResourceType, name: &str) -> Option<Arc<Resource>>;
    /// Everything of a type that a wildcard stands for, sorted by name.
    fn all(&self, kind: ResourceType) -> Vec<Arc<Resource>>;
}

/// A `Struct` of strings, the form of Malla's metadata.
pub fn string_struct<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> protobuf::Struct {
    let value = |text: &str| protobuf::Value { kind: Some(protobuf::value::Kind::StringValue(text.to_owned())) };
    protobuf::Struct { fields: fields.into_iter().map(|(key, text)| (key.to_owned(), value(text))).collect() }
}

/// The string at `key` of a `Struct`.
pub fn struct_string<'a>(fields: &'a protobuf::Struct, key: &str) -> Option<&'a str> {
    match fields.fields.get(key)?.kind.as_ref()? {
        protobuf::value::Kind::StringValue(text) => Some(text),
        _ => None,
    }
}

/// The string at `key` of a node's metadata.
pub fn node_metadata<'a>(node: &'a core::Node, key: &str) -> Option<&'a str> {
    struct_string(node.metadata.as_ref()?, key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_a_listener_under_the_name_that_was_asked() {
        let message =
            listener::Listener { name: "cart.shop:80".into(), stat_prefix: "kept".into(), ..Default::default() };
        let resource = Resource::new(ResourceType::Listener, "cart.shop:80", ["10.96.0.7:80".into()], &message);
        let renamed = listener::Listener::decode(resource.render_as("10.96.0.7:80")).expect("decodes");
        assert_eq!((renamed.name.as_str(), renamed.stat_prefix.as_str()), ("10.96.0.7:80", "kept"));
        assert_eq!(resource.render_as("cart.shop:80"), resource.body);
    }
}
