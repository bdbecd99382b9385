//! When the rate limit service may be asked for one upstream key, from what it has answered.
//!
//! A key that is over its limit is asked for again when its window ends, not before. Then one call asks alone, and the others follow
//! if it is admitted. No more calls ask at the same time than this bridge's part of what the service reports to be left, so that
//! few questions are in vain. A caller that is over its own limit stops alone. The caller of each method passes the time.

use std::{collections::HashMap, sync::Arc};

use tokio::time::Instant;

/// The answers of the service for one upstream key.
#[derive(Debug)]
pub(in crate::quota) struct Pace {
    /// Bridges that ask for the key.
    bridges: u32,
    /// Requests of the calls that ask now.
    asking: u32,
    left: Option<Left>,
    stopped_until: Option<Instant>,
    /// The callers that are over their own limit. They are as many as the callers file has.
    stopped_callers: HashMap<Arc<str>, Instant>,
}

/// The requests that the service still allows for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::quota) struct Left {
    pub(in crate::quota) requests: u32,
    /// The end of the window that they belong to. `None` until the next answer.
    pub(in crate::quota) until: Option<Instant>,
}

impl Pace {
    pub(in crate::quota) fn new(bridges: u32) -> Self {
        Self {
            bridges,
            asking: 0,
            left: None,
            stopped_until: None,
            stopped_callers: HashMap::new(),
        }
    }

    /// Forgets what is over at `now`. Returns the callers that are no longer stopped.
    pub(in crate::quota) fn expire(&mut self, now: Instant) -> Vec<Arc<str>> {
        if self.stopped_until.is_some_and(|until| until <= now) {
            self.stopped_until = None;
            // Nothing is known of the new window, so the first call asks alone.
            let (requests, until) = (1, None);
            self.left = Some(Left { requests, until });
        }
        self.left = self
            .left
            .filter(|left| left.until.is_none_or(|until| now < until));
        let over = self.stopped_callers.extract_if(|_, until| *until <= now);
        over.map(|(name, _)| name).collect()
    }

    /// Whether a call may ask for this many requests while others ask. If nothing is known of the window, calls that have waited ask
    /// one at a time.
    pub(in crate::quota) fn may_ask(&self, requests: u32, has_waited: bool) -> bool {
        let part = match self.left {
            Some(left) => left.requests / self.bridges,
            None if has_waited => 1,
            None => u32::MAX,
        };
        self.asking == 0 || self.asking.saturating_add(requests) <= part
    }

    /// Records that a call asks for this many requests.
    pub(in crate::quota) fn begin(&mut self, requests: u32) {
        self.asking += requests;
    }

    /// Records that a call no longer asks.
    pub(in crate::quota) fn end(&mut self, requests: u32) {
        self.asking -= requests;
    }

    /// Records that a call was admitted, and how many requests are left. Answers can arrive in another order than they were made,
    /// so the lowest one of a window counts.
    pub(in crate::quota) fn admitted(&mut self, left: Option<Left>) {
        self.left = match (self.left, left) {
            (Some(known), Some(new)) if known.until.is_some() => Some(Left {
                requests: known.requests.min(new.requests),
                until: known.until,
            }),
            (_, new) => new,
        };
    }

    /// Records that the key is over its limit until then.
    pub(in crate::quota) fn stop(&mut self, until: Instant) {
        self.stopped_until = self.stopped_until.max(Some(until));
    }

    /// Records that a caller is over its own limit until then.
    pub(in crate::quota) fn stop_caller(&mut self, name: &Arc<str>, until: Instant) {
        let known = self.stopped_callers.entry(Arc::clone(name));
        let known = known.or_insert(until);
        *known = until.max(*known);
    }

    /// Whether the key is over its limit.
    pub(in crate::quota) fn is_stopped(&self) -> bool {
        self.stopped_until.is_some()
    }

    /// Until when the key is over its limit, or the caller is over its own.
    pub(in crate::quota) fn stopped_until(&self, caller: &str) -> Option<Instant> {
        self.stopped_until.max(self.caller_stopped_until(caller))
    }

    /// Until when the caller is over its own limit.
    pub(in crate::quota) fn caller_stopped_until(&self, caller: &str) -> Option<Instant> {
        self.stopped_callers.get(caller).copied()
    }

    /// The requests that are left for the key, and the end of the window.
    pub(in crate::quota) fn left(&self) -> Option<(u32, Instant)> {
        let left = self
            .left
            .and_then(|left| Some((left.requests, left.until?)));
        let stopped = self.stopped_until.map(|until| (0, until));
        stopped.or(left)
    }

    /// Whether nothing is known.
    pub(in crate::quota) fn is_empty(&self) -> bool {
        self.asking == 0 && self.stopped_until.is_none() && self.stopped_callers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn after_a_stop_one_call_asks_alone_until_it_is_answered() {
        let (mut pace, start) = (Pace::new(2), Instant::now());
        assert!(pace.may_ask(9, true), "the first");
        pace.begin(9);
        assert!(pace.may_ask(9, false), "nothing is known");
        assert!(!pace.may_ask(1, true), "it has waited, so it can wait");
        pace.end(9);
        pace.stop(start + SECOND);
        pace.stop(start);
        pace.expire(start);
        assert_eq!(pace.stopped_until("a"), Some(start + SECOND));
        pace.expire(start + SECOND);
        assert_eq!(pace.stopped_until("a"), None);
        assert!(pace.may_ask(2, false), "alone, whatever it asks for");
        pace.begin(2);
        assert!(!pace.may_ask(1, false));
        pace.end(2);
        pace.admitted(None);
        pace.begin(1);
        assert!(pace.may_ask(9, false), "the service has no limit");
    }

    #[test]
    fn no_more_ask_at_once_than_the_bridges_part_of_what_is_left() {
        let (mut pace, start) = (Pace::new(2), Instant::now());
        let left = |requests, until| {
            Some(Left {
                requests,
                until: Some(until),
            })
        };
        pace.admitted(left(7, start + SECOND));
        pace.admitted(left(9, start + SECOND));
        pace.begin(2);
        for has_waited in [false, true] {
            assert!(pace.may_ask(1, has_waited) && !pace.may_ask(2, has_waited));
        }
        assert_eq!(pace.left(), Some((7, start + SECOND)));
        pace.expire(start + SECOND);
        assert!(pace.may_ask(9, false), "a new window");
        assert_eq!(pace.left(), None);
    }

    #[test]
    fn a_caller_over_its_limit_stops_alone() {
        let (mut pace, start) = (Pace::new(2), Instant::now());
        pace.stop_caller(&"a".into(), start + 2 * SECOND);
        pace.stop_caller(&"a".into(), start + SECOND);
        assert_eq!(pace.stopped_until("a"), Some(start + 2 * SECOND));
        assert_eq!(pace.stopped_until("b"), None);
        assert!(pace.expire(start + SECOND).is_empty() && !pace.is_empty());
        assert_eq!(pace.expire(start + 2 * SECOND), ["a".into()]);
        assert!(pace.is_empty());
    }
}
