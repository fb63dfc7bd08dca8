//! From xDS to what the sidecar can use: decode, validate, compact, drop the protobuf.
//!
//! Pure: bytes in, a checked resource or a [`Fault`] out. What is not implemented is refused where ignoring it would weaken
//! security or change routing; what is merely less (balancing policies that all end in round robin, outlier detection, access
//! logs: what a proxyless gRPC client ignores too) is not. References between resources stay names
//! here; `link` follows them.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

mod authorization;
pub mod cluster;
pub mod endpoints;
pub mod fault;
mod filters;
pub mod inbound;
pub mod listener;
pub mod matcher;
mod overrides;
mod policy;
#[cfg(test)]
mod refused;
mod retry;
pub mod route;
pub mod secret;
pub mod tls;

use std::sync::Arc;

use malla_xds::ResourceType;
use malla_xds::wire::Any;
use prost::Message;

pub use cluster::ClusterSpec;
pub use endpoints::EndpointSpec;
pub use fault::Fault;
pub use inbound::InboundSpec;
pub use listener::ListenerSpec;
pub use route::RouteTable;
pub use secret::{Federated, TrustBundle};

use fault::At;

/// A checked resource.
#[derive(Debug, Clone)]
pub enum Decoded {
    /// Of a destination.
    Listener(Arc<ListenerSpec>),
    /// Of this workload's own ports.
    Inbound(Arc<InboundSpec>),
    /// Routes.
    Route(Arc<RouteTable>),
    /// Cluster.
    Cluster(Arc<ClusterSpec>),
    /// Endpoints of a cluster.
    Endpoints(Arc<Vec<EndpointSpec>>),
    /// Trust anchors.
    Secret(Arc<TrustBundle>),
}

/// Decodes a resource. `name` is its canonical name on the wire.
///
/// # Errors
/// A [`Fault`] that names the field.
pub fn decode(kind: ResourceType, name: &str, any: &Any) -> Result<Decoded, Fault> {
    Ok(match kind {
        ResourceType::Listener if malla_xds::names::inbound_workload(name).is_some() => {
            Decoded::Inbound(inbound::decode(name, &message(&any.value)?)?.into())
        }
        ResourceType::Listener => Decoded::Listener(listener::decode(name, message(&any.value)?)?.into()),
        ResourceType::Route => Decoded::Route(route::decode(name, message(&any.value)?)?.into()),
        ResourceType::Cluster => Decoded::Cluster(cluster::decode(name, &message(&any.value)?)?.into()),
        ResourceType::Endpoints => Decoded::Endpoints(endpoints::decode(&message(&any.value)?)?.into()),
        ResourceType::Secret => Decoded::Secret(secret::decode(&message(&any.value)?)?.into()),
    })
}

/// Decodes a protobuf message.
fn message<M: Message + Default>(bytes: &[u8]) -> Result<M, Fault> {
    M::decode(bytes).map_err(|cause| Fault::new(format!("is not a valid message: {cause}")))
}

/// Decodes what an `Any` holds, if it is of the type that ends in `expected` (`…v3.TcpProxy`).
fn unpack<M: Message + Default>(
    any: Option<&malla_xds::envoy::protobuf::Any>,
    expected: &'static str,
) -> Result<M, Fault> {
    let any = any.ok_or_else(|| Fault::new("is missing"))?;
    if type_name(&any.type_url) != expected {
        return Err(Fault::new(format!("{} is not supported, only {expected}", type_name(&any.type_url)))
            .within("typed_config.type_url"));
    }
    message(&any.value).at("typed_config")
}

/// The message type in a type URL.
fn type_name(type_url: &str) -> &str {
    type_url.rsplit('/').next().unwrap_or(type_url)
}

/// Refuses an unsupported field that is set.
fn unsupported(field: &'static str, is_set: bool) -> Result<(), Fault> {
    if is_set { Err(Fault::new("is not supported by this sidecar").within(field)) } else { Ok(()) }
}

/// A duration that is neither negative nor absurd.
fn duration(value: &malla_xds::envoy::protobuf::Duration) -> Result<std::time::Duration, Fault> {
    let invalid = || Fault::new(format!("{}s {}ns is not a duration", value.seconds, value.nanos));
    let seconds = u64::try_from(value.seconds).map_err(|_| invalid())?;
    let nanos = u32::try_from(value.nanos).ok().filter(|nanos| *nanos < 1_000_000_000).ok_or_else(invalid)?;
    // A century: far from where adding to an instant overflows.
    if seconds > 3_153_600_000 { Err(invalid()) } else { Ok(std::time::Duration::new(seconds, nanos)) }
}

/// A duration that may be absent, and for which zero means absent.
fn optional_duration(
    value: Option<&malla_xds::envoy::protobuf::Duration>,
) -> Result<Option<std::time::Duration>, Fault> {
    Ok(value.map(duration).transpose()?.filter(|duration| !duration.is_zero()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever a server sends is decoded or refused; nothing else happens.
        #[test]
        fn survives_any_bytes(kind in proptest::sample::select(ResourceType::ALL.to_vec()), bytes: Vec<u8>, inbound: bool) {
            let name = if inbound { "inbound/cart-1.shop" } else { "cart.shop:80" };
            let any = Any { type_url: kind.type_url().into(), value: bytes.into() };
            if let Err(fault) = decode(kind, name, &any) {
                prop_assert!(!fault.to_string().is_empty());
            }
        }
    }
}
