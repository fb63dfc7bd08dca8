//! Single rules of the protocol, as the xDS specification and the clients of this world want them.

mod model;

use malla_xds::wire::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest};
use malla_xds::{DeltaClient, DeltaServer, Limits, Push, ResourceType, SotwServer, StreamError};
use model::{Event, World};

use ResourceType::{Cluster, Endpoints, Listener, Route};

fn world(events: &[Event]) -> World {
    let mut world = World::default();
    events.iter().for_each(|event| world.apply(event));
    world
}

fn subscribe(kind: ResourceType, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.type_url().into(),
        resource_names_subscribe: names.iter().map(|name| name.to_string()).collect(),
        ..Default::default()
    }
}

fn unsubscribe(kind: ResourceType, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.type_url().into(),
        resource_names_unsubscribe: names.iter().map(|name| name.to_string()).collect(),
        ..Default::default()
    }
}

fn acknowledge(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        ..Default::default()
    }
}

/// A stream and what it was last told, in short words: `+name`, `-name`.
struct Stream {
    server: DeltaServer,
    world: World,
    last: Vec<DeltaDiscoveryResponse>,
}

impl Stream {
    fn new(world: World) -> Self {
        Stream { server: DeltaServer::new(Limits::default()), world, last: Vec::new() }
    }

    fn request(&mut self, request: DeltaDiscoveryRequest) -> String {
        self.last = self.server.request(&request, &self.world).expect("within limits").responses;
        self.words()
    }

    fn push(&mut self, event: Event, what: Push) -> String {
        self.world.apply(&event);
        self.last = self.server.push(&self.world, what).expect("within limits");
        self.words()
    }

    fn acknowledge_all(&mut self) -> String {
        let requests: Vec<_> = self.last.iter().map(acknowledge).collect();
        requests.into_iter().map(|request| self.request(request)).filter(|words| !words.is_empty()).collect()
    }

    fn words(&self) -> String {
        let words = self.last.iter().map(|response| {
            let kind = ResourceType::from_type_url(&response.type_url).map_or("?", ResourceType::word);
            let added = response.resources.iter().map(|resource| format!(" +{}", resource.name));
            let removed = response.removed_resources.iter().map(|name| format!(" -{name}"));
            format!("{kind}{}", added.chain(removed).collect::<String>())
        });
        words.collect::<Vec<_>>().join(", ")
    }
}

#[test]
fn every_name_asked_for_is_answered_even_if_already_sent() {
    let mut stream = Stream::new(world(&[Event::Set(Cluster, 0, 0)]));
    assert_eq!(stream.request(subscribe(Cluster, &["n0", "n9"])), "clusters +n0 -n9");
    assert_eq!(stream.request(subscribe(Cluster, &["n0"])), "clusters +n0");
}

#[test]
fn routes_that_never_existed_are_empty_not_removed() {
    let mut stream = Stream::new(world(&[]));
    assert_eq!(stream.request(subscribe(Route, &["n0"])), "routes +n0");
    assert_eq!(stream.request(subscribe(Listener, &["n0"])), "listeners +n0");
    assert_eq!(stream.push(Event::Set(Route, 0, 1), Push::All), "routes +n0");
}

#[test]
fn a_stale_nonce_is_not_an_error_and_changes_nothing() {
    let mut stream = Stream::new(world(&[Event::Set(Cluster, 0, 0)]));
    stream.request(subscribe(Cluster, &["n0"]));
    let stale = DeltaDiscoveryRequest {
        type_url: Cluster.type_url().into(),
        response_nonce: "77".into(),
        error_detail: Some(malla_xds::envoy::rpc::Status { message: "no".into(), ..Default::default() }),
        resource_names_subscribe: vec!["n1".into()],
        ..Default::default()
    };
    assert_eq!(stream.request(stale), "clusters -n1", "the subscription in the same message counts");
    assert!(stream.server.progress().iter().all(|progress| progress.rejections.is_empty()));
}

#[test]
fn an_empty_first_subscription_is_a_wildcard_until_unsubscribed() {
    let mut stream = Stream::new(world(&[Event::Set(Cluster, 0, 0), Event::Set(Cluster, 1, 0)]));
    assert_eq!(stream.request(subscribe(Cluster, &[])), "clusters +n0 +n1");
    assert_eq!(stream.request(subscribe(Cluster, &["n1", "n9"])), "clusters +n1 -n9");
    assert_eq!(stream.push(Event::Set(Cluster, 2, 0), Push::All), "clusters +n2", "added names do not end it");
    assert_eq!(stream.request(unsubscribe(Cluster, &["n1"])), "clusters +n1", "an answer is due: it is still wanted");
    assert_eq!(stream.request(unsubscribe(Cluster, &["n9"])), "clusters -n9");
    assert_eq!(stream.request(unsubscribe(Cluster, &["*"])), "");
    assert_eq!(stream.push(Event::Set(Cluster, 3, 0), Push::All), "");
}

#[test]
fn a_wildcard_without_resources_is_answered() {
    let mut stream = Stream::new(world(&[]));
    assert_eq!(stream.request(subscribe(Cluster, &["*"])), "clusters");
    assert_eq!(stream.request(subscribe(Endpoints, &[])), "", "there is no wildcard of endpoints");
}

#[test]
fn endpoints_follow_their_cluster_at_once_and_others_wait() {
    let start = [Event::Set(Cluster, 0, 0), Event::Set(Endpoints, 0, 0), Event::Set(Endpoints, 1, 0)];
    let mut stream = Stream::new(world(&start));
    stream.request(subscribe(Cluster, &["n0"]));
    stream.request(subscribe(Endpoints, &["n0", "n1"]));
    assert_eq!(stream.push(Event::Set(Endpoints, 1, 1), Push::AllButEndpoints), "");
    assert_eq!(stream.push(Event::Set(Cluster, 0, 1), Push::AllButEndpoints), "clusters +n0, endpoints +n0");
    assert_eq!(stream.push(Event::Push(Push::All), Push::All), "endpoints +n1");
}

#[test]
fn pushes_in_the_order_of_make_before_break_and_deletes_after_the_acknowledgement() {
    let start = [Event::Set(Cluster, 0, 0), Event::Set(Endpoints, 0, 0), Event::Set(Route, 0, 0)];
    let mut stream = Stream::new(world(&start));
    for kind in [Cluster, Endpoints, Route] {
        stream.request(subscribe(kind, &["n0", "n1"]));
        stream.acknowledge_all();
    }
    for event in [Event::Set(Cluster, 1, 0), Event::Set(Endpoints, 1, 0), Event::Remove(Cluster, 0)] {
        stream.world.apply(&event);
    }
    let pushed = stream.push(Event::Set(Route, 0, 1), Push::All);
    assert_eq!(pushed, "clusters +n1, endpoints +n1, routes +n0");
    assert_eq!(stream.acknowledge_all(), "clusters -n0");
}

#[test]
fn a_rejected_route_keeps_the_clusters_that_its_predecessor_needs() {
    let mut stream = Stream::new(world(&[Event::Set(Cluster, 0, 0), Event::Set(Route, 0, 0)]));
    for kind in [Cluster, Route] {
        stream.request(subscribe(kind, &["n0"]));
        stream.acknowledge_all();
    }
    stream.world.apply(&Event::Remove(Cluster, 0));
    assert_eq!(stream.push(Event::Set(Route, 0, 1), Push::All), "routes +n0");
    let mut rejection = acknowledge(&stream.last[0]);
    rejection.error_detail = Some(malla_xds::envoy::rpc::Status { message: "n0: no".into(), ..Default::default() });
    assert_eq!(stream.request(rejection), "");
    assert_eq!(stream.push(Event::Set(Route, 0, 2), Push::All), "routes +n0");
    assert_eq!(stream.acknowledge_all(), "clusters -n0");
}

#[test]
fn an_alias_is_answered_with_the_canonical_resource() {
    let mut stream = Stream::new(world(&[Event::Set(Listener, 0, 0), Event::Alias(0, 5)]));
    assert_eq!(stream.request(subscribe(Listener, &["n5"])), "listeners +n0");
    assert_eq!(stream.last[0].resources[0].aliases, ["n5"]);
    assert_eq!(stream.push(Event::Unalias(5), Push::All), "listeners +n5", "the name no longer exists");
}

#[test]
fn limits_end_the_stream() {
    let limits = Limits { subscriptions: 2, name_length: 8, unanswered: 2 };
    let mut server = DeltaServer::new(limits);
    let world = world(&[]);
    let many = server.request(&subscribe(Cluster, &["a", "b", "c"]), &world);
    assert_eq!(many, Err(StreamError::TooManySubscriptions { kind: Cluster, limit: 2 }));
    let long = server.request(&subscribe(Listener, &["a-long-name"]), &world);
    assert_eq!(long, Err(StreamError::InvalidName { kind: Listener, limit: 8 }));
    let mut mute = DeltaServer::new(limits);
    let answers: Vec<bool> = (0..3).map(|_| mute.request(&subscribe(Cluster, &["a"]), &world).is_ok()).collect();
    assert_eq!(answers, [true, true, false]);
}

#[test]
fn a_type_that_is_not_known_here_is_answered_too() {
    let mut stream = Stream::new(world(&[]));
    let mut request = subscribe(Cluster, &["x"]);
    request.type_url = "type.googleapis.com/envoy.service.runtime.v3.Runtime".into();
    assert_eq!(stream.request(request), "? -x");
    let answer = acknowledge(&stream.last[0]);
    assert_eq!(stream.request(answer), "");
}

#[test]
fn the_client_rejects_one_resource_by_name_and_keeps_the_rest() {
    let world = world(&[Event::Set(Cluster, 0, 0), Event::Set(Cluster, 1, 0)]);
    let mut client = DeltaClient::new(Default::default());
    client.connected();
    let request = client.subscribe(Cluster, ["n0", "n1"]).expect("a request");
    assert!(request.node.is_some(), "the first request tells who we are");
    let mut server = DeltaServer::new(Limits::default());
    let response = server.request(&request, &world).expect("within limits").responses.remove(0);
    let answer = client.response(&response, |change| match change {
        malla_xds::Change::Set { name: "n1", .. } => Err("field lb_policy: not supported".into()),
        _ => Ok(()),
    });
    let message = answer.error_detail.as_ref().expect("a rejection").message.clone();
    assert_eq!(message, "n1: field lb_policy: not supported");
    assert!(client.accepted_version(Cluster, "n0").is_some() && client.accepted_version(Cluster, "n1").is_none());
    let (kind, rejection) = server.request(&answer, &world).expect("within limits").rejection.expect("a rejection");
    assert_eq!((kind, rejection.resources, rejection.message), (Cluster, vec!["n1".into()], message));
}

#[test]
fn state_of_the_world_clusters_are_complete_and_listeners_go_by_the_name_asked() {
    let mut server = SotwServer::new(Limits::default());
    let world =
        world(&[Event::Set(Cluster, 0, 0), Event::Set(Cluster, 1, 0), Event::Set(Listener, 0, 0), Event::Alias(0, 5)]);
    let request = |kind: ResourceType, names: &[&str], nonce: &str| DiscoveryRequest {
        type_url: kind.type_url().into(),
        resource_names: names.iter().map(|name| name.to_string()).collect(),
        response_nonce: nonce.into(),
        ..Default::default()
    };
    let first = server.request(&request(Cluster, &["n0"], ""), &world).expect("within limits").responses;
    assert_eq!(first[0].resources.len(), 1);
    let nonce = first[0].nonce.clone();
    let acknowledged = server.request(&request(Cluster, &["n0"], &nonce), &world).expect("within limits");
    assert!(acknowledged.responses.is_empty(), "an acknowledgement asks for nothing");
    let second =
        server.request(&request(Cluster, &["n0", "n1", "n7"], &nonce), &world).expect("within limits").responses;
    assert_eq!(second[0].resources.len(), 2, "complete, without what does not exist");
    let stale = server.request(&request(Cluster, &["n0", "n1", "n7", "n8"], &nonce), &world).expect("within limits");
    assert!(stale.responses.is_empty(), "written before our last response was seen");
    let listener = server.request(&request(Listener, &["n5"], ""), &world).expect("within limits").responses;
    let body = &listener[0].resources[0].value;
    let listener: malla_xds::envoy::listener::Listener = prost::Message::decode(body.clone()).expect("decodes");
    assert_eq!((listener.name.as_str(), listener.stat_prefix.as_str()), ("n5", "content 0"));
}
