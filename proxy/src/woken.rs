//! Polling what was woken, and nothing else of a task.
//!
//! A task polls everything that it is made of whenever one of its parts has something to say. Most parts of a connection's task —
//! the end of the sidecar, of a certificate, of a long time — hardly ever have, and looking at an HTTP/2 connection that nothing
//! came for costs thousands of instructions. What is woken wakes its task too: no wake is lost, only polls in vain are left out.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// A part of a task. It counts as woken at first: nothing can wake what was never polled.
#[derive(Debug)]
pub(crate) struct Part {
    state: Arc<State>,
    waker: Waker,
}

#[derive(Debug)]
struct State {
    woken: AtomicBool,
    task: AtomicWaker,
}

impl Wake for State {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl Part {
    pub(crate) fn new() -> Self {
        let state = Arc::new(State { woken: AtomicBool::new(true), task: AtomicWaker::new() });
        Part { waker: state.clone().into(), state }
    }

    /// Whether it was woken since it was last asked; if so, it is to be polled now, with [`Part::context`].
    pub(crate) fn was_woken(&self) -> bool {
        self.state.woken.swap(false, Ordering::AcqRel)
    }

    /// What the part is polled with.
    pub(crate) fn context(&self) -> Context<'_> {
        Context::from_waker(&self.waker)
    }

    /// Wakes it from within its task, which is being polled.
    pub(crate) fn wake(&self) {
        self.state.woken.store(true, Ordering::Release);
    }

    /// Until [`Part::rests`], waking the part does not wake the task, which is being polled.
    pub(crate) fn begins(&self) {
        self.state.task.take();
    }

    /// Whether the task may wait, as far as this part goes: it was not woken, and when it is, it will wake the task.
    pub(crate) fn rests(&self, cx: &Context<'_>) -> bool {
        self.state.task.register(cx.waker());
        !self.state.woken.load(Ordering::Acquire)
    }
}

/// A future as a [`Part`] of its task.
#[derive(Debug)]
pub(crate) struct WhenWoken<F> {
    future: F,
    part: Part,
}

/// `future`, polled only when it was woken.
pub(crate) fn when_woken<F: Future + Unpin>(future: F) -> WhenWoken<F> {
    WhenWoken { future, part: Part::new() }
}

impl<F: Future + Unpin> Future for WhenWoken<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let WhenWoken { future, part } = &mut *self;
        if part.rests(cx) || !part.was_woken() {
            return Poll::Pending;
        }
        pin!(future).poll(&mut part.context())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures_util::task::noop_waker;
    use tokio::sync::oneshot;

    use super::*;

    /// Counts how often it wakes.
    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_future_is_polled_when_it_was_woken_and_only_then() {
        let (send, receive) = oneshot::channel();
        let mut receive = pin!(receive);
        let mut polls = 0;
        let mut future = when_woken(std::future::poll_fn(|cx| {
            polls += 1;
            receive.as_mut().poll(cx)
        }));
        let task = Arc::new(Count::default());
        let waker = Waker::from(task.clone());
        let mut cx = Context::from_waker(&waker);
        for _ in 0..5 {
            assert!(Pin::new(&mut future).poll(&mut cx).is_pending());
        }
        send.send(7).expect("it waits");
        assert_eq!(task.0.load(Ordering::Relaxed), 1);
        assert_eq!(Pin::new(&mut future).poll(&mut cx), Poll::Ready(Ok(7)));
        drop(future);
        assert_eq!(polls, 2);
    }

    #[test]
    fn the_task_that_waits_last_is_woken() {
        let (send, receive) = oneshot::channel::<()>();
        let mut future = when_woken(receive);
        assert!(Pin::new(&mut future).poll(&mut Context::from_waker(&noop_waker())).is_pending());
        let task = Arc::new(Count::default());
        assert!(Pin::new(&mut future).poll(&mut Context::from_waker(&task.clone().into())).is_pending());
        drop(send);
        assert_eq!(task.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn what_is_woken_while_its_task_is_polled_does_not_wake_the_task_but_keeps_it_from_resting() {
        let part = Part::new();
        assert!(part.was_woken(), "at first");
        let task = Arc::new(Count::default());
        let waker = Waker::from(task.clone());
        let cx = Context::from_waker(&waker);
        assert!(part.rests(&cx));
        part.begins();
        part.context().waker().wake_by_ref();
        assert_eq!(task.0.load(Ordering::Relaxed), 0);
        assert!(!part.rests(&cx));
        assert!(part.was_woken() && part.rests(&cx));
        part.context().waker().wake_by_ref();
        assert_eq!(task.0.load(Ordering::Relaxed), 1);
    }
}
