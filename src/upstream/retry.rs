//! What may be tried again, and when.
//!
//! Only a call that provably never reached the upstream is tried again: there was no connection. An
//! LLM call that may have run costs money twice, so nothing else ever is. A budget for all calls
//! together keeps retries from tripling the connections that an upstream in trouble is asked for
//! (Google SRE, "Handling Overload").

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tower::retry::budget::{Budget, TpsBudget};

use super::error::Error;

const FIRST_BACKOFF: Duration = Duration::from_millis(50);
/// The time over which the budget looks back.
const BUDGET_WINDOW: Duration = Duration::from_secs(10);
/// So many retries a second are always allowed, for a bridge with few calls.
const BUDGET_FLOOR: u32 = 10;
/// Retries for each call, beyond the floor: Finagle's and linkerd's figure.
const BUDGET_SHARE: f32 = 0.2;

/// The retries of all calls together; clones share the budget.
#[derive(Clone, Debug)]
pub(super) struct Retries {
    limit: u32,
    budget: Arc<TpsBudget>,
}

impl Retries {
    /// Each call may be tried again `limit` times, while the budget lasts.
    pub(super) fn new(limit: u32) -> Self {
        let budget = TpsBudget::new(BUDGET_WINDOW, BUDGET_FLOOR, BUDGET_SHARE);
        let budget = Arc::new(budget);
        Self { limit, budget }
    }

    /// A call begins: it adds its share to the budget.
    pub(super) fn begin(&self) {
        self.budget.deposit();
    }

    /// How long to wait before attempt number `attempt` (the first retry is 1), or `None` when the
    /// error must stand: it may have run, the retries of this call or of all are used up, or the wait
    /// would end after `until`.
    ///
    /// `jitter` in 0..1 spreads the wait over the upper half of an exponentially growing step, so that
    /// callers who failed together do not come back together.
    pub(super) fn backoff(
        &self,
        error: &Error,
        attempt: u32,
        until: Instant,
        jitter: f64,
    ) -> Option<Duration> {
        if error.was_sent() || attempt > self.limit {
            return None;
        }
        let step = FIRST_BACKOFF * 2_u32.pow(attempt.min(6) - 1);
        let wait = step.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
        let is_in_time = Instant::now() + wait < until;
        (is_in_time && self.budget.withdraw()).then_some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    async fn unreachable() -> Error {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let refused = reqwest::get("http://127.0.0.1:1").await;
        Error::Unreachable(refused.expect_err("refused"))
    }

    #[tokio::test]
    async fn what_may_have_run_is_never_tried_again() {
        let retries = Retries::new(9);
        let backoff = |error| retries.backoff(&error, 1, minute(), 0.5);
        assert_eq!(backoff(Error::Truncated), None);
        let status = http::StatusCode::FOUND;
        assert_eq!(backoff(Error::Redirected { status }), None);
    }

    #[tokio::test]
    async fn a_refused_connection_is_tried_again_within_retries_and_deadline() {
        let (retries, error) = (Retries::new(2), unreachable().await);
        let wait = |attempt, until| retries.backoff(&error, attempt, until, 1.0);
        assert_eq!(wait(1, minute()), Some(Duration::from_millis(50)));
        assert_eq!(wait(2, minute()), Some(Duration::from_millis(100)));
        assert_eq!(wait(3, minute()), None, "used up");
        assert_eq!(wait(1, Instant::now()), None, "too late");
    }

    #[tokio::test]
    async fn all_calls_together_are_tried_again_by_a_fifth_and_a_floor() {
        let (retries, error) = (Retries::new(9), unreachable().await);
        let mut granted = 0;
        for _ in 0..1000 {
            retries.begin();
            granted += usize::from(retries.backoff(&error, 1, minute(), 0.5).is_some());
        }
        let floor = usize::try_from(BUDGET_FLOOR * 10).expect("small");
        assert_eq!(granted, floor + 200);
    }
}
