//! Pages, resumed and forgotten watches, and an API server that refuses, hangs or is away: what was known goes on serving.

use std::time::Duration;

use serde_json::json;

use super::{FakeCluster, Fixture, namespace, pod, service, slice};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn follows_changes_page_by_page() {
    let cluster = FakeCluster::start().await;
    cluster.limit_pages(2);
    for name in ["a", "b", "c", "d", "e"] {
        cluster.apply(&service(name));
    }
    let mesh = Fixture::on(cluster, "replica-1").await;
    for name in ["a", "e"] {
        mesh.serves_cluster(&format!("{name}.shop:80")).await;
    }
    assert_eq!(mesh.cluster.count("services", "list"), 3, "five in pages of two");
    mesh.cluster.apply(&service("f"));
    mesh.serves_cluster("f.shop:80").await;
    mesh.cluster.delete(&service("a"));
    mesh.serves("without a", |resources| resources.get(malla_xds::ResourceType::Cluster, "a.shop:80").is_none()).await;
    assert_eq!(mesh.cluster.count("services", "list"), 3, "changes are told, not asked for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resumes_where_a_watch_broke_off_and_lists_anew_what_was_forgotten() {
    let mesh = Fixture::new(&[service("a")]).await;
    mesh.serves_cluster("a.shop:80").await;
    super::eventually("a watch", || mesh.cluster.count("services", "watch") > 0).await;
    let lists = mesh.cluster.count("services", "list");
    mesh.cluster.cut();
    mesh.cluster.apply(&service("b"));
    mesh.serves_cluster("b.shop:80").await;
    assert_eq!(mesh.cluster.count("services", "list"), lists, "resumed");
    // A bookmark tells an otherwise quiet watch how far it is.
    mesh.cluster.bookmark();
    mesh.cluster.go_away();
    mesh.cluster.forget();
    mesh.cluster.delete(&service("a"));
    mesh.cluster.apply(&service("c"));
    mesh.cluster.forget();
    mesh.cluster.come_back();
    mesh.serves_cluster("c.shop:80").await;
    assert!(!mesh.has_cluster("a.shop:80"), "what was deleted meanwhile is gone");
    assert!(mesh.cluster.count("services", "list") > lists, "listed anew");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serves_nothing_before_everything_is_known_and_says_why() {
    let cluster = FakeCluster::start().await;
    cluster.apply(&service("a"));
    cluster.refuse("authorizationpolicies", 403, usize::MAX);
    let mesh = Fixture::on(cluster, "replica-1").await;
    super::eventually("the reason", || mesh.refusal().contains("AuthorizationPolicy: not allowed (403)")).await;
    assert!(!mesh.resources().is_loaded(), "policies that are not known may forbid");
    mesh.cluster.accept("authorizationpolicies");
    mesh.serves_cluster("a.shop:80").await;
    super::eventually("no reason any more", || mesh.refusal().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_known_serves_while_the_api_server_refuses_hangs_or_is_away() {
    let mesh = Fixture::new(&[service("a"), slice("a", &[("a-1", "10.0.0.1")]), pod("a-1", "a", "10.0.0.1")]).await;
    mesh.serves_cluster("a.shop:80").await;
    for (code, words) in [(403, "not allowed (403)"), (429, "asks to wait (429)"), (500, "(500)")] {
        mesh.cluster.refuse("*", code, usize::MAX);
        mesh.cluster.cut();
        mesh.notices(words).await;
        assert!(mesh.has_cluster("a.shop:80"), "{code}");
        mesh.cluster.accept("*");
        let name = format!("after-{code}");
        mesh.cluster.apply(&service(&name));
        mesh.serves_cluster(&format!("{name}.shop:80")).await;
    }
    mesh.cluster.go_away();
    mesh.notices("changes are not known").await;
    assert!(mesh.has_cluster("a.shop:80"));
    mesh.cluster.apply(&service("after-all"));
    mesh.cluster.come_back();
    mesh.serves_cluster("after-all.shop:80").await;
    // A kind that hangs holds up no other.
    mesh.cluster.hang("pods");
    mesh.cluster.apply(&service("beside"));
    mesh.serves_cluster("beside.shop:80").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kinds_that_are_not_installed_are_missed_by_nobody_and_found_when_they_come() {
    let cluster = FakeCluster::start().await;
    for plural in ["tcproutes", "tlsroutes", "grpcroutes"] {
        cluster.uninstall(plural);
    }
    cluster.apply(&namespace("shop", true));
    cluster.apply(&service("a"));
    let mesh = Fixture::on(cluster, "replica-1").await;
    mesh.serves_cluster("a.shop:80").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_nothing_costs_nothing() {
    let mesh = Fixture::new(&[service("a"), pod("a-1", "a", "10.0.0.1")]).await;
    mesh.serves_cluster("a.shop:80").await;
    let mut reloads = mesh.control.published().last_reload.clone();
    let quiet = Duration::from_millis(700);
    // Until all that the first lists brought is in.
    while tokio::time::timeout(quiet, reloads.changed()).await.is_ok() {}
    // As kubelets do it all day.
    let mut beating = pod("a-1", "a", "10.0.0.1");
    for beat in 0..20 {
        beating["status"]["conditions"] = json!([{ "type": "Ready", "lastProbeTime": beat.to_string() }]);
        mesh.cluster.apply(&beating);
    }
    assert!(tokio::time::timeout(quiet, reloads.changed()).await.is_err());
}
