//! The admin port, which callers need not reach: `/metrics`, `/livez` and `/readyz` for machines, the admin page for people.
//!
//! The page reads `/status`. It can change the log's filter and cancel a call. `access` says who may.

mod access;
mod page;
mod status;

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{Path, State},
    http::{Request, StatusCode, Uri, header::CONTENT_TYPE},
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use hyper::{body::Incoming, service::service_fn};
use secrecy::SecretString;
use serde_json::json;
use tokio::{net::TcpListener, time::Instant};
use tokio_util::sync::CancellationToken;
use tower::Service;
use url::form_urlencoded;

use self::{
    access::{Access, Peer},
    status::Status,
};
use super::{
    accept::{self, Listener},
    connection::{Protocols, Settings},
    connections::Connections,
};
use crate::{
    admission::Admission,
    callers::Callers,
    inbound::Connection,
    memory::Budget,
    middleware::open_calls::OpenCalls,
    quota::Quota,
    reload::Reload,
    telemetry::{log_filter::Change, metrics::Metrics, state::ListenerName},
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
    pub(super) open_calls: OpenCalls,
    pub(super) callers: Option<Reload<Callers>>,
    pub(super) upstream_url: String,
    /// The effective settings, without secrets.
    pub(super) settings: Arc<[(&'static str, String)]>,
    pub(super) started: Instant,
}

/// Serves until it is dropped.
pub(super) async fn serve(tcp: TcpListener, admin: Admin, token: Option<Reload<SecretString>>) {
    let guarded = Router::new()
        .route("/", get(page::serve))
        .route(
            "/status",
            get(async |State(admin): State<Admin>| Json(Status::of(&admin))),
        )
        .route("/log", put(set_log_filter))
        .route("/calls/{id}/cancel", post(cancel_call))
        .route_layer(from_fn_with_state(Access { token }, access::guard));
    let accept_errors = admin.metrics.state.accept_errors(ListenerName::Admin);
    let routes = guarded
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
        accept_errors,
        metrics: None,
        new_service: move |connection: &Arc<Connection>| {
            let (routes, peer) = (routes.clone(), Peer(connection.peer()));
            service_fn(move |request: Request<Incoming>| {
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(peer);
                Service::call(&mut routes.clone(), request)
            })
        },
    };
    accept::run(listener, CancellationToken::new()).await;
}

impl Admin {
    /// Updates the metrics of what is only known when they are read.
    pub(super) fn update_metrics(&self) {
        let (state, connections) = (&self.metrics.state, &self.connections);
        state.draining(self.drain.is_cancelled());
        state.connections(connections.open(), connections.limit());
        state.memory(self.budget.used(), self.memory_limit);
        if let Some(report) = self.quota.report() {
            state.quota(&report);
        }
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    admin.update_metrics();
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

/// `PUT /log?filter=…`. Without a filter, the setting `LOG` is in use again.
async fn set_log_filter(Extension(Peer(peer)): Extension<Peer>, uri: Uri) -> Response {
    let query = uri.query().unwrap_or_default();
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    let filter = pairs.find(|(name, _)| name == "filter");
    let filter = filter
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default();
    let change = match Change::parse(&filter) {
        Ok(change) => change,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    let filter = change.text().to_owned();
    let log = || tracing::warn!(%peer, filter, "an operator changes the log's filter");
    // Of the old filter and the new one, either may be off.
    let is_logged = tracing::enabled!(tracing::Level::WARN);
    if is_logged {
        log();
    }
    change.apply();
    if !is_logged {
        log();
    }
    Json(json!({ "log": filter })).into_response()
}

/// `POST /calls/{id}/cancel`, with the number of an open call in `/status`.
async fn cancel_call(
    State(admin): State<Admin>,
    Extension(Peer(peer)): Extension<Peer>,
    Path(id): Path<String>,
) -> Response {
    let Some(call) = id.parse().ok().and_then(|id| admin.open_calls.cancel(id)) else {
        return (StatusCode::NOT_FOUND, "no such call is open\n").into_response();
    };
    tracing::warn!(
        call = call.id,
        request_id = call.request_id,
        method = call.method,
        caller = call.caller,
        %peer,
        "an operator cancelled a call"
    );
    Json(json!({ "id": call.id, "requestId": call.request_id })).into_response()
}
