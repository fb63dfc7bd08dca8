//! Ready policies that people can put into the demo's mesh: one file for each thing that a mesh does, beside the mesh's own files, in
//! a form that the control server does not read until it is copied.

use std::path::Path;

use anyhow::Context;

/// Directory of the files, within that of the mesh.
pub(crate) const DIRECTORY: &str = "try";

/// Name and text of each file. The first lines say what will be seen.
pub(crate) const OFFERS: [(&str, &str); 17] = [
    ("fault", FAULT),
    ("delay", DELAY),
    ("timeout", TIMEOUT),
    ("rate-limit", RATE_LIMIT),
    ("retries", RETRIES),
    ("hedging", HEDGING),
    ("canary-by-header", CANARY),
    ("subsets", SUBSETS),
    ("sessions", SESSIONS),
    ("mirror", MIRROR),
    ("redirect", REDIRECT),
    ("headers", HEADERS),
    ("balancing", BALANCING),
    ("circuit-breaker", CIRCUIT),
    ("outliers", OUTLIERS),
    ("overload", OVERLOAD),
    ("authorization", AUTHORIZATION),
];

/// Name of a file, by that of the offer.
pub(crate) fn file(name: &str) -> String {
    format!("{name}.yaml.txt")
}

/// Writes all of them.
///
/// # Errors
/// The directory or a file cannot be written.
pub(crate) fn write(mesh: &Path) -> anyhow::Result<()> {
    let directory = mesh.join(DIRECTORY);
    std::fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make the directory {}", directory.display()))?;
    for (name, text) in OFFERS {
        let path = directory.join(file(name));
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

const FAULT: &str = r#"# A third of the calls of `cars` fails on purpose: its edge shows `fault_injected`, and travels are sold without a car.
apiVersion: malla.dev/v1alpha1
kind: FaultInjection
metadata: {name: cars-fail, namespace: travel-agency}
spec: {abort: {httpStatus: 503, percent: 33}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cars-fault, namespace: travel-agency}
spec:
  parentRefs: [{group: "", kind: Service, name: cars}]
  rules:
  - filters: [{type: ExtensionRef, extensionRef: {group: malla.dev, kind: FaultInjection, name: cars-fail}}]
    backendRefs: [{name: cars, port: 8000}]
"#;

const DELAY: &str = r#"# Half of the calls of `hotels` wait for 300 ms: the p99 of its edge, and of the portals, rises by so much.
apiVersion: malla.dev/v1alpha1
kind: FaultInjection
metadata: {name: hotels-wait, namespace: travel-agency}
spec: {delay: {duration: 300ms, percent: 50}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: hotels-delay, namespace: travel-agency}
spec:
  parentRefs: [{group: "", kind: Service, name: hotels}]
  rules:
  - filters: [{type: ExtensionRef, extensionRef: {group: malla.dev, kind: FaultInjection, name: hotels-wait}}]
    backendRefs: [{name: hotels, port: 8000}]
"#;

const TIMEOUT: &str = r#"# `hotels` has a millisecond for each call: most fail with `request_timeout`.
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: hotels-timeout, namespace: travel-agency}
spec:
  parentRefs: [{group: "", kind: Service, name: hotels}]
  rules:
  - timeouts: {request: 1ms}
    backendRefs: [{name: hotels, port: 8000}]
"#;

const RATE_LIMIT: &str = r#"# Each caller of `flights` has one call each second: the rest is answered 429 with `rate_limited`.
apiVersion: malla.dev/v1alpha1
kind: RateLimit
metadata: {name: flights-limit, namespace: travel-agency}
spec: {requests: 1}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: flights-limit, namespace: travel-agency}
spec:
  parentRefs: [{group: "", kind: Service, name: flights}]
  rules:
  - filters: [{type: ExtensionRef, extensionRef: {group: malla.dev, kind: RateLimit, name: flights-limit}}]
    backendRefs: [{name: flights, port: 8000}]
"#;

const RETRIES: &str = r#"# With an instance of `discounts` broken (see 2.), this sends its failures to the other one: the portals see none of them, and
# `malla_retries_total` of the callers' sidecars counts them. The budget of a fifth holds all the same.
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: discounts-retries, namespace: travel-agency}
spec:
  parentRefs: [{group: "", kind: Service, name: discounts}]
  rules:
  # More specific than the route that is there, so it goes first.
  - matches: [{path: {value: /discounts}}]
    retry: {attempts: 2, codes: [500, 502, 503]}
    backendRefs: [{name: discounts, port: 8000}]
"#;

const HEDGING: &str = r#"# A call of `discounts` that takes longer than four of five others goes to the other instance too, and the first answer wins: with one of them
# slow (see 2.), the p99 of its edge falls. `malla_hedges_total` of the callers' sidecars counts them.
apiVersion: malla.dev/v1alpha1
kind: RetryPolicy
metadata: {name: discounts-hedging, namespace: travel-agency}
spec:
  attempts: 1
  hedging: {quantile: 80, minimumDelay: 2ms, minimumSamples: 20}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: discounts-hedging, namespace: travel-agency}
spec:
  parentRefs: [{group: "", kind: Service, name: discounts}]
  rules:
  # More specific than the route that is there, so it goes first.
  - matches: [{path: {value: /discounts}}]
    filters: [{type: ExtensionRef, extensionRef: {group: malla.dev, kind: RetryPolicy, name: discounts-hedging}}]
    backendRefs: [{name: discounts, port: 8000}]
"#;

const CANARY: &str = r#"# Who sends `x-tester: 1` gets `travels-v2`. Ask:
#   malla explain --config DIR --from travel-portal/travels http://travels.travel-agency:8000/ -H 'x-tester: 1'
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: travels-testers, namespace: travel-agency}
spec:
  parentRefs: [{group: "", kind: Service, name: travels}]
  rules:
  - matches: [{headers: [{name: x-tester, value: "1"}]}]
    backendRefs: [{name: travels-v2, port: 8000}]
"#;

const SUBSETS: &str = r#"# All calls below /discounts go to the workloads of `discounts` with the label `version: v2`.
apiVersion: malla.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: discounts-parts, namespace: travel-agency}
spec:
  targetRefs: [{group: "", kind: Service, name: discounts}]
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}, fallback: all}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: discounts-parts, namespace: travel-agency}
spec:
  parentRefs: [{group: "", kind: Service, name: discounts}]
  rules:
  - matches: [{path: {value: /discounts}}]
    backendRefs: [{group: malla.dev, kind: Subset, name: discounts.v2, port: 8000}]
"#;

const SESSIONS: &str = r#"# Answers of `travels` bring a cookie, and who sends it back stays at one instance. (The portals do not send it back.) Ask:
#   malla explain --config DIR --from travel-portal/travels http://travels.travel-agency:8000/travels
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: travels-sessions, namespace: travel-agency}
spec:
  parentRefs: [{group: "", kind: Service, name: travels}]
  rules:
  - matches: [{path: {value: /travels}}]
    sessionPersistence: {sessionName: travels}
    backendRefs: [{name: travels, port: 8000}]
"#;

const MIRROR: &str = r#"# Every call of `cars` is copied to `insurances`, whose edge gets so much more; nobody waits for the answers.
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cars-mirror, namespace: travel-agency}
spec:
  parentRefs: [{group: "", kind: Service, name: cars}]
  rules:
  - filters: [{type: RequestMirror, requestMirror: {backendRef: {name: insurances, port: 8000}}}]
    backendRefs: [{name: cars, port: 8000}]
"#;

const REDIRECT: &str = r#"# Calls of `insurances` are told to go to `cars`: the sidecar answers 302 itself, and the edge to `insurances` has no traffic.
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: insurances-moved, namespace: travel-agency}
spec:
  parentRefs: [{group: "", kind: Service, name: insurances}]
  rules:
  - filters: [{type: RequestRedirect, requestRedirect: {hostname: cars.travel-agency, port: 8000}}]
"#;

const HEADERS: &str = r#"# Requests to `flights` get a header, and their host and path are rewritten. Ask what it sees:
#   malla explain --config DIR --from travel-agency/travels http://flights.travel-agency:8000/flights -o json
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: flights-headers, namespace: travel-agency}
spec:
  parentRefs: [{group: "", kind: Service, name: flights}]
  rules:
  - filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-demo, value: "yes"}]}}
    - {type: URLRewrite, urlRewrite: {hostname: flights.example}}
    backendRefs: [{name: flights, port: 8000}]
"#;

const BALANCING: &str = r#"# `discounts-v1` and `-v2` behind one name get the same customer each time, by consistent hashing of a header.
apiVersion: malla.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: discounts-balancing, namespace: travel-agency}
spec:
  targetRefs: [{group: "", kind: Service, name: discounts}]
  loadBalancer: {algorithm: maglev, hash: [{header: user}, {sourceAddress: true}]}
"#;

const CIRCUIT: &str = r#"# Each caller may have one request in flight to `hotels`: under load, more fail at once with `circuit_open`.
apiVersion: malla.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: hotels-limits, namespace: travel-agency}
spec:
  targetRefs: [{group: "", kind: Service, name: hotels}]
  limits: {maxRequests: 1, maxPendingRequests: 0}
"#;

const OUTLIERS: &str = r#"# An instance of `discounts` that is broken (see 2.) is left out after two failures, and tried again after 5 s.
apiVersion: malla.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: discounts-outliers, namespace: travel-agency}
spec:
  targetRefs:
  - {group: "", kind: Service, name: discounts-v1}
  - {group: "", kind: Service, name: discounts-v2}
  outlierDetection: {consecutiveGatewayFailures: 2, consecutive5xx: 2, baseEjectionTime: 5s}
"#;

const OVERLOAD: &str = r#"# The limit on requests in flight to `travels-v1` follows its latency; what is beyond fails with `overloaded`.
apiVersion: malla.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: travels-overload, namespace: travel-agency}
spec:
  targetRefs: [{group: "", kind: Service, name: travels-v1}]
  overload: {adaptiveConcurrency: {minimum: 1, maximum: 20}}
"#;

const AUTHORIZATION: &str = r#"# Nobody but `travels` may call `cars`: who else does is answered 403 with `denied`. Ask:
#   malla explain --config DIR --from travel-portal/viaggi http://cars.travel-agency:8000/
apiVersion: malla.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: cars-callers, namespace: travel-agency}
spec:
  targetRefs: [{group: "", kind: Service, name: cars}]
  action: Allow
  rules:
  - from: [{serviceAccounts: [travel-agency/travels]}]
"#;

#[cfg(test)]
mod tests {
    use super::super::addresses::Addresses;
    use super::super::files::MeshDirectory;
    use super::*;

    #[test]
    fn each_offer_can_be_put_into_the_mesh_and_says_what_will_be_seen() {
        for (name, text) in OFFERS {
            let addresses = Addresses::choose().expect("loopback addresses");
            let directory = tempfile::tempdir().expect("a directory");
            let mesh = MeshDirectory::prepare(Some(directory.path()), &addresses).expect("a mesh");
            let before = malla_control::source::read(mesh.path()).expect("files");
            assert!(
                before.iter().all(|file| !file.path.contains(DIRECTORY)),
                "what is offered is not read: {before:?}"
            );
            let offered = mesh.path().join(DIRECTORY).join(file(name));
            std::fs::copy(offered, mesh.path().join(format!("{name}.yaml"))).expect("copied");
            let files = malla_control::source::read(mesh.path()).expect("files");
            let (loaded, report) = malla_config::inspect(&files);
            assert_eq!((report.error_count(), report.warning_count()), (0, 0), "{name}: {report}");
            malla_control::offline::compiled(loaded.expect("valid")).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(text.starts_with("# ") && text.len() > 100, "{name}");
        }
    }
}
