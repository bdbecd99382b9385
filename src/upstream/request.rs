//! Turns a call into an HTTP request to the upstream.
//!
//! The body is encoded once and shared, so that a retry copies nothing. The key is marked sensitive, so that
//! no `Debug` output of a request contains it.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::Full;
use reqwest::{Body, Method, Request, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use crate::{call::Call, quota::Slot};

pub(super) const JSON: &str = "application/json";
pub(super) const SSE: &str = "text/event-stream";

pub(super) const USER_AGENT: &str = concat!("alim-bridge/", env!("CARGO_PKG_VERSION"));

/// A request to the upstream that can be built again for a retry.
pub(super) struct Outgoing {
    method: Method,
    pub(super) url: Url,
    body: Option<Bytes>,
    pub(super) expected: Expected,
}

/// What a response must satisfy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    /// The only accepted content type.
    pub(super) accept: &'static str,
    /// Whether the call named a thread. If it did, a 404 can concern the thread; otherwise the route is missing.
    pub(super) names_thread: bool,
}

impl Outgoing {
    /// A POST of `body` as JSON to `url`.
    pub(super) fn post(url: Url, body: &impl Serialize, expected: Expected) -> Self {
        let body = serde_json::to_vec(body).expect("what is asked has only string keys");
        Self {
            method: Method::POST,
            url,
            body: Some(Bytes::from(body)),
            expected,
        }
    }

    /// The size of the JSON in bytes.
    pub(super) fn body_bytes(&self) -> usize {
        self.body.as_ref().map_or(0, Bytes::len)
    }

    /// The parts that are needed after the head of the response has arrived.
    pub(super) fn into_parts(self) -> (Url, Expected) {
        (self.url, self.expected)
    }

    /// Whether it has a body. If so, the body marks the slot as sent.
    pub(super) fn has_body(&self) -> bool {
        self.body.is_some()
    }

    /// A request without a body for the thread that `url` names.
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

/// Builds the request with the forwarded headers. If the call has a slot, the request's body marks it as sent.
pub(super) fn build<T>(outgoing: &Outgoing, call: &Call<T>, key: Option<&SecretString>) -> Request {
    let mut request = Request::new(outgoing.method.clone(), outgoing.url.clone());
    let headers = request.headers_mut();
    headers.clone_from(&call.headers);
    headers.insert(
        header::ACCEPT,
        HeaderValue::from_static(outgoing.expected.accept),
    );
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    if let Some(key) = key {
        headers.insert("x-api-key", key_header(key));
    }
    if let Some(body) = &outgoing.body {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
        *request.body_mut() = Some(match call.slots.current() {
            None => body.clone().into(),
            Some(slot) => Body::wrap(SlotBody {
                body: Full::new(body.clone()),
                slot: Arc::clone(slot),
            }),
        });
    }
    request
}

/// A body that marks its slot as sent when it is first polled. hyper polls it once there is a connection, after it has buffered
/// the head and before any byte leaves.
struct SlotBody {
    body: Full<Bytes>,
    slot: Arc<Slot>,
}

impl HttpBody for SlotBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.slot.mark_sent();
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Marks the slot of a request without a body as sent when it is dropped: at the head of the response, or when the request is
/// given up. That can be later than the request left, but never earlier. [`disarm`](Self::disarm) is for a request that did not
/// leave.
pub(super) struct MarkSentOnDrop(Option<Arc<Slot>>);

impl MarkSentOnDrop {
    pub(super) fn new(slot: Option<&Arc<Slot>>) -> Self {
        Self(slot.cloned())
    }

    pub(super) fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for MarkSentOnDrop {
    fn drop(&mut self) {
        if let Some(slot) = &self.0 {
            slot.mark_sent();
        }
    }
}

/// Keys are validated where they enter (settings, metadata), so each is valid in a header.
pub(super) fn key_header(key: &SecretString) -> HeaderValue {
    let mut value = HeaderValue::from_str(key.expose_secret()).expect("a checked key");
    value.set_sensitive(true);
    value
}
