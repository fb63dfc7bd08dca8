//! A thousand services with ten endpoints each, changing all the time: memory stays, and changes arrive soon.
//!
//! Short by default, with a tenth of it; `MALLA_SCALE_SECONDS` runs all of it for so long.

use std::time::{Duration, Instant};

use malla_xds::ResourceType;
use serde_json::Value;

use super::{FakeCluster, Fixture, namespace, pod, service, slice};

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

    let begun = Instant::now();
    let mut took = Vec::new();
    let mut before = 0;
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    let mut change = 0;
    while begun.elapsed() < Duration::from_secs(seconds) {
        tick.tick().await;
        let index = change % services;
        let name = format!("s-{index}.shop:80");
        let get = |resources: &malla_control::resources::Resources| {
            resources.get(ResourceType::Endpoints, &name).map(|resource| resource.version.clone())
        };
        let was = get(&mesh.resources());
        let at = Instant::now();
        mesh.cluster.apply(&slice_of(index, change / services + 1));
        mesh.serves("the change", |resources| get(resources) != was).await;
        took.push(at.elapsed());
        change += 1;
        if begun.elapsed() > Duration::from_secs(seconds) / 3 && before == 0 {
            before = resident();
        }
    }
    took.sort();
    let p99 = took[(took.len() * 99 / 100).min(took.len() - 1)];
    let (median, after) = (took[took.len() / 2], resident());
    println!("{services} services: {} changes, p50 {median:?}, p99 {p99:?}, memory {before} → {after} KiB", took.len());
    assert!(p99 <= Duration::from_secs(1), "{p99:?}");
    if whole.is_some() {
        assert!(after < before + before / 5, "memory grows: {before} → {after} KiB");
    }
}
