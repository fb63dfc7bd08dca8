//! How a program of the demo calls another: plain HTTP/1.1 and plain TCP to its own sidecar, as any program could.
//!
//! It owns connections to the sidecar. It knows neither TLS nor routes nor where the others run: that is the sidecar's
//! business.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;

use super::ledger::Ledger;
use super::mysql;

/// How long a program waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How much of an answer it reads.
const LARGEST: usize = 1 << 20;
/// Connections to the sidecar that are kept for later.
const KEPT: usize = 16;
/// Header in which a sidecar names the reason of a failure of its own.
const REASON: &str = "malla-reason";

/// How the called service is named to the sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// As to an HTTP proxy: the whole URL in the request line, as programs do that honour `http_proxy`.
    ProxyUrl,
    /// As to a server: the service's name in the `Host` header.
    HostHeader,
}

/// A program's way to the others.
#[derive(Debug)]
pub(crate) struct Caller {
    name: String,
    style: Style,
    outbound: SocketAddr,
    database: SocketAddr,
    idle: Mutex<Vec<SendRequest<Empty<Bytes>>>>,
    ledger: Arc<Ledger>,
}

/// Why a call failed, in words, as the program saw it.
pub(crate) type Why = String;

impl Caller {
    /// A program called `name` whose sidecar takes HTTP at `outbound` and queries at `database`.
    pub(crate) fn new(
        name: String,
        style: Style,
        outbound: SocketAddr,
        database: SocketAddr,
        ledger: Arc<Ledger>,
    ) -> Self {
        Caller { name, style, outbound, database, idle: Mutex::default(), ledger }
    }

    /// `GET path` of `service` (`flights.travel-agency:8000`), with these headers; counted in the ledger.
    ///
    /// # Errors
    /// No answer, or another status than 200.
    pub(crate) async fn get(&self, service: &str, path: &str, headers: HeaderMap) -> Result<Bytes, Why> {
        let result = patiently(self.exchange(service, path, headers)).await;
        self.ledger.record(&self.name, service, result.as_ref().err().map(String::as_str));
        result
    }

    /// Asks the database of `service`; counted in the ledger.
    ///
    /// # Errors
    /// The connection ended early, or what came is not what a database says.
    pub(crate) async fn query(&self, service: &str, statement: &str) -> Result<String, Why> {
        let result = patiently(async { mysql::query(self.database, statement).await.map_err(|e| e.to_string()) }).await;
        self.ledger.record(&self.name, service, result.as_ref().err().map(String::as_str));
        result
    }

    async fn exchange(&self, service: &str, path: &str, headers: HeaderMap) -> Result<Bytes, Why> {
        let target = match self.style {
            Style::ProxyUrl => format!("http://{service}{path}"),
            Style::HostHeader => path.to_owned(),
        };
        let mut request = Request::get(target)
            .header(http::header::HOST, service)
            .header(http::header::USER_AGENT, &self.name)
            .body(Empty::new())
            .map_err(during("making the request"))?;
        request.headers_mut().extend(headers);
        let mut sender = self.connection().await?;
        let response = sender.send_request(request).await.map_err(during("asking the sidecar"))?;
        let status = response.status();
        let from_sidecar = response.headers().contains_key(REASON);
        let body = Limited::new(response.into_body(), LARGEST).collect().await.map_err(during("reading the answer"))?;
        let body = body.to_bytes();
        self.keep(sender);
        match status {
            StatusCode::OK => Ok(body),
            _ if from_sidecar => Err(one_line(&body)),
            _ => Err(format!("the service answered {status}: {}", one_line(&body))),
        }
    }

    /// A kept connection that is still good, or a new one.
    async fn connection(&self) -> Result<SendRequest<Empty<Bytes>>, Why> {
        while let Some(sender) = self.take() {
            if sender.is_ready() {
                return Ok(sender);
            }
        }
        let stream = TcpStream::connect(self.outbound).await.map_err(during("connecting to the sidecar"))?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(during("connecting to the sidecar"))?;
        // Ends when its sender is dropped; what goes wrong on it, the sender's request reports.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn take(&self) -> Option<SendRequest<Empty<Bytes>>> {
        self.idle.lock().pop()
    }

    fn keep(&self, sender: SendRequest<Empty<Bytes>>) {
        let mut idle = self.idle.lock();
        if idle.len() < KEPT && !sender.is_closed() {
            idle.push(sender);
        }
    }
}

async fn patiently<T>(call: impl Future<Output = Result<T, Why>>) -> Result<T, Why> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer within {} seconds", PATIENCE.as_secs())),
    }
}

fn during<E: Display>(what: &'static str) -> impl FnOnce(E) -> Why {
    move |cause| format!("{what}: {cause}")
}

/// The text of a failure, fit for one line of a table.
fn one_line(body: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(body).split_whitespace().collect::<Vec<_>>().join(" ");
    text.chars().take(300).collect()
}
