//! Over HTTP/1.1, announces that a connection closes because its request was not read to its end.
//!
//! If a service drops a request that has not ended, hyper closes the connection after the response, but does not say so. A caller would
//! send its next request on that connection and lose it (RFC 9112, 9.6: a server that closes SHOULD send the close option). So what has
//! already arrived of such a request is discarded, and if that is not all of it, the response says that the connection closes.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Version, header::CONNECTION};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use tonic::{Status, body::Body};

/// The most bytes of a dropped request that are discarded to keep its connection.
const MAX_DISCARDED_BYTES: usize = 64 * 1024;
/// hyper reads what has arrived of a body when it is polled again after a poll of the body.
const POLLS: usize = 4;

/// The body of a request over HTTP/1.1; nothing over HTTP/2.
pub(super) struct Unread(Option<Arc<Mutex<State>>>);

struct State {
    body: Body,
    has_ended: bool,
}

impl Unread {
    /// Follows the body of `request`.
    pub(super) fn follow(request: Request<Body>) -> (Self, Request<Body>) {
        if request.version() >= Version::HTTP_2 {
            return (Self(None), request);
        }
        let (head, body) = request.into_parts();
        let has_ended = body.is_end_stream();
        let state = Arc::new(Mutex::new(State { body, has_ended }));
        let followed = Body::new(FollowedBody(Arc::clone(&state)));
        (Self(Some(state)), Request::from_parts(head, followed))
    }

    /// Adds the close option to the response's head, if the request was dropped before its end.
    pub(super) async fn announce(self, response: &mut HeaderMap) {
        let dropped = self.0.and_then(Arc::into_inner); // else the service still reads
        let Some(state) = dropped else { return };
        let state = state.into_inner().unwrap_or_else(|held| held.into_inner());
        if !state.has_ended && !has_arrived(state.body).await {
            response.insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

/// Discards what has arrived of the body. Returns true if that is all of it.
async fn has_arrived(mut body: Body) -> bool {
    let mut left = MAX_DISCARDED_BYTES;
    for _ in 0..POLLS {
        tokio::select! {
            biased;
            frame = body.frame() => match frame {
                None => return true,
                Some(Err(_)) => return false,
                Some(Ok(frame)) => {
                    let bytes = frame.data_ref().map_or(0, Bytes::len);
                    let Some(rest) = left.checked_sub(bytes) else {
                        return false;
                    };
                    left = rest;
                    if body.is_end_stream() {
                        return true;
                    }
                }
            },
            () = tokio::task::yield_now() => {}
        }
    }
    false
}

struct FollowedBody(Arc<Mutex<State>>);

impl FollowedBody {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|held| held.into_inner())
    }
}

impl HttpBody for FollowedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut state = self.state();
        let frame = ready!(Pin::new(&mut state.body).poll_frame(cx));
        state.has_ended = frame.is_none() || state.body.is_end_stream();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.state().body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.state().body.size_hint()
    }
}
