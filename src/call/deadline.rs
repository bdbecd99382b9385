//! The instant by which a call must be answered, and whose clock set it.
//!
//! Neither bank is known here. A timeout is a duration, a deadline an instant; several clocks bound
//! one call, and the one that runs out first names the reason. All instants are tokio's, so tests
//! can pause them.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, timeout_at};

/// Which clock ended a call. Each is said from when to when in the settings table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimeoutKind {
    /// The deadline that the caller sent along (`grpc-timeout`).
    #[error("the caller's deadline")]
    Caller,
    /// From the call's start to the whole reply of a unary call.
    #[error("INVOKE_TIMEOUT")]
    Invoke,
    /// From the call's start to the first event of a Stream.
    #[error("STREAM_INITIAL_TIMEOUT")]
    Initial,
    /// Between bytes of a Stream, from its first event on.
    #[error("STREAM_IDLE_TIMEOUT")]
    Idle,
    /// From the call's start to the end of a Stream.
    #[error("STREAM_LIFETIME")]
    Lifetime,
}

/// An instant by which something must have happened, and the clock that says so.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    /// When it is too late.
    pub at: Instant,
    /// Whose patience ends then.
    pub kind: TimeoutKind,
}

impl Deadline {
    /// The deadline `timeout` after `start`; one too far off for the clock is set 30 years ahead.
    pub fn after(start: Instant, timeout: Duration, kind: TimeoutKind) -> Self {
        const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
        let at = start.checked_add(timeout.min(FAR)).unwrap_or(start);
        Self { at, kind }
    }

    /// The earlier of two; at the same instant, the caller's goes first.
    pub fn or_sooner(self, other: Option<Self>) -> Self {
        match other {
            Some(other) if other.at < self.at => other,
            Some(other) if other.at == self.at && other.kind == TimeoutKind::Caller => other,
            _ => self,
        }
    }

    /// Whether there is time left.
    ///
    /// # Errors
    ///
    /// - [`TimeoutKind`] when there is none.
    pub fn check(self) -> Result<(), TimeoutKind> {
        match Instant::now() < self.at {
            true => Ok(()),
            false => Err(self.kind),
        }
    }

    /// Waits for `work`, at most until this deadline.
    ///
    /// # Errors
    ///
    /// - [`TimeoutKind`] when the deadline came first; `work` is dropped then.
    pub async fn bound<T>(self, work: impl Future<Output = T>) -> Result<T, TimeoutKind> {
        // tokio's timers lag behind a busy runtime: a deadline that has passed must not be waited for.
        self.check()?;
        timeout_at(self.at, work).await.map_err(|_| self.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sooner_of_two_deadlines_wins() {
        let start = Instant::now();
        let late = Deadline::after(start, Duration::from_secs(9), TimeoutKind::Lifetime);
        let soon = Deadline::after(start, Duration::from_secs(3), TimeoutKind::Caller);
        assert_eq!(late.or_sooner(Some(soon)).kind, TimeoutKind::Caller);
        assert_eq!(soon.or_sooner(Some(late)).kind, TimeoutKind::Caller);
        assert_eq!(late.or_sooner(None).kind, TimeoutKind::Lifetime);
    }

    #[test]
    fn a_timeout_of_eleven_thousand_years_is_no_panic() {
        let far = Deadline::after(Instant::now(), Duration::MAX, TimeoutKind::Caller);
        assert!(far.at > Instant::now());
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_outlasts_the_deadline_is_dropped_with_the_clock_named() {
        let deadline = Deadline::after(Instant::now(), Duration::from_secs(1), TimeoutKind::Invoke);
        let outcome = deadline.bound(std::future::pending::<()>()).await;
        assert_eq!(outcome, Err(TimeoutKind::Invoke));
    }
}
