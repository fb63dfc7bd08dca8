//! Streams without requests: bytes back and forth, as many as come, WebSocket frames.

use std::convert::Infallible;
use std::sync::Arc;

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Shared, Work, open};

/// The key of RFC 6455's example: the backend knows its answer.
const SWITCH: &[u8] = b"GET /websocket HTTP/1.1\r\nhost: web.shop\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
                        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// One connection, replaced when it fails.
pub(super) async fn connection(shared: Arc<Shared>) {
    loop {
        let Err(error) = match shared.arguments.work {
            Work::Source => source(&shared).await,
            Work::Websocket => websocket(&shared).await,
            _ => echo(&shared).await,
        };
        shared.failed(&error).await;
    }
}

/// `--size` bytes there and back.
async fn echo(shared: &Shared) -> Result<Infallible> {
    let mut socket = open(shared.arguments.to).await?;
    let message = vec![b'x'; shared.arguments.size];
    let mut buffer = message.clone();
    loop {
        let due = shared.due().await;
        socket.write_all(&message).await?;
        socket.read_exact(&mut buffer).await?;
        shared.succeeded(due, buffer.len());
    }
}

/// Reads as fast as it can.
async fn source(shared: &Shared) -> Result<Infallible> {
    let mut socket = open(shared.arguments.to).await?;
    socket.write_all(b"go").await?;
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let read = socket.read(&mut buffer).await?;
        ensure!(read > 0, "the source ended");
        shared.received(read);
    }
}

/// One frame of `--size` bytes there and back.
async fn websocket(shared: &Shared) -> Result<Infallible> {
    let mut socket = open(shared.arguments.to).await?;
    socket.write_all(SWITCH).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await?);
    }
    ensure!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head).lines().next().unwrap_or_default());
    let size = shared.arguments.size;
    ensure!(size < 126, "longer frames have another form");
    let mut frame = vec![0x82, 0x80 | size as u8, 1, 2, 3, 4];
    frame.resize(6 + size, b'x');
    let mut answer = vec![0; 2 + size];
    loop {
        let due = shared.due().await;
        socket.write_all(&frame).await?;
        socket.read_exact(&mut answer).await?;
        ensure!(answer[0] == 0x82 && usize::from(answer[1]) == size, "not the echo of the frame");
        shared.succeeded(due, size);
    }
}
