//! What a compromised control server may try: each row is a message that is good but for one thing, and the words of its refusal. A check
//! that is taken out is missed by its row.

use malla_xds::envoy::cluster::Cluster;
use malla_xds::envoy::cluster::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig};
use malla_xds::envoy::core::data_source::Specifier;
use malla_xds::envoy::core::socket_address::PortSpecifier;
use malla_xds::envoy::core::{DataSource, SocketAddress, TransportSocket, TypedExtensionConfig, address};
use malla_xds::envoy::endpoint::lb_endpoint::HostIdentifier;
use malla_xds::envoy::endpoint::{ClusterLoadAssignment, LbEndpoint};
use malla_xds::envoy::listener::{FilterChain, FilterChainMatch, Listener};
use malla_xds::envoy::pack_any;
use malla_xds::envoy::protobuf::{BoolValue, UInt32Value, Value};
use malla_xds::envoy::tls::common_tls_context::ValidationContextType;
use malla_xds::envoy::tls::downstream_tls_context::SessionTicketKeysType;
use malla_xds::envoy::tls::spiffe_cert_validator_config::TrustDomain;
use malla_xds::envoy::tls::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, Secret, SpiffeCertValidatorConfig,
    UpstreamTlsContext, secret,
};
use malla_xds::names::{METADATA, SPIFFE_VALIDATOR};

use super::endpoints::examples::{assignment, endpoint};
use super::fault::Fault;
use super::tls::examples::{ads_source, downstream_socket, mesh, upstream_socket};
use crate::subscribe::examples::tcp_chain;

const CART: &str = "spiffe://td/ns/shop/sa/cart";

/// One thing that is wrong, and words of the sentence that says so.
type Row<T> = (fn(&mut T), &'static str);

#[track_caller]
fn each_is_refused<T: Clone, D: std::fmt::Debug>(good: T, decode: impl Fn(&T) -> Result<D, Fault>, rows: &[Row<T>]) {
    decode(&good).expect("good");
    let mut missed = Vec::new();
    for (change, words) in rows {
        let mut changed = good.clone();
        change(&mut changed);
        match decode(&changed) {
            Ok(_) => missed.push(format!("{words}: taken")),
            Err(fault) if fault.to_string().contains(words) => {}
            Err(fault) => missed.push(format!("{words}: {fault}")),
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

fn validation(common: &mut CommonTlsContext) -> &mut CertificateValidationContext {
    match &mut common.validation_context_type {
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            combined.default_validation_context.get_or_insert_default()
        }
        _ => unreachable!("the example is combined"),
    }
}

#[test]
#[allow(deprecated, reason = "the deprecated forms must be seen to be refused")]
fn tls_that_verifies_less_or_otherwise() {
    let rows: &[Row<CommonTlsContext>] = &[
        (|tls| tls.tls_params = Some(Default::default()), "tls_params"),
        (|tls| tls.tls_certificates.push(Default::default()), "tls_certificates"),
        (|tls| tls.custom_tls_certificate_selector = Some(Default::default()), "custom_tls_certificate_selector"),
        (|tls| tls.custom_handshaker = Some(Default::default()), "custom_handshaker"),
        (|tls| tls.tls_certificate_sds_secret_configs[0].name = "other".into(), "\"other\" is not supported"),
        (|tls| tls.tls_certificate_sds_secret_configs[0].sds_config = None, "sds_config"),
        (|tls| validation(tls).trusted_ca = Some(Default::default()), "trusted_ca"),
        (|tls| validation(tls).system_root_certs = Some(Default::default()), "system_root_certs"),
        (|tls| validation(tls).verify_certificate_spki.push(String::new()), "verify_certificate_spki"),
        (|tls| validation(tls).verify_certificate_hash.push(String::new()), "verify_certificate_hash"),
        (
            |tls| validation(tls).require_signed_certificate_timestamp = Some(BoolValue { value: true }),
            "require_signed_certificate_timestamp",
        ),
        (|tls| validation(tls).crl = Some(Default::default()), "crl"),
        (|tls| validation(tls).allow_expired_certificate = true, "allow_expired_certificate"),
        (|tls| validation(tls).trust_chain_verification = 1, "trust_chain_verification"),
        (|tls| validation(tls).custom_validator_config = Some(Default::default()), "custom_validator_config"),
        (|tls| validation(tls).max_verify_depth = Some(UInt32Value { value: 0 }), "max_verify_depth"),
        (|tls| validation(tls).match_typed_subject_alt_names[0].san_type = 2, "only URI is supported"),
        (|tls| validation(tls).match_typed_subject_alt_names[0].matcher = None, "matcher"),
        (|tls| validation(tls).match_subject_alt_names[0].ignore_case = true, "ignore_case"),
    ];
    each_is_refused(mesh(&[CART]), |common| super::tls::upstream(&upstream_socket(common.clone())), rows);
}

#[test]
fn tls_of_one_direction() {
    let socket = |any| TransportSocket {
        name: "envoy.transport_sockets.tls".into(),
        config_type: Some(malla_xds::envoy::core::transport_socket::ConfigType::TypedConfig(any)),
    };
    let good = UpstreamTlsContext {
        common_tls_context: Some(mesh(&[CART])),
        sni: "80.cart.shop.mesh".into(),
        ..Default::default()
    };
    let rows: &[Row<UpstreamTlsContext>] = &[
        (|tls| tls.auto_host_sni = true, "auto_host_sni"),
        (|tls| tls.allow_renegotiation = true, "allow_renegotiation"),
        (|tls| tls.sni.clear(), "sni: is missing"),
        (|tls| tls.common_tls_context = None, "mTLS is expected"),
    ];
    each_is_refused(good, |tls| super::tls::upstream(&socket(pack_any(tls.clone()))), rows);
    let good = DownstreamTlsContext {
        common_tls_context: Some(mesh(&[])),
        require_client_certificate: Some(BoolValue { value: true }),
        ..Default::default()
    };
    let rows: &[Row<DownstreamTlsContext>] = &[
        (|tls| tls.require_client_certificate = None, "require_client_certificate: must be true"),
        (
            |tls| {
                let keys = SessionTicketKeysType::DisableStatelessSessionResumption(true);
                tls.session_ticket_keys_type = Some(keys);
            },
            "session_ticket_keys_type",
        ),
        (|tls| tls.ocsp_staple_policy = 1, "ocsp_staple_policy"),
        (|tls| tls.common_tls_context = None, "mTLS is expected"),
        (|tls| tls.common_tls_context = Some(mesh(&[CART])), "a condition on the client's names"),
    ];
    each_is_refused(good, |tls| super::tls::downstream(&socket(pack_any(tls.clone()))), rows);
}

fn at(written: &mut LbEndpoint) -> &mut SocketAddress {
    let Some(HostIdentifier::Endpoint(endpoint)) = &mut written.host_identifier else { unreachable!("the example is") };
    let address = endpoint.address.as_mut().and_then(|address| address.address.as_mut());
    let Some(address::Address::SocketAddress(address)) = address else { unreachable!("the example is") };
    address
}

#[test]
#[allow(deprecated, reason = "the deprecated form must be seen to be refused")]
fn endpoints_that_lead_elsewhere() {
    let known = Some(&[("identity", CART)][..]);
    let good = assignment(0, vec![endpoint("10.0.0.1", known), endpoint("10.0.0.2", known)]);
    let rows: &[Row<ClusterLoadAssignment>] = &[
        (
            |written| {
                written.endpoints[0].lb_config =
                    Some(malla_xds::envoy::endpoint::locality_lb_endpoints::LbConfig::LoadBalancerEndpoints(
                        Default::default(),
                    ))
            },
            "lb_config",
        ),
        (|written| written.endpoints[0].priority = 128, "128 is more than 127"),
        (|written| written.endpoints[0].priority = 1, "priorities have a gap"),
        (|written| at(&mut written.endpoints[0].lb_endpoints[0]).protocol = 1, "socket_address.protocol"),
        (|written| at(&mut written.endpoints[0].lb_endpoints[0]).resolver_name = "x".into(), "resolver_name"),
        (
            |written| {
                at(&mut written.endpoints[0].lb_endpoints[0]).network_namespace_filepath = "/proc/1/ns/net".into()
            },
            "network_namespace_filepath",
        ),
        (
            |written| {
                at(&mut written.endpoints[0].lb_endpoints[0]).port_specifier = Some(PortSpecifier::PortValue(65_616))
            },
            "is not a port",
        ),
        (
            |written| at(&mut written.endpoints[0].lb_endpoints[0]).port_specifier = Some(PortSpecifier::PortValue(0)),
            "is not a port",
        ),
        (|written| at(&mut written.endpoints[0].lb_endpoints[0]).address = "10.0.0.2".into(), "occurs more than once"),
        (
            |written| {
                let metadata = written.endpoints[0].lb_endpoints[0].metadata.as_mut().expect("given");
                let fields = metadata.filter_metadata.get_mut(METADATA).expect("given");
                fields.fields.insert("identity".into(), Value { kind: None });
            },
            "identity: is not a text",
        ),
        (
            |written| {
                for endpoint in &mut written.endpoints[0].lb_endpoints {
                    endpoint.load_balancing_weight = Some(UInt32Value { value: 1 << 31 });
                }
            },
            "the sum of the weights",
        ),
        (
            |written| {
                let one = written.endpoints[0].lb_endpoints[0].clone();
                written.endpoints[0].lb_endpoints = vec![one; 100_001];
            },
            "are more than 100000",
        ),
    ];
    each_is_refused(good, super::endpoints::decode, rows);
}

#[test]
fn clusters_that_are_reached_in_another_way() {
    let good = Cluster {
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: Some(ads_source()), ..Default::default() }),
        transport_socket: Some(upstream_socket(mesh(&[CART]))),
        ..Default::default()
    };
    let rows: &[Row<Cluster>] = &[
        (|cluster| cluster.transport_socket_matches.push(Default::default()), "transport_socket_matches"),
        (|cluster| cluster.transport_socket_matcher = Some(Default::default()), "transport_socket_matcher"),
        (|cluster| cluster.lb_subset_config = Some(Default::default()), "lb_subset_config"),
        (|cluster| cluster.filters.push(Default::default()), "filters"),
        (|cluster| cluster.upstream_config = Some(Default::default()), "upstream_config"),
        (|cluster| cluster.transport_socket = Some(Default::default()), "transport_socket"),
        (|cluster| cluster.transport_socket = Some(downstream_socket(mesh(&[]), true)), "transport_socket"),
        (|cluster| cluster.eds_cluster_config = None, "eds_cluster_config"),
        (
            |cluster| cluster.eds_cluster_config.as_mut().expect("given").eds_config = Some(Default::default()),
            "eds_config",
        ),
        (
            |cluster| {
                cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::LogicalDns as i32));
                cluster.load_assignment = Some(assignment(0, vec![endpoint("example.org", None)]));
            },
            "only for clusters with known endpoints",
        ),
        (
            |cluster| {
                cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst as i32));
            },
            "only for clusters with known endpoints",
        ),
        (
            |cluster| {
                cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::StrictDns as i32));
            },
            "STRICT_DNS",
        ),
        (|cluster| cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(99)), "99 is unknown"),
        (
            |cluster| {
                cluster.transport_socket = None;
                cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::LogicalDns as i32));
                cluster.load_assignment = Some(assignment(0, vec![endpoint(&"x".repeat(254), None)]));
            },
            "is not a host name",
        ),
    ];
    each_is_refused(good, |cluster| super::cluster::decode("cart.shop:80", cluster), rows);
}

fn inbound() -> Listener {
    let matched = |transport: &str, names: &[&str]| FilterChainMatch {
        destination_port: Some(UInt32Value { value: 8080 }),
        transport_protocol: transport.into(),
        server_names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    };
    let chain = |name: &str, matched, transport_socket| FilterChain {
        name: name.into(),
        filter_chain_match: Some(matched),
        transport_socket,
        ..tcp_chain("inbound/cart-1.shop/8080")
    };
    let tls = || Some(downstream_socket(mesh(&[]), true));
    Listener {
        name: "inbound/cart-1.shop".into(),
        filter_chains: vec![
            chain("cart.shop:80", matched("tls", &["80.cart.shop.mesh"]), tls()),
            chain("cart.shop:81", matched("tls", &["81.cart.shop.mesh"]), tls()),
            chain("cart.shop:80/plaintext", matched("raw_buffer", &[]), None),
        ],
        ..Default::default()
    }
}

#[test]
fn ports_that_would_let_others_in() {
    fn matched(listener: &mut Listener, chain: usize) -> &mut FilterChainMatch {
        listener.filter_chains[chain].filter_chain_match.as_mut().expect("given")
    }
    let rows: &[Row<Listener>] = &[
        (|listener| listener.default_filter_chain = Some(Default::default()), "default_filter_chain"),
        (|listener| listener.api_listener = Some(Default::default()), "api_listener"),
        (|listener| listener.filter_chain_matcher = Some(Default::default()), "filter_chain_matcher"),
        (|listener| listener.fcds_config = Some(Default::default()), "fcds_config"),
        (|listener| listener.listener_filters.push(Default::default()), "listener_filters"),
        (|listener| listener.udp_listener_config = Some(Default::default()), "udp_listener_config"),
        (
            |listener| listener.filter_chains[0].filter_chain_match = None,
            "filter_chains[0].filter_chain_match: is missing",
        ),
        (|listener| listener.filter_chains[0].name.clear(), "filter_chains[0].name: is missing"),
        (|listener| listener.filter_chains[0].filters.clear(), "is empty"),
        (|listener| listener.filter_chains[0].transport_socket = None, "TLS is expected"),
        (
            |listener| listener.filter_chains[0].transport_socket = Some(downstream_socket(mesh(&[]), false)),
            "require_client_certificate",
        ),
        (
            |listener| listener.filter_chains[2].transport_socket = Some(downstream_socket(mesh(&[]), true)),
            "contradicts",
        ),
        (|listener| matched(listener, 0).transport_protocol.clear(), "only tls and raw_buffer"),
        (|listener| matched(listener, 0).server_names.clear(), "must be one name"),
        (|listener| matched(listener, 0).server_names.push("82.cart.shop.mesh".into()), "must be one name"),
        (|listener| matched(listener, 0).server_names[0] = "*".into(), "is not <port>.<service>.<namespace>.mesh"),
        (
            |listener| matched(listener, 0).server_names[0] = "81.cart.shop.mesh".into(),
            "is matched by another chain too",
        ),
        (|listener| matched(listener, 0).destination_port = Some(UInt32Value { value: 0 }), "is not a port"),
        (|listener| matched(listener, 0).destination_port = Some(UInt32Value { value: 73_616 }), "is not a port"),
        (|listener| matched(listener, 0).prefix_ranges.push(Default::default()), "prefix_ranges"),
        (|listener| matched(listener, 0).address_suffix.push('x'), "address_suffix"),
        (
            |listener| matched(listener, 0).direct_source_prefix_ranges.push(Default::default()),
            "direct_source_prefix_ranges",
        ),
        (|listener| matched(listener, 0).source_type = 1, "source_type"),
        (|listener| matched(listener, 0).source_prefix_ranges.push(Default::default()), "source_prefix_ranges"),
        (|listener| matched(listener, 0).source_ports.push(80), "source_ports"),
        (|listener| matched(listener, 0).application_protocols.push("h2".into()), "application_protocols"),
        (|listener| matched(listener, 2).server_names.push("80.cart.shop.mesh".into()), "server_names"),
        (|listener| listener.filter_chains[2].name = "cart.shop:80".into(), "must end in /plaintext"),
        (|listener| listener.filter_chains[2].name = "bank.shop:80/plaintext".into(), "belongs to no chain"),
        (|listener| matched(listener, 2).destination_port = Some(UInt32Value { value: 9090 }), "belongs to no chain"),
        (|listener| listener.filter_chains[2].filters = tcp_chain("inbound/other").filters, "belongs to no chain"),
        (
            |listener| {
                let filter = listener.filter_chains[0].filters[0].clone();
                listener.filter_chains[0].filters.push(filter);
            },
            "is not supported here",
        ),
    ];
    each_is_refused(inbound(), |listener| super::inbound::decode("inbound/cart-1.shop", listener), rows);
}

#[test]
fn roots_of_others() {
    fn context(secret: &mut Secret) -> &mut CertificateValidationContext {
        let Some(secret::Type::ValidationContext(context)) = &mut secret.r#type else { unreachable!("the example is") };
        context
    }
    fn bundle(text: &str) -> Option<DataSource> {
        Some(DataSource { specifier: Some(Specifier::InlineString(text.to_owned())), ..Default::default() })
    }
    fn federated(secret: &mut Secret, domains: &[&str], bundle: Option<DataSource>) {
        let domain =
            |name: &&str| TrustDomain { name: (*name).to_owned(), trust_bundle: bundle.clone(), ..Default::default() };
        let config =
            SpiffeCertValidatorConfig { trust_domains: domains.iter().map(domain).collect(), ..Default::default() };
        context(secret).custom_validator_config =
            Some(TypedExtensionConfig { name: SPIFFE_VALIDATOR.into(), typed_config: Some(pack_any(config)) });
    }
    let key = rcgen::KeyPair::generate().expect("a key");
    let root = rcgen::CertificateParams::new(Vec::new()).and_then(|params| params.self_signed(&key)).expect("a root");
    let good = Secret {
        name: "ROOTCA".into(),
        r#type: Some(secret::Type::ValidationContext(CertificateValidationContext {
            trusted_ca: bundle(&root.pem()),
            ..Default::default()
        })),
    };
    let rows: &[Row<Secret>] = &[
        (|secret| secret.r#type = None, "validation_context: is missing"),
        (|secret| secret.r#type = Some(secret::Type::TlsCertificate(Default::default())), "only validation_context"),
        (|secret| context(secret).crl = Some(Default::default()), "crl"),
        (|secret| context(secret).trusted_ca = None, "must be inline"),
        (
            |secret| {
                let file = Specifier::Filename("/etc/ssl/certs/ca-certificates.crt".into());
                context(secret).trusted_ca = Some(DataSource { specifier: Some(file), ..Default::default() });
            },
            "must be inline",
        ),
        (|secret| context(secret).trusted_ca = bundle(""), "holds no certificate"),
        (
            |secret| {
                context(secret).trusted_ca = bundle("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
            },
            "cannot be a trust anchor",
        ),
        (|secret| context(secret).custom_validator_config = Some(Default::default()), "typed_config: is missing"),
        (
            |secret| {
                let config = TypedExtensionConfig { typed_config: Some(Default::default()), ..Default::default() };
                context(secret).custom_validator_config = Some(config);
            },
            "is not supported",
        ),
        (
            |secret| {
                let own = context(secret).trusted_ca.clone();
                federated(secret, &[""], own);
            },
            "trust_domains[0].name: is missing",
        ),
        (
            |secret| {
                let own = context(secret).trusted_ca.clone();
                federated(secret, &["other", "other"], own);
            },
            "other is there twice",
        ),
        (|secret| federated(secret, &["other"], bundle("")), "holds no certificate"),
    ];
    each_is_refused(good, super::secret::decode, rows);
}
