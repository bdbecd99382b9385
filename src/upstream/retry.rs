//! What may be tried again, and when. Pure: it decides, `mod.rs` waits.
//!
//! Only a call that provably never reached the upstream is tried again: there was no connection. An
//! LLM call that may have run costs money twice, so nothing else ever is.

use std::time::Duration;

use tokio::time::Instant;

use super::error::Error;

const FIRST_BACKOFF: Duration = Duration::from_millis(50);

/// How long to wait before attempt number `attempt` (the first retry is 1), or `None` when the error
/// must stand: it may have run, `retries` are used up, or the wait would end after `until`.
///
/// `jitter` in 0..1 spreads the wait over the upper half of an exponentially growing step, so that
/// callers who failed together do not come back together.
pub(super) fn backoff(
    error: &Error,
    attempt: u32,
    retries: u32,
    until: Instant,
    jitter: f64,
) -> Option<Duration> {
    if error.was_sent() || attempt > retries {
        return None;
    }
    let step = FIRST_BACKOFF * 2_u32.pow(attempt.min(6) - 1);
    let wait = step.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
    (Instant::now() + wait < until).then_some(wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn what_may_have_run_is_never_tried_again() {
        assert_eq!(backoff(&Error::Truncated, 1, 9, minute(), 0.5), None);
        let status = http::StatusCode::FOUND;
        let redirected = Error::Redirected { status };
        assert_eq!(backoff(&redirected, 1, 9, minute(), 0.5), None);
    }

    #[tokio::test]
    async fn a_refused_connection_is_tried_again_within_retries_and_deadline() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let refused = reqwest::get("http://127.0.0.1:1")
            .await
            .expect_err("refused");
        let error = Error::Unreachable(refused);
        let wait = |attempt, until| backoff(&error, attempt, 2, until, 1.0);
        assert_eq!(wait(1, minute()), Some(Duration::from_millis(50)));
        assert_eq!(wait(2, minute()), Some(Duration::from_millis(100)));
        assert_eq!(wait(3, minute()), None, "used up");
        assert_eq!(wait(1, Instant::now()), None, "too late");
    }
}
