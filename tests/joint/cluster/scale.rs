//! A thousand services with ten endpoints each, changing all the time: memory stays, and changes arrive soon at a sidecar that calls all of them.
//!
//! Short by default, with a tenth of it; `MALLA_SCALE_SECONDS` runs all of it for so long.

use std::time::{Duration, Instant};

use malla_control::token::JoinClaims;
use malla_proxy::run::Proxy;
use malla_proxy::settings::Settings;
use malla_proxy::snapshot::{Endpoints, Outbound};
use malla_xds::SpiffeId;
use serde_json::Value;

use super::{FakeCluster, Fixture, namespace, pod, service, slice};

/// Between two changes.
const INTERVAL: Duration = Duration::from_millis(100);

/// Resident memory of this process.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("is told");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

fn slice_of(index: usize, generation: usize) -> Value {
    let name = format!("s-{index}");
    let pods: Vec<(String, String)> = (0..10)
        .map(|at| (format!("{name}-{at}"), format!("10.{}.{}.{at}", index / 250, index % 250)))
        // One of them goes and comes.
        .filter(|(pod, _)| generation.is_multiple_of(2) || !pod.ends_with("-9"))
        .collect();
    let pods: Vec<(&str, &str)> = pods.iter().map(|(pod, address)| (&**pod, &**address)).collect();
    slice(&name, &pods)
}

/// A sidecar of the mesh.
fn sidecar(mesh: &Fixture, directory: &std::path::Path) -> Proxy {
    let identity = SpiffeId::new("cluster.local", "shop", "s").expect("valid");
    let (trust, token) = (directory.join("trust.pem"), directory.join("token"));
    std::fs::write(&trust, mesh.control.trust_bundle().as_bytes()).expect("written");
    let claims = JoinClaims::new(&identity, Duration::from_secs(60));
    std::fs::write(&token, mesh.control.tokens().create(&claims).expect("signs")).expect("written");
    Proxy::start(Settings::embedded("s-0-0", "shop", mesh.control.xds_address(), trust, token)).expect("starts")
}

/// How many endpoints of a service the sidecar would choose from.
async fn known(sidecar: &Proxy, name: &str) -> usize {
    let found = sidecar.shared().directory.lookup(name).await.expect("is a destination");
    let Outbound::Service(service) = &*found else { panic!("{found:?}") };
    let clusters = service.tcp.as_ref().and_then(|tcp| tcp.clusters.as_ref()).map(|weighted| &weighted.clusters);
    let http = service.http.iter().flat_map(|http| &http.virtual_hosts).flat_map(|host| &host.routes);
    let forwarded = http.filter_map(|route| match &route.action {
        malla_proxy::snapshot::RouteAction::Forward(weighted) => Some(&weighted.clusters),
        _ => None,
    });
    let cluster = clusters.into_iter().chain(forwarded).flatten().next().expect("a cluster");
    match &cluster.0.endpoints {
        Endpoints::Set(set) => set.len(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_arrive_soon_and_memory_stays() {
    let whole = std::env::var("MALLA_SCALE_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let (services, seconds) = whole.map_or((100, 3), |seconds: u64| (1000, seconds));
    let cluster = FakeCluster::start().await;
    cluster.apply(&namespace("shop", true));
    for index in 0..services {
        cluster.apply(&service(&format!("s-{index}")));
        for at in 0..10 {
            cluster.apply(&pod(&format!("s-{index}-{at}"), "s", &format!("10.{}.{}.{at}", index / 250, index % 250)));
        }
        cluster.apply(&slice_of(index, 0));
    }
    let mesh = Fixture::on(cluster, "replica-1").await;
    mesh.serves_cluster(&format!("s-{}.shop:80", services - 1)).await;
    let directory = tempfile::tempdir().expect("a directory");
    let sidecar = sidecar(&mesh, directory.path());
    for index in 0..services {
        assert_eq!(known(&sidecar, &format!("s-{index}.shop:80")).await, 10);
    }

    // Ten each second, whether the ones before have arrived or not; each takes from when it was due.
    let (begun, changes) = (Instant::now(), seconds as usize * 10);
    let (mut took, mut pending, mut made) = (Vec::new(), Vec::new(), 0);
    let mut memory = Vec::new();
    while took.len() < changes {
        while made < changes && begun.elapsed() >= INTERVAL * made as u32 {
            let (index, generation) = (made % services, made / services + 1);
            mesh.cluster.apply(&slice_of(index, generation));
            let wanted = if generation.is_multiple_of(2) { 10 } else { 9 };
            pending.push((format!("s-{index}.shop:80"), wanted, begun + INTERVAL * made as u32));
            made += 1;
        }
        let mut still = Vec::new();
        for (name, wanted, due) in pending {
            if known(&sidecar, &name).await == wanted {
                took.push(due.elapsed());
            } else {
                assert!(due.elapsed() < super::PATIENCE, "{name} does not change");
                still.push((name, wanted, due));
            }
        }
        pending = still;
        tokio::time::sleep(Duration::from_millis(2)).await;
        if begun.elapsed() >= INTERVAL * (10 * memory.len() as u32) {
            memory.push(resident());
        }
    }
    took.sort();
    let p99 = took[(took.len() * 99 / 100).min(took.len() - 1)];
    let median = took[took.len() / 2];
    // Each second of the second third, and of the last.
    let of_third = |third: usize| &memory[memory.len() * third / 3..memory.len() * (third + 1) / 3];
    let mean = |part: &[u64]| part.iter().sum::<u64>() / part.len() as u64;
    let (before, after) = (mean(of_third(1)), mean(of_third(2)));
    println!(
        "{services} services: {} changes in {seconds} s, from event to sidecar p50 {median:?}, p99 {p99:?}, memory {before} → {after} KiB",
        took.len()
    );
    assert!(p99 <= Duration::from_secs(1), "{p99:?}");
    if whole.is_some() {
        assert!(after < before + before / 20, "memory grows: {before} → {after} KiB");
    }
    sidecar.drain_and_stop().await;
}
