//! The table of settings: one row each, from which flags, environment, defaults and README's table
//! are made.

/// What every setting's name begins with in the environment.
pub const PREFIX: &str = "ALIM_BRIDGE_";

/// One row.
#[derive(Debug)]
pub struct Setting {
    /// Its name in the environment, without the prefix.
    pub name: &'static str,
    /// What it is when it is not set; empty where it is optional.
    pub default: &'static str,
    /// What it means, with its unit and from when to when.
    pub help: &'static str,
}

impl Setting {
    /// Its flag, without the leading dashes. A secret has none: every user of the machine can read the
    /// arguments of a process.
    pub fn flag(&self) -> Option<String> {
        let is_secret = self.name == "UPSTREAM_API_KEY";
        (!is_secret).then(|| self.name.to_ascii_lowercase().replace('_', "-"))
    }
}

const fn row(name: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting {
        name,
        default,
        help,
    }
}

/// All settings of `serve`.
pub const SETTINGS: &[Setting] = &[
    row("LISTEN", "127.0.0.1:50051", "Where gRPC is served"),
    row(
        "ADMIN_LISTEN",
        "127.0.0.1:9464",
        "Where /metrics, /livez and /readyz are served; off for nowhere",
    ),
    row(
        "GRPC_WEB",
        "off",
        "Origins whose pages may call by gRPC-Web, separated by commas, such as https://app.example.az; * for all, off for none",
    ),
    row(
        "UPSTREAM_URL",
        "http://localhost:8000/api/v1",
        "ALİM's base URL",
    ),
    row(
        "UPSTREAM_API_KEY",
        "",
        "The bridge's own key for ALİM; it has no flag",
    ),
    row(
        "UPSTREAM_API_KEY_FILE",
        "",
        "A file that holds that key; re-read when it changes",
    ),
    row(
        "CREDENTIALS",
        "service",
        "Whose key ALİM is shown: service for the bridge's, caller for the x-api-key that each caller must then send",
    ),
    row(
        "UPSTREAM_CA_FILE",
        "",
        "PEM authorities that may vouch for ALİM, in place of the system's",
    ),
    row(
        "TLS_CERT_FILE",
        "",
        "PEM certificate chain for callers; re-read when it changes",
    ),
    row(
        "TLS_KEY_FILE",
        "",
        "PEM private key of that certificate; re-read when it changes",
    ),
    row(
        "TLS_CLIENT_CA_FILE",
        "",
        "PEM authorities that callers' certificates must come from: mutual TLS",
    ),
    row(
        "CALLERS_FILE",
        "",
        "TOML with who may call, by which key or certificate, and how much; nobody else may. Re-read when it changes",
    ),
    row(
        "TRUSTED_PROXIES",
        "",
        "Networks whose proxies may say who calls, such as 10.0.0.0/8, or 127.0.0.1=l5d-client-id for that header alone",
    ),
    row(
        "CONNECT_TIMEOUT",
        "3s",
        "For a connection to ALİM, TLS included",
    ),
    row(
        "INVOKE_TIMEOUT",
        "120s",
        "From a unary call's start to its whole reply; a sooner grpc-timeout wins",
    ),
    row(
        "STREAM_INITIAL_TIMEOUT",
        "120s",
        "From a Stream's start to its first event; comments don't count",
    ),
    row(
        "STREAM_IDLE_TIMEOUT",
        "120s",
        "From the first event on: between bytes, comments included",
    ),
    row("STREAM_LIFETIME", "15m", "From a Stream's start to its end"),
    row(
        "POOL_IDLE_TIMEOUT",
        "4s",
        "How long an unused connection to ALİM is kept; ALİM closes at 5.0 s",
    ),
    row("MAX_CALLS", "4096", "Open calls; more are refused at once"),
    row(
        "MAX_REQUEST_BYTES",
        "4MiB",
        "A request message, decompressed",
    ),
    row(
        "MAX_REPLY_BYTES",
        "4MiB",
        "A unary answer; callers accept 4 MiB unless told otherwise",
    ),
    row("MAX_EVENT_BYTES", "1MiB", "One event of a stream"),
    row(
        "MEMORY_LIMIT",
        "auto",
        "Bytes that the process may use; auto is 70 % of the cgroup's limit, else of the machine's memory",
    ),
    row(
        "MESSAGE_TIMEOUT",
        "10s",
        "From a call's head to the end of its request message",
    ),
    row(
        "KEEPALIVE_INTERVAL",
        "30s",
        "Between HTTP/2 PINGs to callers",
    ),
    row(
        "KEEPALIVE_TIMEOUT",
        "10s",
        "For the answer to a PING, before the connection is closed and its calls end",
    ),
    row(
        "MAX_CONNECTIONS",
        "4096",
        "Open connections of callers; more are closed at once",
    ),
    row(
        "MAX_CONNECTION_AGE",
        "off",
        "After which a connection gets GOAWAY, give or take a tenth, so that balancers can move its calls",
    ),
    row(
        "MAX_CONNECTION_IDLE",
        "10m",
        "From the end of a connection's last request to its GOAWAY",
    ),
    row(
        "RETRIES",
        "2",
        "How often a call that found no connection is tried again; nothing else ever is",
    ),
    row(
        "SSE_FRAMING",
        "recover",
        "recover puts unescaped newlines of tokens right, strict reads the SSE standard alone",
    ),
    row(
        "UPSTREAM_HEALTH_URL",
        "",
        "A GET that must answer 200; below UPSTREAM_URL it is asked with the bridge's key. Without it a connection is opened",
    ),
    row(
        "UPSTREAM_HEALTH_INTERVAL",
        "auto",
        "Between probes of ALİM; three failures in a row flip its health. auto is 5s, and 60s with the key, since ALİM counts those calls",
    ),
    row(
        "UPSTREAM_QUOTA",
        "off",
        "How many requests each key may send to ALİM in any window of a length, such as 30/min, 5/s or 10/10s; threads and probes with the key count too; off for no limit",
    ),
    row(
        "QUOTA_WAIT",
        "0s",
        "How long a call may wait for its turn under UPSTREAM_QUOTA, in a queue that is fair between callers; 0s rejects at once",
    ),
    row(
        "DRAIN_DELAY",
        "0s",
        "From SIGTERM until new calls are refused",
    ),
    row(
        "DRAIN_TIMEOUT",
        "25s",
        "From then until open calls are ended; keep it under the orchestrator's grace period",
    ),
    row(
        "LOG_FORMAT",
        "auto",
        "text, json, or auto: text on a terminal",
    ),
    row("LOG", "info", "A filter such as info or alim_bridge=debug"),
    row(
        "ACCESS_LOG",
        "on",
        "Which calls are recorded, apart from LOG: on, all for health's and reflection's too, errors for those that fail, off",
    ),
    row(
        "OTLP_ENDPOINT",
        "",
        "Where traces go, as OTLP over gRPC, such as http://localhost:4317; the standard OTEL_ variables for it, for sampling, headers, queue and resource are honoured",
    ),
];
