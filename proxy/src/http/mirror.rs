//! Copies of requests for mirrors, sent when the request's body is complete. Nobody waits for them and nobody sees their answers; they
//! are counted as requests to the mirror's service. A body beyond the limit of [`replay`](super::replay) is not copied.

use std::sync::Arc;
use std::time::Duration;

use http_body::Body as _;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::body::{Body, grpc_status};
use super::forward::{Plan, Upstream, UpstreamBody, forward};
use super::head::Head;
use super::replay::Replay;
use crate::metrics::{Direction, Protocol};
use crate::names::Name;
use crate::outcome::Outcome;
use crate::reason::Reason;
use crate::shared::Worker;
use crate::snapshot::{Mirror, Retry, Route};

/// Copies of a worker under way; what would be more is left out.
const COPIES: usize = 128;
/// How long a copy may take, from the beginning of the request.
const TIME: Duration = Duration::from_secs(15);

/// The copies that a worker has under way.
#[derive(Debug, Default)]
pub struct Mirrors {
    tasks: Mutex<JoinSet<()>>,
}

/// Copies a request for those mirrors of its route that are to get it. Returns the body to send.
pub(super) fn copy(worker: &Arc<Worker>, route: &Route, protocol: Protocol, head: &Head, body: Body) -> Body {
    let drawn: SmallVec<[&Mirror; 2]> = route.mirrors.iter().filter(|mirror| mirror.share.draw()).collect();
    if drawn.is_empty() || head.upgrade.is_some() {
        return body;
    }
    let replay = Replay::new(body);
    let mut tasks = worker.mirrors.tasks.lock();
    while tasks.try_join_next().is_some() {}
    for mirror in drawn {
        if tasks.len() >= COPIES {
            break;
        }
        let (worker, mirror, head) = (worker.clone(), mirror.clone(), Box::new(head.clone()));
        tasks.spawn(send(worker, mirror, route.name.clone(), protocol, head, replay.whole()));
    }
    replay.body().unwrap_or(Body::empty())
}

async fn send(
    worker: Arc<Worker>,
    mirror: Mirror,
    route: Name,
    protocol: Protocol,
    head: Box<Head>,
    body: oneshot::Receiver<Body>,
) {
    let Ok(Ok(body)) = timeout(TIME, body).await else { return };
    let mut outcome = Outcome::new(worker.clone(), Direction::Outbound, protocol, head.method.clone());
    outcome.path(Some(head.path.clone()));
    outcome.service(mirror.cluster.name.clone());
    outcome.route(route);
    let retry = Retry { attempts: 0, ..Retry::default() };
    let host = mirror.cluster.name.rsplit_once(':').map_or(&*mirror.cluster.name, |(host, _)| host);
    let plan = Plan {
        cluster: &mirror.cluster,
        fixed: None,
        kept: None,
        try_timeout: None,
        grpc_deadline: None,
        deadline: None,
        idle: None,
        source: None,
        retry: &retry,
        default_host: host,
    };
    match timeout(TIME, forward(&worker, &plan, head, body, None, &mut outcome)).await {
        Ok(Ok(upstream)) => {
            let Upstream { head, body, held, .. } = upstream;
            outcome.status(head.status);
            outcome.grpc_status(grpc_status(&head.headers));
            if let UpstreamBody::Body(body) = body {
                // To its end, so that its connection can be used again.
                let _ = timeout(TIME, drain(body)).await;
            }
            outcome.answered();
            drop(held);
        }
        Ok(Err(failure)) => outcome.failed(failure.reason, &failure),
        Err(_) => outcome.failed(Reason::RequestTimeout, &"the mirror did not answer"),
    }
}

async fn drain(mut body: Body) {
    let mut body = std::pin::Pin::new(&mut body);
    while let Some(Ok(_)) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {}
}
