//! The command that shows a bridge's state in a terminal.

use std::{path::PathBuf, time::Duration};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use url::Url;

use super::{option, target::secret, text};
use crate::client::{Error, has_userinfo, top::Settings};

pub(super) fn command() -> Command {
    Command::new("top")
        .about("Show a bridge's open calls, failures and limits, refreshed until Ctrl-C")
        .arg(
            option("admin", "URL", "The bridge's admin port: host:port, or a URL")
                .default_value("127.0.0.1:9464")
                .env("ALIM_ADMIN"),
        )
        .arg(
            option(
                "admin-token-file",
                "PATH",
                "File with the token that the port needs beyond loopback [env, the token: ALIM_ADMIN_TOKEN]",
            )
            .value_parser(value_parser!(PathBuf)),
        )
        .arg(
            option("interval", "DURATION", "Time between two frames")
                .default_value("2s")
                .value_parser(interval),
        )
        .arg(
            Arg::new("once")
                .long("once")
                .action(ArgAction::SetTrue)
                .help("Print one frame, as without a terminal"),
        )
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match interval >= Duration::from_millis(100) {
        true => Ok(interval),
        false => Err("at least 100ms".into()),
    }
}

/// Reads what `top` shows.
///
/// # Errors
///
/// - [`Error::Usage`] if the URL or the token's file can't be used.
pub fn top_settings(
    matches: &ArgMatches,
    vars: impl Iterator<Item = (String, String)>,
) -> Result<Settings, Error> {
    let admin = text(matches, "admin").expect("it has a default");
    let url = match admin.contains("://") {
        true => admin.clone(),
        false => format!("http://{admin}"),
    };
    let url = Url::parse(&url).ok().filter(|url| url.has_host());
    let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && !has_userinfo(&admin));
    let usage =
        || Error::Usage("--admin must be host:port or a URL, without a user or password".into());
    Ok(Settings {
        admin: url.ok_or_else(usage)?,
        token: secret(
            matches,
            "admin-token-file",
            "ALIM_ADMIN_TOKEN",
            &vars.collect(),
        )?,
        interval: *matches.get_one("interval").expect("it has a default"),
        is_once: matches.get_flag("once"),
    })
}
