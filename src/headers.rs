//! Which header and metadata names may cross the bridge, each way.
//!
//! A list of what may pass, never of what may not: a name that is not here stays on its own bank, so
//! a key can't leak through a header that nobody thought of. What crosses is printable ASCII of bounded
//! length (RFC 9110, 5.5; gRPC over HTTP/2, Custom-Metadata).

use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

/// Names the call in both systems' logs.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// From the caller's metadata to the upstream's request, beside the request id.
const TO_UPSTREAM: [HeaderName; 4] = [
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("baggage"),
    http::header::ACCEPT_LANGUAGE,
];

/// W3C Baggage asks for 8192 bytes; nothing else that crosses is near it.
const MAX_VALUE_BYTES: usize = 8192;
/// Callers reject heads over 8 KiB, so what comes back is kept far below.
const MAX_REPLY_VALUE_BYTES: usize = 128;
const MAX_REPLY_NAME_BYTES: usize = 40;
const MAX_REPLY_NAMES: usize = 6;

/// What of the caller's metadata goes to the upstream: the trace, the language, and a request id
/// that is made when the caller sent none that is fit to pass.
pub fn to_upstream(metadata: &HeaderMap) -> HeaderMap {
    let mut out = HeaderMap::new();
    out.insert(REQUEST_ID, request_id(metadata));
    for name in &TO_UPSTREAM {
        for value in metadata.get_all(name) {
            if fit(value, MAX_VALUE_BYTES) {
                out.append(name.clone(), value.clone());
            }
        }
    }
    out
}

/// What of the upstream's head goes back to the caller: `x-request-id`, `retry-after` and
/// `x-ratelimit-*`; at most 6 of them, with names of 40 bytes and values of 128.
pub fn to_caller(head: &HeaderMap) -> HeaderMap {
    let mut out = HeaderMap::new();
    for (name, value) in head {
        let crosses = *name == REQUEST_ID
            || *name == http::header::RETRY_AFTER
            || name.as_str().starts_with("x-ratelimit-");
        // gRPC reads `-bin` values as base64, and fails a call over one that is none.
        let is_fit =
            name.as_str().len() <= MAX_REPLY_NAME_BYTES && !name.as_str().ends_with("-bin");
        if crosses && is_fit && out.len() < MAX_REPLY_NAMES && fit(value, MAX_REPLY_VALUE_BYTES) {
            out.insert(name.clone(), value.clone());
        }
    }
    out
}

/// The caller's request id when it is 1 to 128 printable ASCII characters, else a new UUID.
pub fn request_id(metadata: &HeaderMap) -> HeaderValue {
    match metadata.get(REQUEST_ID) {
        Some(id) if !id.is_empty() && fit(id, 128) => id.clone(),
        _ => HeaderValue::from_str(&Uuid::new_v4().to_string())
            .expect("a UUID's text is visible ASCII"),
    }
}

fn fit(value: &HeaderValue, limit: usize) -> bool {
    value.len() <= limit && value.to_str().is_ok()
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
    fn a_request_id_that_is_not_fit_to_pass_is_replaced() {
        let mut metadata = HeaderMap::new();
        metadata.insert(
            REQUEST_ID,
            HeaderValue::from_bytes(b"\xff").expect("obs-text is a value"),
        );
        let made = request_id(&metadata);
        assert!(Uuid::parse_str(made.to_str().expect("ASCII")).is_ok());
    }

    #[test]
    fn of_the_upstreams_head_only_ids_and_limits_come_back() {
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
