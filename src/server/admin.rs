//! `/metrics`, `/livez` and `/readyz` on their own port, which callers need not reach.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{Request, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::{body::Incoming, service::service_fn};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::{
    accept::{self, Listener},
    connection::{Protocols, Settings},
    connections::Connections,
};
use crate::{
    admission::Admission, memory::Budget, quota::Quota, telemetry::metrics::Metrics,
    upstream::Health,
};

/// Connections to the admin port: a few scrapers, probes and people.
const MAX_CONNECTIONS: usize = 64;
/// Maximum size of a request's head in bytes.
const MAX_HEAD_BYTES: u32 = 16 * 1024;
/// From the end of a connection's last request to its closing. Scrapers poll more often than this.
const MAX_IDLE: Duration = Duration::from_secs(120);

/// The state that the admin port reports.
#[derive(Clone, Debug)]
pub(super) struct Admin {
    pub(super) metrics: Arc<Metrics>,
    pub(super) health: Health,
    pub(super) quota: Quota,
    pub(super) admission: Admission,
    pub(super) connections: Connections,
    pub(super) budget: Budget,
    pub(super) memory_limit: usize,
    pub(super) drain: CancellationToken,
}

/// Serves until it is dropped.
pub(super) async fn serve(tcp: TcpListener, admin: Admin) {
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .with_state(admin);
    let listener = Listener {
        tcp,
        connections: Connections::new(MAX_CONNECTIONS, Budget::unlimited()),
        tls: None,
        settings: Settings {
            protocols: Protocols::Http1,
            max_head_bytes: MAX_HEAD_BYTES,
            max_streams: 1,
            keepalive: None,
            max_age: None,
            max_idle: MAX_IDLE,
        },
        max_files: u64::MAX,
        metrics: None,
        new_service: move |_: &_| {
            let routes = routes.clone();
            service_fn(move |request: Request<Incoming>| {
                Service::call(&mut routes.clone(), request.map(Body::new))
            })
        },
    };
    accept::run(listener, CancellationToken::new()).await;
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let (state, connections) = (&admin.metrics.state, &admin.connections);
    state.draining(admin.drain.is_cancelled());
    state.connections(connections.open(), connections.limit());
    state.memory(admin.budget.used(), admin.memory_limit);
    if let Some(report) = admin.quota.report() {
        state.quota(&report);
    }
    match admin.metrics.render(&admin.admission) {
        Ok(text) => ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Only the drain decides readiness. The state of the upstream is reported in addition.
async fn readyz(State(admin): State<Admin>) -> Response {
    let is_draining = admin.drain.is_cancelled();
    let status = match is_draining {
        true => StatusCode::SERVICE_UNAVAILABLE,
        false => StatusCode::OK,
    };
    let report = json!({
        "draining": is_draining,
        "upstreamReachable": admin.metrics.is_upstream_up(),
        "upstreamFault": admin.health.fault().map(|fault| fault.to_string()),
    });
    (status, Json(report)).into_response()
}
