//! gRPC of the backend: `…/Unary` answers a message with itself, `…/Stream` each message of the stream as it comes.

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::TcpStream;

/// Serves a connection to its end.
pub(crate) async fn serve(socket: TcpStream) {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(4096).initial_window_size(1 << 20).initial_connection_window_size(1 << 24);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(socket).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(call(request, respond));
    }
}

async fn call(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Option<()> {
    let stream = request.uri().path().ends_with("/Stream");
    let head = Response::builder().header("content-type", "application/grpc").body(()).ok()?;
    let mut body = request.into_body();
    let mut sender = if stream { Some(respond.send_response(head.clone(), false).ok()?) } else { None };
    while let Some(data) = body.data().await {
        let data = data.ok()?;
        body.flow_control().release_capacity(data.len()).ok()?;
        if data.is_empty() {
            continue;
        }
        if sender.is_none() {
            sender = Some(respond.send_response(head.clone(), false).ok()?);
        }
        // Messages are far smaller than the windows.
        sender.as_mut()?.send_data(data, false).ok()?;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    sender?.send_trailers(trailers).ok()
}
