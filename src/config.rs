//! Settings: raw strings from flags and environment become [`Config`], all faults told at once.
//!
//! One table, [`SETTINGS`], is the source of the flags, of the environment's names, of the defaults
//! and of README's table. What was typed and what is meant are two types; the environment is handed
//! in, so tests never touch the real one.

mod memory;
mod names;
mod reader;
mod table;

use std::{net::SocketAddr, time::Duration};

use secrecy::SecretString;
use url::{Host, Url};

use self::reader::Reader;
pub use self::{
    reader::{Fault, Faults, Strings},
    table::{PREFIX, SETTINGS, Setting},
};
use crate::{
    callers::{Callers, OwnKeys},
    middleware::{origins::Origins, timeouts::Timeouts},
    quota,
    reload::Reload,
    server::{self, tls},
    status::Credentials,
    telemetry::{access::AccessLog, logs},
    upstream::{
        self, parse_key,
        sse::{self, framing::Framing},
    },
};

/// Everything that `serve` needs, valid.
#[derive(Debug)]
pub struct Config {
    /// Where gRPC is served.
    pub listen: SocketAddr,
    /// Where metrics and probes are served; `None` is nowhere.
    pub admin_listen: Option<SocketAddr>,
    /// How to serve.
    pub server: server::Settings,
    /// How to reach the upstream.
    pub upstream: upstream::Settings,
    /// What is logged, and how.
    pub logs: logs::Settings,
    /// Where spans go, as OTLP over gRPC; `None` is nowhere.
    pub collector: Option<Url>,
    /// The variable of OpenTelemetry by which no spans go to the collector that others name: worth a warning.
    pub passed_over: Option<&'static str>,
}

/// Reads what is logged alone, for a command that needs no other setting.
///
/// # Errors
///
/// - [`Faults`] with every fault, as [`Config::parse`] tells them.
pub fn logs(strings: &Strings) -> Result<logs::Settings, Faults> {
    let mut read = Reader::new(strings);
    let logs = log_settings(&mut read);
    read.finish(logs)
}

impl Config {
    /// Reads and checks every setting.
    ///
    /// # Errors
    ///
    /// - [`Faults`] with every fault, each under the name of its setting.
    pub fn parse(strings: &Strings) -> Result<Self, Faults> {
        let mut read = Reader::new(strings);
        let credentials = read.choice(
            "CREDENTIALS",
            &[
                ("service", Credentials::Service),
                ("caller", Credentials::Caller),
            ],
        );
        let max_reply_bytes = read.bytes("MAX_REPLY_BYTES");
        let upstream = upstream_settings(&mut read, credentials, max_reply_bytes);
        let config = Self {
            listen: read.address("LISTEN"),
            admin_listen: read.unless_off("ADMIN_LISTEN", Reader::address),
            server: server_settings(&mut read, credentials, &upstream),
            upstream,
            logs: log_settings(&mut read),
            collector: read.optional("OTLP_ENDPOINT", Reader::url),
            passed_over: strings.passed_over(),
        };
        read.finish(config)
    }

    /// Whether anyone who reaches the listener over the network may spend the bridge's key: worth a warning. TLS alone
    /// authenticates nobody.
    pub fn is_open_to_the_network(&self) -> bool {
        let tls = self.server.tls.as_ref();
        let is_guarded = tls.is_some_and(|tls| tls.load().client_ca.is_some())
            || self.server.callers.is_some()
            || self.server.credentials == Credentials::Caller;
        !self.listen.ip().is_loopback() && !is_guarded
    }

    /// Whether whoever is on the way to the upstream can read its keys: worth a warning.
    pub fn sends_keys_in_clear(&self) -> bool {
        is_clear(&self.upstream.url)
    }

    /// Whether any page that a browser near the listener shows may call: worth a warning, loopback or not.
    pub fn is_open_to_every_page(&self) -> bool {
        let needs_no_key =
            self.server.callers.is_none() && self.server.credentials == Credentials::Service;
        self.server.web == Some(Origins::Any) && needs_no_key
    }
}

/// Whether what is sent to this URL goes over a network without TLS.
pub fn is_clear(url: &Url) -> bool {
    let is_loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.to_canonical().is_loopback(),
        None => false,
    };
    url.scheme() == "http" && !is_loopback
}

fn log_settings(read: &mut Reader<'_>) -> logs::Settings {
    logs::Settings {
        format: read.choice(
            "LOG_FORMAT",
            &[
                ("auto", logs::Format::Auto),
                ("text", logs::Format::Text),
                ("json", logs::Format::Json),
            ],
        ),
        filter: read.log_filter("LOG"),
        access_log: read.choice(
            "ACCESS_LOG",
            &[
                ("on", AccessLog::On),
                ("all", AccessLog::All),
                ("errors", AccessLog::Errors),
                ("off", AccessLog::Off),
            ],
        ),
    }
}

fn upstream_settings(
    read: &mut Reader<'_>,
    credentials: Credentials,
    max_reply_bytes: usize,
) -> upstream::Settings {
    upstream::Settings {
        url: read.url("UPSTREAM_URL"),
        key: service_key(read, credentials),
        ca_pem: read.certificates("UPSTREAM_CA_FILE"),
        connect_timeout: read.duration("CONNECT_TIMEOUT"),
        pool_idle_timeout: read.duration("POOL_IDLE_TIMEOUT"),
        max_reply_bytes,
        sse: sse::Settings {
            framing: read.choice(
                "SSE_FRAMING",
                &[("recover", Framing::Recover), ("strict", Framing::Strict)],
            ),
            max_event_bytes: read.bytes("MAX_EVENT_BYTES"),
        },
        retries: read.number("RETRIES"),
        health_url: read.optional("UPSTREAM_HEALTH_URL", Reader::url),
        quota: quota::Settings {
            rate: read.unless_off("UPSTREAM_QUOTA", Reader::rate).flatten(),
            wait: read.duration_or_zero("QUOTA_WAIT"),
            has_service_key: credentials == Credentials::Service,
        },
    }
}

fn server_settings(
    read: &mut Reader<'_>,
    credentials: Credentials,
    upstream: &upstream::Settings,
) -> server::Settings {
    let web = read.unless_off("GRPC_WEB", Reader::origins).flatten();
    let max_request_bytes = read.bytes("MAX_REQUEST_BYTES");
    let memory = memory::read(read, max_request_bytes, upstream);
    server::Settings {
        tls: server_tls(read, web.is_some()),
        web,
        traces: None, // made where a runtime is
        callers: callers(read, credentials),
        trusted_proxies: read
            .optional("TRUSTED_PROXIES", Reader::trusted_proxies)
            .unwrap_or_default(),
        credentials,
        timeouts: Timeouts {
            invoke: read.duration("INVOKE_TIMEOUT"),
            initial: read.duration("STREAM_INITIAL_TIMEOUT"),
            idle: read.duration("STREAM_IDLE_TIMEOUT"),
            lifetime: read.duration("STREAM_LIFETIME"),
        },
        max_calls: read.count("MAX_CALLS"),
        max_request_bytes,
        max_reply_bytes: upstream.max_reply_bytes,
        memory_limit: memory.limit,
        largest_call: memory.largest_call,
        message_timeout: read.duration("MESSAGE_TIMEOUT"),
        max_connections: read.count("MAX_CONNECTIONS"),
        max_connection_age: read.unless_off("MAX_CONNECTION_AGE", Reader::duration),
        max_connection_idle: read.duration("MAX_CONNECTION_IDLE"),
        keepalive_interval: read.duration("KEEPALIVE_INTERVAL"),
        keepalive_timeout: read.duration("KEEPALIVE_TIMEOUT"),
        health_interval: read
            .unless_auto("UPSTREAM_HEALTH_INTERVAL", Reader::duration)
            .unwrap_or(match upstream.health_key() {
                Some(_) => KEYED_PROBE_INTERVAL,
                None => PROBE_INTERVAL,
            }),
        drain_delay: read.duration_or_zero("DRAIN_DELAY"),
        drain_timeout: read.duration_or_zero("DRAIN_TIMEOUT"),
    }
}

/// Exactly one key when the bridge shows its own, none when callers bring theirs.
fn service_key(read: &mut Reader<'_>, credentials: Credentials) -> Option<Reload<SecretString>> {
    if read.is_faulty("CREDENTIALS") {
        return None; // whether a key is needed can't be known
    }
    let text = read.text("UPSTREAM_API_KEY");
    let file = read.text("UPSTREAM_API_KEY_FILE");
    match (credentials, text, file) {
        (Credentials::Caller, None, None) => None,
        (Credentials::Caller, ..) => {
            read.fault("CREDENTIALS", "is caller: leave out UPSTREAM_API_KEY and UPSTREAM_API_KEY_FILE, for callers bring their own");
            None
        }
        (Credentials::Service, None, None) => {
            read.fault(
                "UPSTREAM_API_KEY",
                "is needed (or UPSTREAM_API_KEY_FILE) while CREDENTIALS is service",
            );
            None
        }
        (Credentials::Service, Some(_), Some(_)) => {
            read.fault(
                "UPSTREAM_API_KEY_FILE",
                "can't stand beside UPSTREAM_API_KEY: give one of them",
            );
            None
        }
        (Credentials::Service, Some(key), None) => match parse_key(key.as_bytes()) {
            Ok(key) => Some(Reload::fixed(key)),
            Err(why) => {
                read.fault("UPSTREAM_API_KEY", why);
                None
            }
        },
        (Credentials::Service, None, Some(_)) => {
            read.reload("UPSTREAM_API_KEY_FILE", |contents| parse_key(&contents[0]))
        }
    }
}

/// Each fault of the file is one of the setting.
fn callers(read: &mut Reader<'_>, credentials: Credentials) -> Option<Reload<Callers>> {
    let path = read.text("CALLERS_FILE")?;
    let own_keys = match credentials {
        Credentials::Service => OwnKeys::Allowed,
        Credentials::Caller => OwnKeys::Brought,
    };
    let opened = Callers::open(path.into(), own_keys);
    let faults = opened.map_err(|error| error.to_string());
    faults
        .map_err(|faults| {
            for fault in faults.lines() {
                read.fault("CALLERS_FILE", format!("can't be used: {fault}"));
            }
        })
        .ok()
}

fn server_tls(read: &mut Reader<'_>, serves_http1: bool) -> Option<Reload<tls::Tls>> {
    let cert = read.text("TLS_CERT_FILE");
    let key = read.text("TLS_KEY_FILE");
    let client_ca = read.text("TLS_CLIENT_CA_FILE");
    let (cert, key) = match (cert, key) {
        (Some(cert), Some(key)) => (cert.into(), key.into()),
        (Some(_), None) => {
            read.fault("TLS_KEY_FILE", "is needed beside TLS_CERT_FILE");
            return None;
        }
        (None, Some(_)) => {
            read.fault("TLS_CERT_FILE", "is needed beside TLS_KEY_FILE");
            return None;
        }
        (None, None) if client_ca.is_some() => {
            read.fault(
                "TLS_CLIENT_CA_FILE",
                "needs TLS_CERT_FILE and TLS_KEY_FILE beside it",
            );
            return None;
        }
        (None, None) => return None,
    };
    let client_ca = client_ca.map(Into::into);
    let names = ["TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CLIENT_CA_FILE"];
    let readable = names.map(|name| read.is_readable(name));
    if readable.contains(&false) {
        return None;
    }
    let files = tls::Files {
        cert,
        key,
        client_ca,
    };
    match tls::load(files, serves_http1) {
        Ok(tls) => Some(tls),
        Err(error) => {
            read.fault("TLS_CERT_FILE", format!("can't be used: {error}"));
            None
        }
    }
}

/// Between probes that cost nothing.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// Between probes that ALİM counts among the 30 calls a minute of the bridge's key.
const KEYED_PROBE_INTERVAL: Duration = Duration::from_secs(60);

/// The longest duration that makes sense anywhere: a year.
const MAX_DURATION: Duration = Duration::from_secs(366 * 24 * 3600);
