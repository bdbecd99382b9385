//! Turns steps into response bodies: what is sent at which time, and how a body ends.
//!
//! Event data is not escaped, not even its line ends. ALİM does the same, although the standard (WHATWG
//! HTML 9.2) forbids it, so the bridge must recover the text from broken framing. Each event is a chunk
//! of its own. No comments or heartbeats are sent.

use std::future::pending;
use std::io;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::header::{CONTENT_TYPE, HeaderName};
use tokio::time::sleep;

/// From the last bytes to the reset, so that they are sent before it.
const BEFORE_ABORT: Duration = Duration::from_millis(20);

/// One step of a body.
#[derive(Debug)]
pub(super) enum Step {
    /// Sends these bytes this long after the last step.
    After(Duration, Bytes),
    /// Sends nothing more and does not end.
    Silence,
    /// Closes the connection before the last chunk.
    Abort,
}

/// Formats one event.
pub(super) fn event(name: &str, data: &str) -> Bytes {
    Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
}

/// An answer that streams events. Its head is sent at once, whatever the steps are.
pub(super) fn event_stream(steps: Vec<Step>) -> Response {
    let head = [
        (CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (head, body(steps)).into_response()
}

/// An answer with the content type of JSON and these steps as its body.
pub(super) fn broken_json(steps: Vec<Step>) -> Response {
    ([(CONTENT_TYPE, "application/json")], body(steps)).into_response()
}

/// Waits for `time`. Zero does not wait for a timer tick.
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
        Step::Abort => {
            sleep(BEFORE_ABORT).await;
            Err(io::ErrorKind::ConnectionAborted.into())
        }
    }
}
