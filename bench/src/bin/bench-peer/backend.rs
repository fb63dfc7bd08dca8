//! The application behind every contender: as little work per request as possible, so that its share of the load's processor
//! stays small and is the same for all.
//!
//! `GET /<n>` is answered with `n` bytes; an upgrade to WebSocket with an echo of the frames; a collector takes whatever spans it is sent.

use std::collections::HashMap;

use anyhow::{Context, Result};
use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Largest head and WebSocket message.
const BUFFER: usize = 16 * 1024;

/// RFC 6455 §1.3: the answer to the key of its example, which our load sends.
const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
                        sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Serves until killed.
pub(crate) async fn run() -> Result<()> {
    let listen = async |port: u16| TcpListener::bind(("::", port)).await.with_context(|| format!("port {port}"));
    let (http, grpc, echo) = (listen(8080).await?, listen(9000).await?, listen(7000).await?);
    let (collector, source) = (listen(4318).await?, listen(7001).await?);
    loop {
        // A client that resets its connection ends its task, not the backend.
        tokio::select! {
            accepted = http.accept() => { tokio::spawn(serve_http(prepared(accepted?)?)); }
            accepted = grpc.accept() => { tokio::spawn(crate::grpc_backend::serve(prepared(accepted?)?)); }
            accepted = echo.accept() => { tokio::spawn(serve_echo(prepared(accepted?)?)); }
            accepted = collector.accept() => { tokio::spawn(serve_collector(prepared(accepted?)?)); }
            accepted = source.accept() => { tokio::spawn(serve_source(prepared(accepted?)?)); }
        }
    }
}

fn prepared((socket, _): (TcpStream, std::net::SocketAddr)) -> Result<TcpStream> {
    socket.set_nodelay(true)?;
    Ok(socket)
}

async fn serve_http(mut socket: TcpStream) -> Option<()> {
    let mut answers: HashMap<usize, Vec<u8>> = HashMap::new();
    let mut buffer = vec![0; 2048];
    let mut filled = 0;
    loop {
        let Some(end) = memmem::find(&buffer[..filled], b"\r\n\r\n") else {
            if filled == buffer.len() {
                (buffer.len() < BUFFER).then(|| buffer.resize(BUFFER, 0))?;
            }
            let read = socket.read(&mut buffer[filled..]).await.ok().filter(|read| *read > 0)?;
            filled += read;
            continue;
        };
        let head = &buffer[..end];
        let path = head.split(|byte| *byte == b' ').nth(1)?;
        if path == b"/websocket" {
            socket.write_all(SWITCH).await.ok()?;
            return serve_websocket(socket).await;
        }
        let size: usize = std::str::from_utf8(path.strip_prefix(b"/")?).ok()?.parse().ok()?;
        let answer = answers.entry(size).or_insert_with(|| answer(size));
        socket.write_all(answer).await.ok()?;
        buffer.copy_within(end + 4..filled, 0);
        filled -= end + 4;
    }
}

/// OTLP over HTTP: an empty answer is that all was taken.
async fn serve_collector(mut socket: TcpStream) -> Option<()> {
    let mut request = Vec::new();
    loop {
        let head = loop {
            if let Some(end) = memmem::find(&request, b"\r\n\r\n") {
                break end + 4;
            }
            socket.read_buf(&mut request).await.ok().filter(|read| *read > 0)?;
        };
        let text = std::str::from_utf8(&request[..head]).ok()?.to_ascii_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: "))?;
        let end = head + length.parse::<usize>().ok()?;
        while request.len() < end {
            socket.read_buf(&mut request).await.ok().filter(|read| *read > 0)?;
        }
        request.drain(..end);
        let answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
        socket.write_all(answer).await.ok()?;
    }
}

fn answer(size: usize) -> Vec<u8> {
    let mut answer =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {size}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + size, b'x');
    answer
}

/// Small frames alone, as the load sends them: 7-bit lengths, masked by the client, unmasked by the server.
async fn serve_websocket(mut socket: TcpStream) -> Option<()> {
    let mut buffer = vec![0; BUFFER];
    let mut filled = 0;
    loop {
        while let Some(length) =
            (filled >= 6).then(|| usize::from(buffer[1] & 0x7f)).filter(|length| filled >= 6 + length)
        {
            let mask = [buffer[2], buffer[3], buffer[4], buffer[5]];
            let mut frame = vec![buffer[0], length as u8];
            frame.extend(buffer[6..6 + length].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
            socket.write_all(&frame).await.ok()?;
            buffer.copy_within(6 + length..filled, 0);
            filled -= 6 + length;
        }
        let read = socket.read(&mut buffer[filled..]).await.ok().filter(|read| *read > 0)?;
        filled += read;
    }
}

async fn serve_echo(mut socket: TcpStream) -> Option<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = socket.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
        socket.write_all(&buffer[..read]).await.ok()?;
    }
}

async fn serve_source(mut socket: TcpStream) -> Option<()> {
    // The client speaks first, as it would to a service whose protocol it declares.
    socket.read_exact(&mut [0; 2]).await.ok()?;
    let bytes = vec![b'x'; 256 * 1024];
    loop {
        socket.write_all(&bytes).await.ok()?;
    }
}
