//! The discovery responses, with resource bodies as shared [`Bytes`]: encoded once, sent to every stream without a copy
//! of their own; sliced from the receive buffer on the other side. Field numbers are those of
//! `envoy.service.discovery.v3`; requests are Envoy's own types.

use bytes::Bytes;

pub use crate::envoy::discovery::{DeltaDiscoveryRequest, DiscoveryRequest, ResourceError, ResourceName};

/// `google.protobuf.Any` with a shared value.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Any {
    /// Type of `value`.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The encoded message.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// `envoy.service.discovery.v3.Resource`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Resource {
    /// Content hash.
    #[prost(string, tag = "1")]
    pub version: String,
    /// The resource; absent in heartbeats.
    #[prost(message, optional, tag = "2")]
    pub resource: Option<Any>,
    /// Canonical name.
    #[prost(string, tag = "3")]
    pub name: String,
    /// Other names under which it may have been asked for.
    #[prost(string, repeated, tag = "4")]
    pub aliases: Vec<String>,
}

/// `envoy.service.discovery.v3.DeltaDiscoveryResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeltaDiscoveryResponse {
    /// Version of the whole configuration: for people, never compared.
    #[prost(string, tag = "1")]
    pub system_version_info: String,
    /// New and changed resources.
    #[prost(message, repeated, tag = "2")]
    pub resources: Vec<Resource>,
    /// Type of all resources.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// To be echoed in the acknowledgement.
    #[prost(string, tag = "5")]
    pub nonce: String,
    /// Names that no longer exist.
    #[prost(string, repeated, tag = "6")]
    pub removed_resources: Vec<String>,
    /// Names that were asked for and are refused, with the reason.
    #[prost(message, repeated, tag = "9")]
    pub resource_errors: Vec<ResourceError>,
}

/// `envoy.service.discovery.v3.DiscoveryResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DiscoveryResponse {
    /// Version of the whole configuration.
    #[prost(string, tag = "1")]
    pub version_info: String,
    /// The resources: complete for listeners and clusters, partial for routes and endpoints.
    #[prost(message, repeated, tag = "2")]
    pub resources: Vec<Any>,
    /// Type of all resources.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// To be echoed in the acknowledgement.
    #[prost(string, tag = "5")]
    pub nonce: String,
    /// Names that were asked for and are refused, with the reason.
    #[prost(message, repeated, tag = "7")]
    pub resource_errors: Vec<ResourceError>,
}
