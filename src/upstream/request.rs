//! A call into the HTTP request that asks it of the upstream.
//!
//! The body is made once and shared, so that a retry costs nothing; the key is marked sensitive, so
//! that no `Debug` of a request can print it.

use bytes::Bytes;
use http::{HeaderValue, header};
use reqwest::{Client, Request, Url};
use secrecy::{ExposeSecret, SecretString};

use crate::call::Call;

const USER_AGENT: &str = concat!("alim-bridge/", env!("CARGO_PKG_VERSION"));

/// Builds the request; `accept` is the only content type that the answer may have.
pub(super) fn build(
    client: &Client,
    url: &Url,
    accept: &'static str,
    call: &Call,
    key: Option<&SecretString>,
) -> Request {
    let body = serde_json::to_vec(&call.question).expect("a question has only string keys");
    let mut request = client
        .post(url.clone())
        .headers(call.headers.clone())
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, accept)
        .header(header::USER_AGENT, USER_AGENT)
        .body(Bytes::from(body));
    if let Some(key) = key {
        request = request.header("x-api-key", key_header(key));
    }
    request
        .build()
        .expect("a parsed URL and valid headers make a request")
}

/// Keys are checked where they enter (settings, metadata): they are fit for a header.
fn key_header(key: &SecretString) -> HeaderValue {
    let mut value = HeaderValue::from_str(key.expose_secret()).expect("a checked key");
    value.set_sensitive(true);
    value
}
