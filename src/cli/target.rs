//! Reads which bridge a command calls, with which credentials.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use clap::ArgMatches;
use secrecy::SecretString;
use url::Url;

use super::text;
use crate::client::{Error, Target, has_userinfo};

/// Reads the bridge to call.
///
/// # Errors
///
/// - [`Error::Usage`] if a key's file can't be used.
pub fn target(
    matches: &ArgMatches,
    vars: impl Iterator<Item = (String, String)>,
) -> Result<Target, Error> {
    let vars = vars.collect();
    let path = |name| matches.get_one::<PathBuf>(name).cloned();
    Ok(Target {
        address: text(matches, "address").expect("it has a default"),
        ca_file: path("ca-file"),
        identity: path("cert-file").zip(path("key-file")),
        is_insecure: matches.get_flag("insecure"),
        caller_key: secret(matches, "caller-key-file", "ALIM_CALLER_KEY", &vars)?,
        api_key: secret(matches, "api-key-file", "ALIM_API_KEY", &vars)?,
        timeout: matches.get_one::<Duration>("timeout").copied(),
    })
}

/// Reads the URL that `health` checks instead of a bridge.
///
/// # Errors
///
/// - [`Error::Usage`] if it is not a valid URL. The error does not contain it.
pub fn health_url(matches: &ArgMatches) -> Result<Option<Url>, Error> {
    let parse = |text: String| {
        let url = Url::parse(&text).ok().filter(|url| url.has_host());
        let url =
            url.filter(|url| matches!(url.scheme(), "http" | "https") && !has_userinfo(&text));
        url.ok_or_else(|| Error::Usage("--http must be a URL without a user or password".into()))
    };
    text(matches, "http").map(parse).transpose()
}

/// Reads a key from the flag's file, else from the variable. Errors contain neither the key nor the path.
pub(super) fn secret(
    matches: &ArgMatches,
    flag: &str,
    variable: &str,
    vars: &BTreeMap<String, String>,
) -> Result<Option<SecretString>, Error> {
    let key = match matches.get_one::<PathBuf>(flag) {
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| Error::Usage(format!("--{flag} can't be read: {error}")))?,
        None => vars.get(variable).cloned().unwrap_or_default(),
    };
    match key.trim() {
        "" if matches.contains_id(flag) => Err(Error::Usage(format!("--{flag} has no key in it"))),
        "" => Ok(None),
        key => Ok(Some(key.into())),
    }
}
