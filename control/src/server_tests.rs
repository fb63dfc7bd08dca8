//! A control server on loopback, and real clients of both flavours.

mod client;
mod observers;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use malla_xds::envoy::{cluster, core, endpoint, listener, protobuf, rpc};
use malla_xds::grpc::CertificateRequest;
use malla_xds::resource::string_struct;
use malla_xds::wire::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest};
use malla_xds::{Resource, ResourceType, SpiffeId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::Code;

use crate::resources::{LastReload, Publisher, ReloadOutcome, Resources, publish};
use crate::run::{Control, ControlSettings, StartError};
use crate::token::JoinClaims;
use client::{Credentials, Requests, connect, key_and_request};

const PATIENCE: Duration = Duration::from_secs(20);

use ResourceType::{Cluster, Endpoints, Listener};

/// A server, what it serves, and its state directory.
struct Server {
    control: Control,
    publisher: Publisher,
    directory: tempfile::TempDir,
}

impl Server {
    fn start(resources: Resources) -> Server {
        Server::start_in(tempfile::tempdir().expect("a directory"), resources)
    }

    fn start_in(directory: tempfile::TempDir, resources: Resources) -> Server {
        let outcome = ReloadOutcome::Applied { version: resources.version().clone() };
        let (publisher, published) = publish(resources, outcome);
        let settings = settings(directory.path());
        let control = Control::start_with(settings, None, |_| Ok((published, None))).expect("starts");
        Server { control, publisher, directory }
    }

    fn publish(&self, resources: Resources) {
        self.publisher.resources.send_replace(Arc::new(resources));
    }

    fn token(&self, identity: &SpiffeId) -> String {
        self.control.tokens().create(&JoinClaims::new(identity, Duration::from_secs(60))).expect("signs")
    }

    /// A certificate of the mesh.
    async fn credentials(&self, identity: &SpiffeId) -> Credentials {
        let (key, csr) = key_and_request();
        let request = CertificateRequest { csr, ..Default::default() };
        let mut client = connect(&self.control, None).await.expect("connects");
        let response = client.create_certificate(request, Some(&self.token(identity))).await.expect("issued");
        Credentials { chain: response.cert_chain, key }
    }

    async fn delta(&self, identity: &SpiffeId) -> Delta {
        let credentials = self.credentials(identity).await;
        Delta::open(&self.control, &credentials).await
    }

    async fn http(&self, path: &str) -> String {
        let mut socket = TcpStream::connect(self.control.admin_address()).await.expect("connects");
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.expect("writes");
        let mut text = String::new();
        socket.read_to_string(&mut text).await.expect("reads");
        text
    }

    /// Waits until `/status` shows something.
    async fn shows(&self, text: &str) {
        let shown = timeout(PATIENCE, async {
            while !self.http("/status").await.contains(text) {
                tokio::task::yield_now().await;
            }
        });
        assert!(shown.await.is_ok(), "{text:?} is not in\n{}", self.http("/status").await);
    }
}

fn settings(directory: &std::path::Path) -> ControlSettings {
    ControlSettings {
        listen: "127.0.0.1:0".parse().expect("an address"),
        admin: "127.0.0.1:0".parse().expect("an address"),
        ..ControlSettings::new(directory.join("config"), directory.join("state"))
    }
}

fn cart() -> SpiffeId {
    SpiffeId::new("cluster.local", "shop", "cart").expect("valid")
}

fn pay() -> SpiffeId {
    SpiffeId::new("cluster.local", "shop", "pay").expect("valid")
}

fn resource(kind: ResourceType, name: &str, content: u32) -> Resource {
    let name_text = name.to_owned();
    match kind {
        Cluster => {
            let timeout = protobuf::Duration { seconds: i64::from(content), nanos: 0 };
            let message = cluster::Cluster { name: name_text, connect_timeout: Some(timeout), ..Default::default() };
            Resource::new(kind, name, [], &message)
        }
        Endpoints => {
            let locality = endpoint::LocalityLbEndpoints { priority: content, ..Default::default() };
            let endpoints = vec![locality];
            let message = endpoint::ClusterLoadAssignment { cluster_name: name_text, endpoints, ..Default::default() };
            Resource::new(kind, name, [], &message)
        }
        _ => {
            let mark = content.to_string();
            let api_listener = (!name.starts_with("db.")).then(Default::default);
            let message = listener::Listener { name: name_text, stat_prefix: mark, api_listener, ..Default::default() };
            Resource::new(
                Listener,
                name,
                ["10.96.0.7:80".into()].into_iter().filter(|_| name == "cart.shop:80"),
                &message,
            )
        }
    }
}

/// `cart.shop:80` in all types, and the own ports of one workload; `content` tells generations apart.
fn shop(content: u32) -> Resources {
    let resources = [
        resource(Cluster, "cart.shop:80", content),
        resource(Endpoints, "cart.shop:80", content),
        resource(Listener, "cart.shop:80", content),
        resource(Listener, "inbound/cart-1.shop", content),
    ];
    let workloads = HashMap::from([("cart-1.shop".into(), cart())]);
    Resources::new("cluster.local", Default::default(), resources, [], workloads)
}

/// A delta stream.
struct Delta {
    requests: Requests<DeltaDiscoveryRequest>,
    responses: tonic::Streaming<DeltaDiscoveryResponse>,
}

impl Delta {
    async fn open(control: &Control, credentials: &Credentials) -> Delta {
        let (requests, stream) = Requests::new();
        let mut client = connect(control, Some(credentials)).await.expect("connects");
        let responses = client.delta(stream).await.expect("opens");
        Delta { requests, responses }
    }

    fn subscribe(&self, kind: ResourceType, names: &[&str]) {
        self.requests.send(DeltaDiscoveryRequest {
            type_url: kind.type_url().into(),
            resource_names_subscribe: names.iter().map(|name| name.to_string()).collect(),
            ..Default::default()
        });
    }

    async fn next(&mut self) -> DeltaDiscoveryResponse {
        let message = timeout(PATIENCE, self.responses.message()).await.expect("in time");
        message.expect("no error").expect("not the end")
    }

    fn answer(&self, response: &DeltaDiscoveryResponse, error: Option<&str>) {
        self.requests.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: error.map(|message| rpc::Status { message: message.into(), ..Default::default() }),
            ..Default::default()
        });
    }
}

fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response.resources.iter().map(|resource| resource.name.as_str()).collect()
}

#[tokio::test]
async fn a_delta_client_subscribes_by_alias_and_follows_changes() {
    let server = Server::start(shop(1));
    let mut client = server.delta(&cart()).await;
    client.subscribe(Listener, &["10.96.0.7:80", "nowhere.shop:80"]);
    let first = client.next().await;
    assert_eq!(names(&first), ["cart.shop:80", "nowhere.shop:80"], "an unknown name is answered at once");
    assert_eq!(first.resources[0].aliases, ["10.96.0.7:80"]);
    client.answer(&first, None);
    client.subscribe(Cluster, &["cart.shop:80"]);
    let clusters = client.next().await;
    client.answer(&clusters, None);
    client.subscribe(Endpoints, &["cart.shop:80"]);
    let endpoints = client.next().await;
    client.answer(&endpoints, None);

    server.publish(shop(2));
    let changes = [client.next().await, client.next().await, client.next().await];
    let order: Vec<_> = changes.iter().map(|response| ResourceType::from_type_url(&response.type_url)).collect();
    assert_eq!(order, [Some(Cluster), Some(Endpoints), Some(Listener)]);
    changes.iter().for_each(|response| client.answer(response, None));
    server.shows("1 (1 up to date)").await;
    let page = server.http("/metrics").await;
    for (kind, times) in [("clusters", 1), ("endpoints", 1), ("listeners", 1), ("routes", 0)] {
        let line = format!("malla_control_propagation_seconds_count{{type=\"{kind}\"}} {times}\n");
        assert!(page.contains(&line), "{line}{page}");
    }
    assert!(page.contains("malla_control_signing_seconds_count 1\n"), "{page}");
}

#[tokio::test]
async fn changes_of_endpoints_are_coalesced() {
    let server = Server::start(shop(1));
    let mut client = server.delta(&cart()).await;
    client.subscribe(Endpoints, &["cart.shop:80"]);
    client.next().await;
    let only_endpoints = |content| {
        let resources = [resource(Cluster, "cart.shop:80", 1), resource(Endpoints, "cart.shop:80", content)];
        Resources::new("cluster.local", Default::default(), resources, [], HashMap::new())
    };
    let last = only_endpoints(40);
    let version = last.get(Endpoints, "cart.shop:80").expect("is there").version.clone();
    for content in 2..40 {
        server.publish(only_endpoints(content));
        tokio::task::yield_now().await;
    }
    server.publish(last);
    let response = client.next().await;
    assert_eq!(response.resources[0].version, *version, "one push, with the last state");
}

#[tokio::test]
async fn a_state_of_the_world_client_gets_listeners_under_the_name_it_asked() {
    let server = Server::start(shop(1));
    let credentials = server.credentials(&pay()).await;
    let mut client = connect(&server.control, Some(&credentials)).await.expect("connects");
    let (requests, stream) = Requests::new();
    let mut responses = client.sotw(stream).await.expect("opens");
    let request = |nonce: &str| listeners("10.96.0.7:80", nonce);
    requests.send(request(""));
    let response = responses.message().await.expect("no error").expect("a response");
    let body = response.resources[0].value.clone();
    let received: listener::Listener = prost::Message::decode(body).expect("decodes");
    assert_eq!((received.name.as_str(), received.stat_prefix.as_str()), ("10.96.0.7:80", "1"));
    requests.send(request(&response.nonce));
    server.publish(shop(2));
    let changed =
        timeout(PATIENCE, responses.message()).await.expect("in time").expect("no error").expect("a response");
    requests.send(request(&changed.nonce));
    server.shows("grpc-client").await;
    server.shows("1 (1 up to date)").await;
}

/// What a gRPC client asks for.
fn listeners(name: &str, nonce: &str) -> DiscoveryRequest {
    DiscoveryRequest {
        node: Some(core::Node { id: "grpc-client".into(), ..Default::default() }),
        type_url: Listener.type_url().into(),
        resource_names: vec![name.into()],
        response_nonce: nonce.into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_state_of_the_world_client_is_told_of_no_port_without_calls() {
    let database = [resource(Listener, "db.shop:3306", 1)];
    let server = Server::start(Resources::new("cluster.local", Default::default(), database, [], HashMap::new()));
    let credentials = server.credentials(&pay()).await;
    let mut client = connect(&server.control, Some(&credentials)).await.expect("connects");
    let (requests, stream) = Requests::new();
    let mut responses = client.sotw(stream).await.expect("opens");
    requests.send(listeners("db.shop:3306", ""));
    let response = responses.message().await.expect("no error").expect("a response");
    let received: listener::Listener = prost::Message::decode(response.resources[0].value.clone()).expect("decodes");
    assert_eq!((received.name.as_str(), received.api_listener.is_some()), ("db.shop:3306", true), "{received:?}");
    let mut sidecar = server.delta(&cart()).await;
    sidecar.subscribe(Listener, &["db.shop:3306"]);
    let body = sidecar.next().await.resources[0].resource.clone().expect("a body").value;
    let received: listener::Listener = prost::Message::decode(body).expect("decodes");
    assert_eq!((received.stat_prefix.as_str(), received.api_listener), ("1", None));
}

#[tokio::test]
async fn the_own_ports_of_a_workload_are_for_its_identity_only() {
    let server = Server::start(shop(1));
    let mut owner = server.delta(&cart()).await;
    owner.subscribe(Listener, &["inbound/cart-1.shop"]);
    let response = owner.next().await;
    assert_eq!(response.resources[0].version, *shop(1).get(Listener, "inbound/cart-1.shop").expect("is there").version);

    let mut other = server.delta(&pay()).await;
    other.subscribe(Listener, &["inbound/cart-1.shop"]);
    let response = other.next().await;
    let reason = &response.resource_errors[0].error_detail.as_ref().expect("a reason").message;
    assert_eq!(reason, &format!("it is for {}; this client's certificate says {}", cart(), pay()));
    let given: listener::Listener =
        prost::Message::decode(response.resources[0].resource.clone().expect("a body").value).expect("decodes");
    assert_eq!(given, listener::Listener { name: "inbound/cart-1.shop".into(), ..Default::default() });
    server.shows("may not have listeners inbound/cart-1.shop").await;
    other.subscribe(Listener, &["*"]);
    let everything = other.next().await;
    assert_eq!(names(&everything), ["cart.shop:80"], "everything is what it may have");
}

#[tokio::test]
async fn a_node_of_another_namespace_than_its_certificate_is_refused() {
    let server = Server::start(shop(1));
    let mut client = server.delta(&cart()).await;
    let node = |namespace: &str| core::Node {
        id: "cart-1.shop".into(),
        metadata: Some(string_struct([("namespace", namespace), ("version", "0.1.0")])),
        ..Default::default()
    };
    client.requests.send(DeltaDiscoveryRequest {
        node: Some(node("bank")),
        type_url: Listener.type_url().into(),
        resource_names_subscribe: vec!["cart.shop:80".into()],
        ..Default::default()
    });
    let status = client.responses.message().await.expect_err("refused");
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("bank"), "{status}");
}

#[tokio::test]
async fn a_rejection_is_shown_until_it_is_mended() {
    let server = Server::start(shop(1));
    let mut client = server.delta(&cart()).await;
    client.subscribe(Cluster, &["cart.shop:80"]);
    let response = client.next().await;
    client.answer(&response, Some("cart.shop:80: field lb_policy: MAGLEV is not supported"));
    server.shows("rejected clusters cart.shop:80").await;
    server.shows("field lb_policy: MAGLEV is not supported").await;
    assert!(server.http("/metrics").await.contains("malla_control_rejections_total{type=\"clusters\"} 1"));
    let status = server.control.status();
    assert_eq!(status.streams[0].types["clusters"].rejections[0].resources, ["cart.shop:80"]);
    server.publish(shop(2));
    let response = client.next().await;
    client.answer(&response, None);
    server.shows("1 (1 up to date)").await;
    assert!(!server.http("/status").await.contains("rejected"));
}

#[tokio::test]
async fn a_refused_reload_is_visible_everywhere_and_changes_nothing() {
    let server = Server::start(shop(1));
    assert!(server.http("/ready").await.starts_with("HTTP/1.1 200"));
    let outcome = ReloadOutcome::Refused { errors: "routes.yaml:3:5: <no> such service".into(), count: 1 };
    server.publisher.last_reload.send_replace(LastReload { at: SystemTime::now(), outcome });
    server.shows("routes.yaml:3:5: <no> such service").await;
    let page = server.http("/").await;
    assert!(page.contains("The last good configuration keeps serving") && page.contains("&lt;no&gt;"), "{page}");
    let json = server.http("/status.json").await;
    let status: crate::status::Status =
        serde_json::from_str(json.split_once("\r\n\r\n").expect("a body").1).expect("is a status");
    assert_eq!((status.last_reload.applied, status.version.as_str()), (false, &**shop(1).version()));
    let counted = timeout(PATIENCE, async {
        while !server.http("/metrics").await.contains("malla_control_reload_refused 1") {
            tokio::task::yield_now().await;
        }
    });
    assert!(counted.await.is_ok());
    assert!(server.http("/ready").await.starts_with("HTTP/1.1 200"), "the last good one serves");
}

#[tokio::test]
async fn nothing_is_answered_before_there_is_a_configuration() {
    let server = Server::start(Resources::not_loaded());
    assert!(server.http("/ready").await.starts_with("HTTP/1.1 503"));
    let mut client = server.delta(&cart()).await;
    client.subscribe(Listener, &["cart.shop:80"]);
    assert!(timeout(Duration::from_millis(100), client.responses.message()).await.is_err(), "silence");
    server.publish(shop(1));
    assert_eq!(names(&client.next().await), ["cart.shop:80"]);
    assert!(server.http("/ready").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn xds_needs_a_certificate_of_this_mesh() {
    let (server, foreign) = (Server::start(shop(1)), Server::start(shop(1)));
    let mut stranger = connect(&server.control, None).await.expect("connects");
    let (_requests, stream) = Requests::new();
    let status = stranger.delta(stream).await.expect_err("refused");
    assert_eq!(status.code(), Code::Unauthenticated);
    let credentials = foreign.credentials(&cart()).await;
    let (_requests, stream) = Requests::new();
    let refused = match connect(&server.control, Some(&credentials)).await {
        Err(_) => true,
        // In TLS 1.3 the client learns only later that its certificate was refused.
        Ok(mut client) => client.delta(stream).await.is_err(),
    };
    assert!(refused, "a certificate of a foreign authority");
    assert!(
        server.http("/metrics").await.contains("malla_control_connections_refused_total{reason=\"tls_handshake\"} 1")
    );
}

#[tokio::test]
async fn certificates_need_a_valid_token_or_a_certificate() {
    let (server, other) = (Server::start(shop(1)), Server::start(shop(1)));
    let request = || CertificateRequest { csr: key_and_request().1, ..Default::default() };
    let mut client = connect(&server.control, None).await.expect("connects");
    let status = client.create_certificate(request(), None).await.expect_err("no credentials");
    assert_eq!(status.code(), Code::Unauthenticated);
    let expired = JoinClaims { exp: 1_000_000, ..JoinClaims::new(&cart(), Duration::ZERO) };
    let expired = server.control.tokens().create(&expired).expect("signs");
    let elsewhere = SpiffeId::new("example.org", "shop", "cart").expect("valid");
    let cases = [
        (expired, Code::Unauthenticated, "it has expired"),
        (other.token(&cart()), Code::Unauthenticated, "its signature is not by this control server's key"),
        ("garbage".to_owned(), Code::Unauthenticated, "it is not a join token"),
        (server.token(&elsewhere), Code::PermissionDenied, "its trust domain is cluster.local"),
    ];
    for (token, code, sentence) in cases {
        let status = client.create_certificate(request(), Some(&token)).await.expect_err("refused");
        assert_eq!(status.code(), code);
        assert!(status.message().contains(sentence), "{status}");
    }
    let once = JoinClaims { once: true, ..JoinClaims::new(&cart(), Duration::from_secs(60)) };
    let once = server.control.tokens().create(&once).expect("signs");
    client.create_certificate(request(), Some(&once)).await.expect("for one use");
    let status = client.create_certificate(request(), Some(&once)).await.expect_err("used");
    assert!(status.message().contains("has been used"), "{status}");
    let garbage = CertificateRequest { csr: "garbage".into(), ..Default::default() };
    let status = client.create_certificate(garbage, Some(&server.token(&cart()))).await.expect_err("no request");
    assert_eq!(status.code(), Code::InvalidArgument);

    let credentials = server.credentials(&cart()).await;
    let mut renewing = connect(&server.control, Some(&credentials)).await.expect("connects");
    let renewed = renewing.create_certificate(request(), Some("a token long forgotten")).await.expect("renewed");
    assert_eq!(client::identity(&renewed.cert_chain), Some(cart()));
    let metrics = server.http("/metrics").await;
    for line in [
        "certificates_total 3",
        "certificates_refused_total{reason=\"used\"} 1",
        "certificates_refused_total{reason=\"expired\"} 1",
        "certificates_refused_total{reason=\"forged\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn a_restart_keeps_the_root_and_sends_nothing_that_is_there() {
    let server = Server::start(shop(1));
    let credentials = server.credentials(&cart()).await;
    let mut client = Delta::open(&server.control, &credentials).await;
    client.subscribe(Listener, &["cart.shop:80"]);
    let version = client.next().await.resources[0].version.clone();
    let Server { control, directory, .. } = server;
    timeout(PATIENCE, control.stop()).await.expect("stops");
    let status = client.responses.message().await.expect_err("the stream ends");
    assert_eq!(status.code(), Code::Unavailable);

    let server = Server::start_in(directory, shop(1));
    let mut client = Delta::open(&server.control, &credentials).await;
    client.requests.send(DeltaDiscoveryRequest {
        type_url: Listener.type_url().into(),
        resource_names_subscribe: vec!["cart.shop:80".into()],
        initial_resource_versions: HashMap::from([("cart.shop:80".into(), version)]),
        ..Default::default()
    });
    client.subscribe(Cluster, &["cart.shop:80"]);
    assert_eq!(client.next().await.type_url, Cluster.type_url(), "the listener is not sent again");
}

#[tokio::test]
async fn garbage_and_idle_connections_harm_nobody() {
    let server = Server::start(shop(1));
    let address = server.control.xds_address();
    let mut idle = Vec::new();
    for _ in 0..300 {
        idle.push(TcpStream::connect(address).await.expect("connects"));
    }
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 4096], &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]] {
        let mut socket = TcpStream::connect(address).await.expect("connects");
        socket.write_all(garbage).await.expect("writes");
        idle.push(socket);
    }
    let mut admin = TcpStream::connect(server.control.admin_address()).await.expect("connects");
    admin.write_all(&[0; 100_000]).await.expect("writes");
    let mut client = server.delta(&cart()).await;
    client.subscribe(Listener, &["cart.shop:80"]);
    assert_eq!(names(&client.next().await), ["cart.shop:80"]);
    timeout(PATIENCE, server.control.stop()).await.expect("stops although they hang on");
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_with_what_to_do() {
    let server = Server::start(shop(1));
    let directory = tempfile::tempdir().expect("a directory");
    let settings = ControlSettings { listen: server.control.xds_address(), ..settings(directory.path()) };
    let configuration = directory.path().join("config");
    std::fs::create_dir(&configuration)
        .and_then(|()| std::fs::write(configuration.join("a.yaml"), ""))
        .expect("writes");
    let error = Control::start(settings.clone()).expect_err("taken");
    let port = server.control.xds_address().port();
    let sentence = "is taken by another program: stop it, or choose another port with --listen";
    assert_eq!(error.to_string(), format!("port {port} of 127.0.0.1 {sentence}"));
    let free = ControlSettings { listen: "127.0.0.1:0".parse().expect("an address"), ..settings.clone() };
    let missing = ControlSettings { config: Some(directory.path().join("missing")), ..free.clone() };
    assert!(matches!(Control::start(missing), Err(StartError::Source(_))), "there is no configuration");
    std::fs::write(directory.path().join("file"), "").expect("writes");
    let no_state = ControlSettings { state: directory.path().join("file"), ..free };
    let error = Control::start(no_state).expect_err("no state directory").to_string();
    assert!(error.ends_with("is not a directory: name a directory with --state"), "{error}");
}

#[tokio::test]
async fn a_client_that_never_reads_loses_its_stream_and_costs_little() {
    /// Large enough that few of them fill what HTTP/2 lets a server send unread.
    const SIZE: usize = 512 << 10;
    let large = |content: u32| {
        let alt_stat_name = format!("{content}{}", "x".repeat(SIZE));
        let message = cluster::Cluster { name: "cart.shop:80".into(), alt_stat_name, ..Default::default() };
        let resource = Resource::new(Cluster, "cart.shop:80", [], &message);
        Resources::new("cluster.local", Default::default(), [resource], [], HashMap::new())
    };
    let server = Server::start(large(0));
    let client = server.delta(&cart()).await;
    client.subscribe(Cluster, &["cart.shop:80"]);
    let sent = || {
        server
            .control
            .status()
            .streams
            .first()
            .map_or(0, |stream| stream.types.get("clusters").map_or(0, |of_type| of_type.unanswered))
    };
    let mut versions = 0;
    loop {
        let before = sent();
        versions += 1;
        assert!(versions < 200, "the server holds everything for a client that does not read");
        server.publish(large(versions));
        let went_out = async {
            while sent() == before {
                tokio::task::yield_now().await;
            }
        };
        if timeout(Duration::from_secs(1), went_out).await.is_err() {
            break;
        }
    }
    let ended = timeout(PATIENCE, async {
        while !server.control.status().streams.is_empty() {
            tokio::task::yield_now().await;
        }
    });
    assert!(ended.await.is_ok(), "the stream is still there");
    assert!(server.http("/metrics").await.contains("streams_ended_total{reason=\"slow_reader\"} 1"));
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_cut_and_counted() {
    let server = Server::start(Resources::not_loaded());
    let mut silent = TcpStream::connect(server.control.xds_address()).await.expect("connects");
    let mut half = TcpStream::connect(server.control.xds_address()).await.expect("connects");
    half.write_all(b"\x16\x03\x01\x02\x00\x01").await.expect("writes");
    for socket in [&mut silent, &mut half] {
        let mut byte = [0];
        let ended = timeout(PATIENCE, socket.read(&mut byte)).await.expect("it is cut");
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    }
    let metrics = server.http("/metrics").await;
    let counted = metrics.lines().find(|line| line.contains("reason=\"handshake_timeout\""));
    assert!(counted.is_some_and(|line| line.ends_with(" 2")), "{counted:?}");
}
