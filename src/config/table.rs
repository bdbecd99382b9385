//! The table of settings: the source of flags, environment variables, defaults, and the tables in
//! `docs/settings.md`.

/// The prefix of every setting's environment variable.
pub const PREFIX: &str = "ALIM_BRIDGE_";

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Its name in the environment, without the prefix.
    pub name: &'static str,
    /// The default; empty if the setting is optional.
    pub default: &'static str,
    /// The description: a duration's start and end, a size's unit.
    pub help: &'static str,
}

impl Setting {
    /// The flag, without the leading dashes. A secret has none, because every user of the machine can read
    /// the arguments of a process.
    pub fn flag(&self) -> Option<String> {
        let is_secret = self.name == "UPSTREAM_API_KEY";
        (!is_secret).then(|| self.name.to_ascii_lowercase().replace('_', "-"))
    }
}

const fn setting(name: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting {
        name,
        default,
        help,
    }
}

/// The groups of `docs/settings.md`. Each begins with this setting, and ends where the next one begins.
pub const GROUPS: &[(&str, &str)] = &[
    ("LISTEN", "Where the bridge listens"),
    ("UPSTREAM_URL", "ALİM and the keys for it"),
    ("TLS_CERT_FILE", "Who may call"),
    ("CONNECT_TIMEOUT", "Timeouts"),
    ("MAX_CALLS", "Limits"),
    ("KEEPALIVE_INTERVAL", "Connections of callers"),
    ("RETRIES", "Retries and framing"),
    ("UPSTREAM_HEALTH_URL", "ALİM's health"),
    ("UPSTREAM_QUOTA", "ALİM's quota"),
    ("DRAIN_DELAY", "Shutdown"),
    ("LOG_FORMAT", "Logs and traces"),
];

/// All settings of `serve`, group by group.
pub const SETTINGS: &[Setting] = &[
    setting("LISTEN", "127.0.0.1:50051", "Where gRPC is served"),
    setting(
        "ADMIN_LISTEN",
        "127.0.0.1:9464",
        "Where /metrics, /livez, /readyz and the admin page are served; off for nowhere",
    ),
    setting(
        "ADMIN_TOKEN_FILE",
        "",
        "File with the token that opens the admin page, /status and its actions, sent as authorization: Bearer; without it only loopback peers may. Re-read when it changes",
    ),
    setting(
        "GRPC_WEB",
        "off",
        "Comma-separated origins whose pages may call with gRPC-Web, such as https://app.example.az; * for all, off for none",
    ),
    setting(
        "UPSTREAM_URL",
        "http://localhost:8000/api/v1",
        "ALİM's base URL",
    ),
    setting(
        "UPSTREAM_API_KEY",
        "",
        "The bridge's own key for ALİM; it has no flag",
    ),
    setting(
        "UPSTREAM_API_KEY_FILE",
        "",
        "File with the bridge's own key for ALİM and nothing else; re-read when it changes",
    ),
    setting(
        "CREDENTIALS",
        "service",
        "Which key is sent to ALİM: service for the bridge's, caller for the x-api-key that each caller must then send",
    ),
    setting(
        "UPSTREAM_CA_FILE",
        "",
        "PEM file of certificate authorities to trust for ALİM, instead of the system's",
    ),
    setting(
        "TLS_CERT_FILE",
        "",
        "PEM certificate chain for callers; re-read when it changes",
    ),
    setting(
        "TLS_KEY_FILE",
        "",
        "PEM private key of that certificate; re-read when it changes",
    ),
    setting(
        "TLS_CLIENT_CA_FILE",
        "",
        "PEM file of certificate authorities that must sign callers' certificates: mutual TLS",
    ),
    setting(
        "CALLERS_FILE",
        "",
        "TOML file of callers with their keys or certificates and their limits; nobody else may call. Re-read when it changes",
    ),
    setting(
        "TRUSTED_PROXIES",
        "",
        "Networks of proxies that may name the caller in a header, such as 10.0.0.0/8, or 127.0.0.1=l5d-client-id for that header alone",
    ),
    setting("CONNECT_TIMEOUT", "3s", "To connect to ALİM, TLS included"),
    setting(
        "INVOKE_TIMEOUT",
        "120s",
        "From a unary call's start to its whole reply; a shorter grpc-timeout wins",
    ),
    setting(
        "STREAM_INITIAL_TIMEOUT",
        "120s",
        "From a Stream's start to its first event; comments don't count",
    ),
    setting(
        "STREAM_IDLE_TIMEOUT",
        "120s",
        "After the first event: between two bytes, comments included",
    ),
    setting("STREAM_LIFETIME", "15m", "From a Stream's start to its end"),
    setting(
        "POOL_IDLE_TIMEOUT",
        "4s",
        "How long an unused connection to ALİM is kept; ALİM closes it after 5.0 s",
    ),
    setting("MAX_CALLS", "4096", "Open calls; more are rejected at once"),
    setting(
        "MAX_REQUEST_BYTES",
        "4MiB",
        "A request message, decompressed",
    ),
    setting(
        "MAX_REPLY_BYTES",
        "4MiB",
        "A unary answer; gRPC callers accept 4 MiB by default",
    ),
    setting("MAX_EVENT_BYTES", "1MiB", "One event of a stream"),
    setting(
        "MEMORY_LIMIT",
        "auto",
        "Bytes that the process may use; auto is 70 % of the cgroup's limit, else of the machine's memory",
    ),
    setting(
        "MESSAGE_TIMEOUT",
        "10s",
        "From a call's head to the end of its request message",
    ),
    setting(
        "KEEPALIVE_INTERVAL",
        "30s",
        "Between HTTP/2 PINGs to callers",
    ),
    setting(
        "KEEPALIVE_TIMEOUT",
        "10s",
        "For the answer to a PING, before the connection is closed and its calls end",
    ),
    setting(
        "MAX_CONNECTIONS",
        "4096",
        "Open connections of callers; more are closed at once",
    ),
    setting(
        "MAX_CONNECTION_AGE",
        "off",
        "Age at which a connection gets GOAWAY, ±10 %, so that load balancers can move its calls",
    ),
    setting(
        "MAX_CONNECTION_IDLE",
        "10m",
        "From the end of a connection's last request to its GOAWAY",
    ),
    setting(
        "RETRIES",
        "2",
        "Retries of a call that could not connect; nothing else is retried",
    ),
    setting(
        "SSE_FRAMING",
        "recover",
        "recover repairs unescaped newlines in tokens, strict follows only the SSE standard",
    ),
    setting(
        "UPSTREAM_HEALTH_URL",
        "",
        "URL that must answer GET with 200; below UPSTREAM_URL the bridge sends its key. If it is not set, a probe only connects",
    ),
    setting(
        "UPSTREAM_HEALTH_INTERVAL",
        "auto",
        "Between probes of ALİM; three failures in a row make it unhealthy. auto is 5s, or 60s with the key, since ALİM counts those calls",
    ),
    setting(
        "UPSTREAM_QUOTA",
        "off",
        "Requests that each key may send to ALİM in any window, such as 30/min, 5/s or 10/10s; thread calls and probes with the key count too; off for no limit",
    ),
    setting(
        "QUOTA_WAIT",
        "0s",
        "How long a call may wait for its turn under UPSTREAM_QUOTA, in a queue that is fair between callers; 0s rejects at once",
    ),
    setting(
        "QUOTA_REPLICAS",
        "1",
        "Bridges that share the keys; each sends at most its share of UPSTREAM_QUOTA, with QUOTA_SERVICE only while that fails",
    ),
    setting(
        "QUOTA_SERVICE",
        "",
        "URL of an Envoy rate limit service that counts for all bridges, such as http://ratelimit:8081",
    ),
    setting(
        "QUOTA_SERVICE_CA_FILE",
        "",
        "PEM file of certificate authorities to trust for QUOTA_SERVICE, instead of the system's",
    ),
    setting(
        "DRAIN_DELAY",
        "0s",
        "From SIGTERM until new calls are rejected",
    ),
    setting(
        "DRAIN_TIMEOUT",
        "25s",
        "From then until open calls are aborted; keep it under the orchestrator's grace period",
    ),
    setting(
        "LOG_FORMAT",
        "auto",
        "text, json, or auto: text on a terminal",
    ),
    setting("LOG", "info", "A filter such as info or alim_bridge=debug"),
    setting(
        "ACCESS_LOG",
        "on",
        "Which calls are logged, whatever LOG is: on, all (with health and reflection), errors (only failed calls), off",
    ),
    setting(
        "OTLP_ENDPOINT",
        "",
        "Collector of traces and metrics by OTLP over gRPC, such as http://localhost:4317; the standard OTEL_ variables for it, sampling, headers, queue, interval and resource are honoured",
    ),
];
