//! gRPC over HTTP/2 with prior knowledge: unary calls, and messages on streams that stay open.

use std::convert::Infallible;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use h2::RecvStream;
use h2::client::SendRequest;
use http::Request;
use tokio::task::JoinSet;

use super::{Shared, Work, open};

/// One connection with `--streams` calls at a time, replaced when it fails.
pub(super) async fn connection(shared: Arc<Shared>) {
    loop {
        let Err(error) = calls(&shared).await;
        shared.failed(&error).await;
    }
}

async fn calls(shared: &Arc<Shared>) -> Result<Infallible> {
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 24);
    let (sender, connection) = builder.handshake::<_, Bytes>(open(shared.arguments.to).await?).await?;
    let mut tasks = JoinSet::new();
    for _ in 0..shared.arguments.streams {
        let (shared, sender) = (shared.clone(), sender.clone());
        tasks.spawn(async move {
            match shared.arguments.work {
                Work::GrpcStream => messages(&shared, sender).await,
                _ => unary(&shared, sender).await,
            }
        });
    }
    tokio::select! {
        ended = connection => { ended?; anyhow::bail!("the connection was closed") }
        ended = tasks.join_next() => ended.context("there is one task at least")??,
    }
}

async fn unary(shared: &Shared, mut sender: SendRequest<Bytes>) -> Result<Infallible> {
    loop {
        let due = shared.due().await;
        sender = sender.ready().await?;
        let (response, mut stream) = sender.send_request(request("Unary")?, false)?;
        stream.send_data(message(shared), true)?;
        let mut body = response.await?.into_body();
        let bytes = receive(&mut body, usize::MAX).await?;
        let trailers = body.trailers().await?.context("no trailers")?;
        ensure!(trailers.get("grpc-status").is_some_and(|status| status == "0"), "a call failed");
        shared.succeeded(due, bytes);
    }
}

async fn messages(shared: &Shared, sender: SendRequest<Bytes>) -> Result<Infallible> {
    let (response, mut stream) = sender.ready().await?.send_request(request("Stream")?, false)?;
    let message = message(shared);
    let mut body = response.await?.into_body();
    loop {
        let due = shared.due().await;
        stream.send_data(message.clone(), false)?;
        ensure!(receive(&mut body, message.len()).await? == message.len(), "the stream ended");
        shared.succeeded(due, message.len());
    }
}

fn request(method: &str) -> Result<Request<()>> {
    let builder = Request::post(format!("http://web.shop/bench.Echo/{method}"));
    Ok(builder.header("content-type", "application/grpc").header("te", "trailers").body(())?)
}

/// A message with its five bytes of framing: uncompressed, and its length.
fn message(shared: &Shared) -> Bytes {
    let size = shared.arguments.size;
    let mut message = BytesMut::with_capacity(5 + size);
    message.put_u8(0);
    message.put_u32(size as u32);
    message.put_bytes(b'x', size);
    message.freeze()
}

/// Reads until the end or `limit` bytes.
async fn receive(body: &mut RecvStream, limit: usize) -> Result<usize> {
    let mut received = 0;
    while received < limit {
        let Some(data) = body.data().await else { break };
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        received += data.len();
    }
    Ok(received)
}
