//! Why the upstream failed, and whether it may have acted on the call.
//!
//! Unary and streamed calls share one enum. It knows no gRPC: only `status` maps it to codes. The text of the upstream
//! that it carries is raw; `status` truncates and sanitizes it.

use std::time::Duration;

use http::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use crate::{
    call::{Violation, reply::ReplyHead},
    memory,
};

/// The part of a response that a size limit applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The unary reply.
    Reply,
    /// One event of a stream.
    Event,
}

/// Why the upstream gave no reply that can be passed on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There was no connection, so the upstream never saw the call.
    #[error("no connection to the upstream")]
    Unreachable(#[source] reqwest::Error),
    /// The bridge itself had no free file descriptor for a connection.
    #[error("no free file descriptor for a connection")]
    NoDescriptors(#[source] reqwest::Error),
    /// There was no memory for the request's JSON, so nothing was sent.
    #[error(transparent)]
    NoMemory(#[from] memory::Full),
    /// The connection broke after the call was sent, before the response was complete.
    #[error("the connection broke after the call was sent")]
    Interrupted(#[source] reqwest::Error),
    /// The upstream answered with a 4xx or 5xx status.
    #[error("the upstream answered {}", .0.status.as_u16())]
    Rejected(Box<Rejection>),
    /// The upstream redirected the call. The bridge does not follow, because the key would go along.
    #[error("the upstream redirected the call with {}", status.as_u16())]
    Redirected {
        /// The 3xx status.
        status: StatusCode,
    },
    /// The response is not one that ALİM sends.
    #[error("the upstream's answer can't be read: {why}")]
    Malformed {
        /// What is wrong with it.
        why: Malformed,
    },
    /// The response is larger than the bridge's limit.
    #[error("the upstream's {} exceeds {limit} bytes", match .what { Part::Reply => "reply", Part::Event => "event" })]
    TooLarge {
        /// The part that is too large.
        what: Part,
        /// The limit in bytes.
        limit: usize,
    },
    /// The upstream reported a failure inside a stream.
    #[error("the upstream reported a failure inside the stream")]
    StreamFailed {
        /// The upstream's description of the failure, raw.
        detail: Option<String>,
    },
    /// The stream ended before its `done` event.
    #[error("the stream ended before its done event")]
    Truncated,
}

/// A response with a 4xx or 5xx status.
#[derive(Debug)]
pub struct Rejection {
    /// The status.
    pub status: StatusCode,
    /// The body's `detail` if that is a string, raw.
    pub detail: Option<String>,
    /// The body's `detail` if that is a list of invalid fields, as in FastAPI's 422.
    pub violations: Vec<Violation>,
    /// True for a 404 that concerns the path: FastAPI's own, one without JSON, or one for a call that named no thread.
    pub is_route_missing: bool,
    /// How long the upstream asks to wait before the next call.
    pub retry_after: Option<Duration>,
    /// The other fields of its head.
    pub head: ReplyHead,
}

/// What is wrong with a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A 1xx or 2xx other than 200.
    #[error("unexpected status {0}")]
    Status(u16),
    /// A 400 without JSON: it comes from another server, or from one that expects TLS.
    #[error("a 400 that is not JSON: check scheme and host of UPSTREAM_URL")]
    Foreign400,
    /// The content type is missing, or wrong for this kind of call.
    #[error("wrong content type, {0} expected")]
    ContentType(&'static str),
    /// A content encoding that the bridge did not request.
    #[error("compressed without being asked to")]
    Encoding,
    /// The body is empty.
    #[error("empty body")]
    Empty,
    /// The body is not JSON, lacks a field, or has a field of the wrong type.
    #[error("not a JSON object with {0}")]
    Json(&'static str),
}

impl Error {
    /// Whether the call may have left the bridge.
    pub fn was_sent(&self) -> bool {
        !matches!(
            self,
            Self::Unreachable(_) | Self::NoDescriptors(_) | Self::NoMemory(_)
        )
    }

    /// The upstream's status, if a head was received.
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
            Self::Unreachable(_)
            | Self::NoDescriptors(_)
            | Self::NoMemory(_)
            | Self::Interrupted(_) => None,
        }
    }
}

/// Replaces the key, in case that the upstream quotes it.
pub(super) fn hide(text: String, key: Option<&SecretString>) -> String {
    match key.map(ExposeSecret::expose_secret) {
        Some(key) if !key.is_empty() && text.contains(key) => text.replace(key, "<key>"),
        _ => text,
    }
}

/// The `detail` of a JSON object, otherwise its `error`, if that is a string.
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
