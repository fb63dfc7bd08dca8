//! Showing a renewed certificate to endpoints whose connections were made with the one before, so that they keep them: a handshake,
//! and nothing inside.

use std::convert::Infallible;
use std::future::pending;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use super::{Alpn, ConnectError, connect};
use crate::control::Backoff;
use crate::shared::Shared;
use crate::snapshot::{Cluster, Endpoint};

/// A new certificate is shown within this time, or a tenth of what the one before has left: not to all at once.
const LONGEST_SPREAD: Duration = Duration::from_secs(60);
/// How often it is tried. An endpoint that takes none (of another mesh) need not be told.
const TRIES: usize = 8;
/// How long the endpoint may take to end the connection.
const ENDS: Duration = Duration::from_secs(10);

/// Shows an endpoint each new certificate of this sidecar, for as long as there is a connection to it.
pub async fn keep_known(shared: &Shared, cluster: &Cluster, endpoint: &Endpoint) -> Infallible {
    let mut generations = shared.identity.subscribe();
    let end_of = || shared.identity.last().map(|last| last.not_after);
    let mut shown = end_of();
    loop {
        if generations.changed().await.is_err() {
            return pending().await;
        }
        // Also other trust anchors make a generation.
        let Some(end) = end_of().filter(|end| Some(*end) != shown) else { continue };
        let left = shown.and_then(|before| before.duration_since(SystemTime::now()).ok()).unwrap_or_default();
        sleep(left.mul_f64(0.1).min(LONGEST_SPREAD).mul_f64(fastrand::f64())).await;
        let mut backoff = Backoff::default();
        for _ in 0..TRIES {
            // Boxed: a connection that waits for the next certificate needs no room for it.
            match Box::pin(show(shared, cluster, endpoint)).await {
                Ok(()) => break,
                Err(error) => tracing::debug!(%error, cluster = %cluster.name, "the renewed certificate was not shown"),
            }
            sleep(backoff.next_wait()).await;
        }
        shown = Some(end);
    }
}

async fn show(shared: &Shared, cluster: &Cluster, endpoint: &Endpoint) -> Result<(), ConnectError> {
    let mut stream = connect(shared, cluster, endpoint, Alpn::Renewed).await?.stream;
    // In TLS 1.3 the endpoint verifies us after we are done: it ends the connection when it has.
    let _ = stream.shutdown().await;
    let _ = timeout(ENDS, stream.read_u8()).await;
    Ok(())
}
