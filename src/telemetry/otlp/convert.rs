//! Turns the families of a Prometheus registry into an OTLP request.
//!
//! Sums and histograms are cumulative since the start of the bridge.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
        ResourceMetrics, ScopeMetrics, Sum, metric::Data, number_data_point,
    },
    resource::v1::Resource,
};
use prometheus::proto::{self, MetricFamily, MetricType};

use super::names::{self, Labels, Name};
use crate::telemetry::{
    codes,
    metrics::calls::Durations,
    resource::{SERVICE, resource},
    traces::GEN_AI,
};

const CUMULATIVE: i32 = AggregationTemporality::Cumulative as i32;
/// The description of calls' durations in OpenTelemetry's conventions.
const RPC_HELP: &str = "Measures the duration of an incoming gRPC call.";
/// And in gRFC A66.
const A66_HELP: &str =
    "End-to-end time taken to complete a call from the server transport's perspective.";

/// What all requests of a process have in common.
#[derive(Debug)]
pub(super) struct Conversion {
    resource: Resource,
    /// When all sums were 0, in nanoseconds of Unix time.
    start: u64,
}

/// The times of all points of a request.
#[derive(Clone, Copy)]
struct Times {
    start: u64,
    now: u64,
}

impl Conversion {
    pub(super) fn new(created: SystemTime) -> Self {
        let attributes = resource();
        let attributes = attributes.iter().map(|(key, value)| KeyValue {
            key: key.to_string(),
            value: Some(value.clone().into()),
            ..KeyValue::default()
        });
        Self {
            resource: Resource {
                attributes: attributes.collect(),
                ..Resource::default()
            },
            start: nanos(created),
        }
    }

    pub(super) fn request(
        &self,
        families: &[MetricFamily],
        durations: impl Iterator<Item = Durations>,
    ) -> ExportMetricsServiceRequest {
        let times = Times {
            start: self.start,
            now: nanos(SystemTime::now()),
        };
        let families = families.iter().filter_map(|it| times.metric(it));
        let metrics = families.chain(times.durations(durations)).collect();
        let scope = InstrumentationScope {
            name: SERVICE.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..InstrumentationScope::default()
        };
        ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                resource: Some(self.resource.clone()),
                scope_metrics: vec![ScopeMetrics {
                    scope: Some(scope),
                    metrics,
                    ..ScopeMetrics::default()
                }],
                ..ResourceMetrics::default()
            }],
        }
    }
}

impl Times {
    /// `None` if the metric is not sent, or has no point.
    fn metric(self, family: &MetricFamily) -> Option<Metric> {
        let name = names::of(family.name(), family.get_field_type())?;
        let points = family.get_metric().iter();
        let data = match family.get_field_type() {
            MetricType::COUNTER => {
                let points = points.map(|it| self.number(&name, it, it.get_counter().get_value()));
                sum(points.collect(), true)
            }
            MetricType::GAUGE => {
                let points = points.map(|it| self.number(&name, it, it.get_gauge().get_value()));
                match name.is_additive {
                    true => sum(points.collect(), false),
                    false => Data::Gauge(Gauge {
                        data_points: points.map(without_start).collect(),
                    }),
                }
            }
            MetricType::HISTOGRAM => {
                let used = points.filter(|it| it.get_histogram().get_sample_count() > 0);
                let point =
                    |it: &proto::Metric| self.histogram(attributes(&name, it), it.get_histogram());
                histogram(used.map(point).collect())?
            }
            MetricType::SUMMARY | MetricType::UNTYPED => return None,
        };
        Some(metric(&name.name, family.help(), name.unit, data))
    }

    /// The calls by method and code under the names of both conventions. Pairs without a call are not sent.
    fn durations(self, durations: impl Iterator<Item = Durations>) -> Vec<Metric> {
        let used = durations.filter(|it| it.histogram.get_sample_count() > 0);
        let points = used.map(|it| {
            let [rpc, a66] = call_attributes(&it);
            [rpc, a66].map(|attributes| self.histogram(attributes, &it.histogram))
        });
        let (rpc, a66): (Vec<_>, Vec<_>) = points.map(|[rpc, a66]| (rpc, a66)).unzip();
        let named = [
            ("rpc.server.call.duration", RPC_HELP, rpc),
            ("grpc.server.call.duration", A66_HELP, a66),
        ];
        let metrics = named
            .into_iter()
            .filter_map(|(name, help, points)| Some(metric(name, help, "s", histogram(points)?)));
        metrics.collect()
    }

    fn number(self, name: &Name, metric: &proto::Metric, value: f64) -> NumberDataPoint {
        let value = match name.labels {
            #[expect(
                clippy::cast_precision_loss,
                reason = "seconds need no nanoseconds here"
            )]
            Labels::Since => (self.now as f64 / 1e9 - value).max(0.0),
            _ => value,
        };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the registry's counts are integers"
        )]
        let value = match name.unit {
            "s" => number_data_point::Value::AsDouble(value),
            _ => number_data_point::Value::AsInt(value as i64),
        };
        NumberDataPoint {
            attributes: attributes(name, metric),
            start_time_unix_nano: self.start,
            time_unix_nano: self.now,
            value: Some(value),
            ..NumberDataPoint::default()
        }
    }

    fn histogram(self, attributes: Vec<KeyValue>, found: &proto::Histogram) -> HistogramDataPoint {
        let buckets = found.get_bucket();
        let bounded = buckets.iter().filter(|it| it.upper_bound().is_finite());
        let cumulative = bounded.clone().map(|it| it.cumulative_count());
        let mut below = 0;
        let mut counts: Vec<u64> = Vec::with_capacity(buckets.len() + 1);
        for count in cumulative.chain([found.get_sample_count()]) {
            counts.push(count.saturating_sub(below)); // an observation can come between two reads
            below = below.max(count);
        }
        HistogramDataPoint {
            attributes,
            start_time_unix_nano: self.start,
            time_unix_nano: self.now,
            count: counts.iter().sum(),
            sum: Some(found.get_sample_sum()),
            bucket_counts: counts,
            explicit_bounds: bounded.map(|it| it.upper_bound()).collect(),
            ..HistogramDataPoint::default()
        }
    }
}

fn metric(name: &str, help: &str, unit: &str, data: Data) -> Metric {
    Metric {
        name: name.into(),
        description: help.into(),
        unit: unit.into(),
        data: Some(data),
        ..Metric::default()
    }
}

fn sum(data_points: Vec<NumberDataPoint>, is_monotonic: bool) -> Data {
    Data::Sum(Sum {
        data_points,
        aggregation_temporality: CUMULATIVE,
        is_monotonic,
    })
}

fn histogram(data_points: Vec<HistogramDataPoint>) -> Option<Data> {
    (!data_points.is_empty()).then_some(Data::Histogram(Histogram {
        data_points,
        aggregation_temporality: CUMULATIVE,
    }))
}

fn without_start(point: NumberDataPoint) -> NumberDataPoint {
    NumberDataPoint {
        start_time_unix_nano: 0,
        ..point
    }
}

/// In OpenTelemetry's conventions (1.45, for gRPC) and in gRFC A66.
fn call_attributes(durations: &Durations) -> [Vec<KeyValue>; 2] {
    let method = durations.method.full_name();
    let status = codes::protocol_name(durations.code);
    let mut rpc = vec![
        attribute("rpc.system.name", "grpc"),
        attribute("rpc.method", &method),
        attribute("rpc.status_code", status),
    ];
    if codes::is_server_error(durations.code) {
        rpc.push(attribute("error.type", status));
    }
    let a66 = vec![
        attribute("grpc.method", a66_method(&method)),
        attribute("grpc.status", status),
    ];
    [rpc, a66]
}

fn attributes(name: &Name, metric: &proto::Metric) -> Vec<KeyValue> {
    let label = |name: &str| {
        let mut labels = metric.get_label().iter();
        let found = labels.find(|label| label.name() == name);
        found.map_or("", |label| label.value())
    };
    let method = || match (label("grpc_service"), label("grpc_method")) {
        (_, "unknown") => "_OTHER".to_owned(),
        (service, method) => format!("{service}/{method}"),
    };
    match name.labels {
        Labels::Same => {
            let labels = metric.get_label().iter();
            labels.map(|it| attribute(it.name(), it.value())).collect()
        }
        Labels::RpcMethod => vec![
            attribute("rpc.system.name", "grpc"),
            attribute("rpc.method", &method()),
        ],
        Labels::GrpcMethod => vec![attribute("grpc.method", a66_method(&method()))],
        Labels::GenAi => GEN_AI.map(|(name, value)| attribute(name, value)).into(),
        Labels::Since => Vec::new(),
    }
}

/// gRFC A66 has its own word for a method that no service has.
fn a66_method(method: &str) -> &str {
    match method {
        "_OTHER" => "other",
        method => method,
    }
}

fn attribute(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(AnyValue {
            value: Some(any_value::Value::StringValue(value.into())),
        }),
        ..KeyValue::default()
    }
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
