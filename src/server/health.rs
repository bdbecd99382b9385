//! `grpc.health.v1`: "" is the process, `alim.v1.GraphService` is whether the upstream is reachable.
//!
//! The first probe decides at once; after it, three failures in a row flip the service to NOT_SERVING
//! and one success flips it back. "" and `/readyz` never follow the upstream: taking every bridge out
//! of a balancer would turn "the upstream is down", which callers can handle, into "no such host".

use std::{sync::Arc, time::Duration};

use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{telemetry::metrics::Metrics, upstream::Upstream};

/// The upstream's service in health checks.
pub const SERVICE: &str = "alim.v1.GraphService";
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
            reporter.set_service_status(SERVICE, status).await;
            metrics.upstream_up(is_up);
            match is_up {
                true => tracing::info!("the upstream can be reached"),
                false => tracing::warn!("the upstream can't be reached"),
            }
        }
        tokio::time::sleep(interval).await;
    }
}

/// Takes every service out of the balancers, for a drain.
pub(super) async fn stop_serving(reporter: &HealthReporter) {
    for service in ["", SERVICE] {
        reporter
            .set_service_status(service, ServingStatus::NotServing)
            .await;
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
