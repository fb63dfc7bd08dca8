//! Envoy's protobuf modules under short names. Everything else in Malla reaches them through here, so that the long
//! compilation of `envoy-types` has one user. Holds no code.

pub use envoy_types::pb::envoy::config::cluster::v3 as cluster;
pub use envoy_types::pb::envoy::config::core::v3 as core;
pub use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
pub use envoy_types::pb::envoy::config::listener::v3 as listener;
pub use envoy_types::pb::envoy::config::rbac::v3 as rbac;
pub use envoy_types::pb::envoy::config::route::v3 as route;
pub use envoy_types::pb::envoy::extensions::common::ratelimit::v3 as ratelimit;
pub use envoy_types::pb::envoy::extensions::filters::common::fault::v3 as fault_common;
pub use envoy_types::pb::envoy::extensions::filters::http::cors::v3 as cors;
pub use envoy_types::pb::envoy::extensions::filters::http::fault::v3 as fault;
pub use envoy_types::pb::envoy::extensions::filters::http::local_ratelimit::v3 as local_ratelimit;
pub use envoy_types::pb::envoy::extensions::filters::http::rbac::v3 as http_rbac;
pub use envoy_types::pb::envoy::extensions::filters::http::router::v3 as router;
pub use envoy_types::pb::envoy::extensions::filters::http::stateful_session::v3 as stateful_session;
pub use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as http_connection_manager;
pub use envoy_types::pb::envoy::extensions::filters::network::rbac::v3 as network_rbac;
pub use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_proxy;
pub use envoy_types::pb::envoy::extensions::http::stateful_session::cookie::v3 as session_cookie;
pub use envoy_types::pb::envoy::extensions::http::stateful_session::header::v3 as session_header;
pub use envoy_types::pb::envoy::extensions::load_balancing_policies::common::v3 as lb_common;
pub use envoy_types::pb::envoy::extensions::load_balancing_policies::least_request::v3 as least_request;
pub use envoy_types::pb::envoy::extensions::load_balancing_policies::maglev::v3 as maglev;
pub use envoy_types::pb::envoy::extensions::load_balancing_policies::random::v3 as random;
pub use envoy_types::pb::envoy::extensions::load_balancing_policies::ring_hash::v3 as ring_hash;
pub use envoy_types::pb::envoy::extensions::load_balancing_policies::round_robin::v3 as round_robin;
pub use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
pub use envoy_types::pb::envoy::extensions::upstreams::http::v3 as http_protocol_options;
pub use envoy_types::pb::envoy::service::discovery::v3 as discovery;
pub use envoy_types::pb::envoy::r#type::http::v3 as http_types;
pub use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
pub use envoy_types::pb::envoy::r#type::v3 as types;
/// Well-known types: `Any`, `Duration`, `Struct`, `UInt32Value` …
pub use envoy_types::pb::google::protobuf;
/// `google.rpc.Status`, the form of a rejection.
pub use envoy_types::pb::google::rpc;

/// Packs a message into an `Any`.
pub use envoy_types::util::pack_any;
