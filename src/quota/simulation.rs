//! Simulates the engine and ALİM on a paused clock, with random callers and with others who use the same key.
//!
//! ALİM counts in one of three ways, none of which shares code with the engine: its own sliding log, which also counts rejected
//! requests; a fixed window; a token bucket.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use proptest::prelude::*;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{Caller, Quota, ReportedLimit, Settings, Slot, UpstreamKey, window::MARGIN};

const LIMIT: u32 = 10;
const WINDOW: Duration = Duration::from_secs(20);

/// How ALİM counts.
#[derive(Clone, Copy, Debug)]
enum Kind {
    SlidingLog,
    FixedWindow,
    TokenBucket,
}

/// The upstream's limit of one key.
struct Alim {
    kind: Kind,
    start: Instant,
    log: VecDeque<Instant>,
    fixed: (u128, u32),
    bucket: (f64, Instant),
    /// When our requests arrived, and whether they were accepted.
    ours: Vec<(Instant, bool)>,
}

impl Alim {
    fn new(kind: Kind) -> Self {
        let start = Instant::now();
        Self {
            kind,
            start,
            log: VecDeque::new(),
            fixed: (0, 0),
            bucket: (f64::from(LIMIT), start),
            ours: Vec::new(),
        }
    }

    /// Counts a request that arrives now. Returns how many are left if it is accepted.
    fn arrive(&mut self) -> Option<u32> {
        let now = Instant::now();
        let used = match self.kind {
            Kind::SlidingLog => {
                self.log.retain(|at| now.duration_since(*at) < WINDOW);
                self.log.push_back(now);
                u32::try_from(self.log.len()).expect("few")
            }
            Kind::FixedWindow => {
                let number = now.duration_since(self.start).as_nanos() / WINDOW.as_nanos();
                let used = if self.fixed.0 == number {
                    self.fixed.1
                } else {
                    0
                };
                self.fixed = (number, used + 1);
                used + 1
            }
            Kind::TokenBucket => {
                let (tokens, at) = self.bucket;
                let since = now.duration_since(at).as_secs_f64() / WINDOW.as_secs_f64();
                let tokens = (tokens + since * f64::from(LIMIT)).min(f64::from(LIMIT));
                let is_in = tokens >= 1.0 - 1e-9;
                self.bucket = (if is_in { tokens - 1.0 } else { tokens }, now);
                if !is_in {
                    return None;
                }
                return Some((self.bucket.0 + 1e-9) as u32);
            }
        };
        LIMIT.checked_sub(used)
    }
}

#[derive(Clone)]
struct World {
    quota: Quota,
    alim: Arc<Mutex<Alim>>,
}

impl World {
    fn new(kind: Kind, wait: Duration) -> Self {
        let rate = format!("{LIMIT}/{}s", WINDOW.as_secs()).parse();
        let rate = Some(rate.expect("a rate"));
        Self {
            quota: Quota::with(
                &Settings {
                    rate,
                    replicas: 1,
                    service: None,
                    wait,
                    has_service_key: true,
                },
                None,
            ),
            alim: Arc::new(Mutex::new(Alim::new(kind))),
        }
    }

    fn alim(&self) -> std::sync::MutexGuard<'_, Alim> {
        self.alim.lock().expect("no panic")
    }

    /// Makes one of our calls: the queue, a connection, the network, ALİM's response. Returns whether it was sent.
    async fn call(&self, plan: Plan) -> bool {
        let caller = Caller {
            name: format!("caller-{}", plan.caller).into(),
            weight: plan.caller + 1,
        };
        let far = Instant::now() + Duration::from_secs(24 * 3600);
        let trace = http::HeaderMap::new();
        let acquired =
            self.quota
                .acquire(&UpstreamKey::Service, &caller, plan.requests, far, &trace);
        let acquired = match plan.max_wait {
            Some(max_wait) => timeout(max_wait, acquired).await.ok(),
            None => Some(acquired.await),
        };
        let Some(Ok(mut slots)) = acquired else {
            return false;
        };
        for left in (0..plan.requests).rev() {
            let one = if left > 0 {
                slots.split_off()
            } else {
                std::mem::take(&mut slots)
            };
            sleep(plan.connect).await;
            if plan.finds_no_connection {
                continue;
            }
            let slot = one.current().expect("the quota is on");
            self.request(slot, plan.network, plan.answer).await;
        }
        true
    }

    async fn request(&self, slot: &Slot, network: Duration, answer: Duration) {
        slot.mark_sent();
        sleep(network).await;
        let remaining = {
            let mut alim = self.alim();
            let remaining = alim.arrive();
            alim.ours.push((Instant::now(), remaining.is_some()));
            remaining
        };
        sleep(answer).await;
        slot.reconcile(ReportedLimit {
            remaining: Some(remaining.unwrap_or(0)),
            stop: None,
        });
    }

    /// Our own requests never exceeded the limit.
    fn assert_no_overrun(&self) {
        let alim = self.alim();
        let first_and_last = alim.ours.windows(LIMIT as usize + 1);
        for requests in first_and_last {
            let (first, last) = (requests[0].0, requests[LIMIT as usize].0);
            assert!(last - first >= WINDOW, "{:?} apart", last - first);
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    at: Duration,
    caller: u32,
    requests: u32,
    connect: Duration,
    finds_no_connection: bool,
    network: Duration,
    answer: Duration,
    max_wait: Option<Duration>,
}

fn millis(range: std::ops::Range<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(Duration::from_millis)
}

fn plan() -> impl Strategy<Value = Plan> {
    let margin = u64::try_from(MARGIN.as_millis()).expect("short");
    (
        millis(0..90_000),
        0_u32..4,
        1_u32..3,
        millis(0..3000),
        prop::bool::weighted(0.1),
        millis(0..margin + 1),
        millis(0..30_000),
        prop::option::weighted(0.2, millis(0..20_000)),
    )
        .prop_map(
            |(at, caller, requests, connect, finds_no_connection, network, answer, max_wait)| {
                Plan {
                    at,
                    caller,
                    requests,
                    connect,
                    finds_no_connection,
                    network,
                    answer,
                    max_wait,
                }
            },
        )
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::SlidingLog),
        Just(Kind::FixedWindow),
        Just(Kind::TokenBucket)
    ]
}

/// Runs `work` on a paused clock that advances from timer to timer.
fn simulate(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime.expect("a runtime").block_on(work);
}

async fn all(world: &World, plans: Vec<Plan>) {
    let start = Instant::now();
    let calls = plans.into_iter().map(|plan| {
        let world = world.clone();
        async move {
            sleep_until(start + plan.at).await;
            world.call(plan).await;
        }
    });
    futures_util::future::join_all(calls).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// If nobody else uses the key, ALİM rejects none of our calls, however they arrive, wait, leave or connect.
    #[test]
    fn random_callers_never_overrun_the_quota(
        kind in kind(),
        plans in prop::collection::vec(plan(), 1..60),
        waits in any::<bool>(),
    ) {
        simulate(async {
            let wait = Duration::from_secs(if waits { 600 } else { 0 });
            let world = World::new(kind, wait);
            all(&world, plans).await;
            world.assert_no_overrun();
            let alim = world.alim();
            let rejected = alim.ours.iter().filter(|(_, is_in)| !is_in).count();
            assert_eq!(rejected, 0, "{kind:?}");
        });
    }

    /// If others use the key, our calls still keep the limit. When the others are quiet, ALİM accepts calls again.
    #[test]
    fn after_an_overrun_of_others_the_key_recovers(
        kind in kind(),
        plans in prop::collection::vec(plan(), 1..60),
        others in prop::collection::vec(millis(0..40_000), 1..40),
    ) {
        simulate(async {
            let world = World::new(kind, Duration::from_secs(600));
            let start = Instant::now();
            let arrivals = others.into_iter().map(|at| {
                let world = world.clone();
                async move {
                    sleep_until(start + at).await;
                    let _ = world.alim().arrive();
                }
            });
            tokio::join!(all(&world, plans), futures_util::future::join_all(arrivals));
            world.assert_no_overrun();
            let quiet = start + Duration::from_secs(40) + WINDOW;
            let late = world.alim().ours.iter().filter(|(at, _)| *at > quiet).all(|(_, is_in)| *is_in);
            assert!(late, "{kind:?}");
        });
    }
}

/// Waiting calls use at least 95 % of the quota.
#[test]
fn while_calls_wait_the_quota_is_used() {
    simulate(async {
        let world = World::new(Kind::SlidingLog, Duration::from_secs(3600));
        let second = Duration::from_secs(1);
        let plan = |caller| Plan {
            at: Duration::ZERO,
            caller,
            requests: 1 + caller % 2,
            connect: Duration::ZERO,
            finds_no_connection: false,
            network: Duration::from_millis(2),
            answer: second,
            max_wait: None,
        };
        let plans = (0..4).flat_map(|caller| vec![plan(caller); 40]).collect();
        all(&world, plans).await;
        world.assert_no_overrun();
        let ours = world.alim().ours.clone();
        let arrivals = ours.len();
        let took = ours[arrivals - 1].0 - ours[0].0;
        let allowed = took.as_secs_f64() / WINDOW.as_secs_f64() * f64::from(LIMIT);
        let used = arrivals as f64 / allowed;
        assert!(used >= 0.95, "{used}");
        assert_eq!(arrivals, 240);
    });
}
