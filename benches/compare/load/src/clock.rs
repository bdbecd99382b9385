//! The one clock of all programs: CLOCK_MONOTONIC, in nanoseconds, the same in every process.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Digits of a time in a token.
pub const DIGITS: usize = 18;

/// Nanoseconds now.
pub fn now() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid timespec to write to.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    assert_eq!(failed, 0, "CLOCK_MONOTONIC is always there");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The text of a token that is written now.
pub fn stamped(word: &str) -> String {
    format!("{:0DIGITS$}{word}", now())
}

/// How long ago the token was written; `None` for a text without a time.
pub fn age(text: &[u8]) -> Option<u64> {
    let digits = text.get(..DIGITS)?;
    let written = digits.iter().try_fold(0u64, |sum, digit| {
        digit
            .is_ascii_digit()
            .then(|| sum * 10 + u64::from(digit - b'0'))
    })?;
    Some(now().saturating_sub(written))
}

/// Ticks that all processes agree on: the moments at `phase` after each whole period of the clock.
pub struct Ticks {
    next: u64,
    period: u64,
}

impl Ticks {
    /// The first tick is the next moment at that phase.
    pub fn new(period_us: u64, phase_us: u64) -> Self {
        let (period, phase) = (period_us * 1000, phase_us * 1000);
        let next = (now() / period + 1) * period + phase % period;
        Self { next, period }
    }

    /// Waits for the next tick.
    pub async fn tick(&mut self) {
        let ahead = Duration::from_nanos(self.next.saturating_sub(now()));
        sleep_until(Instant::now() + ahead).await;
        self.next += self.period;
    }
}

#[cfg(test)]
mod tests {
    use super::{age, stamped};

    #[test]
    fn a_token_tells_how_old_it_is() {
        assert!(age(stamped(" a").as_bytes()).expect("a time") < 1_000_000_000);
        assert_eq!(age(" sahə".repeat(9).as_bytes()), None);
    }
}
