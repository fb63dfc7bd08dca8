//! `TrafficPolicy.loadBalancer.locality`, weights of workloads, slow start, and what is judged by comparing endpoints: from YAML
//! through the control server, xDS and the sidecar to which of five real applications, each in its place, answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::application::Application;
use crate::documents::policy;
use crate::local::{CLIENT, Local, PATIENCE, exchange};

/// Each application, its region and zone. The caller is in the zone `eu/a`.
const PLACES: [(&str, &str); 5] = [
    ("near1", "{region: eu, zone: a}"),
    ("near2", "{region: eu, zone: a}"),
    ("beside", "{region: eu, zone: b}"),
    ("us", "{region: us, zone: c}"),
    ("ap", "{region: ap, zone: d}"),
];

/// What fails once is left out for as long as these tests take, also if it is all that there is.
const OUT: &str = "outlierDetection: {consecutiveGatewayFailures: 1, baseEjectionTime: 1h, maxEjectionTime: 1h, maxEjectionPercent: 100}";

/// Services behind which all applications are; each in turn, and its `locality`.
const LOCALITIES: [(&str, &str); 6] = [
    ("nearest", "{preference: nearest}"),
    ("anywhere", "{preference: none}"),
    ("ordered", "{failover: [{from: us, to: [eu]}, {from: eu, to: [ap, us]}]}"),
    ("stays", "{minimumHealthyPercent: 50}"),
    ("leaves", "{minimumHealthyPercent: 100}"),
    ("shared", "{distribute: [{from: us, to: {us: 100}}, {from: eu/a, to: {eu/a: 50, us: 50}}]}"),
];

fn workload(name: &str, app: &str, address: SocketAddr, more: &str) -> String {
    format!(
        "apiVersion: malla.dev/v1alpha1\nkind: Workload\nmetadata: {{name: {app}-{name}, namespace: shop, labels: {{app: {app}}}}}\n\
         spec: {{address: {}, ports: {{main: {}}}, sidecar: {{mode: none}}{more}}}\n---\n",
        address.ip(),
        address.port()
    )
}

fn selecting(name: &str, app: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{selector: {{app: {app}}}, ports: [{{name: main, port: 80, targetPort: main, appProtocol: http}}]}}\n---\n"
    )
}

async fn everywhere() -> (String, Vec<Application>) {
    let mut applications = Vec::new();
    let mut documents =
        CLIENT.replace("sidecar: {mode: explicit}", "sidecar: {mode: explicit}, locality: {region: eu, zone: a}");
    for (name, place) in PLACES {
        let application = Application::start(name).await;
        documents += &workload(name, "all", application.address, &format!(", locality: {place}"));
        applications.push(application);
    }
    (documents, applications)
}

/// Who answers each of several requests in a row.
async fn several(address: SocketAddr, times: usize, path: &str) -> Vec<String> {
    let mut answers = Vec::new();
    for _ in 0..times {
        let answer = exchange(address, "GET", path, "").await;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        answers.push(body.lines().next().unwrap_or_default().to_owned());
    }
    answers
}

/// Waits until these answer, and nobody else.
async fn only(address: SocketAddr, expected: &[&str], what: &str) {
    let mut last = BTreeSet::new();
    let settled = async {
        loop {
            last = several(address, 8 * expected.len(), "/").await.into_iter().collect();
            if last.iter().eq(expected) {
                return;
            }
        }
    };
    if timeout(PATIENCE, settled).await.is_err() {
        panic!("{what}: {last:?} answer, not {expected:?}");
    }
}

/// Has an application fail one request.
async fn fails(address: SocketAddr, name: &str) {
    let failed = async {
        let path = format!("/refused-by-{name}");
        while !exchange(address, "GET", &path, "").await.starts_with("HTTP/1.1 503") {}
    };
    timeout(PATIENCE, failed).await.unwrap_or_else(|_| panic!("{name} gets no request"));
}

/// How many of so many answers are whose; each expected share within five standard deviations, and of nobody else any.
fn shares(answers: &[String], expected: &[(&str, f64)], what: &str) {
    let mut counts: BTreeMap<&str, f64> = BTreeMap::new();
    answers.iter().for_each(|answer| *counts.entry(answer).or_default() += 1.0);
    let all = answers.len() as f64;
    for (name, share) in expected {
        let count = counts.remove(name).unwrap_or_default();
        let away = (all * share * (1.0 - share)).sqrt() * 5.0;
        assert!((count - all * share).abs() <= away, "{what}: {count} of {all} by {name}, not {share}");
    }
    assert!(counts.is_empty(), "{what}: {counts:?} too");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traffic_goes_where_the_locality_of_a_policy_says() {
    let (mut mesh, _applications) = everywhere().await;
    for (name, locality) in LOCALITIES {
        let balancer =
            format!("loadBalancer: {{algorithm: roundRobin, panicThresholdPercent: 0, locality: {locality}}}");
        mesh += &(selecting(name, "all") + &policy(name, &format!("{balancer}, {OUT}")));
    }
    let destinations = LOCALITIES.map(|(name, _)| format!("{name}.shop:80"));
    let local = Local::start(&mesh, &destinations.each_ref().map(String::as_str));
    let at = |name: &str| local.listening[LOCALITIES.iter().position(|(known, _)| *known == name).expect("a service")];

    only(at("anywhere"), &["ap", "beside", "near1", "near2", "us"], "all alike").await;
    // The zone, the region, all; each when the one before has failed.
    let nearest = at("nearest");
    only(nearest, &["near1", "near2"], "the zone").await;
    fails(nearest, "near1").await;
    fails(nearest, "near2").await;
    only(nearest, &["beside"], "the region").await;
    fails(nearest, "beside").await;
    only(nearest, &["ap", "us"], "all").await;
    // The other regions in their order.
    let ordered = at("ordered");
    only(ordered, &["near1", "near2"], "the zone").await;
    for name in ["near1", "near2", "beside"] {
        fails(ordered, name).await;
    }
    only(ordered, &["ap"], "the first of the other regions").await;
    fails(ordered, "ap").await;
    only(ordered, &["us"], "the second").await;
    // Half of the zone is left: enough, or half of what is needed.
    for (name, expected) in [("stays", &[("near2", 1.0)][..]), ("leaves", &[("near2", 0.5), ("beside", 0.5)])] {
        only(at(name), &["near1", "near2"], name).await;
        fails(at(name), "near1").await;
        shares(&several(at(name), 200, "/").await, expected, name);
    }
    only(at("shared"), &["near1", "near2", "us"], "shares").await;
    let expected = [("near1", 0.25), ("near2", 0.25), ("us", 0.5)];
    shares(&several(at("shared"), 200, "/").await, &expected, "shares");
    local.stop().await;
}

/// Judged by what all of them have answered in a second.
const JUDGED: [(&str, &str, &str); 3] = [
    ("rate", "successRate: {deviationPercent: 100, minimumEndpoints: 3, requestVolume: 3}", "/refused-by-us"),
    ("share", "failurePercentage: {threshold: 60, minimumEndpoints: 3, requestVolume: 3}", "/refused-by-us"),
    ("latency", "latency: {thresholdPercent: 500, minimumEndpoints: 3, requestVolume: 3}", "/?wait-us=300"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stands_out_among_the_others_is_left_out() {
    let (mut mesh, _applications) = everywhere().await;
    for (name, judgement, _) in JUDGED {
        let fields = format!(
            "loadBalancer: {{algorithm: roundRobin, locality: {{preference: none}}}}, \
             outlierDetection: {{consecutiveGatewayFailures: 0, interval: 1s, baseEjectionTime: 5s, maxEjectionTime: 5s, {judgement}}}"
        );
        mesh += &(selecting(name, "all") + &policy(name, &fields));
    }
    let destinations = JUDGED.map(|(name, ..)| format!("{name}.shop:80"));
    let local = Local::start(&mesh, &destinations.each_ref().map(String::as_str));
    for ((name, _, path), address) in JUDGED.into_iter().zip(&local.listening) {
        let judged = async {
            loop {
                let answers = several(*address, 40, path).await;
                if answers[20..].iter().all(|answer| answer != "us") {
                    return answers;
                }
            }
        };
        let answers = timeout(PATIENCE, judged).await.unwrap_or_else(|_| panic!("{name}: it is not left out"));
        let others: BTreeSet<&String> = answers[20..].iter().collect();
        assert!(others.len() > 1, "{name}: {answers:?}");
    }
    local.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_workload_gets_its_share_by_and_by_and_each_by_its_weight() {
    const WINDOW: Duration = Duration::from_secs(6);
    let (old, new) = (Application::start("old").await, Application::start("new").await);
    let slow = "loadBalancer: {algorithm: random, slowStart: {window: 6s, minimumPercent: 1}}";
    let weighted = [("old", &old, 3), ("new", &new, 1)].map(|(name, application, weight)| {
        workload(name, "weighted", application.address, &format!(", weight: {weight}"))
    });
    let before = [
        CLIENT.to_owned(),
        selecting("started", "started"),
        policy("started", slow),
        workload("old", "started", old.address, ""),
        selecting("weighted", "weighted"),
        policy("weighted", "loadBalancer: {algorithm: roundRobin}"),
        weighted.concat(),
    ]
    .concat();
    let local = Local::start(&before, &["started.shop:80", "weighted.shop:80"]);
    let [started, weighted] = local.listening[..] else { panic!("two ports") };
    only(started, &["old"], "there is one").await;
    let known = Instant::now();
    let by_weight = several(weighted, 40, "/").await;
    assert_eq!(by_weight.iter().filter(|name| *name == "new").count(), 10, "{by_weight:?}");
    // The first has its whole share.
    while known.elapsed() < WINDOW {
        sleep(Duration::from_millis(50)).await;
    }
    local.write(&(before + &workload("new", "started", new.address, "")));
    let added = Instant::now();
    let mut first = Vec::new();
    while added.elapsed() < Duration::from_secs(1) {
        first.extend(several(started, 1, "/").await);
    }
    // After a second it has a sixth of its share, which is a seventh of all.
    let (by_new, all) = (first.iter().filter(|name| *name == "new").count() as f64, first.len() as f64);
    let most = all / 7.0 + 5.0 * (all / 7.0).sqrt() + 1.0;
    assert!(by_new <= most, "{by_new} of the first {all}, more than {most}");
    let whole = async { while several(started, 40, "/").await.iter().filter(|name| *name == "new").count() < 14 {} };
    timeout(PATIENCE, whole).await.expect("it has its share in the end");
    local.stop().await;
}
