//! `/metrics`, `/livez` and `/readyz` on a port of their own, which callers need not reach.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::places::Places;
use crate::{admission::Admission, telemetry::metrics::Metrics, upstream::Health};

/// What the admin port tells.
#[derive(Clone, Debug)]
pub(super) struct Admin {
    pub(super) metrics: Arc<Metrics>,
    pub(super) health: Health,
    pub(super) admission: Admission,
    pub(super) places: Places,
    pub(super) drain: CancellationToken,
}

/// Serves until it is dropped.
pub(super) async fn serve(listener: TcpListener, admin: Admin) {
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .with_state(admin);
    if let Err(error) = axum::serve(listener, routes).await {
        tracing::error!(%error, "the admin port stopped");
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let (state, places) = (&admin.metrics.state, &admin.places);
    state.draining(admin.drain.is_cancelled());
    state.connections(places.open(), places.limit());
    match admin.metrics.render(&admin.admission) {
        Ok(text) => ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// The drain alone decides; the upstream is told beside it.
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
