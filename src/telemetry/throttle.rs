//! Limits on log lines: per second for those that anyone can cause, and one warning a minute for what lasts.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

/// Between two warnings of one kind.
const WARNING_PAUSE: Duration = Duration::from_secs(60);

/// Passes the first `LIMIT` of each second.
#[derive(Debug)]
pub(super) struct Throttle<const LIMIT: u32>(Mutex<Option<(Instant, u32)>>);

impl<const LIMIT: u32> Throttle<LIMIT> {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Whether one more passes at `now`.
    pub(super) fn admit(&self, now: Instant) -> bool {
        let mut window = self.0.lock().unwrap_or_else(|held| held.into_inner());
        let (start, passed) = window.get_or_insert((now, 0));
        if now.saturating_duration_since(*start) >= Duration::from_secs(1) {
            (*start, *passed) = (now, 0);
        }
        *passed = passed.saturating_add(1);
        *passed <= LIMIT
    }
}

/// Limits a warning to one a minute.
#[derive(Debug, Default)]
pub(crate) struct Warning {
    last: Option<tokio::time::Instant>,
    suppressed: u64,
}

impl Warning {
    /// If the warning should be logged now, returns how many were suppressed since the last one.
    pub(crate) fn next(&mut self) -> Option<u64> {
        let now = tokio::time::Instant::now();
        if self.last.is_some_and(|last| now < last + WARNING_PAUSE) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_passes_each_second() {
        let throttle = Throttle::<10>::new();
        let start = Instant::now();
        let passed = |millis: u64| {
            let now = start + Duration::from_millis(millis);
            (0..100).filter(|_| throttle.admit(now)).count()
        };
        assert_eq!([0, 999, 1000, 1500, 5000].map(passed), [10, 0, 10, 0, 10]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_warning_is_logged_once_a_minute_with_the_number_of_suppressed_ones() {
        let mut warning = Warning::default();
        let logged = [warning.next(), warning.next(), warning.next()];
        assert_eq!(logged, [Some(0), None, None]);
        tokio::time::advance(WARNING_PAUSE).await;
        assert_eq!(warning.next(), Some(2));
    }
}
