//! Errors of traffic policies: bounds, contradictions, targets; and what is only a warning.

use malla_config::Code::{Conflict, DanglingReference, Duplicate, InvalidValue, MissingField, NoEffect, NotSupported};
use malla_config::{Severity, SourceFile, inspect};

use super::{BASE, errors, expect, service};

const OF: &str = "TrafficPolicy shop/p";

/// A policy for the service `cart`; the rest of its `spec` begins at line 6.
fn policy(spec: &str) -> String {
    of_target("{group: '', kind: Service, name: cart}", spec)
}

fn of_target(target: &str, spec: &str) -> String {
    format!(
        "apiVersion: malla.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: p, namespace: shop}}\nspec:\n  \
         targetRefs: [{target}]\n{spec}"
    )
}

#[test]
fn values_are_within_their_bounds() {
    for (spec, column, message, help) in [
        ("limits: {maxConnections: 0}", 28, "0", "from 1"),
        ("limits: {pendingTimeout: 0s}", 28, "`0s` is out of bounds", "from 1ms to 1m"),
        ("limits: {pendingTimeout: soon}", 28, "`soon` is not a duration", "`250ms`"),
        ("limits: {perEndpoint: {maxRequests: 0}}", 39, "0", "from 1"),
        ("timeouts: {connect: 11m}", 23, "`11m` is out of bounds", "from 1ms to 10m"),
        ("timeouts: {idle: 25h}", 20, "`25h` is out of bounds", "from 1s to 24h"),
        ("timeouts: {requestIdle: 1ms}", 27, "`1ms` is out of bounds", "from 10ms to 24h"),
        ("retryBudget: {percent: 101}", 26, "101", "from 0 to 100"),
        ("loadBalancer: {algorithm: fastest}", 29, "fastest", "peakEwma"),
        ("loadBalancer: {algorithm: leastRequest, choices: 1}", 52, "1", "from 2 to 10"),
        ("loadBalancer: {panicThresholdPercent: 101}", 41, "101", "from 0 to 100"),
        ("loadBalancer: {slowStart: {window: 2h}}", 38, "`2h` is out of bounds", "from 1s to 1h"),
        ("loadBalancer: {locality: {minimumHealthyPercent: 0}}", 52, "0", "from 1 to 100"),
        ("outlierDetection: {maxEjectionPercent: 101}", 42, "101", "from 0 to 100"),
        ("outlierDetection: {interval: 10ms}", 32, "`10ms` is out of bounds", "from 1s to 1h"),
        ("outlierDetection: {latency: {thresholdPercent: 100}}", 50, "100", "from 150"),
        ("healthCheck: {tcp: {}, interval: 1ms}", 36, "`1ms` is out of bounds", "from 100ms to 1h"),
        ("overload: {adaptiveConcurrency: {interval: 1m}}", 46, "`1m` is out of bounds", "from 10ms to 10s"),
    ] {
        expect(&policy(&format!("  {spec}\n")), &[(InvalidValue, (6, column), OF, message, help)]);
    }
}

#[test]
fn contradictions_are_refused() {
    for (spec, code, column, message, help) in [
        ("loadBalancer: {hash: [{header: x-user}]}", NoEffect, 18, "`hash` has an effect with", "change the algorithm"),
        ("loadBalancer: {algorithm: random, choices: 3}", NoEffect, 37, "`choices`", "remove it"),
        ("loadBalancer: {algorithm: ringHash}", MissingField, 17, "something to hash", "header: x-user"),
        ("loadBalancer: {algorithm: maglev, hash: [{}]}", InvalidValue, 44, "exactly one thing", "sourceAddress"),
        (
            "loadBalancer: {algorithm: maglev, hash: [{header: a, cookie: b}]}",
            InvalidValue,
            44,
            "exactly one thing",
            "several entries",
        ),
        ("loadBalancer: {algorithm: ringHash, hash: [{header: 'a b'}]}", InvalidValue, 55, "`a b`", "letters"),
        (
            "loadBalancer: {algorithm: maglev, hash: [{cookie: a}], tableSize: 65536}",
            InvalidValue,
            69,
            "65536 is not a prime number",
            "65537",
        ),
        ("loadBalancer: {locality: {preference: none, failover: []}}", NoEffect, 47, "`failover`", "one of the two"),
        (
            "loadBalancer: {locality: {failover: [{from: eu, to: [us, us]}]}}",
            InvalidValue,
            60,
            "`us` cannot come after `eu`",
            "each once",
        ),
        (
            "loadBalancer: {locality: {distribute: [{from: eu/a, to: {eu/a: 80, eu/b: 30}}]}}",
            InvalidValue,
            59,
            "add up to 110",
            "add up to 100",
        ),
        (
            "loadBalancer: {locality: {distribute: [{from: eu, to: {eu: 100}}, {from: eu, to: {us: 100}}]}}",
            Duplicate,
            76,
            "written already",
            "one entry",
        ),
        ("outlierDetection: {baseEjectionTime: 60s, maxEjectionTime: 30s}", InvalidValue, 62, "shorter", "at least 1m"),
        ("outlierDetection: {disabled: true, interval: 5s}", NoEffect, 22, "nothing else here", "remove it"),
        ("healthCheck: {interval: 5s}", InvalidValue, 16, "exactly one way", "grpc: {}"),
        ("healthCheck: {tcp: {}, grpc: {}}", InvalidValue, 16, "exactly one way", "tcp: {}"),
        ("healthCheck: {http: {path: healthz}}", InvalidValue, 30, "`healthz` is not a path", "begins with `/`"),
        (
            "overload: {adaptiveConcurrency: {minimum: 50, maximum: 20}}",
            InvalidValue,
            58,
            "below the least",
            "at least 50",
        ),
    ] {
        expect(&policy(&format!("  {spec}\n")), &[(code, (6, column), OF, message, help)]);
    }
}

#[test]
fn two_policies_on_one_target_are_a_conflict() {
    let second = |target: &str| of_target(target, "").replace("name: p,", "name: q,");
    let whole = "{group: '', kind: Service, name: cart}";
    let port = "{group: '', kind: Service, name: cart, sectionName: http}";
    let two = format!("{}---\n{}", of_target(whole, ""), second(whole));
    let expected = "cart.shop has a traffic policy already, TrafficPolicy shop/p";
    expect(&two, &[(Conflict, (11, 16), "TrafficPolicy shop/q", expected, "sectionName")]);
    assert_eq!((errors(&two)[0].related[0].line, errors(&two)[0].related[0].column), (5, 16));
    let ports = format!("{}---\n{}", of_target(port, ""), second(port));
    expect(&ports, &[(Conflict, (11, 16), "TrafficPolicy shop/q", "cart.shop:80 has a traffic policy", "")]);
    expect(&format!("{}---\n{}", of_target(whole, ""), second(port)), &[]);
    let twice = of_target(&format!("{whole}, {whole}"), "");
    expect(&twice, &[(Conflict, (5, 56), OF, "cart.shop has a traffic policy already", "")]);
}

#[test]
fn targets_are_services_of_the_mesh() {
    let section = "{group: '', kind: Service, name: cart, sectionName: htp}";
    expect(&of_target(section, ""), &[(DanglingReference, (5, 68), OF, "no port named `htp`", "`http`")]);
    let gateway = "{group: gateway.networking.k8s.io, kind: Gateway, name: cart}";
    expect(&of_target(gateway, ""), &[(NotSupported, (5, 16), OF, "the kind `Gateway`", "kind: Service")]);
    expect(&of_target("", ""), &[(MissingField, (5, 15), OF, "needs a target", "services")]);
    let outside = format!(
        "{}---\n{}",
        of_target("{group: '', kind: Service, name: new}", "  limits: {maxRequests: 5}\n  outlierDetection: {}\n"),
        service("  type: ExternalName\n  externalName: api.example.com\n  ports: [{port: 80}]\n")
    );
    expect(&outside, &[(NoEffect, (7, 3), OF, "outside the mesh", "limits, time-outs")]);
}

#[test]
fn subsets_have_names_and_labels_of_their_own() {
    for (spec, code, column, message, help) in [
        ("subsets: [{name: V2, labels: {app: cart}}]", InvalidValue, 20, "`V2` is not a valid name", "as in `v2`"),
        ("subsets: [{name: v2, labels: {}}]", MissingField, 32, "needs a label", "version: v2"),
        (
            "subsets: [{name: a, labels: {app: cart}}, {name: a, labels: {app: cart}}]",
            Duplicate,
            52,
            "`a` is written twice",
            "a name of its own",
        ),
        ("subsets: [{name: v2, labels: {app: cart}, fallback: some}]", InvalidValue, 55, "some", "none"),
    ] {
        expect(&policy(&format!("  {spec}\n")), &[(code, (6, column), OF, message, help)]);
    }
    let many: Vec<String> = (0..17).map(|at| format!("{{name: s{at}, labels: {{app: cart}}}}")).collect();
    let text = policy(&format!("  subsets: [{}]\n", many.join(", ")));
    expect(&text, &[(InvalidValue, (6, 3), OF, "17 items", "a selector of its own")]);
}

/// A route of `cart` to this backend.
fn to(backend: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: shop}}\nspec:\n  \
         parentRefs: [{{group: '', kind: Service, name: cart}}]\n  rules:\n  - backendRefs: [{backend}]\n"
    )
}

#[test]
fn a_backend_names_a_subset_that_is_there() {
    let subsets = policy("  subsets: [{name: v1, labels: {app: cart}}]\n");
    let route = "HTTPRoute shop/r";
    for (backend, column, code, message, help) in [
        ("{group: malla.dev, kind: Subset, name: cart.v2, port: 80}", 58, DanglingReference, "subset `v2`", "v1"),
        (
            "{group: malla.dev, kind: Subset, name: cart, port: 80}",
            58,
            InvalidValue,
            "not the name of a subset",
            "`cart.v2`",
        ),
        ("{group: malla.dev, kind: Part, name: cart.v1, port: 80}", 19, NotSupported, "the kind `Part`", "`Subset`"),
        ("{group: malla.dev, kind: Subset, name: none.v1, port: 80}", 58, DanglingReference, "no service `none`", ""),
    ] {
        expect(&format!("{subsets}{}", to(backend)), &[(code, (14, column), route, message, help)]);
    }
    expect(&format!("{subsets}{}", to("{group: malla.dev, kind: Subset, name: cart.v1, port: 80}")), &[]);
    let alone = to("{group: malla.dev, kind: Subset, name: cart.v1, port: 80}");
    let help = "write `subsets: [{name: v1, labels: …}]`";
    expect(&alone, &[(DanglingReference, (8, 58), route, "no TrafficPolicy gives cart.shop:80 a subset `v1`", help)]);
}

#[test]
fn a_subset_that_nobody_belongs_to_is_a_warning() {
    let text = policy("  subsets: [{name: v1, labels: {app: crat}}]\n");
    let (mesh, report) = inspect(&[SourceFile::new("base.yaml", BASE), SourceFile::new("case.yaml", text)]);
    assert!(mesh.is_some());
    assert_eq!((report.error_count(), report.warning_count()), (0, 1), "{report}");
    let warning = &report.diagnostics()[0];
    assert!(warning.message.contains("labels of the subset `v1`"), "{report}");
    assert_eq!(warning.help.as_deref(), Some("they have app=cart"));
}

#[test]
fn a_policy_that_targets_nothing_is_a_warning() {
    let text = of_target("{group: '', kind: Service, name: crat}", "");
    let (mesh, report) = inspect(&[SourceFile::new("base.yaml", BASE), SourceFile::new("case.yaml", text)]);
    assert!(mesh.is_some_and(|mesh| mesh.traffic_policies.is_empty()));
    assert_eq!((report.error_count(), report.warning_count()), (0, 1));
    let warning = &report.diagnostics()[0];
    assert_eq!((warning.severity, warning.line, warning.column), (Severity::Warning, 5, 49));
    assert!(warning.message.contains("targets nothing") && warning.help.as_deref() == Some("did you mean `cart`?"));
    let drawn = report.to_string();
    assert!(drawn.ends_with("1 warning in 1 file\n"), "{drawn}");
}
