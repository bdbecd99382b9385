//! What a bridge tells of itself, beside its calls: its drain, its connections, its files.
//!
//! Counters are there at 0 from the first scrape, so that a first event is a rise; what belongs to files
//! is there only where such files are watched.

use std::sync::Mutex;

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::register::Register;
use crate::{quota::Report, reload::Outcome};

/// Why a connection was closed before a call could come over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionRejection {
    /// `MAX_CONNECTIONS` were open.
    Limit,
    /// `MAX_CONNECTIONS` were open, and it was the oldest without a call: it was closed for a newcomer.
    Evicted,
    /// Its TLS handshake failed, or it left within it.
    TlsFailed,
    /// Its TLS handshake took too long.
    TlsTimeout,
    /// Its opening took too long: HTTP/2's preface, or HTTP/1.1's first head.
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

/// What is done because the process is near its memory limit, or near its limit of open files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverloadAction {
    /// A call was not admitted.
    ShedCall,
    /// A call whose caller did nothing was reset.
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

/// Files that are read again when they change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Files {
    /// `TLS_CERT_FILE`, `TLS_KEY_FILE` and `TLS_CLIENT_CA_FILE`, which are taken over together.
    Tls,
    /// `CALLERS_FILE`, and the upstream keys of callers that it names.
    Callers,
    /// `UPSTREAM_API_KEY_FILE`
    UpstreamKey,
}

impl Files {
    fn name(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Callers => "callers",
            Self::UpstreamKey => "upstream_key",
        }
    }
}

/// The metrics of a bridge's own state.
#[derive(Debug)]
pub struct State {
    draining: IntGauge,
    open_connections: IntGauge,
    max_connections: IntGauge,
    refused: [IntCounter; ConnectionRejection::ALL.len()],
    overload_actions: [IntCounter; OverloadAction::ALL.len()],
    buffered_bytes: IntGauge,
    memory_limit: IntGauge,
    reloads: IntCounterVec,
    last_reload: IntGaugeVec,
    expiry: IntGaugeVec,
    quota: Mutex<Quotas>,
}

/// The metrics of the upstream keys' quota, which are not there while it is off.
#[derive(Debug)]
struct Quotas {
    limit: IntGaugeVec,
    waiting: IntGaugeVec,
    remaining: IntGaugeVec,
    requests: IntCounterVec,
}

impl State {
    pub(super) fn new(new: &Register<'_>) -> prometheus::Result<Self> {
        let refused = new.counters(
            "alim_bridge_refused_connections_total",
            "Connections closed before a call could come over them, by cause.",
            &["cause"],
        )?;
        let actions = new.counters(
            "alim_bridge_overload_actions_total",
            "What was done because the bridge was near a limit of its process, by action.",
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
            draining: new.gauge("alim_bridge_draining", "1 from the stop signal on.")?,
            open_connections: new.gauge(
                "alim_bridge_open_connections",
                "Connections of callers, TLS handshakes included.",
            )?,
            max_connections: new.gauge(
                "alim_bridge_max_connections",
                "The setting MAX_CONNECTIONS.",
            )?,
            refused: ConnectionRejection::ALL
                .map(|refusal| refused.with_label_values(&[refusal.cause()])),
            reloads: new.counters(
                "alim_bridge_file_reloads_total",
                "Changes of watched files, by whether they were taken over.",
                &["files", "outcome"],
            )?,
            last_reload: new.gauges(
                "alim_bridge_file_last_reload_successful",
                "1 while what is in use is what the files hold, 0 while they can't be read or used.",
                &["files"],
            )?,
            expiry: new.gauges(
                "alim_bridge_tls_certificate_expiry_timestamp_seconds",
                "When the first certificate of the chain that callers are shown ends, in Unix time.",
                &[],
            )?,
            quota: Mutex::new(Quotas::new(new)?),
        })
    }

    /// Notes what the quota is doing. One at a time may, or a request would count twice.
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
    }

    /// Notes whether the bridge drains.
    pub fn draining(&self, is_draining: bool) {
        self.draining.set(is_draining.into());
    }

    /// Notes how many connections are open, and how many may be.
    pub fn connections(&self, open: usize, limit: usize) {
        let set = |gauge: &IntGauge, count| gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        set(&self.open_connections, open);
        set(&self.max_connections, limit);
    }

    /// Notes how many bytes calls hold, and how many the process may use.
    pub fn memory(&self, buffered: usize, limit: usize) {
        let set = |gauge: &IntGauge, bytes| gauge.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        set(&self.buffered_bytes, buffered);
        set(&self.memory_limit, limit);
    }

    /// Counts an action against overload.
    pub fn overloaded(&self, action: OverloadAction) {
        self.overload_actions[action as usize].inc();
    }

    /// Counts a connection that was refused.
    pub fn refused(&self, refusal: ConnectionRejection) {
        self.refused[refusal as usize].inc();
    }

    /// Begins to count what becomes of these files' changes; what they held at the start is in use.
    pub fn watched(&self, files: Files) {
        self.last_reload.with_label_values(&[files.name()]).set(1);
        for outcome in [Outcome::TakenOver, Outcome::Failed] {
            self.reloads(files, outcome);
        }
    }

    /// Counts a change of these files.
    pub fn reloaded(&self, files: Files, outcome: Outcome) {
        let is_good = outcome == Outcome::TakenOver;
        let last = self.last_reload.with_label_values(&[files.name()]);
        last.set(is_good.into());
        self.reloads(files, outcome).inc();
    }

    /// Notes when the certificate chain that callers are shown ends, in Unix time; `None` where that can't be read.
    pub fn certificate_ends(&self, at: Option<i64>) {
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
                "The requests of UPSTREAM_QUOTA; absent where it is off, as all of the quota's.",
                &[],
            )?,
            waiting: new.gauges(
                "alim_bridge_quota_waiting_calls",
                "Calls that wait for their turn, for at most QUOTA_WAIT.",
                &[],
            )?,
            remaining: new.gauges(
                "alim_bridge_quota_remaining",
                "Requests that may be sent now with an upstream key of the bridge's, by the key's name.",
                &["upstream_key"],
            )?,
            requests: new.counters(
                "alim_bridge_quota_requests_total",
                "Requests sent with an upstream key of the bridge's that count against its quota, by the key's name.",
                &["upstream_key"],
            )?,
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::{admission::Admission, telemetry::metrics::Metrics};

    #[test]
    fn a_certificate_whose_end_can_not_be_read_takes_the_end_of_the_last_one_away() {
        let metrics = Metrics::new().expect("fresh");
        let end = "alim_bridge_tls_certificate_expiry_timestamp_seconds 1800000000\n";
        for (at, is_told) in [(None, false), (Some(1_800_000_000), true), (None, false)] {
            metrics.state.certificate_ends(at);
            let told = metrics.render(&Admission::new(1)).expect("text");
            assert_eq!(told.contains(end), is_told, "{told}");
            assert_eq!(told.contains("certificate_expiry"), is_told, "{told}");
        }
    }
}
