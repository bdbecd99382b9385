//! Settings: what was typed, as flags or in the environment, and what the bridge makes of it.
//!
//! Every fault stands in a table, so that a rule that is loosened shows as the row that it lets in.
//! The environment is handed in: none of these tests reads or writes the real one.

mod files;
mod values;

use std::fs;

use alim_bridge::config::{Config, InvalidSettings, RawSettings, SETTINGS, Setting};

/// All that has no default.
const KEY: (&str, &str) = ("UPSTREAM_API_KEY", "k");

/// DESIGN's table.
const DEFAULTS: &[(&str, &str)] = &[
    ("LISTEN", "127.0.0.1:50051"),
    ("ADMIN_LISTEN", "127.0.0.1:9464"),
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
    ("DRAIN_DELAY", "0s"),
    ("DRAIN_TIMEOUT", "25s"),
    ("LOG_FORMAT", "auto"),
    ("LOG", "info"),
    ("ACCESS_LOG", "on"),
    ("OTLP_ENDPOINT", ""),
];

/// These settings in the environment, named without the prefix.
fn typed(settings: &[(&str, &str)]) -> RawSettings {
    let vars = settings
        .iter()
        .map(|(name, value)| (format!("ALIM_BRIDGE_{name}"), (*value).to_owned()));
    let mut raw = RawSettings::default();
    raw.add_environment(vars);
    raw
}

fn parse(settings: &[(&str, &str)]) -> Result<Config, InvalidSettings> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Config::parse(&typed(settings))
}

fn parsed(settings: &[(&str, &str)]) -> Config {
    parse(&[&[KEY], settings].concat()).unwrap_or_else(|faults| panic!("{faults}"))
}

/// The names of the settings at fault, without the prefix.
fn at_fault(settings: &[(&str, &str)]) -> Vec<String> {
    let faults = parse(settings).map_or_else(|faults| faults.0, |_| Vec::new());
    let name = |name: &str| name.strip_prefix("ALIM_BRIDGE_").map(String::from);
    let names = faults
        .iter()
        .map(|fault| name(&fault.name).expect("the name in the environment"));
    names.collect()
}

/// Each of these values, beside a key, is refused under the name it was typed for.
fn assert_refused(name: &str, values: &[&str]) {
    for value in values {
        assert_eq!(at_fault(&[KEY, (name, value)]), [name], "{name}={value}");
    }
}

fn assert_taken(name: &str, values: &[&str]) {
    for value in values {
        assert!(parse(&[KEY, (name, value)]).is_ok(), "{name}={value}");
    }
}

fn told(settings: &[(&str, &str)]) -> String {
    parse(settings).expect_err("a fault").to_string()
}

#[test]
fn names_and_defaults_are_those_of_the_design() {
    let rows: Vec<_> = SETTINGS.iter().map(|row| (row.name, row.default)).collect();
    assert_eq!(rows, DEFAULTS);
}

fn readme_row(row: &Setting) -> String {
    let default = match row.default {
        "" => "none".into(),
        default => format!("`{default}`"),
    };
    let help = row.help.replace('<', "\\<"); // else Markdown takes <key> for a tag and hides it
    format!("| `{}` | {default} | {help} |", row.name)
}

#[test]
fn the_readme_lists_every_setting_as_it_is() {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"));
    let readme = readme.expect("README.md");
    let lines = readme.lines().map(str::trim);
    let mut table = lines.skip_while(|line| *line != "| setting | default | meaning |");
    assert!(table.next().is_some(), "no table of settings");
    let rows: Vec<_> = table.take_while(|line| line.starts_with('|')).collect();
    let expected: Vec<_> = SETTINGS.iter().map(readme_row).collect();
    assert_eq!(rows[0], "|---|---|---|");
    for (row, expected) in rows[1..].iter().zip(&expected) {
        assert_eq!(row, expected);
    }
    assert_eq!(rows.len() - 1, expected.len(), "all rows and no others");
}

#[test]
fn every_fault_is_told_at_once_under_its_name() {
    let typed = [
        ("LISTEN", "x"),
        ("RETRIES", "11"),
        ("SSE_FRAMING", "loose"),
        ("TYPO", "1"),
    ];
    let mut names = at_fault(&typed);
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
    let text = told(&typed);
    let named = text.lines().filter(|line| line.starts_with("ALIM_BRIDGE_"));
    assert_eq!((named.count(), text.lines().count()), (5, 5), "{text}");
}

#[test]
fn an_unknown_name_is_a_fault_unless_kubernetes_put_it_there() {
    for name in ["X", "listen", "LISTEN_", "PORTS", "SERVICE", "APIKEY"] {
        assert_refused(name, &["1"]);
    }
    assert_taken("PORT", &["tcp://10.0.0.1:50051"]);
    assert_taken("PORT_50051_TCP", &["tcp://10.0.0.1:50051"]);
    assert_taken("PORT_50051_TCP_ADDR", &["10.0.0.1"]);
    assert_taken("SERVICE_HOST", &["10.0.0.1"]);
    assert_taken("SERVICE_PORT_GRPC", &["50051"]);
}

#[test]
fn the_links_of_a_service_whose_name_begins_as_ours_are_passed_over() {
    assert_taken("ADMIN_SERVICE_HOST", &["10.0.0.1"]);
    assert_taken("ADMIN_SERVICE_PORT", &["9464"]);
    assert_taken("ADMIN_SERVICE_PORT_METRICS", &["9464"]);
    assert_taken("ADMIN_PORT", &["tcp://10.0.0.1:9464"]);
    assert_taken("ADMIN_PORT_9464_UDP", &["udp://10.0.0.1:9464"]);
    assert_taken("ADMIN_PORT_9464_TCP_PROTO", &["tcp"]);
    assert_taken("OF_TWO_WORDS_PORT_9464_TCP_PORT", &["9464"]);
    assert_refused("ADMIN_PORT", &["9464", "0.0.0.0:9464"]);
    assert_refused("ADMIN_PORT_X_TCP", &["tcp://10.0.0.1:9464"]);
    assert_refused("ADMINSERVICE_HOST", &["10.0.0.1"]);
}

#[test]
fn a_typing_error_gets_the_setting_that_was_meant() {
    for (name, meant) in [
        ("UPSTREAM_APIKEY", Some("UPSTREAM_API_KEY")),
        ("LISTN", Some("LISTEN")),
        ("log_format", Some("LOG_FORMAT")),
        ("MAX_CONECTIONS", Some("MAX_CONNECTIONS")),
        ("COLOUR", None),
    ] {
        let text = told(&[KEY, (name, "1")]);
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
fn names_without_the_prefix_are_not_ours() {
    let mut raw = typed(&[KEY]);
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
    assert_eq!(at_fault(&[("UPSTREAM_API_KEY", "")]), ["UPSTREAM_API_KEY"]);
}

#[test]
fn an_empty_flag_counts_as_unset() {
    let mut raw = typed(&[KEY]);
    for name in ["LISTEN", "ADMIN_LISTEN", "UPSTREAM_API_KEY"] {
        raw.add_flag(name, String::new());
    }
    let config = Config::parse(&raw).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(config.listen.to_string(), "127.0.0.1:50051");
    assert!(config.admin_listen.is_some());
}

#[test]
fn a_flag_goes_before_the_environment_whichever_is_read_first() {
    let environment = || [("ALIM_BRIDGE_RETRIES".into(), "1".into())];
    let mut last = typed(&[KEY]);
    last.add_environment(environment());
    last.add_flag("RETRIES", "7".into());
    let mut first = typed(&[KEY]);
    first.add_flag("RETRIES", "7".into());
    first.add_environment(environment());
    for raw in [last, first] {
        let config = Config::parse(&raw).expect("valid");
        assert_eq!(config.upstream.retries, 7);
    }
}
