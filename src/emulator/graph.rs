//! The two graph endpoints. Both give the same answer: `stream` token by token, and `invoke` in one
//! piece after the time that its tokens would have taken.
//!
//! As in FastAPI, the body is parsed before the key is checked, and its fields are validated after.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, Uri};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::alim::Alim;
use super::answers::Answer;
use super::fault::{AgentFault, Fault};
use super::rejection::Rejection;
use super::validate::GraphRequest;
use super::wire::{Step, broken_json, event, event_stream, pause};
use super::{body, tokens, url};

/// The model in the guide's example.
const MODEL: &str = "llama-3.3-70b-versatile";

/// The message of [`AgentFault::Failed`].
const FAILED: &str = "emulated agent failure";

/// The time between two events of [`AgentFault::Slow`].
const SLOW: Duration = Duration::from_secs(1);

/// The body of a successful `invoke`.
#[derive(Serialize)]
struct Reply {
    response: String,
    thread_id: String,
    model: &'static str,
    metadata: Metadata,
    #[serde(skip_serializing_if = "Option::is_none")]
    citations: Option<Value>,
}

#[derive(Serialize)]
struct Metadata {
    nodes_visited: &'static [&'static str],
    intent: &'static str,
}

/// `POST /api/v1/graph/invoke`.
pub(super) async fn invoke(
    State(alim): State<Arc<Alim>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Rejection> {
    let (request, fault) = accept(&alim, &uri, &headers, &body)?;
    let thread = match &request.thread_id {
        Some(id) => alim.threads.find(id).map(|(id, _)| id),
        None => Ok(alim.threads.create(Map::new())),
    }
    .map_err(|error| Rejection::GraphFailed(error.to_string()))?;

    let (answer, tokens) = answer(&request);
    let mut reply = Reply {
        response: tokens.concat(),
        thread_id: thread.to_string(),
        model: MODEL,
        metadata: Metadata {
            nodes_visited: answer.nodes,
            intent: answer.intent,
        },
        citations: None,
    };
    match fault {
        Some(AgentFault::Failed) => return Err(Rejection::GraphFailed(FAILED.into())),
        Some(AgentFault::Silent) => return pending().await,
        Some(AgentFault::Empty) => return Ok(broken_json(Vec::new())),
        Some(AgentFault::Truncated) => return Ok(broken_json(truncated(&reply))),
        Some(AgentFault::UnknownEvent) => reply.citations = Some(json!([citation()])),
        Some(AgentFault::Slow) | None => {}
    }
    let events = answer.nodes.len() + tokens.len();
    let pace = pace(&alim, fault);
    pause(pace.saturating_mul(u32::try_from(events).unwrap_or(u32::MAX))).await;
    Ok(Json(reply).into_response())
}

/// `POST /api/v1/graph/stream`.
pub(super) async fn stream(
    State(alim): State<Arc<Alim>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Rejection> {
    let (request, fault) = accept(&alim, &uri, &headers, &body)?;
    // A stream does not return its thread's id, so a stream without one creates no thread.
    let thread = request.thread_id.as_ref().map(|id| alim.threads.find(id));
    Ok(event_stream(match thread.transpose() {
        Ok(_) => script(&request, pace(&alim, fault), fault),
        Err(error) => vec![failure(&error.to_string())],
    }))
}

/// Parses, authenticates and validates a call, and applies the faults that come before the graph.
fn accept(
    alim: &Alim,
    uri: &Uri,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<(GraphRequest, Option<AgentFault>), Rejection> {
    let body = body::parse(headers, body)?;
    alim.authenticate(headers)?;
    let request = GraphRequest::parse(body)?;
    let url = || url::with_path(headers, uri, uri.path());
    match request.fault {
        Some(Fault::RateLimited) => Err(Rejection::RateLimited),
        Some(Fault::Unavailable) => Err(Rejection::Unavailable),
        Some(Fault::BadValue) => Err(Rejection::BadValue(url())),
        Some(Fault::Crashed) => Err(Rejection::Crashed(url())),
        Some(Fault::Agent(fault)) => Ok((request, Some(fault))),
        None => Ok((request, None)),
    }
}

/// The graph's answer, and the model's tokens: those that the caller requested, or else the answer's.
/// The last token is empty, as LangChain adds it.
fn answer(request: &GraphRequest) -> (&'static Answer, Vec<String>) {
    let answer = Answer::choose(&request.message);
    let tokens = match &request.tokens {
        Some(requested) => requested.iter().cloned().chain([String::new()]).collect(),
        None => tokens::split(answer.text)
            .into_iter()
            .map(Into::into)
            .collect(),
    };
    (answer, tokens)
}

/// The events of a stream, with their times. A node's event comes when the node has ended. The last node
/// runs the model, so its event comes after the tokens.
fn script(request: &GraphRequest, pace: Duration, fault: Option<AgentFault>) -> Vec<Step> {
    let (answer, tokens) = answer(request);
    let (last, first) = answer.nodes.split_last().expect("an answer has nodes");
    let nodes = first.iter().map(|node| event("node", node));
    let mut tokens: Vec<_> = tokens.iter().map(|text| event("token", text)).collect();
    let half = tokens.len() / 2;
    let mut end = vec![Step::After(pace, event("node", last))];
    match fault {
        Some(AgentFault::Silent) => return vec![Step::Silence],
        Some(AgentFault::Empty) => return Vec::new(),
        Some(AgentFault::Failed) => {
            tokens.truncate(1);
            end = vec![failure(FAILED)];
        }
        Some(AgentFault::Truncated) => {
            tokens.truncate(half);
            end.clear();
        }
        Some(AgentFault::UnknownEvent) => {
            tokens.insert(half, event("citation", &citation().to_string()));
            end.push(done());
        }
        Some(AgentFault::Slow) | None => end.push(done()),
    }
    let answered = nodes.chain(tokens).map(|bytes| Step::After(pace, bytes));
    answered.chain(end).collect()
}

fn done() -> Step {
    Step::After(Duration::ZERO, event("done", "[DONE]"))
}

fn failure(why: &str) -> Step {
    Step::After(Duration::ZERO, event("error", why))
}

/// Half of the reply, then an aborted connection.
fn truncated(reply: &Reply) -> Vec<Step> {
    let whole = serde_json::to_vec(reply).expect("a reply has text for keys and no floats");
    let half = Bytes::copy_from_slice(&whole[..whole.len() / 2]);
    vec![Step::After(Duration::ZERO, half), Step::Abort]
}

/// Not in the guide: an event in a stream, a field in a reply.
fn citation() -> Value {
    json!({ "source": "Torpaqşünaslıq və Aqrokimya İnstitutu", "page": 12 })
}

fn pace(alim: &Alim, fault: Option<AgentFault>) -> Duration {
    match fault {
        Some(AgentFault::Slow) => SLOW,
        _ => alim.token_delay,
    }
}
