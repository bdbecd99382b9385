//! Every answer that is not the one hoped for, and its status and body: the one table.
//!
//! The words are FastAPI's, Starlette's and pydantic's own, since callers read them; they were
//! compared with a real FastAPI 0.116.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CONTENT_TYPE, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::Value;

/// The page that a proxy shows in place of an upstream that is gone.
const UNAVAILABLE_PAGE: &str = "<html>\r\n<head><title>503 Service Temporarily Unavailable</title>\
</head>\r\n<body>\r\n<center><h1>503 Service Temporarily Unavailable</h1></center>\r\n<hr>\
<center>nginx</center>\r\n</body>\r\n</html>\r\n";

/// Why a call does not get what it asked for.
#[derive(Debug)]
pub(super) enum Refusal {
    /// No key, or an empty one.
    KeyMissing,
    /// Another key than ours.
    KeyWrong,
    /// The body can't be read at all: not UTF-8, or nested too deep.
    Unreadable,
    /// The body is not what the endpoint takes.
    Invalid(Vec<FieldFault>),
    /// No such path.
    RouteUnknown,
    /// The path with a slash too many; the path as it should be.
    Slash(HeaderValue),
    /// The path is there, not with this method; the first one that is.
    MethodWrong(&'static str),
    /// No such thread, where a thread itself was asked for.
    ThreadUnknown,
    /// The graph did not come to its end, and why.
    GraphFailed(String),
    /// The rate limit is used up.
    RateLimited,
    /// The same, as the limit itself tells it.
    OverLimit(String),
    /// A proxy found nothing behind it.
    Unavailable,
    /// The backend stumbled over a value; the call's URL, which ALİM tells.
    BadValue(String),
    /// The backend failed in a way that nobody thought of; the same.
    Crashed(String),
    /// The same, with its detail before the URL.
    Uncaught(String, String),
}

/// One thing that is wrong with a body, as pydantic tells it.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct FieldFault {
    /// The stable name of the rule that is broken.
    #[serde(rename = "type")]
    pub(super) rule: &'static str,
    /// The way to the field: `["body", "message"]`.
    pub(super) loc: Vec<Value>,
    /// The rule in words.
    pub(super) msg: String,
    /// What was found there.
    pub(super) input: Value,
    /// What the words were made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ctx: Option<Value>,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::KeyMissing => (
                [(WWW_AUTHENTICATE, "ApiKey")],
                detail(StatusCode::UNAUTHORIZED, "Missing API Key"),
            )
                .into_response(),
            Self::KeyWrong => detail(StatusCode::FORBIDDEN, "Invalid API Key"),
            Self::Unreadable => detail(
                StatusCode::BAD_REQUEST,
                "There was an error parsing the body",
            ),
            Self::Invalid(faults) => detail(StatusCode::UNPROCESSABLE_ENTITY, faults),
            Self::RouteUnknown => detail(StatusCode::NOT_FOUND, "Not Found"),
            Self::Slash(location) => {
                (StatusCode::TEMPORARY_REDIRECT, [(LOCATION, location)]).into_response()
            }
            Self::MethodWrong(right) => (
                [(ALLOW, right)],
                detail(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed"),
            )
                .into_response(),
            Self::ThreadUnknown => detail(StatusCode::NOT_FOUND, "Thread not found"),
            Self::GraphFailed(why) => detail(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("Graph execution failed: {why}"),
            ),
            Self::RateLimited => (
                [
                    (RETRY_AFTER, "2"),
                    (HeaderName::from_static("x-ratelimit-remaining"), "0"),
                ],
                detail(
                    StatusCode::TOO_MANY_REQUESTS,
                    "Rate limit exceeded: 30 per 1 minute",
                ),
            )
                .into_response(),
            Self::OverLimit(why) => detail(StatusCode::TOO_MANY_REQUESTS, why),
            Self::Unavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                [(CONTENT_TYPE, "text/html")],
                UNAVAILABLE_PAGE,
            )
                .into_response(),
            Self::BadValue(path) => uncaught(StatusCode::BAD_REQUEST, "emulated bad value", &path),
            Self::Crashed(path) => {
                uncaught(StatusCode::INTERNAL_SERVER_ERROR, "emulated crash", &path)
            }
            Self::Uncaught(why, path) => uncaught(StatusCode::INTERNAL_SERVER_ERROR, &why, &path),
        }
    }
}

/// FastAPI's one shape of an error body.
#[derive(Serialize)]
struct Detail<T> {
    detail: T,
}

fn detail(status: StatusCode, detail: impl Serialize) -> Response {
    (status, Json(Detail { detail })).into_response()
}

/// What ALİM tells of an exception that no endpoint caught, in a shape of its own.
#[derive(Serialize)]
struct Uncaught<'a> {
    error: Option<&'static str>,
    detail: &'a str,
    path: &'a str,
}

fn uncaught(status: StatusCode, detail: &str, path: &str) -> Response {
    let error = status.canonical_reason();
    let told = Uncaught {
        error,
        detail,
        path,
    };
    (status, Json(told)).into_response()
}
