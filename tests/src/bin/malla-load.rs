//! A steady load that keeps its own account of what succeeded: the judge of "zero failed requests".
//!
//! It sends requests at a fixed rate over a few kept connections and never tries twice. Ten times a second, and at the
//! end (SIGTERM), it writes its account as one line of JSON.

use std::collections::BTreeMap;
use std::net::ToSocketAddrs;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response, Uri, body::Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use malla_tests::load::Account;
use tokio::net::TcpStream;
use tokio::time::MissedTickBehavior;

/// How long a request may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often the account is written.
const WRITE: Duration = Duration::from_millis(100);

/// How many different failures are told.
const TOLD: usize = 8;

#[derive(Parser)]
struct Arguments {
    /// Where to send requests, for example `http://web.shop/`
    url: Uri,
    /// Requests per second, all connections together
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Connections
    #[arg(long, default_value_t = 4)]
    connections: u32,
    /// HTTP/2 with prior knowledge instead of HTTP/1.1
    #[arg(long)]
    http2: bool,
    /// A connection is replaced by a new one after so many requests
    #[arg(long)]
    requests_per_connection: Option<u32>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arc::new(Arguments::parse());
    let account = Arc::new(Mutex::new(Account::default()));
    for number in 0..arguments.connections {
        tokio::spawn(connection(arguments.clone(), account.clone(), number));
    }
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut ticks = tokio::time::interval(WRITE);
    loop {
        let last = tokio::select! {
            _ = terminate.recv() => true,
            _ = ticks.tick() => false,
        };
        let line = serde_json::to_string(&*account.lock().expect("nobody panics with the lock"))?;
        println!("{line}");
        if last {
            return Ok(());
        }
    }
}

/// One connection's share of the load, for ever.
async fn connection(arguments: Arc<Arguments>, account: Arc<Mutex<Account>>, number: u32) {
    let between = Duration::from_secs(1) * arguments.connections / arguments.rate;
    let start = tokio::time::Instant::now() + between * number / arguments.connections;
    let mut ticks = tokio::time::interval_at(start, between);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sender = None;
    let mut used = 0;
    loop {
        ticks.tick().await;
        if arguments.requests_per_connection.is_some_and(|limit| used >= limit) {
            sender = None;
            used = 0;
        }
        used += 1;
        let begin = Instant::now();
        let outcome = match tokio::time::timeout(PATIENCE, request(&arguments, &mut sender)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow::anyhow!("no answer within {PATIENCE:?}")),
        };
        let mut account = account.lock().expect("nobody panics with the lock");
        account.slowest_milliseconds = account.slowest_milliseconds.max(begin.elapsed().as_millis() as u64);
        match outcome {
            Ok(backend) => {
                account.succeeded += 1;
                *account.backends.entry(backend).or_default() += 1;
            }
            Err(error) => {
                sender = None;
                account.failed += 1;
                note(&mut account.failures, format!("{error:#}"));
            }
        }
    }
}

fn note(failures: &mut BTreeMap<String, u64>, failure: String) {
    if failures.len() < TOLD || failures.contains_key(&failure) {
        *failures.entry(failure).or_default() += 1;
    }
}

enum Sender {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

/// Sends one request and reads its whole response; the first line of the body names the backend.
async fn request(arguments: &Arguments, sender: &mut Option<Sender>) -> Result<String> {
    // A connection that the other side has closed between requests is not a failure; one it closes under a request is.
    let closed = match sender {
        Some(Sender::Http1(sender)) => sender.ready().await.is_err(),
        Some(Sender::Http2(sender)) => sender.ready().await.is_err(),
        None => true,
    };
    if closed {
        *sender = Some(connect(arguments).await?);
    }
    let authority = arguments.url.authority().context("the URL has a host")?.as_str();
    let path = arguments.url.path_and_query().map_or("/", |path| path.as_str());
    let response: Response<Incoming> = match sender.as_mut().context("connected above")? {
        Sender::Http1(sender) => {
            let request = Request::get(path).header("host", authority).body(Empty::new())?;
            sender.send_request(request).await.context("sending")?
        }
        Sender::Http2(sender) => {
            let request = Request::get(arguments.url.clone()).body(Empty::new())?;
            sender.send_request(request).await.context("sending")?
        }
    };
    let status = response.status();
    let reason = response.headers().get("malla-reason").cloned();
    let body = response.into_body().collect().await.context("reading the body")?.to_bytes();
    let text = String::from_utf8_lossy(&body);
    if !status.is_success() {
        bail!("status {status}, reason {reason:?}: {}", text.trim());
    }
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => bail!("status {status} with an empty body"),
    }
}

async fn connect(arguments: &Arguments) -> Result<Sender> {
    let host = arguments.url.host().context("the URL has a host")?;
    let port = arguments.url.port_u16().unwrap_or(80);
    let address = (host, port).to_socket_addrs()?.next().context("the host has no address")?;
    let stream = TcpStream::connect(address).await.context("connecting")?;
    stream.set_nodelay(true)?;
    let io = TokioIo::new(stream);
    if arguments.http2 {
        let (sender, connection) =
            http2::Builder::new(TokioExecutor::new()).timer(TokioTimer::new()).handshake(io).await?;
        tokio::spawn(connection);
        Ok(Sender::Http2(sender))
    } else {
        let (sender, connection) = http1::handshake(io).await?;
        tokio::spawn(connection);
        Ok(Sender::Http1(sender))
    }
}
