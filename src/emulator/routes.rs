//! Which path leads where, and the endpoints that are not the graph: threads and health.
//!
//! A path that none takes gets Starlette's answers: 404, 405, and 307 for a slash too many.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Uri};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::alim::Alim;
use super::rate_limit::Limiter;
use super::refusal::Refusal;
use super::{body, connection, graph, rate_limit, url, validate};

/// The largest body taken, in bytes; one byte more is a 413. ALİM showed no limit at 16 MB.
const MAX_BODY: usize = 32 * 1024 * 1024;

const INVOKE: &str = "/api/v1/graph/invoke";
const STREAM: &str = "/api/v1/graph/stream";
const GRAPH_HEALTH: &str = "/api/v1/graph/health";
const THREADS: &str = "/api/v1/threads";
const HEALTH: &str = "/health";
const LIVE: &str = "/live";

/// All the endpoints of `alim`, behind its rate limit where it has one.
pub(super) fn router(alim: Arc<Alim>, limiter: Option<Limiter>) -> Router {
    let mut router = Router::new()
        .route(INVOKE, post(graph::invoke))
        .route(STREAM, post(graph::stream))
        .route(GRAPH_HEALTH, get(graph_health).head(refuse_method))
        .route(THREADS, post(create_thread))
        .route(
            &format!("{THREADS}/{{id}}"),
            get(show_thread).head(refuse_method).delete(delete_thread),
        )
        .route(HEALTH, get(health).head(refuse_method))
        .route(LIVE, get(live).head(refuse_method))
        .fallback(refuse_route)
        .method_not_allowed_fallback(refuse_method)
        .layer(DefaultBodyLimit::max(MAX_BODY));
    if let Some(limiter) = limiter {
        let limiter = Arc::new(limiter);
        router = router.layer(middleware::from_fn_with_state(limiter, rate_limit::limit));
    }
    router
        .layer(middleware::from_fn(connection::hold_open))
        .layer(middleware::from_fn(record))
        .with_state(alim)
}

/// One log record an answer, at its head, and at debug for probes, which come every few seconds; never a
/// message or a key.
async fn record(asked: Request, next: Next) -> Response {
    let (method, path) = (asked.method().clone(), asked.uri().path().to_owned());
    let answer = next.run(asked).await;
    let status = answer.status().as_u16();
    match [HEALTH, LIVE].contains(&&*path) {
        true => tracing::debug!(%method, path, status, "answered"),
        false => tracing::info!(%method, path, status, "answered"),
    }
    answer
}

/// Whether some method takes `path`, which ends without a slash.
fn leads_somewhere(path: &str) -> bool {
    let id = path
        .strip_prefix(THREADS)
        .and_then(|it| it.strip_prefix('/'));
    [INVOKE, STREAM, GRAPH_HEALTH, THREADS, HEALTH, LIVE].contains(&path)
        || id.is_some_and(|id| !id.contains('/'))
}

async fn refuse_route(uri: Uri, headers: HeaderMap) -> Refusal {
    let path = uri.path().trim_end_matches('/');
    if path == uri.path() || !leads_somewhere(path) {
        return Refusal::RouteUnknown;
    }
    HeaderValue::try_from(url::with_path(&headers, &uri, path))
        .map_or(Refusal::RouteUnknown, Refusal::Slash)
}

/// Starlette names the methods of the first route alone: of a thread, not `DELETE`.
async fn refuse_method(uri: Uri) -> Refusal {
    let posted = [INVOKE, STREAM, THREADS].contains(&uri.path());
    Refusal::MethodWrong(if posted { "POST" } else { "GET" })
}

/// A thread as callers see it.
#[derive(Serialize)]
struct Thread {
    thread_id: String,
    metadata: Map<String, Value>,
}

async fn health() -> Json<Value> {
    Json(json!({ "status": "healthy" }))
}

async fn live() -> Json<Value> {
    Json(json!({ "status": "alive" }))
}

async fn graph_health(
    State(alim): State<Arc<Alim>>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    alim.admit(&headers)?;
    Ok(Json(json!({ "healthy": true, "engine": "emulator" })))
}

async fn create_thread(
    State(alim): State<Arc<Alim>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Thread>, Refusal> {
    let body = body::read(&headers, &body)?;
    alim.admit(&headers)?;
    let metadata = validate::metadata(body)?;
    let thread_id = alim.threads.create(metadata.clone()).to_string();
    Ok(Json(Thread {
        thread_id,
        metadata,
    }))
}

async fn show_thread(
    State(alim): State<Arc<Alim>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Json<Thread>, Refusal> {
    alim.admit(&headers)?;
    let (id, metadata) = alim.threads.find(&id).map_err(|_| Refusal::ThreadUnknown)?;
    Ok(Json(Thread {
        thread_id: id.to_string(),
        metadata,
    }))
}

async fn delete_thread(
    State(alim): State<Arc<Alim>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Json<Value>, Refusal> {
    alim.admit(&headers)?;
    let id = alim
        .threads
        .delete(&id)
        .map_err(|_| Refusal::ThreadUnknown)?;
    Ok(Json(
        json!({ "deleted": true, "thread_id": id.to_string() }),
    ))
}
