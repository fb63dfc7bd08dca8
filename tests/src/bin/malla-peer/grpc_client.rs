//! Everything that `malla.test.Echo` can do, tried by tonic. `tests/programs/grpc_client.py` is the same on grpcio.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::uri::PathAndQuery;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::{Code, Request, Response, Status};

use crate::bytes_codec::BytesCodec;

/// Runs all checks; the first that fails is the error.
pub(crate) async fn check(authority: &str) -> Result<()> {
    let client = Client::connect(authority).await?;
    unary(&client).await.context("unary")?;
    trailers_only(&client).await.context("trailers only")?;
    server_streaming(&client).await.context("server streaming")?;
    client_streaming(&client).await.context("client streaming")?;
    bidirectional(&client).await.context("bidirectional streaming")?;
    deadline(&client).await.context("deadline")?;
    cancellation(&client).await.context("cancellation")?;
    println!("all is well");
    Ok(())
}

struct Client {
    sender: SendRequest<Body>,
    origin: http::Uri,
}

impl Client {
    async fn connect(authority: &str) -> Result<Client> {
        let stream = TcpStream::connect(authority).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Client { sender, origin: format!("http://{authority}").parse()? })
    }

    async fn call(&self, method: &'static str, message: impl Into<Bytes>) -> Result<Response<Bytes>, Status> {
        self.call_with(method, Request::new(message.into())).await
    }

    async fn call_with(&self, method: &'static str, request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
        let mut sender = self.sender.clone();
        let send = tower::service_fn(move |request| sender.send_request(request));
        let mut grpc = Grpc::with_origin(send, self.origin.clone()).max_decoding_message_size(64 << 20);
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        grpc.unary(request, path(method), BytesCodec).await
    }
}

fn path(method: &'static str) -> PathAndQuery {
    PathAndQuery::try_from(format!("/malla.test.Echo/{method}")).expect("methods have plain names")
}

/// A `Grpc` over the client's connection. A macro, because the type of the closure has no name.
macro_rules! grpc {
    ($client:expr) => {{
        let mut sender = $client.sender.clone();
        let send = tower::service_fn(move |request| sender.send_request(request));
        let mut grpc = Grpc::with_origin(send, $client.origin.clone());
        grpc.ready().await?;
        grpc
    }};
}

async fn unary(client: &Client) -> Result<()> {
    for size in [0, 1, 65_535, 65_536, 65_537, 3 << 20] {
        let sent: Bytes = (0..size).map(|n| (n % 251) as u8).collect::<Vec<_>>().into();
        let response = client.call("Unary", sent.clone()).await?;
        ensure!(response.get_ref() == &sent, "{size} bytes came back changed");
        ensure!(response.metadata().contains_key("served-by"), "metadata is missing");
    }
    Ok(())
}

async fn trailers_only(client: &Client) -> Result<()> {
    let Err(status) = client.call("Fail", "").await else { bail!("no failure") };
    ensure!(status.code() == Code::FailedPrecondition && status.message() == "not today: ñ", "{status:?}");
    ensure!(status.metadata().get("detail").is_some_and(|value| value == "kept"), "{status:?}");
    let Err(status) = client.call("NoSuchMethod", "").await else { bail!("no failure") };
    ensure!(status.code() == Code::Unimplemented, "{status:?}");
    Ok(())
}

async fn server_streaming(client: &Client) -> Result<()> {
    let mut grpc = grpc!(client);
    let response = grpc.server_streaming(Request::new(Bytes::from("1000")), path("Count"), BytesCodec).await?;
    let mut replies = response.into_inner();
    for wanted in 0..1000 {
        let reply = replies.message().await?.context("the stream ended early")?;
        ensure!(reply == wanted.to_string(), "{reply:?} instead of {wanted}");
    }
    ensure!(replies.message().await?.is_none(), "the stream goes on");
    ensure!(replies.trailers().await?.is_some(), "no trailers");
    Ok(())
}

async fn client_streaming(client: &Client) -> Result<()> {
    let mut grpc = grpc!(client);
    let numbers = tokio_stream::iter((1..=1000).map(|n: u64| Bytes::from(n.to_string())));
    let response = grpc.client_streaming(Request::new(numbers), path("Sum"), BytesCodec).await?;
    ensure!(response.get_ref() == "500500", "{response:?}");
    Ok(())
}

/// Each message is sent only when the reply to the one before has come: nothing may wait for more to come.
async fn bidirectional(client: &Client) -> Result<()> {
    let mut grpc = grpc!(client);
    let (send, messages) = mpsc::channel(1);
    let messages = Request::new(ReceiverStream::new(messages));
    let message = |number: u32| Bytes::from(format!("message {number}"));
    // Python answers nothing, not even headers, before it has a message to send.
    send.send(message(0)).await?;
    let mut replies = grpc.streaming(messages, path("Chat"), BytesCodec).await?.into_inner();
    for number in 0..100 {
        ensure!(replies.message().await? == Some(message(number)), "the reply to message {number} is wrong");
        send.send(message(number + 1)).await?;
    }
    ensure!(replies.message().await? == Some(message(100)), "the last reply is wrong");
    drop(send);
    ensure!(replies.message().await?.is_none(), "the stream goes on");
    Ok(())
}

async fn deadline(client: &Client) -> Result<()> {
    let mut request = Request::new(Bytes::new());
    request.set_timeout(Duration::from_secs(20));
    let response = client.call_with("Timeout", request).await?;
    ensure!(response.get_ref() != "none", "the deadline does not reach the server");
    Ok(())
}

/// A call that its caller gives up ends at the server too.
async fn cancellation(client: &Client) -> Result<()> {
    let before: u64 = std::str::from_utf8(client.call("Cancelled", "").await?.get_ref())?.parse()?;
    for _ in 0..3 {
        let given_up = tokio::time::timeout(Duration::from_millis(200), client.call("Never", "")).await;
        ensure!(given_up.is_err(), "an answer to a call that is never answered: {given_up:?}");
    }
    let seen = async {
        loop {
            let count: u64 = std::str::from_utf8(client.call("Cancelled", "").await?.get_ref())?.parse()?;
            if count >= before + 3 {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), seen).await.context("the server does not see it")?
}
