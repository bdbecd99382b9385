//! One upstream key: the requests that count against it, and the calls that wait for it.
//!
//! There is no task of its own: of the calls that wait, the one whose turn is next sleeps until there is room, and whatever changes
//! the order wakes the new next one. All locks are held for a few moves, never across an await.

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
    Answer, Caller, Exhausted, Limits,
    queue::{Queue, Waiting},
    rate::Rate,
    window::{MARGIN, Sent, Window},
};

/// One upstream key.
#[derive(Debug)]
pub(super) struct Key {
    rate: Rate,
    state: Mutex<State>,
    /// Requests that counted, ever.
    requests: AtomicU64,
}

#[derive(Debug)]
struct State {
    window: Window,
    queue: Queue<Arc<Turn>>,
    last_id: u64,
    /// The call that sleeps until there is room.
    next: Option<u64>,
}

/// How a call that waits learns of its turn.
#[derive(Debug, Default)]
struct Turn {
    has_come: AtomicBool,
    changed: Notify,
}

/// What becomes of a call that asks for slots.
pub(super) enum Entered {
    /// It goes on.
    Through(Slots),
    /// It waits.
    Waiting(Ticket),
}

/// A call's place in the queue; dropping it leaves the queue.
pub(super) struct Ticket {
    key: Arc<Key>,
    caller: Caller,
    id: u64,
    requests: u32,
    turn: Arc<Turn>,
    until: Instant,
    is_over: bool,
}

/// The right of a call to send so many requests; with the quota off, none is needed and there are none.
#[derive(Debug, Default)]
pub struct Slots(Vec<Arc<Slot>>);

/// The right to send one request. Unless it is marked as sent, dropping it gives the right back.
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

    /// Asks for slots for so many requests, at best at once, else within `patience` and before `deadline`.
    ///
    /// # Errors
    ///
    /// - [`Exhausted`] when the wait is known to be longer.
    pub(super) fn enter(
        self: &Arc<Self>,
        caller: &Caller,
        requests: u32,
        patience: Duration,
        deadline: Instant,
    ) -> Result<Entered, Exhausted> {
        let now = Instant::now();
        let mut state = self.lock();
        state.let_through(now);
        if state.queue.calls() == 0 && state.window.free(now) >= requests {
            state.window.hold(requests);
            return Ok(Entered::Through(self.slots(requests)));
        }
        let ahead = state.queue.ahead(caller, requests);
        let until = now + patience;
        if state.window.free_at(now, ahead, Duration::ZERO) > until.min(deadline) {
            return Err(self.exhausted(&mut state, now, ahead));
        }
        state.last_id += 1;
        let (id, turn) = (state.last_id, Arc::<Turn>::default());
        let wake = Arc::clone(&turn);
        state.queue.push(caller, Waiting { id, requests, wake });
        Ok(Entered::Waiting(Ticket {
            key: Arc::clone(self),
            caller: caller.clone(),
            id,
            requests,
            turn,
            until,
            is_over: false,
        }))
    }

    /// How many calls wait.
    pub(super) fn waiting(&self) -> usize {
        self.lock().queue.calls()
    }

    /// How many requests have counted, ever.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Whether a new key would behave as this one does.
    pub(super) fn is_forgettable(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) == 1 && self.lock().window.is_empty(Instant::now())
    }

    /// What the key may do now.
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
        let at = state.window.free_at(now, ahead, MARGIN);
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
    /// Lets through as many of the calls that wait as there is room for, and wakes the next one if it is new.
    fn let_through(&mut self, now: Instant) {
        while let Some(requests) = self.queue.next().map(|call| call.requests)
            && self.window.free(now) >= requests
            && let Some(call) = self.queue.pop()
        {
            self.window.hold(requests);
            call.wake.has_come.store(true, Ordering::Relaxed);
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

/// What a call that waits does next.
enum Step {
    Go,
    GiveUp(Exhausted),
    /// Sleep until then, or until something changes.
    Sleep(Instant),
}

impl Ticket {
    /// Waits for the call's turn.
    ///
    /// # Errors
    ///
    /// - [`Exhausted`] when the patience is over, or the key is stopped for longer.
    pub(super) async fn turn(mut self) -> Result<Slots, Exhausted> {
        loop {
            match self.step() {
                Step::Go => return Ok(self.key.slots(self.requests)),
                Step::GiveUp(exhausted) => return Err(exhausted),
                Step::Sleep(until) => tokio::select! {
                    () = self.turn.changed.notified() => {}
                    () = sleep_until(until) => {}
                },
            }
        }
    }

    fn step(&mut self) -> Step {
        let now = Instant::now();
        let mut state = self.key.lock();
        state.let_through(now);
        if self.turn.has_come.load(Ordering::Relaxed) {
            self.is_over = true;
            return Step::Go;
        }
        let is_next = state.queue.next().is_some_and(|call| call.id == self.id);
        let room = state.window.free_at(now, self.requests, Duration::ZERO);
        if room > self.until || self.until <= now {
            self.is_over = true;
            state.queue.remove(&self.caller.name, self.id);
            state.let_through(now);
            let ahead = state.queue.ahead(&self.caller, self.requests);
            return Step::GiveUp(self.key.exhausted(&mut state, now, ahead));
        }
        Step::Sleep(if is_next { room } else { self.until })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let mut state = self.key.lock();
        match self.turn.has_come.load(Ordering::Relaxed) {
            true => (0..self.requests).for_each(|_| state.window.give_back()),
            false => state.queue.remove(&self.caller.name, self.id),
        }
        state.let_through(Instant::now());
    }
}

impl Slots {
    /// The slot of the request that is sent now; none with the quota off.
    pub fn current(&self) -> Option<&Arc<Slot>> {
        self.0.first()
    }

    /// Takes one for a request that is sent before the others.
    pub fn split_off(&mut self) -> Self {
        Self(self.0.pop().into_iter().collect())
    }
}

impl Slot {
    /// Notes that the request goes to a connection now: from here on it counts, whatever becomes of it.
    pub fn mark_sent(&self) {
        let mut state = self.key.lock();
        self.sent.get_or_init(|| {
            self.key.requests.fetch_add(1, Ordering::Relaxed);
            state.window.send(Instant::now())
        });
    }

    /// Learns from the head of the answer, which may tell of others that use the key, and gives what the key may do now.
    pub fn learn(&self, answer: Answer) -> Limits {
        self.mark_sent();
        let now = Instant::now();
        let mut state = self.key.lock();
        if let (Some(sent), Some(remaining)) = (self.sent.get(), answer.remaining) {
            state.window.learn(now, *sent, remaining);
        }
        if let Some(wait) = answer.stop {
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
            state.window.give_back();
            state.let_through(Instant::now());
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
