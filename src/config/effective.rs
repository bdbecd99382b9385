//! The effective settings: every name with the value in use, and no key.
//!
//! `serve --check` and the log line `serving` show them. Where a value is `auto`, its result is shown.

use super::{Config, RawSettings, SETTINGS};

/// Shown in place of a key.
const HIDDEN: &str = "<hidden>";

/// All settings in the table's order, each with its value; empty if it is not set.
pub(super) fn effective(raw: &RawSettings, config: &Config) -> Vec<(&'static str, String)> {
    let value = |name| match (name, raw.get(name)) {
        ("UPSTREAM_API_KEY", Some(_)) => HIDDEN.into(),
        ("MEMORY_LIMIT", Some("auto")) => format!("{}B", config.server.memory_limit),
        ("UPSTREAM_HEALTH_INTERVAL", Some("auto")) => {
            humantime::format_duration(config.server.health_interval).to_string()
        }
        ("LOG_FORMAT", Some("auto")) => match config.logs.format.is_json() {
            true => "json".into(),
            false => "text".into(),
        },
        (_, value) => value.unwrap_or_default().to_owned(),
    };
    let names = SETTINGS.iter().map(|setting| setting.name);
    names.map(|name| (name, value(name))).collect()
}
