//! Raw strings, and the reading of one setting at a time, faults collected.

use std::{
    collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration,
};

use bytesize::ByteSize;
use tracing_subscriber::EnvFilter;
use url::Url;

use super::{MAX_DURATION, PREFIX, SETTINGS, names};
use crate::{
    callers::TrustedProxies, middleware::origins::Origins, quota::Rate, reload::Reload, server::tls,
};

/// What was typed: the flags, and the environment's variables that begin with [`PREFIX`]. Keys are among
/// them, so it can't be shown by Debug.
#[derive(Default)]
pub struct Strings {
    values: BTreeMap<&'static str, String>,
    unknown: Vec<String>,
    other_protocol: Option<&'static str>,
}

impl Strings {
    /// Takes in the environment; an empty value counts as unset. OpenTelemetry's own variables name the
    /// collector where no setting of ours does.
    pub fn environment(&mut self, vars: impl IntoIterator<Item = (String, String)>) {
        let mut otel = BTreeMap::new();
        for (name, value) in vars {
            let Some(rest) = name.strip_prefix(PREFIX) else {
                if name.starts_with("OTEL_") && !value.is_empty() {
                    otel.insert(name, value);
                }
                continue;
            };
            match SETTINGS.iter().find(|setting| setting.name == rest) {
                Some(_) if value.is_empty() => {}
                Some(setting) => drop(self.values.entry(setting.name).or_insert(value)),
                None if names::is_injected(rest, &value) => {}
                None => self.unknown.push(name),
            }
        }
        self.open_telemetry(&otel);
    }

    /// The variables of OpenTelemetry that decide whether there are traces, and where they go; the rest
    /// are the SDK's. A setting of ours goes before them.
    fn open_telemetry(&mut self, vars: &BTreeMap<String, String>) {
        let var = |name: &str| vars.get(name).map(String::as_str);
        let first = |names: [&'static str; 2]| {
            let mut found = names
                .into_iter()
                .filter_map(|name| Some((name, var(name)?)));
            found.next()
        };
        let endpoint = first([
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "OTEL_EXPORTER_OTLP_ENDPOINT",
        ]);
        let protocol = first([
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
            "OTEL_EXPORTER_OTLP_PROTOCOL",
        ]);
        let is_off = var("OTEL_SDK_DISABLED").is_some_and(|word| word.eq_ignore_ascii_case("true"))
            || var("OTEL_TRACES_EXPORTER") == Some("none");
        let Some((_, endpoint)) = endpoint.filter(|_| !is_off) else {
            return;
        };
        if let Some((name, _)) = protocol.filter(|(_, protocol)| *protocol != "grpc") {
            self.other_protocol = Some(name);
            return;
        }
        // gRPC's exporters take a bare host and port too.
        let endpoint = match endpoint.contains("://") {
            true => endpoint.to_owned(),
            false => format!("http://{endpoint}"),
        };
        self.values.entry("OTLP_ENDPOINT").or_insert(endpoint);
    }

    /// The variable of OpenTelemetry that asks for a protocol which is not spoken here, where spans would
    /// else have somewhere to go.
    pub(super) fn passed_over(&self) -> Option<&'static str> {
        self.other_protocol
            .filter(|_| self.get("OTLP_ENDPOINT").is_none())
    }

    /// Takes in a flag, which goes before the environment; an empty value counts as unset.
    pub fn flag(&mut self, name: &'static str, value: String) {
        if !value.is_empty() {
            self.values.insert(name, value);
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        let setting = SETTINGS.iter().find(|setting| setting.name == name);
        let setting = setting.unwrap_or_else(|| panic!("{name} stands in the table"));
        let value = self.values.get(name).map(String::as_str);
        value
            .or(Some(setting.default))
            .filter(|value| !value.is_empty())
    }
}

/// One setting that can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its name in the environment.
    pub name: String,
    /// What is wrong, and what would be right.
    pub text: String,
}

/// All settings that can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self
            .0
            .iter()
            .map(|fault| format!("{} {}", fault.name, fault.text));
        f.write_str(&lines.collect::<Vec<_>>().join("\n"))
    }
}

impl std::error::Error for Faults {}

/// Reads settings one by one; a fault is noted and a stand-in given, so that reading goes on.
pub(super) struct Reader<'a> {
    strings: &'a Strings,
    faults: Vec<Fault>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(strings: &'a Strings) -> Self {
        let unknown = strings.unknown.iter();
        let faults = unknown.map(|name| Fault {
            name: name.clone(),
            text: match name.strip_prefix(PREFIX).and_then(names::closest) {
                Some(closest) => {
                    format!("is no setting of alim-bridge: did you mean {PREFIX}{closest}?")
                }
                None => "is no setting of alim-bridge".into(),
            },
        });
        let faults = faults.collect();
        Self { strings, faults }
    }

    pub(super) fn finish<T>(self, config: T) -> Result<T, Faults> {
        match self.faults.is_empty() {
            true => Ok(config),
            false => Err(Faults(self.faults)),
        }
    }

    pub(super) fn fault(&mut self, name: &str, text: impl Into<String>) {
        let (name, text) = (format!("{PREFIX}{name}"), text.into());
        self.faults.push(Fault { name, text });
    }

    pub(super) fn is_faulty(&self, name: &str) -> bool {
        let faulty = self.faults.iter();
        faulty
            .filter_map(|fault| fault.name.strip_prefix(PREFIX))
            .any(|faulty| faulty == name)
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.strings.get(name).map(String::from)
    }

    pub(super) fn optional<T>(
        &mut self,
        name: &str,
        read: impl Fn(&mut Self, &str) -> T,
    ) -> Option<T> {
        self.strings.get(name)?;
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
        let value = self.strings.get(name).filter(|value| *value != word);
        value.is_some().then(|| read(self, name))
    }

    /// Parses a setting that has a default; the value itself is never repeated, for it may be a key
    /// that was put in the wrong place.
    fn parsed<T>(
        &mut self,
        name: &str,
        rule: &str,
        parse: impl Fn(&str) -> Option<T>,
        stand_in: T,
    ) -> T {
        let value = self.strings.get(name).unwrap_or_default();
        parse(value).unwrap_or_else(|| {
            self.fault(name, format!("must be {rule}"));
            stand_in
        })
    }

    pub(super) fn address(&mut self, name: &str) -> SocketAddr {
        let stand_in = SocketAddr::from(([127, 0, 0, 1], 0));
        let rule = "an IP address and a port, such as 127.0.0.1:50051 or [::]:50051";
        self.parsed(name, rule, |text| text.parse().ok(), stand_in)
    }

    pub(super) fn url(&mut self, name: &str) -> Url {
        let stand_in = Url::parse("http://localhost").expect("a URL");
        let rule = "an http or https URL with a host, and no user, query or fragment";
        self.parsed(name, rule, parse_url, stand_in)
    }

    pub(super) fn duration(&mut self, name: &str) -> Duration {
        let rule = "a duration above zero and up to a year with its unit, such as 500ms, 3s or 15m";
        let parse = |text: &str| parse_duration(text).filter(|duration| !duration.is_zero());
        self.parsed(name, rule, parse, MAX_DURATION)
    }

    pub(super) fn duration_or_zero(&mut self, name: &str) -> Duration {
        let rule = "a duration up to a year with its unit, such as 0s, 500ms or 15m";
        self.parsed(name, rule, parse_duration, MAX_DURATION)
    }

    pub(super) fn bytes(&mut self, name: &str) -> usize {
        let rule = "a number of bytes between 1 and 1GiB, such as 4MiB or 65536";
        let parse = |text: &str| {
            let size = text.parse::<ByteSize>().ok()?.as_u64();
            let size = usize::try_from(size).ok()?;
            (1..=1 << 30).contains(&size).then_some(size)
        };
        self.parsed(name, rule, parse, 1)
    }

    pub(super) fn memory(&mut self, name: &str) -> usize {
        let rule = "auto, or a number of bytes, such as 512MiB";
        let parse = |text: &str| {
            let size = text.parse::<ByteSize>().ok()?.as_u64();
            usize::try_from(size).ok()
        };
        self.parsed(name, rule, parse, usize::MAX)
    }

    pub(super) fn number(&mut self, name: &str) -> u32 {
        let parse = |text: &str| text.parse().ok().filter(|number| *number <= 10);
        self.parsed(name, "a whole number from 0 to 10", parse, 0)
    }

    pub(super) fn count(&mut self, name: &str) -> usize {
        let parse = |text: &str| {
            text.parse()
                .ok()
                .filter(|count| (1..=1_000_000).contains(count))
        };
        self.parsed(name, "a whole number from 1 to 1000000", parse, 1)
    }

    pub(super) fn rate(&mut self, name: &str) -> Option<Rate> {
        let rule = format!("off, or {}", Rate::RULE);
        let parse = |text: &str| text.parse().ok().map(Some);
        self.parsed(name, &rule, parse, None)
    }

    pub(super) fn choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)]) -> T {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        let find = |text: &str| {
            choices
                .iter()
                .find(|(name, _)| *name == text)
                .map(|found| found.1)
        };
        self.parsed(
            name,
            &format!("one of {}", names.join(", ")),
            find,
            choices[0].1,
        )
    }

    /// Each origin at fault is told by its place, for none is repeated.
    pub(super) fn origins(&mut self, name: &str) -> Option<Origins> {
        let wrong = match Origins::parse(&self.text(name)?) {
            Ok(origins) => return Some(origins),
            Err(wrong) => wrong,
        };
        for place in wrong {
            self.fault(name, format!("must be off, * alone, or origins as browsers send them, such as https://app.example.az or http://localhost:3000: number {place} is no origin"));
        }
        None
    }

    /// Each network at fault is told by its place, for none is repeated.
    pub(super) fn trusted_proxies(&mut self, name: &str) -> TrustedProxies {
        let text = self.text(name).unwrap_or_default();
        let wrong = match TrustedProxies::parse(&text) {
            Ok(proxies) => return proxies,
            Err(wrong) => wrong,
        };
        for place in wrong {
            self.fault(name, format!("must be networks such as 10.0.0.0/8 or 127.0.0.1=l5d-client-id: number {place} is none"));
        }
        TrustedProxies::default()
    }

    pub(super) fn log_filter(&mut self, name: &str) -> EnvFilter {
        let parse = |text: &str| EnvFilter::from_str(text).ok();
        self.parsed(
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
            .map_err(|why| self.fault(name, format!("can't be used: {why}")))
            .ok()
    }

    /// A file that is named can be read; the path is not repeated, for it may be a key.
    pub(super) fn is_readable(&mut self, name: &str) -> bool {
        let Some(path) = self.text(name) else {
            return true;
        };
        let read = std::fs::read(path);
        read.map_err(|error| self.fault(name, format!("can't be used: {error}")))
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
                self.fault(name, format!("can't be used: {error}"));
                None
            }
        }
    }
}

fn parse_url(text: &str) -> Option<Url> {
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
