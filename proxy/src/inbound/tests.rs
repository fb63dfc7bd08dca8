//! Whole ways over loopback: application → outbound → mTLS → inbound → application, and what is refused.

mod ends;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::authorize::{Action, Authorization, Condition, Enforcement, Policy, RuleSet};
use crate::names::Name;
use crate::settings::{LocalListen, Settings};
use crate::snapshot::{
    Cluster, HttpRoutes, Inbound, InboundPort, Outbound, OutboundService, Plaintext, Protocol, Snapshot,
    UnknownDestination, ValueMatch,
};
use crate::stream::Stream;
use crate::testing::{Authority, Sidecar, cluster, route, settings};

const CLIENT: &str = "spiffe://mesh/ns/shop/sa/client";
const SERVER: &str = "spiffe://mesh/ns/shop/sa/db";
const SERVICE: &str = "db.shop:3306";

/// Greets, then sends back what it is sent, until the client has ended.
async fn application() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                socket.write_all(b"hello\n").await?;
                let (mut read, mut write) = socket.split();
                tokio::io::copy(&mut read, &mut write).await?;
                write.shutdown().await
            });
        }
    });
    address
}

/// The sidecar beside the application.
fn server(authority: &Authority, application: SocketAddr, protocol: Protocol) -> Sidecar {
    guarded(authority, application, protocol, None)
}

/// With rules who may call.
fn guarded(
    authority: &Authority,
    application: SocketAddr,
    protocol: Protocol,
    authorization: Option<Arc<Authorization>>,
) -> Sidecar {
    let snapshot = own_port(application, protocol, authorization);
    Sidecar::start(settings(), snapshot, Some(authority.identity(SERVER)))
}

/// What a sidecar is told of its application.
fn own_port(application: SocketAddr, protocol: Protocol, authorization: Option<Arc<Authorization>>) -> Snapshot {
    let port = InboundPort {
        service: SERVICE.into(),
        sni: "3306.db.shop.mesh".into(),
        port: application.port(),
        protocol,
        plaintext: Plaintext::Refused,
        upstream: cluster("inbound/db-1.shop:3306", &[(application, None)]),
        authorization,
    };
    let inbound = Inbound { name: "inbound/db-1.shop".into(), ports: vec![port] };
    Snapshot { inbound: Some(Arc::new(inbound)), ..Snapshot::default() }
}

/// A sidecar with one local port, that leads to what `outbound` says.
fn client(authority: &Authority, name: &str, outbound: Outbound) -> Sidecar {
    let listen = vec![LocalListen { local: ([127, 0, 0, 1], 0).into(), destination: name.into() }];
    let mut snapshot = Snapshot::default();
    snapshot.outbound.insert(Name::from(name), outbound.into());
    Sidecar::start(Settings { listen, ..settings() }, snapshot, Some(authority.identity(CLIENT)))
}

fn service(protocol: Protocol, cluster: Arc<Cluster>) -> Outbound {
    Outbound::Service(OutboundService {
        name: SERVICE.into(),
        protocol,
        http: None,
        tcp: Some(route(cluster)),
        sni: Vec::new(),
    })
}

/// A service that does not declare what it speaks, and has routes for either; no HTTP route takes any request.
fn undeclared(name: &str, cluster: Arc<Cluster>) -> Outbound {
    let routes = HttpRoutes { name: name.into(), virtual_hosts: Vec::new() };
    let Outbound::Service(service) = service(Protocol::Detect, cluster) else { unreachable!("it is one") };
    Outbound::Service(OutboundService { name: name.into(), http: Some(Arc::new(routes)), ..service })
}

async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.expect("the sidecar listens")
}

/// Everything until the other side ends; `Err` is a reset.
async fn rest(socket: &mut TcpStream) -> std::io::Result<String> {
    let mut text = String::new();
    timeout(Duration::from_secs(20), socket.read_to_string(&mut text)).await.expect("it ends")?;
    Ok(text)
}

async fn greeted(address: SocketAddr) -> TcpStream {
    let mut socket = connect(address).await;
    let mut greeting = [0; 6];
    timeout(Duration::from_secs(20), socket.read_exact(&mut greeting)).await.expect("in time").expect("a greeting");
    assert_eq!(&greeting, b"hello\n");
    socket
}

async fn converse(address: SocketAddr) {
    let mut socket = greeted(address).await;
    socket.write_all(b"some words").await.expect("write");
    socket.shutdown().await.expect("half-close");
    assert_eq!(rest(&mut socket).await.expect("a clean end"), "some words");
}

/// How often the first bytes of connections were looked at, on either side.
fn guesses(sidecars: [&Sidecar; 2]) -> usize {
    let pages = sidecars.map(|sidecar| sidecar.shared.metrics.exposition());
    let lines =
        pages.iter().flat_map(|page| page.lines()).filter(|line| line.starts_with("malla_protocol_detected_total"));
    lines.map(|line| line.rsplit(' ').next().and_then(|count| count.parse::<usize>().ok()).expect("a count")).sum()
}

#[tokio::test]
async fn what_a_workload_was_told_of_an_undeclared_port_is_not_guessed() {
    const NAME: &str = "greeter.shop:7000";
    let authority = Authority::new();
    let server = server(&authority, application().await, Protocol::Detect);
    let cluster = cluster(SERVICE, &[(server.inbound, Some(SERVER))]);
    let told = |opaque_ports: &[u16], http_ports: &[u16]| {
        let listen = vec![LocalListen { local: ([127, 0, 0, 1], 0).into(), destination: NAME.into() }];
        let (opaque_ports, http_ports) = (opaque_ports.to_vec(), http_ports.to_vec());
        let mut snapshot = Snapshot::default();
        snapshot.outbound.insert(NAME.into(), undeclared(NAME, cluster.clone()).into());
        let settings = Settings { listen, opaque_ports, http_ports, ..settings() };
        Sidecar::start(settings, snapshot, Some(authority.identity(CLIENT)))
    };
    let nothing = told(&[7001], &[7002]);
    converse(nothing.local[0]).await;
    assert_eq!(guesses([&nothing, &server]), 1, "after a second of silence it is raw TCP");

    let opaque = told(&[7000], &[]);
    converse(opaque.local[0]).await;
    assert_eq!(guesses([&opaque, &server]), 0);

    // Longer than a guess takes: a connection that is kept warm for a request to come.
    let http = told(&[], &[7000]);
    let mut warm = connect(http.local[0]).await;
    let silence = timeout(crate::detect::UNDECLARED.first * 2, warm.read_u8()).await;
    assert!(silence.is_err(), "nothing of the application's greeting: {silence:?}");
    warm.write_all(b"GET / HTTP/1.1\r\nhost: greeter.shop\r\nconnection: close\r\n\r\n").await.expect("write");
    let answer = rest(&mut warm).await.expect("a clean end");
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("malla-reason: no_route"), "{answer}");
    assert_eq!(guesses([&http, &server]), 0);
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_through_both_sidecars() {
    let authority = Authority::new();
    for protocol in [Protocol::Tcp, Protocol::Detect] {
        let server = server(&authority, application().await, protocol);
        let cluster = cluster(SERVICE, &[(server.inbound, Some(SERVER))]);
        let client = client(&authority, SERVICE, service(protocol, cluster.clone()));
        converse(client.local[0]).await;
        // The end reaches the client before the connection is counted out.
        while cluster.usage.connections() > 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// Only this identity may.
fn only(identity: &str) -> Option<Arc<Authorization>> {
    let principals = vec![Condition::Identity(ValueMatch::Exact(identity.into()))];
    let policy = Policy { name: "shop/p/0".into(), permissions: vec![Condition::Any], principals };
    let set = RuleSet { action: Action::Allow, enforcement: Enforcement::Enforced, policies: vec![policy] };
    Some(Arc::new(Authorization { sets: vec![set] }))
}

#[tokio::test]
async fn raw_streams_are_for_those_who_may() {
    let authority = Authority::new();
    for (identity, may) in [(CLIENT, true), (SERVER, false)] {
        let server = guarded(&authority, application().await, Protocol::Tcp, only(identity));
        let cluster = cluster(SERVICE, &[(server.inbound, Some(SERVER))]);
        let client = client(&authority, SERVICE, service(Protocol::Tcp, cluster));
        if may {
            converse(client.local[0]).await;
            let exposed = server.shared.metrics.exposition();
            for counted in [
                "malla_authorization_allowed_total{service=\"db.shop:3306\",policy=\"shop/p/0\"} 1",
                "malla_tls_handshakes_total{direction=\"inbound\",handshake=\"full\"} 1",
            ] {
                assert!(exposed.contains(counted), "{counted} is not in\n{exposed}");
            }
            continue;
        }
        let mut socket = connect(client.local[0]).await;
        assert!(rest(&mut socket).await.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
        let exposed = server.shared.metrics.exposition();
        for counted in [
            "malla_authorization_denied_total{service=\"db.shop:3306\",policy=\"none\"} 1",
            "malla_connections_refused_total{direction=\"inbound\",reason=\"denied\"} 1",
        ] {
            assert!(exposed.contains(counted), "{counted} is not in\n{exposed}");
        }
    }
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_replaced_by_another() {
    let authority = Authority::new();
    let server = server(&authority, application().await, Protocol::Tcp);
    let dead = TcpListener::bind("127.0.0.1:0").await.expect("loopback").local_addr().expect("bound");
    let cluster = cluster(SERVICE, &[(dead, Some(SERVER)), (server.inbound, Some(SERVER))]);
    let client = client(&authority, SERVICE, service(Protocol::Tcp, cluster));
    for _ in 0..10 {
        converse(client.local[0]).await;
    }
}

#[tokio::test]
async fn an_endpoint_of_another_identity_gets_nothing() {
    let authority = Authority::new();
    let server = server(&authority, application().await, Protocol::Tcp);
    let cluster = cluster(SERVICE, &[(server.inbound, Some("spiffe://mesh/ns/shop/sa/other"))]);
    let client = client(&authority, SERVICE, service(Protocol::Tcp, cluster));
    let mut socket = connect(client.local[0]).await;
    assert!(rest(&mut socket).await.is_err(), "a reset, not an empty answer");
}

#[tokio::test]
async fn what_is_outside_passes_or_is_denied() {
    let authority = Authority::new();
    let outside = application().await.to_string();
    let passing = client(&authority, &outside, Outbound::Unknown(UnknownDestination::PassThrough));
    converse(passing.local[0]).await;
    let denying = client(&authority, &outside, Outbound::Unknown(UnknownDestination::Deny));
    assert!(rest(&mut connect(denying.local[0]).await).await.is_err());
}

#[tokio::test]
async fn limits_of_connections_hold() {
    let authority = Authority::new();
    let server = server(&authority, application().await, Protocol::Tcp);
    let mut cluster = Arc::into_inner(cluster(SERVICE, &[(server.inbound, Some(SERVER))])).expect("ours");
    cluster.limits.connections = 1;
    let client = client(&authority, SERVICE, service(Protocol::Tcp, Arc::new(cluster)));
    let held = greeted(client.local[0]).await;
    assert!(rest(&mut connect(client.local[0]).await).await.is_err(), "circuit_open");
    drop(held);
}

#[tokio::test]
async fn more_connections_than_permitted_are_shed() {
    let authority = Authority::new();
    let application = application().await;
    let outbound = Outbound::Unknown(UnknownDestination::PassThrough);
    let name = application.to_string();
    let listen = vec![LocalListen { local: ([127, 0, 0, 1], 0).into(), destination: name.as_str().into() }];
    let mut snapshot = Snapshot::default();
    snapshot.outbound.insert(name.as_str().into(), outbound.into());
    let settings = Settings { listen, max_connections: 2, ..settings() };
    let sidecar = Sidecar::start(settings, snapshot, Some(authority.identity(CLIENT)));
    let held = [greeted(sidecar.local[0]).await, greeted(sidecar.local[0]).await];
    let mut shed = connect(sidecar.local[0]).await;
    assert_eq!(rest(&mut shed).await.unwrap_or_default(), "");
    drop(held);
    // Places come back.
    loop {
        let mut socket = connect(sidecar.local[0]).await;
        socket.shutdown().await.expect("open");
        if rest(&mut socket).await.is_ok_and(|text| text == "hello\n") {
            break;
        }
    }
}

#[tokio::test]
async fn plaintext_is_refused_and_http_is_told_why() {
    let authority = Authority::new();
    let server = server(&authority, application().await, Protocol::Tcp);
    let mut http = connect(server.inbound).await;
    http.write_all(b"GET / HTTP/1.1\r\nHost: db\r\n\r\n").await.expect("write");
    let answer = rest(&mut http).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\nmalla-reason: plaintext_refused\r\n"), "{answer}");
    assert!(answer.contains("the workload takes only mesh mTLS"), "{answer}");
    for garbage in [b"\x00\x01\x02\x03".as_slice(), b"EHLO example\r\n", b"\x16\x03\x01\xff\xff"] {
        let mut socket = connect(server.inbound).await;
        socket.write_all(garbage).await.expect("write");
        assert_eq!(rest(&mut socket).await.unwrap_or_default(), "", "{garbage:?}");
    }
}

#[tokio::test]
async fn tls_that_names_no_port_of_this_workload_is_refused() {
    let authority = Authority::new();
    let server = server(&authority, application().await, Protocol::Tcp);
    for name in ["80.cart.shop.mesh", "www.example.com"] {
        let mut socket = connect(server.inbound).await;
        socket.write_all(&crate::detect::client_hello_for_tests(name)).await.expect("write");
        assert_eq!(rest(&mut socket).await.unwrap_or_default(), "", "{name}");
    }
}

#[tokio::test]
async fn half_a_client_hello_and_idle_connections_hurt_nobody() {
    let authority = Authority::new();
    let server = server(&authority, application().await, Protocol::Tcp);
    let cluster = cluster(SERVICE, &[(server.inbound, Some(SERVER))]);
    let client = client(&authority, SERVICE, service(Protocol::Tcp, cluster));
    let mut bad = Vec::new();
    let hello = crate::detect::client_hello_for_tests("3306.db.shop.mesh");
    for index in 0..300 {
        let mut socket = connect(server.inbound).await;
        if index % 2 == 0 {
            socket.write_all(&hello[..hello.len() / 2]).await.expect("write");
        }
        bad.push(socket);
    }
    converse(client.local[0]).await;
    // One that comes a byte at a time is served all the same.
    let slow = timeout(Duration::from_secs(20), async {
        let mut socket = connect(server.inbound).await;
        for byte in &hello {
            socket.write_all(std::slice::from_ref(byte)).await.expect("write");
            tokio::task::yield_now().await;
        }
        let mut record = [0; 3];
        socket.read_exact(&mut record).await.expect("a ServerHello");
        record
    });
    assert_eq!(slow.await.expect("in time")[..2], [22, 3]);
    drop(bad);
}

#[tokio::test]
async fn a_broken_connection_is_broken_at_the_other_end_too() {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let server = server(&authority, listener.local_addr().expect("bound"), Protocol::Tcp);
    let cluster = cluster(SERVICE, &[(server.inbound, Some(SERVER))]);
    let client = client(&authority, SERVICE, service(Protocol::Tcp, cluster));
    let mut socket = connect(client.local[0]).await;
    let (mut application, _) = listener.accept().await.expect("accept");
    application.write_all(b"part of an answer").await.expect("write");
    let mut part = [0; 17];
    socket.read_exact(&mut part).await.expect("the part");
    Stream::from(application).abort_on_drop();
    assert!(rest(&mut socket).await.is_err(), "a truncated answer does not end cleanly");
}
