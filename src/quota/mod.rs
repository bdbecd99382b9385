//! How the scarce upstream is shared: a quota of requests for each of its keys, and turns for those that wait.
//!
//! A call [acquires](Quota::acquire) a [`Slot`] for each request that it sends: at once where the key's window has room,
//! else in its turn, else never. Neither HTTP nor gRPC is known here; `upstream` marks the slots as their requests leave.
//! More than one bridge on a key is not known either: an engine for that takes this one's place behind [`Quota::acquire`].

mod key;
mod queue;
pub mod rate;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
mod window;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use tokio::time::Instant;

use self::key::{Entered, Key};
pub use self::{
    key::{Slot, Slots},
    rate::Rate,
};

/// Keys that are counted one by one; those beyond share one quota, so that each still keeps its own.
const MAX_KEYS: usize = 4096;
/// Between two looks for keys that may be forgotten, where there are as many as may be.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// The name of the bridge's own key.
const SERVICE: &str = "service";

/// What each upstream key may do.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How many requests in any window; `None` for as many as there are calls.
    pub rate: Option<Rate>,
    /// How long a call may wait for its turn; zero for not at all.
    pub wait: Duration,
    /// Whether the bridge has a key of its own, which is then reported from the start.
    pub has_service_key: bool,
}

/// Who shares the quota.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Its name, by which its calls are told from those of others; empty for who has none.
    pub name: Arc<str>,
    /// How many requests its turn is worth; 0 counts as 1.
    pub weight: u32,
}

/// Which of the upstream's keys a request is sent with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamKey {
    /// The bridge's own.
    Service,
    /// The one that the bridge keeps for the caller of this name.
    OfCaller(Arc<str>),
    /// One that a caller brought, by its SHA-256.
    Brought([u8; SHA256_OUTPUT_LEN]),
}

/// What the head of an answer says of the upstream's own limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answer {
    /// How many requests it said were left when it counted this one.
    pub remaining: Option<u32>,
    /// For how long it asked for no more.
    pub stop: Option<Duration>,
}

/// What a key may do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many requests in a window.
    pub limit: u32,
    /// How many now.
    pub remaining: u32,
    /// Until there is room for one more than now; zero where there is room for all.
    pub reset: Duration,
}

/// There is no room for the call; nothing was sent.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the upstream key's quota of {rate} is used up")]
pub struct Exhausted {
    /// The setting `UPSTREAM_QUOTA`.
    pub rate: Rate,
    /// Until the call would be let through, if nobody else comes.
    pub wait: Duration,
    /// What the key may do now.
    pub limits: Limits,
}

/// What the quota is doing, for metrics.
#[derive(Clone, Debug)]
pub struct Report {
    /// How many requests in a window each key may send.
    pub limit: u32,
    /// Calls that wait for their turn, all keys together.
    pub waiting: usize,
    /// The keys that have a name.
    pub keys: Vec<KeyReport>,
}

/// What one key is doing.
#[derive(Clone, Debug)]
pub struct KeyReport {
    /// Its name, never the key.
    pub name: Arc<str>,
    /// How many requests it may send now.
    pub remaining: u32,
    /// How many it has sent since the start.
    pub requests: u64,
}

/// The quota of each upstream key; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Quota(Option<Arc<Engine>>);

#[derive(Debug)]
struct Engine {
    rate: Rate,
    wait: Duration,
    has_service_key: bool,
    service: Arc<Key>,
    others: Mutex<Others>,
}

/// The keys beside the bridge's own.
#[derive(Debug)]
struct Others {
    keys: HashMap<UpstreamKey, Arc<Key>>,
    /// For all that find no room in `keys`.
    shared: Arc<Key>,
    swept: Option<Instant>,
}

impl UpstreamKey {
    /// The one that a caller brought.
    pub fn brought(key: &str) -> Self {
        let hash = digest(&SHA256, key.as_bytes());
        let hash = hash.as_ref().try_into();
        Self::Brought(hash.expect("SHA-256 has one length"))
    }
}

impl Quota {
    /// Nothing is counted where the settings have no rate.
    pub fn new(settings: Settings) -> Self {
        let Some(rate) = settings.rate else {
            return Self(None);
        };
        Self(Some(Arc::new(Engine {
            rate,
            wait: settings.wait,
            has_service_key: settings.has_service_key,
            service: Arc::new(Key::new(rate)),
            others: Mutex::new(Others {
                keys: HashMap::new(),
                shared: Arc::new(Key::new(rate)),
                swept: None,
            }),
        })))
    }

    /// Whether anything is counted.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Waits for the call's turn, and gives a slot for each of its `requests`; dropped before, the call leaves the queue.
    ///
    /// # Errors
    ///
    /// - [`Exhausted`] when the wait is over, or is known to end only after that or after `deadline`.
    pub async fn acquire(
        &self,
        key: &UpstreamKey,
        caller: &Caller,
        requests: u32,
        deadline: Instant,
    ) -> Result<Slots, Exhausted> {
        let Some(engine) = &self.0 else {
            return Ok(Slots::default());
        };
        let entered = engine
            .key(key)
            .enter(caller, requests, engine.wait, deadline)?;
        match entered {
            Entered::Through(slots) => Ok(slots),
            Entered::Waiting(ticket) => ticket.turn().await,
        }
    }

    /// Gives a slot if there is room now and nobody waits: for probes, which must keep no call waiting.
    ///
    /// # Errors
    ///
    /// - [`Exhausted`] when there is none.
    pub fn try_acquire(&self, key: &UpstreamKey) -> Result<Slots, Exhausted> {
        let Some(engine) = &self.0 else {
            return Ok(Slots::default());
        };
        let nobody = Caller {
            name: "".into(),
            weight: 1,
        };
        let now = Instant::now();
        match engine.key(key).enter(&nobody, 1, Duration::ZERO, now)? {
            Entered::Through(slots) => Ok(slots),
            Entered::Waiting(_) => unreachable!("what may not wait is let through or rejected"),
        }
    }

    /// What it is doing; nothing where it is off.
    pub fn report(&self) -> Option<Report> {
        let engine = self.0.as_ref()?;
        let report = |name: &Arc<str>, key: &Key| KeyReport {
            name: Arc::clone(name),
            remaining: key.limits().remaining,
            requests: key.requests(),
        };
        let service = engine
            .has_service_key
            .then(|| report(&SERVICE.into(), &engine.service));
        let mut keys: Vec<_> = service.into_iter().collect();
        let others = engine.others();
        let mut waiting = engine.service.waiting() + others.shared.waiting();
        for (name, key) in &others.keys {
            waiting += key.waiting();
            if let UpstreamKey::OfCaller(name) = name {
                keys.push(report(name, key));
            }
        }
        Some(Report {
            limit: engine.rate.requests(),
            waiting,
            keys,
        })
    }
}

impl Engine {
    fn key(&self, key: &UpstreamKey) -> Arc<Key> {
        if *key == UpstreamKey::Service {
            return Arc::clone(&self.service);
        }
        let mut others = self.others();
        if let Some(known) = others.keys.get(key) {
            return Arc::clone(known);
        }
        if !others.has_room(Instant::now()) {
            return Arc::clone(&others.shared);
        }
        let new = Arc::new(Key::new(self.rate));
        others.keys.insert(key.clone(), Arc::clone(&new));
        new
    }

    fn others(&self) -> std::sync::MutexGuard<'_, Others> {
        self.others.lock().unwrap_or_else(|held| held.into_inner())
    }
}

impl Others {
    /// Whether one more key can be counted by itself; forgets keys for that which have sent nothing for a window.
    fn has_room(&mut self, now: Instant) -> bool {
        let is_due = self.swept.is_none_or(|at| at + SWEEP_INTERVAL <= now);
        if self.keys.len() >= MAX_KEYS && is_due {
            self.swept = Some(now);
            self.keys.retain(|_, key| !key.is_forgettable());
        }
        self.keys.len() < MAX_KEYS
    }
}
