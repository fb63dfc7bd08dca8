//! Each field of a traffic policy, from YAML to the field of a cluster.

use malla_config::{SourceFile, load};
use malla_xds::ResourceType;
use malla_xds::envoy::cluster::Cluster;
use malla_xds::envoy::core::health_check::HealthChecker;
use malla_xds::envoy::endpoint::ClusterLoadAssignment;
use malla_xds::envoy::http_protocol_options::HttpProtocolOptions;
use malla_xds::envoy::least_request::LeastRequest;
use malla_xds::envoy::maglev::Maglev;
use malla_xds::envoy::protobuf::{Any, Duration};
use malla_xds::envoy::ring_hash::RingHash;
use malla_xds::envoy::round_robin::RoundRobin;
use malla_xds::envoy::route::{RouteConfiguration, route::Action};
use malla_xds::policy::{ClusterPolicy, PeakEwma};
use prost::Message;

use super::compile;
use crate::world::World;

const SHOP: &str = "
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {selector: {app: cart}, ports: [{name: http, port: 80}, {name: tcp-db, port: 90}]}
---
apiVersion: malla.dev/v1alpha1
kind: Workload
metadata: {name: cart-1, namespace: shop, labels: {app: cart}}
spec: {address: 10.0.0.1, locality: {region: eu, zone: a}}
---
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec: {type: ExternalName, externalName: api.example.com, ports: [{port: 443}]}
---
";

fn policy(name: &str, target: &str, spec: &str) -> String {
    format!(
        "apiVersion: malla.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec:\n  targetRefs: [{{group: '', kind: Service, {target}}}]\n  {spec}\n---\n"
    )
}

fn cluster_of(name: &str, policies: &str) -> Cluster {
    let mesh =
        load(&[SourceFile::new("mesh.yaml", format!("{SHOP}{policies}"))]).unwrap_or_else(|report| panic!("{report}"));
    let resources = compile(&World::new(mesh).expect("resolves"), "bundle").expect("compiles");
    let resource = resources.get(ResourceType::Cluster, name).expect("is there");
    Cluster::decode(resource.body.as_ref()).expect("decodes")
}

fn cart(spec: &str) -> Cluster {
    cluster_of("cart.shop:80", &policy("p", "name: cart", spec))
}

fn own(cluster: &Cluster) -> ClusterPolicy {
    let metadata = cluster.metadata.as_ref().expect("has metadata");
    ClusterPolicy::decode(metadata.typed_filter_metadata["malla.dev"].value.as_slice()).expect("decodes")
}

/// The balancing policies, by the last part of their type.
fn policies(cluster: &Cluster) -> Vec<(String, Any)> {
    let list = &cluster.load_balancing_policy.as_ref().expect("has one").policies;
    let any = |policy: &malla_xds::envoy::cluster::load_balancing_policy::Policy| {
        let config = policy.typed_extension_config.clone().expect("is set");
        assert!(!config.name.is_empty(), "gRPC wants a name");
        let any = config.typed_config.expect("is set");
        (any.type_url.rsplit('.').next().unwrap_or_default().to_owned(), any)
    };
    list.iter().map(any).collect()
}

fn names(cluster: &Cluster) -> Vec<String> {
    policies(cluster).into_iter().map(|(name, _)| name).collect()
}

fn first<M: Message + Default>(cluster: &Cluster) -> M {
    M::decode(policies(cluster)[0].1.value.as_slice()).expect("decodes")
}

fn seconds(duration: Option<&Duration>) -> f64 {
    duration.map_or(-1.0, |duration| duration.seconds as f64 + f64::from(duration.nanos) / 1e9)
}

/// Two workloads, of which one has a sidecar and the label `version: v2`.
const VERSIONS: &str = "
apiVersion: malla.dev/v1alpha1
kind: Workload
metadata: {name: cart-2, namespace: shop, labels: {app: cart, version: v2}}
spec: {address: 10.0.0.2, serviceAccount: two}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: cart, port: 80}]
  rules: [{backendRefs: [{group: malla.dev, kind: Subset, name: cart.v2, port: 80}, {name: cart, port: 80}]}]
---
";

#[test]
fn a_subset_is_a_cluster_of_those_who_have_its_labels() {
    let subsets = "loadBalancer: {algorithm: ringHash, hash: [{header: x-user}]}\n  \
                   subsets: [{name: v2, labels: {version: v2}}, {name: v3, labels: {version: v3}}, \
                   {name: v4, labels: {version: v4}, fallback: all}]";
    let text = format!("{SHOP}{VERSIONS}{}", policy("p", "name: cart", subsets));
    let mesh = load(&[SourceFile::new("mesh.yaml", text)]).unwrap_or_else(|report| panic!("{report}"));
    let resources = compile(&World::new(mesh).expect("resolves"), "bundle").expect("compiles");
    let addresses = |name: &str| -> Vec<String> {
        let found = resources.get(ResourceType::Endpoints, name).expect("is there");
        let assignment = ClusterLoadAssignment::decode(found.body.as_ref()).expect("decodes");
        assert_eq!(assignment.cluster_name, name);
        let members = assignment.endpoints.iter().flat_map(|locality| &locality.lb_endpoints);
        let texts = members.map(|member| format!("{member:?}"));
        ["10.0.0.1", "10.0.0.2"]
            .into_iter()
            .filter(|address| texts.clone().any(|text| text.contains(address)))
            .map(ToOwned::to_owned)
            .collect()
    };
    assert_eq!(addresses("cart.shop:80"), ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(addresses("cart.shop:80/v2"), ["10.0.0.2"]);
    assert_eq!(addresses("cart.shop:80/v3"), [""; 0], "without a fallback there is nobody");
    assert_eq!(addresses("cart.shop:80/v4"), ["10.0.0.1", "10.0.0.2"], "everybody stands in");
    let cluster = |name: &str| {
        let found = resources.get(ResourceType::Cluster, name).expect("is there");
        Cluster::decode(found.body.as_ref()).expect("decodes")
    };
    let part = cluster("cart.shop:80/v2");
    assert_eq!(names(&part), ["RingHash", "RoundRobin"], "the policy holds in the subset too");
    let tls = format!("{:?}", part.transport_socket);
    let all = format!("{:?}", cluster("cart.shop:80").transport_socket);
    assert_eq!(part.eds_cluster_config.expect("is there").service_name, "cart.shop:80/v2");
    let holds = |socket: &str, text: &str| socket.contains(format!("{:?}", text.as_bytes()).trim_matches(['[', ']']));
    assert!(holds(&tls, "80.cart.shop.mesh") && holds(&tls, "sa/two") && !holds(&tls, "sa/default"), "{tls}");
    assert!(holds(&all, "sa/two") && holds(&all, "sa/default"));
    let routes = resources.get(ResourceType::Route, "cart.shop:80").expect("is there");
    let routes = RouteConfiguration::decode(routes.body.as_ref()).expect("decodes");
    let Some(Action::Route(action)) = &routes.virtual_hosts[0].routes[0].action else { panic!("{routes:?}") };
    assert!(format!("{:?}", action.cluster_specifier).contains("cart.shop:80/v2"), "{action:?}");
    assert_eq!(action.hash_policy.len(), 1, "gRPC hashes too");
}

#[test]
fn without_a_policy_every_default_is_said() {
    let cluster = cluster_of("cart.shop:80", "");
    assert_eq!(names(&cluster), ["PeakEwma", "RoundRobin"]);
    assert_eq!(first::<PeakEwma>(&cluster), PeakEwma::default());
    let breakers = cluster.circuit_breakers.as_ref().expect("has limits");
    let limits = &breakers.thresholds[0];
    let values = [&limits.max_connections, &limits.max_pending_requests, &limits.max_requests, &limits.max_retries];
    assert_eq!(
        values.map(|value| value.as_ref().map(|value| value.value)),
        [Some(1024), Some(1024), Some(10_000), None]
    );
    assert!(breakers.per_host_thresholds.is_empty());
    let outliers = cluster.outlier_detection.as_ref().expect("is on");
    let value = |number: &Option<malla_xds::envoy::protobuf::UInt32Value>| number.as_ref().map(|number| number.value);
    assert_eq!(value(&outliers.consecutive_gateway_failure), Some(5));
    let enforced = [
        &outliers.enforcing_consecutive_gateway_failure,
        &outliers.enforcing_consecutive_5xx,
        &outliers.enforcing_success_rate,
        &outliers.enforcing_failure_percentage,
    ];
    assert_eq!(enforced.map(value), [Some(100), Some(0), Some(0), Some(0)]);
    assert_eq!(value(&outliers.max_ejection_percent), Some(50));
    assert_eq!(
        (seconds(outliers.base_ejection_time.as_ref()), seconds(outliers.max_ejection_time.as_ref())),
        (30.0, 300.0)
    );
    assert!(cluster.health_checks.is_empty());
    let own = own(&cluster);
    assert_eq!(own.locality.map(|locality| (locality.nearest, locality.minimum_healthy_percent)), Some((true, 70)));
    assert!(own.overload.is_none() && own.latency_outlier.is_none() && own.pending_timeout == 1000);
}

#[test]
fn limits_and_timeouts_become_thresholds() {
    let cluster = cart(
        "limits: {maxConnections: 5, maxPendingRequests: 0, pendingTimeout: 250ms, maxRequests: 7, maxRetries: 2, \
         perEndpoint: {maxConnections: 3, maxRequests: 4}}
  timeouts: {connect: 1500ms, idle: 90s}
  retryBudget: {percent: 40, minRetriesPerSecond: 9}",
    );
    let breakers = cluster.circuit_breakers.as_ref().expect("has limits");
    let limits = &breakers.thresholds[0];
    let values = [&limits.max_connections, &limits.max_pending_requests, &limits.max_requests, &limits.max_retries];
    assert_eq!(values.map(|value| value.as_ref().map(|value| value.value)), [Some(5), Some(0), Some(7), Some(2)]);
    let budget = limits.retry_budget.as_ref().expect("has one");
    assert_eq!(budget.budget_percent.as_ref().map(|percent| percent.value), Some(40.0));
    assert_eq!(budget.min_retry_concurrency.as_ref().map(|number| number.value), Some(9));
    let each = &breakers.per_host_thresholds[0];
    assert_eq!(
        [&each.max_connections, &each.max_requests].map(|value| value.as_ref().map(|value| value.value)),
        [Some(3), Some(4)]
    );
    assert_eq!(seconds(cluster.connect_timeout.as_ref()), 1.5);
    assert_eq!(own(&cluster).pending_timeout, 250);
    for name in ["cart.shop:80", "cart.shop:90"] {
        let cluster = cluster_of(name, &policy("p", "name: cart", "timeouts: {idle: 90s}"));
        let any = cluster.typed_extension_protocol_options.values().next().expect("has options");
        let options = HttpProtocolOptions::decode(any.value.as_slice()).expect("decodes");
        let idle = options.common_http_protocol_options.and_then(|common| common.idle_timeout);
        assert_eq!(seconds(idle.as_ref()), 90.0, "{name}");
        assert!(options.upstream_protocol_options.is_some(), "Envoy requires it");
    }
}

#[test]
fn every_algorithm_ends_with_round_robin() {
    let balancer = |spec: &str| cart(&format!("loadBalancer: {{{spec}}}"));
    let least = balancer("algorithm: leastRequest, choices: 4, slowStart: {window: 30s, minimumPercent: 20}");
    assert_eq!(names(&least), ["LeastRequest", "RoundRobin"]);
    let config: LeastRequest = first(&least);
    assert_eq!(config.choice_count.map(|count| count.value), Some(4));
    let slow_start = config.slow_start_config.expect("is set");
    assert_eq!(seconds(slow_start.slow_start_window.as_ref()), 30.0);
    assert_eq!(slow_start.min_weight_percent.map(|percent| percent.value), Some(20.0));
    let ewma = balancer("slowStart: {window: 2s}");
    let slow_start = first::<PeakEwma>(&ewma).slow_start.expect("is set");
    assert_eq!((slow_start.window, slow_start.minimum_percent), (2000, 10));
    let in_turn = balancer("algorithm: roundRobin, slowStart: {window: 5s}");
    assert_eq!(names(&in_turn), ["RoundRobin"]);
    assert!(first::<RoundRobin>(&in_turn).slow_start_config.is_some());
    let random = balancer("algorithm: random");
    assert_eq!((names(&random), own(&random).slow_start), (vec!["Random".to_owned(), "RoundRobin".to_owned()], None));

    let hash = "hash: [{header: X-User}, {cookie: id}, {queryParameter: q}, {sourceAddress: true}]";
    let ring = balancer(&format!("algorithm: ringHash, minimumRingSize: 2048, boundedLoadPercent: 125, {hash}"));
    assert_eq!(names(&ring), ["RingHash", "RoundRobin"]);
    let config: RingHash = first(&ring);
    assert_eq!((config.hash_function, config.minimum_ring_size.map(|size| size.value)), (1, Some(2048)));
    let hashing = config.consistent_hashing_lb_config.expect("is set");
    assert_eq!(hashing.hash_balance_factor.map(|factor| factor.value), Some(125));
    assert!(hashing.hash_policy.len() == 4 && hashing.hash_policy.iter().all(|policy| policy.terminal));
    let maglev = balancer(&format!("algorithm: maglev, tableSize: 101, {hash}"));
    assert_eq!(names(&maglev), ["Maglev", "RingHash", "RoundRobin"], "gRPC knows the ring");
    assert_eq!(first::<Maglev>(&maglev).table_size.map(|size| size.value), Some(101));
    // Envoy's messages of these have no field for it.
    for algorithm in ["random", "ringHash, hash: [{cookie: id}]", "maglev, hash: [{cookie: id}]"] {
        let cluster = balancer(&format!("algorithm: {algorithm}, slowStart: {{window: 5s, minimumPercent: 3}}"));
        let slow_start = own(&cluster).slow_start.expect("is set");
        assert_eq!((slow_start.window, slow_start.minimum_percent), (5000, 3), "{algorithm}");
    }
    assert_eq!(own(&in_turn).slow_start, None);
    let panic = balancer("panicThresholdPercent: 0").common_lb_config.and_then(|common| common.healthy_panic_threshold);
    assert_eq!(panic.map(|percent| percent.value), Some(0.0));
}

#[test]
fn routes_to_clusters_that_hash_say_so_to_grpc() {
    let hash = policy("p", "name: cart", "loadBalancer: {algorithm: ringHash, hash: [{header: x-user}]}");
    for (policies, expected) in [(hash, 1), (String::new(), 0)] {
        let mesh = load(&[SourceFile::new("mesh.yaml", format!("{SHOP}{policies}"))]).expect("loads");
        let resources = compile(&World::new(mesh).expect("resolves"), "bundle").expect("compiles");
        let resource = resources.get(ResourceType::Route, "cart.shop:80").expect("is there");
        let routes = RouteConfiguration::decode(resource.body.as_ref()).expect("decodes");
        let Some(Action::Route(action)) = &routes.virtual_hosts[0].routes[0].action else { panic!("a route") };
        assert_eq!(action.hash_policy.len(), expected);
    }
}

#[test]
fn what_envoy_has_no_field_for_is_in_metadata() {
    let own = own(&cart(
        "loadBalancer:
    locality:
      minimumHealthyPercent: 60
      failover: [{from: eu, to: [us, ap]}]
      distribute: [{from: eu/a, to: {eu/a: 80, eu: 20}}]
  outlierDetection: {latency: {thresholdPercent: 300}}
  overload: {adaptiveConcurrency: {minimum: 5, maximum: 50}, priorityHeader: X-Priority}",
    ));
    let locality = own.locality.expect("is set");
    assert_eq!((locality.nearest, locality.minimum_healthy_percent), (true, 60));
    assert_eq!((locality.failover[0].from.as_str(), locality.failover[0].to.len()), ("eu", 2));
    let shares: Vec<(&str, &str, u32)> = locality.distribute[0]
        .to
        .iter()
        .map(|share| (share.region.as_str(), share.zone.as_str(), share.percent))
        .collect();
    assert_eq!(shares, [("eu", "", 20), ("eu", "a", 80)]);
    assert_eq!(own.latency_outlier.map(|latency| latency.threshold_percent), Some(300));
    let overload = own.overload.expect("is set");
    assert_eq!((overload.minimum, overload.maximum, overload.interval), (5, 50, 100));
    assert_eq!(overload.priority_header, "x-priority");
}

#[test]
fn health_is_judged_as_the_policy_says() {
    let cluster = cart(
        "outlierDetection:
    consecutiveGatewayFailures: 0
    consecutive5xx: 7
    interval: 5s
    maxEjectionPercent: 30
    successRate: {deviationPercent: 150}
    failurePercentage: {threshold: 60}
  healthCheck: {http: {path: /healthz}, interval: 3s, timeout: 500ms}",
    );
    let outliers = cluster.outlier_detection.as_ref().expect("is on");
    let value = |number: &Option<malla_xds::envoy::protobuf::UInt32Value>| number.as_ref().map(|number| number.value);
    let enforced = [
        &outliers.enforcing_consecutive_gateway_failure,
        &outliers.enforcing_consecutive_5xx,
        &outliers.enforcing_success_rate,
        &outliers.enforcing_failure_percentage,
    ];
    assert_eq!(enforced.map(value), [Some(0), Some(100), Some(100), Some(100)]);
    let told = [
        &outliers.consecutive_5xx,
        &outliers.success_rate_stdev_factor,
        &outliers.failure_percentage_threshold,
        &outliers.max_ejection_percent,
    ];
    assert_eq!(told.map(value), [Some(7), Some(1500), Some(60), Some(30)]);
    let [check] = cluster.health_checks.as_slice() else { panic!("one check") };
    assert!(matches!(&check.health_checker, Some(HealthChecker::HttpHealthCheck(http)) if http.path == "/healthz"));
    assert_eq!((seconds(check.interval.as_ref()), seconds(check.timeout.as_ref())), (3.0, 0.5));
    let off = cart("outlierDetection: {disabled: true}");
    assert!(off.outlier_detection.is_none());
}

#[test]
fn the_policy_of_a_port_wins_and_names_outside_have_limits() {
    let whole = policy("p", "name: cart", "limits: {maxRequests: 7}");
    let port = policy("q", "name: cart, sectionName: tcp-db", "timeouts: {connect: 2s}");
    let both = format!("{whole}{port}");
    let requests = |cluster: &Cluster| {
        let limits = &cluster.circuit_breakers.as_ref().expect("has limits").thresholds[0];
        limits.max_requests.as_ref().map(|number| number.value)
    };
    assert_eq!(requests(&cluster_of("cart.shop:80", &both)), Some(7));
    assert_eq!(requests(&cluster_of("cart.shop:90", &both)), Some(10_000), "nothing is merged");
    let outside = cluster_of("api.shop:443", &policy("p", "name: api", "limits: {maxRequests: 7}"));
    assert_eq!(requests(&outside), Some(7));
    assert!(outside.outlier_detection.is_none() && outside.common_lb_config.is_none());
    let inbound = cluster_of("inbound/cart-1.shop/80", &whole);
    assert!(inbound.circuit_breakers.is_none(), "the own application is not limited");
}
