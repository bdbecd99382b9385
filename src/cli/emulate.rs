//! The command that serves the embedded ALİM.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{ArgMatches, Command, value_parser};

use super::{Error, option, setting_flag, target::secret, text};
use crate::{
    emulator::{self, OverLimit, RateLimit},
    quota::Rate,
};

/// Settings of `emulate`, with their defaults there.
pub const EMULATE: &[(&str, &str)] = &[("LOG", "info"), ("LOG_FORMAT", "auto")];

pub(super) fn command() -> Command {
    Command::new("emulate")
        .about("Serve only the embedded ALİM: deterministic answers, faults on demand")
        .arg(
            option("listen", "ADDRESS", "Address to serve it on")
                .default_value("127.0.0.1:8000")
                .value_parser(value_parser!(SocketAddr)),
        )
        .arg(
            option("token-delay", "DURATION", "Time between two tokens")
                .default_value("30ms")
                .value_parser(humantime::parse_duration),
        )
        .arg(
            option(
                "api-key-file",
                "PATH",
                "File with the key that it accepts [default key: dev-api-key-change-in-production] [env, the key: ALIM_EMULATOR_API_KEY]",
            )
            .value_parser(value_parser!(PathBuf)),
        )
        .arg(
            option(
                "rate-limit",
                "RATE",
                "Requests that a key may send, such as ALİM's 30/min; rejected ones count too [default: no limit]",
            )
            .value_parser(value_parser!(Rate)),
        )
        .arg(
            option(
                "rate-limit-status",
                "STATUS",
                "Status of requests above it: 500, as ALİM answers today, or 429 with Retry-After",
            )
            .default_value("500")
            .value_parser(["500", "429"]),
        )
        .args(EMULATE.iter().map(setting_flag))
}

/// Reads the address of `emulate` and the emulator's settings.
///
/// # Errors
///
/// - [`Error::Usage`] if the key's file can't be used.
pub fn emulator_settings(
    matches: &ArgMatches,
    vars: impl Iterator<Item = (String, String)>,
) -> Result<(SocketAddr, emulator::Settings), Error> {
    let mut settings = emulator::Settings::default();
    if let Some(delay) = matches.get_one::<Duration>("token-delay") {
        settings.token_delay = *delay;
    }
    if let Some(rate) = matches.get_one::<Rate>("rate-limit") {
        let over_limit = match text(matches, "rate-limit-status").as_deref() {
            Some("429") => OverLimit::TooManyRequests,
            _ => OverLimit::Crash,
        };
        settings.rate_limit = Some(RateLimit {
            rate: *rate,
            over_limit,
        });
    }
    let vars = vars.collect();
    if let Some(key) = secret(matches, "api-key-file", "ALIM_EMULATOR_API_KEY", &vars)? {
        settings.api_key = key;
    }
    let listen = matches
        .get_one::<SocketAddr>("listen")
        .expect("it has a default");
    Ok((*listen, settings))
}
