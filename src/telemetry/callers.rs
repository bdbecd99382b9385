//! Metrics by caller. The label's values are the names in the callers file, at most 200.
//!
//! A caller's series exist from the first reading of the file. If the file no longer lists the caller, they are removed. Its
//! open calls are then counted in series that are not exported.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, core::Collector};

use super::register::Register;
use crate::call::reason::Reason;

/// Reasons that only a listed caller can cause. Their series start at 0, so that `rate()` sees the first failure.
const CALLER_REASONS: [Reason; 3] = [
    Reason::CallerSaturated,
    Reason::CallerRateLimited,
    Reason::FieldNotAllowed,
];

/// The metrics of all callers.
#[derive(Debug)]
pub struct CallerMetrics {
    started: IntCounterVec,
    failures: IntCounterVec,
    tokens: IntCounterVec,
    open_calls: IntGaugeVec,
    listed: Mutex<HashMap<Arc<str>, Arc<Series>>>,
}

/// What a caller has done since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Calls started.
    pub started: u64,
    /// Calls failed.
    pub failed: u64,
    /// Tokens sent in calls that have ended.
    pub tokens: u64,
}

/// The metrics of one caller.
#[derive(Debug)]
pub(super) struct Series {
    name: Arc<str>,
    started: IntCounter,
    tokens: IntCounter,
    open_calls: IntGauge,
}

impl CallerMetrics {
    pub(super) fn new(new: &Register<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            started: new.counters(
                "alim_bridge_caller_started_total",
                "Calls started by a caller of the callers file, without health and reflection.",
                &["caller"],
            )?,
            failures: new.counters(
                "alim_bridge_caller_failures_total",
                "Calls of a caller that failed, by the reason in the log.",
                &["caller", "reason"],
            )?,
            tokens: new.counters(
                "alim_bridge_caller_tokens_total",
                "Tokens sent to a caller, counted when its call ends.",
                &["caller"],
            )?,
            open_calls: new.gauges(
                "alim_bridge_caller_open_calls",
                "Calls of a caller that have not ended.",
                &["caller"],
            )?,
            listed: Mutex::default(),
        })
    }

    /// Keeps series for these callers only.
    pub fn list<'a>(&self, names: impl IntoIterator<Item = &'a Arc<str>>) {
        let mut listed = self.listed();
        let mut last = std::mem::take(&mut *listed);
        for name in names {
            let series = last.remove(name).unwrap_or_else(|| self.series(name));
            listed.insert(Arc::clone(name), series);
        }
        for name in last.into_keys() {
            self.remove(&name);
        }
    }

    /// Counts a call as open until [`ended`](Self::ended).
    pub(super) fn started(&self, name: &Arc<str>) -> Arc<Series> {
        let mut listed = self.listed();
        let series = listed.entry(Arc::clone(name));
        let series = Arc::clone(series.or_insert_with(|| self.series(name)));
        drop(listed);
        series.started.inc();
        series.open_calls.inc();
        series
    }

    /// Counts the result of a call.
    pub(super) fn ended(&self, series: &Arc<Series>, tokens: u64, reason: Option<Reason>) {
        series.open_calls.dec();
        series.tokens.inc_by(tokens);
        let Some(reason) = reason else { return };
        let listed = self.listed();
        let is_listed = |listed: &Arc<Series>| Arc::ptr_eq(listed, series);
        if listed.get(&series.name).is_some_and(is_listed) {
            self.failed(&series.name, reason).inc();
        }
    }

    /// What each listed caller has done since the start.
    pub fn figures(&self) -> HashMap<Arc<str>, Figures> {
        let failures = self.failures.collect();
        let mut failed: HashMap<String, u64> = HashMap::new();
        for metric in failures.iter().flat_map(|family| family.get_metric()) {
            let mut labels = metric.get_label().iter();
            let Some(caller) = labels.find(|label| label.name() == "caller") else {
                continue;
            };
            let count = metric.get_counter().get_value() as u64;
            *failed.entry(caller.value().to_owned()).or_default() += count;
        }
        let listed = self.listed();
        let figures = listed.iter().map(|(name, series)| {
            let figures = Figures {
                started: series.started.get(),
                failed: failed.get(&**name).copied().unwrap_or_default(),
                tokens: series.tokens.get(),
            };
            (Arc::clone(name), figures)
        });
        figures.collect()
    }

    fn series(&self, name: &Arc<str>) -> Arc<Series> {
        for reason in CALLER_REASONS {
            self.failed(name, reason);
        }
        Arc::new(Series {
            started: self.started.with_label_values(&[name]),
            tokens: self.tokens.with_label_values(&[name]),
            open_calls: self.open_calls.with_label_values(&[name]),
            name: Arc::clone(name),
        })
    }

    fn failed(&self, name: &str, reason: Reason) -> IntCounter {
        self.failures.with_label_values(&[name, reason.name()])
    }

    /// Removes the caller's series. A series that does not exist is no error.
    fn remove(&self, name: &str) {
        let _ = self.started.remove_label_values(&[name]);
        let _ = self.tokens.remove_label_values(&[name]);
        let _ = self.open_calls.remove_label_values(&[name]);
        for reason in Reason::ALL {
            let _ = self.failures.remove_label_values(&[name, reason.name()]);
        }
    }

    fn listed(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Series>>> {
        self.listed.lock().unwrap_or_else(|held| held.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{admission::Admission, telemetry::metrics::Metrics};

    fn lines(metrics: &Metrics) -> Vec<String> {
        let text = metrics.render(&Admission::new(1)).expect("text");
        let lines = text
            .lines()
            .filter_map(|line| line.strip_prefix("alim_bridge_caller_"));
        let lines = lines.filter(|line| !line.starts_with("cancelled"));
        lines.map(String::from).collect()
    }

    #[test]
    fn a_callers_series_exist_while_the_file_lists_it() {
        let metrics = Metrics::new().expect("fresh");
        let [a, b] = ["a", "b"].map(Arc::<str>::from);
        assert_eq!(lines(&metrics), [""; 0]);
        metrics.callers.list([&a, &b]);
        let call = metrics.callers.started(&a);
        metrics
            .callers
            .ended(&call, 3, Some(Reason::UpstreamFailed));
        let open = metrics.callers.started(&a);
        let found = lines(&metrics);
        for line in [
            r#"started_total{caller="a"} 2"#,
            r#"started_total{caller="b"} 0"#,
            r#"tokens_total{caller="a"} 3"#,
            r#"open_calls{caller="a"} 1"#,
            r#"failures_total{caller="a",reason="UPSTREAM_FAILED"} 1"#,
            r#"failures_total{caller="b",reason="CALLER_SATURATED"} 0"#,
        ] {
            assert!(
                found.iter().any(|line_found| line_found == line),
                "{line}: {found:#?}"
            );
        }
        metrics.callers.list([&b]);
        metrics
            .callers
            .ended(&open, 9, Some(Reason::UpstreamFailed));
        let found = lines(&metrics);
        assert!(
            !found.iter().any(|line| line.contains(r#""a""#)),
            "{found:#?}"
        );
        metrics.callers.list([&a, &b]);
        let fresh = r#"started_total{caller="a"} 0"#;
        assert!(lines(&metrics).iter().any(|line| line == fresh));
    }
}
