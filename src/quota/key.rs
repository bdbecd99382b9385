//! One upstream key: the requests that count against it, and the calls that wait for it.
//!
//! There is no background task. The first waiting call sleeps until a slot is free, and each change of the order wakes the new
//! first call. All locks are reserved for a few operations, never across an await.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{
    Caller, Exhausted, LimitKind, Limits, Rate, ReportedLimit, Slots,
    queue::{Queue, Waiting},
    service::{Availability, Service, TIMEOUT, Way, pace::Pace},
    ticket::Ticket,
    window::{MARGIN, Sent, Window},
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

/// One upstream key.
#[derive(Debug)]
pub(super) struct Key {
    terms: Terms,
    state: Mutex<State>,
    /// Requests that have counted since the start.
    requests: AtomicU64,
}

#[derive(Debug)]
pub(super) struct State {
    terms: Terms,
    pub(super) window: Window,
    pub(super) queue: Queue<Arc<Wakeup>>,
    /// The answers of the service.
    pub(super) pace: Pace,
    last_id: u64,
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

/// How long a call can wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// The end of `QUOTA_WAIT`.
    pub(super) until: Instant,
    /// A wait beyond this is in vain.
    pub(super) in_vain_after: Instant,
    /// Whether it can wait at all.
    pub(super) can_wait: bool,
}

/// A call that wants its turn.
#[derive(Clone, Copy, Debug)]
enum Arrival {
    /// It has just begun, and can not wait for the answers of other calls.
    NeverWaits,
    New,
    Waited,
}

/// The result of a call's request for slots.
pub(super) enum Acquired {
    /// It can send its requests.
    Slots(Slots),
    /// It must wait, or ask the service.
    Ticket(Ticket),
}

impl Key {
    pub(super) fn new(terms: &Terms) -> Self {
        Self {
            terms: terms.clone(),
            state: Mutex::new(State {
                terms: terms.clone(),
                window: Window::new(terms.rate),
                queue: Queue::new(),
                pace: Pace::new(terms.replicas),
                last_id: 0,
                next: None,
            }),
            requests: AtomicU64::new(0),
        }
    }

    /// Requests slots for this many requests: at once if possible, otherwise within `max_wait` and before `deadline`.
    ///
    /// # Errors
    ///
    /// - [`Exhausted`] if the wait is known to be longer.
    pub(super) fn acquire(
        self: &Arc<Self>,
        caller: &Caller,
        requests: u32,
        max_wait: Duration,
        deadline: Instant,
    ) -> Result<Acquired, Exhausted> {
        let now = Instant::now();
        let until = now + max_wait;
        let patience = Patience {
            until,
            in_vain_after: until.min(deadline),
            can_wait: !max_wait.is_zero(),
        };
        let mut state = self.lock();
        state.admit_waiting(now);
        let is_first = state.queue.next().is_none();
        let is_stopped = state.pace.caller_stopped_until(&caller.name).is_some();
        let arrival = match patience.can_wait {
            true => Arrival::New,
            false => Arrival::NeverWaits,
        };
        let turn = match is_first && !is_stopped {
            true => state.take_turn(requests, now, arrival),
            false => None,
        };
        if turn == Some(Way::Alone) {
            return Ok(Acquired::Slots(Slots::of(self, requests)));
        }
        if turn.is_none() {
            let ahead = state.queue.ahead(caller, requests);
            if state.earliest(now, ahead, caller) > patience.in_vain_after {
                return Err(state.exhausted(now, ahead, caller));
            }
        }
        state.last_id += 1;
        let mut ticket = Ticket {
            key: Arc::clone(self),
            caller: caller.clone(),
            id: state.last_id,
            requests,
            wakeup: Arc::default(),
            patience,
            is_over: false,
        };
        match turn {
            Some(turn) => ticket.wakeup = Wakeup::with(turn),
            None => state.queue.push(caller, ticket.waiting()),
        }
        if is_stopped {
            state.queue.park(&caller.name);
        }
        Ok(Acquired::Ticket(ticket))
    }

    /// The number of waiting calls.
    pub(super) fn waiting(&self) -> usize {
        self.lock().queue.calls()
    }

    /// Requests that have counted since the start.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Whether a new key would behave like this one.
    pub(super) fn is_unused(self: &Arc<Self>) -> bool {
        let now = Instant::now();
        let mut state = self.lock();
        state.pace.expire(now);
        Arc::strong_count(self) == 1 && state.window.is_empty(now) && state.pace.is_empty()
    }

    /// The current limits of the key.
    pub(super) fn limits(&self) -> Limits {
        self.lock().limits(Instant::now())
    }

    /// The service that calls of this key ask.
    pub(super) fn service(&self) -> Option<&Arc<Service>> {
        self.terms.service.as_ref()
    }

    /// Counts a reserved request that is sent now, if `sent` is empty.
    pub(super) fn send(&self, sent: &OnceLock<Sent>) {
        let mut state = self.lock();
        sent.get_or_init(|| {
            self.requests.fetch_add(1, Ordering::Relaxed);
            state.window.send(Instant::now())
        });
    }

    /// Releases a reserved request that will not be sent.
    pub(super) fn release(&self) {
        let mut state = self.lock();
        state.window.release();
        state.admit_waiting(Instant::now());
    }

    /// Reads the limit that ALİM reported when it counted the request `sent`.
    pub(super) fn reconcile(&self, sent: Option<Sent>, reported: ReportedLimit) -> Limits {
        let now = Instant::now();
        let mut state = self.lock();
        if let (Some(sent), Some(remaining)) = (sent, reported.remaining) {
            state.window.reconcile(now, sent, remaining);
        }
        if let Some(wait) = reported.stop {
            state.window.stop(now + wait);
            state.wake_all();
        }
        state.limits(now)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|held| held.into_inner())
    }
}

impl Wakeup {
    /// The wakeup of a call that has its turn.
    fn with(turn: Way) -> Arc<Self> {
        let wakeup = Self::default();
        wakeup.turn.get_or_init(|| turn);
        Arc::new(wakeup)
    }
}

impl State {
    /// Gives waiting calls their turn while slots are free, and wakes the first waiting call if it has changed.
    pub(super) fn admit_waiting(&mut self, now: Instant) {
        for caller in self.pace.expire(now) {
            self.queue.unpark(&caller);
        }
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

    /// Reserves requests if the call can have its turn now.
    fn take_turn(&mut self, requests: u32, now: Instant, arrival: Arrival) -> Option<Way> {
        let turn = match &self.terms.service {
            None => Way::Alone,
            Some(service) => {
                let is_free = self.window.free(now, self.terms.rate.requests()) >= requests;
                if !is_free || self.pace.stopped_until("").is_some() {
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
    fn limits(&mut self, now: Instant) -> Limits {
        self.pace.expire(now);
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
