//! How metrics are named over OTLP: OpenTelemetry's conventions and gRFC A66 where one fits, else the Prometheus name with dots.
//!
//! A backend that writes OTLP into Prometheus turns dots into underscores and appends units and `_total`. So the bridge's own metrics have
//! the same names there as when they are scraped, and its rules apply.

use std::borrow::Cow;

use prometheus::proto::MetricType;

/// What a metric is over OTLP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) name: Cow<'static, str>,
    /// By UCUM. Empty for a state, such as 0 or 1.
    pub(super) unit: &'static str,
    /// Whether the sum of all processes has a meaning, if the metric is a gauge.
    pub(super) is_additive: bool,
    pub(super) labels: Labels,
}

/// How labels become attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Labels {
    /// As they are.
    Same,
    /// `grpc_service` and `grpc_method` become `rpc.method`.
    RpcMethod,
    /// `grpc_service` and `grpc_method` become `grpc.method` (gRFC A66).
    GrpcMethod,
    /// There are none; who generates tokens is added.
    GenAi,
    /// There is one point, the seconds since that time.
    Since,
}

/// The bridge's own prefix.
const OWN: &str = "alim_bridge_";
/// First words of own names that have a namespace.
const NAMESPACES: [&str; 8] = [
    "caller", "file", "log", "overload", "quota", "runtime", "tls", "upstream",
];
/// What a counter or gauge counts, by a word in its name. The first that occurs wins.
const COUNTED: [(&str, &str); 18] = [
    ("exports", "{export}"),
    ("tokens", "{token}"),
    ("spans", "{span}"),
    ("lines", "{line}"),
    ("connections", "{connection}"),
    ("reloads", "{reload}"),
    ("actions", "{action}"),
    ("errors", "{error}"),
    ("workers", "{thread}"),
    ("tasks", "{task}"),
    ("queue_depth", "{task}"),
    ("remaining", "{request}"),
    ("requests", "{request}"),
    ("quota", "{request}"),
    ("calls", "{call}"),
    ("failures", "{call}"),
    ("started", "{call}"),
    ("cancelled", "{call}"),
];

/// The names of all others. `None` if the metric is not sent.
pub(super) fn of(name: &str, kind: MetricType) -> Option<Name> {
    let known = |name, unit, is_additive, labels| {
        Some(Name {
            name: Cow::Borrowed(name),
            unit,
            is_additive,
            labels,
        })
    };
    match name {
        // The durations by code have their count.
        super::super::metrics::calls::HANDLED | super::super::metrics::calls::HANDLING => None,
        // The resource has the version.
        "alim_bridge_build_info" => None,
        "grpc_server_started_total" => known(
            "grpc.server.call.started",
            "{call}",
            true,
            Labels::GrpcMethod,
        ),
        "grpc_server_msg_received_total" => known(
            "alim_bridge.messages.received",
            "{message}",
            true,
            Labels::RpcMethod,
        ),
        "grpc_server_msg_sent_total" => known(
            "alim_bridge.messages.sent",
            "{message}",
            true,
            Labels::RpcMethod,
        ),
        "alim_bridge_time_to_first_token_seconds" => known(
            "gen_ai.server.time_to_first_token",
            "s",
            true,
            Labels::GenAi,
        ),
        "alim_bridge_inter_token_seconds" => known(
            "gen_ai.server.time_per_output_token",
            "s",
            true,
            Labels::GenAi,
        ),
        "process_cpu_seconds_total" => known("process.cpu.time", "s", true, Labels::Same),
        "process_open_fds" => known(
            "process.unix.file_descriptor.count",
            "{file_descriptor}",
            true,
            Labels::Same,
        ),
        "process_max_fds" => known(
            "alim_bridge.max_file_descriptors",
            "{file_descriptor}",
            false,
            Labels::Same,
        ),
        "process_virtual_memory_bytes" => known("process.memory.virtual", "By", true, Labels::Same),
        "process_resident_memory_bytes" => known("process.memory.usage", "By", true, Labels::Same),
        "process_start_time_seconds" => known("process.uptime", "s", false, Labels::Since),
        "process_threads" => known("process.thread.count", "{thread}", true, Labels::Same),
        _ => Some(own(name, kind)),
    }
}

fn own(name: &str, kind: MetricType) -> Name {
    let rest = name.strip_prefix(OWN).unwrap_or(name);
    let rest = match kind {
        MetricType::COUNTER => rest.strip_suffix("_total").unwrap_or(rest),
        _ => rest,
    };
    let units = [("_seconds", "s"), ("_bytes", "By")].into_iter();
    let mut measured = units.filter_map(|(suffix, unit)| Some((rest.strip_suffix(suffix)?, unit)));
    let counted = || {
        let found = COUNTED.iter().find(|(word, _)| rest.contains(word));
        let is_state = rest.ends_with("_up") || rest.ends_with("successful");
        found.filter(|_| !is_state).map_or("", |(_, unit)| unit)
    };
    let (rest, unit) = measured.next().unwrap_or_else(|| (rest, counted()));
    let first = rest.split_once('_');
    let dotted = match first.filter(|(first, _)| NAMESPACES.contains(first)) {
        Some((namespace, rest)) => format!("alim_bridge.{namespace}.{rest}"),
        None => format!("alim_bridge.{rest}"),
    };
    Name {
        name: Cow::Owned(dotted),
        unit,
        is_additive: false,
        labels: Labels::Same,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{admission::Admission, telemetry::metrics::Metrics};

    /// The name that Prometheus gives to a metric that it receives by OTLP.
    fn translated(name: &Name, kind: MetricType) -> String {
        let mut translated = name.name.replace('.', "_");
        let unit = match name.unit {
            "s" => "seconds",
            "By" => "bytes",
            annotation => {
                assert!(
                    annotation.is_empty() || annotation.starts_with('{'),
                    "{name:?}"
                );
                ""
            }
        };
        if !unit.is_empty() {
            translated += &format!("_{unit}");
        }
        if kind == MetricType::COUNTER {
            translated += "_total";
        }
        translated
    }

    #[test]
    fn own_metrics_keep_their_name_on_the_way_into_prometheus() {
        let metrics = Metrics::new().expect("fresh");
        metrics.state.set_certificate_expiry(Some(1));
        let mut own_names = 0;
        for family in metrics.gather(&Admission::new(1)) {
            let kind = family.get_field_type();
            let Some(name) = of(family.name(), kind) else {
                continue;
            };
            if name.labels == Labels::Same && family.name().starts_with(OWN) {
                assert_eq!(translated(&name, kind), family.name());
                own_names += 1;
            }
        }
        assert!(own_names > 20, "{own_names}");
    }

    #[test]
    fn names_have_namespaces_and_units() {
        for (name, kind, expected, unit) in [
            (
                "alim_bridge_failures_total",
                MetricType::COUNTER,
                "alim_bridge.failures",
                "{call}",
            ),
            (
                "alim_bridge_caller_open_calls",
                MetricType::GAUGE,
                "alim_bridge.caller.open_calls",
                "{call}",
            ),
            (
                "alim_bridge_upstream_up",
                MetricType::GAUGE,
                "alim_bridge.upstream.up",
                "",
            ),
            (
                "alim_bridge_buffered_bytes",
                MetricType::GAUGE,
                "alim_bridge.buffered",
                "By",
            ),
            (
                "alim_bridge_runtime_busy_seconds_total",
                MetricType::COUNTER,
                "alim_bridge.runtime.busy",
                "s",
            ),
        ] {
            let found = of(name, kind).expect("sent");
            assert_eq!((&*found.name, found.unit), (expected, unit), "{name}");
        }
    }
}
