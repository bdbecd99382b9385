//! Parses the raw settings one at a time, and collects the invalid ones.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use bytesize::ByteSize;
use tracing_subscriber::EnvFilter;
use url::Url;

use super::{MAX_DURATION, PREFIX, names, raw::RawSettings};
use crate::{
    callers::TrustedProxies, middleware::origins::Origins, quota::Rate, reload::Reload, server::tls,
};

const URL_RULE: &str = "an http or https URL with a host, and no user, query or fragment";

/// One invalid setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidSetting {
    /// The name of its environment variable.
    pub name: String,
    /// What is wrong, and which values are valid.
    pub text: String,
}

/// All invalid settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidSettings(pub Vec<InvalidSetting>);

impl fmt::Display for InvalidSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self
            .0
            .iter()
            .map(|invalid| format!("{} {}", invalid.name, invalid.text));
        f.write_str(&lines.collect::<Vec<_>>().join("\n"))
    }
}

impl std::error::Error for InvalidSettings {}

/// Parses settings one by one. If one is invalid, the reader records that and returns a fallback, so that all
/// invalid settings are found.
pub(super) struct Reader<'a> {
    raw: &'a RawSettings,
    invalid: Vec<InvalidSetting>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(raw: &'a RawSettings) -> Self {
        let unknown = raw.unknown().iter();
        let invalid = unknown.map(|name| InvalidSetting {
            name: name.clone(),
            text: match name.strip_prefix(PREFIX).and_then(names::closest) {
                Some(closest) => {
                    format!("is not a setting of alim-bridge: did you mean {PREFIX}{closest}?")
                }
                None => "is not a setting of alim-bridge".into(),
            },
        });
        let invalid = invalid.collect();
        Self { raw, invalid }
    }

    pub(super) fn finish<T>(self, config: T) -> Result<T, InvalidSettings> {
        match self.invalid.is_empty() {
            true => Ok(config),
            false => Err(InvalidSettings(self.invalid)),
        }
    }

    pub(super) fn reject(&mut self, name: &str, text: impl Into<String>) {
        let (name, text) = (format!("{PREFIX}{name}"), text.into());
        self.invalid.push(InvalidSetting { name, text });
    }

    pub(super) fn is_invalid(&self, name: &str) -> bool {
        self.invalid
            .iter()
            .filter_map(|invalid| invalid.name.strip_prefix(PREFIX))
            .any(|invalid| invalid == name)
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.raw.get(name).map(String::from)
    }

    pub(super) fn optional<T>(
        &mut self,
        name: &str,
        read: impl Fn(&mut Self, &str) -> T,
    ) -> Option<T> {
        self.raw.get(name)?;
        Some(read(self, name))
    }

    pub(super) fn unless_off<T>(
        &mut self,
        name: &str,
        read: impl Fn(&mut Self, &str) -> T,
    ) -> Option<T> {
        self.unless("off", name, read)
    }

    pub(super) fn unless_auto<T>(
        &mut self,
        name: &str,
        read: impl Fn(&mut Self, &str) -> T,
    ) -> Option<T> {
        self.unless("auto", name, read)
    }

    fn unless<T>(
        &mut self,
        word: &str,
        name: &str,
        read: impl Fn(&mut Self, &str) -> T,
    ) -> Option<T> {
        let value = self.raw.get(name).filter(|value| *value != word);
        value.is_some().then(|| read(self, name))
    }

    /// Parses a setting that has a default. The error never contains the value, because it can be a key in
    /// the wrong variable.
    fn parse<T>(
        &mut self,
        name: &str,
        rule: &str,
        parse: impl Fn(&str) -> Option<T>,
        fallback: T,
    ) -> T {
        let value = self.raw.get(name).unwrap_or_default();
        parse(value).unwrap_or_else(|| {
            self.reject(name, format!("must be {rule}"));
            fallback
        })
    }

    pub(super) fn address(&mut self, name: &str) -> SocketAddr {
        let fallback = SocketAddr::from(([127, 0, 0, 1], 0));
        let rule = "an IP address and a port, such as 127.0.0.1:50051 or [::]:50051";
        self.parse(name, rule, |text| text.parse().ok(), fallback)
    }

    pub(super) fn url(&mut self, name: &str) -> Url {
        let fallback = Url::parse("http://localhost").expect("a URL");
        self.parse(name, URL_RULE, parse_url, fallback)
    }

    /// Rejects a variable of OpenTelemetry that has no URL.
    pub(super) fn reject_variable(&mut self, name: &str) {
        let text = format!("must be {URL_RULE}");
        let name = name.to_owned();
        self.invalid.push(InvalidSetting { name, text });
    }

    pub(super) fn duration(&mut self, name: &str) -> Duration {
        let rule = "a duration above zero and up to a year with its unit, such as 500ms, 3s or 15m";
        let parse = |text: &str| parse_duration(text).filter(|duration| !duration.is_zero());
        self.parse(name, rule, parse, MAX_DURATION)
    }

    pub(super) fn duration_or_zero(&mut self, name: &str) -> Duration {
        let rule = "a duration up to a year with its unit, such as 0s, 500ms or 15m";
        self.parse(name, rule, parse_duration, MAX_DURATION)
    }

    pub(super) fn bytes(&mut self, name: &str) -> usize {
        let rule = "a number of bytes between 1 and 1GiB, such as 4MiB or 65536";
        let parse = |text: &str| {
            let size = text.parse::<ByteSize>().ok()?.as_u64();
            let size = usize::try_from(size).ok()?;
            (1..=1 << 30).contains(&size).then_some(size)
        };
        self.parse(name, rule, parse, 1)
    }

    pub(super) fn memory(&mut self, name: &str) -> usize {
        let rule = "auto, or a number of bytes, such as 512MiB";
        let parse = |text: &str| {
            let size = text.parse::<ByteSize>().ok()?.as_u64();
            usize::try_from(size).ok()
        };
        self.parse(name, rule, parse, usize::MAX)
    }

    pub(super) fn number(&mut self, name: &str) -> u32 {
        let parse = |text: &str| text.parse().ok().filter(|number| *number <= 10);
        self.parse(name, "a whole number from 0 to 10", parse, 0)
    }

    pub(super) fn count(&mut self, name: &str) -> usize {
        let parse = |text: &str| {
            text.parse()
                .ok()
                .filter(|count| (1..=1_000_000).contains(count))
        };
        self.parse(name, "a whole number from 1 to 1000000", parse, 1)
    }

    pub(super) fn replicas(&mut self, name: &str) -> u32 {
        let parse = |text: &str| text.parse().ok().filter(|count| (1..=1000).contains(count));
        self.parse(name, "a whole number from 1 to 1000", parse, 1)
    }

    pub(super) fn rate(&mut self, name: &str) -> Option<Rate> {
        let rule = format!("off, or {}", Rate::RULE);
        let parse = |text: &str| text.parse().ok().map(Some);
        self.parse(name, &rule, parse, None)
    }

    pub(super) fn choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)]) -> T {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        let find = |text: &str| {
            choices
                .iter()
                .find(|(name, _)| *name == text)
                .map(|found| found.1)
        };
        self.parse(
            name,
            &format!("one of {}", names.join(", ")),
            find,
            choices[0].1,
        )
    }

    /// The errors name invalid origins by their position, because values are never repeated.
    pub(super) fn origins(&mut self, name: &str) -> Option<Origins> {
        let invalid = match Origins::parse(&self.text(name)?) {
            Ok(origins) => return Some(origins),
            Err(invalid) => invalid,
        };
        for index in invalid {
            self.reject(name, format!("must be off, * alone, or origins as browsers send them, such as https://app.example.az or http://localhost:3000: entry {index} is not an origin"));
        }
        None
    }

    /// The errors name invalid networks by their position, because values are never repeated.
    pub(super) fn trusted_proxies(&mut self, name: &str) -> TrustedProxies {
        let text = self.text(name).unwrap_or_default();
        let invalid = match TrustedProxies::parse(&text) {
            Ok(proxies) => return proxies,
            Err(invalid) => invalid,
        };
        for index in invalid {
            self.reject(name, format!("must be networks such as 10.0.0.0/8 or 127.0.0.1=l5d-client-id: entry {index} is not a network"));
        }
        TrustedProxies::default()
    }

    pub(super) fn log_filter(&mut self, name: &str) -> EnvFilter {
        let parse = |text: &str| EnvFilter::from_str(text).ok();
        self.parse(
            name,
            "a filter such as info or alim_bridge=debug",
            parse,
            EnvFilter::default(),
        )
    }

    pub(super) fn certificates(&mut self, name: &str) -> Option<Vec<u8>> {
        let path = self.text(name)?;
        let content = std::fs::read(&path).map_err(|error| error.to_string());
        let checked = content.and_then(|pem| tls::authorities(&pem).map(|_| pem));
        checked
            .map_err(|why| self.reject(name, format!("can't be used: {why}")))
            .ok()
    }

    /// Whether the file can be read, or is not set. The error does not contain the path, because it can be a
    /// key in the wrong variable.
    pub(super) fn is_readable(&mut self, name: &str) -> bool {
        let Some(path) = self.text(name) else {
            return true;
        };
        let read = std::fs::read(path);
        read.map_err(|error| self.reject(name, format!("can't be used: {error}")))
            .is_ok()
    }

    pub(super) fn reload<T: 'static>(
        &mut self,
        name: &str,
        parse: fn(&[Vec<u8>]) -> Result<T, String>,
    ) -> Option<Reload<T>> {
        let path = PathBuf::from(self.text(name)?);
        match Reload::files(vec![path], parse) {
            Ok(value) => Some(value),
            Err(error) => {
                self.reject(name, format!("can't be used: {error}"));
                None
            }
        }
    }
}

pub(super) fn parse_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let is_plain = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    (matches!(url.scheme(), "http" | "https") && url.has_host() && is_plain).then_some(url)
}

fn parse_duration(text: &str) -> Option<Duration> {
    let has_unit = text.ends_with(|char: char| char.is_ascii_alphabetic());
    let duration = humantime::parse_duration(text).ok()?;
    (has_unit && duration <= MAX_DURATION).then_some(duration)
}
