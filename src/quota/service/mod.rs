//! The rate limit service, by which several bridges share the quota of an upstream key: `envoy.service.ratelimit.v3`.
//!
//! Each call that has its turn asks once, over one connection that all share. It waits for at most 50 ms. If the service fails,
//! nobody asks for a second; then one call asks, and the others go on without it. The service counts what it admits, so a
//! request that is admitted but never sent counts too.

#[cfg(test)]
mod fake;
pub(super) mod pace;
#[cfg(test)]
mod tests;

use std::{
    fmt::Write,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::HeaderMap;
use tokio::time::{Instant, timeout};
use tonic::{
    Code, Request, Status,
    metadata::MetadataMap,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};
use url::Url;

use self::pace::Left;
use super::{SERVICE, UpstreamKey};
use crate::pb::rate_limit::{
    RateLimitDescriptor, RateLimitRequest, RateLimitResponse,
    rate_limit_descriptor::Entry,
    rate_limit_response::{Code as Decision, DescriptorStatus},
    rate_limit_service_client::RateLimitServiceClient,
};

/// From a call's turn to the answer of the service.
pub(super) const TIMEOUT: Duration = Duration::from_millis(50);
/// From a failure until the service is asked again.
const BACKOFF: Duration = Duration::from_secs(1);
/// The part of the service's configuration that is the bridge's.
const DOMAIN: &str = "alim-bridge";
/// To connect, TLS included. Calls do not wait that long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// PINGs find out that the service has vanished without a FIN.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum size of an answer in bytes. A usual one has about 40.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// How long a key is stopped if the service does not say.
const DEFAULT_STOP: Duration = Duration::from_secs(1);
/// The longest time that the service can stop a key: its longest window is shorter than this or is asked for again.
const MAX_STOP: Duration = Duration::from_secs(24 * 3600);

/// Where the service is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its URL, `http` or `https`.
    pub url: Url,
    /// Certificate authorities in PEM that replace the system's.
    pub ca_pem: Option<Vec<u8>>,
}

/// The client can't be set up.
#[derive(Debug, thiserror::Error)]
#[error("the client of the rate limit service can't be set up")]
pub struct SetupError(#[from] tonic::transport::Error);

/// The result of a question to the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The call was admitted.
    Ok,
    /// A limit is reached.
    OverLimit,
    /// The service answered with an error or nonsense, or there was no connection.
    Error,
    /// There was no answer in time.
    Timeout,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ok, Self::OverLimit, Self::Error, Self::Timeout];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::OverLimit => "over_limit",
            Self::Error => "error",
            Self::Timeout => "timeout",
        }
    }
}

/// The state of the service, for metrics.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Whether its last answer was of use.
    pub is_up: bool,
    /// How often it was asked, in the order of [`Outcome::ALL`].
    pub asked: [u64; Outcome::ALL.len()],
}

/// What the service decides about a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Admitted(Option<Left>),
    /// The key, the caller or both are over their limit for so long.
    Over {
        key: Option<Duration>,
        caller: Option<Duration>,
    },
    /// It is not known.
    Failed,
}

/// Whether the service can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Availability {
    Up,
    /// It has failed. It is not asked before this time.
    Down(Instant),
}

/// How a call can learn whether it is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// It asks.
    Ask,
    /// It asks whether the service is back. The call must then [end the try](Service::end_try).
    Try,
    /// It does not ask.
    Alone,
}

/// The client of the service.
#[derive(Debug)]
pub(super) struct Service {
    client: RateLimitServiceClient<Channel>,
    name: String,
    outage: Mutex<Option<Outage>>,
    asked: [AtomicU64; Outcome::ALL.len()],
}

/// The service fails.
#[derive(Clone, Copy, Debug)]
struct Outage {
    retry_at: Instant,
    /// Whether a call asks if it is back.
    is_tried: bool,
}

impl Service {
    /// A client that connects when the first call asks. Call it within a tokio runtime.
    pub(super) fn new(settings: &Settings) -> Result<Self, SetupError> {
        let mut endpoint = Endpoint::from_shared(settings.url.to_string())?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        if settings.url.scheme() == "https" {
            let tls = ClientTlsConfig::new();
            endpoint = endpoint.tls_config(match &settings.ca_pem {
                Some(pem) => tls.ca_certificate(Certificate::from_pem(pem)),
                None => tls.with_enabled_roots(),
            })?;
        }
        Ok(Self::over(
            endpoint.connect_lazy(),
            settings.url.to_string(),
        ))
    }

    pub(super) fn over(channel: Channel, name: String) -> Self {
        let client = RateLimitServiceClient::new(channel);
        Self {
            client: client.max_decoding_message_size(MAX_ANSWER_BYTES),
            name,
            outage: Mutex::new(None),
            asked: Default::default(),
        }
    }

    /// Asks whether the key and the caller may send this many requests. `trace` has the call's trace context.
    pub(super) async fn ask(
        &self,
        key: &UpstreamKey,
        caller: &str,
        requests: u32,
        trace: &HeaderMap,
    ) -> Verdict {
        let mut request = Request::from_parts(
            MetadataMap::from_headers(trace.clone()),
            tonic::Extensions::default(),
            question(key, caller, requests),
        );
        request.set_timeout(TIMEOUT);
        let mut client = self.client.clone();
        let answer = timeout(TIMEOUT, client.should_rate_limit(request)).await;
        let now = Instant::now();
        let judged = match answer {
            Ok(Ok(response)) => judge(response.get_ref(), now),
            Ok(Err(status)) => Err(failure(&status)),
            Err(_) => Err((Outcome::Timeout, "no answer in time".into())),
        };
        let outcome = match &judged {
            Ok(Verdict::Over { .. }) => Outcome::OverLimit,
            Ok(_) => Outcome::Ok,
            Err((outcome, _)) => *outcome,
        };
        self.asked[outcome as usize].fetch_add(1, Ordering::Relaxed);
        self.record(judged.as_ref().err().map(|(_, cause)| &**cause), now);
        judged.unwrap_or(Verdict::Failed)
    }

    /// How a call that has its turn now learns whether it is admitted.
    pub(super) fn way(&self, now: Instant) -> Way {
        match &mut *self.outage() {
            None => Way::Ask,
            Some(outage) if outage.retry_at <= now && !outage.is_tried => {
                outage.is_tried = true;
                Way::Try
            }
            Some(_) => Way::Alone,
        }
    }

    /// Ends the try of a call, whether it got an answer or not.
    pub(super) fn end_try(&self) {
        if let Some(outage) = &mut *self.outage() {
            outage.is_tried = false;
        }
    }

    /// Whether the service can be asked, as far as is known.
    pub(super) fn availability(&self, now: Instant) -> Availability {
        match *self.outage() {
            None => Availability::Up,
            Some(outage) if outage.is_tried => {
                Availability::Down(outage.retry_at.max(now + TIMEOUT))
            }
            Some(outage) => Availability::Down(outage.retry_at.max(now)),
        }
    }

    pub(super) fn report(&self) -> Report {
        Report {
            is_up: self.outage().is_none(),
            asked: std::array::from_fn(|at| self.asked[at].load(Ordering::Relaxed)),
        }
    }

    fn record(&self, failed: Option<&str>, now: Instant) {
        let mut outage = self.outage();
        let retry_at = now + BACKOFF;
        match (&mut *outage, failed) {
            (None, None) => {}
            (Some(_), None) => {
                *outage = None;
                tracing::info!(service = self.name, "the rate limit service answers again");
            }
            (Some(known), Some(_)) => known.retry_at = retry_at,
            (None, Some(cause)) => {
                *outage = Some(Outage {
                    retry_at,
                    is_tried: false,
                });
                tracing::warn!(
                    service = self.name,
                    cause,
                    "the rate limit service fails: calls go on within this bridge's share"
                );
            }
        }
    }

    fn outage(&self) -> MutexGuard<'_, Option<Outage>> {
        self.outage.lock().unwrap_or_else(|held| held.into_inner())
    }
}

/// One limit for the key, and one for the caller's part of it.
fn question(key: &UpstreamKey, caller: &str, requests: u32) -> RateLimitRequest {
    let key = Entry {
        key: "upstream_key".into(),
        value: key_name(key),
    };
    let mut descriptors = vec![RateLimitDescriptor {
        entries: vec![key.clone()],
    }];
    if !caller.is_empty() {
        let caller = Entry {
            key: "caller".into(),
            value: caller.into(),
        };
        descriptors.push(RateLimitDescriptor {
            entries: vec![key, caller],
        });
    }
    RateLimitRequest {
        domain: DOMAIN.into(),
        descriptors,
        hits_addend: requests,
    }
}

/// The name of a key towards the service, never the key itself.
fn key_name(key: &UpstreamKey) -> String {
    match key {
        UpstreamKey::Service => SERVICE.into(),
        UpstreamKey::OfCaller(name) => name.to_string(),
        UpstreamKey::Brought(hash) => {
            let mut name = String::from("sha256:");
            for byte in hash {
                write!(name, "{byte:02x}").expect("a string can be written");
            }
            name
        }
    }
}

type Failure = (Outcome, String);

fn judge(answer: &RateLimitResponse, now: Instant) -> Result<Verdict, Failure> {
    let over = |at: usize| {
        let status = answer.statuses.get(at)?;
        (status.code() == Decision::OverLimit).then(|| until_reset(status).unwrap_or(DEFAULT_STOP))
    };
    let left = |status: &DescriptorStatus| {
        status.current_limit.as_ref()?;
        Some(Left {
            requests: status.limit_remaining,
            until: Some(now + until_reset(status)?),
        })
    };
    match answer.overall_code() {
        Decision::Unknown => Err((Outcome::Error, "an answer without a decision".into())),
        Decision::Ok => Ok(Verdict::Admitted(answer.statuses.first().and_then(left))),
        Decision::OverLimit => Ok(match (over(0), over(1)) {
            (None, None) => Verdict::Over {
                key: Some(DEFAULT_STOP),
                caller: None,
            },
            (key, caller) => Verdict::Over { key, caller },
        }),
    }
}

fn until_reset(status: &DescriptorStatus) -> Option<Duration> {
    let reset = Duration::try_from(status.duration_until_reset?).ok()?;
    (!reset.is_zero()).then_some(reset.min(MAX_STOP))
}

/// The innermost cause. The outer ones say little.
fn failure(status: &Status) -> Failure {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    match status.code() {
        Code::DeadlineExceeded | Code::Cancelled => (Outcome::Timeout, text),
        _ => (Outcome::Error, text),
    }
}
