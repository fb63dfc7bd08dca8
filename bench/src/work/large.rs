//! A mesh of 1,000 services with 10 endpoints each, and one sidecar that talks to 50 of them. Envoy gets all of it, as it does in a
//! mesh that does not say who talks to whom; ours asks for what it needs. One hop in plaintext, so that all endpoints can be one
//! backend.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Result;
use malla_tests::pod::inside;
use serde_json::{Value, json};

use super::{Bench, HOP, REQUESTS, guarded, progress};
use crate::contender::{Contender, Running, envoy};
use crate::figures::Figures;
use crate::stage::Stage;

const SERVICES: u16 = 1000;
const ENDPOINTS: u16 = 10;

/// The load has as many connections, each to a service of its own, and as many hosts: `service-<n>.shop` at 10.97.0.0 + n.
const USED: &str = "50";

/// How long the mesh may take to be applied.
const APPLIED: Duration = Duration::from_secs(60);

pub(super) fn run(bench: &Bench<'_>, work: &'static str, figures: &mut Figures) -> Result<()> {
    let contenders: Vec<_> =
        [Contender::Malla, Contender::Envoy].into_iter().filter(|c| bench.contenders.contains(c)).collect();
    let stage = bench.stage;
    address_endpoints(stage);
    stage.mesh.write("large.yaml", &mesh());
    let mut running = Vec::new();
    for contender in contenders {
        progress(&format!("{work}: {} starts", contender.title()));
        let started = guarded(|| {
            let started = match contender {
                Contender::Envoy => {
                    let process = envoy::run(stage, &stage.pods(contender)?.client, 15001, &bootstrap())?;
                    Running { contender, target: (service(0), 80).into(), processes: vec![process] }
                }
                _ => {
                    let mut running = contender.start(stage, HOP)?;
                    running.target = (service(0), 80).into();
                    running
                }
            };
            // The control server takes its time to read so many files; a mesh is applied as a whole.
            let (program, target) = (inside("bench-peer"), started.target.to_string());
            let ready = [&*program, "load", "ready", "--services", USED, "--to", &target];
            started.client(stage)?.spawn(&ready).end(APPLIED).success();
            Ok(started)
        });
        match started {
            Ok(started) => running.push(started),
            Err(error) => figures.note(work, format!("{} did not start: {error:#}", contender.title())),
        }
    }
    let arguments = ["http1", "--connections", USED, "--services", USED].map(str::to_owned);
    bench.rounds(work, &running, &arguments, REQUESTS, figures);
    drop(running);
    stage.mesh.remove("large.yaml");
    progress("");
    Ok(())
}

fn service(number: u16) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 97, 0, 0)) + u32::from(number))
}

fn endpoint(service: u16, number: u16) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 77, 128, 0)) + u32::from(service * ENDPOINTS + number))
}

/// Gives the plain pod the addresses of the endpoints that are used; nobody connects to the others.
fn address_endpoints(stage: &Stage) {
    let addresses = (0..50).flat_map(|service| (0..ENDPOINTS).map(move |number| endpoint(service, number)));
    let batch: String = addresses.map(|address| format!("addr replace {address}/16 dev eth0\n")).collect();
    stage.plain.shell(&format!("printf '%s' '{batch}' | ip -batch -")).success();
}

fn mesh() -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    for number in 0..SERVICES {
        let _ = writeln!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: service-{number}, namespace: shop}}\nspec:\n  clusterIP: {}\n  \
             selector: {{app: service-{number}}}\n  ports: [{{name: http, port: 80, targetPort: 8080}}]",
            service(number)
        );
        for instance in 0..ENDPOINTS {
            let _ = writeln!(
                text,
                "---\napiVersion: malla.dev/v1alpha1\nkind: Workload\nmetadata: {{name: service-{number}-{instance}, namespace: shop, \
                 labels: {{app: service-{number}}}}}\nspec: {{address: {}, sidecar: {{mode: none}}, mtls: {{mode: permissive}}}}",
                endpoint(number, instance)
            );
        }
    }
    text
}

fn bootstrap() -> Value {
    let name = |number: u16| format!("service-{number}.shop");
    let address = |host: &str, port: u16| json!({"socket_address": {"address": host, "port_value": port}});
    let clusters = (0..SERVICES).map(|number| {
        let endpoints = (0..ENDPOINTS).map(|instance| json!({"endpoint": {"address": address(&endpoint(number, instance).to_string(), 8080)}}));
        json!({
            "name": name(number), "type": "STATIC", "connect_timeout": "1s", "lb_policy": "LEAST_REQUEST",
            "load_assignment": {"cluster_name": name(number), "endpoints": [{"lb_endpoints": endpoints.collect::<Vec<_>>()}]},
        })
    });
    let hosts = (0..SERVICES).map(|number| {
        json!({
            "name": name(number), "domains": [name(number)],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": name(number), "timeout": "0s"}}],
        })
    });
    let filter = envoy::connection_manager(&json!(hosts.collect::<Vec<_>>()));
    json!({
        "admin": {"address": address("127.0.0.1", 15020)},
        "static_resources": {
            "listeners": [{"name": "main", "address": address("0.0.0.0", 15001), "filter_chains": [{"filters": [filter]}]}],
            "clusters": clusters.collect::<Vec<_>>(),
        },
    })
}
