//! Each field of a `TCPRoute` and of a `TLSRoute`, from YAML through the control server, xDS and the sidecar to which application a
//! connection reaches, and what arrives there.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use crate::documents::{policy, route, service};
use crate::local::{CLIENT, Local, PATIENCE, exchange};

/// Starts an application that answers what comes first on a connection with its name and with what has come, and closes it.
async fn application(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut come = vec![0; 4096];
                if let Ok(length @ 1..) = socket.read(&mut come).await {
                    come.truncate(length);
                    let _ = socket.write_all(&[name.as_bytes(), b" ", &come].concat()).await;
                }
            });
        }
    });
    address
}

/// Says something on a new connection, and returns all that comes; nothing where it is closed at once.
async fn say(to: SocketAddr, words: &[u8]) -> Vec<u8> {
    let Ok(mut socket) = TcpStream::connect(to).await else { return Vec::new() };
    let _ = socket.write_all(words).await;
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("in time");
    answer
}

/// Which application answers, if any, having got what was said.
async fn who(to: SocketAddr, words: &[u8]) -> String {
    let answer = say(to, words).await;
    let Some(at) = answer.iter().position(|byte| *byte == b' ') else { return String::new() };
    let (name, come) = (&answer[..at], &answer[at + 1..]);
    assert!(words.starts_with(come) && !come.is_empty(), "it got {come:?}");
    String::from_utf8_lossy(name).into_owned()
}

fn backends(backends: &str) -> [String; 1] {
    [format!("  - {{backendRefs: [{backends}]}}\n")]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tcp_route_divides_connections() {
    const SERVICES: [&str; 7] = ["plain", "one", "split", "closed", "abroad", "part", "either"];
    let (front, a, b) = (application("front").await, application("a").await, application("b").await);
    let tcp = |name: &str, to: &str| route("TCPRoute", name, name, "", &backends(to));
    let fronts = SERVICES.map(|name| service(name, if name == "either" { "" } else { "tcp" }, &[front]));
    let elsewhere = service("elsewhere", "tcp", &[b]).replace("namespace: shop", "namespace: other");
    let mesh = [
        CLIENT.replace("namespaces: {shop: permissive}", "namespaces: {shop: permissive, other: permissive}"),
        fronts.concat(),
        service("a", "tcp", &[a]),
        service("b", "tcp", &[b]),
        elsewhere,
        tcp("one", "{name: a, port: 80}"),
        tcp("split", "{name: a, port: 80, weight: 3}, {name: b, port: 80, weight: 1}, {name: front, port: 80, weight: 0}")
            .replace("name: front", "name: plain"),
        tcp("closed", "{name: a, port: 80, weight: 0}"),
        tcp("abroad", "{name: elsewhere, namespace: other, port: 80}"),
        "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {name: shop, namespace: other}\n\
         spec:\n  from: [{group: gateway.networking.k8s.io, kind: TCPRoute, namespace: shop}]\n  \
         to: [{group: '', kind: Service}]\n---\n"
            .to_owned(),
        tcp("part", "{group: malla.dev, kind: Subset, name: labelled.b, port: 80}"),
        workloads([("a", a), ("b", b)]),
        policy("labelled", "subsets: [{name: b, labels: {is: b}}]"),
        tcp("either", "{name: b, port: 80}"),
        route(
            "HTTPRoute",
            "either",
            "either",
            "",
            &["  - {filters: [{type: RequestRedirect, requestRedirect: {hostname: http.example}}]}\n".to_owned()],
        ),
    ];
    let destinations = SERVICES.map(|name| format!("{name}.shop:80"));
    let local = Local::start(&mesh.concat(), &destinations.each_ref().map(String::as_str));
    let at = |name: &str| local.listening[SERVICES.iter().position(|known| *known == name).expect("a service")];
    for (service, expected) in
        [("plain", "front"), ("one", "a"), ("closed", ""), ("abroad", "b"), ("part", "b"), ("either", "b")]
    {
        for _ in 0..4 {
            assert_eq!(who(at(service), b"hello\n").await, expected, "{service}");
        }
    }
    let by_http = exchange(at("either"), "GET", "/", "").await;
    assert!(by_http.contains("location: http://http.example/"), "{by_http}");
    // Of each four in a row three and one.
    let mut to_b = 0;
    for _ in 0..40 {
        to_b += usize::from(who(at("split"), b"hello\n").await == "b");
    }
    assert_eq!(to_b, 10);
    local.stop().await;
}

/// Workloads behind a service `labelled`, each with its name as a label.
fn workloads(applications: [(&str, SocketAddr); 2]) -> String {
    let workloads = applications.map(|(name, address)| {
        format!(
            "apiVersion: malla.dev/v1alpha1\nkind: Workload\n\
             metadata: {{name: labelled-{name}, namespace: shop, labels: {{app: labelled, is: {name}}}}}\n\
             spec: {{address: {}, ports: {{main: {}}}, sidecar: {{mode: none}}}}\n---\n",
            address.ip(),
            address.port()
        )
    });
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: labelled, namespace: shop}\n\
                   spec: {selector: {app: labelled}, ports: [{name: main, port: 80, targetPort: main, appProtocol: tcp}]}\n---\n";
    workloads.concat() + service
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_on_which_nothing_moves_is_closed() {
    let application = application("a").await;
    let mesh = [CLIENT.to_owned(), service("quiet", "tcp", &[application]), policy("quiet", "timeouts: {idle: 1s}")];
    let local = Local::start(&mesh.concat(), &["quiet.shop:80"]);
    let begun = Instant::now();
    assert_eq!(say(local.listening[0], b"").await, b"");
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    local.stop().await;
}

/// What a client of TLS says first, to a server of this name.
fn client_hello(name: ServerName<'static>) -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("a vector takes everything");
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tls_route_chooses_by_server_name_without_decryption() {
    let mut applications = Vec::new();
    for name in ["front", "a", "b", "c"] {
        let address = application(name).await;
        applications.push(service(name, "tls", &[address]));
    }
    let tls = |name: &str, hostnames: &str, to: &str| {
        route("TLSRoute", name, "front", &format!("  hostnames: [{hostnames}]\n"), &backends(to))
    };
    let mesh = [
        CLIENT.to_owned(),
        applications.concat(),
        tls("exact", "one.example, two.example", "{name: a, port: 80}"),
        tls("wild", "'*.example'", "{name: b, port: 80}"),
        tls("deep", "'*.deep.example'", "{name: c, port: 80}"),
        tls("closed", "closed.example", "{name: a, port: 80, weight: 0}"),
        tls("split", "split.example", "{name: a, port: 80, weight: 3}, {name: b, port: 80, weight: 1}"),
    ];
    let local = Local::start(&mesh.concat(), &["front.shop:80"]);
    let front = local.listening[0];
    let asks = async |name: &str| {
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        who(front, &client_hello(name)).await
    };
    for (name, expected) in [
        ("one.example", "a"),
        ("two.example", "a"),
        ("three.example", "b"),
        ("below.three.example", "b"),
        ("deep.example", "b"),
        ("x.deep.example", "c"),
        ("closed.example", ""),
        // No route is for these: the service itself.
        ("example", "front"),
        ("one.example.org", "front"),
    ] {
        assert_eq!(asks(name).await, expected, "{name}");
    }
    let without_name = client_hello(ServerName::IpAddress(Ipv4Addr::LOCALHOST.into()));
    assert_eq!(who(front, &without_name).await, "front");
    let mut to_b = 0;
    for _ in 0..40 {
        to_b += usize::from(asks("split.example").await == "b");
    }
    assert_eq!(to_b, 10);
    local.stop().await;
}
