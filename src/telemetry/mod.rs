//! What operators see: one log record and one set of metrics per call, written at the call's end.
//!
//! [`Ongoing`] lives as long as the call, its response body included. However the call ends, dropping it writes the record.
//! So a caller that leaves is recorded too (as Canceled), and so is one that does not read. The record contains no text of
//! a message and no key. Metric and field names are stable, because dashboards and alerts depend on them.

pub mod access;
pub mod callers;
mod codes;
pub mod failed;
mod fields;
pub mod log_filter;
pub mod logs;
mod method;
pub mod metrics;
pub mod otlp;
mod process;
mod register;
mod resource;
pub mod runtime;
mod spans;
pub mod state;
#[cfg(test)]
mod tests;
mod throttle;
pub mod traces;
mod view;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use http::HeaderMap;
use opentelemetry::KeyValue;
use tokio::time::Instant;

pub use self::method::Method;
pub(crate) use self::throttle::Warning;
use self::{
    codes::{CANCELLED, DEADLINE_EXCEEDED},
    metrics::Metrics,
    throttle::Throttle,
    traces::Trace,
};
use crate::call::{ThreadId, reason::Reason};

/// Log records a second for calls rejected before their caller was identified. Anyone who reaches the port can cause them.
static UNIDENTIFIED: Throttle<10> = Throttle::new();

/// If a caller leaves within this time before its deadline, its own timer ended the call just before the bridge's would have.
const DEADLINE_TOLERANCE: Duration = Duration::from_millis(100);

/// An open call. Dropping it ends the call and writes its record.
#[derive(Debug)]
pub struct Ongoing(Record);

/// The record of a call, which the parts of the call fill in. Clones share it.
#[derive(Clone, Debug)]
pub struct Record(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    method: Method,
    request_id: String,
    trace: Trace,
    started: Instant,
    metrics: Arc<Metrics>,
    tokens: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    first_token: OnceLock<Duration>,
    was_upstream_asked: AtomicBool,
    caller_deadline: OnceLock<Instant>,
    thread: OnceLock<ThreadId>,
    notes: Mutex<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    code: Option<i32>,
    reason: Option<Reason>,
    caller: Option<Arc<str>>,
    caller_series: Option<Arc<callers::Series>>,
    peer: Option<SocketAddr>,
    has_left: bool,
    is_identified: bool,
    upstream_status: Option<u16>,
    upstream_request_id: Option<String>,
}

impl Ongoing {
    /// Begins a call that starts now.
    pub fn begin(metrics: Arc<Metrics>, method: Method, request_id: String, trace: Trace) -> Self {
        metrics.started(method);
        Self(Record(Arc::new(Inner {
            method,
            request_id,
            trace,
            started: Instant::now(),
            metrics,
            tokens: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            first_token: OnceLock::new(),
            was_upstream_asked: AtomicBool::new(false),
            caller_deadline: OnceLock::new(),
            thread: OnceLock::new(),
            notes: Mutex::default(),
        })))
    }

    /// The record to fill in.
    pub fn record(&self) -> &Record {
        &self.0
    }
}

impl Record {
    /// When the call started. All its durations count from here.
    pub fn started(&self) -> Instant {
        self.0.started
    }

    /// Records the caller's deadline.
    pub fn caller_deadline(&self, at: Instant) {
        self.0.caller_deadline.get_or_init(|| at);
    }

    /// The time until the caller's deadline. `None` if it sent no deadline.
    pub fn time_left(&self) -> Option<Duration> {
        let at = self.0.caller_deadline.get()?;
        Some(at.saturating_duration_since(Instant::now()))
    }

    /// Records that the call's head was accepted and its caller identified. The call's spans begin. A call without this has no
    /// span; at most ten records a second of such calls are logged, at debug.
    pub fn identified(&self) {
        self.notes().is_identified = true;
        self.0.trace.start();
    }

    /// Records the conversation of a stream, if known.
    pub fn thread(&self, id: Option<ThreadId>) {
        if let Some(id) = id {
            self.0.thread.get_or_init(|| id);
        }
    }

    /// The conversation of a stream, if known.
    pub fn thread_id(&self) -> Option<ThreadId> {
        self.0.thread.get().copied()
    }

    /// Records the caller by its name in the callers file.
    pub fn caller(&self, name: &Arc<str>) {
        let is_counted = self.0.method.is_api_call();
        let mut notes = self.notes();
        notes.caller = Some(Arc::clone(name));
        notes.caller_series = is_counted.then(|| self.0.metrics.callers.started(name));
    }
    /// Records the peer of the call's connection.
    pub fn peer(&self, peer: SocketAddr) {
        self.notes().peer = Some(peer);
    }

    /// The id of the call in logs and towards the upstream.
    pub fn request_id(&self) -> &str {
        &self.0.request_id
    }

    /// The trace that the call belongs to, if any.
    pub fn trace_id(&self) -> Option<&str> {
        self.0.trace.id()
    }

    /// Records that a request is sent to the upstream, and adds the call's trace context to the request's `headers`.
    pub fn upstream_asked(&self, headers: &mut HeaderMap) {
        self.0.was_upstream_asked.store(true, Ordering::Relaxed);
        self.0.trace.begin_upstream(headers);
    }

    /// The call's trace context for a request that is made for it: that of its server span, else the caller's own in `headers`.
    pub fn trace_context(&self, headers: &HeaderMap) -> HeaderMap {
        self.0.trace.context(headers)
    }

    /// Whether the call may have reached the upstream.
    pub fn was_upstream_asked(&self) -> bool {
        self.0.was_upstream_asked.load(Ordering::Relaxed)
    }

    /// Records the status of the upstream's head.
    pub fn upstream_status(&self, status: u16) {
        self.notes().upstream_status = Some(status);
        self.0.trace.upstream_status(status);
    }

    /// Records the upstream's own id of the call.
    pub fn upstream_request_id(&self, id: &str) {
        self.notes().upstream_request_id = Some(id.to_owned());
    }

    /// Records that the upstream's response is complete, or that it failed.
    pub fn upstream_over(&self) {
        let reason = self.notes().reason;
        let answer = || answer_attributes(&self.0);
        self.0.trace.upstream_over(reason.map(Reason::name), answer);
    }

    /// Records the requests that the upstream still allows the key, if it reports them.
    pub fn ratelimit_remaining(&self, left: u32) {
        self.0.metrics.ratelimit_remaining(left);
    }

    /// Records the caller's message; `bytes` is its decompressed size.
    pub fn message_received(&self, bytes: usize) {
        self.0.metrics.message_received(self.0.method);
        self.0.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Records bytes of messages sent to the caller, as framed and compressed.
    pub fn bytes_sent(&self, bytes: usize) {
        self.0.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Records a message sent to the caller.
    pub fn message_sent(&self) {
        self.0.metrics.message_sent(self.0.method);
    }

    /// Records a token, `since_start` after the call's start. `gap` is the time since the previous token.
    pub fn token(&self, gap: Option<Duration>, since_start: Duration) {
        self.0.tokens.fetch_add(1, Ordering::Relaxed);
        if gap.is_none() {
            self.0.first_token.get_or_init(|| since_start);
            self.0.trace.event("first token");
        }
        self.0.metrics.token(gap);
    }

    /// Records that the upstream sent `done`.
    pub fn done(&self) {
        self.0.trace.event("done");
    }

    /// Records why the call failed. The first reason wins.
    pub fn failed(&self, reason: Reason) {
        self.notes().reason.get_or_insert(reason);
    }

    /// Records the gRPC status code sent to the caller. Without one, the caller left first.
    pub fn status(&self, code: i32) {
        self.notes().code = Some(code);
    }

    /// Records that the caller left before its message was complete. Any later response reaches nobody.
    pub fn caller_left(&self) {
        self.notes().has_left = true;
    }

    /// Records that the bridge aborted the call, whatever the caller sees of it.
    pub fn aborted(&self, code: i32, reason: Reason) {
        let mut notes = self.notes();
        notes.code = Some(code);
        notes.reason.get_or_insert(reason);
    }

    /// Writes the record at the end of the call's response body.
    fn end(&self) {
        let call = &*self.0;
        let mut notes = self.notes();
        if notes.has_left {
            notes.code = None;
        }
        let duration = call.started.elapsed();
        if notes.code.is_none()
            && self
                .time_left()
                .is_some_and(|left| left <= DEADLINE_TOLERANCE)
        {
            notes.code = Some(DEADLINE_EXCEEDED);
            notes.reason.get_or_insert(Reason::CallerDeadline);
        }
        let status = notes.code.unwrap_or(CANCELLED);
        let tokens = call.tokens.load(Ordering::Relaxed);
        let first_token = call.first_token.get().copied();
        let reason = notes.reason.map(Reason::name);
        call.trace.upstream_over(reason, || answer_attributes(call));
        call.trace
            .end(status, reason, || attributes(call, &notes, tokens));
        let code = codes::go_name(status);
        if let Some(reason) = notes.reason
            && call.method.is_api_call()
        {
            call.metrics.failed(reason);
            let ended = self.failed_call(&notes, code, reason, duration);
            call.metrics.failed_calls.add(ended, notes.is_identified);
        }
        if let Some(caller_series) = &notes.caller_series {
            call.metrics
                .callers
                .ended(caller_series, tokens, notes.reason);
        }
        call.metrics.handled(call.method, status, duration);
        if let Some(first_token) = first_token {
            call.metrics.first_token(first_token);
        }
        if call.method.is_ours() && notes.code.is_none() && notes.reason.is_none() {
            call.metrics.caller_cancelled();
        }
        if !notes.is_identified {
            if UNIDENTIFIED.admit(std::time::Instant::now()) {
                let peer = notes.peer.map(tracing::field::display);
                let id = call.request_id.as_str();
                tracing::debug!(target: "alim_bridge::call", reason, peer, request_id = id, "call ended");
            }
            return;
        }
        access::record(&access::Call {
            method: call.method,
            code,
            reason,
            upstream_status: notes.upstream_status,
            upstream_request_id: notes.upstream_request_id.as_deref(),
            duration,
            deadline: call.caller_deadline.get().map(|at| *at - call.started),
            first_token,
            tokens,
            bytes_in: call.bytes_in.load(Ordering::Relaxed),
            bytes_out: call.bytes_out.load(Ordering::Relaxed),
            request_id: &call.request_id,
            trace_id: call.trace.id(),
            caller: notes.caller.as_deref(),
            peer: notes.peer,
        });
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.notes.lock().unwrap_or_else(|held| held.into_inner())
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Attributes of the client span that are known at its end, in the conventions for generative AI.
fn answer_attributes(call: &Inner) -> impl Iterator<Item = KeyValue> {
    let is_generation = call.method.is_generation();
    let thread = call.thread.get().filter(|_| is_generation);
    let thread = thread.map(|id| KeyValue::new("gen_ai.conversation.id", id.to_string()));
    let first = call.first_token.get().map(Duration::as_secs_f64);
    let first = first.map(|it| KeyValue::new("gen_ai.response.time_to_first_chunk", it));
    [thread, first].into_iter().flatten()
}

/// Attributes of the server span in addition to those of the semantic conventions.
fn attributes(call: &Inner, notes: &Notes, tokens: u64) -> impl Iterator<Item = KeyValue> {
    let id = KeyValue::new("alim_bridge.request_id", call.request_id.clone());
    let caller = notes.caller.clone();
    let caller = caller.map(|name| KeyValue::new("alim_bridge.caller", name));
    let address = notes.peer.map(|peer| peer.ip().to_string());
    let address = address.map(|address| KeyValue::new("network.peer.address", address));
    let port = notes.peer.map(|peer| i64::from(peer.port()));
    let port = port.map(|port| KeyValue::new("network.peer.port", port));
    let tokens = i64::try_from(tokens).unwrap_or(i64::MAX);
    let tokens = (tokens > 0).then(|| KeyValue::new("alim_bridge.tokens", tokens));
    [Some(id), caller, address, port, tokens]
        .into_iter()
        .flatten()
}
