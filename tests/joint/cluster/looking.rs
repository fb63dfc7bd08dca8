//! People look from elsewhere, with tokens of service accounts.

use std::sync::Arc;

use http::StatusCode;
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use malla_control::run::Control;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;

use super::joining::{answer, token};
use super::{Fixture, pod, service, slice};

/// How a look with a token is answered.
async fn look(control: &Control, token: &str) -> StatusCode {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(control.trust_bundle().as_bytes()) {
        roots.add(root.expect("a certificate")).expect("a root");
    }
    let mut config = ClientConfig::builder_with_provider(malla_proxy::tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("a version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let socket = tokio::net::TcpStream::connect(control.xds_address()).await.expect("connects");
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, socket).await.expect("TLS");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection);
    let request =
        http::Request::get("https://127.0.0.1/traffic.json").header("authorization", format!("Bearer {token}"));
    let request = request.body(Empty::<bytes::Bytes>::new()).expect("a request");
    sender.send_request(request).await.expect("an answer").status()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_bound_to_no_pod_is_good_for_looking() {
    let observed = json!({ "apiVersion": "malla.dev/v1alpha1", "kind": "Mesh", "metadata": { "name": "mesh" },
        "spec": { "observers": [{ "namespace": "shop", "serviceAccount": "cart" }] } });
    let objects =
        [service("cart"), slice("cart", &[("cart-1", "127.0.0.1")]), pod("cart-2", "cart", "10.0.0.2"), observed];
    let mesh = Fixture::new(&objects).await;
    mesh.serves_cluster("cart.shop:80").await;
    let unbound = |account: &str| {
        json!({ "authenticated": true, "audiences": ["malla"],
        "user": { "username": format!("system:serviceaccount:shop:{account}") } })
    };
    let (right, wrong, stolen) = (token("malla", "none"), token("malla", "other"), token("malla", "cart-2"));
    mesh.cluster.know_token(&right, unbound("cart"));
    mesh.cluster.know_token(&wrong, unbound("pay"));
    mesh.cluster.know_token(&stolen, answer("cart-2", "uid-of-cart-2"));
    assert_eq!(look(&mesh.control, &right).await, StatusCode::OK);
    assert_eq!(look(&mesh.control, &wrong).await, StatusCode::FORBIDDEN);
    assert_eq!(look(&mesh.control, &stolen).await, StatusCode::UNAUTHORIZED, "it is good for its pod alone");
    assert_eq!(look(&mesh.control, &token("malla", "unknown")).await, StatusCode::UNAUTHORIZED);
}
