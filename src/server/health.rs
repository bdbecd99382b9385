//! `grpc.health.v1`: "" reports the process, the services of `alim.v1` report the upstream.
//!
//! [`Health`](crate::upstream::Health) decides whether the upstream is healthy. This file runs its probes, publishes each
//! change, and logs it once with the URL and the cause. "" and `/readyz` never depend on the upstream. If they did,
//! a balancer would remove every bridge, and callers would see "no such host" instead of "the upstream is down".

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{telemetry::metrics::Metrics, upstream::Upstream};

/// The services that report the upstream's health. They always agree.
const SERVICES: [&str; 2] = ["alim.v1.GraphService", "alim.v1.ThreadService"];

/// Probes until the future is dropped.
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

/// Reports UNKNOWN for the upstream's services until the first probe has a result.
pub(super) async fn set_unknown(reporter: &HealthReporter) {
    set(reporter, ServingStatus::Unknown).await;
}

/// Reports NOT_SERVING for every service, for a drain.
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
