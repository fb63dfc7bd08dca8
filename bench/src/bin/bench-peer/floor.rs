//! The bare hyper proxy: HTTP in, HTTP out, mTLS and HTTP/2 between two of them, and nothing else. No routing, no balancing, no
//! limits, no metrics, no time-outs, no retries: what our sidecar costs beyond this is what its features cost.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, bail};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, Request, Response, Uri, Version, header};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

use crate::tls::Tls;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Port to listen on
    #[arg(long)]
    listen: u16,
    /// Where to
    #[arg(long)]
    to: SocketAddr,
    #[arg(long, value_enum)]
    place: Place,
    /// The application speaks HTTP/2
    #[arg(long)]
    http2: bool,
    /// Directory of the certificates
    #[arg(long, default_value = ".")]
    certificates: PathBuf,
}

/// Where in the way of a request it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Place {
    /// Plaintext in and out.
    Alone,
    /// Plaintext in, mTLS and HTTP/2 out.
    Outbound,
    /// mTLS and HTTP/2 in, plaintext out.
    Inbound,
}

/// The connections to the one upstream.
enum Upstream {
    Http1 { to: SocketAddr, idle: Mutex<Vec<http1::SendRequest<Incoming>>> },
    Http2 { to: SocketAddr, tls: Option<Tls>, sender: tokio::sync::Mutex<Option<http2::SendRequest<Incoming>>> },
}

pub(crate) async fn run(Arguments { listen, to, place, http2, certificates }: Arguments) -> Result<()> {
    let listener = TcpListener::bind(("::", listen)).await?;
    let tls = if place == Place::Alone { None } else { Some(Tls::load(&certificates, b"h2")?) };
    let upstream = Arc::new(match place {
        Place::Outbound => Upstream::Http2 { to, tls: tls.clone(), sender: Default::default() },
        _ if http2 => Upstream::Http2 { to, tls: None, sender: Default::default() },
        _ => Upstream::Http1 { to, idle: Mutex::default() },
    });
    loop {
        let (client, _) = listener.accept().await?;
        client.set_nodelay(true)?;
        let upstream = upstream.clone();
        match (&tls, place) {
            (Some(tls), Place::Inbound) => {
                let tls = tls.clone();
                tokio::spawn(async move { serve_http2(tls.accept(client).await?, upstream).await });
            }
            _ if http2 => drop(tokio::spawn(serve_http2(client, upstream))),
            _ => drop(tokio::spawn(serve_http1(client, upstream))),
        }
    }
}

async fn serve_http1(client: TcpStream, upstream: Arc<Upstream>) -> Result<()> {
    let service = service_fn(|request| forward(request, &upstream));
    Ok(hyper::server::conn::http1::Builder::new()
        .auto_date_header(false)
        .serve_connection(TokioIo::new(client), service)
        .await?)
}

async fn serve_http2(client: impl AsyncRead + AsyncWrite + Unpin, upstream: Arc<Upstream>) -> Result<()> {
    let service = service_fn(move |request| {
        let upstream = upstream.clone();
        async move { forward(request, &upstream).await }
    });
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder.auto_date_header(false).max_concurrent_streams(4096);
    builder.initial_stream_window_size(64 * 1024).initial_connection_window_size(16 << 20);
    Ok(builder.serve_connection(TokioIo::new(client), service).await?)
}

async fn forward(mut request: Request<Incoming>, upstream: &Upstream) -> Result<Response<Incoming>> {
    strip(request.headers_mut());
    let mut response = match upstream {
        Upstream::Http1 { to, idle } => {
            let authority = request.uri().authority().cloned();
            if let Some(authority) = authority {
                request.headers_mut().insert(header::HOST, authority.as_str().parse()?);
            }
            *request.uri_mut() = Uri::builder().path_and_query(path(&request)).build()?;
            *request.version_mut() = Version::HTTP_11;
            // One whose last response has been read to its end.
            let kept = {
                let mut idle = idle.lock();
                idle.retain(|sender| !sender.is_closed());
                idle.iter().rposition(http1::SendRequest::is_ready).map(|ready| idle.swap_remove(ready))
            };
            let mut sender = match kept {
                Some(sender) => sender,
                None => {
                    let (sender, connection) = http1::handshake(TokioIo::new(connect(*to).await?)).await?;
                    tokio::spawn(connection);
                    sender
                }
            };
            sender.ready().await?;
            let response = sender.send_request(request).await?;
            idle.lock().push(sender);
            response
        }
        Upstream::Http2 { to, tls, sender } => {
            let host = request.headers_mut().remove(header::HOST);
            let authority = match host {
                Some(host) => Authority::try_from(host.as_bytes())?,
                None => request.uri().authority().cloned().unwrap_or_else(|| Authority::from_static("bench")),
            };
            *request.uri_mut() =
                Uri::builder().scheme(Scheme::HTTP).authority(authority).path_and_query(path(&request)).build()?;
            *request.version_mut() = Version::HTTP_2;
            let mut sender = shared(*to, tls.as_ref(), sender).await?;
            sender.ready().await?;
            sender.send_request(request).await?
        }
    };
    strip(response.headers_mut());
    *response.version_mut() = Version::HTTP_11;
    Ok(response)
}

fn path(request: &Request<Incoming>) -> http::uri::PathAndQuery {
    request.uri().path_and_query().cloned().unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"))
}

/// The headers of one connection.
fn strip(headers: &mut HeaderMap) {
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
        headers.remove(name);
    }
}

async fn connect(to: SocketAddr) -> Result<TcpStream> {
    let socket = TcpStream::connect(to).await?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// The one HTTP/2 connection, made when there is none.
async fn shared(
    to: SocketAddr,
    tls: Option<&Tls>,
    sender: &tokio::sync::Mutex<Option<http2::SendRequest<Incoming>>>,
) -> Result<http2::SendRequest<Incoming>> {
    let mut sender = sender.lock().await;
    if let Some(sender) = sender.as_ref().filter(|sender| !sender.is_closed()) {
        return Ok(sender.clone());
    }
    let socket = connect(to).await?;
    let made = match tls {
        Some(tls) => handshake(tls.connect(socket).await?).await?,
        None => handshake(socket).await?,
    };
    if made.is_closed() {
        bail!("{to} closed the connection");
    }
    Ok(sender.insert(made).clone())
}

async fn handshake(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<http2::SendRequest<Incoming>> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(64 * 1024).initial_connection_window_size(16 << 20);
    let (sender, connection) = builder.handshake(TokioIo::new(io)).await?;
    tokio::spawn(connection);
    Ok(sender)
}
