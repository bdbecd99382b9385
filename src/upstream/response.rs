//! Checks the head of a response, and reads its body within a limit.
//!
//! Unary and streamed calls share this file. [`check`] accepts only a 200 of the right content type, and turns all
//! else into an [`Error`]. reqwest's own `bytes()`, `text()` and `json()` have no limit, so the body is read here.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use mime::Mime;
use reqwest::Response;
use secrecy::{ExposeSecret, SecretString};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

use super::{
    MAX_CHUNK_BYTES,
    error::{Error, Malformed, Part, Rejection, detail_of, hide},
    request::{Expected, JSON},
    sse::{self, Events},
};
use crate::{
    call::{Call, Violation, headers, reply::ReplyHead},
    memory::Account,
    quota::ReportedLimit,
};

/// Maximum size of an error body in bytes. A larger one loses its `detail`; its status still counts.
const MAX_ERROR_BODY_BYTES: usize = 64 * 1024;
/// From the head of an error response to the end of its body. A slower body loses its `detail`.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(2);
/// Upper bound on Retry-After.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

/// A response whose head was accepted, with its body still unread.
#[derive(Debug)]
pub(super) struct Head {
    response: Response,
    memory: Arc<Account>,
    /// The key that was sent to the upstream.
    key: Option<SecretString>,
}

/// Accepts a 200 of the expected content type. Errors never quote `key`.
///
/// # Errors
///
/// - [`Error::Redirected`] for 3xx, [`Error::Rejected`] for 4xx and 5xx.
/// - [`Error::Malformed`] for a 400 without JSON, another status, content type or content encoding.
pub(super) async fn check(
    response: Response,
    expected: Expected,
    call: Call<()>,
    key: Option<SecretString>,
) -> Result<Head, Error> {
    let accept = expected.accept;
    let status = response.status();
    if status.is_redirection() {
        return Err(Error::Redirected { status });
    }
    if status.is_client_error() || status.is_server_error() {
        return Err(reject(response, expected, &call, key.as_ref()).await);
    }
    let malformed = if status != StatusCode::OK {
        Some(Malformed::Status(status.as_u16()))
    } else if !has_content_type(response.headers(), accept) {
        Some(Malformed::ContentType(accept))
    } else if is_encoded(response.headers()) {
        Some(Malformed::Encoding)
    } else {
        None
    };
    match malformed {
        Some(why) => Err(Error::Malformed { why }),
        None => Ok(Head {
            response,
            memory: call.memory,
            key,
        }),
    }
}

impl Head {
    /// The fields of the head that are passed on.
    pub(super) fn fields(&self) -> ReplyHead {
        fields(self.response.headers(), self.key.as_ref())
    }

    /// The events of the body.
    pub(super) fn into_events(self, settings: sse::Settings) -> Events {
        let body = http::Response::from(self.response).into_body();
        Events::new(body, settings, self.memory, self.key)
    }

    /// Reads the whole reply, an object with the `required` fields and at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// - [`Error::TooLarge`] above the limit, [`Error::Interrupted`] if the body is incomplete.
    /// - [`Error::Malformed`] if it is empty, not JSON, or lacks a required field.
    pub(super) async fn into_reply<T: DeserializeOwned>(
        self,
        limit: usize,
        required: &'static str,
    ) -> Result<T, Error> {
        let body = read(self.response, limit, &self.memory).await?;
        // serde would also accept an array of the fields' values.
        let is_object = body.trim_ascii_start().starts_with(b"{");
        let why = match serde_json::from_slice(&body) {
            Ok(reply) if is_object => return Ok(reply),
            _ if body.is_empty() => Malformed::Empty,
            _ => Malformed::Json(required),
        };
        Err(Error::Malformed { why })
    }
}

/// Reads the body, and waits while the memory budget is full. It reserves memory for the body, its parsed form, and hyper's read-ahead.
async fn read(response: Response, limit: usize, memory: &Account) -> Result<Bytes, Error> {
    let too_large = Error::TooLarge {
        what: Part::Reply,
        limit,
    };
    let announced = response.content_length().unwrap_or(0);
    if announced > limit as u64 {
        return Err(too_large);
    }
    let announced = usize::try_from(announced).expect("within the limit");
    let mut body = http::Response::from(response).into_body();
    let (mut chunks, mut bytes) = (Vec::new(), 0);
    memory.hold(needed(announced)).await;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(Error::Interrupted)?.into_data() {
            bytes += data.len();
            if bytes > limit {
                return Err(too_large);
            }
            chunks.push(data);
            memory.hold(needed(bytes.max(announced))).await;
        }
    }
    Ok(match chunks.len() {
        1 => chunks.remove(0),
        _ => chunks.concat().into(),
    })
}

/// The memory that a reply of `bytes` needs while it is read.
fn needed(bytes: usize) -> usize {
    2 * bytes + (2 * bytes).min(2 * MAX_CHUNK_BYTES)
}

/// The fields that are passed on. A field that quotes the key in its value or its name is omitted. Names are in lower
/// case, so the comparison ignores case.
fn fields(head: &HeaderMap, key: Option<&SecretString>) -> ReplyHead {
    let key = key.map_or(&b""[..], |key| key.expose_secret().as_bytes());
    let quotes = |text: &[u8]| {
        let mut parts = text.windows(key.len().max(1));
        !key.is_empty() && parts.any(|part| part.eq_ignore_ascii_case(key))
    };
    let crossing = headers::to_caller(head).into_iter();
    let named = crossing.filter_map(|(name, value)| Some((name?, value)));
    let crossing = named
        .filter(|(name, value)| !quotes(name.as_ref()) && !quotes(value.as_bytes()))
        .collect();
    let request_id = headers::upstream_request_id(head).filter(|id| !quotes(id.as_bytes()));
    ReplyHead {
        headers: crossing,
        request_id: request_id.map(String::from),
        remaining: remaining(head),
    }
}

fn remaining(head: &HeaderMap) -> Option<u32> {
    let left = head.get(headers::RATE_LIMIT_REMAINING)?;
    left.to_str().ok()?.parse().ok()
}

/// The state of the upstream's rate limit, from the head.
pub(super) fn limits(response: &Response) -> ReportedLimit {
    let is_limited = response.status() == StatusCode::TOO_MANY_REQUESTS;
    ReportedLimit {
        remaining: remaining(response.headers()),
        stop: retry_after(response.headers()).filter(|_| is_limited),
    }
}

fn retry_after(head: &HeaderMap) -> Option<Duration> {
    let when = head.get(header::RETRY_AFTER)?.to_str().ok()?;
    parse_retry_after(when, SystemTime::now())
}

async fn reject(
    response: Response,
    expected: Expected,
    call: &Call<()>,
    key: Option<&SecretString>,
) -> Error {
    let status = response.status();
    let head = fields(response.headers(), key);
    let retry_after = retry_after(response.headers());
    let says_json = has_content_type(response.headers(), JSON);
    let body = tokio::time::timeout(
        ERROR_BODY_TIMEOUT,
        read(response, MAX_ERROR_BODY_BYTES, &call.memory),
    );
    let body = body.await.ok().and_then(Result::ok);
    let is_json = match &body {
        Some(body) => serde_json::from_slice::<IgnoredAny>(body).is_ok(),
        None => says_json, // too large, or too slow
    };
    if status == StatusCode::BAD_REQUEST && !is_json {
        let why = Malformed::Foreign400;
        return Error::Malformed { why };
    }
    let body = body.unwrap_or_default();
    let detail = detail_of(&body);
    let concerns_path =
        !expected.names_thread || !is_json || detail.as_deref() == Some("Not Found");
    Error::Rejected(Box::new(Rejection {
        status,
        is_route_missing: status == StatusCode::NOT_FOUND && concerns_path,
        detail: detail.map(|detail| hide(detail, key)),
        violations: parse_violations(&body, key),
        retry_after,
        head,
    }))
}

/// Retry-After as seconds or as a date (RFC 9110, 10.2.3). 0 and a date in the past mean no wait.
fn parse_retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let wait = match text.trim().parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text.trim())
            .ok()?
            .duration_since(now)
            .unwrap_or_default(),
    };
    (!wait.is_zero()).then_some(wait.min(MAX_RETRY_AFTER))
}

/// Parses FastAPI's list of invalid fields. `loc` is joined with "."; a leading "body" is removed.
fn parse_violations(body: &[u8], key: Option<&SecretString>) -> Vec<Violation> {
    let Ok(object) = serde_json::from_slice::<Value>(body) else {
        return Vec::new();
    };
    let entries = object.get("detail").and_then(Value::as_array);
    entries
        .into_iter()
        .flatten()
        .map(|entry| {
            let loc = entry.get("loc").and_then(Value::as_array);
            let path: Vec<String> = loc.into_iter().flatten().map(segment).collect();
            let path = match path.split_first() {
                Some((first, rest)) if first == "body" && !rest.is_empty() => rest,
                _ => &path,
            };
            let message = entry
                .get("msg")
                .and_then(Value::as_str)
                .unwrap_or("invalid");
            Violation::new(hide(path.join("."), key), hide(message.to_owned(), key))
        })
        .collect()
}

fn segment(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), String::from)
}

fn has_content_type(head: &HeaderMap, expected: &str) -> bool {
    let found = head.get(header::CONTENT_TYPE);
    found.is_some_and(|found| {
        let is_essence = |text: &str| {
            let mime = text.parse::<Mime>();
            mime.is_ok_and(|mime| mime.essence_str() == expected)
        };
        found == expected || found.to_str().is_ok_and(is_essence)
    })
}

fn is_encoded(head: &HeaderMap) -> bool {
    head.get(header::CONTENT_ENCODING)
        .is_some_and(|encoding| encoding != "identity")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        let now = httpdate::parse_http_date("Sun, 22 Nov 2026 10:00:00 GMT").expect("a date");
        let wait = |text| parse_retry_after(text, now).map(|wait| wait.as_secs());
        assert_eq!(wait("7"), Some(7));
        assert_eq!(wait("Sun, 22 Nov 2026 10:01:00 GMT"), Some(60));
        assert_eq!(wait("Sun, 22 Nov 2026 09:00:00 GMT"), None, "it has passed");
        assert_eq!(wait("0"), None, "it says nothing");
        assert_eq!(wait("99999999999"), Some(86_400), "believed up to a day");
        assert_eq!(wait("-1"), None);
        assert_eq!(wait("soon"), None);
    }

    #[test]
    fn fastapis_invalid_fields_become_violations() {
        let body = br#"{"detail":[
            {"type":"string_too_short","loc":["body","message"],"msg":"too short"},
            {"loc":["body","scenario_context","crops",0],"msg":"no crop"},
            {"loc":["body"],"msg":"no object"}, {}]}"#;
        let violations = parse_violations(body, None);
        let fields: Vec<_> = violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["message", "scenario_context.crops.0", "body", ""]);
        assert_eq!(violations[0].description, "too short");
    }

    #[test]
    fn content_types_are_compared_without_parameters_and_case() {
        let head = |value: &'static str| {
            let mut head = HeaderMap::new();
            head.insert(header::CONTENT_TYPE, value.parse().expect("a value"));
            head
        };
        let sse = "text/event-stream";
        assert!(has_content_type(
            &head("Text/Event-Stream; charset=utf-8"),
            sse
        ));
        assert!(has_content_type(&head("text/event-stream;"), sse));
        assert!(!has_content_type(&head("text/html"), sse));
        assert!(!has_content_type(&HeaderMap::new(), sse));
    }
}
