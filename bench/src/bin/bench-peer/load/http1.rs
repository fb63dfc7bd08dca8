//! HTTP/1.1: requests over kept connections, over new ones, and connections that stay without requests.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Shared, open};

/// Connections that are opened at once, where thousands are opened.
const AT_ONCE: usize = 50;

/// One kept connection, replaced when it fails.
pub(super) async fn kept(shared: Arc<Shared>) {
    loop {
        let Err(error) = requests(&shared).await;
        shared.failed(&error).await;
    }
}

async fn requests(shared: &Shared) -> Result<Infallible> {
    let mut connection = Connection::open(shared).await?;
    loop {
        let due = shared.due().await;
        let bytes = connection.request().await?;
        shared.succeeded(due, bytes);
    }
}

/// Tries until a request on a new connection is answered.
pub(super) async fn ready(shared: &Shared) {
    loop {
        let once = async { Connection::open(shared).await?.request().await };
        if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_millis(500), once).await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// So many requests on one connection; none may fail.
pub(super) async fn exactly(shared: &Shared, requests: u64) -> Result<()> {
    let mut connection = Connection::open(shared).await?;
    for _ in 0..requests {
        let due = shared.due().await;
        let bytes = connection.request().await?;
        shared.succeeded(due, bytes);
    }
    Ok(())
}

/// A new connection for each request.
pub(super) async fn new(shared: Arc<Shared>) {
    loop {
        let due = shared.due().await;
        let once = async { Connection::open(&shared).await?.request().await };
        match once.await {
            Ok(bytes) => shared.succeeded(due, bytes),
            Err(error) => shared.failed(&error).await,
        }
    }
}

/// Opens all connections and makes one request on each.
pub(super) async fn idle(shared: &Arc<Shared>) -> Result<Vec<Connection>> {
    let mut connections = Vec::with_capacity(shared.arguments.connections);
    while connections.len() < shared.arguments.connections {
        let more = (shared.arguments.connections - connections.len()).min(AT_ONCE);
        let tasks: Vec<_> = (0..more)
            .map(|_| {
                let shared = shared.clone();
                tokio::spawn(async move {
                    let mut connection = Connection::open(&shared).await?;
                    connection.request().await?;
                    // The kept buffer is the load's memory, not the contender's, but 10,000 of them are not needed.
                    connection.buffer = Vec::new();
                    anyhow::Ok(connection)
                })
            })
            .collect();
        for task in tasks {
            connections.push(task.await??);
        }
    }
    Ok(connections)
}

/// A connection and its next request.
#[derive(Debug)]
pub(super) struct Connection {
    socket: TcpStream,
    request: Arc<[u8]>,
    buffer: Vec<u8>,
}

impl Connection {
    pub(super) async fn open(shared: &Shared) -> Result<Connection> {
        let arguments = &shared.arguments;
        let (mut to, mut host) = (arguments.to, "web.shop".to_owned());
        if let (services @ 2.., IpAddr::V4(first)) = (arguments.services, to.ip()) {
            let service = shared.opened.fetch_add(1, Ordering::Relaxed) % services;
            to.set_ip(Ipv4Addr::from(u32::from(first) + service).into());
            host = format!("service-{service}.shop");
        }
        let size = arguments.size;
        let request = format!("GET /{size} HTTP/1.1\r\nhost: {host}\r\nuser-agent: bench\r\naccept: */*\r\n\r\n");
        Ok(Connection { socket: open(to).await?, request: request.into_bytes().into(), buffer: vec![0; 32 * 1024] })
    }

    /// One request; the size of the body.
    async fn request(&mut self) -> Result<usize> {
        self.socket.write_all(&self.request).await?;
        let mut filled = 0;
        let end = loop {
            if let Some(end) = memmem::find(&self.buffer[..filled], b"\r\n\r\n") {
                break end + 4;
            }
            ensure!(filled < self.buffer.len(), "a head that does not end");
            filled += self.read(filled).await?;
        };
        let length = content_length(&self.buffer[..end])?;
        let mut missing = (end + length).checked_sub(filled).context("more bytes than the body has")?;
        while missing > 0 {
            let read = self.read(0).await?;
            missing = missing.checked_sub(read).context("more bytes than the body has")?;
        }
        Ok(length)
    }

    async fn read(&mut self, at: usize) -> Result<usize> {
        let read = self.socket.read(&mut self.buffer[at..]).await?;
        ensure!(read > 0, "the connection was closed under a request");
        Ok(read)
    }
}

/// Heads that contenders write differ in spelling and in length alone.
fn content_length(head: &[u8]) -> Result<usize> {
    ensure!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(head).lines().next().unwrap_or_default());
    for line in head.split(|byte| *byte == b'\n') {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        if parts.next().is_some_and(|name| name.eq_ignore_ascii_case(b"content-length")) {
            let value = std::str::from_utf8(parts.next().unwrap_or_default())?;
            return value.trim().parse().context("content-length");
        }
    }
    bail!("an answer without content-length")
}
