//! A call into the HTTP request that asks it of the upstream.
//!
//! The body is made once and shared, so that a retry costs nothing; the key is marked sensitive, so
//! that no `Debug` of a request can print it.

use bytes::Bytes;
use http::{HeaderValue, header};
use reqwest::{Method, Request, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use crate::call::Call;

pub(super) const JSON: &str = "application/json";
pub(super) const SSE: &str = "text/event-stream";

pub(super) const USER_AGENT: &str = concat!("alim-bridge/", env!("CARGO_PKG_VERSION"));

/// What the upstream is asked to do.
pub(super) struct Ask {
    method: Method,
    pub(super) url: Url,
    body: Option<Bytes>,
    pub(super) expected: Expected,
}

/// What an answer is judged by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    /// The only content type that it may have.
    pub(super) accept: &'static str,
    /// Whether the upstream was asked about a thread, which a 404 may be about; else it lacks the route.
    pub(super) names_thread: bool,
}

impl Ask {
    /// Takes `body` as JSON to `url`.
    pub(super) fn post(url: Url, body: &impl Serialize, expected: Expected) -> Self {
        let body = serde_json::to_vec(body).expect("what is asked has only string keys");
        Self {
            method: Method::POST,
            url,
            body: Some(Bytes::from(body)),
            expected,
        }
    }

    /// Bytes of the JSON.
    pub(super) fn body_bytes(&self) -> usize {
        self.body.as_ref().map_or(0, Bytes::len)
    }

    /// What is of use once the head of the answer is there.
    pub(super) fn answered(self) -> (Url, Expected) {
        (self.url, self.expected)
    }

    /// Asks about the thread that `url` names, and says no more.
    pub(super) fn of_thread(method: Method, url: Url) -> Self {
        Self {
            method,
            url,
            body: None,
            expected: Expected {
                accept: JSON,
                names_thread: true,
            },
        }
    }
}

/// Builds the request, with the headers that cross.
pub(super) fn build<T>(ask: &Ask, call: &Call<T>, key: Option<&SecretString>) -> Request {
    let mut request = Request::new(ask.method.clone(), ask.url.clone());
    let headers = request.headers_mut();
    headers.clone_from(&call.headers);
    headers.insert(
        header::ACCEPT,
        HeaderValue::from_static(ask.expected.accept),
    );
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    if let Some(key) = key {
        headers.insert("x-api-key", key_header(key));
    }
    if let Some(body) = &ask.body {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
        *request.body_mut() = Some(body.clone().into());
    }
    request
}

/// Keys are checked where they enter (settings, metadata): they are fit for a header.
pub(super) fn key_header(key: &SecretString) -> HeaderValue {
    let mut value = HeaderValue::from_str(key.expose_secret()).expect("a checked key");
    value.set_sensitive(true);
    value
}
