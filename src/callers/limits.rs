//! The limits of one caller: its open calls, and its rate.
//!
//! The counts survive a reload of the file. If a caller's entry changes, its open calls still count. Its bucket is kept while
//! its rate is unchanged.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::bucket::Bucket;
use crate::{admission::Rejected, quota::Rate};

/// The rules of an entry. `None` sets no limit beyond the bridge's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) max_open_calls: Option<usize>,
    pub(super) rate: Option<Rate>,
    /// Whether `system_prompt_override` is rejected.
    pub(super) rejects_override: Option<bool>,
}

impl Rules {
    /// These rules. Each missing one is taken from `defaults`.
    pub(super) fn or(self, defaults: Self) -> Self {
        Self {
            max_open_calls: self.max_open_calls.or(defaults.max_open_calls),
            rate: self.rate.or(defaults.rate),
            rejects_override: self.rejects_override.or(defaults.rejects_override),
        }
    }
}

/// The limits of one caller, and their current use.
#[derive(Debug)]
pub(super) struct Limits {
    max_open_calls: Option<usize>,
    open: Arc<AtomicUsize>,
    bucket: Option<Arc<Bucket>>,
}

/// Counts one open call of a caller until it is dropped.
#[derive(Debug)]
pub struct Slot(Arc<AtomicUsize>);

impl Limits {
    /// Limits by `rules`. `previous` has the caller's previous limits.
    pub(super) fn new(rules: Rules, previous: Option<&Self>) -> Self {
        let bucket = |rate: Rate| {
            let kept = previous.and_then(|previous| previous.bucket.as_ref());
            let kept = kept.filter(|bucket| bucket.rate == rate);
            kept.map_or_else(|| Arc::new(Bucket::of(rate)), Arc::clone)
        };
        Self {
            max_open_calls: rules.max_open_calls,
            open: previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.open)),
            bucket: rules.rate.map(bucket),
        }
    }

    /// The calls that are open now.
    pub(super) fn open_calls(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Never waits.
    ///
    /// # Errors
    ///
    /// - [`Rejected::CallerSaturated`] and [`Rejected::CallerRateLimited`]. Neither takes a call from the bucket.
    pub(super) fn admit(&self) -> Result<Slot, Rejected> {
        let slot = Slot(Arc::clone(&self.open));
        let others = self.open.fetch_add(1, Ordering::Relaxed);
        if let Some(limit) = self.max_open_calls.filter(|limit| others >= *limit) {
            return Err(Rejected::CallerSaturated { limit });
        }
        if let Some(bucket) = &self.bucket {
            let taken = bucket.take();
            taken.map_err(|wait| Rejected::CallerRateLimited { wait })?;
        }
        Ok(slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::bucket, *};

    fn rules(max_open_calls: Option<usize>, rate: Option<&str>) -> Rules {
        Rules {
            max_open_calls,
            rate: rate.and_then(bucket::parse),
            rejects_override: None,
        }
    }

    #[test]
    fn open_calls_are_counted_across_a_change_of_the_limit() {
        let limits = Limits::new(Rules::default(), None);
        let open = [(); 3].map(|()| limits.admit().expect("unlimited"));
        let limits = Limits::new(rules(Some(3), None), Some(&limits));
        let full = Some(Rejected::CallerSaturated { limit: 3 });
        assert_eq!([limits.admit().err(), limits.admit().err()], [full, full]);
        drop(open);
        let again = [(); 3].map(|()| limits.admit());
        assert!(again.iter().all(Result::is_ok));
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_is_kept_while_its_rate_stays() {
        let limits = Limits::new(rules(None, Some("1/min")), None);
        assert!(limits.admit().is_ok());
        let wait = Duration::from_secs(60);
        let limited = Some(Rejected::CallerRateLimited { wait });
        let same = Limits::new(rules(Some(9), Some("1/min")), Some(&limits));
        assert_eq!(same.admit().err(), limited);
        let other = Limits::new(rules(None, Some("2/min")), Some(&limits));
        assert!(other.admit().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_a_slot_takes_nothing_from_the_bucket() {
        let limits = Limits::new(rules(Some(1), Some("2/min")), None);
        let open = limits.admit().expect("the first");
        assert!(limits.admit().is_err());
        drop(open);
        assert!(limits.admit().is_ok(), "the second of two a minute");
    }

    #[test]
    fn a_callers_rule_overrides_the_default() {
        let own = rules(Some(1), None).or(rules(Some(2), Some("1/s")));
        assert_eq!(own, rules(Some(1), Some("1/s")));
    }
}
