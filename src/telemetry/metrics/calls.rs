//! Calls that have ended, by method and code.
//!
//! One observation per call is the source of three things: the counter and the histogram that Prometheus scrapes, and the histogram by
//! code over OTLP. So nothing is recorded twice, and a call's end looks up no labels.

use std::sync::{Arc, OnceLock};

use prometheus::{
    Histogram, HistogramOpts,
    core::{Collector, Desc, Metric as _},
    proto::{self, LabelPair, Metric, MetricFamily, MetricType},
};

use super::CALL_BUCKETS;
use crate::telemetry::{Method, codes};

/// Calls ended, for Prometheus. OTLP has them as the count of the histogram by code.
pub(in crate::telemetry) const HANDLED: &str = "grpc_server_handled_total";
/// The duration without the code, for Prometheus.
pub(in crate::telemetry) const HANDLING: &str = "grpc_server_handling_seconds";
const HANDLED_HELP: &str = "Calls ended, by code.";
const HANDLING_HELP: &str = "From a call's start to the end of its response body.";

/// The calls of each method and code. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct EndedCalls(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    by_method: [[OnceLock<Histogram>; codes::COUNT]; Method::ALL.len()],
    descriptions: [Desc; 2],
}

/// The durations of the calls of one method that ended with one code.
#[derive(Clone, Debug)]
pub(in crate::telemetry) struct Durations {
    pub(in crate::telemetry) method: Method,
    pub(in crate::telemetry) code: i32,
    pub(in crate::telemetry) histogram: proto::Histogram,
}

impl EndedCalls {
    /// With a series for every code that a method can end with, at 0: `rate()` misses a first error that arrives together with its
    /// series.
    pub(super) fn new() -> prometheus::Result<Self> {
        let labels = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let description = |name: &str, help: &str, names: &[&str]| {
            Desc::new(name.into(), help.into(), labels(names), Default::default())
        };
        let calls = Self(Arc::new(Shared {
            by_method: Default::default(),
            descriptions: [
                description(HANDLED, HANDLED_HELP, &super::HANDLED)?,
                description(HANDLING, HANDLING_HELP, &super::METHOD)?,
            ],
        }));
        for method in Method::ALL {
            for code in codes::possible_for(method) {
                calls.histogram(method, code);
            }
        }
        Ok(calls)
    }

    /// Counts a call.
    pub(super) fn ended(&self, method: Method, code: i32, seconds: f64) {
        self.histogram(method, code).observe(seconds);
    }

    /// How many calls of the method ended with the code.
    pub(super) fn count(&self, method: Method, code: i32) -> u64 {
        self.histogram(method, code).get_sample_count()
    }

    /// The durations of all methods and codes, those without a call too.
    pub(super) fn durations(&self) -> impl Iterator<Item = Durations> {
        Method::ALL
            .into_iter()
            .flat_map(|method| self.of_method(method))
    }

    fn of_method(&self, method: Method) -> impl Iterator<Item = Durations> {
        let by_code = self.0.by_method[method as usize].iter().zip(0..);
        by_code.filter_map(move |(histogram, code)| {
            Some(Durations {
                method,
                code,
                histogram: histogram.get()?.metric().get_histogram().clone(),
            })
        })
    }

    fn histogram(&self, method: Method, code: i32) -> &Histogram {
        let cell = &self.0.by_method[method as usize][codes::index(code)];
        cell.get_or_init(|| {
            let options = HistogramOpts::new(HANDLING, HANDLING_HELP).buckets(CALL_BUCKETS.into());
            Histogram::with_opts(options).expect("the buckets ascend")
        })
    }
}

impl Collector for EndedCalls {
    fn desc(&self) -> Vec<&Desc> {
        self.0.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let [mut handled, mut handling] = [Vec::new(), Vec::new()];
        for method in Method::ALL {
            let all: Vec<_> = self.of_method(method).collect();
            for durations in &all {
                let code = label("grpc_code", codes::go_name(durations.code));
                let labels = [code].into_iter().chain(labels(method));
                let mut counter = proto::Counter::default();
                #[expect(clippy::cast_precision_loss, reason = "Prometheus' values are doubles")]
                counter.set_value(durations.histogram.get_sample_count() as f64);
                let mut metric = Metric::from_label(labels.collect());
                metric.set_counter(counter);
                handled.push(metric);
            }
            let mut metric = Metric::from_label(labels(method).into());
            metric.set_histogram(sum(all.iter().map(|durations| &durations.histogram)));
            handling.push(metric);
        }
        vec![
            family(HANDLED, HANDLED_HELP, MetricType::COUNTER, handled),
            family(HANDLING, HANDLING_HELP, MetricType::HISTOGRAM, handling),
        ]
    }
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.into());
    family.set_help(help.into());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

/// By name, as Prometheus' own collectors sort them.
fn labels(method: Method) -> [LabelPair; 3] {
    let [kind, service, name] = method.labels();
    [
        label("grpc_method", name),
        label("grpc_service", service),
        label("grpc_type", kind),
    ]
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(name.into());
    label.set_value(value.into());
    label
}

/// Adds up histograms that have the same buckets.
fn sum<'a>(histograms: impl Iterator<Item = &'a proto::Histogram>) -> proto::Histogram {
    let mut total = proto::Histogram::default();
    let (mut count, mut seconds) = (0, 0.0);
    let mut counts = [0; CALL_BUCKETS.len()];
    for histogram in histograms {
        count += histogram.get_sample_count();
        seconds += histogram.get_sample_sum();
        for (total, bucket) in counts.iter_mut().zip(histogram.get_bucket()) {
            *total += bucket.cumulative_count();
        }
    }
    let bucket = |(bound, count): (f64, u64)| {
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(count);
        bucket
    };
    total.set_sample_count(count);
    total.set_sample_sum(seconds);
    let buckets = CALL_BUCKETS.into_iter().zip(counts);
    total.set_bucket(buckets.map(bucket).collect());
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_histogram_of_a_method_adds_up_those_of_its_codes() {
        let calls = EndedCalls::new().expect("descriptions");
        for (code, seconds) in [(0, 0.01), (0, 0.3), (14, 0.01), (99, 1000.0)] {
            calls.ended(Method::Invoke, code, seconds);
        }
        let families = calls.collect();
        let [handled, handling] = &families[..] else {
            panic!("{families:?}")
        };
        let of = |family: &MetricFamily, code: &str| {
            let is_it = |metric: &&Metric| {
                let has = |value| metric.get_label().iter().any(|it| it.value() == value);
                has("Invoke") && (code.is_empty() || has(code))
            };
            family.get_metric().iter().find(is_it).cloned().expect(code)
        };
        let count = |code| of(handled, code).get_counter().get_value();
        assert_eq!([count("OK"), count("Unavailable")], [2.0, 1.0]);
        assert_eq!(count("Unknown"), 1.0, "a code that no method should have");
        assert_eq!(count("Internal"), 0.0, "it exists from the start");
        let total = of(handling, "");
        let total = total.get_histogram();
        assert_eq!(total.get_sample_count(), 4);
        assert!((total.get_sample_sum() - 1000.32).abs() < 1e-9);
        let cumulative: Vec<_> = total
            .get_bucket()
            .iter()
            .map(|it| it.cumulative_count())
            .collect();
        assert_eq!(cumulative[..6], [0, 2, 2, 2, 3, 3]);
        assert_eq!(cumulative.last(), Some(&3), "1000 s is over the last bound");
    }
}
