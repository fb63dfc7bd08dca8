//! `malla.test.Echo` on tonic. `tests/programs/grpc_server.py` is the same on grpcio.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio_stream::{Stream, StreamExt};
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::bytes_codec::BytesCodec;

type Replies = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// Serves until killed.
pub(crate) async fn serve(listen: SocketAddr, name: String) -> Result<()> {
    let listener = TcpListener::bind(listen).await?;
    let (name, cancelled) = (Arc::new(name), Arc::new(AtomicU64::new(0)));
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (name, cancelled) = (name.clone(), cancelled.clone());
        let service = service_fn(move |request| call(request, name.clone(), cancelled.clone()));
        tokio::spawn(
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service),
        );
    }
}

async fn call(
    request: http::Request<Incoming>,
    name: Arc<String>,
    cancelled: Arc<AtomicU64>,
) -> Result<http::Response<Body>, Infallible> {
    let mut grpc = Grpc::new(BytesCodec).max_decoding_message_size(64 << 20);
    let path = request.uri().path().to_owned();
    let response = match path.strip_prefix("/malla.test.Echo/").unwrap_or_default() {
        "Unary" => {
            let echo = tower::service_fn(|request: Request<Bytes>| {
                let mut response = Response::new(request.into_inner());
                let name = name.parse().expect("names are plain");
                response.metadata_mut().insert("served-by", name);
                async { Ok::<_, Status>(response) }
            });
            grpc.unary(echo, request).await
        }
        "Name" => {
            let name = Bytes::from(name.as_bytes().to_vec());
            let say = tower::service_fn(|_: Request<Bytes>| {
                let name = name.clone();
                async { Ok::<_, Status>(Response::new(name)) }
            });
            grpc.unary(say, request).await
        }
        "Timeout" => {
            let say = tower::service_fn(|request: Request<Bytes>| {
                let seconds = request.metadata().get("grpc-timeout").and_then(|value| seconds(value.to_str().ok()?));
                let reply = seconds.map_or("none".to_owned(), |seconds| seconds.to_string());
                async { Ok::<_, Status>(Response::new(Bytes::from(reply))) }
            });
            grpc.unary(say, request).await
        }
        "Cancelled" => {
            let count = Bytes::from(cancelled.load(Ordering::Relaxed).to_string());
            let say = tower::service_fn(|_: Request<Bytes>| {
                let count = count.clone();
                async { Ok::<_, Status>(Response::new(count)) }
            });
            grpc.unary(say, request).await
        }
        "Never" => {
            let never = tower::service_fn(|_: Request<Bytes>| {
                let noted = Noted(cancelled.clone());
                async move {
                    std::future::pending::<()>().await;
                    drop(noted);
                    Ok::<_, Status>(Response::new(Bytes::new()))
                }
            });
            grpc.unary(never, request).await
        }
        "Fail" => {
            let fail = tower::service_fn(|_: Request<Bytes>| {
                let mut status = Status::new(Code::FailedPrecondition, "not today: ñ");
                status.metadata_mut().insert("detail", "kept".parse().expect("plain"));
                async { Err::<Response<Bytes>, _>(status) }
            });
            grpc.unary(fail, request).await
        }
        "Count" => {
            let count = tower::service_fn(|request: Request<Bytes>| async move {
                let to: u64 = number(request.get_ref())?;
                let replies: Replies = Box::pin(tokio_stream::iter(0..to).map(|n| Ok(Bytes::from(n.to_string()))));
                Ok::<_, Status>(Response::new(replies))
            });
            grpc.server_streaming(count, request).await
        }
        "Sum" => {
            let sum = tower::service_fn(|request: Request<Streaming<Bytes>>| async move {
                let mut numbers = request.into_inner();
                let mut sum = 0;
                while let Some(message) = numbers.message().await? {
                    sum += number(&message)?;
                }
                Ok::<_, Status>(Response::new(Bytes::from(sum.to_string())))
            });
            grpc.client_streaming(sum, request).await
        }
        "Chat" => {
            let chat = tower::service_fn(|request: Request<Streaming<Bytes>>| async move {
                let replies: Replies = Box::pin(request.into_inner());
                Ok::<_, Status>(Response::new(replies))
            });
            grpc.streaming(chat, request).await
        }
        _ => Status::unimplemented(path).into_http(),
    };
    Ok(response)
}

/// Counts a call that ended before its time.
struct Noted(Arc<AtomicU64>);

impl Drop for Noted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The value of `grpc-timeout`: up to eight digits and a unit.
fn seconds(timeout: &str) -> Option<f64> {
    let (digits, unit) = timeout.split_at_checked(timeout.len().checked_sub(1)?)?;
    let factor = match unit {
        "H" => 3600.0,
        "M" => 60.0,
        "S" => 1.0,
        "m" => 1e-3,
        "u" => 1e-6,
        "n" => 1e-9,
        _ => return None,
    };
    Some(digits.parse::<f64>().ok()? * factor)
}

fn number(message: &[u8]) -> Result<u64, Status> {
    let parsed = std::str::from_utf8(message).ok().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| Status::invalid_argument("a number, please"))
}
