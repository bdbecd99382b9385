//! OpenTelemetry's variables for metrics. The SDK reads those for traces itself.

use std::{collections::BTreeMap, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use super::{
    Config,
    raw::RawSettings,
    reader::{self, Reader},
};
use crate::telemetry::otlp::Settings;

/// Between two exports, by OpenTelemetry's default.
const INTERVAL: Duration = Duration::from_secs(60);
/// From an export to its answer, by OpenTelemetry's default.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A shorter interval would be a mistake in the unit.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// What the variables say about metrics.
#[derive(Default)]
pub(super) struct MetricsVariables {
    /// `OTEL_SDK_DISABLED`. Like the other variables, it does not outweigh `OTLP_ENDPOINT`.
    is_disabled: bool,
    /// `OTEL_METRICS_EXPORTER` names others than OTLP. It outweighs `OTLP_ENDPOINT`, which would send traces alone otherwise.
    is_other_exporter: bool,
    own_endpoint: Option<String>,
    general_endpoint: Option<String>,
    /// The variable that asks for a protocol other than gRPC.
    other_protocol: Option<&'static str>,
    headers: HeaderMap,
    interval: Option<Duration>,
    timeout: Option<Duration>,
    is_compressed: bool,
}

/// Where metrics are sent, if anywhere.
pub(super) enum Destination {
    /// Nowhere.
    None,
    /// Nowhere, because this variable asks for a protocol other than gRPC.
    Unsupported(&'static str),
    /// There.
    To(Url),
    /// The variable has no URL.
    Invalid(&'static str),
}

const OWN_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT";
const GENERAL_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

impl MetricsVariables {
    pub(super) fn read(vars: &BTreeMap<String, String>) -> Self {
        let var = |name: &str| vars.get(name).map(|value| value.trim());
        let of_either = |name: &str| {
            let own = var(&format!("OTEL_EXPORTER_OTLP_METRICS_{name}"));
            own.or_else(|| var(&format!("OTEL_EXPORTER_OTLP_{name}")))
        };
        let millis = |value: &str| value.parse().ok().map(Duration::from_millis);
        let protocols = [
            "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
            "OTEL_EXPORTER_OTLP_PROTOCOL",
        ];
        let protocol = protocols.into_iter().find(|name| var(name).is_some());
        let exporters = var("OTEL_METRICS_EXPORTER");
        Self {
            is_disabled: var("OTEL_SDK_DISABLED").is_some_and(|it| it.eq_ignore_ascii_case("true")),
            is_other_exporter: exporters
                .is_some_and(|names| names.split(',').all(|name| name.trim() != "otlp")),
            own_endpoint: var(OWN_ENDPOINT).map(with_scheme),
            general_endpoint: var(GENERAL_ENDPOINT).map(with_scheme),
            other_protocol: protocol.filter(|name| var(name) != Some("grpc")),
            headers: of_either("HEADERS").map(headers).unwrap_or_default(),
            interval: var("OTEL_METRIC_EXPORT_INTERVAL").and_then(millis),
            timeout: of_either("TIMEOUT").and_then(millis),
            is_compressed: of_either("COMPRESSION") == Some("gzip"),
        }
    }

    /// Where metrics are sent. `collector` is `OTLP_ENDPOINT`, if it was set by its own name.
    pub(super) fn destination(
        &self,
        collector: Option<&Url>,
        parse: impl Fn(&str) -> Option<Url>,
    ) -> Destination {
        if self.is_other_exporter || self.is_disabled && collector.is_none() {
            return Destination::None;
        }
        let named = match (&self.own_endpoint, collector, &self.general_endpoint) {
            (Some(endpoint), _, _) => (OWN_ENDPOINT, endpoint),
            (None, Some(url), _) => return Destination::To(url.clone()),
            (None, None, Some(endpoint)) => (GENERAL_ENDPOINT, endpoint),
            (None, None, None) => return Destination::None,
        };
        match (self.other_protocol, parse(named.1)) {
            (Some(variable), _) => Destination::Unsupported(variable),
            (None, Some(url)) => Destination::To(url),
            (None, None) => Destination::Invalid(named.0),
        }
    }

    pub(super) fn settings(&self, collector: Url) -> Settings {
        let or =
            |found: Option<Duration>, default| found.filter(|it| !it.is_zero()).unwrap_or(default);
        Settings {
            collector,
            headers: self.headers.clone(),
            interval: or(self.interval, INTERVAL).max(MIN_INTERVAL),
            timeout: or(self.timeout, TIMEOUT),
            is_compressed: self.is_compressed,
        }
    }
}

impl Config {
    /// Reads where metrics are sent by OTLP.
    pub(super) fn read_metrics_export(&mut self, raw: &RawSettings, read: &mut Reader<'_>) {
        let variables = raw.metrics();
        let collector = self.collector.as_ref().filter(|_| raw.is_collector_set());
        match variables.destination(collector, reader::parse_url) {
            Destination::None => {}
            Destination::Unsupported(variable) => self.ignored_metrics_variable = Some(variable),
            Destination::To(collector) => {
                self.server.metrics_export = Some(variables.settings(collector));
            }
            // Traces go there too, and have reported it already.
            Destination::Invalid(_) if read.is_invalid("OTLP_ENDPOINT") => {}
            Destination::Invalid(variable) => read.reject_variable(variable),
        }
    }
}

/// Exporters for gRPC accept a bare host and port too.
pub(super) fn with_scheme(endpoint: &str) -> String {
    match endpoint.contains("://") {
        true => endpoint.to_owned(),
        false => format!("http://{endpoint}"),
    }
}

/// The headers of a list such as `api-key=a%20b,tenant=c`. Like the SDK, it skips what is no header.
fn headers(list: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let pairs = list.split(',').filter_map(|pair| pair.split_once('='));
    for (name, value) in pairs {
        let name = HeaderName::try_from(name.trim().to_ascii_lowercase());
        let value = HeaderValue::from_bytes(&percent_decoded(value.trim()));
        if let (Ok(name), Ok(mut value)) = (name, value) {
            value.set_sensitive(true); // Debug does not print it
            headers.insert(name, value);
        }
    }
    headers
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| *first == b'%');
        let hex = hex.and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = hex.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(vars: &[(&str, &str)]) -> Result<Config, Vec<String>> {
        let mut raw = RawSettings::default();
        let key = ("ALIM_BRIDGE_UPSTREAM_API_KEY", "key");
        let vars = vars.iter().chain([&key]);
        raw.add_environment(vars.map(|(name, value)| ((*name).into(), (*value).into())));
        let invalid = |invalid: crate::config::InvalidSettings| {
            let names = invalid.0.into_iter().map(|it| it.name);
            names.collect()
        };
        Config::parse(&raw).map_err(invalid)
    }

    #[test]
    fn metrics_go_where_the_variables_of_opentelemetry_say() {
        let ours = ("ALIM_BRIDGE_OTLP_ENDPOINT", "http://ours:1");
        let general = ("OTEL_EXPORTER_OTLP_ENDPOINT", "general:1");
        let own = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://own:1");
        let traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:1");
        let none = ("OTEL_METRICS_EXPORTER", "none");
        let scraped = ("OTEL_METRICS_EXPORTER", "prometheus");
        let two = ("OTEL_METRICS_EXPORTER", "prometheus,otlp");
        let disabled = ("OTEL_SDK_DISABLED", "true");
        let http = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
        let [at_ours, at_general, at_own] = ["ours", "general", "own"].map(Some);
        for (vars, host, ignored) in [
            (&[][..], None, None),
            (&[ours], at_ours, None),
            (&[general], at_general, None),
            (&[own], at_own, None),
            (&[traces], None, None),
            (&[traces, general], at_general, None),
            (&[ours, own], at_own, None),
            (&[ours, traces], at_ours, None),
            (&[ours, none], None, None),
            (&[ours, scraped], None, None),
            (&[ours, two], at_ours, None),
            (&[ours, disabled], at_ours, None),
            (&[general, disabled], None, None),
            (&[general, http], None, Some(http.0)),
            (&[ours, http], at_ours, None),
        ] {
            let config = parsed(vars).expect("valid");
            let export = config.server.metrics_export.as_ref();
            let found = export.and_then(|export| export.collector.host_str());
            let expected = (host, ignored);
            assert_eq!(
                (found, config.ignored_metrics_variable),
                expected,
                "{vars:?}"
            );
        }
    }

    #[test]
    fn a_variable_without_a_url_is_reported_once() {
        for (variable, expected) in [
            (
                "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
                "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
            ),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "ALIM_BRIDGE_OTLP_ENDPOINT"),
        ] {
            let invalid = parsed(&[(variable, "ftp://collector")]).expect_err("no URL");
            assert_eq!(invalid, [expected]);
        }
    }

    #[test]
    fn headers_interval_and_timeout_are_read_and_headers_are_not_shown() {
        let config = parsed(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317"),
            (
                "OTEL_EXPORTER_OTLP_HEADERS",
                "Api-Key=s%3Decret%, no header,tenant = a ",
            ),
            ("OTEL_METRIC_EXPORT_INTERVAL", "1500"),
            ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "250"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "9000"),
        ]);
        let settings = config.expect("valid").server.metrics_export.expect("sent");
        assert_eq!(settings.headers["api-key"], "s=ecret%");
        assert_eq!(
            (&settings.headers["tenant"], settings.headers.len()),
            (&HeaderValue::from_static("a"), 2)
        );
        assert_eq!(settings.interval, Duration::from_millis(1500));
        assert_eq!(settings.timeout, Duration::from_millis(250));
        assert!(!format!("{settings:?}").contains("ecret"));
        let few = parsed(&[
            ("ALIM_BRIDGE_OTLP_ENDPOINT", "http://c:1"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "soon"),
        ]);
        let settings = few.expect("valid").server.metrics_export.expect("sent");
        assert_eq!((settings.interval, settings.timeout), (INTERVAL, TIMEOUT));
    }
}
