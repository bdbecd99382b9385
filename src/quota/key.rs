//! One upstream key: the requests that count against it, and the calls that wait for it.
//!
//! There is no background task. The first waiting call sleeps until a slot is free, and each change of the order wakes the new
//! first call. All locks are reserved for a few operations, never across an await.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{
    Caller, Exhausted, Limits, ReportedLimit,
    queue::{Queue, Waiting},
    rate::Rate,
    window::{MARGIN, Sent, Window},
};

/// One upstream key.
#[derive(Debug)]
pub(super) struct Key {
    rate: Rate,
    state: Mutex<State>,
    /// Requests that have counted since the start.
    requests: AtomicU64,
}

#[derive(Debug)]
struct State {
    window: Window,
    queue: Queue<Arc<Wakeup>>,
    last_id: u64,
    /// The call that sleeps until a slot is free.
    next: Option<u64>,
}

/// Wakes a waiting call.
#[derive(Debug, Default)]
struct Wakeup {
    is_admitted: AtomicBool,
    changed: Notify,
}

/// The result of a call's request for slots.
pub(super) enum Acquired {
    /// It can send its requests.
    Slots(Slots),
    /// It must wait.
    Queued(Ticket),
}

/// A call's position in the queue. If it is dropped, the call leaves the queue.
pub(super) struct Ticket {
    key: Arc<Key>,
    caller: Caller,
    id: u64,
    requests: u32,
    wakeup: Arc<Wakeup>,
    until: Instant,
    has_left_queue: bool,
}

/// The right of a call to send its requests. It is empty if the quota is off.
#[derive(Debug, Default)]
pub struct Slots(Vec<Arc<Slot>>);

/// The right to send one request. If it is dropped before it is marked as sent, the right returns to the key.
pub struct Slot {
    key: Arc<Key>,
    sent: OnceLock<Sent>,
}

impl Key {
    pub(super) fn new(rate: Rate) -> Self {
        Self {
            rate,
            state: Mutex::new(State {
                window: Window::new(rate),
                queue: Queue::new(),
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
        let mut state = self.lock();
        state.admit_waiting(now);
        if state.queue.calls() == 0 && state.window.free(now) >= requests {
            state.window.reserve(requests);
            return Ok(Acquired::Slots(self.slots(requests)));
        }
        let ahead = state.queue.ahead(caller, requests);
        let until = now + max_wait;
        if state.window.admission_time(now, ahead, Duration::ZERO) > until.min(deadline) {
            return Err(self.exhausted(&mut state, now, ahead));
        }
        state.last_id += 1;
        let (id, wakeup) = (state.last_id, Arc::<Wakeup>::default());
        let wake = Arc::clone(&wakeup);
        state.queue.push(caller, Waiting { id, requests, wake });
        Ok(Acquired::Queued(Ticket {
            key: Arc::clone(self),
            caller: caller.clone(),
            id,
            requests,
            wakeup,
            until,
            has_left_queue: false,
        }))
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
        Arc::strong_count(self) == 1 && self.lock().window.is_empty(Instant::now())
    }

    /// The current limits of the key.
    pub(super) fn limits(&self) -> Limits {
        self.limits_of(&mut self.lock(), Instant::now())
    }

    fn limits_of(&self, state: &mut State, now: Instant) -> Limits {
        let release = state.window.next_release(now);
        Limits {
            limit: self.rate.requests(),
            remaining: state.window.free(now),
            reset: release.map_or(Duration::ZERO, |at| at.saturating_duration_since(now)),
        }
    }

    fn exhausted(&self, state: &mut State, now: Instant, ahead: u32) -> Exhausted {
        let at = state.window.admission_time(now, ahead, MARGIN);
        Exhausted {
            rate: self.rate,
            wait: at.saturating_duration_since(now),
            limits: self.limits_of(state, now),
        }
    }

    fn slots(self: &Arc<Self>, requests: u32) -> Slots {
        let slot = |_| {
            Arc::new(Slot {
                key: Arc::clone(self),
                sent: OnceLock::new(),
            })
        };
        Slots((0..requests).map(slot).collect())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|held| held.into_inner())
    }
}

impl State {
    /// Admits waiting calls while slots are free, and wakes the first waiting call if it has changed.
    fn admit_waiting(&mut self, now: Instant) {
        while let Some(requests) = self.queue.next().map(|call| call.requests)
            && self.window.free(now) >= requests
            && let Some(call) = self.queue.pop()
        {
            self.window.reserve(requests);
            call.wake.is_admitted.store(true, Ordering::Relaxed);
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
}

/// The next step of a waiting call.
enum Step {
    Proceed,
    GiveUp(Exhausted),
    /// Sleep until then, or until something changes.
    Sleep(Instant),
}

impl Ticket {
    /// Waits until the call is admitted.
    ///
    /// # Errors
    ///
    /// - [`Exhausted`] if the maximum wait is over, or the key is stopped for longer.
    pub(super) async fn wait(mut self) -> Result<Slots, Exhausted> {
        loop {
            match self.step() {
                Step::Proceed => return Ok(self.key.slots(self.requests)),
                Step::GiveUp(exhausted) => return Err(exhausted),
                Step::Sleep(until) => tokio::select! {
                    () = self.wakeup.changed.notified() => {}
                    () = sleep_until(until) => {}
                },
            }
        }
    }

    fn step(&mut self) -> Step {
        let now = Instant::now();
        let mut state = self.key.lock();
        state.admit_waiting(now);
        if self.wakeup.is_admitted.load(Ordering::Relaxed) {
            self.has_left_queue = true;
            return Step::Proceed;
        }
        let is_next = state.queue.next().is_some_and(|call| call.id == self.id);
        let free_at = state
            .window
            .admission_time(now, self.requests, Duration::ZERO);
        if free_at > self.until || self.until <= now {
            self.has_left_queue = true;
            state.queue.remove(&self.caller.name, self.id);
            state.admit_waiting(now);
            let ahead = state.queue.ahead(&self.caller, self.requests);
            return Step::GiveUp(self.key.exhausted(&mut state, now, ahead));
        }
        Step::Sleep(if is_next { free_at } else { self.until })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.has_left_queue {
            return;
        }
        let mut state = self.key.lock();
        match self.wakeup.is_admitted.load(Ordering::Relaxed) {
            true => (0..self.requests).for_each(|_| state.window.release()),
            false => state.queue.remove(&self.caller.name, self.id),
        }
        state.admit_waiting(Instant::now());
    }
}

impl Slots {
    /// The slot of the request that is sent now. `None` if the quota is off.
    pub fn current(&self) -> Option<&Arc<Slot>> {
        self.0.first()
    }

    /// Takes one slot for a request that is sent before the others.
    pub fn split_off(&mut self) -> Self {
        Self(self.0.pop().into_iter().collect())
    }
}

impl Slot {
    /// Records that the request is sent now. From here on it counts, whatever its result.
    pub fn mark_sent(&self) {
        let mut state = self.key.lock();
        self.sent.get_or_init(|| {
            self.key.requests.fetch_add(1, Ordering::Relaxed);
            state.window.send(Instant::now())
        });
    }

    /// Reads the upstream's limit from a response, which can show requests of others with the same key. Returns the key's limits.
    pub fn reconcile(&self, reported: ReportedLimit) -> Limits {
        self.mark_sent();
        let now = Instant::now();
        let mut state = self.key.lock();
        if let (Some(sent), Some(remaining)) = (self.sent.get(), reported.remaining) {
            state.window.reconcile(now, *sent, remaining);
        }
        if let Some(wait) = reported.stop {
            state.window.stop(now + wait);
            let waiting = state.queue.iter();
            waiting.for_each(|call| call.wake.changed.notify_one());
        }
        self.key.limits_of(&mut state, now)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.sent.get().is_none() {
            let mut state = self.key.lock();
            state.window.release();
            state.admit_waiting(Instant::now());
        }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sent = &self.sent;
        f.debug_struct("Slot")
            .field("sent", sent)
            .finish_non_exhaustive()
    }
}
