//! The webhook as an API server asks it: over TLS, verified by the name of the service and the control server's root.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::run::{Control, ControlSettings, WebhookSettings};

struct Server {
    control: Control,
    _directory: tempfile::TempDir,
}

impl Server {
    fn start() -> Server {
        let directory = tempfile::tempdir().expect("a directory");
        let mesh = directory.path().join("mesh");
        std::fs::create_dir(&mesh).expect("a directory");
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let control = Control::start(ControlSettings {
            listen: any_port,
            admin: any_port,
            webhook: Some(WebhookSettings {
                listen: any_port,
                injection: InjectionSettings::new("malla-proxy:test", "replaced"),
            }),
            ..ControlSettings::new(mesh, directory.path().join("state"))
        });
        Server { control: control.expect("starts"), _directory: directory }
    }

    fn address(&self) -> SocketAddr {
        self.control.webhook_address().expect("there is one")
    }

    async fn connect(&self, alpn: &[u8]) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(self.control.trust_bundle().as_bytes()).expect("PEM");
        roots.add(root).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        let socket = TcpStream::connect(self.address()).await.expect("connects");
        let name = ServerName::try_from("malla-control.malla-system.svc").expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, socket).await.expect("is trusted")
    }

    async fn ask(&self, method: Method, path: &str, body: Vec<u8>) -> (StatusCode, String) {
        let stream = TokioIo::new(self.connect(b"h2").await);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.expect("HTTP/2");
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(format!("https://malla-control.malla-system.svc{path}"));
        let request = request.body(Full::new(Bytes::from(body))).expect("a request");
        let response = sender.send_request(request).await.expect("answered");
        let status = response.status();
        let body = response.into_body().collect().await.expect("whole").to_bytes();
        (status, String::from_utf8(body.into()).expect("UTF-8"))
    }

    async fn metrics(&self) -> String {
        let mut socket = TcpStream::connect(self.control.admin_address()).await.expect("connects");
        socket.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("sent");
        let mut text = String::new();
        socket.read_to_string(&mut text).await.expect("read");
        text
    }
}

fn fixtures() -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/inject/fixtures");
    let mut fixtures: Vec<_> = std::fs::read_dir(directory)
        .expect("is there")
        .map(|entry| entry.expect("readable").path())
        .map(|path| {
            (path.file_stem().expect("a name").to_string_lossy().into_owned(), std::fs::read(&path).expect("read"))
        })
        .collect();
    fixtures.sort();
    fixtures
}

#[tokio::test]
async fn recorded_reviews_are_answered_over_tls_as_injection_decides() {
    let server = Server::start();
    let fixtures = fixtures();
    assert_eq!(fixtures.len(), 13);
    for (name, body) in &fixtures {
        let (status, text) = server.ask(Method::POST, "/inject/namespace", body.clone()).await;
        assert_eq!(status, StatusCode::OK, "{name}: {text}");
        let mut settings = InjectionSettings::new("malla-proxy:test", "");
        settings.trust = server.control.trust_bundle().to_string();
        let expected = review(body, Namespace { enabled: true, pod_security: None }, &settings).expect("is a review");
        assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), expected.body, "{name}");
    }
    let (_, text) = server.ask(Method::POST, "/inject/pod", fixtures[0].1.clone()).await;
    assert!(text.contains("neither its namespace nor the pod itself"), "{text}");
    let restricted = fixtures.iter().find(|(name, _)| name == "restricted-app").expect("is there");
    let (_, text) = server.ask(Method::POST, "/inject/namespace/restricted", restricted.1.clone()).await;
    assert!(text.contains("Pod Security level `restricted`"), "{text}");
    let metrics = server.metrics().await;
    for line in [
        "malla_control_admission_reviews_total{outcome=\"injected\"} 8",
        "malla_control_admission_reviews_total{outcome=\"denied\"} 2",
        "malla_control_admission_reviews_total{outcome=\"host_network\"} 1",
        "malla_control_admission_review_seconds_count 15",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

#[tokio::test]
async fn what_is_no_question_is_refused_in_words_and_counted() {
    let server = Server::start();
    let too_large = vec![b' '; LARGEST + 1];
    for (method, path, body, status, words) in [
        (Method::POST, "/inject/namespace", b"garbage".to_vec(), StatusCode::BAD_REQUEST, "this is no AdmissionReview"),
        (Method::POST, "/inject/pod", b"{}".to_vec(), StatusCode::BAD_REQUEST, "missing field"),
        (Method::POST, "/inject/namespace", too_large, StatusCode::PAYLOAD_TOO_LARGE, "4 MiB at most"),
        (Method::POST, "/inject/everything", Vec::new(), StatusCode::NOT_FOUND, "the paths are /inject/namespace"),
        (Method::POST, "/inject/pod/privileged", Vec::new(), StatusCode::NOT_FOUND, "the paths are"),
        (Method::GET, "/inject/pod", Vec::new(), StatusCode::METHOD_NOT_ALLOWED, "are sent by POST"),
        (Method::GET, "/ready", Vec::new(), StatusCode::OK, "ready"),
    ] {
        let (answered, text) = server.ask(method, path, body).await;
        assert_eq!(answered, status, "{path}: {text}");
        assert!(text.contains(words), "{text}");
    }
    let metrics = server.metrics().await;
    for (reason, count) in [("bad_review", 2), ("too_large", 1), ("wrong_request", 3), ("slow_body", 0)] {
        let line = format!("malla_control_admission_reviews_refused_total{{reason=\"{reason}\"}} {count}");
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }
}

#[tokio::test]
async fn http_1_is_spoken_too_and_an_answer_takes_milliseconds() {
    let server = Server::start();
    let stream = TokioIo::new(server.connect(b"http/1.1").await);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.expect("HTTP/1.1");
    tokio::spawn(connection);
    let (_, body) = fixtures().remove(2);
    let mut quickest = Duration::MAX;
    for _ in 0..20 {
        let request = Request::post("/inject/namespace")
            .header("host", "malla-control")
            .body(Full::new(Bytes::from(body.clone())));
        let started = Instant::now();
        let response = sender.send_request(request.expect("a request")).await.expect("answered");
        assert_eq!(response.status(), StatusCode::OK);
        drop(response.into_body().collect().await.expect("whole"));
        quickest = quickest.min(started.elapsed());
        sender.ready().await.expect("goes on");
    }
    assert!(quickest < Duration::from_millis(50), "{quickest:?}");
}

#[tokio::test]
async fn it_stops_with_open_connections() {
    let server = Server::start();
    let _open = server.connect(b"h2").await;
    let address = server.address();
    tokio::time::timeout(Duration::from_secs(9), server.control.stop()).await.expect("stops");
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn settings_that_would_make_broken_pods_do_not_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let settings = ControlSettings {
        listen: any_port,
        admin: any_port,
        webhook: Some(WebhookSettings { listen: any_port, injection: InjectionSettings::new("", "") }),
        ..ControlSettings::new(directory.path(), directory.path().join("state"))
    };
    let error = Control::start(settings).expect_err("is refused");
    assert_eq!(error.to_string(), "the admission webhook would make broken pods");
}
