//! The state of one upstream key, behind its lock: who has a turn, who waits, and for how long.
//!
//! A turn reserves requests. Without a rate limit service, the call then sends them. With one, it asks first.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{
    Caller, Exhausted, LimitKind, Limits, Rate,
    queue::{Queue, Waiting},
    service::{Availability, Service, TIMEOUT, Way, pace::Pace},
    window::{MARGIN, Window},
};

/// What limits a key.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    /// ALİM's limit.
    pub(super) rate: Rate,
    /// How many of its requests this bridge may send on its own.
    pub(super) share: u32,
    /// Bridges that share the limit.
    pub(super) replicas: u32,
    /// The service by which all bridges share the whole limit.
    pub(super) service: Option<Arc<Service>>,
}

#[derive(Debug)]
pub(super) struct State {
    terms: Terms,
    pub(super) window: Window,
    pub(super) queue: Queue<Arc<Wakeup>>,
    /// The answers of the service.
    pub(super) pace: Pace,
    pub(super) last_id: u64,
    /// The call that sleeps until a slot is free.
    next: Option<u64>,
}

/// Wakes a waiting call.
#[derive(Debug, Default)]
pub(super) struct Wakeup {
    /// The call's turn. Until then it is in the queue.
    pub(super) turn: OnceLock<Way>,
    pub(super) changed: Notify,
}

/// A call that wants its turn.
#[derive(Clone, Copy, Debug)]
pub(super) enum Arrival {
    /// It has just begun, and can not wait for the answers of other calls.
    NeverWaits,
    New,
    Waited,
}

impl Wakeup {
    /// The wakeup of a call that has its turn.
    pub(super) fn with(turn: Way) -> Arc<Self> {
        let wakeup = Self::default();
        wakeup.turn.get_or_init(|| turn);
        Arc::new(wakeup)
    }
}

impl State {
    pub(super) fn new(terms: &Terms) -> Self {
        Self {
            terms: terms.clone(),
            window: Window::new(terms.rate),
            queue: Queue::new(),
            pace: Pace::new(terms.replicas),
            last_id: 0,
            next: None,
        }
    }

    /// Gives waiting calls their turn while slots are free, and wakes the first waiting call if it has changed.
    pub(super) fn admit_waiting(&mut self, now: Instant) {
        self.expire(now);
        while let Some(requests) = self.queue.next().map(|call| call.requests)
            && let Some(turn) = self.take_turn(requests, now, Arrival::Waited)
            && let Some(call) = self.queue.pop()
        {
            call.wake.turn.get_or_init(|| turn);
            call.wake.changed.notify_one();
        }
        let next = self.queue.next().map(|call| (call.id, &call.wake.changed));
        if let Some((id, changed)) = next
            && self.next != Some(id)
        {
            self.next = Some(id);
            changed.notify_one();
        }
    }

    /// Forgets what the service no longer forbids.
    pub(super) fn expire(&mut self, now: Instant) {
        for caller in self.pace.expire(now) {
            self.queue.unpark(&caller);
        }
    }

    /// Reserves requests if the call can have its turn now.
    pub(super) fn take_turn(
        &mut self,
        requests: u32,
        now: Instant,
        arrival: Arrival,
    ) -> Option<Way> {
        let turn = match &self.terms.service {
            None => Way::Alone,
            Some(service) => {
                let is_free = self.window.free(now, self.terms.rate.requests()) >= requests;
                if !is_free || self.pace.is_stopped() {
                    return None;
                }
                service.way(now)
            }
        };
        let is_admitted = match turn {
            Way::Alone => self.window.free(now, self.terms.share) >= requests,
            Way::Ask => match arrival {
                Arrival::NeverWaits => true,
                Arrival::New => self.pace.may_ask(requests, false),
                Arrival::Waited => self.pace.may_ask(requests, true),
            },
            Way::Try => true,
        };
        if !is_admitted {
            return None;
        }
        self.window.reserve(requests);
        if turn != Way::Alone {
            self.pace.begin(requests);
        }
        Some(turn)
    }

    /// Ends a turn in which nothing is sent.
    pub(super) fn return_turn(&mut self, turn: Way, requests: u32) {
        (0..requests).for_each(|_| self.window.release());
        self.end_turn(turn, requests);
    }

    /// Records that a call has its answer.
    pub(super) fn end_turn(&mut self, turn: Way, requests: u32) {
        if turn != Way::Alone {
            self.pace.end(requests);
        }
        if let (Way::Try, Some(service)) = (turn, &self.terms.service) {
            service.end_try();
        }
    }

    /// Whether the reserved requests are within this bridge's share.
    pub(super) fn is_within_share(&mut self, now: Instant) -> bool {
        self.window.is_within(now, self.terms.share)
    }

    /// The earliest time at which a call that is number `ahead` in the queue can have its turn.
    pub(super) fn earliest(&mut self, now: Instant, ahead: u32, caller: &Caller) -> Instant {
        let whole = self.terms.rate.requests();
        let mut within = |share| {
            self.window
                .admission_time(now, ahead, Duration::ZERO, share)
        };
        let service = self.terms.service.as_ref();
        let at = match service.map(|service| service.availability(now)) {
            None => within(self.terms.share),
            Some(Availability::Up) => within(whole),
            Some(Availability::Down(retry_at)) => {
                within(whole).max(retry_at).min(within(self.terms.share))
            }
        };
        at.max(self.pace.stopped_until(&caller.name).unwrap_or(now))
    }

    /// The error of a call that is number `ahead` in the queue.
    pub(super) fn exhausted(&mut self, now: Instant, ahead: u32, caller: &Caller) -> Exhausted {
        let share = self.current_share(now);
        let at = self.window.admission_time(now, ahead, MARGIN, share);
        let stopped = self.pace.stopped_until(&caller.name);
        let by_caller = self.pace.caller_stopped_until(&caller.name);
        let is_callers = by_caller.is_some() && by_caller == stopped && by_caller > Some(at);
        let at = at.max(stopped.unwrap_or(now));
        // A call is not rejected where a slot is free, except while others ask for it.
        let at = if at == now { now + TIMEOUT } else { at };
        Exhausted {
            rate: self.terms.rate,
            of: match is_callers {
                true => LimitKind::Caller,
                false => LimitKind::Key,
            },
            wait: at.saturating_duration_since(now),
            limits: self.limits(now),
        }
    }

    /// The nearest limit: this bridge's own count, or what the service says.
    pub(super) fn limits(&mut self, now: Instant) -> Limits {
        self.expire(now);
        let share = self.current_share(now);
        let release = self.window.next_release(now);
        let remaining = self.window.free(now, share);
        let (remaining, end) = match self.pace.left() {
            Some((left, until)) if left < remaining => (left, Some(until)),
            _ => (remaining, release),
        };
        Limits {
            limit: share,
            remaining,
            reset: end.map_or(Duration::ZERO, |at| at.saturating_duration_since(now)),
        }
    }

    /// How many requests of the limit this bridge may send now.
    fn current_share(&self, now: Instant) -> u32 {
        let service = self.terms.service.as_ref();
        match service.map(|service| service.availability(now)) {
            Some(Availability::Up) => self.terms.rate.requests(),
            _ => self.terms.share,
        }
    }

    /// Wakes all waiting calls, because some of them may wait in vain.
    pub(super) fn wake_all(&self) {
        let waiting = self.queue.iter();
        waiting.for_each(|call| call.wake.changed.notify_one());
    }

    /// Puts a call back in front of the queue.
    pub(super) fn restore(&mut self, caller: &Caller, call: Waiting<Arc<Wakeup>>) {
        self.queue.restore(caller, call);
        if self.pace.caller_stopped_until(&caller.name).is_some() {
            self.queue.park(&caller.name);
        }
    }
}
