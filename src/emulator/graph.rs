//! The two ways to ask the graph. Both say the same: `invoke` in one piece, once the time has passed
//! that its tokens take, and `stream` token by token.
//!
//! As with FastAPI, the body is read before the key is looked at, and its fields are judged after.

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
use super::refusal::Refusal;
use super::validate::Ask;
use super::wire::{Step, broken_json, event, event_stream, pause};
use super::{body, tokens, url};

/// The model that the guide's example names.
const MODEL: &str = "llama-3.3-70b-versatile";

/// What the agent says when it is told to fail.
const FAILED: &str = "emulated agent failure";

/// The pace of [`AgentFault::Slow`].
const SLOW: Duration = Duration::from_secs(1);

/// The body of a good `invoke`.
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
) -> Result<Response, Refusal> {
    let (ask, fault) = enter(&alim, &uri, &headers, &body)?;
    let thread = match &ask.thread_id {
        Some(id) => alim.threads.find(id).map(|(id, _)| id),
        None => Ok(alim.threads.create(Map::new())),
    }
    .map_err(|error| Refusal::GraphFailed(error.to_string()))?;

    let (answer, tokens) = answer(&ask);
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
        Some(AgentFault::Failed) => return Err(Refusal::GraphFailed(FAILED.into())),
        Some(AgentFault::Silent) => return pending().await,
        Some(AgentFault::Empty) => return Ok(broken_json(Vec::new())),
        Some(AgentFault::Truncated) => return Ok(broken_json(cut_short(&reply))),
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
) -> Result<Response, Refusal> {
    let (ask, fault) = enter(&alim, &uri, &headers, &body)?;
    // A stream never tells its thread, so one that names none leaves none behind.
    let thread = ask.thread_id.as_ref().map(|id| alim.threads.find(id));
    Ok(event_stream(match thread.transpose() {
        Ok(_) => script(&ask, pace(&alim, fault), fault),
        Err(error) => vec![failure(&error.to_string())],
    }))
}

/// All that happens before the graph is asked.
fn enter(
    alim: &Alim,
    uri: &Uri,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<(Ask, Option<AgentFault>), Refusal> {
    let body = body::read(headers, body)?;
    alim.admit(headers)?;
    let ask = Ask::parse(body)?;
    let url = || url::with_path(headers, uri, uri.path());
    match ask.fault {
        Some(Fault::RateLimited) => Err(Refusal::RateLimited),
        Some(Fault::Unavailable) => Err(Refusal::Unavailable),
        Some(Fault::BadValue) => Err(Refusal::BadValue(url())),
        Some(Fault::Crashed) => Err(Refusal::Crashed(url())),
        Some(Fault::Agent(fault)) => Ok((ask, Some(fault))),
        None => Ok((ask, None)),
    }
}

/// What the graph answers, and the tokens that its model says: those that the caller ordered, or
/// else the answer's. The last token is empty, as LangChain adds it.
fn answer(ask: &Ask) -> (&'static Answer, Vec<String>) {
    let answer = Answer::to(&ask.message);
    let tokens = match &ask.tokens {
        Some(ordered) => ordered.iter().cloned().chain([String::new()]).collect(),
        None => tokens::cut(answer.text)
            .into_iter()
            .map(Into::into)
            .collect(),
    };
    (answer, tokens)
}

/// What a stream sends, and when. A node is told when it has ended: the last one, which asks the
/// model, after its tokens.
fn script(ask: &Ask, pace: Duration, fault: Option<AgentFault>) -> Vec<Step> {
    let (answer, tokens) = answer(ask);
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

/// Half of the reply, and the connection is gone.
fn cut_short(reply: &Reply) -> Vec<Step> {
    let whole = serde_json::to_vec(reply).expect("a reply has text for keys and no floats");
    let half = Bytes::copy_from_slice(&whole[..whole.len() / 2]);
    vec![Step::After(Duration::ZERO, half), Step::Cut]
}

/// What the guide doesn't know: an event in a stream, a field in a reply.
fn citation() -> Value {
    json!({ "source": "Torpaqşünaslıq və Aqrokimya İnstitutu", "page": 12 })
}

fn pace(alim: &Alim, fault: Option<AgentFault>) -> Duration {
    match fault {
        Some(AgentFault::Slow) => SLOW,
        _ => alim.token_delay,
    }
}
