//! The bridge's own state in metrics, apart from calls: its drain, its connections, its files.
//!
//! Counters exist at 0 from the first scrape, so that `rate()` sees the first event. Series of files exist only if the bridge
//! watches such files.

use std::sync::Mutex;

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::register::Register;
use crate::{
    quota::{Report, service},
    reload::Outcome,
};

/// Why a connection was closed before it could carry a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionRejection {
    /// `MAX_CONNECTIONS` were open.
    Limit,
    /// `MAX_CONNECTIONS` were open. As the oldest without a call, it was closed for a new connection.
    Evicted,
    /// Its TLS handshake failed, or the peer closed it during the handshake.
    TlsFailed,
    /// Its TLS handshake took too long.
    TlsTimeout,
    /// Its preface took too long: HTTP/2's own, or the first head of HTTP/1.1.
    OpeningTimeout,
}

impl ConnectionRejection {
    const ALL: [Self; 5] = [
        Self::Limit,
        Self::Evicted,
        Self::TlsFailed,
        Self::TlsTimeout,
        Self::OpeningTimeout,
    ];

    fn cause(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Evicted => "evicted",
            Self::TlsFailed => "tls_failed",
            Self::TlsTimeout => "tls_timeout",
            Self::OpeningTimeout => "opening_timeout",
        }
    }
}

/// A listener of the bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerName {
    /// For callers.
    Grpc,
    /// For metrics, probes and the admin page.
    Admin,
}

impl ListenerName {
    const ALL: [Self; 2] = [Self::Grpc, Self::Admin];

    fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Admin => "admin",
        }
    }
}

/// An action taken because the process is near its memory limit or its limit of open files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverloadAction {
    /// A call was not admitted.
    ShedCall,
    /// A stalled call was reset: its caller did nothing.
    ResetStalledCall,
    /// A connection was closed as soon as it was accepted.
    RejectConnection,
}

impl OverloadAction {
    const ALL: [Self; 3] = [
        Self::ShedCall,
        Self::ResetStalledCall,
        Self::RejectConnection,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::ShedCall => "shed_call",
            Self::ResetStalledCall => "reset_stalled_call",
            Self::RejectConnection => "reject_connection",
        }
    }
}

/// Files that are reloaded when they change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Files {
    /// `TLS_CERT_FILE`, `TLS_KEY_FILE` and `TLS_CLIENT_CA_FILE`, which are reloaded together.
    Tls,
    /// `CALLERS_FILE`, and the upstream keys of callers that it names.
    Callers,
    /// `UPSTREAM_API_KEY_FILE`
    UpstreamKey,
    /// `ADMIN_TOKEN_FILE`
    AdminToken,
}

impl Files {
    fn name(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Callers => "callers",
            Self::UpstreamKey => "upstream_key",
            Self::AdminToken => "admin_token",
        }
    }
}

/// The metrics of a bridge's own state.
#[derive(Debug)]
pub struct State {
    draining: IntGauge,
    open_connections: IntGauge,
    max_connections: IntGauge,
    accept_errors: [IntCounter; ListenerName::ALL.len()],
    rejected_connections: [IntCounter; ConnectionRejection::ALL.len()],
    overload_actions: [IntCounter; OverloadAction::ALL.len()],
    buffered_bytes: IntGauge,
    memory_limit: IntGauge,
    reloads: IntCounterVec,
    last_reload: IntGaugeVec,
    expiry: IntGaugeVec,
    quota: Mutex<Quotas>,
}

/// The metrics of the upstream keys' quota. They exist only if it is on.
#[derive(Debug)]
struct Quotas {
    limit: IntGaugeVec,
    waiting: IntGaugeVec,
    remaining: IntGaugeVec,
    requests: IntCounterVec,
    /// These exist only with a rate limit service.
    service_up: IntGaugeVec,
    service_requests: IntCounterVec,
}

impl State {
    pub(super) fn new(new: &Register<'_>) -> prometheus::Result<Self> {
        let rejections = new.counters(
            "alim_bridge_refused_connections_total",
            "Connections closed before they could carry a call, by cause.",
            &["cause"],
        )?;
        let accept_errors = new.counters(
            "alim_bridge_accept_errors_total",
            "Connections that could not be accepted, for example because no file descriptor was free, by listener.",
            &["listener"],
        )?;
        let actions = new.counters(
            "alim_bridge_overload_actions_total",
            "Actions taken because the bridge was near a limit of its process.",
            &["action"],
        )?;
        Ok(Self {
            overload_actions: OverloadAction::ALL
                .map(|action| actions.with_label_values(&[action.name()])),
            buffered_bytes: new.gauge(
                "alim_bridge_buffered_bytes",
                "Bytes that calls hold: messages, replies, events, and buffers for them.",
            )?,
            memory_limit: new.gauge(
                "alim_bridge_memory_limit_bytes",
                "The setting MEMORY_LIMIT.",
            )?,
            draining: new.gauge("alim_bridge_draining", "1 after the stop signal.")?,
            open_connections: new.gauge(
                "alim_bridge_open_connections",
                "Connections of callers, including those in their TLS handshake.",
            )?,
            max_connections: new.gauge(
                "alim_bridge_max_connections",
                "The setting MAX_CONNECTIONS.",
            )?,
            accept_errors: ListenerName::ALL
                .map(|listener| accept_errors.with_label_values(&[listener.name()])),
            rejected_connections: ConnectionRejection::ALL
                .map(|rejection| rejections.with_label_values(&[rejection.cause()])),
            reloads: new.counters(
                "alim_bridge_file_reloads_total",
                "Reloads of watched files, by outcome.",
                &["files", "outcome"],
            )?,
            last_reload: new.gauges(
                "alim_bridge_file_last_reload_successful",
                "1 while the current contents of the files are in use, 0 while they can't be read or used.",
                &["files"],
            )?,
            expiry: new.gauges(
                "alim_bridge_tls_certificate_expiry_timestamp_seconds",
                "When the first certificate of the chain towards callers expires, in Unix time.",
                &[],
            )?,
            quota: Mutex::new(Quotas::new(new)?),
        })
    }

    /// Records the state of the quota. It holds a lock, because a concurrent update would count a request twice.
    pub fn quota(&self, report: &Report) {
        let quota = self.quota.lock().unwrap_or_else(|held| held.into_inner());
        let waiting = i64::try_from(report.waiting).unwrap_or(i64::MAX);
        quota
            .limit
            .with_label_values::<&str>(&[])
            .set(report.limit.into());
        quota.waiting.with_label_values::<&str>(&[]).set(waiting);
        for key in &report.keys {
            let remaining = quota.remaining.with_label_values(&[&*key.name]);
            remaining.set(key.remaining.into());
            let requests = quota.requests.with_label_values(&[&*key.name]);
            requests.inc_by(key.requests.saturating_sub(requests.get()));
        }
        if let Some(service) = &report.service {
            quota.service(service);
        }
    }

    /// Records whether the bridge drains.
    pub fn draining(&self, is_draining: bool) {
        self.draining.set(is_draining.into());
    }

    /// Records the number of open connections and its limit.
    pub fn connections(&self, open: usize, limit: usize) {
        let set = |gauge: &IntGauge, count| gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        set(&self.open_connections, open);
        set(&self.max_connections, limit);
    }

    /// Records the bytes that calls hold and the limit of the process.
    pub fn memory(&self, buffered: usize, limit: usize) {
        let set = |gauge: &IntGauge, bytes| gauge.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        set(&self.buffered_bytes, buffered);
        set(&self.memory_limit, limit);
    }

    /// Counts an action against overload.
    pub fn overloaded(&self, action: OverloadAction) {
        self.overload_actions[action as usize].inc();
    }

    /// Counts connections that the listener could not accept.
    pub fn accept_errors(&self, listener: ListenerName) -> IntCounter {
        self.accept_errors[listener as usize].clone()
    }

    /// Counts a rejected connection.
    pub fn connection_rejected(&self, rejection: ConnectionRejection) {
        self.rejected_connections[rejection as usize].inc();
    }

    /// Starts to count reloads of these files. Their initial contents are in use.
    pub fn watch(&self, files: Files) {
        self.last_reload.with_label_values(&[files.name()]).set(1);
        for outcome in [Outcome::TakenOver, Outcome::Failed] {
            self.reloads(files, outcome);
        }
    }

    /// Counts a reload of these files.
    pub fn reloaded(&self, files: Files, outcome: Outcome) {
        let is_good = outcome == Outcome::TakenOver;
        let last = self.last_reload.with_label_values(&[files.name()]);
        last.set(is_good.into());
        self.reloads(files, outcome).inc();
    }

    /// Records when the certificate chain towards callers expires, in Unix time. `None` if that can't be read.
    pub fn set_certificate_expiry(&self, at: Option<i64>) {
        match at {
            Some(at) => self.expiry.with_label_values::<&str>(&[]).set(at),
            None => self.expiry.reset(),
        }
    }

    fn reloads(&self, files: Files, outcome: Outcome) -> IntCounter {
        let outcome = match outcome {
            Outcome::TakenOver => "taken_over",
            Outcome::Failed => "failed",
        };
        self.reloads.with_label_values(&[files.name(), outcome])
    }
}

impl Quotas {
    fn new(new: &Register<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            limit: new.gauges(
                "alim_bridge_quota_limit",
                "The requests per window of UPSTREAM_QUOTA that this bridge may send. All quota metrics are absent if it is off.",
                &[],
            )?,
            waiting: new.gauges(
                "alim_bridge_quota_waiting_calls",
                "Calls that wait in the quota's queue, for at most QUOTA_WAIT.",
                &[],
            )?,
            remaining: new.gauges(
                "alim_bridge_quota_remaining",
                "Requests that the quota allows now for an upstream key of the bridge, by the key's name.",
                &["upstream_key"],
            )?,
            requests: new.counters(
                "alim_bridge_quota_requests_total",
                "Requests that counted against the quota of an upstream key of the bridge, by the key's name.",
                &["upstream_key"],
            )?,
            service_up: new.gauges(
                "alim_bridge_quota_service_up",
                "1 if the last answer of QUOTA_SERVICE was of use, 0 while calls go on within the bridge's own share.",
                &[],
            )?,
            service_requests: new.counters(
                "alim_bridge_quota_service_requests_total",
                "Questions to QUOTA_SERVICE, by result: ok, over_limit, error, timeout.",
                &["result"],
            )?,
        })
    }

    fn service(&self, report: &service::Report) {
        let up = self.service_up.with_label_values::<&str>(&[]);
        up.set(report.is_up.into());
        for (outcome, asked) in service::Outcome::ALL.iter().zip(report.asked) {
            let counter = self.service_requests.with_label_values(&[outcome.name()]);
            counter.inc_by(asked.saturating_sub(counter.get()));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{admission::Admission, telemetry::metrics::Metrics};

    #[test]
    fn an_unreadable_certificate_expiry_removes_the_previous_one() {
        let metrics = Metrics::new().expect("fresh");
        let end = "alim_bridge_tls_certificate_expiry_timestamp_seconds 1800000000\n";
        for (at, is_exported) in [(None, false), (Some(1_800_000_000), true), (None, false)] {
            metrics.state.set_certificate_expiry(at);
            let text = metrics.render(&Admission::new(1)).expect("text");
            assert_eq!(text.contains(end), is_exported, "{text}");
            assert_eq!(text.contains("certificate_expiry"), is_exported, "{text}");
        }
    }
}
