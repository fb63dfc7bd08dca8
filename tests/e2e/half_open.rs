//! Endpoints that are gone, or stand still, while their connections are open: no packet says so, and requests find it out in time.

use std::time::{Duration, Instant};

use malla_tests::{Member, Mesh, wait};

use crate::servers;

/// The longest that a request may take that has to find it out: 10 s of silence, 10 s for a sign of life, 5 s for a new connection. The
/// machine of the tests is small and busy.
const LONGEST: Duration = Duration::from_secs(45);

/// Loses whatever goes in or out of a pod.
const LOST: &str = "table inet lost { chain input { type filter hook input priority -400; iifname != \"lo\" drop; }; \
                    chain output { type filter hook output priority -400; oifname != \"lo\" drop; }; }";

/// Who answers.
#[track_caller]
fn ask(client: &Member) -> String {
    let begun = Instant::now();
    let output = client.exec(&["curl", "-sSf", "--max-time", "55", "http://web.shop/"]).success().text();
    assert!(begun.elapsed() < LONGEST, "it took {:?}", begun.elapsed());
    output.trim().to_owned()
}

#[test]
fn an_endpoint_that_is_gone_or_stands_still_is_given_up_and_another_asked() {
    const GONE: &str = "an upstream gives no sign of life";
    let mut mesh = Mesh::new();
    mesh.service("web", &["{name: http, port: 80, targetPort: 8080}"]);
    let mut client = mesh.member("client");
    let mut webs = ["web-1", "web-2"].map(|name| mesh.member(name));
    mesh.write(
        "routes.yaml",
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: web, namespace: shop}\nspec:\n  \
         parentRefs: [{group: '', kind: Service, name: web}]\n  rules:\n    - retry: {attempts: 2, codes: [503]}\n      \
         backendRefs: [{name: web, port: 80}]\n",
    );
    mesh.start();
    let _nginx = webs.each_ref().map(|web| servers::nginx(web, web.name(), &["8080"]));
    mesh.join(webs.iter_mut().chain([&mut client]));
    let web = &webs[0];
    // Nothing comes into its machine, and nothing out; or its sidecar stands still, and the kernel goes on.
    for packets_are_lost in [true, false] {
        let answers = |name: &str| {
            let what = format!("{name} to answer ({packets_are_lost})");
            wait::until(&what, Duration::from_secs(60), || (ask(&client) == name).then_some(()));
        };
        // Both have a connection that is open.
        answers("web-1");
        answers("web-2");
        match packets_are_lost {
            true => drop(web.exec(&["nft", LOST]).success()),
            false => web.sidecar().signal("STOP"),
        }
        let before = client.sidecar().stderr().matches(GONE).count();
        wait::until("a request to find it out", Duration::from_secs(120), || {
            assert_eq!(ask(&client), "web-2");
            (client.sidecar().stderr().matches(GONE).count() > before).then_some(())
        });
        match packets_are_lost {
            true => drop(web.exec(&["nft", "delete table inet lost"]).success()),
            false => web.sidecar().signal("CONT"),
        }
    }
}
