//! Shares the scarce upstream: a request quota for each upstream key, and a fair queue of the calls that wait.
//!
//! A call [acquires](Quota::acquire) a [`Slot`] for each request that it sends. It gets them at once, after a wait in the queue, or
//! not at all. `upstream` marks the slots as their requests leave. Several bridges that share a key each keep to their share of the
//! quota, or ask a rate limit [`service`].

mod key;
mod queue;
pub mod rate;
pub mod service;
#[cfg(test)]
mod simulation;
mod slot;
mod state;
#[cfg(test)]
mod tests;
mod ticket;
mod window;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::HeaderMap;
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use tokio::time::Instant;

use self::{
    key::{Acquired, Key},
    service::{Service, SetupError},
    state::Terms,
};
pub use self::{
    rate::Rate,
    slot::{Slot, Slots},
};

/// Keys that are counted separately. Further keys share one quota, so that each stays within its limit.
const MAX_KEYS: usize = 4096;
/// Between two searches for keys to forget, while the maximum is reached.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// The name of the bridge's own key. No caller has it.
pub const SERVICE: &str = "service";

/// The limits of each upstream key.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Requests per window, over all bridges. `None` is unlimited.
    pub rate: Option<Rate>,
    /// Bridges that share the keys. Each has an equal share of the requests, and at least one.
    pub replicas: u32,
    /// The service that counts for all bridges. While it answers, shares do not matter.
    pub service: Option<service::Settings>,
    /// How long a call can wait in the queue. Zero rejects it at once.
    pub wait: Duration,
    /// Whether the bridge has its own key. If so, the key is reported from the start.
    pub has_service_key: bool,
}

/// A caller that shares the quota.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Its name, which identifies its calls. Empty for unknown callers.
    pub name: Arc<str>,
    /// Requests of one turn. 0 counts as 1.
    pub weight: u32,
}

/// The upstream key that a request is sent with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamKey {
    /// The bridge's own key.
    Service,
    /// The key that the bridge holds for the caller of this name.
    OfCaller(Arc<str>),
    /// A key that a caller brought, by its SHA-256.
    Brought([u8; SHA256_OUTPUT_LEN]),
}

/// The state of the upstream's own limit, from the head of a response.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReportedLimit {
    /// Requests left when the upstream counted this one.
    pub remaining: Option<u32>,
    /// How long the upstream asks to send nothing.
    pub stop: Option<Duration>,
}

/// The current limits of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests per window.
    pub limit: u32,
    /// Requests left now.
    pub remaining: u32,
    /// Until one more request than now is allowed. Zero if none is used.
    pub reset: Duration,
}

/// The quota does not allow the call. Nothing was sent.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("{of}{rate} is used up")]
pub struct Exhausted {
    /// The setting `UPSTREAM_QUOTA`.
    pub rate: Rate,
    /// Whose limit it is.
    pub of: LimitKind,
    /// Until the call would be admitted, if no other call arrives.
    pub wait: Duration,
    /// The current limits of the key.
    pub limits: Limits,
}

/// Whose limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitKind {
    /// That of the upstream key.
    #[error("the upstream key's quota of ")]
    Key,
    /// The caller's own, which the rate limit service has.
    #[error("the caller's part of the upstream key's quota of ")]
    Caller,
}

/// The state of the quota, for metrics.
#[derive(Clone, Debug)]
pub struct Report {
    /// Requests per window of each key, from this bridge.
    pub limit: u32,
    /// The rate limit service, if there is one.
    pub service: Option<service::Report>,
    /// Calls that wait, over all keys.
    pub waiting: usize,
    /// The keys that have a name.
    pub keys: Vec<KeyReport>,
}

/// The state of one key.
#[derive(Clone, Debug)]
pub struct KeyReport {
    /// Its name, never the key itself.
    pub name: Arc<str>,
    /// Requests left now.
    pub remaining: u32,
    /// Requests sent since the start.
    pub requests: u64,
}

/// The quota of each upstream key. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Quota(Option<Arc<Engine>>);

#[derive(Debug)]
struct Engine {
    terms: Terms,
    wait: Duration,
    has_service_key: bool,
    service: Arc<Key>,
    others: Mutex<Others>,
}

/// All keys except the bridge's own.
#[derive(Debug)]
struct Others {
    keys: HashMap<UpstreamKey, Arc<Key>>,
    /// Used by all keys that exceed the maximum of `keys`.
    shared: Arc<Key>,
    swept: Option<Instant>,
}

impl UpstreamKey {
    /// The key that a caller brought.
    pub fn brought(key: &str) -> Self {
        let hash = digest(&SHA256, key.as_bytes());
        let hash = hash.as_ref().try_into();
        Self::Brought(hash.expect("SHA-256 has one length"))
    }
}

impl Quota {
    /// Without a rate in the settings, nothing is counted.
    ///
    /// # Errors
    ///
    /// - [`SetupError`] if the client of the rate limit service can't be set up.
    pub fn new(settings: &Settings) -> Result<Self, SetupError> {
        let service = settings.service.as_ref().map(Service::new).transpose()?;
        Ok(Self::with(settings, service))
    }

    fn with(settings: &Settings, service: Option<Service>) -> Self {
        let Some(rate) = settings.rate else {
            return Self(None);
        };
        let terms = Terms {
            rate,
            share: (rate.requests() / settings.replicas).max(1),
            replicas: settings.replicas,
            service: service.map(Arc::new),
        };
        Self(Some(Arc::new(Engine {
            wait: settings.wait,
            has_service_key: settings.has_service_key,
            service: Arc::new(Key::new(&terms)),
            others: Mutex::new(Others {
                keys: HashMap::new(),
                shared: Arc::new(Key::new(&terms)),
                swept: None,
            }),
            terms,
        })))
    }

    /// Whether requests are counted.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Waits in the queue, and returns a slot for each of the call's `requests`. If the future is dropped, the call leaves the queue.
    /// `trace` has the call's trace context for the rate limit service.
    ///
    /// # Errors
    ///
    /// - [`Exhausted`] if the wait exceeds its maximum or `deadline`, as soon as that is known.
    pub async fn acquire(
        &self,
        key: &UpstreamKey,
        caller: &Caller,
        requests: u32,
        deadline: Instant,
        trace: &HeaderMap,
    ) -> Result<Slots, Exhausted> {
        let Some(engine) = &self.0 else {
            return Ok(Slots::default());
        };
        let acquired = engine
            .key(key)
            .acquire(caller, requests, engine.wait, deadline)?;
        match acquired {
            Acquired::Slots(slots) => Ok(slots),
            Acquired::Ticket(ticket) => ticket.wait(key, trace).await,
        }
    }

    /// Returns a slot if one is free now and no call waits. It is for probes, which must not delay any call.
    ///
    /// # Errors
    ///
    /// - [`Exhausted`] if none is free.
    pub async fn try_acquire(&self, key: &UpstreamKey) -> Result<Slots, Exhausted> {
        let Some(engine) = &self.0 else {
            return Ok(Slots::default());
        };
        let nobody = Caller {
            name: "".into(),
            weight: 1,
        };
        let now = Instant::now();
        match engine.key(key).acquire(&nobody, 1, Duration::ZERO, now)? {
            Acquired::Slots(slots) => Ok(slots),
            Acquired::Ticket(ticket) => ticket.wait(key, &HeaderMap::new()).await,
        }
    }

    /// The current state. `None` if the quota is off.
    pub fn report(&self) -> Option<Report> {
        let engine = self.0.as_ref()?;
        let report = |name: &Arc<str>, key: &Key| KeyReport {
            name: Arc::clone(name),
            remaining: key.limits().remaining,
            requests: key.requests(),
        };
        let own = engine
            .has_service_key
            .then(|| report(&SERVICE.into(), &engine.service));
        let mut keys: Vec<_> = own.into_iter().collect();
        let others = engine.others();
        let mut waiting = engine.service.waiting() + others.shared.waiting();
        for (name, key) in &others.keys {
            waiting += key.waiting();
            if let UpstreamKey::OfCaller(name) = name {
                keys.push(report(name, key));
            }
        }
        let service = engine.terms.service.as_ref();
        Some(Report {
            limit: match service {
                Some(_) => engine.terms.rate.requests(),
                None => engine.terms.share,
            },
            service: service.map(|service| service.report()),
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
        let new = Arc::new(Key::new(&self.terms));
        others.keys.insert(key.clone(), Arc::clone(&new));
        new
    }

    fn others(&self) -> std::sync::MutexGuard<'_, Others> {
        self.others.lock().unwrap_or_else(|held| held.into_inner())
    }
}

impl Others {
    /// Whether one more key can be counted separately. If needed, forgets keys that have sent nothing for a window.
    fn has_room(&mut self, now: Instant) -> bool {
        let can_sweep = self.swept.is_none_or(|at| at + SWEEP_INTERVAL <= now);
        if self.keys.len() >= MAX_KEYS && can_sweep {
            self.swept = Some(now);
            self.keys.retain(|_, key| !key.is_unused());
        }
        self.keys.len() < MAX_KEYS
    }
}
