//! The metrics of calls as figures, for the admin page.
//!
//! Quantiles are interpolated within a bucket, as Prometheus' `histogram_quantile` does, but over all calls since the start.

use std::cmp::Reverse;

use prometheus::{
    Histogram, IntCounter,
    core::{Collector, Metric},
    proto,
};

use super::Metrics;
use crate::{
    call::reason::Reason,
    telemetry::{Method, codes},
};

/// The calls of one method.
#[derive(Clone, Debug)]
pub struct MethodFigures {
    /// The name of the method.
    pub method: &'static str,
    /// Calls started.
    pub started: u64,
    /// Calls ended, by the name of their code. Codes without calls are absent.
    pub ended: Vec<(&'static str, u64)>,
}

/// Two quantiles of a duration, in seconds. `None` without observations.
#[derive(Clone, Copy, Debug)]
pub struct Quantiles {
    /// The number of observations.
    pub count: u64,
    /// The median.
    pub p50: Option<f64>,
    /// The 99th percentile.
    pub p99: Option<f64>,
}

impl Metrics {
    /// The methods of `alim.v1`, and unknown ones, by code.
    pub fn by_method(&self) -> Vec<MethodFigures> {
        let methods = Method::OURS.into_iter().chain([Method::Unknown]);
        methods.map(|method| self.of_method(method)).collect()
    }

    fn of_method(&self, method: Method) -> MethodFigures {
        let [_, _, name] = method.labels();
        let ended = codes::possible_for(method)
            .map(|code| (codes::go_name(code), self.calls.ended.count(method, code)));
        MethodFigures {
            method: name,
            started: self.calls.started[method as usize].get(),
            ended: ended.filter(|(_, count)| *count > 0).collect(),
        }
    }

    /// The failures by reason, the most frequent first. Reasons without failures are absent.
    pub fn by_reason(&self) -> Vec<(&'static str, u64)> {
        let names = Reason::ALL.into_iter().map(Reason::name);
        let counts = self.calls.failures.iter().map(IntCounter::get);
        let mut failures: Vec<_> = names.zip(counts).filter(|(_, count)| *count > 0).collect();
        failures.sort_by_key(|(_, count)| Reverse(*count));
        failures
    }

    /// From a stream's start to its first token.
    pub fn first_token_quantiles(&self) -> Quantiles {
        quantiles(&self.tokens.first)
    }

    /// Between two tokens of a stream.
    pub fn inter_token_quantiles(&self) -> Quantiles {
        quantiles(&self.tokens.gap)
    }

    /// Tokens sent to callers.
    pub fn tokens(&self) -> u64 {
        self.tokens.count.get()
    }

    /// Requests left for the bridge's own key, as the upstream last reported. `None` if it did not within a minute.
    pub fn reported_ratelimit(&self) -> Option<i64> {
        self.expire_ratelimit();
        let families = self.ratelimit_remaining.collect();
        let gauge = families.first()?.get_metric().first()?;
        Some(gauge.get_gauge().get_value() as i64)
    }
}

fn quantiles(histogram: &Histogram) -> Quantiles {
    let metric = histogram.metric();
    let histogram = metric.get_histogram();
    Quantiles {
        count: histogram.get_sample_count(),
        p50: quantile(histogram, 0.5),
        p99: quantile(histogram, 0.99),
    }
}

/// If the quantile is beyond the last bucket, its bound is returned.
fn quantile(histogram: &proto::Histogram, quantile: f64) -> Option<f64> {
    let rank = quantile * histogram.get_sample_count() as f64;
    let (mut bound_below, mut count_below) = (0.0, 0.0);
    for bucket in histogram.get_bucket() {
        let (bound, count) = (bucket.upper_bound(), bucket.cumulative_count() as f64);
        if count >= rank && count > count_below {
            let share = (rank - count_below) / (count - count_below);
            return Some(bound_below + (bound - bound_below) * share);
        }
        (bound_below, count_below) = (bound, count);
    }
    (rank > 0.0).then_some(bound_below)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn quantiles_are_interpolated_within_their_bucket() {
        let metrics = Metrics::new().expect("fresh");
        let none = metrics.first_token_quantiles();
        assert_eq!((none.count, none.p50, none.p99), (0, None, None));
        for _ in 0..100 {
            metrics.first_token(Duration::from_millis(300)); // between 0.25 and 0.5
        }
        let some = metrics.first_token_quantiles();
        assert_eq!(some.count, 100);
        assert_eq!(some.p50, Some(0.375));
        assert_eq!(some.p99, Some(0.4975));
        for _ in 0..100 {
            metrics.first_token(Duration::from_secs(1000)); // beyond the last bucket
        }
        assert_eq!(metrics.first_token_quantiles().p99, Some(60.0));
    }
}
