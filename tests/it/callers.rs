//! Callers of the callers file: who they are, what they can do, which key the upstream gets, and what is reported of them.

mod command;
mod identity;
mod limits;
mod own_keys;
mod records;

use crate::support::{
    Bridge, ask, ask_stream,
    callers::CallersFile,
    extra::with_metadata,
    reply_json,
    upstream::{Reply, Upstream},
};
use alim_bridge::pb::{InvokeRequest, InvokeResponse, StreamRequest};
use tonic::{Code, IntoRequest, Request, Response, Status};

/// A bridge with the callers of this text and these other settings.
async fn knowing(
    upstream: &Upstream,
    text: &str,
    settings: &[(&str, &str)],
) -> (Bridge, CallersFile) {
    let file = CallersFile::with(text);
    let path = file.path();
    let settings = [&[("CALLERS_FILE", &*path)], settings].concat();
    (Bridge::with(&upstream.url(), &settings).await, file)
}

fn replying() -> Upstream {
    Upstream::answering(Reply::json(200, reply_json()))
}

fn invoked_by(key: &str) -> Request<InvokeRequest> {
    let authorization = format!("Bearer {key}");
    with_metadata(ask("Salam"), &[("authorization", authorization.as_bytes())])
}

fn streamed_by(key: &str) -> Request<StreamRequest> {
    let authorization = format!("Bearer {key}");
    with_metadata(
        ask_stream("Salam"),
        &[("authorization", authorization.as_bytes())],
    )
}

async fn invoke(
    bridge: &Bridge,
    request: impl IntoRequest<InvokeRequest>,
) -> Result<Response<InvokeResponse>, Status> {
    bridge.client.clone().invoke(request).await
}

fn because(code: Code, reason: &str) -> (Code, String) {
    (code, reason.into())
}

fn missing() -> (Code, String) {
    because(Code::Unauthenticated, "CALLER_CREDENTIALS_MISSING")
}

fn rejected() -> (Code, String) {
    because(Code::Unauthenticated, "CALLER_CREDENTIALS_REJECTED")
}
