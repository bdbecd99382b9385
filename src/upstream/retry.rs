//! Which calls are retried, and when.
//!
//! A call is retried only if it provably never reached the upstream: there was no connection. An LLM call that may have
//! run would cost money twice. All calls share a retry budget. Without it, retries could triple the connection
//! attempts to an upstream in trouble (Google SRE, "Handling Overload").

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tower::retry::budget::{Budget, TpsBudget};

use super::error::Error;

const FIRST_BACKOFF: Duration = Duration::from_millis(50);
/// The period that the budget covers.
const BUDGET_WINDOW: Duration = Duration::from_secs(10);
/// Retries a second that are always allowed, for a bridge with few calls.
const BUDGET_FLOOR: u32 = 10;
/// Retries per call above the floor: the figure of Finagle and linkerd.
const BUDGET_SHARE: f32 = 0.2;

/// The retry policy of all calls. Clones share the budget.
#[derive(Clone, Debug)]
pub(super) struct Retries {
    limit: u32,
    budget: Arc<TpsBudget>,
}

impl Retries {
    /// Each call can be retried `limit` times while the budget lasts.
    pub(super) fn new(limit: u32) -> Self {
        let budget = TpsBudget::new(BUDGET_WINDOW, BUDGET_FLOOR, BUDGET_SHARE);
        let budget = Arc::new(budget);
        Self { limit, budget }
    }

    /// Records a new call, which adds its share to the budget.
    pub(super) fn record_call(&self) {
        self.budget.deposit();
    }

    /// How long to wait before retry number `attempt`, counted from 1. `None` if the call must not be retried: it may have
    /// run, the retries of this call or the shared budget are used up, or the wait would end after `until`.
    ///
    /// `jitter` in 0..1 spreads the wait over the upper half of an exponentially growing step. Callers that failed together
    /// then retry at different times.
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
    async fn a_call_that_may_have_run_is_never_retried() {
        let retries = Retries::new(9);
        let backoff = |error| retries.backoff(&error, 1, minute(), 0.5);
        assert_eq!(backoff(Error::Truncated), None);
        let status = http::StatusCode::FOUND;
        assert_eq!(backoff(Error::Redirected { status }), None);
    }

    #[tokio::test]
    async fn a_refused_connection_is_retried_within_limit_and_deadline() {
        let (retries, error) = (Retries::new(2), unreachable().await);
        let wait = |attempt, until| retries.backoff(&error, attempt, until, 1.0);
        assert_eq!(wait(1, minute()), Some(Duration::from_millis(50)));
        assert_eq!(wait(2, minute()), Some(Duration::from_millis(100)));
        assert_eq!(wait(3, minute()), None, "used up");
        assert_eq!(wait(1, Instant::now()), None, "too late");
    }

    #[tokio::test]
    async fn the_shared_budget_allows_a_fifth_of_the_calls_and_a_floor() {
        let (retries, error) = (Retries::new(9), unreachable().await);
        let mut granted = 0;
        for _ in 0..1000 {
            retries.record_call();
            granted += usize::from(retries.backoff(&error, 1, minute(), 0.5).is_some());
        }
        let floor = usize::try_from(BUDGET_FLOOR * 10).expect("small");
        assert_eq!(granted, floor + 200);
    }
}
