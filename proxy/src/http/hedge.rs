//! A second try beside the first, where the answer is unusually long in coming: the first good answer is the request's, the other try
//! is cancelled, which resets its stream or closes its connection (hedging: gRFC A6; Envoy, `HedgePolicy`).
//!
//! Only where the route asks for it and for methods that may be processed twice; once for a request, as one of its further tries; at
//! another endpoint, and only one that is well; with a place of its own within the limits, and paid from the retry budget: so
//! hedges and retries together stay within what retries alone may add. Never for a request whose body has not wholly come, or is
//! longer than what is kept of it.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::response;
use tokio::time::{Instant, sleep};

use super::body::Body;
use super::failure::told;
use super::forward::{Answer, Plan, TryFailure, in_time, is_endpoints_fault, retries_answer, send, tell_deadline};
use super::head::Head;
use super::replay::Replay;
use crate::balance::{self, LoadGuard, Picked, RetryGuard, UsageGuard, Wish};
use crate::metrics::Hedged;
use crate::outcome::Outcome;
use crate::pool::Target;
use crate::reason::Reason;
use crate::shared::Worker;
use crate::snapshot::{Cluster, Endpoint, Hedge};

/// How long the answer is waited for before a second try; nothing while too little is known of the service.
pub(super) fn delay(hedge: Hedge, cluster: &Cluster) -> Option<Duration> {
    match hedge {
        Hedge::After(delay) => Some(delay),
        Hedge::Quantile { share, least, samples } => {
            cluster.latencies.quantile(share, samples).map(|usual| usual.max(least))
        }
    }
}

/// Learns how long a request that may be hedged has waited for its answer, from whichever try: where the second one was faster, the
/// first would have taken longer still, which is all that a quantile below asks. What failed at once says nothing.
pub(super) fn measure(hedge: Hedge, cluster: &Cluster, begun: Instant, result: &Result<Answer, TryFailure>) {
    let waited = match result {
        Ok(_) => true,
        Err(TryFailure { failure, .. }) => failure.reason == Reason::TryTimeout,
    };
    if waited && matches!(hedge, Hedge::Quantile { .. }) {
        cluster.latencies.observe(begun.elapsed());
    }
}

/// A first try that waits for its answer, and what a second one needs.
pub(super) struct Race<'a> {
    pub(super) worker: &'a Arc<Worker>,
    pub(super) plan: &'a Plan<'a>,
    /// The request once more.
    pub(super) head: &'a Head,
    pub(super) replay: &'a Replay,
    /// Where the first try went.
    pub(super) tried: &'a [SocketAddr],
    pub(super) key: Option<u64>,
    /// How long the first try is alone.
    pub(super) delay: Duration,
}

/// What came of a race.
#[derive(Default)]
pub(super) struct Raced {
    /// Whether there was a second try.
    pub(super) sent: bool,
    /// The second try, if what it came to is the request's. Boxed: every request has room for it.
    pub(super) second: Option<Box<Second>>,
}

/// A second try.
pub(super) struct Second {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) load: LoadGuard,
    pub(super) permission: RetryGuard,
    /// When it must be over.
    pub(super) deadline: Option<Instant>,
    begun: Instant,
    /// Within the limits of the service, beside that of the first.
    _place: UsageGuard,
}

impl Race<'_> {
    /// The answer that came first and is none that the route would retry; else what came last. Whichever is dropped is cancelled.
    pub(super) async fn run(
        self,
        first: impl Future<Output = Result<Answer, TryFailure>>,
        first_load: &mut Option<LoadGuard>,
        outcome: &mut Outcome,
        raced: &mut Raced,
    ) -> Result<Answer, TryFailure> {
        let Race { worker, plan, head, delay, .. } = self;
        let mut first = pin!(first);
        tokio::select! {
            biased;
            result = &mut first => return result,
            () = sleep(delay) => {}
        }
        let Some((mut second, again, body)) = self.begin(outcome) else { return first.await };
        raced.sent = true;
        let target = Target::Endpoint(second.endpoint.clone());
        let sending = pin!(send(worker, plan, &target, again, body, None, true));
        let mut sending = pin!(in_time(sending, second.deadline, &target));
        let (is_second, result) = tokio::select! {
            biased;
            result = &mut first => (false, result),
            result = &mut sending => (true, result),
        };
        let (is_second, result, lost) = if wins(plan, head, &result) {
            (is_second, result, None)
        } else {
            // The other may do better. If it does not, an answer is more than none.
            let lost = failure(&result);
            let other = if is_second {
                tell(Some(&mut second.load), &result);
                first.await
            } else {
                tell(first_load.as_mut(), &result);
                sending.await
            };
            if other.is_ok() || result.is_err() {
                (!is_second, other, lost)
            } else {
                (is_second, result, failure(&other))
            }
        };
        let result_word = match (&result, is_second) {
            (Err(_), _) => Hedged::Failed,
            (Ok(_), true) => Hedged::Won,
            (Ok(_), false) => Hedged::Lost,
        };
        worker.shared.metrics.hedged(&plan.cluster.name, result_word);
        outcome.raced(is_second.then_some((&second.endpoint, second.begun)), lost);
        if is_second {
            raced.second = Some(Box::new(second));
        }
        result
    }

    /// The second try, where it is possible and permitted.
    fn begin(&self, outcome: &mut Outcome) -> Option<(Second, Box<Head>, Body)> {
        let Race { worker, plan, .. } = self;
        let cluster = plan.cluster;
        let body = self.replay.complete()?;
        let Picked { endpoint, guard } = balance::pick_beside(cluster, Wish { exclude: self.tried, key: self.key })?;
        let permitted = balance::admit(cluster, &self.head.headers)
            .ok()
            .and_then(|place| Some((place, cluster.retry_budget.take(cluster.usage.requests())?)));
        let Some((place, permission)) = permitted else {
            worker.shared.metrics.hedged(&cluster.name, Hedged::Withheld);
            return None;
        };
        let begun = Instant::now();
        let deadline = plan.try_timeout.map(|limit| begun + limit);
        let mut head = Box::new(self.head.clone());
        tell_deadline(plan, &mut head, deadline);
        outcome.hedges(&endpoint, &mut head.headers);
        let load = guard.due(plan.deadline.map(Instant::into_std));
        Some((Second { endpoint, load, permission, deadline, begun, _place: place }, head, body))
    }
}

/// Whether a try ends the race: neither a failure, nor one that a sidecar answered with, nor an answer that the route retries.
fn wins(plan: &Plan<'_>, head: &Head, result: &Result<Answer, TryFailure>) -> bool {
    let settles = |head_of_answer: &response::Parts| {
        told(&head_of_answer.headers).is_none() && !retries_answer(&plan.retry.on, &head.method, head_of_answer)
    };
    result.as_ref().is_ok_and(|(answer, ..)| settles(answer))
}

/// Why a try does not decide, if it has ended by itself.
fn failure(result: &Result<Answer, TryFailure>) -> Option<Reason> {
    Some(match result {
        Ok(_) => Reason::RetriableStatus,
        Err(TryFailure { failure, .. }) => failure.reason,
    })
}

/// What a try that did not decide says about its endpoint.
fn tell(load: Option<&mut LoadGuard>, result: &Result<Answer, TryFailure>) {
    let Some(load) = load else { return };
    match result {
        Ok((answer, _, lease, _)) => {
            load.connected(lease.waited_until().map(Instant::into_std));
            load.responded(answer.status, &answer.headers);
        }
        Err(TryFailure { failure, .. }) if is_endpoints_fault(failure.reason) => load.failed(),
        Err(_) => load.discard(),
    }
}
