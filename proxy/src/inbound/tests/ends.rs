//! Connections that are open end when their client is nobody any more, or may no longer.

use std::time::SystemTime;

use h2::client;
use http::Request;
use rustls::HandshakeKind;

use super::*;
use crate::decode::TrustBundle;
use crate::http::testing::upgrades;
use crate::identity::Identity;
use crate::snapshot::Endpoints;
use crate::testing::shared;
use crate::tls::{self, Alpn};

/// A certificate of the client that expires soon.
fn brief(authority: &Authority) -> Identity {
    let now = SystemTime::now();
    authority.issue(&[CLIENT], now - Duration::from_secs(60)..now + Duration::from_secs(3))
}

/// A client whose certificate expires soon, and the end of that.
fn brief_client(authority: &Authority, server: &Sidecar) -> (Sidecar, SystemTime) {
    let cluster = cluster(SERVICE, &[(server.inbound, Some(SERVER))]);
    let client = client(authority, SERVICE, service(Protocol::Tcp, cluster));
    let identity = brief(authority);
    let end = identity.not_after;
    client.shared.identity.install(identity);
    (client, end)
}

async fn echoes(socket: &mut TcpStream) {
    socket.write_all(b"x").await.expect("write");
    let mut byte = [0];
    timeout(Duration::from_secs(20), socket.read_exact(&mut byte)).await.expect("in time").expect("echoed");
}

/// Waits for a line of the metrics: a client may see the end before it is counted.
async fn counted(server: &Sidecar, line: &str) {
    let exposed = || server.shared.metrics.exposition();
    let counts = timeout(Duration::from_secs(20), async {
        while !exposed().contains(line) {
            tokio::task::yield_now().await;
        }
    });
    assert!(counts.await.is_ok(), "{line} is not in\n{}", exposed());
}

fn failed(reason: &str) -> String {
    format!(
        "malla_tcp_connections_failed_total{{direction=\"inbound\",service=\"{SERVICE}\",identity=\"{CLIENT}\",\
         destination=\"test-1.shop\",reason=\"{reason}\"}} 1"
    )
}

#[tokio::test]
async fn a_stream_ends_with_its_clients_certificate() {
    let authority = Authority::new();
    let server = server(&authority, application().await, Protocol::Tcp);
    let (client, end) = brief_client(&authority, &server);
    let mut socket = greeted(client.local[0]).await;
    echoes(&mut socket).await;
    assert!(rest(&mut socket).await.is_err(), "a reset, not an end");
    // Certificates tell time in whole seconds.
    assert!(SystemTime::now() + Duration::from_secs(1) >= end, "not before");
    counted(&server, &failed("peer_expired")).await;
}

#[tokio::test]
async fn a_stream_whose_client_renews_in_time_goes_on() {
    let authority = Authority::new();
    let server = server(&authority, application().await, Protocol::Tcp);
    let (client, end) = brief_client(&authority, &server);
    let mut socket = greeted(client.local[0]).await;
    client.shared.identity.install(authority.identity(CLIENT));
    let after = end + Duration::from_millis(500);
    while let Ok(left) = after.duration_since(SystemTime::now()) {
        tokio::time::sleep(left).await;
    }
    echoes(&mut socket).await;
    socket.shutdown().await.expect("half-close");
    assert_eq!(rest(&mut socket).await.expect("a clean end"), "");
}

#[tokio::test]
async fn requests_end_with_their_clients_certificate() {
    let authority = Authority::new();
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let application = silent.local_addr().expect("bound");
    let snapshot = own_port(application, Protocol::Http, None);
    let settings = Settings { drain: Duration::from_secs(2), ..settings() };
    let server = Sidecar::start(settings, snapshot, Some(authority.identity(SERVER)));
    let cluster = cluster(SERVICE, &[(server.inbound, Some(SERVER))]);
    let Endpoints::Set(set) = &cluster.endpoints else { unreachable!("a set") };
    let shared = shared(super::settings(), Snapshot::default(), Some(brief(&authority)));
    let connect = || async { tls::connect(&shared, &cluster, &set[0], Alpn::H2).await.expect("connected").stream };

    // Without a request it ends by itself; one that is never answered is cut.
    let (_idle, connection) = client::handshake(connect().await).await.expect("HTTP/2");
    let idle = tokio::spawn(connection);
    let (mut sender, connection) = client::handshake(connect().await).await.expect("HTTP/2");
    let busy = tokio::spawn(connection);
    let request = Request::get("http://db.shop:3306/").body(()).expect("a request");
    let (response, _) = sender.send_request(request, true).expect("sent");
    let _ = timeout(Duration::from_secs(20), idle).await.expect("in time");
    timeout(Duration::from_secs(20), response).await.expect("in time").expect_err("it is cut");
    let _ = timeout(Duration::from_secs(20), busy).await.expect("in time");
    counted(&server, "malla_connections_refused_total{direction=\"inbound\",reason=\"peer_expired\"} 1").await;
}

#[tokio::test]
async fn an_upgraded_connection_ends_with_its_clients_certificate() {
    let authority = Authority::new();
    let (application, ended, _running) = upgrades().await;
    let settings = Settings { drain: Duration::from_secs(1), ..settings() };
    let snapshot = own_port(application, Protocol::Http, None);
    let server = Sidecar::start(settings, snapshot, Some(authority.identity(SERVER)));
    let cluster = cluster(SERVICE, &[(server.inbound, Some(SERVER))]);
    let Endpoints::Set(set) = &cluster.endpoints else { unreachable!("a set") };
    let identity = brief(&authority);
    let end = identity.not_after;
    let shared = shared(super::settings(), Snapshot::default(), Some(identity));
    let stream = tls::connect(&shared, &cluster, &set[0], Alpn::H2).await.expect("connected").stream;
    let (sender, connection) = client::handshake(stream).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    while !sender.is_extended_connect_protocol_enabled() {
        tokio::task::yield_now().await;
    }
    let request = Request::connect("http://db.shop:3306/chat")
        .extension(h2::ext::Protocol::from_static("websocket"))
        .header("malla-http", "1.1")
        .body(())
        .expect("a request");
    let (response, mut stream) = sender.ready().await.expect("ready").send_request(request, false).expect("sent");
    let response = timeout(Duration::from_secs(20), response).await.expect("in time").expect("an answer");
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    stream.send_data("ping".into(), false).expect("sent");
    assert_eq!(body.data().await.expect("an echo").expect("no error"), "ping");
    let last = timeout(Duration::from_secs(20), body.data()).await.expect("it is ended");
    assert!(!matches!(last, Some(Ok(_))), "{last:?}");
    assert!(SystemTime::now() + Duration::from_secs(1) >= end, "not before");
    timeout(Duration::from_secs(20), async {
        while ended.load(std::sync::atomic::Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the application's side ends too");
    connection.abort();
}

#[tokio::test]
async fn what_was_agreed_with_a_trust_domain_ends_when_either_side_trusts_the_other_no_longer() {
    const THEIRS: &str = "spiffe://partner/ns/shop/sa/client";
    let (own, other) = (Authority::new(), Authority::new());
    let bundle = |own: &Authority, domain: &str, other: Option<&Authority>| {
        let certificates = own.identity(SERVER).trust_certificates;
        let other = other.map(|other| (domain.into(), other.identity(SERVER).trust_certificates));
        Arc::new(TrustBundle { certificates, federated: other.into_iter().collect() })
    };
    for server_is_first in [true, false] {
        let server = server(&own, application().await, Protocol::Tcp);
        server.shared.identity.trust(&bundle(&own, "partner", Some(&other)));
        let cluster = cluster(SERVICE, &[(server.inbound, Some(SERVER))]);
        let client = client(&other, SERVICE, service(Protocol::Tcp, cluster));
        client.shared.identity.install(other.identity(THEIRS));
        client.shared.identity.trust(&bundle(&other, "mesh", Some(&own)));
        let mut socket = greeted(client.local[0]).await;
        // Another generation of the same trust changes nothing.
        server.shared.identity.install(own.identity(SERVER));
        echoes(&mut socket).await;
        match server_is_first {
            true => server.shared.identity.trust(&bundle(&own, "partner", None)),
            false => client.shared.identity.trust(&bundle(&other, "mesh", None)),
        }
        assert!(rest(&mut socket).await.is_err(), "a reset, not an end");
        let who = if server_is_first { &server } else { &client };
        counted(who, "reason=\"tls_untrusted\"} 1").await;
    }
}

#[tokio::test]
async fn requests_are_cut_when_their_clients_trust_domain_is_trusted_no_longer() {
    let (own, other) = (Authority::new(), Authority::new());
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let application = silent.local_addr().expect("bound");
    let server = server(&own, application, Protocol::Http);
    let roots = |authority: &Authority| authority.identity(SERVER).trust_certificates;
    let trusting = TrustBundle { certificates: roots(&own), federated: [("partner".into(), roots(&other))].into() };
    server.shared.identity.trust(&Arc::new(trusting));
    let cluster = cluster(SERVICE, &[(server.inbound, Some(SERVER))]);
    let Endpoints::Set(set) = &cluster.endpoints else { unreachable!("a set") };
    let identity = other.identity("spiffe://partner/ns/shop/sa/client");
    let shared = shared(settings(), Snapshot::default(), Some(identity));
    let trusted = TrustBundle { certificates: roots(&other), federated: [("mesh".into(), roots(&own))].into() };
    shared.identity.trust(&Arc::new(trusted));
    let stream = tls::connect(&shared, &cluster, &set[0], Alpn::H2).await.expect("connected").stream;
    let (mut sender, connection) = client::handshake(stream).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let request = Request::get("http://db.shop:3306/").body(()).expect("a request");
    let (response, _) = sender.send_request(request, true).expect("sent");
    let (_asked, _) = timeout(Duration::from_secs(20), silent.accept()).await.expect("in time").expect("asked");
    server.shared.identity.trust(&Arc::new(TrustBundle { certificates: roots(&own), federated: Default::default() }));
    timeout(Duration::from_secs(20), response).await.expect("in time").expect_err("it is cut");
    let _ = timeout(Duration::from_secs(20), connection).await.expect("in time");
    counted(&server, "malla_connections_refused_total{direction=\"inbound\",reason=\"tls_untrusted\"} 1").await;
}

#[tokio::test]
async fn a_stream_that_a_changed_policy_denies_is_ended() {
    let authority = Authority::new();
    let application = application().await;
    let server = guarded(&authority, application, Protocol::Tcp, only(CLIENT));
    let cluster = cluster(SERVICE, &[(server.inbound, Some(SERVER))]);
    let client = client(&authority, SERVICE, service(Protocol::Tcp, cluster));
    let mut socket = greeted(client.local[0]).await;
    // A change that still lets it in leaves it alone.
    server.shared.directory.replace(own_port(application, Protocol::Tcp, only(CLIENT)));
    echoes(&mut socket).await;
    server.shared.directory.replace(own_port(application, Protocol::Tcp, only(SERVER)));
    assert!(rest(&mut socket).await.is_err(), "a reset, not an end");
    counted(&server, &failed("denied")).await;
    counted(&server, "malla_authorization_denied_total{service=\"db.shop:3306\",policy=\"none\"} 1").await;
}

#[tokio::test]
async fn a_resumed_session_meets_the_rules_as_they_are_now() {
    let authority = Authority::new();
    let application = application().await;
    let server = guarded(&authority, application, Protocol::Tcp, only(CLIENT));
    let cluster = cluster(SERVICE, &[(server.inbound, Some(SERVER))]);
    let Endpoints::Set(set) = &cluster.endpoints else { unreachable!("a set") };
    let shared = shared(settings(), Snapshot::default(), Some(authority.identity(CLIENT)));
    for (allowed, expected) in
        [(CLIENT, HandshakeKind::Full), (CLIENT, HandshakeKind::Resumed), (SERVER, HandshakeKind::Resumed)]
    {
        server.shared.directory.replace(own_port(application, Protocol::Tcp, only(allowed)));
        let mut stream = tls::connect(&shared, &cluster, &set[0], Alpn::Tcp).await.expect("connected").stream;
        let Stream::Tls(tls) = &stream else { panic!("plain") };
        assert_eq!(tls.get_ref().get_ref().1.handshake_kind(), Some(expected));
        let mut greeting = [0; 6];
        let read = timeout(Duration::from_secs(20), stream.read_exact(&mut greeting)).await.expect("in time");
        assert_eq!(read.is_ok(), allowed == CLIENT);
    }
}
