//! The command that serves the embedded ALİM.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{ArgMatches, Command, value_parser};

use super::{Error, option, setting, target::secret, text};
use crate::{
    emulator::{self, OverLimit, RateLimit},
    quota::Rate,
};

/// Settings of `emulate`, and their defaults there.
pub const EMULATE: &[(&str, &str)] = &[("LOG", "info"), ("LOG_FORMAT", "auto")];

pub(super) fn command() -> Command {
    Command::new("emulate")
        .about("Serve the embedded ALİM alone: deterministic answers, faults on demand")
        .arg(
            option("listen", "ADDRESS", "Where to serve it")
                .default_value("127.0.0.1:8000")
                .value_parser(value_parser!(SocketAddr)),
        )
        .arg(
            option("token-delay", "DURATION", "Between two tokens")
                .default_value("30ms")
                .value_parser(humantime::parse_duration),
        )
        .arg(
            option(
                "api-key-file",
                "PATH",
                "Holds the key that it accepts [default: the guide's] [env, the key: ALIM_EMULATOR_API_KEY]",
            )
            .value_parser(value_parser!(PathBuf)),
        )
        .arg(
            option(
                "rate-limit",
                "RATE",
                "Requests that a key may send, such as 30/min as ALİM's; rejected ones count too [default: no limit]",
            )
            .value_parser(value_parser!(Rate)),
        )
        .arg(
            option(
                "rate-limit-status",
                "STATUS",
                "What a request beyond it gets: 500 as ALİM gives today, or 429 with Retry-After",
            )
            .default_value("500")
            .value_parser(["500", "429"]),
        )
        .args(EMULATE.iter().map(setting))
}

/// Where `emulate` listens, and how it answers.
///
/// # Errors
///
/// - [`Error::Usage`] when the key's file can't be used.
pub fn emulator(
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
