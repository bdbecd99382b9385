//! Chaos: many callers of a deployed bridge, some of which cancel, pause or send short deadlines. A proxy
//! before the upstream delays, closes, corrupts and stalls answers. Each call ends once with the right
//! outcome, and afterwards nothing is leaked.
//!
//! `CHAOS_SEED` repeats a run's plans. `CHAOS_SECONDS` is its duration. The soak is the same test, but
//! longer: `CHAOS_SECONDS=3600 cargo test --release --test it chaos -- --nocapture`.

mod hostile;
mod plan;
mod records;

use std::{
    collections::BTreeMap,
    env,
    net::SocketAddr,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::support::{
    RichStatus, ask, ask_stream,
    bare::Connection,
    deployed::Deployed,
    extra::with_metadata,
    faults::{Fault, Wire},
    read_all, sse_tokens, text,
};
use alim_bridge::pb::{graph_service_client::GraphServiceClient, stream_response::Event};
use axum::{
    Json, Router,
    body::Body,
    extract::Request,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
    routing::post,
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Mutex, task::JoinSet};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use self::{
    plan::{Act, Plan, tokens},
    records::Records,
};

const CALLERS: usize = 32;
const CALLERS_A_CONNECTION: usize = 8;
/// Timeout until the bridge has released everything of the calls.
const TIMEOUT: Duration = Duration::from_secs(20);
/// The largest growth of memory between the first calls and the last, for any number of calls.
const GROWTH_KIB: u64 = 24 * 1024;

/// The number of hostile callers' calls. Their answers are large.
const HOSTILE: u64 = u64::MAX;
/// Built once, because that is slow in a debug build.
static LARGE_REPLY: LazyLock<Bytes> = LazyLock::new(|| {
    let text = "a".repeat(1 << 20);
    json!({"response": text, "thread_id": "t"})
        .to_string()
        .into()
});
/// The settings with hostile callers.
const MEMORY_LIMIT: [(&str, &str); 3] = [
    ("MEMORY_LIMIT", "64MiB"),
    ("MESSAGE_TIMEOUT", "500ms"),
    ("MAX_CALLS", "400"),
];
/// That limit, and the additional memory of a debug build.
const MEMORY_KIB: u64 = (64 + 32) * 1024;

const SETTINGS: [(&str, &str); 6] = [
    ("INVOKE_TIMEOUT", "600ms"),
    ("STREAM_INITIAL_TIMEOUT", "600ms"),
    ("STREAM_IDLE_TIMEOUT", "500ms"),
    ("STREAM_LIFETIME", "2s"),
    ("POOL_IDLE_TIMEOUT", "300ms"),
    ("LOG_FORMAT", "json"),
];

/// An upstream whose answer depends on the call's number.
async fn upstream() -> (SocketAddr, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let app = Router::new()
        .route("/api/v1/graph/invoke", post(whole))
        .route("/api/v1/graph/stream", post(streamed));
    let serving = async move { axum::serve(listener, app).await.expect("a server") };
    (address, AbortOnDropHandle::new(tokio::spawn(serving)))
}

async fn number(request: Request) -> u64 {
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await;
    let body: Value = serde_json::from_slice(&body.unwrap_or_default()).unwrap_or_default();
    let message = body["message"].as_str().unwrap_or("0");
    message.parse().expect("a number")
}

async fn whole(request: Request) -> Response {
    let number = number(request).await;
    if number == HOSTILE {
        return ([(CONTENT_TYPE, "application/json")], LARGE_REPLY.clone()).into_response();
    }
    let text = tokens(number).concat();
    Json(json!({"response": text, "thread_id": "t"})).into_response()
}

async fn streamed(request: Request) -> Response {
    let tokens = match number(request).await {
        HOSTILE => vec!["a".repeat(300_000); 8],
        number => tokens(number),
    };
    let mut chunks: Vec<_> = tokens.iter().map(|token| sse_tokens(&[token])).collect();
    chunks.push("event: done\ndata: [DONE]\n\n".into());
    let chunks = stream::iter(chunks).then(|chunk| async {
        tokio::task::yield_now().await;
        Ok::<_, std::convert::Infallible>(chunk)
    });
    (
        [(CONTENT_TYPE, "text/event-stream")],
        Body::from_stream(chunks),
    )
        .into_response()
}

/// Shared by all callers.
struct Run {
    seed: u64,
    bridge: SocketAddr,
    wire: Wire,
    next: AtomicU64,
    /// The count of each ending.
    endings: std::sync::Mutex<BTreeMap<String, u64>>,
}

impl Run {
    /// Calls until the time is up.
    async fn call_until(&self, end: Instant) {
        let mut callers = Vec::new();
        let mut connection = None;
        for caller in 0..CALLERS {
            if caller % CALLERS_A_CONNECTION == 0 {
                connection = Some(Connection::open(self.bridge).await);
            }
            let connection = connection.clone().expect("the first opens one");
            let origin = format!("http://{}", self.bridge).parse().expect("a URL");
            let client = GraphServiceClient::with_origin(connection, origin);
            callers.push(async move {
                while Instant::now() < end {
                    let number = self.next.fetch_add(1, Ordering::Relaxed);
                    self.call(number, client.clone()).await;
                }
            });
        }
        futures_util::future::join_all(callers).await;
    }

    async fn call(&self, number: u64, client: GraphServiceClient<Connection>) {
        let plan = Plan::of(self.seed, number);
        let call = call(number, plan, client);
        let (answer, ending) = match plan.act {
            Act::Cancel(after) => match tokio::time::timeout(after, call).await {
                Ok(answer) => answer,
                Err(_cancelled) => return self.count("cancelled".into()),
            },
            Act::Read | Act::Pause(_) | Act::Deadline(_) => call.await,
        };
        let was_tainted = self.wire.was_tainted(&id(number));
        let ending = match ending {
            Ok(()) if was_tainted => "OK, corrupted".into(),
            Ok(()) => {
                let expected = tokens(number).concat();
                assert_eq!(answer, Some(expected), "call {number}, {plan:?}");
                "OK".into()
            }
            Err(status) if is_reset(&status) => "reset".into(),
            Err(status) => status.code_and_reason().1,
        };
        let is_plain = plan.fault == Fault::None && !was_tainted && plan.act == Act::Read;
        self.count(if is_plain {
            format!("plain {ending}")
        } else {
            ending
        });
    }

    fn count(&self, ending: String) {
        *self
            .endings
            .lock()
            .expect("no panic")
            .entry(ending)
            .or_default() += 1;
    }
}

/// If the machine is busy for longer than the watchdog's timeout, the watchdog resets a call at its end.
fn is_reset(status: &Status) -> bool {
    let cause = std::error::Error::source(status).map(|cause| format!("{cause:?}"));
    cause.is_some_and(|cause| cause.contains("Reset("))
}

fn id(number: u64) -> String {
    format!("chaos-{number}")
}

/// The text of the answer, if there is one, and how the call ended.
async fn call(
    number: u64,
    plan: Plan,
    mut client: GraphServiceClient<Connection>,
) -> (Option<String>, Result<(), Status>) {
    let (id, timeout) = (id(number), timeout(plan.act));
    let mut pairs = vec![("x-request-id", id.as_bytes())];
    pairs.extend(
        timeout
            .as_ref()
            .map(|timeout| ("grpc-timeout", timeout.as_bytes())),
    );
    let message = number.to_string();
    if !plan.is_stream {
        return match client.invoke(with_metadata(ask(&message), &pairs)).await {
            Ok(reply) => (Some(reply.into_inner().response), Ok(())),
            Err(status) => (None, Err(status)),
        };
    }
    let events = match client
        .stream(with_metadata(ask_stream(&message), &pairs))
        .await
    {
        Ok(answer) => answer.into_inner(),
        Err(status) => return (None, Err(status)),
    };
    if let Act::Pause(time) = plan.act {
        tokio::time::sleep(time).await; // the planned pause
    }
    let (events, ending) = read_all(events).await;
    let is_done = |event: &Event| matches!(event, Event::Done(_));
    let dones = events.iter().filter(|event| is_done(event)).count();
    assert_eq!(
        dones,
        usize::from(ending.is_ok()),
        "call {number}, {plan:?}: {ending:?}"
    );
    assert!(
        dones == 0 || events.last().is_some_and(is_done),
        "call {number}, {plan:?}"
    );
    (Some(text(&events)), ending)
}

fn timeout(act: Act) -> Option<String> {
    match act {
        Act::Deadline(time) => Some(format!("{}m", time.as_millis())),
        Act::Read | Act::Cancel(_) | Act::Pause(_) => None,
    }
}

/// Waits until the bridge has released everything of the calls, and compares its counters and records.
async fn settle(run: &Run, bridge: &mut Deployed, records: &mut Records) {
    bridge.wait_for_open_calls(0).await;
    let start = Instant::now();
    while run.wire.open_connections() > 0 {
        assert!(
            start.elapsed() < TIMEOUT,
            "{} connections are still open",
            run.wire.open_connections()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let started = bridge
        .metric("grpc_server_started_total", "GraphService")
        .await;
    let handled = bridge
        .metric("grpc_server_handled_total", "GraphService")
        .await;
    assert_eq!(started, handled);
    while records.total() < handled {
        assert!(
            start.elapsed() < TIMEOUT,
            "{} records of {handled}",
            records.total()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
        records.read(bridge);
    }
    assert!(
        records.counts.iter().all(|count| *count <= 1),
        "a call has two records"
    );
    let endings: u64 = run.endings.lock().expect("no panic").values().sum();
    let cancelled = run
        .endings
        .lock()
        .expect("no panic")
        .get("cancelled")
        .copied();
    let known = endings - cancelled.unwrap_or_default()..=endings;
    let handled = handled - records.others;
    assert!(
        known.contains(&handled),
        "{handled} records for {known:?} calls"
    );
}

fn from_environment(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_chaos_every_call_ends_once_with_the_right_outcome_and_leaks_nothing() {
    let resident = chaos(&[("MAX_CALLS", "30")], false).await;
    let [first, last] = resident[..] else {
        panic!("two figures: {resident:?}")
    };
    assert!(last <= first + GROWTH_KIB, "{resident:?} KiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_chaos_with_hostile_callers_memory_stays_within_its_limit() {
    chaos(&MEMORY_LIMIT, true).await;
}

/// Both tests need the whole machine, because their timeouts are short.
static ONE_RUN: Mutex<()> = Mutex::const_new(());

/// Returns the resident memory at two times, in KiB.
async fn chaos(settings: &[(&str, &str)], has_hostile: bool) -> Vec<u64> {
    let _alone = ONE_RUN.lock().await;
    let seed = from_environment("CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
    let time = Duration::from_secs(from_environment("CHAOS_SECONDS").unwrap_or(8));
    eprintln!("CHAOS_SEED={seed} CHAOS_SECONDS={}", time.as_secs());
    let (address, _upstream) = upstream().await;
    let plan = move |id: &str| {
        let number = id
            .strip_prefix("chaos-")
            .and_then(|number| number.parse().ok());
        number.map_or(Fault::None, |number| Plan::of(seed, number).fault)
    };
    let wire = Wire::to(address, plan).await;
    let mut bridge = Deployed::with(&wire.url(), &[&SETTINGS, settings].concat());
    let run = Arc::new(Run {
        seed,
        bridge: bridge.address,
        wire,
        next: AtomicU64::new(0),
        endings: std::sync::Mutex::default(),
    });
    let mut records = Records::default();
    let mut resident = Vec::new();
    for share in [time / 4, time - time / 4] {
        let end = Instant::now() + share;
        let mut calling = JoinSet::new();
        let callers = Arc::clone(&run);
        calling.spawn(async move { callers.call_until(end).await });
        if has_hostile {
            calling.spawn(hostile::attack(bridge.address, end));
        }
        while !calling.is_empty() {
            if let Some(ended) = calling.try_join_next() {
                ended.expect("no panic");
            }
            let now = bridge.resident_kib();
            assert!(!has_hostile || now < MEMORY_KIB, "{now} KiB");
            tokio::time::sleep(Duration::from_millis(20)).await;
            records.read(&mut bridge);
        }
        settle(&run, &mut bridge, &mut records).await;
        resident.push(bridge.resident_kib());
    }
    let endings = run.endings.lock().expect("no panic").clone();
    eprintln!("{} calls, {resident:?} KiB, {endings:?}", records.total());
    let plain_ok = endings.get("plain OK").copied().unwrap_or_default();
    assert!(has_hostile || !endings.contains_key("reset"), "{endings:?}");
    assert!(plain_ok > 20, "almost no call succeeded: {endings:?}");
    assert_eq!(bridge.running.stop().code, Some(0));
    resident
}
