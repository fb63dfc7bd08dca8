//! A session that is resumed proves no more than a new one would: who may not come in now does not by having been there before.

use super::*;
use crate::testing::cluster;

/// A client of the server: its connections, and what its handshakes were.
struct Client {
    shared: Arc<crate::shared::Shared>,
    cluster: Arc<Cluster>,
}

impl Client {
    fn new(server: &Server, identity: Identity) -> Client {
        let shared = shared(settings(), Snapshot::default(), Some(identity));
        Client { shared, cluster: server.cluster(SERVER) }
    }

    /// Connects; has got the server's ticket when it returns.
    async fn connect(&self) -> HandshakeKind {
        let mut connected = dial_from(&self.shared, &self.cluster, Alpn::H2).await.expect("connected");
        let kind = session(&connected.stream).handshake_kind().expect("it is complete");
        echo(&mut connected.stream).await;
        kind
    }
}

#[tokio::test]
async fn a_ticket_is_used_once_and_by_who_was_given_it() {
    let authority = Authority::new();
    let mut server = Server::start(Some(authority.identity(SERVER))).await;
    let client = Client::new(&server, authority.identity(CLIENT));
    for expected in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
        assert_eq!(client.connect().await, expected);
        assert_eq!(server.saw().await.expect("accepted").0, spiffe(CLIENT));
    }
    // The sidecar is another workload's by now: nothing of the first is left.
    let other = "spiffe://mesh/ns/shop/sa/other";
    client.shared.identity.install(authority.identity(other));
    assert_eq!(client.connect().await, HandshakeKind::Full);
    assert_eq!(server.saw().await.expect("accepted").0, spiffe(other));
}

#[tokio::test]
async fn tickets_end_with_the_certificates_of_either_side() {
    let authority = Authority::new();
    let mut server = Server::start(Some(authority.identity(SERVER))).await;
    let client = Client::new(&server, authority.identity(CLIENT));
    let renewed = [&client.shared.identity, &server.store];
    for side in renewed {
        client.connect().await;
        assert_eq!(client.connect().await, HandshakeKind::Resumed);
        let again = side.last().expect("there is one").spiffe_id.clone();
        side.install(authority.identity(again.as_str()));
        assert_eq!(client.connect().await, HandshakeKind::Full, "what was agreed before is forgotten");
    }
    drop(server.saw().await);
}

#[tokio::test]
async fn a_root_that_is_retired_ends_what_was_agreed_under_it() {
    let (authority, next) = (Authority::new(), Authority::new());
    let mut server = Server::start(Some(authority.identity(SERVER))).await;
    let client = Client::new(&server, authority.identity(CLIENT));
    client.connect().await;
    assert_eq!(client.connect().await, HandshakeKind::Resumed);
    for _ in 0..2 {
        assert!(server.saw().await.is_ok());
    }
    // The server trusts the next root alone; its own certificate is still of the old one, which the client trusts.
    let certificates = next.identity(SERVER).trust_certificates;
    server.store.trust(&Arc::new(TrustBundle { certificates, federated: Default::default() }));
    if let Ok(mut connected) = dial_from(&client.shared, &client.cluster, Alpn::H2).await {
        let _ = connected.stream.write_u8(1).await;
        assert!(connected.stream.read_u8().await.is_err(), "nothing is served");
    }
    assert_eq!(server.saw().await.expect_err("refused").reason(), Reason::TlsUntrusted);
}

#[tokio::test]
async fn a_certificate_that_has_expired_since_is_refused_on_resumption() {
    let authority = Authority::new();
    let mut server = Server::start(Some(authority.identity(SERVER))).await;
    let now = SystemTime::now();
    let brief = authority.issue(&[CLIENT], now - Duration::from_secs(60)..now + Duration::from_secs(2));
    // Certificates tell time in whole seconds.
    let end = brief.not_after + Duration::from_secs(1);
    // A client that does not look at its own clock.
    let client = Client::new(&server, Identity { not_after: now + Duration::from_secs(3600), ..brief });
    client.connect().await;
    assert!(server.saw().await.is_ok());
    while let Ok(left) = end.duration_since(SystemTime::now()) {
        tokio::time::sleep(left.max(Duration::from_millis(1))).await;
    }
    let mut connected = dial_from(&client.shared, &client.cluster, Alpn::H2).await.expect("it is done first");
    assert_eq!(session(&connected.stream).handshake_kind(), Some(HandshakeKind::Resumed), "the ticket is still good");
    let _ = connected.stream.write_u8(1).await;
    assert!(connected.stream.read_u8().await.is_err(), "nothing is served");
    assert_eq!(server.saw().await.expect_err("refused").reason(), Reason::TlsUntrusted);
}

#[tokio::test]
async fn a_ticket_of_one_endpoint_opens_no_other() {
    let authority = Authority::new();
    let (first, second) = ("spiffe://mesh/ns/shop/sa/first", "spiffe://mesh/ns/shop/sa/second");
    let mut one = Server::start(Some(authority.identity(first))).await;
    let mut two = Server::start(Some(authority.identity(second))).await;
    // Endpoints of one service, which have one server name and so share what the client remembers.
    let service = cluster("server.shop:80", &[(one.address, Some(first)), (two.address, Some(second))]);
    let crate::snapshot::Endpoints::Set(set) = &service.endpoints else { unreachable!("a set") };
    let shared = shared(settings(), Snapshot::default(), Some(authority.identity(CLIENT)));
    for endpoint in [&set[0], &set[1], &set[0]] {
        let mut connected = connect(&shared, &service, endpoint, Alpn::H2).await.expect("connected");
        assert_eq!(connected.peer, endpoint.identity);
        echo(&mut connected.stream).await;
    }
    for server in [&mut one, &mut two] {
        assert_eq!(server.saw().await.expect("accepted").0, spiffe(CLIENT));
    }
}
