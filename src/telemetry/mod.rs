//! What the people on call see: one log record and one set of metrics a call, written at its end.
//!
//! [`Ongoing`] lives as long as the call, its body included; whatever way the call ends, it writes the
//! record then, so a caller who leaves is recorded too (as Canceled). It holds no text of a
//! message and no key. Names are fixed: dashboards and alerts rely on them.

pub mod logs;
pub mod metrics;

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::time::Instant;

use self::metrics::Metrics;

/// The methods that calls are counted under; a bounded set, whatever callers send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// `alim.v1.GraphService/Invoke`
    Invoke,
    /// `alim.v1.GraphService/Stream`
    Stream,
    /// `grpc.health.v1.Health/Check`
    HealthCheck,
    /// `grpc.health.v1.Health/Watch`
    HealthWatch,
    /// `ServerReflectionInfo` of either version
    Reflection,
    /// Anything else
    Unknown,
}

impl Method {
    /// The method that an HTTP/2 path names.
    pub fn of(path: &str) -> Self {
        match path {
            "/alim.v1.GraphService/Invoke" => Self::Invoke,
            "/alim.v1.GraphService/Stream" => Self::Stream,
            "/grpc.health.v1.Health/Check" => Self::HealthCheck,
            "/grpc.health.v1.Health/Watch" => Self::HealthWatch,
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
            | "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" => Self::Reflection,
            _ => Self::Unknown,
        }
    }

    /// The labels `grpc_type`, `grpc_service` and `grpc_method`.
    pub fn labels(self) -> [&'static str; 3] {
        match self {
            Self::Invoke => ["unary", "alim.v1.GraphService", "Invoke"],
            Self::Stream => ["server_stream", "alim.v1.GraphService", "Stream"],
            Self::HealthCheck => ["unary", "grpc.health.v1.Health", "Check"],
            Self::HealthWatch => ["server_stream", "grpc.health.v1.Health", "Watch"],
            Self::Reflection => ["bidi_stream", "grpc.reflection", "ServerReflectionInfo"],
            Self::Unknown => ["unknown", "unknown", "unknown"],
        }
    }

    /// Whether this is the product's own work, and not a probe's or a tool's.
    pub fn is_graph(self) -> bool {
        matches!(self, Self::Invoke | Self::Stream)
    }
}

/// A call that is going on; dropping it ends the call and writes its record.
#[derive(Debug)]
pub struct Ongoing(Record);

/// Where a call's parts note what will be recorded; clones share it.
#[derive(Clone, Debug)]
pub struct Record(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    method: Method,
    request_id: String,
    trace_id: Option<String>,
    started: Instant,
    metrics: Arc<Metrics>,
    notes: Mutex<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    code: Option<i32>,
    reason: Option<&'static str>,
    caller: Option<String>,
    upstream_status: Option<u16>,
    first_token: Option<Duration>,
    tokens: u64,
}

impl Ongoing {
    /// Begins a call; it starts now.
    pub fn begin(
        metrics: Arc<Metrics>,
        method: Method,
        request_id: String,
        trace_id: Option<String>,
    ) -> Self {
        metrics.started(method);
        Self(Record(Arc::new(Inner {
            method,
            request_id,
            trace_id,
            started: Instant::now(),
            metrics,
            notes: Mutex::default(),
        })))
    }

    /// Where to note what happens.
    pub fn record(&self) -> &Record {
        &self.0
    }
}

impl Record {
    /// When the call started; all its clocks count from here.
    pub fn started(&self) -> Instant {
        self.0.started
    }

    /// Names the caller, by the name that stands beside its key.
    pub fn caller(&self, name: &str) {
        self.notes().caller = Some(name.to_owned());
    }

    /// Notes the status of the upstream's head.
    pub fn upstream_status(&self, status: u16) {
        self.notes().upstream_status = Some(status);
    }

    /// Notes what the upstream lets the key do yet, where it tells.
    pub fn ratelimit_remaining(&self, left: u32) {
        self.0.metrics.ratelimit_remaining(left);
    }

    /// Notes a message sent to the caller.
    pub fn message_sent(&self) {
        self.0.metrics.message_sent(self.0.method);
    }

    /// Notes a token; `gap` is the time since the one before.
    pub fn token(&self, gap: Option<Duration>) {
        self.0.metrics.token(gap);
    }

    /// Notes what a stream has sent so far.
    pub fn progress(&self, tokens: u64, first_token: Option<Duration>) {
        let mut notes = self.notes();
        (notes.tokens, notes.first_token) = (tokens, first_token);
    }

    /// Notes why the call failed; the first reason stays.
    pub fn failed(&self, reason: &'static str) {
        let mut notes = self.notes();
        if notes.reason.is_none() {
            notes.reason = Some(reason);
            self.0.metrics.failed(reason);
        }
    }

    /// Notes the gRPC status code that went to the caller; without one the caller left before.
    pub fn status(&self, code: i32) {
        self.notes().code = Some(code);
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.notes.lock().unwrap_or_else(|held| held.into_inner())
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        let call = &*self.0.0;
        let notes = self.0.notes();
        let duration = call.started.elapsed();
        let code = code_name(notes.code.unwrap_or(CANCELLED));
        call.metrics.handled(call.method, code, duration);
        if let Some(first_token) = notes.first_token {
            call.metrics.first_token(first_token);
        }
        if call.method.is_graph() && notes.code.is_none() && notes.reason.is_none() {
            call.metrics.caller_cancelled();
        }
        logs::call(&logs::Call {
            method: call.method,
            code,
            reason: notes.reason,
            upstream_status: notes.upstream_status,
            duration,
            first_token: notes.first_token,
            tokens: notes.tokens,
            request_id: &call.request_id,
            trace_id: call.trace_id.as_deref(),
            caller: notes.caller.as_deref(),
        });
    }
}

const CANCELLED: i32 = 1;

/// gRPC's codes in Go's spelling, which public dashboards expect.
fn code_name(code: i32) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ];
    let index = usize::try_from(code).unwrap_or(usize::MAX);
    NAMES.get(index).copied().unwrap_or("Unknown")
}

/// The trace id of a W3C `traceparent` (Trace Context, 3.2.2): 32 hex digits, not all zero.
pub fn trace_id(traceparent: &str) -> Option<String> {
    let id = traceparent.split('-').nth(1)?;
    let is_hex = id
        .bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let fits = id.len() == 32 && is_hex && id.bytes().any(|byte| byte != b'0');
    fits.then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_id_is_taken_only_from_a_well_formed_traceparent() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        let parent = format!("00-{id}-00f067aa0ba902b7-01");
        assert_eq!(trace_id(&parent).as_deref(), Some(id));
        assert_eq!(
            trace_id("00-00000000000000000000000000000000-00f067aa0ba902b7-01"),
            None
        );
        assert_eq!(trace_id("rubbish"), None);
    }

    #[test]
    fn codes_are_spelt_as_go_spells_them() {
        assert_eq!(code_name(1), "Canceled");
        assert_eq!(code_name(16), "Unauthenticated");
        assert_eq!(code_name(99), "Unknown");
    }
}
