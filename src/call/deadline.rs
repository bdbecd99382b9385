//! A call's deadline, and the timeout that it comes from.
//!
//! A timeout is a duration; a deadline is an instant. Several timeouts limit one call, and the first that passes gives
//! the reason. All instants are tokio's, so tests can pause time. Nothing here depends on a protocol.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, timeout_at};

/// The timeout that a deadline comes from. The settings table defines the start and end of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimeoutKind {
    /// The caller's own deadline (`grpc-timeout`).
    #[error("the caller's deadline")]
    Caller,
    /// From a unary call's start to its complete reply.
    #[error("INVOKE_TIMEOUT")]
    Invoke,
    /// From a Stream's start to its first event.
    #[error("STREAM_INITIAL_TIMEOUT")]
    Initial,
    /// Between bytes of a Stream, from its first event on.
    #[error("STREAM_IDLE_TIMEOUT")]
    Idle,
    /// From a Stream's start to its end.
    #[error("STREAM_LIFETIME")]
    Lifetime,
}

/// An instant by which something must have happened, and the timeout that it comes from.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    /// The instant.
    pub at: Instant,
    /// The timeout.
    pub kind: TimeoutKind,
}

impl Deadline {
    /// The deadline `timeout` after `start`, at most 30 years ahead, so that the instant does not overflow.
    pub fn after(start: Instant, timeout: Duration, kind: TimeoutKind) -> Self {
        const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
        let at = start.checked_add(timeout.min(FAR)).unwrap_or(start);
        Self { at, kind }
    }

    /// The earlier of two deadlines. At the same instant, the caller's wins.
    pub fn or_sooner(self, other: Option<Self>) -> Self {
        match other {
            Some(other) if other.at < self.at => other,
            Some(other) if other.at == self.at && other.kind == TimeoutKind::Caller => other,
            _ => self,
        }
    }

    /// Checks that the deadline has not passed.
    ///
    /// # Errors
    ///
    /// - [`TimeoutKind`] when it has.
    pub fn check(self) -> Result<(), TimeoutKind> {
        match Instant::now() < self.at {
            true => Ok(()),
            false => Err(self.kind),
        }
    }

    /// Waits for `work` until this deadline.
    ///
    /// # Errors
    ///
    /// - [`TimeoutKind`] when the deadline passes first. Then `work` is dropped.
    pub async fn bound<T>(self, work: impl Future<Output = T>) -> Result<T, TimeoutKind> {
        // tokio's timers lag on a busy runtime, so a deadline that has already passed is checked here.
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
    fn a_huge_timeout_does_not_panic() {
        let far = Deadline::after(Instant::now(), Duration::MAX, TimeoutKind::Caller);
        assert!(far.at > Instant::now());
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_outlasts_the_deadline_is_dropped() {
        let deadline = Deadline::after(Instant::now(), Duration::from_secs(1), TimeoutKind::Invoke);
        let outcome = deadline.bound(std::future::pending::<()>()).await;
        assert_eq!(outcome, Err(TimeoutKind::Invoke));
    }
}
