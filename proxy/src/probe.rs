//! What the sidecar asks its own application in the place of others that have no certificate of the mesh: checks of an orchestrator, and
//! the application's metrics. Only what the settings name can be asked, at the address at which the sidecar itself was asked.
//!
//! Each question makes a connection of its own, and is bounded in time and size.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use malla_xds::probes::{Ask, Probe};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use crate::health_check;
use crate::settings::Scrape;
use crate::stream::{Replay, Stream};

/// Longest answer to a check that is read, and passed on if the check fails.
const LONGEST_ANSWER: usize = 4096;
/// Largest page of metrics.
const LARGEST_PAGE: usize = 16 << 20;
/// How long the application may take for its metrics: Prometheus gives up after ten seconds by default.
const SCRAPE_LIMIT: Duration = Duration::from_secs(8);

/// A status and a sentence for who asked.
pub(crate) type Verdict = (StatusCode, String);

/// Makes a check. The status is 200 if it is good, else the application's own or one that says what went wrong.
pub(crate) async fn check(probe: &Probe, at: IpAddr) -> Verdict {
    let address = SocketAddr::new(at, probe.port);
    let limit = Duration::from_secs(probe.timeout_seconds.into());
    match timeout(limit, ask(&probe.ask, address)).await {
        Ok(verdict) => verdict,
        Err(_) => {
            (StatusCode::GATEWAY_TIMEOUT, format!("{address} did not answer within {} s\n", probe.timeout_seconds))
        }
    }
}

async fn ask(question: &Ask, address: SocketAddr) -> Verdict {
    let socket = match connect(address).await {
        Ok(socket) => socket,
        Err(sentence) => return (StatusCode::SERVICE_UNAVAILABLE, sentence),
    };
    match question {
        Ask::Tcp => (StatusCode::OK, format!("{address} accepts connections\n")),
        Ask::Grpc { service } => {
            if health_check::serves(Stream::from(Replay::from(socket)), &address.to_string(), service).await {
                (StatusCode::OK, format!("{address} is SERVING\n"))
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, format!("{address} does not say that {service:?} is SERVING\n"))
            }
        }
        Ask::Http { path, tls, headers } => {
            let asked = match request(address, path, headers) {
                Ok(request) if *tls => match over_tls(socket, address.ip()).await {
                    Ok(stream) => exchange(stream, request, LONGEST_ANSWER).await,
                    Err(cause) => Err(cause),
                },
                Ok(request) => exchange(socket, request, LONGEST_ANSWER).await,
                Err(cause) => Err(cause),
            };
            match asked {
                Ok((status, _)) if (200..400).contains(&status.as_u16()) => (StatusCode::OK, format!("{status}\n")),
                Ok((status, body)) => (status, String::from_utf8_lossy(&body).into_owned()),
                Err(cause) => (StatusCode::BAD_GATEWAY, format!("asking {address}: {cause}\n")),
            }
        }
    }
}

/// The sidecar's metrics, and the application's behind them, as text that every Prometheus reads. A last line tells whether the application
/// has answered.
pub(crate) async fn merged(own: &str, scrape: &Scrape, at: IpAddr) -> String {
    let address = SocketAddr::new(at, scrape.port);
    let page = match timeout(SCRAPE_LIMIT, metrics(scrape, address)).await {
        Ok(page) => page,
        Err(_) => Err("it takes too long".to_owned()),
    };
    let mut text = String::with_capacity(own.len() + page.as_ref().map_or(0, String::len) + 256);
    let lines = |page: &str, text: &mut String| {
        for line in page.lines().filter(|line| *line != "# EOF") {
            text.push_str(line);
            text.push('\n');
        }
    };
    lines(own, &mut text);
    let up = page.is_ok();
    match page {
        Ok(page) => lines(&page, &mut text),
        Err(cause) => {
            tracing::warn!(%address, %cause, "the application's metrics cannot be read");
        }
    }
    text.push_str("# TYPE malla_application_scraped gauge\n");
    text.push_str("# HELP malla_application_scraped Whether the application has given its metrics\n");
    text.push_str(if up { "malla_application_scraped 1\n" } else { "malla_application_scraped 0\n" });
    text
}

async fn metrics(scrape: &Scrape, address: SocketAddr) -> Result<String, String> {
    let accept = [("accept".to_owned(), "text/plain;version=0.0.4".to_owned())];
    let request = request(address, &scrape.path, &accept)?;
    let (status, body) = exchange(connect(address).await?, request, LARGEST_PAGE + 1).await?;
    if status != StatusCode::OK {
        return Err(format!("it answers {status}"));
    }
    if body.len() > LARGEST_PAGE {
        return Err(format!("they are more than {} MiB", LARGEST_PAGE >> 20));
    }
    String::from_utf8(body.into()).map_err(|_| "they are not UTF-8".to_owned())
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|cause| format!("connecting to {address}: {cause}\n"))
}

fn request(address: SocketAddr, path: &str, headers: &[(String, String)]) -> Result<Request<Empty<Bytes>>, String> {
    let mut request = Request::get(path).header(header::CONNECTION, "close");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let mut request = request.body(Empty::new()).map_err(|cause| cause.to_string())?;
    let defaults = request.headers_mut();
    if !defaults.contains_key(header::HOST) {
        // An address is always a header value.
        let host = address.to_string().parse().map_err(|_| "the address is no host".to_owned())?;
        defaults.insert(header::HOST, host);
    }
    defaults.entry(header::USER_AGENT).or_insert(http::HeaderValue::from_static("kube-probe/malla"));
    defaults.entry(header::ACCEPT).or_insert(http::HeaderValue::from_static("*/*"));
    Ok(request)
}

/// One request; the status, and the first bytes of the answer.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Empty<Bytes>>,
    most: usize,
) -> Result<(StatusCode, Bytes), String> {
    let words = |cause: &dyn Display| cause.to_string();
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|cause| words(&cause))?;
    let _driving = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
    let response = sender.send_request(request).await.map_err(|cause| words(&cause))?;
    let status = response.status();
    let (mut incoming, mut body) = (response.into_body(), BytesMut::new());
    while let Some(frame) = incoming.frame().await {
        if let Ok(data) = frame.map_err(|cause| words(&cause))?.into_data() {
            body.extend_from_slice(data.get(..data.len().min(most - body.len())).unwrap_or_default());
        }
        if body.len() >= most {
            break;
        }
    }
    Ok((status, body.freeze()))
}

async fn over_tls(socket: TcpStream, at: IpAddr) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let provider = crate::tls::provider();
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|cause| cause.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(ServerName::IpAddress(at.into()), socket).await.map_err(|cause| cause.to_string())
}

/// Takes every certificate: the question is whether the application answers, not who it is, and nothing secret is sent.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::http::testing::{read_until, scripted};

    fn http(path: &str, tls: bool, headers: &[(&str, &str)]) -> Ask {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Ask::Http { path: path.to_owned(), tls, headers }
    }

    async fn checked(ask: Ask, address: SocketAddr) -> Verdict {
        check(&Probe { port: address.port(), ask, timeout_seconds: 5 }, address.ip()).await
    }

    #[tokio::test]
    async fn the_application_is_asked_in_the_words_of_the_check() {
        let (address, _running) = scripted(|_, mut socket| async move {
            let asked = read_until(&mut socket, "\r\n\r\n").await;
            assert!(asked.contains("x-probe: 1\r\n") && asked.contains("host: cart\r\n"), "{asked}");
            let status = if asked.starts_with("GET /live?full HTTP/1.1\r\n") { "302 x" } else { "503 x" };
            let _ = socket.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 4\r\n\r\nwhy\n").as_bytes()).await;
        })
        .await;
        let headers = [("x-probe", "1"), ("host", "cart")];
        assert_eq!(checked(http("/live?full", false, &headers), address).await.0, StatusCode::OK);
        let verdict = checked(http("/else", false, &headers), address).await;
        assert_eq!(verdict, (StatusCode::SERVICE_UNAVAILABLE, "why\n".to_owned()));
    }

    #[tokio::test]
    async fn over_tls_every_certificate_is_taken() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = rcgen::CertificateParams::default().self_signed(&key).expect("signed");
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let config = rustls::ServerConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("a certificate");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (address, _running) = scripted(move |_, socket| {
            let acceptor = acceptor.clone();
            async move {
                let mut stream = acceptor.accept(socket).await.expect("a handshake");
                let _ = stream.write_all(b"HTTP/1.1 200 x\r\ncontent-length: 0\r\n\r\n").await;
                let _ = stream.flush().await;
                let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
            }
        })
        .await;
        assert_eq!(checked(http("/", true, &[]), address).await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn what_does_not_listen_or_answer_fails_in_words() {
        let closed = {
            let unused = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            unused.local_addr().expect("bound")
        };
        for ask in [Ask::Tcp, http("/", false, &[]), Ask::Grpc { service: String::new() }] {
            let (status, sentence) = checked(ask, closed).await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
            assert!(sentence.starts_with("connecting to 127.0.0.1:"), "{sentence}");
        }
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = silent.local_addr().expect("bound");
        assert_eq!(checked(Ask::Tcp, address).await.0, StatusCode::OK);
        let probe = Probe { port: address.port(), ask: http("/", false, &[]), timeout_seconds: 1 };
        assert_eq!(check(&probe, address.ip()).await.0, StatusCode::GATEWAY_TIMEOUT);
    }

    #[tokio::test]
    async fn metrics_of_both_are_one_page_also_when_the_application_has_none() {
        let (address, _running) = scripted(|_, mut socket| async move {
            let asked = read_until(&mut socket, "\r\n\r\n").await;
            assert!(asked.starts_with("GET /m HTTP/1.1\r\n") && asked.contains("accept: text/plain;version=0.0.4\r\n"));
            let _ = socket.write_all(b"HTTP/1.1 200 x\r\ncontent-length: 14\r\n\r\ncarts 7\n# EOF\n").await;
        })
        .await;
        let scrape = Scrape { port: address.port(), path: "/m".into() };
        let page = merged("own 1\n# EOF\n", &scrape, address.ip()).await;
        assert!(page.starts_with("own 1\ncarts 7\n# TYPE malla_application_scraped gauge\n"), "{page}");
        assert!(page.ends_with("malla_application_scraped 1\n") && !page.contains("EOF"), "{page}");
        let nowhere = Scrape { port: 1, path: "/m".into() };
        assert!(merged("own 1\n", &nowhere, address.ip()).await.ends_with("malla_application_scraped 0\n"));
    }
}
