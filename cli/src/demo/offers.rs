//! Ready policies that people can put into the demo's mesh: one file for each thing that a mesh does, beside the mesh's own files, in
//! a form that the control server does not read until it is copied.

use std::path::Path;

use anyhow::Context;

/// Directory of the files, within that of the mesh.
pub(crate) const DIRECTORY: &str = "try";

/// Name and text of each file. The first lines say what will be seen.
pub(crate) const OFFERS: [(&str, &str); 28] = [
    ("fault", FAULT),
    ("delay", DELAY),
    ("timeout", TIMEOUT),
    ("rate-limit", RATE_LIMIT),
    ("retries", RETRIES),
    ("hedging", HEDGING),
    ("canary-by-header", CANARY),
    ("matches", MATCHES),
    ("own-route", OWN_ROUTE),
    ("route-test", ROUTE_TEST),
    ("tcp-weights", TCP_WEIGHTS),
    ("tls-by-name", TLS_BY_NAME),
    ("grpc", GRPC),
    ("subsets", SUBSETS),
    ("sessions", SESSIONS),
    ("mirror", MIRROR),
    ("redirect", REDIRECT),
    ("headers", HEADERS),
    ("cors", CORS),
    ("balancing", BALANCING),
    ("circuit-breaker", CIRCUIT),
    ("locality", LOCALITY),
    ("outliers", OUTLIERS),
    ("outliers-compared", OUTLIERS_COMPARED),
    ("slow-start", SLOW_START),
    ("health-checks", HEALTH_CHECKS),
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

const MATCHES: &str = r#"# A regular expression, a query parameter and a method decide: of the travels to cities whose names begin with a letter up to M, and of
# those that nobody pays for. `travels-v2` gets them. Ask, also with another city, another value or another method:
#   malla explain --config DIR --from travel-portal/travels 'http://travels.travel-agency:8000/travels/London'
#   malla explain --config DIR --from travel-portal/travels DELETE 'http://travels.travel-agency:8000/travels/Rome?paid=no'
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: travels-matches, namespace: travel-agency}
spec:
  parentRefs: [{group: "", kind: Service, name: travels}]
  rules:
  - name: first-half
    matches: [{path: {type: RegularExpression, value: "/travels/[A-Ma-m].*"}}]
    backendRefs: [{name: travels-v2, port: 8000}]
  - name: unpaid
    matches: [{method: DELETE, queryParams: [{name: paid, value: "no"}]}]
    backendRefs: [{name: travels-v2, port: 8000}]
"#;

const OWN_ROUTE: &str = r#"# The portals, in their own namespace, go to `travels-v1` alone and wait 2 s: for other callers of `travels` nothing changes. The agency
# permits it by the grant. Ask, and compare with `--from travel-agency/cars`:
#   malla explain --config DIR --from travel-portal/travels http://travels.travel-agency:8000/travels
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: travels-of-portals, namespace: travel-portal}
spec:
  parentRefs: [{group: "", kind: Service, name: travels, namespace: travel-agency}]
  rules:
  - timeouts: {request: 2s}
    backendRefs: [{name: travels-v1, namespace: travel-agency, port: 8000}]
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: portals, namespace: travel-agency}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: travel-portal}]
  to: [{group: "", kind: Service}]
"#;

const ROUTE_TEST: &str = r#"# A promise about a request: half of the travels are `travels-v2`'s. `malla check DIR` holds it, and fails when somebody has
# shifted the traffic (see 1.).
apiVersion: malla.dev/v1alpha1
kind: RouteTest
metadata: {name: travels-are-shared, namespace: travel-agency}
spec:
  from: travel-portal/travels
  request: {url: "http://travels.travel-agency:8000/travels/Rome"}
  expect:
    backends:
    - {name: travels-v1, port: 8000, percent: 50}
    - {name: travels-v2, port: 8000, percent: 50}
"#;

const TCP_WEIGHTS: &str = r#"# Every other connection to the database goes to a port on which none listens, and fails. Change the weights; with 0 and 0 no connection is
# let through, and each fails with `no_endpoints`.
apiVersion: v1
kind: Service
metadata: {name: mysqldb-next, namespace: travel-agency}
spec: {selector: {app: mysqldb}, ports: [{name: mysql, port: 3306, targetPort: 3307}]}
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {name: mysqldb-weights, namespace: travel-agency}
spec:
  parentRefs: [{group: "", kind: Service, name: mysqldb}]
  rules:
  - backendRefs:
    - {name: mysqldb, port: 3306, weight: 1}
    - {name: mysqldb-next, port: 3306, weight: 1}
"#;

const TLS_BY_NAME: &str = r#"# TLS passes untouched, and the server name that the client says decides where to. Nobody here speaks TLS; ask what would happen, also
# with another name:
#   malla explain --config DIR --from travel-agency/travels https://vault.travel-agency/
#   malla explain --config DIR --from travel-agency/travels https://vault.travel-agency.svc/
apiVersion: v1
kind: Service
metadata: {name: vault, namespace: travel-agency}
spec: {selector: {app: insurances}, ports: [{port: 443, appProtocol: tls}]}
---
apiVersion: v1
kind: Service
metadata: {name: vault-next, namespace: travel-agency}
spec: {selector: {app: cars}, ports: [{port: 443, appProtocol: tls}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: vault, namespace: travel-agency}
spec:
  parentRefs: [{group: "", kind: Service, name: vault}]
  hostnames: [vault.travel-agency]
  rules:
  - backendRefs: [{name: vault-next, port: 443}]
"#;

const GRPC: &str = r#"# Routes of gRPC choose by service and method, and try calls again by their status. Nobody here speaks gRPC; ask what would happen, also
# with another method:
#   malla explain --config DIR --from travel-agency/travels POST http://quotes.travel-agency:9000/travel.Quotes/Best
apiVersion: v1
kind: Service
metadata: {name: quotes, namespace: travel-agency}
spec: {selector: {app: insurances}, ports: [{name: grpc, port: 9000}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: quotes, namespace: travel-agency}
spec:
  parentRefs: [{group: "", kind: Service, name: quotes}]
  rules:
  - matches: [{method: {service: travel.Quotes, method: Best}}]
    filters: [{type: ExtensionRef, extensionRef: {group: malla.dev, kind: RetryPolicy, name: quotes}}]
    backendRefs: [{name: quotes, port: 9000}]
---
apiVersion: malla.dev/v1alpha1
kind: RetryPolicy
metadata: {name: quotes, namespace: travel-agency}
spec: {attempts: 2, grpcStatuses: [Unavailable, ResourceExhausted], perTryTimeout: 500ms}
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

const CORS: &str = r#"# Pages of `https://shop.example` may ask `travels` from a browser: the sidecar answers what browsers ask in advance. Ask:
#   malla explain --config DIR --from travel-portal/travels http://travels.travel-agency:8000/travels -H 'origin: https://shop.example'
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: travels-cors, namespace: travel-agency}
spec:
  parentRefs: [{group: "", kind: Service, name: travels}]
  rules:
  - matches: [{path: {value: /travels}}]
    filters: [{type: CORS, cors: {allowOrigins: ["https://shop.example"], allowMethods: [GET], maxAge: 600}}]
    backendRefs: [{name: travels, port: 8000}]
"#;

const BALANCING: &str = r#"# `discounts-v1` and `-v2` behind one name get the same customer each time, by consistent hashing of a header.
apiVersion: malla.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: discounts-balancing, namespace: travel-agency}
spec:
  targetRefs: [{group: "", kind: Service, name: discounts}]
  loadBalancer: {algorithm: maglev, hash: [{header: user}, {sourceAddress: true}], locality: {preference: none}}
"#;

const CIRCUIT: &str = r#"# Each caller may have one request in flight to `hotels`: under load, more fail at once with `circuit_open`.
apiVersion: malla.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: hotels-limits, namespace: travel-agency}
spec:
  targetRefs: [{group: "", kind: Service, name: hotels}]
  limits: {maxRequests: 1, maxPendingRequests: 0}
"#;

const LOCALITY: &str = r#"# The instances `-v1` run in the zone `a`, `-v2` in `b`. With this route who calls `discounts` stays in its own zone, and the edges to
# `discounts-v2` have no traffic; break `discounts-v1` (see 2.), and all of it goes over there, until you mend it.
# With `preference: none` instead, both get the same; `distribute: [{from: demo/a, to: {demo/a: 80, demo/b: 20}}]` says shares.
apiVersion: malla.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: discounts-near, namespace: travel-agency}
spec:
  targetRefs: [{group: "", kind: Service, name: discounts}]
  loadBalancer: {locality: {preference: nearest}, panicThresholdPercent: 0}
  outlierDetection: {consecutive5xx: 2, baseEjectionTime: 5s}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: discounts-near, namespace: travel-agency}
spec:
  parentRefs: [{group: "", kind: Service, name: discounts}]
  rules:
  # More specific than the route that is there, so it goes first.
  - matches: [{path: {value: /discounts}}]
    backendRefs: [{name: discounts, port: 8000}]
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

const OUTLIERS_COMPARED: &str = r#"# Of both instances of `discounts`, the one that fails more than half of its requests within 2 s is left out, however they are spread: break
# one (see 2.), and watch. `successRate: {}` compares it with the others' mean instead, and `latency: {}` who is slow with the median.
apiVersion: malla.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: discounts-compared, namespace: travel-agency}
spec:
  targetRefs: [{group: "", kind: Service, name: discounts}]
  loadBalancer: {algorithm: roundRobin, locality: {preference: none}}
  outlierDetection:
    consecutiveGatewayFailures: 0
    interval: 2s
    baseEjectionTime: 5s
    failurePercentage: {threshold: 50, minimumEndpoints: 2, requestVolume: 5}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: discounts-compared, namespace: travel-agency}
spec:
  parentRefs: [{group: "", kind: Service, name: discounts}]
  rules:
  # More specific than the route that is there, so it goes first.
  - matches: [{path: {value: /discounts}}]
    backendRefs: [{name: discounts, port: 8000}]
"#;

const SLOW_START: &str = r#"# An instance of `discounts` that comes back, or is new, gets its share over 30 s: break one and mend it (see 2.), and watch the
# rate of its edges.
apiVersion: malla.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: discounts-slow-start, namespace: travel-agency}
spec:
  targetRefs: [{group: "", kind: Service, name: discounts}]
  loadBalancer:
    algorithm: roundRobin
    locality: {preference: none}
    slowStart: {window: 30s, minimumPercent: 5}
  outlierDetection: {consecutive5xx: 2, baseEjectionTime: 5s}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: discounts-slow-start, namespace: travel-agency}
spec:
  parentRefs: [{group: "", kind: Service, name: discounts}]
  rules:
  # More specific than the route that is there, so it goes first.
  - matches: [{path: {value: /discounts}}]
    backendRefs: [{name: discounts, port: 8000}]
"#;

const HEALTH_CHECKS: &str = r#"# Each caller of `discounts` asks each instance every second whether it is well: a broken one (see 2.) gets nothing after two failed
# checks, and is back after two good ones. `malla_health_checks_total` of the callers' sidecars counts them.
apiVersion: malla.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: discounts-checks, namespace: travel-agency}
spec:
  targetRefs: [{group: "", kind: Service, name: discounts}]
  loadBalancer: {algorithm: roundRobin, locality: {preference: none}, panicThresholdPercent: 0}
  healthCheck: {http: {path: /discounts}, interval: 1s, unhealthyThreshold: 2, healthyThreshold: 2}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: discounts-checks, namespace: travel-agency}
spec:
  parentRefs: [{group: "", kind: Service, name: discounts}]
  rules:
  # More specific than the route that is there, so it goes first.
  - matches: [{path: {value: /discounts}}]
    backendRefs: [{name: discounts, port: 8000}]
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
