//! A call into the HTTP request that asks it of the upstream.
//!
//! The body is made once and shared, so that a retry costs nothing; the key is marked sensitive, so
//! that no `Debug` of a request can print it.

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

    /// Whether its body marks the slot as sent.
    pub(super) fn has_body(&self) -> bool {
        self.body.is_some()
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

/// Builds the request, with the headers that cross. Its slot, where it has one, is marked as sent by its body.
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

/// A body that notes when it is first asked for: hyper does so once there is a connection, with the head in its buffer, and before
/// any byte leaves.
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

/// Marks the slot of a request without a body as sent when it is dropped, so at the answer's head or when the request is given up.
/// That may be later than the request left, and never earlier; [`unsent`](Self::unsent) says that it did not leave.
pub(super) struct Unknown(Option<Arc<Slot>>);

impl Unknown {
    pub(super) fn new(slot: Option<&Arc<Slot>>) -> Self {
        Self(slot.cloned())
    }

    pub(super) fn unsent(mut self) {
        self.0 = None;
    }
}

impl Drop for Unknown {
    fn drop(&mut self) {
        if let Some(slot) = &self.0 {
            slot.mark_sent();
        }
    }
}

/// Keys are checked where they enter (settings, metadata): they are fit for a header.
pub(super) fn key_header(key: &SecretString) -> HeaderValue {
    let mut value = HeaderValue::from_str(key.expose_secret()).expect("a checked key");
    value.set_sensitive(true);
    value
}
