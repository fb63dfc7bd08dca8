//! The directory against the server's state machine.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use malla_xds::envoy::core::Node;
use malla_xds::wire::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use malla_xds::{DeltaServer, Limits, Push, ResourceType, View};
use proptest::prelude::*;
use tokio::sync::oneshot;

use super::Ask;
use super::examples::{self, Mesh};
use super::status::Status;
use super::world::World;
use crate::reason::Reason;
use crate::snapshot::{Cluster, Endpoint, Endpoints, Outbound, OutboundService, RouteAction, UnknownDestination};

type Answer = oneshot::Receiver<Result<Arc<Outbound>, Reason>>;

/// A sidecar and a server joined by one stream.
struct Simulation {
    mesh: Mesh,
    server: DeltaServer,
    world: World,
    status: Arc<Status>,
    tick: Arc<AtomicU32>,
    now: Instant,
    /// What the server answered since the last look.
    responses: Vec<DeltaDiscoveryResponse>,
    /// Names asked for, ever.
    subscribed: Vec<String>,
    /// Types that the server does not answer.
    mute: Vec<ResourceType>,
}

impl Simulation {
    fn new(mesh: Mesh) -> Self {
        Self::with_inbound(mesh, None)
    }

    fn with_inbound(mesh: Mesh, inbound: Option<&str>) -> Self {
        let (status, tick) = (Arc::<Status>::default(), Arc::<AtomicU32>::default());
        let world = World::new(Node::default(), inbound.map(Into::into), [], tick.clone(), status.clone());
        let mut simulation = Simulation {
            mesh,
            server: DeltaServer::new(Limits::default()),
            world,
            status,
            tick,
            now: Instant::now(),
            responses: Vec::new(),
            subscribed: Vec::new(),
            mute: Vec::new(),
        };
        simulation.connect();
        simulation
    }

    fn connect(&mut self) {
        self.server = DeltaServer::new(Limits::default());
        let requests = self.world.connected(self.now);
        self.exchange(requests);
    }

    /// Sends requests, and what follows from them, until nothing does.
    fn exchange(&mut self, requests: Vec<DeltaDiscoveryRequest>) {
        let mut requests = std::collections::VecDeque::from(requests);
        while let Some(request) = requests.pop_front() {
            self.subscribed.extend(request.resource_names_subscribe.iter().cloned());
            if self.mute.iter().any(|kind| request.type_url == kind.type_url()) {
                continue;
            }
            let reply = self.server.request(&request, &self.mesh).expect("within the limits");
            for response in reply.responses {
                requests.extend(self.world.response(&response, self.now));
                self.responses.push(response);
            }
        }
        self.world.answer_waiters();
    }

    /// The server has a new configuration.
    fn push(&mut self) {
        for response in self.server.push(&self.mesh, Push::All).expect("within the limits") {
            let requests = self.world.response(&response, self.now);
            self.responses.push(response);
            self.exchange(requests);
        }
    }

    fn ask(&mut self, name: &str) -> Answer {
        let (answer, answered) = oneshot::channel();
        let requests = self.world.ask(Ask { name: name.into(), answer }, self.now);
        self.exchange(requests);
        answered
    }

    fn lookup(&mut self, name: &str) -> Result<Arc<Outbound>, Reason> {
        self.ask(name).try_recv().expect("answered")
    }

    fn sweep(&mut self) {
        let requests = self.world.sweep(self.now);
        self.exchange(requests);
    }

    fn service(&self, name: &str) -> Arc<Outbound> {
        self.world.snapshot().outbound.get(name).expect("known").outbound.clone()
    }

    fn clusters(&self, name: &str) -> Vec<(Arc<Cluster>, u32)> {
        clusters(&self.service(name))
    }
}

fn as_service(outbound: &Outbound) -> &OutboundService {
    match outbound {
        Outbound::Service(service) => service,
        Outbound::Unknown(unknown) => panic!("{unknown:?}"),
    }
}

fn clusters(outbound: &Outbound) -> Vec<(Arc<Cluster>, u32)> {
    let http = as_service(outbound).http.as_ref().expect("HTTP");
    match &http.virtual_hosts[0].routes[0].action {
        RouteAction::Forward(weighted) => weighted.clusters.clone(),
        RouteAction::Redirect(_) | RouteAction::NoBackend => Vec::new(),
    }
}

fn endpoints(cluster: &Cluster) -> Vec<Arc<Endpoint>> {
    match &cluster.endpoints {
        Endpoints::Set(set) => set.to_vec(),
        other => panic!("{other:?}"),
    }
}

fn addresses(cluster: &Cluster) -> Vec<SocketAddr> {
    endpoints(cluster).iter().map(|endpoint| endpoint.address).collect()
}

fn cart() -> Mesh {
    let mut mesh = Mesh::default();
    mesh.http("cart.shop:80", &["10.96.0.7:80"], &[("cart.shop:80", 1)]);
    mesh.cluster("cart.shop:80", &["10.0.0.1", "10.0.0.2"]);
    mesh
}

#[test]
fn a_look_up_follows_every_reference() {
    let mut simulation = Simulation::new(cart());
    let found = simulation.lookup("cart.shop:80").expect("found");
    assert_eq!(&*as_service(&found).name, "cart.shop:80");
    assert_eq!(addresses(&clusters(&found)[0].0).len(), 2);
    assert!(simulation.world.snapshot().outbound.contains_key("cart.shop:80"));
}

#[test]
fn look_ups_of_one_name_become_one_subscription() {
    let mut simulation = Simulation::new(cart());
    simulation.mute = vec![ResourceType::Listener];
    let mut answers: Vec<Answer> = (0..10).map(|_| simulation.ask("cart.shop:80")).collect();
    assert_eq!(simulation.subscribed.iter().filter(|name| *name == "cart.shop:80").count(), 1);
    simulation.mute.clear();
    simulation.world.disconnected();
    simulation.connect();
    for answer in &mut answers {
        assert!(answer.try_recv().expect("answered").is_ok());
    }
}

#[test]
fn an_address_finds_the_service_behind_it() {
    let mut simulation = Simulation::new(cart());
    let found = simulation.lookup("10.96.0.7:80").expect("found");
    assert_eq!(&*as_service(&found).name, "cart.shop:80");
    simulation.lookup("cart.shop:80").expect("found");
    assert!(Arc::ptr_eq(&simulation.clusters("cart.shop:80")[0].0, &simulation.clusters("10.96.0.7:80")[0].0));
}

#[test]
fn a_name_of_nothing_is_known_as_such_until_it_appears() {
    let mut simulation = Simulation::new(Mesh::default());
    let found = simulation.lookup("cart.shop:80").expect("answered");
    assert!(matches!(*found, Outbound::Unknown(UnknownDestination::Deny)));
    simulation.mesh = cart();
    simulation.push();
    assert!(matches!(*simulation.service("cart.shop:80"), Outbound::Service(_)));
}

#[test]
fn a_stub_that_passes_through_says_so() {
    let mut mesh = Mesh::default();
    mesh.set(ResourceType::Listener, "example.org:443", &[], &examples::tcp_listener("example.org:443", "passthrough"));
    let found = Simulation::new(mesh).lookup("example.org:443").expect("answered");
    assert!(matches!(*found, Outbound::Unknown(UnknownDestination::PassThrough)));
}

#[test]
fn unchanged_endpoints_keep_their_load_and_clusters_their_usage() {
    let mut simulation = Simulation::new(cart());
    let before = clusters(&simulation.lookup("cart.shop:80").expect("found"))[0].0.clone();
    simulation.mesh.endpoints("cart.shop:80", &["10.0.0.2", "10.0.0.3"]);
    simulation.push();
    let after = simulation.clusters("cart.shop:80")[0].0.clone();
    let address: SocketAddr = "10.0.0.2:8080".parse().expect("an address");
    let of = |cluster: &Cluster| endpoints(cluster).into_iter().find(|endpoint| endpoint.address == address);
    assert!(Arc::ptr_eq(&of(&before).expect("there"), &of(&after).expect("there")));
    assert!(Arc::ptr_eq(&before.usage, &after.usage) && Arc::ptr_eq(&before.retry_budget, &after.retry_budget));
    assert_eq!(addresses(&after).len(), 2);
}

#[test]
fn a_change_that_concerns_nobody_changes_nothing() {
    let mut mesh = cart();
    mesh.http("pay.shop:80", &[], &[("pay.shop:80", 1)]);
    mesh.cluster("pay.shop:80", &["10.0.1.1"]);
    let mut simulation = Simulation::new(mesh);
    simulation.lookup("cart.shop:80").expect("found");
    simulation.lookup("pay.shop:80").expect("found");
    let before = simulation.service("cart.shop:80");
    simulation.mesh.endpoints("pay.shop:80", &["10.0.1.2"]);
    simulation.push();
    assert!(Arc::ptr_eq(&before, &simulation.service("cart.shop:80")));
    let snapshot = simulation.world.snapshot().clone();
    simulation.push();
    assert!(Arc::ptr_eq(&snapshot, simulation.world.snapshot()));
}

#[test]
fn a_route_to_a_new_cluster_waits_for_it_while_the_old_one_stays_fresh() {
    let mut simulation = Simulation::new(cart());
    simulation.lookup("cart.shop:80").expect("found");
    simulation.mute = vec![ResourceType::Endpoints];
    simulation.mesh.http("cart.shop:80", &[], &[("cart.shop:80", 1), ("cart-v2.shop:80", 1)]);
    simulation.mesh.cluster("cart-v2.shop:80", &["10.0.9.1"]);
    simulation.mesh.endpoints("cart.shop:80", &["10.0.0.7"]);
    simulation.push();
    let serving = simulation.clusters("cart.shop:80");
    assert_eq!(serving.len(), 1, "the new cluster has no endpoints yet");
    assert_eq!(addresses(&serving[0].0), ["10.0.0.7:8080".parse().expect("an address")]);
    simulation.mute.clear();
    simulation.world.disconnected();
    simulation.connect();
    assert_eq!(simulation.clusters("cart.shop:80").len(), 2);
}

#[test]
fn what_is_never_answered_holds_nobody_up_for_ever() {
    let mut simulation = Simulation::new(cart());
    simulation.mute = vec![ResourceType::Endpoints];
    let mut answer = simulation.ask("cart.shop:80");
    assert!(answer.try_recv().is_err());
    simulation.world.check_deadlines(simulation.now + Duration::from_secs(14));
    simulation.world.answer_waiters();
    assert!(answer.try_recv().is_err());
    simulation.world.check_deadlines(simulation.now + Duration::from_secs(15));
    simulation.world.answer_waiters();
    let found = answer.try_recv().expect("answered").expect("found");
    assert!(addresses(&clusters(&found)[0].0).is_empty());
}

#[test]
fn time_without_a_server_is_not_waiting() {
    let mut simulation = Simulation::new(cart());
    simulation.mute = vec![ResourceType::Listener];
    let mut answer = simulation.ask("cart.shop:80");
    simulation.world.disconnected();
    simulation.world.check_deadlines(simulation.now + Duration::from_secs(3600));
    simulation.mute.clear();
    simulation.now += Duration::from_secs(3600);
    simulation.connect();
    assert!(answer.try_recv().expect("answered").is_ok());
}

#[test]
fn a_bad_resource_is_rejected_by_name_and_field_and_the_last_good_serves() {
    let mut simulation = Simulation::new(cart());
    simulation.lookup("cart.shop:80").expect("found");
    let before = simulation.service("cart.shop:80");
    let mut tls = examples::routes("cart.shop:80", &[("cart.shop:80", 1)]);
    tls.virtual_hosts[0].require_tls = 2;
    simulation.mesh.set(ResourceType::Route, "cart.shop:80", &[], &tls);
    simulation.push();
    assert!(Arc::ptr_eq(&before, &simulation.service("cart.shop:80")));
    let state = simulation.status.state();
    let (_, rejection) = state.last_rejection.expect("rejected");
    assert_eq!(rejection, "cart.shop:80: virtual_hosts[0].require_tls: is not supported by this sidecar");
    let bad = (ResourceType::Route, "cart.shop:80".into());
    assert!(state.problems.contains_key(&bad));
    simulation.mesh.http("cart.shop:80", &[], &[("cart.shop:80", 2)]);
    simulation.push();
    assert_eq!(simulation.clusters("cart.shop:80")[0].1, 2);
    assert!(!simulation.status.state().problems.contains_key(&bad));
}

#[test]
fn a_destination_that_was_never_good_is_answered_at_once() {
    let mut mesh = cart();
    let mut bad = examples::http_listener("cart.shop:80");
    bad.use_original_dst = Some(malla_xds::envoy::protobuf::BoolValue { value: true });
    bad.listener_filters = vec![Default::default()];
    mesh.set(ResourceType::Listener, "cart.shop:80", &[], &bad);
    let mut simulation = Simulation::new(mesh);
    assert!(matches!(simulation.lookup("cart.shop:80"), Err(Reason::NoConfiguration)));
    assert!(matches!(simulation.lookup("cart.shop:80"), Err(Reason::NoConfiguration)));
}

#[test]
fn a_cluster_that_is_removed_under_its_routes_serves_on() {
    let mut simulation = Simulation::new(cart());
    simulation.lookup("cart.shop:80").expect("found");
    simulation.mesh.remove(ResourceType::Cluster, "cart.shop:80");
    simulation.mesh.remove(ResourceType::Endpoints, "cart.shop:80");
    for kind in [ResourceType::Cluster, ResourceType::Route] {
        // Whatever the order in which a server tells it.
        let response = DeltaDiscoveryResponse {
            type_url: kind.type_url().into(),
            removed_resources: vec!["cart.shop:80".into()],
            ..Default::default()
        };
        simulation.world.response(&response, simulation.now);
    }
    assert_eq!(addresses(&simulation.clusters("cart.shop:80")[0].0).len(), 2);
}

#[test]
fn a_destination_that_is_removed_is_gone() {
    let mut simulation = Simulation::new(cart());
    simulation.lookup("cart.shop:80").expect("found");
    let response = DeltaDiscoveryResponse {
        type_url: ResourceType::Listener.type_url().into(),
        removed_resources: vec!["cart.shop:80".into()],
        ..Default::default()
    };
    simulation.world.response(&response, simulation.now);
    assert!(!simulation.world.snapshot().outbound.contains_key("cart.shop:80"));
    assert!(matches!(simulation.lookup("cart.shop:80"), Err(Reason::NoConfiguration)));
}

#[test]
fn a_reconnect_brings_nothing_that_is_already_there() {
    let mut simulation = Simulation::new(cart());
    simulation.lookup("cart.shop:80").expect("found");
    let before = simulation.world.snapshot().clone();
    assert!(simulation.world.disconnected());
    simulation.responses.clear();
    simulation.connect();
    let resources = simulation.responses.iter().flat_map(|response| &response.resources);
    assert_eq!(resources.map(|resource| &*resource.name).collect::<Vec<_>>(), Vec::<&str>::new());
    assert!(Arc::ptr_eq(&before, simulation.world.snapshot()));
}

#[test]
fn idle_destinations_are_dropped_and_used_ones_are_not() {
    let mut simulation = Simulation::new(cart());
    simulation.lookup("cart.shop:80").expect("found");
    simulation.lookup("10.96.0.7:80").expect("found");
    simulation.lookup("nowhere:80").expect("answered");
    for sweep in 0..25 {
        let used = simulation.world.snapshot().outbound["10.96.0.7:80"].last_used.clone();
        used.store(simulation.tick.load(Ordering::Relaxed), Ordering::Relaxed);
        simulation.sweep();
        let unknown = simulation.world.snapshot().outbound.contains_key("nowhere:80");
        assert_eq!(unknown, sweep < 1, "sweep {sweep}");
    }
    let names: Vec<_> = simulation.world.snapshot().outbound.keys().map(|name| &**name).collect();
    assert_eq!(names, ["10.96.0.7:80"]);
    assert_eq!(simulation.world.subscriptions()[&ResourceType::Cluster], 1, "still referred to");
}

#[test]
fn what_nothing_refers_to_is_unsubscribed_after_a_while() {
    let mut simulation = Simulation::new(cart());
    simulation.mesh.http("cart.shop:80", &[], &[("cart.shop:80", 1), ("cart-v2.shop:80", 1)]);
    simulation.mesh.cluster("cart-v2.shop:80", &["10.0.9.1"]);
    simulation.lookup("cart.shop:80").expect("found");
    let weights_back_and_forth = [&[("cart.shop:80", 1)][..], &[("cart.shop:80", 1), ("cart-v2.shop:80", 1)]];
    for clusters in weights_back_and_forth {
        simulation.mesh.http("cart.shop:80", &[], clusters);
        simulation.push();
        simulation.sweep();
        assert_eq!(simulation.world.subscriptions()[&ResourceType::Cluster], 2);
    }
    simulation.mesh.http("cart.shop:80", &[], weights_back_and_forth[0]);
    simulation.push();
    simulation.sweep();
    simulation.sweep();
    assert_eq!(simulation.world.subscriptions()[&ResourceType::Cluster], 1);
    assert_eq!(simulation.world.subscriptions()[&ResourceType::Endpoints], 1);
}

#[test]
fn garbage_names_neither_grow_without_bound_nor_push_out_what_is_used() {
    let mut simulation = Simulation::new(cart());
    simulation.lookup("cart.shop:80").expect("found");
    simulation.mute = vec![ResourceType::Listener];
    let mut refused = 0;
    for number in 0..5000 {
        let mut answer = simulation.ask(&format!("garbage-{number}.shop:80"));
        refused += usize::from(matches!(answer.try_recv(), Ok(Err(Reason::Overloaded))));
    }
    assert_eq!(refused, 5000 - 4095);
    assert_eq!(simulation.world.subscriptions()[&ResourceType::Listener], 4096);
    // Their waiters have gone: a sweep later they make room.
    simulation.sweep();
    let used = &simulation.world.snapshot().outbound["cart.shop:80"].last_used;
    used.store(simulation.tick.load(Ordering::Relaxed), Ordering::Relaxed);
    simulation.ask("late.shop:80");
    assert_eq!(simulation.world.subscriptions()[&ResourceType::Listener], 4096);
    assert!(simulation.world.snapshot().outbound.contains_key("cart.shop:80"));
}

#[test]
fn own_ports_wait_for_their_clusters() {
    let simulation = Simulation::with_inbound(Mesh::default(), Some("inbound/cart-1.shop"));
    let inbound = simulation.world.snapshot().inbound.clone().expect("answered");
    assert!(inbound.ports.is_empty(), "the server knows of no ports");
}

#[test]
fn raw_tcp_needs_no_routes() {
    let mut mesh = Mesh::default();
    mesh.set(ResourceType::Listener, "db.shop:3306", &[], &examples::tcp_listener("db.shop:3306", "db.shop:3306"));
    mesh.cluster("db.shop:3306", &["10.0.0.5"]);
    let found = Simulation::new(mesh).lookup("db.shop:3306").expect("found");
    let tcp = as_service(&found).tcp.as_ref().expect("TCP");
    assert_eq!(tcp.clusters.as_ref().expect("clusters").clusters.len(), 1);
}

/// A response with one resource.
fn response(kind: ResourceType, name: &str, body: Vec<u8>) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: kind.type_url().into(),
        resources: vec![malla_xds::wire::Resource {
            name: name.into(),
            version: "1".into(),
            resource: Some(malla_xds::wire::Any { type_url: kind.type_url().into(), value: body.into() }),
            ..Default::default()
        }],
        nonce: "n".into(),
        ..Default::default()
    }
}

/// Bytes of a good resource, damaged.
fn damaged() -> impl Strategy<Value = DeltaDiscoveryResponse> {
    let kinds = proptest::sample::select(ResourceType::ALL.to_vec());
    let damage = proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6);
    (kinds, damage, any::<Option<proptest::sample::Index>>(), proptest::collection::vec(any::<u8>(), 0..20)).prop_map(
        |(kind, damage, cut, tail)| {
            let name = if kind == ResourceType::Secret { "ROOTCA" } else { "cart.shop:80" };
            let mut body = match cart().resource(kind, name) {
                malla_xds::Answer::Found(resource) => resource.body.to_vec(),
                _ => Vec::new(),
            };
            for (at, byte) in damage {
                if !body.is_empty() {
                    let at = at.index(body.len());
                    body[at] = byte;
                }
            }
            if let Some(cut) = cut {
                body.truncate(cut.index(body.len() + 1));
            }
            body.extend(tail);
            response(kind, name, body)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Damaged resources are taken or rejected with words; what is applied stays whole, and the next good one mends it.
    #[test]
    fn survives_damaged_resources(responses in proptest::collection::vec(damaged(), 1..12)) {
        let mut simulation = Simulation::new(cart());
        simulation.lookup("cart.shop:80").expect("found");
        for response in &responses {
            let requests = simulation.world.response(response, simulation.now);
            let verdict = requests.first().expect("an answer");
            if let Some(detail) = &verdict.error_detail {
                prop_assert!(detail.message.contains(": "), "{}", detail.message);
                prop_assert!(!detail.message.contains("defect"), "{}", detail.message);
            }
            if let Some(known) = simulation.world.snapshot().outbound.get("cart.shop:80")
                && let Outbound::Service(service) = &*known.outbound
                && let Some(http) = &service.http
            {
                for route in http.virtual_hosts.iter().flat_map(|host| &host.routes) {
                    if let RouteAction::Forward(weighted) = &route.action {
                        prop_assert!(weighted.next().is_some());
                    }
                }
            }
            simulation.exchange(requests.into_iter().skip(1).collect());
        }
        for kind in [ResourceType::Endpoints, ResourceType::Cluster, ResourceType::Route, ResourceType::Listener] {
            let malla_xds::Answer::Found(good) = simulation.mesh.resource(kind, "cart.shop:80") else { continue };
            let value = good.body.clone();
            let response = response(kind, "cart.shop:80", value.to_vec());
            let requests = simulation.world.response(&response, simulation.now);
            simulation.exchange(requests.into_iter().skip(1).collect());
        }
        prop_assert_eq!(addresses(&simulation.clusters("cart.shop:80")[0].0).len(), 2);
    }
}
