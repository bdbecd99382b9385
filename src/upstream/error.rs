//! Why the upstream failed, and whether it may have acted.
//!
//! One enum for both kinds of call. It knows no gRPC: `grpc/status.rs` alone turns it into codes. The
//! text of the upstream that it carries is raw; that file cuts and cleans it.

use std::time::Duration;

use http::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use crate::{
    call::{Violation, reply::ReplyHead},
    memory,
};

/// What a limit was set on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The unary answer.
    Reply,
    /// One event of a stream.
    Event,
}

/// Why the upstream gave no answer that can be passed on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There was no connection, so the upstream never saw the call.
    #[error("no connection to the upstream")]
    Unreachable(#[source] reqwest::Error),
    /// There was no memory for the request's JSON, so nothing was sent.
    #[error(transparent)]
    NoMemory(#[from] memory::Full),
    /// The connection broke after the call was sent, before the whole answer.
    #[error("the connection broke after the call was sent")]
    Interrupted(#[source] reqwest::Error),
    /// The upstream answered with a status that is no success.
    #[error("the upstream answered {}", .0.status.as_u16())]
    Rejected(Box<Rejection>),
    /// The upstream sent the call elsewhere; the bridge does not follow, for the key would go along.
    #[error("the upstream redirected the call with {}", status.as_u16())]
    Redirected {
        /// The 3xx status.
        status: StatusCode,
    },
    /// What was sent is no answer of the upstream's.
    #[error("the upstream's answer can't be read: {why}")]
    Malformed {
        /// What is wrong with it.
        why: Malformed,
    },
    /// The answer is larger than the bridge passes on.
    #[error("the upstream's {} exceeds {limit} bytes", match .what { Part::Reply => "reply", Part::Event => "event" })]
    TooLarge {
        /// What was too large.
        what: Part,
        /// How many bytes would have passed.
        limit: usize,
    },
    /// The upstream reported a failure inside a stream.
    #[error("the upstream reported a failure inside the stream")]
    StreamFailed {
        /// What it said of it, raw.
        detail: Option<String>,
    },
    /// The stream ended before its `done`.
    #[error("the stream ended before its done event")]
    Truncated,
}

/// An answer with a status of 4xx or 5xx.
#[derive(Debug)]
pub struct Rejection {
    /// The status.
    pub status: StatusCode,
    /// The body's `detail` where that is a string, raw.
    pub detail: Option<String>,
    /// The body's `detail` where that is a list of invalid fields, as FastAPI's 422 has it.
    pub violations: Vec<Violation>,
    /// True for a 404 that is about the path: FastAPI's own, one without JSON, or one where no thread was named.
    pub is_route_missing: bool,
    /// When the upstream asks to be called again.
    pub retry_after: Option<Duration>,
    /// What else its head says.
    pub head: ReplyHead,
}

/// What can be wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A 1xx or 2xx other than 200.
    #[error("unexpected status {0}")]
    Status(u16),
    /// A 400 without JSON, as a server gives that is not the upstream, or that expects TLS.
    #[error("a 400 that is not JSON: check scheme and host of UPSTREAM_URL")]
    Foreign400,
    /// Not the content type of this kind of call, or none.
    #[error("wrong content type, {0} expected")]
    ContentType(&'static str),
    /// A content encoding that the bridge did not ask for.
    #[error("compressed without being asked to")]
    Encoding,
    /// No body at all.
    #[error("empty body")]
    Empty,
    /// A body that is no JSON, or lacks a field, or has one of the wrong type.
    #[error("not a JSON object with {0}")]
    Json(&'static str),
}

impl Error {
    /// Whether the call may have left the bridge.
    pub fn was_sent(&self) -> bool {
        !matches!(self, Self::Unreachable(_) | Self::NoMemory(_))
    }

    /// The upstream's status, where there was a head.
    pub fn http_status(&self) -> Option<StatusCode> {
        match self {
            Self::Rejected(rejection) => Some(rejection.status),
            Self::Redirected { status } => Some(*status),
            Self::Malformed {
                why: Malformed::Status(status),
            } => StatusCode::from_u16(*status).ok(),
            Self::Malformed {
                why: Malformed::Foreign400,
            } => Some(StatusCode::BAD_REQUEST),
            Self::Malformed { .. }
            | Self::TooLarge { .. }
            | Self::StreamFailed { .. }
            | Self::Truncated => Some(StatusCode::OK),
            Self::Unreachable(_) | Self::NoMemory(_) | Self::Interrupted(_) => None,
        }
    }
}

/// The text without the key, should the upstream quote it.
pub(super) fn hide(text: String, key: Option<&SecretString>) -> String {
    match key.map(ExposeSecret::expose_secret) {
        Some(key) if !key.is_empty() && text.contains(key) => text.replace(key, "<key>"),
        _ => text,
    }
}

/// The `detail` of a JSON object, else its `error`, where that is a string.
pub(super) fn detail_of(body: &[u8]) -> Option<String> {
    let object: Value = serde_json::from_slice(body).ok()?;
    let text = |name: &str| object.get(name)?.as_str().map(String::from);
    text("detail").or_else(|| text("error"))
}

/// Whether the text is a JSON object with `detail` or `error`.
pub(super) fn is_error_object(text: &[u8]) -> bool {
    serde_json::from_slice::<Value>(text)
        .is_ok_and(|value| value.get("detail").or(value.get("error")).is_some())
}
