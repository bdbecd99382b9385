//! A limit per second, for log lines that anyone can cause.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

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
}
