//! The routes, and the endpoints other than the graph's: threads and health.
//!
//! An unknown path gets Starlette's answers: 404, 405, and 307 for a trailing slash.

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
use super::rejection::Rejection;
use super::{body, connection, graph, rate_limit, url, validate};

/// The largest accepted body, in bytes. One byte more is a 413. ALİM accepted 16 MB, so its limit is not known.
const MAX_BODY: usize = 32 * 1024 * 1024;

const INVOKE: &str = "/api/v1/graph/invoke";
const STREAM: &str = "/api/v1/graph/stream";
const GRAPH_HEALTH: &str = "/api/v1/graph/health";
const THREADS: &str = "/api/v1/threads";
const HEALTH: &str = "/health";
const LIVE: &str = "/live";

/// All endpoints, behind the rate limit if there is one.
pub(super) fn router(alim: Arc<Alim>, limiter: Option<Limiter>) -> Router {
    let mut router = Router::new()
        .route(INVOKE, post(graph::invoke))
        .route(STREAM, post(graph::stream))
        .route(GRAPH_HEALTH, get(graph_health).head(method_not_allowed))
        .route(THREADS, post(create_thread))
        .route(
            &format!("{THREADS}/{{id}}"),
            get(get_thread)
                .head(method_not_allowed)
                .delete(delete_thread),
        )
        .route(HEALTH, get(health).head(method_not_allowed))
        .route(LIVE, get(live).head(method_not_allowed))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(MAX_BODY));
    if let Some(limiter) = limiter {
        let limiter = Arc::new(limiter);
        router = router.layer(middleware::from_fn_with_state(limiter, rate_limit::limit));
    }
    router
        .layer(middleware::from_fn(connection::track_call))
        .layer(middleware::from_fn(log_answer))
        .with_state(alim)
}

/// Logs one record for each answer, when its head is ready. Probes come every few seconds and are logged at
/// debug. A record never has a message or a key.
async fn log_answer(request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let answer = next.run(request).await;
    let status = answer.status().as_u16();
    match [HEALTH, LIVE].contains(&&*path) {
        true => tracing::debug!(%method, path, status, "answered"),
        false => tracing::info!(%method, path, status, "answered"),
    }
    answer
}

/// Whether `path`, without a trailing slash, is a route for any method.
fn is_route(path: &str) -> bool {
    let id = path
        .strip_prefix(THREADS)
        .and_then(|it| it.strip_prefix('/'));
    [INVOKE, STREAM, GRAPH_HEALTH, THREADS, HEALTH, LIVE].contains(&path)
        || id.is_some_and(|id| !id.contains('/'))
}

async fn not_found(uri: Uri, headers: HeaderMap) -> Rejection {
    let path = uri.path().trim_end_matches('/');
    if path == uri.path() || !is_route(path) {
        return Rejection::RouteUnknown;
    }
    HeaderValue::try_from(url::with_path(&headers, &uri, path))
        .map_or(Rejection::RouteUnknown, Rejection::Slash)
}

/// Starlette names only the methods of the first route that matches: for a thread, not `DELETE`.
async fn method_not_allowed(uri: Uri) -> Rejection {
    let takes_post = [INVOKE, STREAM, THREADS].contains(&uri.path());
    Rejection::MethodWrong(if takes_post { "POST" } else { "GET" })
}

/// A thread, as it is returned to callers.
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
) -> Result<Json<Value>, Rejection> {
    alim.authenticate(&headers)?;
    Ok(Json(json!({ "healthy": true, "engine": "emulator" })))
}

async fn create_thread(
    State(alim): State<Arc<Alim>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Thread>, Rejection> {
    let body = body::parse(&headers, &body)?;
    alim.authenticate(&headers)?;
    let metadata = validate::metadata(body)?;
    let thread_id = alim.threads.create(metadata.clone()).to_string();
    Ok(Json(Thread {
        thread_id,
        metadata,
    }))
}

async fn get_thread(
    State(alim): State<Arc<Alim>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Json<Thread>, Rejection> {
    alim.authenticate(&headers)?;
    let (id, metadata) = alim
        .threads
        .find(&id)
        .map_err(|_| Rejection::ThreadUnknown)?;
    Ok(Json(Thread {
        thread_id: id.to_string(),
        metadata,
    }))
}

async fn delete_thread(
    State(alim): State<Arc<Alim>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Json<Value>, Rejection> {
    alim.authenticate(&headers)?;
    let id = alim
        .threads
        .delete(&id)
        .map_err(|_| Rejection::ThreadUnknown)?;
    Ok(Json(
        json!({ "deleted": true, "thread_id": id.to_string() }),
    ))
}
