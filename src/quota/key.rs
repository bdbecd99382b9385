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

use tokio::time::Instant;

use super::{
    Caller, Exhausted, Limits, ReportedLimit, Slots,
    service::{Service, Way},
    state::{Arrival, State, Terms, Wakeup},
    ticket::Ticket,
    window::Sent,
};

/// One upstream key.
#[derive(Debug)]
pub(super) struct Key {
    terms: Terms,
    state: Mutex<State>,
    /// Requests that have counted since the start.
    requests: AtomicU64,
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
            state: Mutex::new(State::new(terms)),
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
        state.expire(now);
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
