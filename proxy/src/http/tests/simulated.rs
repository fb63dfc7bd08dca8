//! What goes wrong in time, in simulated time: replicas, a zone, everything at once; a storm of retries. Each with a bound on the
//! requests that fail, on what is sent for what was offered (amplification), and on how soon all is well again.
//!
//! A hundred requests come each second whether they are answered or not. What goes wrong begins after ten seconds.

use std::time::Duration;

use crate::balance::Cause;
use crate::filter::Share;
use crate::policy::{Algorithm, Locality, OutlierDetection, Policy};
use crate::simulation::{Asked, Manner, World};
use crate::snapshot::{Hedge, Retry, RetryOn, Route};

const RATE: u32 = 100;
const FOUR: [&str; 4] = ["a"; 4];
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// When it begins to go wrong, and when it is mended.
const WRONG: Duration = Duration::from_secs(10);
const MENDED: Duration = Duration::from_secs(30);
const END: Duration = Duration::from_secs(90);

/// What services have without a policy.
fn usual() -> Policy {
    let locality = Locality { nearest: true, ..Locality::default() };
    Policy { outliers: Some(OutlierDetection::default()), locality, ..Policy::default() }
}

/// As `HTTPRoute.retry` with `codes: [503]`.
fn retried(route: Route) -> Route {
    let on = RetryOn { resets: true, statuses: vec![503..=503], idempotent_only: true, ..RetryOn::default() };
    Route { retry: Retry { on, ..Retry::default() }, ..limited(route) }
}

fn limited(route: Route) -> Route {
    Route { timeout: Some(2 * SECOND), ..route }
}

/// What came of a run.
struct Run {
    asked: Vec<Asked>,
    world: World,
}

impl Run {
    /// Some of four replicas go wrong, and are mended.
    async fn of(ill: &[usize], manner: Manner, change: impl FnOnce(Route) -> Route) -> Run {
        Run::in_zones(&FOUR, usual(), ill, manner, change).await
    }

    async fn in_zones(
        zones: &[&str],
        policy: Policy,
        ill: &[usize],
        manner: Manner,
        change: impl FnOnce(Route) -> Route,
    ) -> Run {
        let world = World::new(7, zones, policy, change);
        world.at(WRONG, ill.iter().copied(), manner);
        world.at(MENDED, ill.iter().copied(), Manner::Well);
        let asked = world.offer(RATE, END).await;
        Run { asked, world }
    }

    fn failed(&self) -> usize {
        self.asked.iter().filter(|one| one.status != 200).count()
    }

    /// The last time that a request came which failed; zero if none did.
    fn last_failure(&self) -> Duration {
        self.asked.iter().filter(|one| one.status != 200).map(|one| one.at).max().unwrap_or_default()
    }

    /// What was sent for each request that was offered.
    fn amplification(&self) -> f64 {
        self.world.arrived() as f64 / self.asked.len() as f64
    }

    /// In which time this share of the requests between two times was answered.
    fn within(&self, percent: usize, from: Duration, to: Duration) -> Duration {
        let mut times: Vec<Duration> =
            self.asked.iter().filter(|one| (from..to).contains(&one.at)).map(|one| one.took).collect();
        times.sort();
        times[times.len() * percent / 100]
    }

    fn told(&self, what: &str) -> String {
        let (failed, last, sent) = (self.failed(), self.last_failure(), self.amplification());
        let shares: Vec<usize> = self.world.replicas.iter().map(|replica| replica.requests()).collect();
        format!("{what}: {failed} failed, the last at {last:?}, {sent} sent for each, {shares:?}")
    }
}

/// At most so many fail, none after `calm`, and at most `sent` are sent for each.
#[track_caller]
fn holds(run: &Run, what: &str, failed: usize, calm: Duration, sent: f64) {
    let told = run.told(what);
    assert!(run.failed() <= failed, "more than {failed}: {told}");
    assert!(run.last_failure() <= calm, "after {calm:?}: {told}");
    assert!(run.amplification() <= sent, "more than {sent}: {told}");
}

/// In the last ten seconds a replica has again its share.
async fn shares_again(run: &Run, replica: usize, what: &str) {
    let before = (run.world.replicas[replica].requests(), run.world.arrived());
    let asked = run.world.offer(RATE, WRONG).await;
    assert!(asked.iter().all(|one| one.status == 200), "{what}");
    let replicas = run.world.replicas.len();
    let own = (run.world.replicas[replica].requests() - before.0) as f64;
    let share = own / (run.world.arrived() - before.1) as f64 * replicas as f64;
    assert!((0.7..1.4).contains(&share), "{what}: {share} of its share");
}

#[tokio::test(start_paused = true)]
async fn one_of_four_replicas_goes_wrong() {
    // Without any retry that must be asked for: a failure for each time that it is given another chance, until it is ejected
    // after five in a row; what is under way when it begins besides.
    for (manner, failed) in [(Manner::Resets, 7), (Manner::Unavailable, 7), (Manner::Hangs, 10), (Manner::Vanished, 10)]
    {
        let run = Run::of(&[0], manner, limited).await;
        let what = format!("{manner:?} without retries");
        holds(&run, &what, failed, MENDED + 2 * SECOND, 1.01);
        assert!(run.failed() > 0, "the scenario does something: {}", run.told(&what));
        shares_again(&run, 0, &what).await;
    }
    // A process that has ended refuses connections: nobody has got the request, and another replica gets it in any case.
    let run = Run::of(&[0], Manner::Gone, limited).await;
    holds(&run, "gone", 2, WRONG + MS * 100, 1.01);
    shares_again(&run, 0, "gone").await;
}

#[tokio::test(start_paused = true)]
async fn retries_hide_one_replica_of_four_that_goes_wrong() {
    for manner in [Manner::Resets, Manner::Unavailable, Manner::Gone] {
        let run = Run::of(&[0], manner, retried).await;
        holds(&run, &format!("{manner:?} with retries"), 0, Duration::ZERO, 1.01);
    }
    // One that says nothing costs the time of a try.
    for manner in [Manner::Hangs, Manner::Vanished] {
        let run = Run::of(&[0], manner, |route| Route { try_timeout: Some(SECOND / 2), ..retried(route) }).await;
        holds(&run, &format!("{manner:?} with retries"), 0, Duration::ZERO, 1.01);
        let (usual, then) = (run.within(99, Duration::ZERO, WRONG), run.within(99, WRONG, MENDED));
        assert!(then <= usual * 3 / 2, "{manner:?}: p99 {usual:?} before, {then:?} then");
    }
}

#[tokio::test(start_paused = true)]
async fn one_replica_that_becomes_slow_gets_hardly_anything_and_the_tail_stays() {
    let run = Run::of(&[0], Manner::Slow(20 * 5 * MS), limited).await;
    holds(&run, "slow", 0, Duration::ZERO, 1.0);
    let slow = run.asked.iter().filter(|one| (WRONG..MENDED).contains(&one.at) && one.took >= 100 * MS).count();
    let share = slow as f64 / (RATE as f64 * (MENDED - WRONG).as_secs_f64());
    assert!(share < 0.01, "{share} of the requests went to it");
    let (usual, then) = (run.within(99, Duration::ZERO, WRONG), run.within(99, WRONG, MENDED));
    assert!(then <= usual * 3 / 2, "p99 {usual:?} before, {then:?} then");
    shares_again(&run, 0, "slow").await;
}

#[tokio::test(start_paused = true)]
async fn a_zone_that_is_lost_is_left_as_soon_as_its_replicas_have_failed_five_times() {
    let zones = ["a", "a", "a", "b", "b", "b"];
    // Five failures of each of the three, and what is under way; where nothing answers, whatever comes within the time of a request.
    let unanswered = (f64::from(RATE) * 2.5) as usize;
    for (manner, failed) in [
        (Manner::Gone, 10),
        (Manner::Unavailable, 25),
        (Manner::Resets, 25),
        (Manner::Hangs, unanswered),
        (Manner::Vanished, unanswered),
    ] {
        let run = Run::in_zones(&zones, usual(), &[0, 1, 2], manner, limited).await;
        let what = format!("{manner:?}");
        holds(&run, &what, failed, WRONG + 5 * SECOND, 1.01);
        let elsewhere: usize = run.world.replicas[3..].iter().map(|replica| replica.requests()).sum();
        assert!(elsewhere >= 1500, "the other zone carries what came in 20 s: {}", run.told(&what));
        // Mended, the own zone is preferred again.
        let before = run.world.arrived();
        let own = |run: &Run| -> usize { run.world.replicas[..3].iter().map(|replica| replica.requests()).sum() };
        let own_before = own(&run);
        run.world.offer(RATE, WRONG).await;
        let share = (own(&run) - own_before) as f64 / (run.world.arrived() - before) as f64;
        assert!(share > 0.95, "{what}: {share} stays in the own zone");
    }
}

#[tokio::test(start_paused = true)]
async fn all_replicas_fail_and_their_return_is_noticed_at_once() {
    for manner in [Manner::Unavailable, Manner::Resets, Manner::Gone] {
        let run = Run::of(&[0, 1, 2, 3], manner, retried).await;
        let what = format!("all {manner:?}");
        let meanwhile = (RATE as f64 * (MENDED - WRONG).as_secs_f64()) as usize;
        holds(&run, &what, meanwhile + 2, MENDED + SECOND, 1.2);
        assert!(run.failed() > meanwhile * 9 / 10, "{}", run.told(&what));
    }
    for manner in [Manner::Hangs, Manner::Vanished] {
        let run = Run::of(&[0, 1, 2, 3], manner, limited).await;
        holds(&run, &format!("all {manner:?}"), usize::MAX, MENDED + 3 * SECOND, 1.01);
    }
    // Slow is not ill: nobody is left out, and nothing is sent twice.
    let slow = SECOND / 2;
    let run = Run::of(&[0, 1, 2, 3], Manner::Slow(slow), limited).await;
    holds(&run, "all slow", 0, Duration::ZERO, 1.0);
    assert!(run.within(99, WRONG, MENDED) <= slow + 20 * MS, "nobody waits for anything else");
    assert!(run.within(99, MENDED + SECOND, END) <= 20 * MS, "and it is over when they are fast");
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_retries_stays_within_the_budget_and_is_over_when_its_cause_is() {
    for (attempts, manner) in [(1, Manner::Slow(SECOND)), (5, Manner::Slow(SECOND)), (10, Manner::Unavailable)] {
        let storm = |route: Route| {
            let route = retried(route);
            Route { retry: Retry { attempts, ..route.retry }, try_timeout: Some(200 * MS), ..route }
        };
        let run = Run::of(&[0, 1, 2, 3], manner, storm).await;
        let what = format!("{attempts} attempts, {manner:?}");
        let offered = RATE as f64 * (MENDED - WRONG).as_secs_f64();
        let quiet = run.asked.len() as f64 - offered;
        let during = (run.world.arrived() as f64 - quiet) / offered;
        // A fifth; three in a second in any case; and what the calm had saved.
        let most = 1.2 + 3.0 / f64::from(RATE) + 15.0 / offered;
        assert!(during <= most, "{during} for each, more than {most}: {}", run.told(&what));
        assert!(run.last_failure() <= MENDED + SECOND, "{}", run.told(&what));
    }
}

#[tokio::test(start_paused = true)]
async fn hedging_cuts_the_tail_of_one_slow_replica_within_the_budget() {
    let ten = ["a"; 10];
    let time = 60 * SECOND;
    let mut tails = Vec::new();
    for hedged in [false, true] {
        // In turn: one request in ten is slow, however slow that is.
        let policy = Policy { algorithm: Algorithm::RoundRobin, ..usual() };
        let quantile = Hedge::Quantile { share: Share(850_000), least: 10 * MS, samples: 100 };
        let hedge = |route: Route| {
            let on = RetryOn { idempotent_only: true, ..RetryOn::default() };
            Route { retry: Retry { on, hedge: hedged.then_some(quantile), ..Retry::default() }, ..route }
        };
        let world = World::new(7, &ten, policy, hedge);
        world.at(Duration::ZERO, [0], Manner::Slow(300 * MS));
        let asked = world.offer(RATE, time).await;
        let run = Run { asked, world };
        holds(&run, "hedged", 0, Duration::ZERO, if hedged { 1.2 } else { 1.0 });
        tails.push(run.within(99, SECOND * 5, time));
        let sent = run.amplification();
        assert!(!hedged || sent > 1.05, "it is done: {sent}");
        assert_eq!(run.world.cluster.usage.requests() + run.world.cluster.retry_budget.retrying(), 0);
    }
    assert!(tails[0] >= 300 * MS, "{tails:?}");
    assert!(tails[1] <= 25 * MS, "twice a usual answer and the delay: {tails:?}");
}

#[tokio::test(start_paused = true)]
async fn five_failures_in_a_row_eject_also_where_connections_are_reset() {
    // In turn: the better of two would hardly ask it a second time.
    let in_turn = || Policy { algorithm: Algorithm::RoundRobin, ..usual() };
    for manner in [Manner::Unavailable, Manner::Resets, Manner::Gone] {
        let run = Run::in_zones(&FOUR, in_turn(), &[0], manner, limited).await;
        let told = run.told(&format!("{manner:?}"));
        assert_eq!(run.world.cluster.feedback.watch.ejections(Cause::GatewayFailures), 1, "{told}");
        assert!(run.failed() <= 7 && run.last_failure() <= WRONG + 5 * SECOND, "{told}");
        shares_again(&run, 0, &told).await;
    }
}

#[test]
fn the_same_seed_gives_the_same_traffic() {
    let traffic = || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build().expect("a runtime");
        runtime.block_on(async { Run::of(&[0], Manner::Resets, retried).await.asked })
    };
    assert_eq!(traffic(), traffic());
}
