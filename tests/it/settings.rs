//! Settings: how flags and environment variables are parsed and validated.
//!
//! Invalid values are listed in tables, so a rule that becomes too loose fails with the value that it accepts.
//! The environment is an argument: these tests do not read or write the real one.

mod files;
mod values;

use alim_bridge::config::{Config, GROUPS, InvalidSettings, RawSettings, SETTINGS, Setting};

use crate::support::page;

/// The only required setting.
const KEY: (&str, &str) = ("UPSTREAM_API_KEY", "k");

/// All settings, in order, with their defaults.
const DEFAULTS: &[(&str, &str)] = &[
    ("LISTEN", "127.0.0.1:50051"),
    ("ADMIN_LISTEN", "127.0.0.1:9464"),
    ("ADMIN_TOKEN_FILE", ""),
    ("GRPC_WEB", "off"),
    ("UPSTREAM_URL", "http://localhost:8000/api/v1"),
    ("UPSTREAM_API_KEY", ""),
    ("UPSTREAM_API_KEY_FILE", ""),
    ("CREDENTIALS", "service"),
    ("UPSTREAM_CA_FILE", ""),
    ("TLS_CERT_FILE", ""),
    ("TLS_KEY_FILE", ""),
    ("TLS_CLIENT_CA_FILE", ""),
    ("CALLERS_FILE", ""),
    ("TRUSTED_PROXIES", ""),
    ("CONNECT_TIMEOUT", "3s"),
    ("INVOKE_TIMEOUT", "120s"),
    ("STREAM_INITIAL_TIMEOUT", "120s"),
    ("STREAM_IDLE_TIMEOUT", "120s"),
    ("STREAM_LIFETIME", "15m"),
    ("POOL_IDLE_TIMEOUT", "4s"),
    ("MAX_CALLS", "4096"),
    ("MAX_REQUEST_BYTES", "4MiB"),
    ("MAX_REPLY_BYTES", "4MiB"),
    ("MAX_EVENT_BYTES", "1MiB"),
    ("MEMORY_LIMIT", "auto"),
    ("MESSAGE_TIMEOUT", "10s"),
    ("KEEPALIVE_INTERVAL", "30s"),
    ("KEEPALIVE_TIMEOUT", "10s"),
    ("MAX_CONNECTIONS", "4096"),
    ("MAX_CONNECTION_AGE", "off"),
    ("MAX_CONNECTION_IDLE", "10m"),
    ("RETRIES", "2"),
    ("SSE_FRAMING", "recover"),
    ("UPSTREAM_HEALTH_URL", ""),
    ("UPSTREAM_HEALTH_INTERVAL", "auto"),
    ("UPSTREAM_QUOTA", "off"),
    ("QUOTA_WAIT", "0s"),
    ("QUOTA_REPLICAS", "1"),
    ("QUOTA_SERVICE", ""),
    ("QUOTA_SERVICE_CA_FILE", ""),
    ("DRAIN_DELAY", "0s"),
    ("DRAIN_TIMEOUT", "25s"),
    ("LOG_FORMAT", "auto"),
    ("LOG", "info"),
    ("ACCESS_LOG", "on"),
    ("OTLP_ENDPOINT", ""),
];

/// The raw settings of an environment. Names are without the prefix.
fn raw(settings: &[(&str, &str)]) -> RawSettings {
    let vars = settings
        .iter()
        .map(|(name, value)| (format!("ALIM_BRIDGE_{name}"), (*value).to_owned()));
    let mut raw = RawSettings::default();
    raw.add_environment(vars);
    raw
}

fn parse(settings: &[(&str, &str)]) -> Result<Config, InvalidSettings> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Config::parse(&raw(settings))
}

fn parsed(settings: &[(&str, &str)]) -> Config {
    parse(&[&[KEY], settings].concat()).unwrap_or_else(|invalid| panic!("{invalid}"))
}

/// The names of the invalid settings, without the prefix.
fn invalid(settings: &[(&str, &str)]) -> Vec<String> {
    let errors = parse(settings).map_or_else(|errors| errors.0, |_| Vec::new());
    let name = |name: &str| name.strip_prefix("ALIM_BRIDGE_").map(String::from);
    let names = errors
        .iter()
        .map(|error| name(&error.name).expect("the name in the environment"));
    names.collect()
}

/// Checks that each of these values, together with a key, is rejected with the name of the setting.
fn assert_rejected(name: &str, values: &[&str]) {
    for value in values {
        assert_eq!(invalid(&[KEY, (name, value)]), [name], "{name}={value}");
    }
}

fn assert_accepted(name: &str, values: &[&str]) {
    for value in values {
        assert!(parse(&[KEY, (name, value)]).is_ok(), "{name}={value}");
    }
}

fn error(settings: &[(&str, &str)]) -> String {
    parse(settings).expect_err("an invalid setting").to_string()
}

#[test]
fn names_and_defaults_do_not_change() {
    let rows: Vec<_> = SETTINGS.iter().map(|row| (row.name, row.default)).collect();
    assert_eq!(rows, DEFAULTS);
}

fn row(setting: &Setting) -> String {
    let default = match setting.default {
        "" => "none".into(),
        default => format!("`{default}`"),
    };
    let help = setting.help.replace('<', "\\<"); // Markdown would hide <key> as a tag
    format!("| `{}` | {default} | {help} |\n", setting.name)
}

#[test]
fn the_page_of_settings_is_the_table() {
    let mut text = String::new();
    for setting in SETTINGS {
        if let Some((_, title)) = GROUPS.iter().find(|(first, _)| *first == setting.name) {
            text += &format!("\n### {title}\n\n| setting | default | meaning |\n|---|---|---|\n");
        }
        text += &row(setting);
    }
    assert_eq!(text.matches("###").count(), GROUPS.len());
    page::check("docs/settings.md", "settings", &text);
}

#[test]
fn all_invalid_settings_are_reported_together() {
    let settings = [
        ("LISTEN", "x"),
        ("RETRIES", "11"),
        ("SSE_FRAMING", "loose"),
        ("TYPO", "1"),
    ];
    let mut names = invalid(&settings);
    names.sort();
    assert_eq!(
        names,
        [
            "LISTEN",
            "RETRIES",
            "SSE_FRAMING",
            "TYPO",
            "UPSTREAM_API_KEY"
        ]
    );
    let text = error(&settings);
    let named = text.lines().filter(|line| line.starts_with("ALIM_BRIDGE_"));
    assert_eq!((named.count(), text.lines().count()), (5, 5), "{text}");
}

#[test]
fn an_unknown_variable_is_an_error_unless_kubernetes_sets_it() {
    for name in ["X", "listen", "LISTEN_", "PORTS", "SERVICE", "APIKEY"] {
        assert_rejected(name, &["1"]);
    }
    assert_accepted("PORT", &["tcp://10.0.0.1:50051"]);
    assert_accepted("PORT_50051_TCP", &["tcp://10.0.0.1:50051"]);
    assert_accepted("PORT_50051_TCP_ADDR", &["10.0.0.1"]);
    assert_accepted("SERVICE_HOST", &["10.0.0.1"]);
    assert_accepted("SERVICE_PORT_GRPC", &["50051"]);
}

#[test]
fn links_of_a_kubernetes_service_with_the_same_prefix_are_ignored() {
    assert_accepted("ADMIN_SERVICE_HOST", &["10.0.0.1"]);
    assert_accepted("ADMIN_SERVICE_PORT", &["9464"]);
    assert_accepted("ADMIN_SERVICE_PORT_METRICS", &["9464"]);
    assert_accepted("ADMIN_PORT", &["tcp://10.0.0.1:9464"]);
    assert_accepted("ADMIN_PORT_9464_UDP", &["udp://10.0.0.1:9464"]);
    assert_accepted("ADMIN_PORT_9464_TCP_PROTO", &["tcp"]);
    assert_accepted("OF_TWO_WORDS_PORT_9464_TCP_PORT", &["9464"]);
    assert_rejected("ADMIN_PORT", &["9464", "0.0.0.0:9464"]);
    assert_rejected("ADMIN_PORT_X_TCP", &["tcp://10.0.0.1:9464"]);
    assert_rejected("ADMINSERVICE_HOST", &["10.0.0.1"]);
}

#[test]
fn a_typing_error_gets_a_suggestion() {
    for (name, meant) in [
        ("UPSTREAM_APIKEY", Some("UPSTREAM_API_KEY")),
        ("LISTN", Some("LISTEN")),
        ("log_format", Some("LOG_FORMAT")),
        ("MAX_CONECTIONS", Some("MAX_CONNECTIONS")),
        ("COLOUR", None),
    ] {
        let text = error(&[KEY, (name, "1")]);
        let expected = match meant {
            Some(meant) => format!(
                "ALIM_BRIDGE_{name} is not a setting of alim-bridge: did you mean ALIM_BRIDGE_{meant}?"
            ),
            None => format!("ALIM_BRIDGE_{name} is not a setting of alim-bridge"),
        };
        assert_eq!(text, expected);
    }
}

#[test]
fn variables_without_the_prefix_are_ignored() {
    let mut raw = raw(&[KEY]);
    raw.add_environment([
        ("LISTEN".into(), "x".into()),
        ("ALIM_ADDRESS".into(), "x".into()),
    ]);
    assert!(Config::parse(&raw).is_ok());
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let config = parsed(&[("LISTEN", ""), ("ADMIN_LISTEN", ""), ("MAX_CALLS", "")]);
    assert_eq!(config.listen.to_string(), "127.0.0.1:50051");
    assert!(config.admin_listen.is_some());
    assert_eq!(config.server.max_calls, 4096);
    assert_eq!(invalid(&[("UPSTREAM_API_KEY", "")]), ["UPSTREAM_API_KEY"]);
}

#[test]
fn an_empty_flag_counts_as_unset() {
    let mut raw = raw(&[KEY]);
    for name in ["LISTEN", "ADMIN_LISTEN", "UPSTREAM_API_KEY"] {
        raw.add_flag(name, String::new());
    }
    let config = Config::parse(&raw).unwrap_or_else(|invalid| panic!("{invalid}"));
    assert_eq!(config.listen.to_string(), "127.0.0.1:50051");
    assert!(config.admin_listen.is_some());
}

#[test]
fn a_flag_overrides_the_environment_in_either_order() {
    let environment = || [("ALIM_BRIDGE_RETRIES".into(), "1".into())];
    let mut last = raw(&[KEY]);
    last.add_environment(environment());
    last.add_flag("RETRIES", "7".into());
    let mut first = raw(&[KEY]);
    first.add_flag("RETRIES", "7".into());
    first.add_environment(environment());
    for raw in [last, first] {
        let config = Config::parse(&raw).expect("valid");
        assert_eq!(config.upstream.retries, 7);
    }
}
