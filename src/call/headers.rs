//! The allowlists of headers and metadata that cross the bridge, in each direction.
//!
//! A name that is not listed never crosses. So a key can't leak through a header that nobody thought of. Values that cross
//! are printable ASCII of limited length (RFC 9110, 5.5; gRPC over HTTP/2, Custom-Metadata).

use http::{HeaderMap, HeaderName, HeaderValue, header::RETRY_AFTER};
use uuid::Uuid;

use crate::quota::Limits;

/// Names the call in both systems' logs.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The caller's metadata that crosses to the upstream, in addition to the request id.
const TO_UPSTREAM: [HeaderName; 4] = [
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("baggage"),
    http::header::ACCEPT_LANGUAGE,
];

/// W3C Baggage requires 8192 bytes; nothing else that crosses is that long.
const MAX_VALUE_BYTES: usize = 8192;
/// Callers reject heads over 8 KiB, so the limits on the reply's headers are far below.
const MAX_REPLY_VALUE_BYTES: usize = 128;
const MAX_REPLY_NAME_BYTES: usize = 40;
const MAX_LIMITS: usize = 6;
/// The prefix of the rate limit headers.
pub const RATE_LIMIT: &str = "x-ratelimit-";

/// The number of requests that the upstream still allows for the key.
pub const RATE_LIMIT_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RATE_LIMIT_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const RATE_LIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// The headers for the upstream: trace, language and request id. If the caller sent no valid request id, a new one is
/// generated.
pub fn to_upstream(metadata: &HeaderMap) -> HeaderMap {
    let mut out = HeaderMap::new();
    out.insert(REQUEST_ID, request_id(metadata));
    for name in &TO_UPSTREAM {
        for value in metadata.get_all(name) {
            if is_valid(value, MAX_VALUE_BYTES) {
                out.append(name.clone(), value.clone());
            }
        }
    }
    out
}

/// The headers for the caller: `retry-after`, and at most 6 `x-ratelimit-*`. Names have at most 40 bytes, values 128.
pub fn to_caller(head: &HeaderMap) -> HeaderMap {
    let is_value = |value: &&HeaderValue| is_valid(value, MAX_REPLY_VALUE_BYTES);
    let is_limit = |(name, value): &(&HeaderName, &HeaderValue)| {
        name.as_str().starts_with(RATE_LIMIT) && is_metadata_name(name) && is_value(value)
    };
    let mut out = HeaderMap::new();
    if let Some(when) = head.get(RETRY_AFTER).filter(is_value) {
        out.insert(RETRY_AFTER, when.clone());
    }
    let names = head.keys().filter_map(|name| Some((name, head.get(name)?)));
    for (name, value) in names.filter(is_limit).take(MAX_LIMITS) {
        out.insert(name.clone(), value.clone());
    }
    out
}

/// Replaces the upstream's rate limit headers with the bridge's own limits.
pub fn set_limits(fields: &mut HeaderMap, limits: Limits) {
    let names: Vec<_> = fields.keys().cloned().collect();
    for name in names {
        if name.as_str().starts_with(RATE_LIMIT) {
            fields.remove(name);
        }
    }
    fields.insert(RATE_LIMIT_LIMIT, limits.limit.into());
    fields.insert(RATE_LIMIT_REMAINING, limits.remaining.into());
    let reset = limits.reset.as_secs_f64().ceil() as u64;
    fields.insert(RATE_LIMIT_RESET, reset.into());
}

/// The upstream's request id, if it is valid.
pub fn upstream_request_id(head: &HeaderMap) -> Option<&str> {
    let id = head.get(REQUEST_ID)?;
    id.to_str()
        .ok()
        .filter(|_| is_valid(id, MAX_REPLY_VALUE_BYTES))
}

/// Whether all callers accept the name (gRPC over HTTP/2, Custom-Metadata). Other characters fail the whole call in grpcio. A
/// `-bin` name whose value is not base64 fails it in grpc-go.
fn is_metadata_name(name: &HeaderName) -> bool {
    let name = name.as_str();
    let is_allowed = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'_' | b'-' | b'.');
    name.len() <= MAX_REPLY_NAME_BYTES && name.bytes().all(is_allowed) && !name.ends_with("-bin")
}

/// The caller's request id if it has 1 to 128 printable ASCII characters, otherwise a new UUID.
pub fn request_id(metadata: &HeaderMap) -> HeaderValue {
    match metadata.get(REQUEST_ID) {
        Some(id) if is_valid(id, 128) => id.clone(),
        _ => HeaderValue::from_str(&Uuid::new_v4().to_string())
            .expect("a UUID's text is visible ASCII"),
    }
}

/// Whether the value is gRPC's ASCII-Value of at most `limit` bytes: at least one character, and no tabs.
fn is_valid(value: &HeaderValue, limit: usize) -> bool {
    let is_printable = |byte: &u8| matches!(byte, b' '..=b'~');
    (1..=limit).contains(&value.len()) && value.as_bytes().iter().all(is_printable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[test]
    fn only_the_listed_metadata_reaches_the_upstream() {
        let sent = to_upstream(&map(&[
            ("x-request-id", "r-1"),
            ("traceparent", "00-aa-bb-01"),
            ("x-api-key", "secret"),
            ("authorization", "Bearer secret"),
            ("cookie", "a=b"),
            ("host", "elsewhere"),
        ]));
        assert_eq!(sent.len(), 2);
        assert_eq!(sent["x-request-id"], "r-1");
    }

    #[test]
    fn an_invalid_request_id_is_replaced() {
        let mut metadata = HeaderMap::new();
        metadata.insert(
            REQUEST_ID,
            HeaderValue::from_bytes(b"\xff").expect("obs-text is a value"),
        );
        let replaced = request_id(&metadata);
        assert!(Uuid::parse_str(replaced.to_str().expect("ASCII")).is_ok());
    }

    #[test]
    fn only_rate_limits_and_retry_after_reach_the_caller() {
        let back = to_caller(&map(&[
            ("x-ratelimit-remaining", "3"),
            ("retry-after", "2"),
            ("set-cookie", "a=b"),
            ("x-api-key", "secret"),
            ("server", "uvicorn"),
        ]));
        assert_eq!(back.len(), 2);
        assert_eq!(back["x-ratelimit-remaining"], "3");
    }
}
