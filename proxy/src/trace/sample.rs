//! Which requests begin a trace: a share of them, and no more than so many in a second.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::filter::Share;

/// Decides about requests that nobody has decided about before.
#[derive(Debug)]
pub(super) struct Sampler {
    /// Traces whose random bits are below are followed.
    below: u64,
    /// Time of one trace, at the permitted rate.
    interval: Duration,
    /// When the allowance of a second will be whole again.
    whole_at: Mutex<Option<Instant>>,
}

/// The bits of a trace id that are random (W3C Trace Context Level 2, "random-trace-id").
const RANDOM_BITS: u32 = 56;

impl Sampler {
    /// A share of 0 to 1, and at most so many traces in a second.
    pub(super) fn new(share: f64, per_second: u32) -> Self {
        let below = below(share);
        let interval = Duration::from_secs(1) / per_second.max(1);
        Sampler { below, interval, whole_at: Mutex::new(None) }
    }

    /// Whether to follow the trace that a request with this id begins, of which its route may want another share.
    pub(super) fn follows(&self, trace: u128, of_route: Option<Share>, now: Instant) -> bool {
        let random = trace as u64 & ((1 << RANDOM_BITS) - 1);
        let below = of_route.map_or(self.below, |share| below(f64::from(share.0) / 1e6));
        random < below && self.permits(now)
    }

    fn permits(&self, now: Instant) -> bool {
        let mut whole_at = self.whole_at.lock();
        let next = whole_at.map_or(now, |at| at.max(now)) + self.interval;
        let permitted = next <= now + Duration::from_secs(1);
        if permitted {
            *whole_at = Some(next);
        }
        permitted
    }
}

/// What the random bits of a share of the traces are below.
fn below(share: f64) -> u64 {
    (share.clamp(0.0, 1.0) * (1_u64 << RANDOM_BITS) as f64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn followed(sampler: &Sampler, now: Instant, requests: usize) -> usize {
        followed_of(sampler, None, now, requests)
    }

    fn followed_of(sampler: &Sampler, share: Option<Share>, now: Instant, requests: usize) -> usize {
        let mut random = fastrand::Rng::with_seed(3);
        (0..requests).filter(|_| sampler.follows(random.u128(1..), share, now)).count()
    }

    #[test]
    fn a_route_has_a_share_of_its_own_within_the_limit_of_all() {
        let (now, sampler) = (Instant::now(), Sampler::new(0.01, 10_000));
        assert_eq!(followed_of(&sampler, Some(Share(0)), now, 1000), 0);
        assert_eq!(followed_of(&sampler, Some(Share(1_000_000)), now, 1000), 1000);
        let half = followed_of(&sampler, Some(Share(500_000)), now, 10_000);
        // Five standard deviations of a binomial distribution around 5,000.
        assert!((4750..5250).contains(&half), "{half}");
        let left = 10_000 - 1000 - half;
        assert_eq!(followed_of(&sampler, Some(Share(1_000_000)), now, 10_000), left);
        assert_eq!(followed(&sampler, now, 10_000), 0);
    }

    #[test]
    fn a_share_is_followed() {
        let now = Instant::now();
        let hundredth = followed(&Sampler::new(0.01, 1_000_000), now, 100_000);
        // Five standard deviations of a binomial distribution around 1,000.
        assert!((843..1157).contains(&hundredth), "{hundredth}");
        assert_eq!(followed(&Sampler::new(0.0, 1_000_000), now, 1000), 0);
        assert_eq!(followed(&Sampler::new(1.0, 1_000_000), now, 1000), 1000);
    }

    #[test]
    fn no_more_than_so_many_in_a_second() {
        let sampler = Sampler::new(1.0, 50);
        let now = Instant::now();
        assert_eq!(followed(&sampler, now, 1000), 50);
        assert_eq!(followed(&sampler, now, 1000), 0);
        assert_eq!(followed(&sampler, now + Duration::from_millis(500), 1000), 25);
    }
}
