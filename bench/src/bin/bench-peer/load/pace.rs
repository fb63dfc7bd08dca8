//! Requests that become due at a constant rate.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use parking_lot::Mutex;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::unix::AsyncFd;
use tokio::sync::Semaphore;

/// A queue of due times, filled by the kernel's timer and emptied by whichever connection is free first.
#[derive(Debug)]
pub(super) struct Pace {
    queue: Arc<Queue>,
}

#[derive(Debug)]
struct Queue {
    due: Mutex<VecDeque<Instant>>,
    waiting: Semaphore,
}

impl Pace {
    /// Starts the clock.
    pub(super) fn start(rate: f64) -> Result<Pace> {
        let queue = Arc::new(Queue { due: Mutex::default(), waiting: Semaphore::new(0) });
        let interval = Duration::from_secs_f64(1.0 / rate);
        let timer =
            rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let each = Timespec::try_from(interval).context("an interval")?;
        let schedule = Itimerspec { it_interval: each, it_value: each };
        let start = Instant::now();
        rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &schedule)?;
        #[allow(deprecated, reason = "what replaces it is unsafe, and an owned descriptor is closed by nobody else")]
        let timer = AsyncFd::new(timer)?;
        tokio::spawn(tick(timer, queue.clone(), start, interval));
        Ok(Pace { queue })
    }

    /// Waits for the next request that nobody has taken; when it was due.
    pub(super) async fn due(&self) -> Instant {
        if let Ok(permit) = self.queue.waiting.acquire().await {
            permit.forget();
        }
        self.queue.due.lock().pop_front().unwrap_or_else(Instant::now)
    }
}

async fn tick(timer: AsyncFd<OwnedFd>, queue: Arc<Queue>, start: Instant, interval: Duration) -> Option<()> {
    let mut ticks: u64 = 0;
    loop {
        let mut guard = timer.readable().await.ok()?;
        let mut expirations = [0; 8];
        let read = guard.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut expirations)?));
        let Ok(Ok(8)) = read else { continue };
        let more = u64::from_ne_bytes(expirations);
        {
            let mut due = queue.due.lock();
            due.extend((ticks + 1..=ticks + more).map(|tick| start + interval.mul_f64(tick as f64)));
        }
        ticks += more;
        queue.waiting.add_permits(more as usize);
    }
}
