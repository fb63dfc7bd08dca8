//! The way of an HTTP `CONNECT` in explicit mode: opened first, carried once the client has been told 200.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::{OUTSIDE, open_outside, to};
use crate::clock;
use crate::metrics::Direction;
use crate::names::Name;
use crate::reason::Reason;
use crate::shared::Worker;
use crate::snapshot::{Outbound, OutboundService, Protocol, UnknownDestination};
use crate::stream::{Duplex, Stream};
use crate::tcp::{self, Account, Upstream};

/// The far side of an HTTP `CONNECT`, found and (where it is not HTTP) connected: the client may be told 200.
#[derive(Debug)]
pub struct Tunnel {
    worker: Arc<Worker>,
    way: Way,
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "the large one is the usual one")]
enum Way {
    /// Connected already.
    Connected(Upstream, Account),
    /// A service whose protocol the first bytes tell.
    Peek(Name, Arc<Outbound>),
}

/// Opens the way for a `CONNECT` to a normalized destination (`cart.shop:80`, `example.com:443`).
///
/// # Errors
/// The reason to answer with, and the peer or name it is about.
pub async fn tunnel(worker: &Arc<Worker>, destination: &str) -> Result<Tunnel, (Reason, String)> {
    let shared = &worker.shared;
    let arrived = clock::now();
    let account = |service: &Name| Account::begin(shared, Direction::Outbound, service, arrived);
    let found = shared.directory.lookup(destination).await.map_err(|reason| (reason, destination.to_owned()))?;
    let way = match &*found {
        Outbound::Unknown(UnknownDestination::Deny) => return Err((Reason::NoRoute, destination.to_owned())),
        Outbound::Unknown(UnknownDestination::PassThrough) => {
            let mut account = account(&OUTSIDE.into());
            let opened = open_outside(shared, destination, &mut account).await;
            Way::Connected(opened.inspect_err(|(reason, what)| account.failed(*reason, what))?, account)
        }
        Outbound::Service(OutboundService { protocol: Protocol::Tcp, tcp: Some(route), name, .. }) => {
            let mut account = account(name);
            let opened = tcp::open_route(shared, route, &mut account).await;
            let opened = opened.inspect_err(|error| account.failed(error.reason(), error));
            Way::Connected(opened.map_err(|error| (error.reason(), error.to_string()))?, account)
        }
        Outbound::Service(_) => Way::Peek(destination.into(), found),
    };
    Ok(Tunnel { worker: worker.clone(), way })
}

impl Tunnel {
    /// Carries what the client sends through the tunnel, and back, to the end.
    pub fn carry(self, client: Box<dyn Duplex>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let Tunnel { worker, way } = self;
        let stream = Stream::from(client);
        match way {
            Way::Connected(upstream, account) => Box::pin(async move {
                tcp::carry(&worker.shared, Direction::Outbound, stream, None, upstream, account).await;
            }),
            Way::Peek(destination, found) => Box::pin(to(worker, stream, None, destination, Ok(found), clock::now())),
        }
    }
}
