//! A timer that is cheap to poll often and to set rarely.
//!
//! A stream polls its timers for each token, and a poll of tokio's `Sleep` costs as much as a metric. If this timer is already
//! registered for the polling task and has not elapsed, it skips the `Sleep`.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use tokio::{
    task::coop::has_budget_remaining,
    time::{Instant, Sleep, sleep_until},
};

/// A timer for one task at a time.
pub(crate) struct Timer {
    sleep: Pin<Box<Sleep>>,
    registered: Option<Waker>,
}

impl Timer {
    /// A timer for `at`. It wakes the task that polled it last.
    pub(crate) fn new(at: Instant) -> Self {
        Self {
            sleep: Box::pin(sleep_until(at)),
            registered: None,
        }
    }

    /// Resets the timer to `at`. It wakes nobody until it is polled again.
    pub(crate) fn set(&mut self, at: Instant) {
        self.sleep.as_mut().reset(at);
        self.registered = None;
    }

    /// Ready once the time has come.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let wakes_us = |waker: &Waker| waker.will_wake(cx.waker());
        if self.registered.as_ref().is_some_and(wakes_us) && !self.sleep.is_elapsed() {
            return Poll::Pending;
        }
        // If the task has no coop budget left, tokio returns Pending without registering the waker.
        self.registered = has_budget_remaining().then(|| cx.waker().clone());
        self.sleep.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin, time::Duration};

    use futures_util::{FutureExt, task::noop_waker};
    use tokio::{task::coop::consume_budget, time::timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_task_that_polled_last_is_woken() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut timer = Timer::new(start + second);
        for round in 1..4 {
            let other = noop_waker();
            assert!(timer.poll(&mut Context::from_waker(&other)).is_pending());
            assert_eq!(poll_fn(|cx| timer.poll(cx)).now_or_never(), None);
            poll_fn(|cx| timer.poll(cx)).await;
            assert_eq!(start.elapsed().as_secs(), round);
            timer.set(Instant::now() + second);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_without_coop_budget_is_woken_too() {
        let second = Duration::from_secs(1);
        let mut timer = Timer::new(Instant::now() + second);
        let mut polls = 0;
        let elapsed = poll_fn(|cx| {
            polls += 1;
            while polls == 1 && has_budget_remaining() {
                let _ = pin!(consume_budget()).poll(cx);
            }
            timer.poll(cx)
        });
        assert!(timeout(2 * second, elapsed).await.is_ok());
    }
}
