//! Conditions of routes, and which of several replicas writes them.

use serde_json::{Value, json};

use super::{Fixture, eventually, route, service};

/// The condition of a kind of the first parent that is ours: `status reason message`.
fn condition(mesh: &super::FakeCluster, of: &Value, kind: &str) -> String {
    let found = mesh.get(of).unwrap_or_default();
    let own = found["status"]["parents"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|parent| parent["controllerName"] == "malla.dev/control");
    let Some(own) = own else { return String::new() };
    let conditions = own["conditions"].as_array().expect("conditions");
    let condition = conditions.iter().find(|condition| condition["type"] == kind).expect("the condition");
    let text = |field: &str| condition[field].as_str().expect("a text").to_owned();
    format!("{} {} {}", text("status"), text("reason"), text("message"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_are_told_what_came_of_them() {
    let (good, split, lost) =
        (route("good", "cart", "cart"), route("split", "other", "gone"), route("lost", "nowhere", "cart"));
    let mut wrong = route("wrong", "third", "third");
    wrong["spec"]["rules"][0]["matches"] = json!([{ "path": { "type": "RegularExpression", "value": "(" } }]);
    let objects =
        [service("cart"), service("other"), service("third"), good.clone(), split.clone(), lost.clone(), wrong.clone()];
    let mesh = Fixture::new(&objects).await;
    eventually("conditions", || {
        [&good, &split, &lost, &wrong].iter().all(|route| !condition(&mesh.cluster, route, "Accepted").is_empty())
    })
    .await;
    let said = |of: &Value, kind: &str| condition(&mesh.cluster, of, kind);
    assert_eq!(said(&good, "Accepted"), "True Accepted ");
    assert_eq!(said(&good, "ResolvedRefs"), "True ResolvedRefs ");
    assert_eq!(said(&split, "Accepted"), "True Accepted ");
    assert_eq!(said(&split, "ResolvedRefs"), "False BackendNotFound there is no service gone in the namespace shop");
    assert_eq!(said(&lost, "Accepted"), "False NoMatchingParent there is no service nowhere in the namespace shop");
    assert!(
        said(&wrong, "Accepted").starts_with("False UnsupportedValue it is not followed: "),
        "{}",
        said(&wrong, "Accepted")
    );

    // Mended; then what was found is not written again and again.
    mesh.cluster.apply(&service("gone"));
    eventually("resolved", || said(&split, "ResolvedRefs") == "True ResolvedRefs ").await;
    let written = mesh.cluster.count("httproutes/status", "patch");
    mesh.cluster.apply(&service("more"));
    mesh.serves_cluster("more.shop:80").await;
    assert_eq!(mesh.cluster.count("httproutes/status", "patch"), written);

    // What another controller wrote stays.
    let mut shared = mesh.cluster.get(&good).expect("is there");
    let other = json!({ "parentRef": { "name": "edge" }, "controllerName": "example.com/gateway", "conditions": [] });
    shared["status"]["parents"] = json!([other]);
    mesh.cluster.apply(&shared);
    eventually("ours again", || said(&good, "Accepted") == "True Accepted ").await;
    assert_eq!(mesh.cluster.get(&good).expect("is there")["status"]["parents"][0], other);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_replica_writes_and_another_goes_on_when_it_ends() {
    let first = Fixture::new(&[service("cart"), route("a", "cart", "cart")]).await;
    eventually("conditions", || !condition(&first.cluster, &route("a", "cart", "cart"), "Accepted").is_empty()).await;
    let state = tempfile::tempdir().expect("a directory");
    let second = super::control(&first.cluster, "replica-2", state.path()).await;
    let lease = json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": "malla-control", "namespace": "malla-system" } });
    let holder =
        |cluster: &super::FakeCluster| cluster.get(&lease).unwrap_or_default()["spec"]["holderIdentity"].clone();
    let mut published = second.published().resources.clone();
    published.wait_for(|resources| resources.is_loaded()).await.expect("both serve");
    assert_eq!(holder(&first.cluster), "replica-1");

    let Fixture { cluster, control, .. } = first;
    control.stop().await;
    eventually("the other", || holder(&cluster) == "replica-2").await;
    let later = route("later", "cart", "cart");
    cluster.apply(&later);
    eventually("conditions", || condition(&cluster, &later, "Accepted").starts_with("True")).await;
    second.stop().await;
}
