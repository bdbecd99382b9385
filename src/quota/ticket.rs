//! A call that waits for its turn, and then asks the rate limit service if there is one.

use std::sync::Arc;

use http::HeaderMap;
use tokio::time::{Instant, sleep_until};

use super::{
    Caller, Exhausted, Slots, UpstreamKey,
    key::{Key, Patience},
    queue::Waiting,
    service::{Service, TIMEOUT, Verdict, Way},
    state::{State, Wakeup},
};

/// A call's position in the queue. If it is dropped, the call leaves the queue.
pub(super) struct Ticket {
    pub(super) key: Arc<Key>,
    pub(super) caller: Caller,
    pub(super) id: u64,
    pub(super) requests: u32,
    pub(super) wakeup: Arc<Wakeup>,
    pub(super) patience: Patience,
    /// Whether it holds nothing any more.
    pub(super) is_over: bool,
}

/// The next step of a waiting call.
enum Step {
    Proceed,
    Ask(Arc<Service>),
    GiveUp(Exhausted),
    /// Sleep until then, or until something changes.
    Sleep(Instant),
}

impl Ticket {
    /// Waits until the call is admitted. `upstream_key` and `trace` are for the service.
    ///
    /// # Errors
    ///
    /// - [`Exhausted`] if the maximum wait is over, or the key or the caller is stopped for longer.
    pub(super) async fn wait(
        mut self,
        upstream_key: &UpstreamKey,
        trace: &HeaderMap,
    ) -> Result<Slots, Exhausted> {
        loop {
            match self.step() {
                Step::Proceed => return Ok(Slots::of(&self.key, self.requests)),
                Step::GiveUp(exhausted) => return Err(exhausted),
                Step::Ask(service) => {
                    let caller = &self.caller.name;
                    let asked = service.ask(upstream_key, caller, self.requests, trace);
                    match self.judge(asked.await) {
                        Some(Ok(())) => return Ok(Slots::of(&self.key, self.requests)),
                        Some(Err(exhausted)) => return Err(exhausted),
                        None => {}
                    }
                }
                Step::Sleep(until) => tokio::select! {
                    () = self.wakeup.changed.notified() => {}
                    () = sleep_until(until) => {}
                },
            }
        }
    }

    /// Its entry in the queue.
    pub(super) fn waiting(&self) -> Waiting<Arc<Wakeup>> {
        Waiting {
            id: self.id,
            requests: self.requests,
            wake: Arc::clone(&self.wakeup),
        }
    }

    fn step(&mut self) -> Step {
        let now = Instant::now();
        let key = Arc::clone(&self.key);
        let mut state = key.lock();
        state.admit_waiting(now);
        match (self.wakeup.turn.get(), key.service()) {
            (None, _) => {}
            (Some(Way::Ask | Way::Try), Some(service)) => return Step::Ask(Arc::clone(service)),
            (Some(_), _) => {
                self.is_over = true;
                return Step::Proceed;
            }
        }
        let earliest = state.earliest(now, self.requests, &self.caller);
        if earliest > self.patience.in_vain_after || self.patience.until <= now {
            state.queue.remove(&self.caller.name, self.id);
            return Step::GiveUp(self.give_up(&mut state, now));
        }
        let is_next = state.queue.next().is_some_and(|call| call.id == self.id);
        let stopped = state.pace.caller_stopped_until(&self.caller.name);
        Step::Sleep(match (is_next, stopped) {
            // Others ask. Their answers wake it.
            (true, _) if earliest <= now => now + TIMEOUT,
            (true, _) => earliest,
            (false, Some(until)) => until.min(self.patience.until),
            (false, None) => self.patience.until,
        })
    }

    /// What follows from the service's verdict. `None` if the call waits again.
    fn judge(&mut self, verdict: Verdict) -> Option<Result<(), Exhausted>> {
        let now = Instant::now();
        let key = Arc::clone(&self.key);
        let mut state = key.lock();
        let turn = *self.wakeup.turn.get().expect("it asked in its turn");
        state.expire(now);
        let is_admitted = match verdict {
            Verdict::Admitted(left) => {
                state.pace.admitted(left);
                true
            }
            // If it can wait, its turn depends on the others that waited for the same failure.
            Verdict::Failed => !self.patience.can_wait && state.is_within_share(now),
            Verdict::Over { key, caller } => {
                if let Some(wait) = key {
                    state.pace.stop(now + wait);
                    state.wake_all();
                }
                if let Some(wait) = caller {
                    state.pace.stop_caller(&self.caller.name, now + wait);
                    state.queue.park(&self.caller.name);
                    let waiting = state.queue.of(&self.caller.name);
                    waiting.for_each(|call| call.wake.changed.notify_one());
                }
                false
            }
        };
        if is_admitted {
            self.is_over = true;
            state.end_turn(turn, self.requests);
            state.admit_waiting(now);
            return Some(Ok(()));
        }
        state.return_turn(turn, self.requests);
        let earliest = state.earliest(now, self.requests, &self.caller);
        if earliest > self.patience.in_vain_after || !self.patience.can_wait {
            return Some(Err(self.give_up(&mut state, now)));
        }
        self.wakeup = Arc::default();
        state.restore(&self.caller, self.waiting());
        None
    }

    /// Leaves, and says how long the call would have had to wait.
    fn give_up(&mut self, state: &mut State, now: Instant) -> Exhausted {
        self.is_over = true;
        state.admit_waiting(now);
        let ahead = state.queue.ahead(&self.caller, self.requests);
        state.exhausted(now, ahead, &self.caller)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let mut state = self.key.lock();
        match self.wakeup.turn.get() {
            Some(turn) => state.return_turn(*turn, self.requests),
            None => state.queue.remove(&self.caller.name, self.id),
        }
        state.admit_waiting(Instant::now());
    }
}
