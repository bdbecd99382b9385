//! The raw settings: flags, the bridge's own environment variables, and those of OpenTelemetry.

use std::collections::{BTreeMap, btree_map::Entry};

use super::{
    PREFIX, SETTINGS, names,
    otel::{MetricsVariables, with_scheme},
};

/// The values of flags and of environment variables that begin with [`PREFIX`]. It has no `Debug`, because
/// some of them are keys.
#[derive(Default)]
pub struct RawSettings {
    values: BTreeMap<&'static str, String>,
    unknown: Vec<String>,
    unsupported_protocol: Option<&'static str>,
    max_queued_spans: Option<usize>,
    metrics: MetricsVariables,
    /// Whether an OpenTelemetry variable was taken for `OTLP_ENDPOINT`: it is for traces then.
    is_collector_inferred: bool,
}

impl RawSettings {
    /// Adds environment variables. An empty value counts as unset. If `OTLP_ENDPOINT` is not set,
    /// OpenTelemetry's own variables name the collector.
    pub fn add_environment(&mut self, vars: impl IntoIterator<Item = (String, String)>) {
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
        self.add_open_telemetry(&otel);
        self.metrics = MetricsVariables::read(&otel);
    }

    /// Applies the OpenTelemetry variables that enable traces and name the collector. The SDK reads the rest.
    /// The bridge's own setting overrides them.
    fn add_open_telemetry(&mut self, vars: &BTreeMap<String, String>) {
        let var = |name: &str| vars.get(name).map(String::as_str);
        let queue = var("OTEL_BSP_MAX_QUEUE_SIZE").and_then(|size| size.trim().parse().ok());
        self.max_queued_spans = queue.filter(|size| *size > 0).or(self.max_queued_spans);
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
            self.unsupported_protocol = Some(name);
            return;
        }
        if let Entry::Vacant(unset) = self.values.entry("OTLP_ENDPOINT") {
            unset.insert(with_scheme(endpoint));
            self.is_collector_inferred = true;
        }
    }

    /// The OpenTelemetry variable that asks for an unsupported protocol, if that is why no spans are sent.
    pub(super) fn ignored_variable(&self) -> Option<&'static str> {
        self.unsupported_protocol
            .filter(|_| self.get("OTLP_ENDPOINT").is_none())
    }

    /// Maximum of spans that wait for the collector, with OpenTelemetry's default.
    pub(super) fn max_queued_spans(&self) -> usize {
        self.max_queued_spans.unwrap_or(2048)
    }

    /// OpenTelemetry's variables for metrics.
    pub(super) fn metrics(&self) -> &MetricsVariables {
        &self.metrics
    }

    /// Whether `OTLP_ENDPOINT` was set by its own name.
    pub(super) fn is_collector_set(&self) -> bool {
        !self.is_collector_inferred
    }

    /// Adds a flag, which overrides the environment. An empty value counts as unset.
    pub fn add_flag(&mut self, name: &'static str, value: String) {
        if !value.is_empty() {
            self.is_collector_inferred &= name != "OTLP_ENDPOINT";
            self.values.insert(name, value);
        }
    }

    /// Variables with the prefix that are no settings.
    pub(super) fn unknown(&self) -> &[String] {
        &self.unknown
    }

    /// The value of a flag or variable, or else the default.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let setting = SETTINGS.iter().find(|setting| setting.name == name);
        let setting = setting.unwrap_or_else(|| panic!("{name} is in the table"));
        let value = self.values.get(name).map(String::as_str);
        value
            .or(Some(setting.default))
            .filter(|value| !value.is_empty())
    }
}
