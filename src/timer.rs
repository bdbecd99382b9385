//! A timer that is asked far more often than it is set.
//!
//! Each token asks the timers of its stream, and to ask tokio's costs as much as a metric does. This one is looked at
//! first: while it is set for the task that asks, and has not rung, there is nothing to do.

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
    wakes: Option<Waker>,
}

impl Timer {
    /// An timer for `at`; it wakes who has polled it.
    pub(crate) fn new(at: Instant) -> Self {
        Self {
            sleep: Box::pin(sleep_until(at)),
            wakes: None,
        }
    }

    /// Sets it anew; it must be polled to wake anyone.
    pub(crate) fn set(&mut self, at: Instant) {
        self.sleep.as_mut().reset(at);
        self.wakes = None;
    }

    /// Ready once it is time.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let wakes_us = |waker: &Waker| waker.will_wake(cx.waker());
        if self.wakes.as_ref().is_some_and(wakes_us) && !self.sleep.is_elapsed() {
            return Poll::Pending;
        }
        // A task that has used up its turn is sent away before the timer hears of it.
        self.wakes = has_budget_remaining().then(|| cx.waker().clone());
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
    async fn whoever_polled_it_last_is_woken_whenever_it_was_set() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut timer = Timer::new(start + second);
        for rings in 1..4 {
            let other = noop_waker();
            assert!(timer.poll(&mut Context::from_waker(&other)).is_pending());
            assert_eq!(poll_fn(|cx| timer.poll(cx)).now_or_never(), None);
            poll_fn(|cx| timer.poll(cx)).await;
            assert_eq!(start.elapsed().as_secs(), rings);
            timer.set(Instant::now() + second);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_had_used_up_its_turn_is_woken_too() {
        let second = Duration::from_secs(1);
        let mut timer = Timer::new(Instant::now() + second);
        let mut turns = 0;
        let rung = poll_fn(|cx| {
            turns += 1;
            while turns == 1 && has_budget_remaining() {
                let _ = pin!(consume_budget()).poll(cx);
            }
            timer.poll(cx)
        });
        assert!(timeout(2 * second, rung).await.is_ok());
    }
}
