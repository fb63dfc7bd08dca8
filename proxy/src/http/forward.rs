//! Sends a request to an endpoint, and once more where that is safe.
//!
//! Safe without configuration is only what the upstream provably has not processed: no connection came about; the stream was
//! refused or lay beyond GOAWAY; the request was handed back unsent; another sidecar says that it could not reach its
//! application. To these comes one race that HTTP/1 cannot tell apart (RFC 9110 §9.2.2): the upstream closes an idle connection at the
//! moment when a request is sent on it; idempotent requests without a body are sent again. Without configuration, no request is
//! sent again of whose body anything was read.
//!
//! A route may ask for more ([`RetryOn`]): tries that were lost, answers of some status. Then a body is kept while it streams,
//! up to 64 KiB, to be sent again from its beginning; what is longer is not retried, and the answer says so.
//!
//! It may also ask for a second try beside a first that takes unusually long ([`hedge`]).
//!
//! All of it is bounded by the retry budget, but for what nobody has more to do by: going to another endpoint because no connection
//! came about, and taking another connection because the first had ended before anything was sent, or says that it did not look at it.

use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::response;
use http_body::Body as _;
use smallvec::SmallVec;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::body::{Body, BodyError, grpc_status};
use super::failure::{Failure, told};
use super::grpc_timeout::{self, GRPC_TIMEOUT};
use super::head::{Head, MALLA_UPGRADE, Original, Upgrade};
use super::hedge::{self, Race, Raced};
use super::idle::Idle;
use super::pipe::{Pipe, PipeError};
use super::replay::Replay;
use super::request_body::{Gate, RequestBody};
use super::response::{Held, Lease};
use super::tunnel::{StreamIo, TunnelIo};
use crate::balance::{self, LoadGuard, Picked, RetryGuard, Wish};
use crate::outcome::Outcome;
use crate::pool::{ConnectFailure, Target, chain};
use crate::reason::Reason;
use crate::shared::Worker;
use crate::snapshot::{Cluster, Endpoints, Retry, RetryOn, UpstreamHttp};

/// An HTTP/1 connection that has been idle for longer may just be being closed by the upstream: requests that could not be
/// sent again get another one. Common servers close after 2 to 75 seconds.
const FRESH: Duration = Duration::from_secs(1);
/// Idle for less, a connection is not about to be closed for being idle: its requests need not be kept for a second try.
const BUSY: Duration = Duration::from_millis(200);

/// Where a request goes and what may be done for it.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) cluster: &'a Arc<Cluster>,
    /// The address, for clusters without addresses.
    pub(super) fixed: Option<Target>,
    /// The endpoint at which the client has a session: tried first.
    pub(super) kept: Option<SocketAddr>,
    pub(super) try_timeout: Option<Duration>,
    /// When the caller of a gRPC call gives up: passed on with each try, as what is left.
    pub(super) grpc_deadline: Option<Instant>,
    /// When the whole request must be over.
    pub(super) deadline: Option<Instant>,
    /// Ends it when nothing moves.
    pub(super) idle: Option<Arc<Idle>>,
    /// The client's address, where it is known.
    pub(super) source: Option<IpAddr>,
    pub(super) retry: &'a Retry,
    /// Stands in for a missing host towards HTTP/1.
    pub(super) default_host: &'a str,
}

/// A response that has begun.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) head: response::Parts,
    pub(super) body: UpstreamBody,
    /// Whether its headers are a sidecar's, not an application's.
    pub(super) from_sidecar: bool,
    pub(super) held: Held,
    /// Who answered, of a cluster with known addresses.
    pub(super) endpoint: Option<SocketAddr>,
    /// When this try must be over.
    pub(super) try_deadline: Option<Instant>,
    /// Why it was not retried, though the route retries its status and tries were left.
    pub(super) not_retried: Option<NotRetried>,
}

/// Why an answer was not retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotRetried {
    /// The body is too long to be kept.
    BodyTooLarge,
    /// The service's retry budget is spent.
    BudgetSpent,
}

impl NotRetried {
    /// For the response header.
    pub(super) const fn word(self) -> &'static str {
        match self {
            NotRetried::BodyTooLarge => "body_too_large",
            NotRetried::BudgetSpent => "retry_budget_spent",
        }
    }
}

/// What follows the head.
#[derive(Debug)]
pub(super) enum UpstreamBody {
    Body(Body),
    /// The upstream switched to this protocol.
    Switched(http::HeaderValue, Box<TunnelIo>),
}

/// A try that failed.
pub(super) struct TryFailure {
    pub(super) failure: Failure,
    /// The request, if it may be sent again.
    again: Option<(Box<Head>, Body)>,
    /// How far it got.
    got: Got,
}

/// How far a try got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Got {
    /// No connection came about.
    Nowhere,
    /// To a connection that had ended, or was ending: nothing was sent, or nothing of it was looked at.
    ToConnection,
    /// The upstream may have seen something of it.
    ToUpstream,
}

impl TryFailure {
    /// After something was sent.
    fn new(failure: Failure, again: Option<(Box<Head>, Body)>) -> Self {
        TryFailure { failure, again, got: Got::ToUpstream }
    }
}

/// A response's head, its body, and what carries it.
pub(super) type Answer = (response::Parts, UpstreamBody, Lease, Option<AbortOnDropHandle<()>>);

/// Sends the request and returns the response's head as soon as it has come.
pub(super) async fn forward(
    worker: &Arc<Worker>,
    plan: &Plan<'_>,
    head: Box<Head>,
    body: Body,
    gate: Option<Arc<Gate>>,
    outcome: &mut Outcome,
) -> Result<Upstream, Failure> {
    let cluster = plan.cluster;
    let place = balance::admit(cluster, &head.headers)
        .map_err(|reason| Failure::new(reason, format!("{} has too many requests at once", cluster.name)))?;
    cluster.retry_budget.offered(cluster.usage.requests());
    let key = balance::key(cluster, &head.headers, head.path.query(), plan.source);
    let (mut head, mut body) = (head, body);
    let on = &plan.retry.on;
    let hedge = plan
        .retry
        .hedge
        .filter(|_| gate.is_none() && plan.retry.attempts > 0 && head.upgrade.is_none() && on.permits(&head.method));
    let mut recorded = None;
    if plan.retry.attempts > 0 && (hedge.is_some() || !on.is_nothing()) && head.upgrade.is_none() {
        let replay = Replay::new(std::mem::replace(&mut body, Body::empty()));
        body = replay.body().unwrap_or(Body::empty());
        recorded = Some((head.method.clone(), replay));
    }
    let mut tried = SmallVec::<[SocketAddr; 2]>::new();
    let (mut left, mut interval) = (plan.retry.attempts, plan.retry.base_interval);
    let mut retry = None;
    loop {
        let (target, mut load) = choose(plan, &tried, key)?;
        let endpoint = match &target {
            Target::Endpoint(endpoint) => Some(endpoint),
            Target::Address(_) | Target::Name(..) => None,
        };
        outcome.tried(endpoint, &mut head.headers);
        tried.extend(endpoint.map(|endpoint| endpoint.address));
        let mut from_sidecar = matches!(&target, Target::Endpoint(endpoint) if endpoint.identity.is_some());
        let mut try_deadline = plan.try_timeout.map(|limit| Instant::now() + limit);
        tell_deadline(plan, &mut head, try_deadline);
        let mut kept = recorded.as_ref().filter(|_| left > 0).map(|(_, replay)| (head.clone(), replay));
        if let Some(idle) = &plan.idle {
            idle.touch();
        }
        let race = hedge.filter(|_| left == plan.retry.attempts).zip(kept.as_ref()).map(|(hedge, (head, replay))| {
            let delay = hedge::delay(hedge, cluster);
            (hedge, delay.map(|delay| Race { worker, plan, head, replay, tried: &tried, key, delay }))
        });
        let mut raced = Raced::default();
        let result = {
            let sending = pin!(send(worker, plan, &target, head, body, gate.as_ref(), left > 0));
            match (race, &plan.idle) {
                (None, None) => in_time(sending, try_deadline, &target).await,
                // Boxed: few ask for it, and every request would have to have room for it.
                (None, Some(idle)) => {
                    Box::pin(unless_idle(idle, in_time(sending, try_deadline, &target), &target)).await
                }
                (Some((hedge, race)), idle) => {
                    let begun = Instant::now();
                    let first = in_time(sending, try_deadline, &target);
                    let answering = async {
                        match race {
                            Some(race) => race.run(first, &mut load, outcome, &mut raced).await,
                            None => first.await,
                        }
                    };
                    let result = match idle {
                        None => Box::pin(answering).await,
                        Some(idle) => Box::pin(unless_idle(idle, answering, &target)).await,
                    };
                    hedge::measure(hedge, cluster, begun, &result);
                    result
                }
            }
        };
        if raced.sent {
            left = left.saturating_sub(1);
            kept = kept.filter(|_| left > 0);
        }
        if let Some(second) = raced.second.map(|second| *second) {
            from_sidecar = second.endpoint.identity.is_some();
            try_deadline = second.deadline;
            tried.push(second.endpoint.address);
            (load, retry) = (Some(second.load), Some(second.permission));
        }
        let cause;
        (cause, head, body) = match result {
            Ok((response, body, lease, upload)) => {
                let waited_until = lease.waited_until();
                outcome.connected(waited_until);
                if let Some(load) = &mut load {
                    load.connected(waited_until.map(Instant::into_std));
                    outcome.begun(load.responded(response.status, &response.headers));
                }
                let wanted = kept.filter(|(head, _)| retries_answer(on, &head.method, &response));
                match wanted.map(|(head, replay)| answered_again(cluster, head, replay)) {
                    Some(Ok((head, body, permission))) => {
                        retry = Some(permission);
                        (Reason::RetriableStatus, head, body)
                    }
                    settled => {
                        let held = Held { lease, load, _place: place, _retry: retry, upload, gate };
                        let not_retried = settled.and_then(Result::err);
                        let endpoint = tried.last().copied();
                        return Ok(Upstream {
                            head: response,
                            body,
                            from_sidecar,
                            held,
                            endpoint,
                            try_deadline,
                            not_retried,
                        });
                    }
                }
            }
            Err(TryFailure { failure, again, got }) => {
                match &mut load {
                    Some(load) if is_endpoints_fault(failure.reason) => load.failed(),
                    Some(load) => load.discard(),
                    None => {}
                }
                let lost = matches!(failure.reason, Reason::UpstreamReset | Reason::TryTimeout)
                    && recorded.as_ref().is_some_and(|(method, _)| on.reset(method));
                if again.is_none() && !lost {
                    return Err(failure);
                }
                if left == 0 {
                    return Err(exhausted(failure, plan.retry.attempts));
                }
                let again = again.or_else(|| kept.and_then(|(head, replay)| Some((head, replay.body()?))));
                let Some((head, body)) = again else {
                    let what = format!("{}; not retried: the request's body is longer than 64 KiB", failure.what);
                    return Err(Failure::new(failure.reason, what));
                };
                // Where nothing was sent, an endpoint gets the request for the first time: nobody has more to do, and all that
                // waited for one connection fail at once, which no budget has room for. An endpoint that cannot be connected to
                // is not to be connected to more often.
                let costs_nobody = match got {
                    Got::Nowhere => has_other(cluster, &tried),
                    Got::ToConnection => true,
                    Got::ToUpstream => false,
                };
                if !costs_nobody {
                    retry = cluster.retry_budget.take(cluster.usage.requests());
                    if retry.is_none() {
                        let what = format!("after {}: {}", failure.reason, failure.what);
                        return Err(Failure::new(Reason::RetryBudgetSpent, what));
                    }
                }
                (failure.reason, head, body)
            }
        };
        left = left.saturating_sub(1);
        worker.shared.metrics.retried(&cluster.name, cause);
        outcome.tries_again(cause);
        drop(load);
        sleep(jittered(interval)).await;
        interval = interval.saturating_mul(2).min(plan.retry.max_interval);
    }
}

/// Tells the next hop of a gRPC call how long the caller waits, or this try.
pub(super) fn tell_deadline(plan: &Plan<'_>, head: &mut Head, of_try: Option<Instant>) {
    if let Some(deadline) = plan.grpc_deadline {
        let until = of_try.map_or(deadline, |at| at.min(deadline));
        head.headers.insert(GRPC_TIMEOUT, grpc_timeout::write(until.duration_since(Instant::now())));
    }
}

/// A try within its time.
pub(super) async fn in_time(
    sending: Pin<&mut impl Future<Output = Result<Answer, TryFailure>>>,
    deadline: Option<Instant>,
    target: &Target,
) -> Result<Answer, TryFailure> {
    match deadline {
        None => sending.await,
        Some(at) => timeout_at(at, sending).await.unwrap_or_else(|_| {
            let failure = Failure::new(Reason::TryTimeout, format!("{target} did not answer in time"));
            Err(TryFailure::new(failure, None))
        }),
    }
}

/// A try, as long as something moves.
async fn unless_idle(
    idle: &Idle,
    sending: impl Future<Output = Result<Answer, TryFailure>>,
    target: &Target,
) -> Result<Answer, TryFailure> {
    tokio::select! {
        biased;
        result = sending => result,
        () = idle.over() => {
            let failure = Failure::new(Reason::IdleTimeout, format!("{target} has said nothing"));
            Err(TryFailure::new(failure, None))
        }
    }
}

/// Whether an answer is one that the route retries. Of gRPC only answers without a message can be: others have begun to
/// reach the caller (gRFC A6).
pub(super) fn retries_answer(on: &RetryOn, method: &http::Method, response: &response::Parts) -> bool {
    let grpc = if on.grpc_statuses == 0 { None } else { grpc_status(&response.headers) };
    on.answer(method, response.status.as_u16(), grpc)
}

/// The request once more, after an answer that is to be retried, if it is still there and the budget permits it.
fn answered_again(
    cluster: &Cluster,
    head: Box<Head>,
    replay: &Replay,
) -> Result<(Box<Head>, Body, RetryGuard), NotRetried> {
    let body = replay.body().ok_or(NotRetried::BodyTooLarge)?;
    let permission = cluster.retry_budget.take(cluster.usage.requests()).ok_or(NotRetried::BudgetSpent)?;
    Ok((head, body, permission))
}

/// Between half and the whole of the interval: those that failed together do not come back together.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.5 + fastrand::f64() / 2.0)
}

/// With the safe default, what failed last says most; where more tries were configured, that they were used up.
fn exhausted(failure: Failure, attempts: u8) -> Failure {
    if attempts <= 1 {
        return failure;
    }
    let tries = u16::from(attempts) + 1;
    Failure::new(Reason::RetriesExhausted, format!("{tries} tries, the last: {}: {}", failure.reason, failure.what))
}

/// Whether an endpoint that failed like this should be spared for a while.
pub(super) fn is_endpoints_fault(reason: Reason) -> bool {
    !matches!(
        reason,
        Reason::ClientReset
            | Reason::ProtocolError
            | Reason::CircuitOpen
            | Reason::IdentityMissing
            | Reason::IdentityExpired
            | Reason::Overloaded
            | Reason::ResolveFailed
    )
}

/// Another endpoint than those that were tried, if there is one.
fn choose(plan: &Plan<'_>, tried: &[SocketAddr], key: Option<u64>) -> Result<(Target, Option<LoadGuard>), Failure> {
    if let Some(fixed) = &plan.fixed {
        return Ok((fixed.clone(), None));
    }
    let cluster = plan.cluster;
    match &cluster.endpoints {
        Endpoints::Dns { host, port } => Ok((Target::Name(host.clone(), *port), None)),
        Endpoints::Set(_) => {
            let kept = plan.kept.filter(|_| tried.is_empty()).and_then(|address| balance::pick_kept(cluster, address));
            let picked = kept
                .or_else(|| balance::pick_by(cluster, Wish { exclude: tried, key }))
                .or_else(|| balance::pick_by(cluster, Wish { exclude: &[], key }));
            let picked = picked.ok_or_else(|| Failure::new(balance::why_none(cluster), cluster.name.to_string()))?;
            let Picked { endpoint, guard } = picked;
            Ok((Target::Endpoint(endpoint), Some(guard.due(plan.deadline.map(Instant::into_std)))))
        }
        Endpoints::OriginalDst => {
            Err(Failure::new(Reason::NoEndpoints, format!("{}: the original destination is not known", cluster.name)))
        }
    }
}

/// Whether the cluster has an endpoint that was not tried.
fn has_other(cluster: &Cluster, tried: &[SocketAddr]) -> bool {
    let Endpoints::Set(set) = &cluster.endpoints else { return false };
    set.iter().any(|endpoint| !tried.contains(&endpoint.address))
}

pub(super) async fn send(
    worker: &Arc<Worker>,
    plan: &Plan<'_>,
    target: &Target,
    head: Box<Head>,
    body: Body,
    gate: Option<&Arc<Gate>>,
    may_retry: bool,
) -> Result<Answer, TryFailure> {
    let to_sidecar = matches!(target, Target::Endpoint(endpoint) if endpoint.identity.is_some());
    let http2 = to_sidecar
        || match plan.cluster.http {
            UpstreamHttp::Http1 => false,
            UpstreamHttp::Http2 => true,
            UpstreamHttp::AsReceived => head.original == Original::Http2,
        };
    if http2 {
        let answer = over_http2(worker, plan, target, head, body, gate, may_retry, to_sidecar).await?;
        if to_sidecar { unless_unreached(answer, may_retry, target) } else { Ok(answer.0) }
    } else {
        over_http1(worker, plan, target, head, body, gate, may_retry).await
    }
}

/// Another sidecar answered in its application's place that it never reached it: as good as a connection refused here.
fn unless_unreached(
    (answer, again): (Answer, Option<(Box<Head>, Body)>),
    may_retry: bool,
    target: &Target,
) -> Result<Answer, TryFailure> {
    let Some(reason) = told(&answer.0.headers) else { return Ok(answer) };
    let unreached = matches!(
        reason,
        Reason::ConnectRefused | Reason::ConnectTimeout | Reason::ConnectFailed | Reason::Draining | Reason::Overloaded
    );
    match again {
        Some(again) if unreached && may_retry => Err(TryFailure::new(
            Failure::new(reason, format!("the sidecar at {target} could not reach its application")),
            Some(again),
        )),
        _ => Ok(answer),
    }
}

#[allow(clippy::too_many_arguments, reason = "one call, all of them different things")]
async fn over_http2(
    worker: &Arc<Worker>,
    plan: &Plan<'_>,
    target: &Target,
    head: Box<Head>,
    body: Body,
    gate: Option<&Arc<Gate>>,
    may_retry: bool,
    to_sidecar: bool,
) -> Result<(Answer, Option<(Box<Head>, Body)>), TryFailure> {
    let lease = match worker.pool.http2(worker, plan.cluster, target).await {
        Ok(lease) => lease,
        Err(failure) => return Err(not_connected(failure, head, body)),
    };
    let upgrade = head.upgrade.clone();
    if matches!(upgrade, Some(Upgrade::To(_))) {
        let limit = plan.cluster.connect_timeout;
        if timeout(limit, lease.takes_extended_connect()).await != Ok(true) {
            let what = format!("{target} takes no upgrades over HTTP/2 (RFC 8441)");
            return Err(TryFailure::new(Failure::new(Reason::UpstreamProtocol, what), None));
        }
    }
    let kept = may_retry.then(|| head.clone());
    let ended = body.is_end_stream() && upgrade.is_none();
    let (mut response, stream) = match lease.open(head.into_http2(to_sidecar), ended) {
        Ok(opened) => opened,
        Err(cause) => {
            lease.retire();
            let again = kept.map(|head| (head, body));
            return Err(TryFailure { failure: reset(target, &cause), again, got: Got::ToConnection });
        }
    };
    let mut switching = None;
    let mut upload = match upgrade {
        Some(_) => {
            switching = Some(stream);
            None
        }
        None => (!ended).then(|| Pipe::new(RequestBody::new(body, gate.cloned(), plan.idle.clone()), stream)),
    };
    let mut broken = None;
    let answered = std::future::poll_fn(|cx| {
        if let Some(gate) = gate {
            while let Poll::Ready(Some(Ok(informational))) = response.poll_informational(cx) {
                if informational.status() == http::StatusCode::CONTINUE {
                    gate.open();
                }
            }
        }
        if let Some(pipe) = &mut upload {
            match Pin::new(pipe).poll(cx) {
                Poll::Pending => {}
                Poll::Ready(Err(PipeError::Body(error))) => {
                    broken = Some(error);
                    return Poll::Ready(None);
                }
                // The answer says why the upstream wants no more.
                Poll::Ready(Err(PipeError::Stream | PipeError::Stalled) | Ok(())) => upload = None,
            }
        }
        Pin::new(&mut response).poll(cx).map(Some)
    })
    .await;
    match answered {
        None => {
            let (reason, what) = broken.map_or_else(
                || (Reason::ClientReset, String::new()),
                |error: BodyError| (error.reason(), chain(&error)),
            );
            Err(TryFailure::new(Failure::new(reason, what), None))
        }
        Some(Err(cause)) => {
            if cause.is_go_away() || cause.is_io() {
                lease.retire();
            }
            let untouched = if ended { Some(Body::empty()) } else { upload.and_then(untouched) };
            let again = kept.zip(untouched).filter(|_| was_not_processed(&cause));
            // Who refuses one stream has too much to do; who says goodbye has less than before.
            let goodbye = cause.is_go_away() && cause.reason() == Some(h2::Reason::NO_ERROR);
            let got = if again.is_some() && goodbye { Got::ToConnection } else { Got::ToUpstream };
            Err(TryFailure { failure: reset(target, &cause), again, got })
        }
        Some(Ok(response)) => {
            let (parts, received) = response.into_parts();
            let switched = match (switching, &upgrade) {
                (Some(stream), Some(upgrade)) => switched_http2(&parts, upgrade, to_sidecar).map(|to| (to, stream)),
                _ => None,
            };
            let body = match switched {
                Some((protocol, stream)) => {
                    UpstreamBody::Switched(protocol, Box::new(TunnelIo::Http2(StreamIo::new(stream, received))))
                }
                None => UpstreamBody::Body(Body::http2(received)),
            };
            let again = if ended { kept.map(|head| (head, Body::empty())) } else { None };
            let upload = upload.map(|pipe| AbortOnDropHandle::new(tokio::spawn(drain(pipe))));
            Ok(((parts, body, Lease::Http2(lease), upload), again))
        }
    }
}

/// The rest of a body, while the response is under way already. Who reads or resets the stream knows how it ended.
async fn drain(pipe: Pipe<RequestBody>) {
    if let Err(PipeError::Body(error)) = pipe.await {
        tracing::debug!(cause = %chain(&error), "a request's body ended early");
    }
}

fn untouched(pipe: Pipe<RequestBody>) -> Option<Body> {
    pipe.into_untouched().map(RequestBody::into_inner)
}

/// The stream was refused, or lies beyond the last one that GOAWAY names (RFC 9113 §6.8, §8.7).
fn was_not_processed(cause: &h2::Error) -> bool {
    cause.is_remote() && (cause.is_go_away() || cause.reason() == Some(h2::Reason::REFUSED_STREAM))
}

fn reset(target: &Target, cause: &h2::Error) -> Failure {
    let protocol = cause.is_library() && (cause.is_reset() || cause.is_go_away());
    let reason = if protocol { Reason::UpstreamProtocol } else { Reason::UpstreamReset };
    Failure::new(reason, format!("{target}: {}", chain(cause)))
}

/// Whether an answer to extended `CONNECT` means that the upstream switched, and to what.
fn switched_http2(head: &response::Parts, upgrade: &Upgrade, from_sidecar: bool) -> Option<http::HeaderValue> {
    if !head.status.is_success() {
        return None;
    }
    match upgrade {
        // An application behind a sidecar may have answered 200 without switching.
        Upgrade::To(_) if from_sidecar => head.headers.get(MALLA_UPGRADE).cloned(),
        Upgrade::To(protocol) => Some(protocol.clone()),
        Upgrade::Connect => Some(http::HeaderValue::from_static("")),
    }
}

async fn over_http1(
    worker: &Arc<Worker>,
    plan: &Plan<'_>,
    target: &Target,
    head: Box<Head>,
    body: Body,
    gate: Option<&Arc<Gate>>,
    may_retry: bool,
) -> Result<Answer, TryFailure> {
    let repeatable = may_retry && head.method.is_idempotent() && body.is_end_stream() && head.upgrade.is_none();
    let fresh_enough = if repeatable { Duration::MAX } else { FRESH };
    let mut lease = match worker.pool.http1(worker, plan.cluster, target, fresh_enough).await {
        Ok(lease) => lease,
        Err(failure) => return Err(not_connected(failure, head, body)),
    };
    let stale = lease.was_idle_for().is_some_and(|idle| idle > BUSY);
    let kept = (repeatable && stale).then(|| head.clone());
    let (original, upgrade) = (head.original, head.upgrade.clone());
    let mut request = head.into_http1(plan.default_host, RequestBody::new(body, gate.cloned(), plan.idle.clone()));
    if let Some(gate) = gate.cloned() {
        hyper::ext::on_informational(&mut request, move |informational| {
            if informational.status() == http::StatusCode::CONTINUE {
                gate.open();
            }
        });
    }
    let sent = match lease.sender() {
        Some(sender) => sender.try_send_request(request).await,
        None => {
            return Err(TryFailure::new(Failure::new(Reason::Internal, "a lease without a connection"), None));
        }
    };
    let mut response = match sent {
        Ok(response) => response,
        Err(mut failed) => {
            let unsent = failed.take_message().map(|request| unsent(request, original, upgrade));
            let closed = kept.filter(|_| is_closed(failed.error())).map(|head| (head, Body::empty()));
            lease.keep_out();
            let failure = http1_failure(target, failed.error());
            return Err(match unsent {
                Some(again) => TryFailure { failure, again: Some(again), got: Got::ToConnection },
                None => TryFailure::new(failure, closed),
            });
        }
    };
    let switched = response.status() == http::StatusCode::SWITCHING_PROTOCOLS
        || (upgrade == Some(Upgrade::Connect) && response.status().is_success());
    if switched {
        let protocol = response.headers().get(http::header::UPGRADE).cloned();
        let upgraded = hyper::upgrade::on(&mut response)
            .await
            .map_err(|cause| TryFailure::new(http1_failure(target, &cause), None))?;
        lease.keep_out();
        let protocol = protocol.unwrap_or(http::HeaderValue::from_static(""));
        let body = UpstreamBody::Switched(protocol, Box::new(upgraded.into()));
        return Ok((response.into_parts().0, body, Lease::Http1(lease), None));
    }
    if response.headers().contains_key(TRANSFER_ENCODING) && response.headers().contains_key(CONTENT_LENGTH) {
        lease.keep_out();
        let what = format!("{target}: the answer has both a length and a transfer coding");
        return Err(TryFailure::new(Failure::new(Reason::UpstreamProtocol, what), None));
    }
    let (parts, body) = response.into_parts();
    Ok((parts, UpstreamBody::Body(Body::http1(body)), Lease::Http1(lease), None))
}

/// The head that was not sent, as it was.
fn unsent(request: http::Request<RequestBody>, original: Original, upgrade: Option<Upgrade>) -> (Box<Head>, Body) {
    let (parts, body) = request.into_parts();
    (Box::new(Head::from_unsent(parts, original, upgrade)), body.into_inner())
}

/// Whether the upstream closed the connection before it had sent anything.
fn is_closed(error: &hyper::Error) -> bool {
    error.is_incomplete_message() || error.is_closed() || error.is_canceled() || is_connection_reset(error)
}

fn is_connection_reset(error: &hyper::Error) -> bool {
    use std::error::Error as _;
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    let cause = error.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
    cause.is_some_and(|cause| matches!(cause.kind(), BrokenPipe | ConnectionAborted | ConnectionReset))
}

fn http1_failure(target: &Target, error: &hyper::Error) -> Failure {
    use std::error::Error as _;
    let what = format!("{target}: {}", chain(error));
    let of_body = error.source().and_then(|cause| cause.downcast_ref::<BodyError>());
    let reason = if let Some(of_body) = of_body {
        of_body.reason()
    } else if error.is_user() {
        Reason::ClientReset
    } else if error.is_parse() {
        Reason::UpstreamProtocol
    } else {
        Reason::UpstreamReset
    };
    Failure::new(reason, what)
}

fn not_connected(failure: ConnectFailure, head: Box<Head>, body: Body) -> TryFailure {
    let again = failure.elsewhere.then_some((head, body));
    TryFailure { failure: Failure::new(failure.reason, failure.what), again, got: Got::Nowhere }
}
