//! The requests of one upstream key that still count: an exact sliding window, as ALİM has it.
//!
//! A request is reserved from its admission until its first byte goes to a connection. From then on it counts for the window and
//! [`MARGIN`]. ALİM counts arrivals, so the limit holds as long as each request arrives within the margin.
//! ALİM's responses reveal requests of others. They count against the limit, but not against the bridge's own share of it.
//! The caller of each method passes the time.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::rate::Rate;

/// Maximum time from a request's first byte to its arrival. A request counts this much longer here than at ALİM.
pub(super) const MARGIN: Duration = Duration::from_millis(250);

/// Requests that count from one point in time.
#[derive(Debug)]
struct Entry {
    at: Instant,
    requests: u32,
    is_own: bool,
}

impl Entry {
    fn requests(&self) -> u32 {
        self.requests
    }

    fn own_requests(&self) -> u32 {
        if self.is_own { self.requests } else { 0 }
    }
}

/// When a request was sent, and how many requests had expired by then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    at: Instant,
    expired: u64,
}

/// The requests that count.
#[derive(Debug)]
pub(super) struct Window {
    limit: u32,
    /// How long a request counts.
    span: Duration,
    /// Oldest first.
    entries: VecDeque<Entry>,
    /// The sum of the entries.
    counted: u32,
    /// The sum of the entries that are the bridge's own.
    own: u32,
    /// Admitted, but not sent yet.
    reserved: u32,
    /// Requests that have ceased to count since the start.
    expired: u64,
    stopped_until: Option<Instant>,
}

impl Window {
    pub(super) fn new(rate: Rate) -> Self {
        Self {
            limit: rate.requests(),
            span: rate.window() + MARGIN,
            entries: VecDeque::new(),
            counted: 0,
            own: 0,
            reserved: 0,
            expired: 0,
            stopped_until: None,
        }
    }

    /// The number of requests that can be admitted now, if at most `share` of the limit may be the bridge's own.
    pub(super) fn free(&mut self, now: Instant, share: u32) -> u32 {
        self.expire(now);
        if self.stopped_until.is_some() {
            return 0;
        }
        let all = self.limit.saturating_sub(self.counted + self.reserved);
        all.min(share.saturating_sub(self.own + self.reserved))
    }

    /// Whether what counts and what is reserved is within the limit and the `share`.
    pub(super) fn is_within(&mut self, now: Instant, share: u32) -> bool {
        self.expire(now);
        let is_stopped = self.stopped_until.is_some();
        let (all, own) = (self.counted + self.reserved, self.own + self.reserved);
        !is_stopped && all <= self.limit && own <= share
    }

    /// Reserves this many requests. No more than [`free`](Self::free) can be reserved.
    pub(super) fn reserve(&mut self, requests: u32) {
        self.reserved += requests;
    }

    /// Releases a reserved request that will not be sent.
    pub(super) fn release(&mut self) {
        self.reserved -= 1;
    }

    /// Counts a reserved request that is sent now.
    pub(super) fn send(&mut self, now: Instant) -> Sent {
        self.reserved -= 1;
        self.insert(now, 1, true);
        Sent {
            at: now,
            expired: self.expired,
        }
    }

    /// Reads how many requests were left when ALİM counted the one `sent`. If this window expected more, others have used the key.
    /// Their requests count as long as that one, because they had arrived before it.
    pub(super) fn reconcile(&mut self, now: Instant, sent: Sent, remaining: u32) {
        self.expire(now);
        if sent.at + self.span <= now {
            return;
        }
        // Of two requests that were sent within the margin, either can have arrived first.
        let newest = sent.at + MARGIN;
        let later = self.entries.iter().rev();
        let later = later.take_while(|entry| entry.at > newest);
        let later: u32 = later.map(|entry| entry.requests).sum();
        let expired_since = u32::try_from(self.expired - sent.expired).unwrap_or(u32::MAX);
        let known = (self.counted - later).saturating_add(expired_since);
        let others = self.limit.saturating_sub(known.saturating_add(remaining));
        if others > 0 {
            self.insert(sent.at, others, false);
        }
    }

    /// Admits nothing until then.
    pub(super) fn stop(&mut self, until: Instant) {
        self.stopped_until = self.stopped_until.max(Some(until));
    }

    /// The earliest time to admit a request that is number `ahead` in the queue, if at most `share` of the limit may be the bridge's
    /// own. Reserved requests are assumed to be sent after `reserved_for`.
    pub(super) fn admission_time(
        &mut self,
        now: Instant,
        ahead: u32,
        reserved_for: Duration,
        share: u32,
    ) -> Instant {
        self.expire(now);
        let start = self.stopped_until.unwrap_or(now);
        let reserved = now + reserved_for + self.span;
        let limits = [
            (
                self.limit,
                self.counted,
                Entry::requests as fn(&Entry) -> u32,
            ),
            (share, self.own, Entry::own_requests),
        ];
        let at = limits.map(|(limit, counted, requests_of)| {
            // The last request of a full window follows the first by a full span.
            let rounds = ahead.saturating_sub(1) / limit;
            let needed = counted + self.reserved + ahead - rounds * limit;
            let free = self.time_of(now, needed.saturating_sub(limit), requests_of);
            free.unwrap_or(reserved).max(start) + self.span * rounds
        });
        at[0].max(at[1])
    }

    /// When this many requests have ceased to count. `None` if that needs reserved requests, too.
    fn time_of(
        &self,
        now: Instant,
        mut missing: u32,
        requests_of: fn(&Entry) -> u32,
    ) -> Option<Instant> {
        let mut at = now;
        for entry in &self.entries {
            if missing == 0 {
                break;
            }
            at = entry.at + self.span;
            missing = missing.saturating_sub(requests_of(entry));
        }
        (missing == 0).then_some(at)
    }

    /// When the oldest request ceases to count, or the key is no longer stopped. `None` if all requests are free.
    pub(super) fn next_release(&mut self, now: Instant) -> Option<Instant> {
        self.expire(now);
        let oldest = self.entries.front().map(|entry| entry.at + self.span);
        let reserved = (self.reserved > 0).then(|| now + self.span);
        self.stopped_until.max(oldest.or(reserved))
    }

    /// Whether a new window would behave like this one.
    pub(super) fn is_empty(&mut self, now: Instant) -> bool {
        self.expire(now);
        self.counted + self.reserved == 0 && self.stopped_until.is_none()
    }

    fn insert(&mut self, at: Instant, requests: u32, is_own: bool) {
        let position = self.entries.partition_point(|entry| entry.at <= at);
        let entry = Entry {
            at,
            requests,
            is_own,
        };
        self.counted += entry.requests;
        self.own += entry.own_requests();
        self.entries.insert(position, entry);
    }

    fn expire(&mut self, now: Instant) {
        while let Some(oldest) = self.entries.front()
            && oldest.at + self.span <= now
        {
            self.counted -= oldest.requests;
            self.own -= oldest.own_requests();
            self.expired += u64::from(oldest.requests);
            self.entries.pop_front();
        }
        self.stopped_until = self.stopped_until.filter(|until| *until > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const LIMIT: u32 = 3;

    fn window() -> (Window, Instant) {
        let rate = "3/10s".parse().expect("a rate");
        (Window::new(rate), Instant::now())
    }

    fn sent(window: &mut Window, at: Instant) -> Sent {
        assert!(window.free(at, LIMIT) > 0, "none is free");
        window.reserve(1);
        window.send(at)
    }

    #[test]
    fn a_request_counts_from_its_first_byte_for_the_window_and_the_margin() {
        let (mut window, start) = window();
        window.reserve(3);
        assert_eq!(
            window.free(start + 99 * SECOND, LIMIT),
            0,
            "reserved, however long"
        );
        let first = start + 5 * SECOND;
        window.send(first);
        window.release();
        assert_eq!(window.free(first, LIMIT), 1);
        let end = first + 10 * SECOND + MARGIN;
        assert_eq!(window.free(end - Duration::from_millis(1), LIMIT), 1);
        assert_eq!(window.free(end, LIMIT), 2);
    }

    #[test]
    fn the_wait_is_until_enough_requests_cease_to_count() {
        let (mut window, start) = window();
        let span = 10 * SECOND + MARGIN;
        sent(&mut window, start);
        sent(&mut window, start + SECOND);
        let now = start + 2 * SECOND;
        let mut wait = |ahead| window.admission_time(now, ahead, MARGIN, LIMIT);
        assert_eq!(wait(1), now);
        assert_eq!(wait(2), start + span);
        assert_eq!(wait(3), start + SECOND + span);
        assert_eq!(wait(4), now + span, "after the first of those that wait");
        assert_eq!(wait(5), start + span + span);
        window.reserve(1);
        assert_eq!(
            window.admission_time(now, 3, MARGIN, LIMIT),
            now + MARGIN + span,
            "reserved"
        );
        window.stop(start + 40 * SECOND);
        assert_eq!(
            window.admission_time(now, 1, MARGIN, LIMIT),
            start + 40 * SECOND
        );
    }

    #[test]
    fn requests_of_others_count_as_long_as_the_one_that_revealed_them() {
        let (mut window, start) = window();
        let first = sent(&mut window, start);
        window.reconcile(start + SECOND, first, 2);
        assert_eq!(window.free(start + SECOND, LIMIT), 2, "nobody else");
        window.reconcile(start + SECOND, first, 1);
        window.reconcile(start + 2 * SECOND, first, 1);
        assert_eq!(
            window.free(start + 2 * SECOND, LIMIT),
            1,
            "one other, learned once"
        );
        window.reconcile(start + 2 * SECOND, first, 0);
        assert_eq!(window.free(start + 2 * SECOND, LIMIT), 0);
        assert_eq!(
            window.free(start + 10 * SECOND + MARGIN, LIMIT),
            3,
            "all at once"
        );
    }

    #[test]
    fn requests_sent_later_are_not_mistaken_for_those_of_others() {
        let (mut window, start) = window();
        let first = sent(&mut window, start);
        sent(&mut window, start + SECOND);
        window.reconcile(start + 2 * SECOND, first, 1);
        assert_eq!(
            window.free(start + 2 * SECOND, LIMIT),
            0,
            "one other before it"
        );
        let (mut window, start) = self::window();
        let first = sent(&mut window, start);
        sent(&mut window, start + MARGIN);
        window.reconcile(start + SECOND, first, 1);
        assert_eq!(
            window.free(start + SECOND, LIMIT),
            1,
            "it can have overtaken"
        );
    }

    #[test]
    fn a_late_answer_does_not_mistake_expired_requests_for_those_of_others() {
        let (mut window, start) = window();
        sent(&mut window, start);
        let second = sent(&mut window, start + 9 * SECOND);
        window.reconcile(start + 15 * SECOND, second, 1);
        assert_eq!(window.free(start + 15 * SECOND, LIMIT), 2);
        window.reconcile(start + 60 * SECOND, second, 0);
        assert_eq!(
            window.free(start + 60 * SECOND, LIMIT),
            3,
            "too late to say"
        );
    }

    #[test]
    fn a_stopped_key_admits_nothing_until_then() {
        let (mut window, start) = window();
        window.stop(start + 9 * SECOND);
        window.stop(start + 2 * SECOND);
        assert_eq!(window.free(start + 8 * SECOND, LIMIT), 0);
        assert_eq!(window.next_release(start), Some(start + 9 * SECOND));
        assert!(!window.is_empty(start));
        assert_eq!(window.free(start + 9 * SECOND, LIMIT), 3);
        assert!(window.is_empty(start + 9 * SECOND));
    }

    #[test]
    fn a_share_limits_the_bridges_own_requests_alone() {
        let (mut window, start) = window();
        let first = sent(&mut window, start);
        assert_eq!(window.free(start, 2), 1);
        window.reconcile(start, first, 1);
        assert_eq!(window.free(start, 2), 1, "one other");
        window.reconcile(start, first, 0);
        assert_eq!(window.free(start, 2), 0, "two others");
        let (mut window, start) = self::window();
        sent(&mut window, start);
        sent(&mut window, start + SECOND);
        let now = start + 2 * SECOND;
        let span = 10 * SECOND + MARGIN;
        let mut wait = |ahead, share| window.admission_time(now, ahead, MARGIN, share);
        assert_eq!(wait(1, LIMIT), now);
        assert_eq!(wait(1, 2), start + span);
        assert_eq!(wait(2, 2), start + SECOND + span);
        assert_eq!(wait(3, 2), start + span + span, "a round of two");
    }
}
