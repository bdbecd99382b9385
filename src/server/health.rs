//! `grpc.health.v1`: "" is the process, the services of `alim.v1` are whether the upstream is reachable.
//!
//! The first probe decides at once; after it, three failures in a row flip them to NOT_SERVING
//! and one success flips them back. "" and `/readyz` never follow the upstream: taking every bridge out
//! of a balancer would turn "the upstream is down", which callers can handle, into "no such host".

use std::{sync::Arc, time::Duration};

use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{telemetry::metrics::Metrics, upstream::Upstream};

/// The upstream's services in health checks; they always agree.
const SERVICES: [&str; 2] = ["alim.v1.GraphService", "alim.v1.ThreadService"];
const FAILURES_TO_FLIP: u32 = 3;

/// Probes until it is dropped.
pub(super) async fn probe(
    upstream: Upstream,
    reporter: HealthReporter,
    metrics: Arc<Metrics>,
    interval: Duration,
) {
    let mut verdict = Verdict::default();
    loop {
        if let Some(is_up) = verdict.after(upstream.probe().await) {
            let status = match is_up {
                true => ServingStatus::Serving,
                false => ServingStatus::NotServing,
            };
            set(&reporter, status).await;
            metrics.upstream_up(is_up);
            match is_up {
                true => tracing::info!("the upstream can be reached"),
                false => tracing::warn!("the upstream can't be reached"),
            }
        }
        tokio::time::sleep(interval).await;
    }
}

/// Makes the upstream's services known before the first probe has decided.
pub(super) async fn begin(reporter: &HealthReporter) {
    set(reporter, ServingStatus::Unknown).await;
}

/// Takes every service out of the balancers, for a drain.
pub(super) async fn stop_serving(reporter: &HealthReporter) {
    let not_serving = ServingStatus::NotServing;
    reporter.set_service_status("", not_serving).await;
    set(reporter, not_serving).await;
}

async fn set(reporter: &HealthReporter, status: ServingStatus) {
    for service in SERVICES {
        reporter.set_service_status(service, status).await;
    }
}

#[derive(Debug, Default)]
struct Verdict {
    is_up: Option<bool>,
    failures: u32,
}

impl Verdict {
    /// The new verdict, when this probe changes it.
    fn after(&mut self, reached: bool) -> Option<bool> {
        self.failures = if reached { 0 } else { self.failures + 1 };
        let is_up = match self.is_up {
            None => reached,
            Some(_) if reached => true,
            Some(was_up) => was_up && self.failures < FAILURES_TO_FLIP,
        };
        let changed = self.is_up.replace(is_up) != Some(is_up);
        changed.then_some(is_up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_probe_decides_and_then_three_failures_or_one_success() {
        let mut verdict = Verdict::default();
        let probes = [true, false, false, true, false, false, false, false, true];
        let told: Vec<_> = probes.map(|reached| verdict.after(reached)).into();
        let flips = [
            Some(true),
            None,
            None,
            None,
            None,
            None,
            Some(false),
            None,
            Some(true),
        ];
        assert_eq!(told, flips);
        assert_eq!(Verdict::default().after(false), Some(false));
    }
}
