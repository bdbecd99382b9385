//! Every rejection of the embedded ALİM, with its status and body.
//!
//! The texts are FastAPI's, Starlette's and pydantic's, because callers read them. They were compared
//! with a real FastAPI 0.116.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CONTENT_TYPE, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::Value;

/// The page of a proxy that can't reach its upstream.
const UNAVAILABLE_PAGE: &str = "<html>\r\n<head><title>503 Service Temporarily Unavailable</title>\
</head>\r\n<body>\r\n<center><h1>503 Service Temporarily Unavailable</h1></center>\r\n<hr>\
<center>nginx</center>\r\n</body>\r\n</html>\r\n";

/// Why a call is rejected.
#[derive(Debug)]
pub(super) enum Rejection {
    /// The key is missing or empty.
    KeyMissing,
    /// The key is another one.
    KeyWrong,
    /// The body can't be read at all: not UTF-8, or nested too deep.
    Unreadable,
    /// The body does not fit the endpoint's schema.
    Invalid(Vec<FieldError>),
    /// There is no such path.
    RouteUnknown,
    /// The path has a trailing slash. Contains the URL without it.
    Slash(HeaderValue),
    /// The path does not take this method. Contains the first method that it takes.
    MethodWrong(&'static str),
    /// A thread endpoint does not know the thread.
    ThreadUnknown,
    /// The graph failed, with the reason.
    GraphFailed(String),
    /// The rate limit is used up.
    RateLimited,
    /// The same, with the limit's own text.
    OverLimit(String),
    /// A proxy can't reach the backend.
    Unavailable,
    /// The backend rejected a value. Contains the call's URL, which ALİM returns.
    BadValue(String),
    /// The backend raised an exception that nothing caught. Contains the call's URL.
    Crashed(String),
    /// The same, with the detail before the URL.
    Uncaught(String, String),
}

/// One error in a body, in pydantic's shape.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct FieldError {
    /// The stable name of the violated rule.
    #[serde(rename = "type")]
    pub(super) rule: &'static str,
    /// The path to the field: `["body", "message"]`.
    pub(super) loc: Vec<Value>,
    /// The rule in words.
    pub(super) msg: String,
    /// The value of the field.
    pub(super) input: Value,
    /// The parameters of the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ctx: Option<Value>,
}

impl IntoResponse for Rejection {
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
            Self::Invalid(errors) => detail(StatusCode::UNPROCESSABLE_ENTITY, errors),
            Self::RouteUnknown => detail(StatusCode::NOT_FOUND, "Not Found"),
            Self::Slash(location) => {
                (StatusCode::TEMPORARY_REDIRECT, [(LOCATION, location)]).into_response()
            }
            Self::MethodWrong(allowed) => (
                [(ALLOW, allowed)],
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

/// FastAPI's shape of an error body.
#[derive(Serialize)]
struct Detail<T> {
    detail: T,
}

fn detail(status: StatusCode, detail: impl Serialize) -> Response {
    (status, Json(Detail { detail })).into_response()
}

/// ALİM's own shape of an error body, for an exception that no endpoint caught.
#[derive(Serialize)]
struct Uncaught<'a> {
    error: Option<&'static str>,
    detail: &'a str,
    path: &'a str,
}

fn uncaught(status: StatusCode, detail: &str, path: &str) -> Response {
    let error = status.canonical_reason();
    let body = Uncaught {
        error,
        detail,
        path,
    };
    (status, Json(body)).into_response()
}
