//! Handshakes over loopback: who may, who may not, and with which words.

mod resumption;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, NamedGroup, version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

use super::{AcceptError, Alpn, ConnectError, Connected, Credentials, accept, connect};
use crate::decode::TrustBundle;
use crate::identity::{Identity, IdentityStore};
use crate::names::SpiffeId;
use crate::reason::Reason;
use crate::snapshot::{Cluster, Snapshot};
use crate::stream::{Replay, Stream};
use crate::testing::{Authority, cluster, settings, shared, spiffe};

const CLIENT: &str = "spiffe://mesh/ns/shop/sa/client";
const SERVER: &str = "spiffe://mesh/ns/shop/sa/server";

/// Accepts with an identity, echoes one byte, tells what it saw.
struct Server {
    address: SocketAddr,
    store: IdentityStore,
    seen: mpsc::Receiver<Result<(SpiffeId, Option<Alpn>), AcceptError>>,
}

impl Server {
    async fn start(identity: Option<Identity>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let (report, seen) = mpsc::channel(16);
        let store = IdentityStore::new();
        if let Some(identity) = identity {
            store.install(identity);
        }
        let own = store.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let credentials = own.credentials();
                let saw = match accept(credentials.as_deref(), Replay::from(socket)).await {
                    Ok(mut accepted) => {
                        if let Ok(byte) = accepted.stream.read_u8().await {
                            accepted.stream.write_u8(byte).await.expect("write");
                        }
                        Ok((accepted.peer, accepted.alpn))
                    }
                    Err(error) => Err(error),
                };
                report.send(saw).await.expect("the test listens");
            }
        });
        Server { address, store, seen }
    }

    async fn saw(&mut self) -> Result<(SpiffeId, Option<Alpn>), AcceptError> {
        self.seen.recv().await.expect("the server lives")
    }

    fn cluster(&self, identity: &str) -> Arc<Cluster> {
        cluster("server.shop:80", &[(self.address, Some(identity))])
    }
}

fn credentials(identity: &Identity) -> Arc<Credentials> {
    let key = identity.certified_key.clone();
    Arc::new(Credentials::new(key, identity.trust(), identity.not_after).expect("usable"))
}

async fn dial(identity: Option<Identity>, cluster: &Cluster, alpn: Alpn) -> Result<Connected, ConnectError> {
    let shared = shared(settings(), Snapshot::default(), identity);
    dial_from(&shared, cluster, alpn).await
}

async fn dial_from(shared: &crate::shared::Shared, cluster: &Cluster, alpn: Alpn) -> Result<Connected, ConnectError> {
    let crate::snapshot::Endpoints::Set(set) = &cluster.endpoints else { unreachable!("a set") };
    connect(shared, cluster, &set[0], alpn).await
}

async fn echo(stream: &mut Stream) {
    stream.write_u8(42).await.expect("write");
    stream.flush().await.expect("flush");
    assert_eq!(stream.read_u8().await.expect("read"), 42);
}

fn session(stream: &Stream) -> &rustls::CommonState {
    let Stream::Tls(tls) = stream else { panic!("plain") };
    tls.get_ref().get_ref().1
}

#[tokio::test]
async fn peers_of_one_mesh_know_each_other() {
    let authority = Authority::new();
    let mut server = Server::start(Some(authority.identity(SERVER))).await;
    for alpn in [Alpn::H2, Alpn::Tcp] {
        let client = Some(authority.identity(CLIENT));
        let mut connected = dial(client, &server.cluster(SERVER), alpn).await.expect("connected");
        assert_eq!(connected.peer, Some(spiffe(SERVER)));
        let session = session(&connected.stream);
        assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        assert_eq!(session.negotiated_key_exchange_group().map(|group| group.name()), Some(NamedGroup::X25519MLKEM768));
        echo(&mut connected.stream).await;
        assert_eq!(server.saw().await.expect("accepted"), (spiffe(CLIENT), Some(alpn)));
    }
}

#[tokio::test]
async fn a_resumed_session_is_checked_like_a_new_one() {
    let authority = Authority::new();
    let mut server = Server::start(Some(authority.identity(SERVER))).await;
    let shared = shared(settings(), Snapshot::default(), Some(authority.identity(CLIENT)));
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let mut connected = dial_from(&shared, &server.cluster(SERVER), Alpn::H2).await.expect("connected");
        assert_eq!(session(&connected.stream).handshake_kind(), Some(kind));
        echo(&mut connected.stream).await;
        assert_eq!(server.saw().await.expect("accepted").0, spiffe(CLIENT));
    }
    let other = server.cluster("spiffe://mesh/ns/shop/sa/other");
    let error = dial_from(&shared, &other, Alpn::H2).await.expect_err("another is expected");
    assert_eq!(error.reason(), Reason::TlsWrongIdentity);
}

#[tokio::test]
async fn endpoints_that_are_not_who_they_should_be() {
    let (authority, foreign) = (Authority::new(), Authority::new());
    let now = SystemTime::now();
    let valid = now - Duration::from_secs(60)..now + Duration::from_secs(60);
    let past = now - Duration::from_secs(120)..now - Duration::from_secs(60);
    let future = now + Duration::from_secs(60)..now + Duration::from_secs(120);
    for (what, identity, reason) in [
        ("another workload", authority.identity("spiffe://mesh/ns/shop/sa/server2"), Reason::TlsWrongIdentity),
        ("a prefix", authority.identity("spiffe://mesh/ns/shop/sa/serve"), Reason::TlsWrongIdentity),
        ("two URIs", authority.issue(&[SERVER, CLIENT], valid.clone()), Reason::TlsWrongIdentity),
        ("no URI", authority.issue(&[], valid.clone()), Reason::TlsWrongIdentity),
        ("a foreign authority", foreign.identity(SERVER), Reason::TlsUntrusted),
        ("not valid yet", authority.issue(&[SERVER], future), Reason::TlsUntrusted),
    ] {
        let server = Server::start(Some(identity)).await;
        let result = dial(Some(authority.identity(CLIENT)), &server.cluster(SERVER), Alpn::Tcp).await;
        assert_eq!(result.map(|_| ()).map_err(|error| error.reason()), Err(reason), "{what}");
    }
    // Our own accepting side would refuse to serve with it, so this server is not ours.
    let expired = authority.issue(&[SERVER], past);
    let mut late = Server::start(Some(Identity { not_after: now + Duration::from_secs(60), ..expired })).await;
    let result = dial(Some(authority.identity(CLIENT)), &late.cluster(SERVER), Alpn::Tcp).await;
    assert_eq!(result.map(|_| ()).map_err(|error| error.reason()), Err(Reason::TlsUntrusted), "expired");
    assert!(late.saw().await.is_err());
}

#[tokio::test]
async fn a_root_vouches_for_its_own_trust_domain_alone() {
    const PARTNER: &str = "spiffe://partner/ns/shop/sa/client";
    let (ours, theirs) = (Authority::new(), Authority::new());
    let roots = |authority: &Authority| authority.identity(CLIENT).trust_certificates;
    // Both sides know each other's roots.
    let here = |identity: Identity| Identity { federated: [("partner".into(), roots(&theirs))].into(), ..identity };
    let there = |identity: Identity| Identity { federated: [("mesh".into(), roots(&ours))].into(), ..identity };
    let mut server = Server::start(Some(here(ours.identity(SERVER)))).await;
    let partner = Some(there(theirs.identity(PARTNER)));
    let mut connected = dial(partner, &server.cluster(SERVER), Alpn::H2).await.expect("known by federation");
    echo(&mut connected.stream).await;
    assert_eq!(server.saw().await.expect("accepted").0, spiffe(PARTNER));
    for (what, client) in [
        ("their root for an identity of ours", there(theirs.identity(CLIENT))),
        ("our root for an identity of theirs", here(ours.identity(PARTNER))),
        ("their root for a third domain", there(theirs.identity("spiffe://third/ns/shop/sa/client"))),
    ] {
        // Whatever it is, it trusts the server.
        let all =
            [("mesh".into(), roots(&ours)), ("partner".into(), roots(&ours)), ("third".into(), roots(&ours))].into();
        let trust_anchors = ours.identity(CLIENT).trust_anchors;
        let client = Identity { federated: all, trust_anchors, ..client };
        if let Ok(mut connected) = dial(Some(client), &server.cluster(SERVER), Alpn::H2).await {
            let _ = connected.stream.write_u8(1).await;
            assert!(connected.stream.read_u8().await.is_err(), "{what}");
        }
        assert_eq!(server.saw().await.expect_err(what).reason(), Reason::TlsUntrusted, "{what}");
    }
    // And who is called is judged in the same way.
    let impostor = Server::start(Some(there(theirs.identity(SERVER)))).await;
    let error =
        dial(Some(here(ours.identity(CLIENT))), &impostor.cluster(SERVER), Alpn::H2).await.expect_err("not ours");
    assert_eq!(error.reason(), Reason::TlsUntrusted);
    // Without their roots they are nobody.
    let mut alone = Server::start(Some(ours.identity(SERVER))).await;
    if let Ok(mut connected) = dial(Some(there(theirs.identity(PARTNER))), &alone.cluster(SERVER), Alpn::H2).await {
        let _ = connected.stream.write_u8(1).await;
        assert!(connected.stream.read_u8().await.is_err());
    }
    assert_eq!(alone.saw().await.expect_err("refused").reason(), Reason::TlsUntrusted);
    // Until they are distributed.
    let federated = [("partner".into(), roots(&theirs))].into();
    alone.store.trust(&Arc::new(TrustBundle { certificates: roots(&ours), federated }));
    let partner = Some(there(theirs.identity(PARTNER)));
    let mut connected = dial(partner, &alone.cluster(SERVER), Alpn::H2).await.expect("known by now");
    echo(&mut connected.stream).await;
    assert_eq!(alone.saw().await.expect("accepted").0, spiffe(PARTNER));
}

#[tokio::test]
async fn the_clusters_identities_bind_besides_the_endpoints() {
    let authority = Authority::new();
    let server = Server::start(Some(authority.identity(SERVER))).await;
    let mut cluster = Arc::into_inner(server.cluster(SERVER)).expect("ours");
    cluster.tls.as_mut().expect("TLS").identities = vec![spiffe(CLIENT)];
    let error = dial(Some(authority.identity(CLIENT)), &cluster, Alpn::H2).await.expect_err("not in the set");
    assert!(matches!(error, ConnectError::WrongIdentity { .. }));
    cluster.tls = None;
    let error = dial(Some(authority.identity(CLIENT)), &cluster, Alpn::H2).await.expect_err("never in plaintext");
    assert!(matches!(error, ConnectError::NoTlsSettings { .. }));
}

#[tokio::test]
async fn one_of_the_clusters_identities_is_not_enough_where_the_endpoint_has_another() {
    let authority = Authority::new();
    let server = Server::start(Some(authority.identity(SERVER))).await;
    let mut cluster = Arc::into_inner(server.cluster(CLIENT)).expect("ours");
    cluster.tls.as_mut().expect("TLS").identities = vec![spiffe(SERVER), spiffe(CLIENT)];
    let error = dial(Some(authority.identity(CLIENT)), &cluster, Alpn::H2).await.expect_err("another endpoint's");
    assert!(matches!(error, ConnectError::WrongIdentity { .. }), "{error}");
}

#[tokio::test]
async fn an_identity_that_is_missing_or_expired_fails_closed() {
    let authority = Authority::new();
    let server = Server::start(Some(authority.identity(SERVER))).await;
    let error = dial(None, &server.cluster(SERVER), Alpn::H2).await.expect_err("no identity");
    assert_eq!((error.reason(), error.elsewhere()), (Reason::IdentityMissing, false));
    let now = SystemTime::now();
    let past = || authority.issue(&[CLIENT], now - Duration::from_secs(120)..now - Duration::from_secs(60));
    let error = dial(Some(past()), &server.cluster(SERVER), Alpn::H2).await.expect_err("expired");
    assert_eq!((error.reason(), error.elsewhere()), (Reason::IdentityExpired, false));
    assert!(error.to_string().contains("expired"), "{error}");
    let store = shared(settings(), Snapshot::default(), Some(past())).identity.clone();
    assert_eq!(store.current().err(), Some(Reason::IdentityExpired));

    for (identity, reason) in [(None, Reason::IdentityMissing), (Some(past()), Reason::IdentityExpired)] {
        let mut server = Server::start(identity).await;
        let error =
            dial(Some(authority.identity(CLIENT)), &server.cluster(SERVER), Alpn::H2).await.expect_err("closed");
        assert_eq!(error.reason(), Reason::TlsFailed);
        assert_eq!(server.saw().await.expect_err("refused").reason(), reason);
    }
}

#[tokio::test]
async fn clients_that_are_not_of_the_mesh_are_refused() {
    let (authority, foreign) = (Authority::new(), Authority::new());
    let mut server = Server::start(Some(authority.identity(SERVER))).await;
    let now = SystemTime::now();
    let valid = now - Duration::from_secs(60)..now + Duration::from_secs(60);
    for (what, client, reason) in [
        ("a foreign authority", foreign.identity(CLIENT), Reason::TlsUntrusted),
        ("two URIs", authority.issue(&[CLIENT, SERVER], valid.clone()), Reason::TlsWrongIdentity),
        ("no URI", authority.issue(&[], valid), Reason::TlsWrongIdentity),
    ] {
        // It trusts our authority, whatever its own certificate is.
        let Identity { spiffe_id, trust_anchors, .. } = authority.identity(CLIENT);
        let client = Identity { spiffe_id, trust_anchors, ..client };
        // In TLS 1.3 a client is done before it hears what the server thinks of its certificate.
        if let Ok(mut connected) = dial(Some(client), &server.cluster(SERVER), Alpn::H2).await {
            let _ = connected.stream.write_u8(1).await;
            assert!(connected.stream.read_u8().await.is_err(), "{what}");
        }
        assert_eq!(server.saw().await.expect_err(what).reason(), reason, "{what}");
    }

    let ours = credentials(&authority.identity(CLIENT));
    let config = |provider, versions: &[&'static rustls::SupportedProtocolVersion]| {
        ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .expect("versions")
            .dangerous()
            .with_custom_certificate_verifier(ours.verifier.clone())
            .with_no_client_auth()
    };
    for (what, config, reason) in [
        ("no certificate", config(default_provider(), &[&version::TLS13]), Reason::TlsUntrusted),
        ("TLS 1.2", config(default_provider(), &[&version::TLS12]), Reason::TlsFailed),
    ] {
        let socket = TcpStream::connect(server.address).await.expect("connect");
        let name = ServerName::try_from("80.server.shop.mesh").expect("a name");
        if let Ok(mut stream) = TlsConnector::from(Arc::new(config)).connect(name, socket).await {
            let _ = stream.write_u8(1).await;
            assert!(stream.read_u8().await.is_err(), "{what}");
        }
        assert_eq!(server.saw().await.expect_err(what).reason(), reason, "{what}");
    }

    let mut garbage = TcpStream::connect(server.address).await.expect("connect");
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("write");
    assert_eq!(server.saw().await.expect_err("garbage").reason(), Reason::TlsFailed);
    let mut connected =
        dial(Some(authority.identity(CLIENT)), &server.cluster(SERVER), Alpn::H2).await.expect("others are unaffected");
    echo(&mut connected.stream).await;
}

#[tokio::test]
async fn failures_before_the_handshake_have_words() {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    let mut silent = Arc::into_inner(cluster("a.b:1", &[(address, Some(SERVER))])).expect("ours");
    silent.connect_timeout = Duration::from_millis(50);
    let error = dial(Some(authority.identity(CLIENT)), &silent, Alpn::H2).await.expect_err("it says nothing");
    assert_eq!((error.reason(), error.elsewhere()), (Reason::ConnectTimeout, true));
    drop(listener);
    for identity in [Some(SERVER), None] {
        let refused = cluster("a.b:1", &[(address, identity)]);
        let error = dial(Some(authority.identity(CLIENT)), &refused, Alpn::H2).await.expect_err("nobody listens");
        assert_eq!((error.reason(), error.elsewhere()), (Reason::ConnectRefused, true));
        assert!(error.to_string().contains(&address.to_string()));
    }
}
