//! The rate limit of a caller, and the bucket that counts.
//!
//! governor's bucket (GCRA) holds as many calls as the rate names and refills evenly. After a pause that many calls are allowed at
//! once, then one each `period / calls`. A rejected call takes nothing from the bucket.

use std::{num::NonZeroU32, time::Duration};

use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    state::{InMemoryState, NotKeyed},
};
use tokio::time::Instant;

use crate::quota::{Rate, rate::Bounds};

/// The form that [`parse`] accepts.
pub(super) const RULE: &str =
    "a number of calls and their period of up to a day, such as \"60/min\", \"5/s\" or \"10/10s\"";

const BOUNDS: Bounds = Bounds {
    requests: 1..=1_000_000,
    window: Duration::from_millis(1)..=Duration::from_secs(24 * 3600),
};

/// Parses the rate of a caller.
pub(super) fn parse(text: &str) -> Option<Rate> {
    Rate::parse(text, &BOUNDS).ok()
}

/// Counts the calls of one caller.
#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) rate: Rate,
    limiter: RateLimiter<NotKeyed, InMemoryState, SinceStart, NoOpMiddleware<Duration>>,
}

impl Bucket {
    /// A full bucket.
    pub(super) fn of(rate: Rate) -> Self {
        let calls = NonZeroU32::new(rate.requests()).expect("a rate allows a call");
        let quota = Quota::with_period(rate.window() / rate.requests());
        let quota = quota.expect("a rate leaves time between two calls");
        Self {
            rate,
            limiter: RateLimiter::direct_with_clock(
                quota.allow_burst(calls),
                SinceStart(Instant::now()),
            ),
        }
    }

    /// Takes one call.
    ///
    /// # Errors
    ///
    /// - The time until the next call is allowed.
    pub(super) fn take(&self) -> Result<(), Duration> {
        let taken = self.limiter.check();
        taken.map_err(|not_until| not_until.wait_time_from(self.limiter.clock().now()))
    }
}

/// tokio's clock, measured from the bucket's creation.
#[derive(Clone, Debug)]
struct SinceStart(Instant);

impl Clock for SinceStart {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_calls_and_a_period() {
        for (text, calls, period, shown) in [
            ("60/min", 60, 60_000, "60/min"),
            ("5/s", 5, 1_000, "5/s"),
            ("10/10s", 10, 10_000, "10/10s"),
            ("1/h", 1, 3_600_000, "1/h"),
            ("60/minute", 60, 60_000, "60/min"),
            ("1000000/1ms", 1_000_000, 1, "1000000/1ms"),
        ] {
            let rate = parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(rate.requests(), calls);
            assert_eq!(rate.window(), Duration::from_millis(period));
            assert_eq!(rate.to_string(), shown);
        }
        for text in [
            "",
            "60",
            "0/min",
            "-1/s",
            "1/",
            "1/0s",
            "1/25h",
            "x/s",
            "1/x",
            "1000001/s",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_is_exact_and_a_rejected_call_costs_nothing() {
        let bucket = Bucket::of(parse("2/10s").expect("a rate"));
        assert_eq!([bucket.take(), bucket.take()], [Ok(()), Ok(())]);
        tokio::time::advance(Duration::from_secs(1)).await;
        for _ in 0..3 {
            assert_eq!(bucket.take(), Err(Duration::from_secs(4)));
        }
        tokio::time::advance(Duration::from_millis(3999)).await;
        assert_eq!(bucket.take(), Err(Duration::from_millis(1)));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(bucket.take(), Ok(()));
        assert_eq!(bucket.take(), Err(Duration::from_secs(5)));
    }

    #[test]
    fn the_fastest_rate_leaves_time_between_two_calls() {
        let rate = parse("1000000/1ms").expect("a rate");
        assert_eq!(Bucket::of(rate).take(), Ok(()));
    }
}
