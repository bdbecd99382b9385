//! `grpc.health.v1`: "" is the process, the services of `alim.v1` are the upstream's health.
//!
//! What that is, [`Health`](crate::upstream::Health) says: this asks for its probes, publishes each change of its
//! verdict, and logs it once, with the URL and the cause. "" and `/readyz` never follow the upstream: taking every
//! bridge out of a balancer would turn "the upstream is down", which callers can handle, into "no such host".

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{telemetry::metrics::Metrics, upstream::Upstream};

/// The upstream's services in health checks; they always agree.
const SERVICES: [&str; 2] = ["alim.v1.GraphService", "alim.v1.ThreadService"];

/// Probes until it is dropped.
pub(super) async fn probe(
    upstream: Upstream,
    reporter: HealthReporter,
    metrics: Arc<Metrics>,
    interval: Duration,
) {
    let health = upstream.health();
    let mut published = None;
    let mut next = Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(next) => {
                upstream.probe().await;
                next = Instant::now() + interval;
            }
            () = health.changed() => {}
        }
        let Some(is_up) = health.is_up().filter(|is_up| published != Some(*is_up)) else {
            continue;
        };
        published = Some(is_up);
        let status = match is_up {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        set(&reporter, status).await;
        metrics.upstream_up(is_up);
        match health.fault().filter(|_| !is_up) {
            None => tracing::info!("the upstream is healthy"),
            Some(fault) => {
                tracing::warn!(
                    url = fault.url,
                    cause = fault.cause,
                    "the upstream is not healthy"
                );
            }
        }
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
