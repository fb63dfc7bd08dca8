//! The way of a connection that leaves the application, in the order of execution.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::reason::Reason;
use crate::shared::Worker;
use crate::stream::Duplex;

/// The far side of an HTTP `CONNECT`, found and (where it is not HTTP) connected: the client may be told 200.
#[derive(Debug)]
pub struct Tunnel {}

/// Opens the way for a `CONNECT` to a normalized destination (`cart.shop:80`, `example.com:443`).
///
/// # Errors
/// The reason to answer with, and the peer or name it is about.
pub async fn tunnel(worker: &Arc<Worker>, destination: &str) -> Result<Tunnel, (Reason, String)> {
    let _ = worker;
    Err((Reason::NoRoute, destination.to_owned()))
}

impl Tunnel {
    /// Carries what the client sends through the tunnel, and back, to the end.
    pub fn carry(self, client: Box<dyn Duplex>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move { drop((self, client)) })
    }
}
