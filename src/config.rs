//! Parses the settings: raw strings from flags and environment become a [`Config`]. All invalid settings
//! are reported together.
//!
//! One table, [`SETTINGS`], is the source of flags, environment variables, defaults and `docs/settings.md`.
//! Raw strings ([`RawSettings`]) and parsed values ([`Config`]) are separate types. The environment is an
//! argument, so tests never read the real one.

mod effective;
mod memory;
mod names;
mod otel;
mod raw;
mod reader;
mod table;
mod warnings;

use std::{net::SocketAddr, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use url::{Host, Url};

use self::reader::Reader;
pub use self::{
    raw::RawSettings,
    reader::{InvalidSetting, InvalidSettings},
    table::{GROUPS, PREFIX, SETTINGS, Setting},
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

/// All settings of `serve`, validated.
#[derive(Debug)]
pub struct Config {
    /// The address that serves gRPC.
    pub listen: SocketAddr,
    /// The address that serves metrics and probes. `None` serves none.
    pub admin_listen: Option<SocketAddr>,
    /// Settings of the server.
    pub server: server::Settings,
    /// Settings of the upstream.
    pub upstream: upstream::Settings,
    /// Settings of the log.
    pub logs: logs::Settings,
    /// The collector of spans, by OTLP over gRPC. `None` sends none.
    pub collector: Option<Url>,
    /// Maximum of spans that wait for the collector: `OTEL_BSP_MAX_QUEUE_SIZE`.
    pub max_queued_spans: usize,
    /// The OpenTelemetry variable that asks for an unsupported protocol, so that no spans are sent: worth a
    /// warning.
    pub ignored_variable: Option<&'static str>,
    /// The same for metrics over OTLP.
    pub ignored_metrics_variable: Option<&'static str>,
    effective: Vec<(&'static str, String)>,
}

/// Parses only the log's settings, for a command that needs no others.
///
/// # Errors
///
/// - [`InvalidSettings`] with every invalid setting, as in [`Config::parse`].
pub fn logs(raw: &RawSettings) -> Result<logs::Settings, InvalidSettings> {
    let mut read = Reader::new(raw);
    let logs = log_settings(&mut read);
    read.finish(logs)
}

impl Config {
    /// Parses and validates every setting.
    ///
    /// # Errors
    ///
    /// - [`InvalidSettings`] with every invalid setting, each with its name.
    pub fn parse(raw: &RawSettings) -> Result<Self, InvalidSettings> {
        let mut read = Reader::new(raw);
        let credentials = read.choice(
            "CREDENTIALS",
            &[
                ("service", Credentials::Service),
                ("caller", Credentials::Caller),
            ],
        );
        let max_reply_bytes = read.bytes("MAX_REPLY_BYTES");
        let upstream = upstream_settings(&mut read, credentials, max_reply_bytes);
        let mut config = Self {
            listen: read.address("LISTEN"),
            admin_listen: read.unless_off("ADMIN_LISTEN", Reader::address),
            server: server_settings(&mut read, credentials, &upstream),
            upstream,
            logs: log_settings(&mut read),
            collector: read.optional("OTLP_ENDPOINT", Reader::url),
            max_queued_spans: raw.max_queued_spans(),
            ignored_variable: raw.ignored_variable(),
            ignored_metrics_variable: None,
            effective: Vec::new(),
        };
        config.read_metrics_export(raw, &mut read);
        config.effective = effective::effective(raw, &config);
        config.server.effective.clone_from(&config.effective);
        read.finish(config)
    }

    /// Every setting's name, without the prefix, and its value in use: empty if it is not set. No key is among them.
    pub fn effective(&self) -> Vec<(&'static str, String)> {
        self.effective.clone()
    }

    /// Whether anyone who reaches the listener over the network can spend the bridge's key: worth a warning. TLS
    /// alone authenticates nobody.
    pub fn is_open_to_the_network(&self) -> bool {
        let tls = self.server.tls.as_ref();
        let is_guarded = tls.is_some_and(|tls| tls.load().client_ca.is_some())
            || self.server.callers.is_some()
            || self.server.credentials == Credentials::Caller;
        !self.listen.ip().is_loopback() && !is_guarded
    }

    /// Whether anyone on the path to the upstream can read the keys: worth a warning.
    pub fn sends_keys_in_clear(&self) -> bool {
        is_cleartext(&self.upstream.url)
    }

    /// Whether any page in a browser that reaches the listener can call: worth a warning, on loopback too.
    pub fn is_open_to_every_page(&self) -> bool {
        let needs_no_key =
            self.server.callers.is_none() && self.server.credentials == Credentials::Service;
        self.server.web == Some(Origins::Any) && needs_no_key
    }
}

/// Whether requests to this URL cross a network without TLS.
pub fn is_cleartext(url: &Url) -> bool {
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
        quota: quota_settings(read, credentials),
    }
}

/// A call that starts a thread sends two requests, so each bridge needs two of the quota at least.
fn quota_settings(read: &mut Reader<'_>, credentials: Credentials) -> quota::Settings {
    let rate = read.unless_off("UPSTREAM_QUOTA", Reader::rate).flatten();
    let replicas = read.replicas("QUOTA_REPLICAS");
    let service = read.optional("QUOTA_SERVICE", Reader::url);
    let ca_pem = read.certificates("QUOTA_SERVICE_CA_FILE");
    let is_off = rate.is_none() && !read.is_invalid("UPSTREAM_QUOTA");
    if is_off && service.is_some() {
        read.reject("QUOTA_SERVICE", "requires UPSTREAM_QUOTA");
    }
    if service.as_ref().is_some_and(|url| url.path() != "/") {
        read.reject("QUOTA_SERVICE", "must have no path: it is a gRPC server");
    }
    if let Some(rate) = rate.filter(|rate| rate.requests() / replicas < 2) {
        let most = rate.requests() / 2;
        let text = format!("must leave each bridge two requests of UPSTREAM_QUOTA: at most {most}");
        read.reject("QUOTA_REPLICAS", text);
    }
    if service.is_none() && ca_pem.is_some() && !read.is_invalid("QUOTA_SERVICE") {
        read.reject("QUOTA_SERVICE_CA_FILE", "requires QUOTA_SERVICE");
    }
    quota::Settings {
        rate,
        replicas,
        service: service.map(|url| quota::service::Settings { url, ca_pem }),
        wait: read.duration_or_zero("QUOTA_WAIT"),
        has_service_key: credentials == Credentials::Service,
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
        traces: None,         // set later, because it needs a runtime
        metrics_export: None, // set later, because it follows the collector of traces
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
        admin_token: read.reload("ADMIN_TOKEN_FILE", |contents| parse_token(&contents[0])),
        effective: Vec::new(), // set later, because it shows all settings
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

/// Requires exactly one key if the bridge sends its own, and none if callers send theirs.
fn service_key(read: &mut Reader<'_>, credentials: Credentials) -> Option<Reload<SecretString>> {
    if read.is_invalid("CREDENTIALS") {
        return None; // it is not known whether a key is required
    }
    let text = read.text("UPSTREAM_API_KEY");
    let file = read.text("UPSTREAM_API_KEY_FILE");
    match (credentials, text, file) {
        (Credentials::Caller, None, None) => None,
        (Credentials::Caller, ..) => {
            read.reject("CREDENTIALS", "is caller: remove UPSTREAM_API_KEY and UPSTREAM_API_KEY_FILE, because callers send their own keys");
            None
        }
        (Credentials::Service, None, None) => {
            read.reject(
                "UPSTREAM_API_KEY",
                "or ALIM_BRIDGE_UPSTREAM_API_KEY_FILE is required: the key for ALİM. Without one, try alim-bridge demo",
            );
            None
        }
        (Credentials::Service, Some(_), Some(_)) => {
            read.reject(
                "UPSTREAM_API_KEY_FILE",
                "conflicts with UPSTREAM_API_KEY: set only one of them",
            );
            None
        }
        (Credentials::Service, Some(key), None) => match parse_key(key.as_bytes()) {
            Ok(key) => Some(Reload::fixed(key)),
            Err(why) => {
                read.reject("UPSTREAM_API_KEY", why);
                None
            }
        },
        (Credentials::Service, None, Some(_)) => {
            read.reload("UPSTREAM_API_KEY_FILE", |contents| parse_key(&contents[0]))
        }
    }
}

/// Reports each error of the file as an error of the setting.
fn callers(read: &mut Reader<'_>, credentials: Credentials) -> Option<Reload<Callers>> {
    let path = read.text("CALLERS_FILE")?;
    let own_keys = match credentials {
        Credentials::Service => OwnKeys::Allowed,
        Credentials::Caller => OwnKeys::Brought,
    };
    let opened = Callers::open(path.into(), own_keys);
    opened
        .map_err(|errors| {
            for error in errors.to_string().lines() {
                read.reject("CALLERS_FILE", format!("can't be used: {error}"));
            }
        })
        .ok()
}

/// Anyone who reaches the admin port can guess. So a token must be long.
fn parse_token(content: &[u8]) -> Result<SecretString, String> {
    let token = parse_key(content).map_err(|why| why.replace("key", "token"))?;
    match token.expose_secret().len() {
        MIN_TOKEN_BYTES.. => Ok(token),
        length => Err(format!(
            "holds a token of {length} bytes, at least {MIN_TOKEN_BYTES} are needed"
        )),
    }
}

fn server_tls(read: &mut Reader<'_>, serves_http1: bool) -> Option<Reload<tls::Tls>> {
    let cert = read.text("TLS_CERT_FILE");
    let key = read.text("TLS_KEY_FILE");
    let client_ca = read.text("TLS_CLIENT_CA_FILE");
    let (cert, key) = match (cert, key) {
        (Some(cert), Some(key)) => (cert.into(), key.into()),
        (Some(_), None) => {
            read.reject("TLS_KEY_FILE", "is required with TLS_CERT_FILE");
            return None;
        }
        (None, Some(_)) => {
            read.reject("TLS_CERT_FILE", "is required with TLS_KEY_FILE");
            return None;
        }
        (None, None) if client_ca.is_some() => {
            read.reject(
                "TLS_CLIENT_CA_FILE",
                "requires TLS_CERT_FILE and TLS_KEY_FILE",
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
            read.reject("TLS_CERT_FILE", format!("can't be used: {error}"));
            None
        }
    }
}

/// The minimum size of the admin port's token.
const MIN_TOKEN_BYTES: usize = 16;
/// Time between two probes that cost nothing.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// Time between two probes with the bridge's key. ALİM counts them among the key's 30 calls a minute.
const KEYED_PROBE_INTERVAL: Duration = Duration::from_secs(60);

/// The longest duration of any setting: a year.
const MAX_DURATION: Duration = Duration::from_secs(366 * 24 * 3600);
