//! Connections that are not TLS: carried where the port's mode is permissive, refused otherwise, with a sentence if the client
//! speaks HTTP.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::{carry, refuse};
use crate::detect::{self, Detected};
use crate::metrics::Direction;
use crate::original_dst::OriginalDst;
use crate::reason::Reason;
use crate::shared::Worker;
use crate::snapshot::{InboundPort, Plaintext};
use crate::stream::{PeekLimits, Peeked, Replay};

/// How long a client that is refused may take for its request line, and then for reading the answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Most bytes of a refused client that are read and thrown away.
const MOST: usize = 64 * 1024;

pub(super) async fn serve(
    worker: Arc<Worker>,
    port: Option<&InboundPort>,
    stream: Replay,
    original: OriginalDst,
    peer: SocketAddr,
) {
    let shared = worker.shared.clone();
    match port {
        Some(port) if port.plaintext == Plaintext::Accepted => {
            shared.metrics.plaintext_accepted(&port.service);
            Box::pin(carry(worker, port, stream.into(), None, None, original, peer)).await;
        }
        Some(port) => Box::pin(answer(&worker, stream, Reason::PlaintextRefused, &peer, &port.service)).await,
        None if original.redirected => {
            Box::pin(answer(&worker, stream, Reason::NoInboundPort, &peer, &original.address)).await;
        }
        None => Box::pin(answer(&worker, stream, Reason::PlaintextRefused, &peer, &"this sidecar")).await,
    }
}

/// Refuses; whoever speaks HTTP/1 is told why.
async fn answer(worker: &Worker, mut stream: Replay, reason: Reason, peer: &SocketAddr, what: &(dyn Display + Sync)) {
    let shared = &worker.shared;
    if stream.prefix().is_empty() {
        // It has ended without a byte, as probes of open ports do.
        return shared.metrics.connection_refused(Direction::Inbound, reason);
    }
    let limits = PeekLimits { first: PATIENCE, rest: PATIENCE };
    let decide = |bytes: &[u8]| Some(detect::detect(bytes)).filter(|found| *found != Detected::NeedMore);
    if !matches!(stream.peek(limits, decide).await, Ok(Peeked::Decided(Detected::Http1))) {
        return refuse(shared, stream.into(), reason, &format_args!("{peer} to {what}"));
    }
    shared.metrics.connection_refused(Direction::Inbound, reason);
    tracing::info!(%reason, %peer, %what, "inbound connection refused");
    let text = format!("{reason}: {} ({peer} to {what})\n", reason.sentence());
    let head = format!(
        "HTTP/1.1 {} {}\r\nmalla-reason: {reason}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        reason.status(),
        http::StatusCode::from_u16(reason.status()).ok().and_then(|status| status.canonical_reason()).unwrap_or(""),
        text.len(),
    );
    // Whatever fails here, the client does not want to know. What it still sends is read, because closing with unread bytes
    // is a reset, which may overtake the answer.
    let farewell = async {
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(text.as_bytes()).await?;
        stream.shutdown().await?;
        let mut thrown_away = 0_usize;
        let mut buffer = [0; 512];
        while thrown_away < MOST {
            match stream.read(&mut buffer).await? {
                0 => break,
                read => thrown_away = thrown_away.saturating_add(read),
            }
        }
        Ok::<(), std::io::Error>(())
    };
    let _ = timeout(PATIENCE, farewell).await;
}
