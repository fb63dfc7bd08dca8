//! A plain HTTP/1.1 client: one connection, one request. For admin pages; it knows nothing of meshes.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// How long an admin page may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How large an admin page may be.
const LARGEST: usize = 64 << 20;

/// The body of `http://address/path`.
///
/// # Errors
/// Nothing listens there, it does not answer in five seconds, or it does not answer 200.
pub(crate) async fn get(address: SocketAddr, path: &str) -> anyhow::Result<Bytes> {
    match tokio::time::timeout(PATIENCE, request(address, path)).await {
        Ok(result) => result,
        Err(_) => bail!("http://{address}{path} did not answer within {} seconds", PATIENCE.as_secs()),
    }
}

/// Gives each line of `http://address/path` to a function as it comes, until the server ends, or the function fails.
///
/// # Errors
/// Nothing listens there, it does not answer 200, or the function's error.
pub(crate) async fn lines(
    address: SocketAddr,
    path: &str,
    mut each: impl FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (mut sender, connection, request) = open(address, path).await?;
    let exchange = async {
        let mut response = sender.send_request(request).await?;
        if response.status() != http::StatusCode::OK {
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
            anyhow::ensure!(rest.len() <= LARGEST, "http://{address}{path} sends a line without end");
        }
        Ok(())
    };
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        result = &mut exchange => result,
        _ = connection => exchange.await,
    }
}

/// A connection, what drives it, and the request to be sent over it.
async fn open(
    address: SocketAddr,
    path: &str,
) -> anyhow::Result<(
    http1::SendRequest<Empty<Bytes>>,
    http1::Connection<TokioIo<TcpStream>, Empty<Bytes>>,
    http::Request<Empty<Bytes>>,
)> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
    let asking = || format!("asking http://{address}{path}");
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.with_context(asking)?;
    let request = http::Request::get(path)
        .header(http::header::HOST, address.to_string())
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    Ok((sender, connection, request))
}

async fn request(address: SocketAddr, path: &str) -> anyhow::Result<Bytes> {
    let failed = || format!("asking http://{address}{path}");
    let (mut sender, connection, request) = open(address, path).await?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LARGEST)
            .collect()
            .await
            .map_err(|cause| anyhow::anyhow!("reading the answer: {cause}"))?;
        anyhow::Ok((status, body.to_bytes()))
    };
    // The connection does the input and output; what goes wrong on it, the exchange reports.
    let mut exchange = std::pin::pin!(exchange);
    let (status, body) = tokio::select! {
        result = &mut exchange => result,
        _ = connection => exchange.await,
    }
    .with_context(failed)?;
    if status != http::StatusCode::OK {
        bail!("http://{address}{path} answered {status}: {}", String::from_utf8_lossy(&body).trim());
    }
    Ok(body)
}
