//! One request for a page of people: over plain HTTP/1.1 to an admin address, or over TLS to a control server elsewhere. It knows nothing of
//! what the pages say.

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::remote::Remote;

/// How long a page may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How large a page may be.
const LARGEST: usize = 64 << 20;

/// Who is asked.
#[derive(Clone)]
pub(crate) enum Server {
    /// An admin address.
    Admin(SocketAddr),
    /// A control server elsewhere.
    Remote(Remote),
}

impl From<SocketAddr> for Server {
    fn from(admin: SocketAddr) -> Self {
        Server::Admin(admin)
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Server::Admin(address) => write!(f, "http://{address}"),
            Server::Remote(remote) => remote.fmt(f),
        }
    }
}

/// The body of a page.
///
/// # Errors
/// Nothing listens there, it does not answer in five seconds, or it does not answer 200.
pub(crate) async fn get(server: &Server, path: &str) -> anyhow::Result<Bytes> {
    match tokio::time::timeout(PATIENCE, request(server, path)).await {
        Ok(result) => result,
        Err(_) => bail!("{server}{path} did not answer within {} seconds", PATIENCE.as_secs()),
    }
}

/// Gives each line of a page to a function as it comes, until the server ends, or the function fails.
///
/// # Errors
/// Nothing listens there, it does not answer 200, or the function's error.
pub(crate) async fn lines(
    server: &Server,
    path: &str,
    mut each: impl FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let Opened { answering, driving } = open(server, path).await?;
    let exchange = async {
        let mut response = answering.await?;
        if response.status() != StatusCode::OK {
            let status = response.status();
            let body = Limited::new(response.into_body(), LARGEST).collect().await.map(|body| body.to_bytes());
            bail!("{} ({status})", String::from_utf8_lossy(&body.unwrap_or_default()).trim());
        }
        let mut rest: Vec<u8> = Vec::new();
        while let Some(frame) = response.frame().await {
            rest.extend_from_slice(&frame?.into_data().unwrap_or_default());
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                each(String::from_utf8_lossy(&rest[..end]).as_ref())?;
                rest.drain(..=end);
            }
            anyhow::ensure!(rest.len() <= LARGEST, "{server}{path} sends a line without end");
        }
        Ok(())
    };
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        result = &mut exchange => result,
        () = driving => exchange.await,
    }
}

/// A request that goes out when its connection is driven.
struct Opened {
    answering: Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>> + Send>>,
    /// Does the input and output; what goes wrong there, the answer reports.
    driving: Pin<Box<dyn Future<Output = ()> + Send>>,
}

async fn open(server: &Server, path: &str) -> anyhow::Result<Opened> {
    match server {
        Server::Admin(address) => {
            let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
            let opened = http1::handshake(TokioIo::new(stream)).await;
            let (mut sender, connection) = opened.with_context(|| format!("asking {server}{path}"))?;
            let request = http::Request::get(path)
                .header(http::header::HOST, address.to_string())
                .header(http::header::CONNECTION, "close")
                .body(Empty::<Bytes>::new())?;
            let answering = Box::pin(sender.send_request(request));
            Ok(Opened { answering, driving: Box::pin(drive(connection, sender)) })
        }
        Server::Remote(remote) => {
            let (mut sender, connection, request) = remote.open(path).await?;
            let answering = Box::pin(sender.send_request(request));
            Ok(Opened { answering, driving: Box::pin(drive(connection, sender)) })
        }
    }
}

/// Drives a connection that nobody may give up who has a sender.
async fn drive<S>(connection: impl Future<Output = hyper::Result<()>>, sender: S) {
    // What goes wrong, the answer reports.
    let _ = connection.await;
    drop(sender);
}

async fn request(server: &Server, path: &str) -> anyhow::Result<Bytes> {
    let Opened { answering, driving } = open(server, path).await?;
    let exchange = async {
        let response = answering.await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LARGEST)
            .collect()
            .await
            .map_err(|cause| anyhow::anyhow!("reading the answer: {cause}"))?;
        anyhow::Ok((status, body.to_bytes()))
    };
    let mut exchange = std::pin::pin!(exchange);
    let (status, body) = tokio::select! {
        result = &mut exchange => result,
        () = driving => exchange.await,
    }
    .with_context(|| format!("asking {server}{path}"))?;
    if status != StatusCode::OK {
        bail!("{server}{path} answered {status}: {}", String::from_utf8_lossy(&body).trim());
    }
    Ok(body)
}
