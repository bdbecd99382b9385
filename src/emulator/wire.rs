//! Steps to bodies: what leaves when, and how a body ends.
//!
//! Event data is written as it is, line ends too, as ALİM does and the standard (WHATWG HTML 9.2)
//! forbids: who reads this must get the text back from broken framing. Each event is a chunk of its
//! own, and nothing else is sent: no comments, no heartbeats.

use std::future::pending;
use std::io;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::header::{CONTENT_TYPE, HeaderName};
use tokio::time::sleep;

/// From the last bytes to the reset, so that they leave before it.
const BEFORE_CUT: Duration = Duration::from_millis(20);

/// One step of a body.
#[derive(Debug)]
pub(super) enum Step {
    /// After that time since the last step, these bytes.
    After(Duration, Bytes),
    /// Nothing more, and no end.
    Silence,
    /// The connection is closed inside the body: the last chunk never comes.
    Cut,
}

/// Writes one event.
pub(super) fn event(name: &str, data: &str) -> Bytes {
    Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
}

/// The answer that streams events; its head leaves at once, whatever the steps are.
pub(super) fn event_stream(steps: Vec<Step>) -> Response {
    let head = [
        (CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (head, body(steps)).into_response()
}

/// The answer that is said to be JSON and has these steps for a body.
pub(super) fn broken_json(steps: Vec<Step>) -> Response {
    ([(CONTENT_TYPE, "application/json")], body(steps)).into_response()
}

/// Waits that long; no time at all is not even one tick of the clock.
pub(super) async fn pause(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}

fn body(steps: Vec<Step>) -> Body {
    Body::from_stream(stream::iter(steps).then(take))
}

async fn take(step: Step) -> io::Result<Bytes> {
    match step {
        Step::After(time, bytes) => {
            pause(time).await;
            Ok(bytes)
        }
        Step::Silence => pending().await,
        Step::Cut => {
            sleep(BEFORE_CUT).await;
            Err(io::ErrorKind::ConnectionAborted.into())
        }
    }
}
