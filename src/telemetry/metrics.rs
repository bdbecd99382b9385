//! Metrics in Prometheus' text format, one registry per server.
//!
//! `grpc_server_*` have the names and labels of go-grpc-middleware, so that public dashboards work unchanged. No label
//! can have a value that a caller invents: methods, codes and reasons are closed sets. The buckets suit language
//! models: replies take seconds to minutes, tokens milliseconds.

pub(super) mod calls;
pub mod figures;

use std::{
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use prometheus::{
    Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
    proto::MetricFamily,
};

use tokio::time::Instant;

use self::calls::{Durations, EndedCalls};
use super::{
    Method,
    callers::CallerMetrics,
    failed::FailedCalls,
    logs,
    process::Process,
    register::Register,
    runtime::Runtime,
    state::State,
    traces::{Traces, dropped_spans},
};
use crate::{admission::Admission, call::reason::Reason};

/// How long a rate limit reported by the upstream is valid: the upstream counts the last 60 s.
const RATE_LIMIT_WINDOW: Duration = Duration::from_secs(60);
const METHOD: [&str; 3] = ["grpc_type", "grpc_service", "grpc_method"];
const HANDLED: [&str; 4] = ["grpc_type", "grpc_service", "grpc_method", "grpc_code"];
/// Seconds per call.
const CALL_BUCKETS: [f64; 14] = [
    0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 120.0, 300.0,
];
/// Seconds to the first token.
const FIRST_TOKEN_BUCKETS: [f64; 12] = [
    0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0,
];
/// Seconds between two tokens.
const INTER_TOKEN_BUCKETS: [f64; 11] = [
    0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0,
];

/// All metrics of one server.
#[derive(Debug)]
pub struct Metrics {
    /// The bridge's own state.
    pub state: State,
    /// The metrics of each caller.
    pub callers: CallerMetrics,
    process: Process,
    pub(super) runtime: Runtime,
    /// The last failed calls, for the admin page.
    pub failed_calls: FailedCalls,
    registry: Registry,
    calls: Calls,
    tokens: Tokens,
    ratelimit_remaining: IntGaugeVec,
    ratelimit_reported: Mutex<Option<Instant>>,
    open_calls: IntGauge,
    max_calls: IntGauge,
    upstream_up: IntGauge,
    dropped_lines: IntCounter,
    dropped_reported: AtomicU64,
    exports_failed: IntCounter,
    created: SystemTime,
}

/// Calls by method, and those that failed.
#[derive(Debug)]
struct Calls {
    started: [IntCounter; Method::ALL.len()],
    ended: EndedCalls,
    received: [IntCounter; Method::OURS.len()],
    sent: [IntCounter; Method::OURS.len()],
    failures: [IntCounter; Reason::ALL.len()],
    caller_cancelled: IntCounter,
}

/// The tokens of all streams.
#[derive(Debug)]
struct Tokens {
    first: Histogram,
    gap: Histogram,
    count: IntCounter,
}

impl Metrics {
    /// Registers all metrics in a new registry.
    ///
    /// # Errors
    ///
    /// - [`prometheus::Error`] if two metrics have the same name.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let new = Register(&registry);
        let build = Opts::new(
            "alim_bridge_build_info",
            "Always 1. The label has the version.",
        );
        let build = build.const_label("version", env!("CARGO_PKG_VERSION"));
        new.add(IntGauge::with_opts(build))?.set(1);
        Ok(Self {
            state: State::new(&new)?,
            callers: CallerMetrics::new(&new)?,
            process: Process::new(&new)?,
            runtime: Runtime::new(&new)?,
            failed_calls: FailedCalls::default(),
            calls: Calls::new(&new)?,
            tokens: Tokens::new(&new)?,
            ratelimit_remaining: new.gauges(
                "alim_bridge_upstream_ratelimit_remaining",
                "Requests left for the bridge's own key, as last reported by the upstream. Absent if it reported nothing for 60 s.",
                &[],
            )?,
            ratelimit_reported: Mutex::default(),
            open_calls: new.gauge("alim_bridge_open_calls", "Calls that hold a permit.")?,
            max_calls: new.gauge("alim_bridge_max_calls", "The setting MAX_CALLS.")?,
            upstream_up: new.gauge(
                "alim_bridge_upstream_up",
                "1 while the upstream is healthy, judged by probes and by calls.",
            )?,
            dropped_lines: new.counter(
                "alim_bridge_log_lines_dropped_total",
                "Log lines dropped because their reader was too slow.",
            )?,
            dropped_reported: AtomicU64::new(0),
            exports_failed: new.counter(
                "alim_bridge_metric_exports_failed_total",
                "Exports of metrics by OTLP that the collector did not take.",
            )?,
            created: SystemTime::now(),
            registry,
        })
    }

    /// Exports how many spans are lost: none if no spans are sent.
    ///
    /// # Errors
    ///
    /// - [`prometheus::Error`] if this was called before.
    pub fn count_spans(&self, traces: Option<&Traces>) -> Result<(), prometheus::Error> {
        let dropped = traces.map_or_else(dropped_spans, |traces| traces.dropped().clone());
        self.registry.register(Box::new(dropped))
    }

    /// Renders all metrics in Prometheus' text format.
    ///
    /// # Errors
    ///
    /// - [`prometheus::Error`] if a metric can't be rendered.
    pub fn render(&self, admission: &Admission) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.gather(admission))
    }

    /// Reads all metrics.
    pub(crate) fn gather(&self, admission: &Admission) -> Vec<MetricFamily> {
        let set = |gauge: &IntGauge, calls| gauge.set(i64::try_from(calls).unwrap_or(i64::MAX));
        set(&self.open_calls, admission.open_calls());
        set(&self.max_calls, admission.limit());
        self.process.update();
        self.runtime.update();
        self.expire_ratelimit();
        let dropped = logs::dropped_lines();
        let reported = self.dropped_reported.fetch_max(dropped, Ordering::Relaxed);
        self.dropped_lines.inc_by(dropped.saturating_sub(reported));
        self.registry.gather()
    }

    /// When all counters were 0.
    pub(super) fn created(&self) -> SystemTime {
        self.created
    }

    /// Counts an export of metrics that failed.
    pub(super) fn export_failed(&self) {
        self.exports_failed.inc();
    }

    /// The durations of calls by method and code.
    pub(super) fn durations(&self) -> impl Iterator<Item = Durations> {
        self.calls.ended.durations()
    }

    /// Records whether the upstream is healthy.
    pub fn upstream_up(&self, is_up: bool) {
        self.upstream_up.set(is_up.into());
    }

    /// Whether the upstream is healthy. False until that is known.
    pub fn is_upstream_up(&self) -> bool {
        self.upstream_up.get() == 1
    }

    pub(super) fn started(&self, method: Method) {
        self.calls.started[method as usize].inc();
    }

    pub(super) fn handled(&self, method: Method, code: i32, duration: Duration) {
        self.calls.ended.ended(method, code, duration.as_secs_f64());
    }

    pub(super) fn message_received(&self, method: Method) {
        if let Some(received) = self.calls.received.get(method as usize) {
            received.inc();
        }
    }

    pub(super) fn message_sent(&self, method: Method) {
        if let Some(sent) = self.calls.sent.get(method as usize) {
            sent.inc();
        }
    }

    pub(super) fn first_token(&self, after: Duration) {
        self.tokens.first.observe(after.as_secs_f64());
    }

    pub(super) fn token(&self, gap: Option<Duration>) {
        self.tokens.count.inc();
        if let Some(gap) = gap {
            self.tokens.gap.observe(gap.as_secs_f64());
        }
    }

    pub(super) fn failed(&self, reason: Reason) {
        self.calls.failures[reason as usize].inc();
    }

    pub(super) fn caller_cancelled(&self) {
        self.calls.caller_cancelled.inc();
    }

    pub(super) fn ratelimit_remaining(&self, left: u32) {
        let gauge = self.ratelimit_remaining.with_label_values::<&str>(&[]);
        gauge.set(left.into());
        *self.ratelimit_reported() = Some(Instant::now());
    }

    fn expire_ratelimit(&self) {
        let mut reported = self.ratelimit_reported();
        if reported.is_some_and(|reported| reported.elapsed() >= RATE_LIMIT_WINDOW) {
            *reported = None;
            self.ratelimit_remaining.reset();
        }
    }

    fn ratelimit_reported(&self) -> MutexGuard<'_, Option<Instant>> {
        let reported = self.ratelimit_reported.lock();
        reported.unwrap_or_else(|held| held.into_inner())
    }
}

impl Calls {
    fn new(new: &Register<'_>) -> Result<Self, prometheus::Error> {
        let by_method = |name, help| new.counters(name, help, &METHOD);
        let started = by_method("grpc_server_started_total", "Calls started.")?;
        let received = by_method(
            "grpc_server_msg_received_total",
            "Messages received from callers.",
        )?;
        let sent = by_method("grpc_server_msg_sent_total", "Messages sent to callers.")?;
        let failures = new.counters(
            "alim_bridge_failures_total",
            "Calls that failed, without health and reflection, by the reason in the log. Each reason exists from the start.",
            &["reason"],
        )?;
        let of =
            |counters: &IntCounterVec, method: Method| counters.with_label_values(&method.labels());
        Ok(Self {
            started: Method::ALL.map(|method| of(&started, method)),
            ended: new.add(EndedCalls::new())?,
            received: Method::OURS.map(|method| of(&received, method)),
            sent: Method::OURS.map(|method| of(&sent, method)),
            failures: Reason::ALL.map(|reason| failures.with_label_values(&[reason.name()])),
            caller_cancelled: new.counter(
                "alim_bridge_caller_cancelled_total",
                "Calls whose caller left before the end, without health and reflection.",
            )?,
        })
    }
}

impl Tokens {
    fn new(new: &Register<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            first: new.seconds(
                "alim_bridge_time_to_first_token_seconds",
                "From a stream's start to its first token.",
                &FIRST_TOKEN_BUCKETS,
            )?,
            gap: new.seconds(
                "alim_bridge_inter_token_seconds",
                "Between two tokens of a stream.",
                &INTER_TOKEN_BUCKETS,
            )?,
            count: new.counter("alim_bridge_tokens_total", "Tokens sent to callers.")?,
        })
    }
}
