//! What a sidecar would do with a request: the configuration is loaded, compiled and decoded by the very functions of the control
//! server and the sidecar, and asked instead of served.

mod authorization;
mod cluster;
mod words;

use std::net::IpAddr;
use std::time::Duration;

use malla_control::resources::Resources;
use malla_proxy::decode::listener::{RouteSource, ServiceSpec};
use malla_proxy::decode::route::RouteSpec;
use malla_proxy::decode::{self, Decoded, ListenerSpec, RouteTable};
use malla_proxy::explain::{Request, explain};
use malla_proxy::route::by_server_name;
use malla_proxy::snapshot::UnknownDestination;
use malla_xds::ResourceType;
use malla_xds::wire::Any;
use serde::Serialize;

pub(crate) use self::authorization::{Admission, judge};
pub(crate) use self::words::{describe, print};

/// Who sends a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Client {
    pub(crate) namespace: String,
    pub(crate) service_account: String,
    /// Where it connects from, for policies that ask; nowhere in particular if that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<IpAddr>,
}

impl std::str::FromStr for Client {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, address) = match text.split_once('@') {
            Some((name, address)) => (name, Some(address)),
            None => (text, None),
        };
        match (name.split_once('/'), address.map(str::parse)) {
            (Some((namespace, account)), None | Some(Ok(_))) if !namespace.is_empty() && !account.is_empty() => {
                let address = address.and_then(|address| address.parse().ok());
                Ok(Client { namespace: namespace.to_owned(), service_account: account.to_owned(), address })
            }
            (_, Some(Err::<IpAddr, _>(_))) => {
                Err(format!("{text:?} ends with no IP address: write web/front@10.1.2.3"))
            }
            _ => Err(format!("{text:?} is not a client: write namespace/service-account, as in web/front")),
        }
    }
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Fate {
    /// What the sidecar looks up: `cart.shop:80`; also the name of the listener and of the route configuration.
    pub(crate) destination: String,
    /// What happens.
    pub(crate) what: What,
    /// The route that matches: `HTTPRoute/shop/cart/0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) route: Option<String>,
    /// Its conditions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) when: Option<String>,
    /// Routes that would have come before it, and why they do not match.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) passed: Vec<Passed>,
    /// What applies to it besides.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) policies: Vec<String>,
    /// The same as values, where a route forwards it.
    #[serde(skip)]
    pub(crate) facts: Option<Facts>,
}

/// Times and numbers of a route.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Facts {
    pub(crate) timeout: Option<Duration>,
    pub(crate) try_timeout: Option<Duration>,
    /// Retries after the first try.
    pub(crate) attempts: u8,
}

/// What happens to a request.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub(crate) enum What {
    /// It goes to one of these clusters.
    #[serde(rename_all = "camelCase")]
    Forward {
        /// By weight.
        backends: Vec<Backend>,
    },
    /// The sidecar answers.
    #[serde(rename_all = "camelCase")]
    Answer {
        /// With this status.
        status: u16,
        /// Where it leads, if it is a redirect.
        #[serde(skip_serializing_if = "Option::is_none")]
        location: Option<String>,
        /// Why, in Malla's words.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'static str>,
    },
    /// It leaves the mesh untouched.
    PassThrough,
    /// It is no HTTP to the sidecar: a stream.
    #[serde(rename_all = "camelCase")]
    Stream {
        /// The server name that decides, where TLS passes untouched and there are routes by name.
        #[serde(skip_serializing_if = "Option::is_none")]
        server_name: Option<String>,
        /// Where connections go, by weight; none refuses them with `no_endpoints`.
        backends: Vec<StreamBackend>,
    },
}

/// A cluster of a stream.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StreamBackend {
    /// `db-v2.shop:5432`.
    pub(crate) cluster: String,
    /// Share of the connections, in percent.
    pub(crate) percent: f64,
    /// What holds for all connections to it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) policy: Vec<String>,
}

/// A cluster, and what it sees of the request.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Backend {
    /// `cart-v1.shop:80`.
    pub(crate) cluster: String,
    /// Share of the requests, in percent.
    pub(crate) percent: f64,
    /// The host that it sees.
    pub(crate) host: String,
    /// The path that it sees.
    pub(crate) path: String,
    /// The headers that it sees, as far as they are known here.
    pub(crate) headers: Vec<(String, String)>,
    /// What holds for all requests to it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) policy: Vec<String>,
    /// Whether its sidecars let the client in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) admissions: Vec<Admission>,
}

/// A route that does not match.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Passed {
    pub(crate) route: String,
    pub(crate) why: String,
}

/// What becomes of a request of a client.
///
/// # Errors
/// The request names no host, or the sidecar refuses what the control server says.
pub(crate) fn fate(resources: &Resources, client: &Client, request: &Request) -> anyhow::Result<Fate> {
    let destination = request
        .destination(&client.namespace)
        .ok_or_else(|| anyhow::anyhow!("the URL names no host that could be a destination"))?;
    let nothing = |what: What| Fate {
        destination: destination.clone(),
        what,
        route: None,
        when: None,
        passed: Vec::new(),
        policies: Vec::new(),
        facts: None,
    };
    let listener = match read(resources, client, ResourceType::Listener, &destination)? {
        Some(Decoded::Listener(listener)) => listener,
        _ => {
            let unknown = resources.unknown_listener(&destination);
            match decoded(ResourceType::Listener, &unknown)? {
                Decoded::Listener(listener) => listener,
                other => anyhow::bail!("{destination} is no listener but {other:?}"),
            }
        }
    };
    let service = match &*listener {
        ListenerSpec::Unknown(UnknownDestination::PassThrough) => return Ok(nothing(What::PassThrough)),
        ListenerSpec::Unknown(UnknownDestination::Deny) => return Ok(nothing(refused(404, "no_route"))),
        ListenerSpec::Service(service) => service,
    };
    let table = match &service.http {
        None => return Ok(nothing(stream(resources, client, service, request)?)),
        Some(RouteSource::Inline(table)) => table.clone(),
        Some(RouteSource::Named(name)) => match read(resources, client, ResourceType::Route, name)? {
            Some(Decoded::Route(table)) => table,
            _ => return Ok(nothing(refused(404, "no_route"))),
        },
    };
    through(resources, client, &table, request, nothing(refused(404, "no_route")))
}

/// What a table of routes makes of a request; `fate` is that of one which no route matches.
fn through(
    resources: &Resources,
    client: &Client,
    table: &RouteTable,
    request: &Request,
    fate: Fate,
) -> anyhow::Result<Fate> {
    let Some(explained) = explain(table, request) else { return Ok(fate) };
    let mut passed: Vec<Passed> = Vec::new();
    for (route, why) in &explained.passed {
        // One rule has several entries; the one that came closest tells most.
        match passed.last_mut().filter(|last| *last.route == *route.name) {
            Some(_) if why.starts_with("the path") => {}
            Some(last) => last.why.clone_from(why),
            None => passed.push(Passed { route: route.name.to_string(), why: why.clone() }),
        }
    }
    let Some(route) = explained.matched else { return Ok(Fate { passed, ..fate }) };
    passed.retain(|passed| *passed.route != *route.name);
    Ok(Fate {
        what: what(resources, client, route, request)?,
        route: Some(route.name.to_string()),
        when: Some(malla_proxy::explain::words(&route.matcher)),
        passed,
        policies: words::policies(route),
        facts: Some(Facts { timeout: route.timeout, try_timeout: route.try_timeout, attempts: route.retry.attempts }),
        ..fate
    })
}

fn what(resources: &Resources, client: &Client, route: &RouteSpec, request: &Request) -> anyhow::Result<What> {
    if let Some((status, location)) = request.location(route) {
        return Ok(What::Answer { status, location: Some(location), reason: None });
    }
    let total: u64 = route.clusters.iter().map(|(_, weight)| u64::from(*weight)).sum();
    if total == 0 {
        return Ok(refused(500, "no_endpoints"));
    }
    let backend = |(place, (cluster, weight)): (usize, &(malla_xds::Name, u32))| {
        let forwarded = request.forwarded(route, place);
        Ok(Backend {
            cluster: cluster.to_string(),
            percent: percent(*weight, total),
            host: forwarded.host,
            path: forwarded.path,
            headers: forwarded.headers,
            policy: cluster::policy(resources, client, cluster)?,
            admissions: authorization::admissions(resources, client, request, (route, place), cluster)?,
        })
    };
    let backends: anyhow::Result<_> = route.clusters.iter().enumerate().map(backend).collect();
    Ok(What::Forward { backends: backends? })
}

/// Where a connection to this destination goes; its client would name the host of the URL, if it speaks TLS.
fn stream(resources: &Resources, client: &Client, service: &ServiceSpec, request: &Request) -> anyhow::Result<What> {
    let host = request.looked_at().host;
    let by_name = by_server_name(&service.sni, host);
    let clusters = by_name.or(service.tcp.as_ref()).map_or(&[][..], |route| &route.clusters);
    let total = clusters.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let backend = |(cluster, weight): &(malla_xds::Name, u32)| {
        let policy = cluster::policy(resources, client, cluster)?;
        Ok(StreamBackend { cluster: cluster.to_string(), percent: percent(*weight, total), policy })
    };
    let backends: anyhow::Result<_> = clusters.iter().map(backend).collect();
    Ok(What::Stream { server_name: by_name.map(|_| host.to_owned()), backends: backends? })
}

/// A weight as a share, to a hundredth.
fn percent(weight: u32, total: u64) -> f64 {
    (f64::from(weight) * 10_000.0 / total as f64).round() / 100.0
}

fn refused(status: u16, reason: &'static str) -> What {
    What::Answer { status, location: None, reason: Some(reason) }
}

/// A resource as the sidecar of a client reads it.
fn read(resources: &Resources, client: &Client, kind: ResourceType, name: &str) -> anyhow::Result<Option<Decoded>> {
    let Some(found) = resources.get(kind, name) else { return Ok(None) };
    decoded(kind, resources.seen_from(&client.namespace, &found)).map(Some)
}

/// A resource as sidecars read it.
pub(crate) fn decoded(kind: ResourceType, resource: &malla_xds::Resource) -> anyhow::Result<Decoded> {
    let any = Any { type_url: kind.type_url().into(), value: resource.body.clone() };
    decode::decode(kind, &resource.name, &any)
        .map_err(|fault| anyhow::anyhow!("sidecars would refuse {kind} {}: {fault}", resource.name))
}

#[cfg(test)]
mod tests {
    use malla_config::SourceFile;

    use super::*;

    const MESH: &str = "
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {selector: {app: cart}, ports: [{name: http, port: 80, targetPort: 8080}, {name: db, port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: cart-v2, namespace: shop}
spec: {selector: {app: cart}, ports: [{port: 80, targetPort: 8080, appProtocol: http}]}
---
apiVersion: malla.dev/v1alpha1
kind: Workload
metadata: {name: cart-1, namespace: shop, labels: {app: cart}}
spec: {address: 10.0.0.1}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: cart, port: 80}]
  rules:
  - name: testers
    matches: [{headers: [{name: x-tester, value: '1'}]}]
    backendRefs: [{name: cart-v2, port: 80}]
  - name: old
    matches: [{path: {value: /old}}]
    filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]
  - name: rest
    matches: [{path: {value: /api}}]
    timeouts: {request: 5s}
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]
    backendRefs: [{name: cart, port: 80, weight: 9}, {name: cart-v2, port: 80, weight: 1}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: own, namespace: web}
spec:
  parentRefs: [{group: '', kind: Service, name: cart, namespace: shop, port: 80}]
  rules: [{filters: [{type: RequestRedirect, requestRedirect: {hostname: elsewhere.example}}]}]
";

    fn asked(from: &str, method: &str, url: &str, headers: &[(&str, &str)]) -> Fate {
        let mesh = malla_config::load(&[SourceFile::new("mesh.yaml", MESH)]).expect("valid");
        let resources = malla_control::offline::compiled(mesh).expect("compiles");
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let request = Request::new(method, url, headers).expect("a request");
        fate(&resources, &from.parse().expect("a client"), &request).expect("decodes")
    }

    #[test]
    fn a_request_is_followed_to_its_backends_and_what_came_close_is_told() {
        let fate = asked("shop/any", "GET", "http://cart.shop/api/x/../y?q=1", &[]);
        assert_eq!(fate.route.as_deref(), Some("HTTPRoute/shop/cart/rest"));
        let passed: Vec<_> = fate.passed.iter().map(|passed| (&*passed.route, &*passed.why)).collect();
        let expected = [("HTTPRoute/shop/cart/old", "the path /api/y is not /old…")];
        assert!(
            passed.iter().any(|(route, why)| *route == expected[0].0 && why.contains("/api/y is not /old")),
            "{passed:?}"
        );
        let What::Forward { backends } = &fate.what else { panic!("{fate:?}") };
        let seen: Vec<_> =
            backends.iter().map(|backend| (&*backend.cluster, backend.percent, &*backend.path)).collect();
        assert_eq!(seen, [("cart.shop:80", 90.0, "/y?q=1"), ("cart-v2.shop:80", 10.0, "/y?q=1")]);
        assert!(fate.policies.contains(&"time-out 5s for the request".to_owned()), "{fate:?}");
        assert_eq!(describe(&fate), "to cart.shop:80 90 %, cart-v2.shop:80 10 % by HTTPRoute/shop/cart/rest");
    }

    #[test]
    fn it_is_told_what_holds_for_the_service_that_a_request_goes_to() {
        let policies = "
---
apiVersion: malla.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: cart, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: cart-v2}]
  loadBalancer: {algorithm: maglev, hash: [{header: x-user}, {sourceAddress: true}], boundedLoadPercent: 150}
  limits: {maxConnections: 7, maxRequests: 9, maxPendingRequests: 3, pendingTimeout: 200ms, perEndpoint: {maxRequests: 4}}
  timeouts: {connect: 250ms, idle: 10m, requestIdle: 30s}
  retryBudget: {percent: 10, minRetriesPerSecond: 0}
  outlierDetection: {consecutive5xx: 3, latency: {}}
  healthCheck: {http: {path: /healthz}}
  overload: {adaptiveConcurrency: {}, priorityHeader: x-priority}
---
apiVersion: malla.dev/v1alpha1
kind: RetryPolicy
metadata: {name: hedged, namespace: shop}
spec: {hedging: {quantile: 90}}
";
        let mesh = MESH.replace(
            "    backendRefs: [{name: cart-v2, port: 80}]",
            "    filters: [{type: ExtensionRef, extensionRef: {group: malla.dev, kind: RetryPolicy, name: hedged}}]
    backendRefs: [{name: cart-v2, port: 80}]",
        );
        let mesh = malla_config::load(&[SourceFile::new("mesh.yaml", format!("{mesh}{policies}"))]).expect("valid");
        let resources = malla_control::offline::compiled(mesh).expect("compiles");
        let of = |path: &str, headers: &[(&str, &str)]| {
            let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let request = Request::new("GET", &format!("http://cart.shop{path}"), headers).expect("a request");
            fate(&resources, &"shop/any".parse().expect("a client"), &request).expect("decodes")
        };
        let policy = |fate: &Fate| match &fate.what {
            What::Forward { backends } => backends[0].policy.clone(),
            other => panic!("{other:?}"),
        };
        let chosen = of("/", &[("x-tester", "1")]);
        let hedged = "hedged: a second try elsewhere, beside the first, after the time of 90 % of 100 answers or more, at \
                      least 10ms (idempotent methods)";
        assert!(chosen.policies.iter().any(|policy| policy == hedged), "{:?}", chosen.policies);
        let expected = [
            "balanced by maglev of the header x-user, else the client's address, at most 150 % of the mean load, 65537 \
             places, the nearest first (zone, region, all) while 70 % of them are healthy",
            "health not believed under 50 % healthy",
            "at most 7 connections, 9 requests at once, 3 waiting for 200ms, 4 requests of each endpoint",
            "retries and hedges: 10 % of requests, 0 per second in any case",
            "time-outs: to connect 250ms, of an idle connection 10m, of a request on which nothing moves 30s",
            "left out for 30s to 5m, at most 50 % of the endpoints, after 5 gateway failures in a row, or 3 statuses from \
             500 on in a row, or 500 % of the median latency (3 endpoints of 50 requests in 10s)",
            "checked by GET /healthz every 10s within 1s: out after 3 failures, back after 2 successes",
            "requests at once follow latency every 100ms, 10 to 1000, low x-priority refused first",
        ];
        assert_eq!(policy(&chosen), expected);
        let defaults = policy(&of("/api", &[]));
        assert_eq!(
            defaults[0],
            "balanced by peakEwma, the nearest first (zone, region, all) while 70 % of them are healthy"
        );
        assert_eq!(defaults[4], "time-outs: to connect 1s, of an idle connection 1h");
        assert_eq!(defaults[6], "no active health checks");
    }

    #[test]
    fn answers_of_the_sidecar_are_told_as_such() {
        let testers = asked("shop/any", "GET", "http://cart.shop/", &[("x-tester", "1")]);
        assert_eq!(testers.route.as_deref(), Some("HTTPRoute/shop/cart/testers"));
        let moved = asked("shop/any", "GET", "http://cart.shop/old/a", &[]);
        assert_eq!(describe(&moved), "302 to http://cart.shop/new/a by HTTPRoute/shop/cart/old");
        let nowhere = asked("shop/any", "GET", "http://cart.shop/", &[]);
        assert_eq!(nowhere.what, refused(404, "no_route"));
        assert!(nowhere.passed.iter().any(|passed| passed.why.contains("there is no header x-tester")), "{nowhere:?}");
    }

    #[test]
    fn clients_of_a_namespace_follow_their_own_routes() {
        let own = asked("web/front", "GET", "http://cart.shop/api", &[]);
        assert_eq!(describe(&own), "302 to http://elsewhere.example/api by HTTPRoute/web/own/0");
        assert_eq!(own.destination, "cart.shop:80");
    }

    #[test]
    fn it_is_told_whether_the_caller_is_let_in_and_by_which_policy() {
        let policies = "
---
apiVersion: malla.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: readers, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: cart}]
  action: Allow
  rules:
  - from: [{serviceAccounts: [shop/reader]}]
    to: [{methods: [GET]}]
  - from: [{ipBlocks: [10.9.0.0/16]}]
---
apiVersion: malla.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: no-secrets, namespace: shop}
spec: {action: Deny, rules: [{to: [{paths: [{type: PathPrefix, value: /api/secret}]}]}]}
";
        let route = MESH
            .replace(", {name: cart-v2, port: 80, weight: 1}]", "]")
            .replace("replacePrefixMatch: /}}", "replacePrefixMatch: /api}}");
        let mesh = malla_config::load(&[SourceFile::new("mesh.yaml", format!("{route}{policies}"))]).expect("valid");
        let resources = malla_control::offline::compiled(mesh).expect("compiles");
        let asked = |from: &str, method: &str, path: &str| {
            let request = Request::new(method, &format!("http://cart.shop{path}"), []).expect("a request");
            let fate = fate(&resources, &from.parse().expect("a client"), &request).expect("decodes");
            let What::Forward { backends } = fate.what else { panic!("{fate:?}") };
            let [admission] = &backends[0].admissions[..] else { panic!("{backends:?}") };
            assert_eq!(admission.workloads, ["cart-1.shop"]);
            assert!(admission.asked.iter().any(|policy| policy.starts_with("shop/readers")), "{admission:?}");
            (admission.allowed, admission.refused_by.clone().unwrap_or_default())
        };
        assert_eq!(asked("shop/reader", "GET", "/api"), (true, String::new()));
        assert_eq!(asked("shop/reader", "POST", "/api"), (false, "none".to_owned()));
        assert_eq!(asked("shop/other", "GET", "/api"), (false, "none".to_owned()));
        assert_eq!(asked("shop/other@10.9.1.1", "POST", "/api"), (true, String::new()));
        let (allowed, by) = asked("shop/reader", "GET", "/api/secret/1");
        assert!(!allowed && by.starts_with("shop/no-secrets"), "what is forwarded is what is judged: {by}");
        assert!("shop/a@b".parse::<Client>().is_err());
    }

    #[test]
    fn what_is_no_http_or_no_part_of_the_mesh_is_told_too() {
        assert_eq!(describe(&asked("shop/any", "GET", "http://cart.shop:5432/", &[])), "as a stream to cart.shop:5432");
        assert_eq!(asked("shop/any", "GET", "https://example.com/", &[]).what, What::PassThrough);
    }

    #[test]
    fn it_is_told_where_connections_go_that_carry_no_http() {
        let routes = "
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {selector: {app: cart}, ports: [{name: tcp, port: 5432}, {name: tls, port: 443}, {name: tcp-none, port: 1}]}
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {name: db, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: db, port: 5432}]
  rules: [{backendRefs: [{name: db, port: 5432, weight: 3}, {name: cart, port: 5432, weight: 1}]}]
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {name: none, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: db, port: 1}]
  rules: [{backendRefs: [{name: db, port: 5432, weight: 0}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: db, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: db, port: 443}]
  hostnames: ['db.shop']
  rules: [{backendRefs: [{name: cart, port: 5432}]}]
---
apiVersion: malla.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: db, namespace: shop}
spec: {targetRefs: [{group: '', kind: Service, name: db}], limits: {maxConnections: 7}}
";
        let mesh = malla_config::load(&[SourceFile::new("mesh.yaml", format!("{MESH}{routes}"))]).expect("valid");
        let resources = malla_control::offline::compiled(mesh).expect("compiles");
        let of = |url: &str| {
            let request = Request::new("GET", url, []).expect("a request");
            fate(&resources, &"shop/any".parse().expect("a client"), &request).expect("decodes")
        };
        for (url, expected) in [
            ("http://db.shop:5432/", "as a stream to db.shop:5432 75 %, cart.shop:5432 25 %"),
            ("https://db.shop/", "as a stream, by the server name db.shop, to cart.shop:5432"),
            ("https://db.shop.svc.cluster.local/", "as a stream to db.shop:443"),
            ("http://db.shop:1/", "as a stream to nowhere: no_endpoints"),
        ] {
            assert_eq!(describe(&of(url)), expected, "{url}");
        }
        let What::Stream { backends, .. } = of("http://db.shop:5432/").what else { panic!("a stream") };
        assert!(backends[0].policy.iter().any(|words| words.starts_with("at most 7 connections")), "{backends:?}");
    }
}
