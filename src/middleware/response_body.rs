//! A response body that keeps the call's record and permit until it ends.
//!
//! It always ends with trailers. If the inner body panics, the caller gets a status instead of a bare reset.
//!
//! It passes on large messages in pieces, because h2 buffers all data that it gets until the caller's window has space. So most
//! of an unread response stays here, where the call still has its permit.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tonic::{Status, body::Body};

use super::open_calls::CallGuard;
use crate::{
    admission::Rejected,
    memory::Account,
    status::{Credentials, Failure},
    telemetry::{Ongoing, Record},
};

pub(crate) const GRPC_STATUS: &str = "grpc-status";

/// The maximum size of a piece: one DATA frame of HTTP/2's initial maximum frame size.
const PIECE_BYTES: usize = 16 * 1024;
/// Pieces of a larger message are copies. Otherwise one unread piece would keep the whole message in memory.
const MAX_SHARED_BYTES: usize = 64 * 1024;
/// If a unary response is longer, or if memory is short, its last byte is a piece of its own. hyper asks for it only when the
/// caller's window has space for everything before it.
const MAX_UNREAD_BYTES: usize = 4 * 1024;

pin_project! {
    /// The body of every response. The order of the fields is their drop order: the inner body can still write to the record,
    /// and the permit is released last.
    pub struct ResponseBody {
        #[pin]
        inner: Body,
        rest: Bytes,
        is_copied: bool,
        is_unary: bool,
        draining: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
        on_drop: Option<DropGuard>,
        is_over: bool,
        ongoing: Ongoing,
        guard: CallGuard,
    }
}

/// What ends a response body, and what its end triggers.
pub(crate) struct EndConditions {
    /// The response has one message.
    pub(crate) is_unary: bool,
    /// Ends the body when cancelled. Without it, a health watch would delay a drain.
    pub(crate) draining: Option<CancellationToken>,
    /// Dropped with the body.
    pub(crate) on_drop: Option<DropGuard>,
}

impl ResponseBody {
    /// Wraps `inner`, which ends by itself or by `end_conditions`.
    pub(crate) fn new(
        inner: Body,
        end_conditions: EndConditions,
        ongoing: Ongoing,
        guard: CallGuard,
    ) -> Self {
        guard.call().set_waits_for_caller(true); // hyper polls the body once the caller's window has space
        Self {
            inner,
            rest: Bytes::new(),
            is_copied: false,
            is_unary: end_conditions.is_unary,
            draining: end_conditions
                .draining
                .map(|token| Box::pin(token.cancelled_owned())),
            on_drop: end_conditions.on_drop,
            is_over: false,
            ongoing,
            guard,
        }
    }
}

/// Splits the next piece off a message.
fn next_piece(rest: &mut Bytes, is_unary: bool, is_copied: bool, memory: &Account) -> Bytes {
    let max_unread = match memory.is_memory_short() {
        true => 1,
        false => MAX_UNREAD_BYTES,
    };
    let length = match rest.len() {
        long if long > PIECE_BYTES => PIECE_BYTES,
        long if is_unary && long > max_unread => long - 1,
        short => short,
    };
    let piece = rest.split_to(length);
    match is_copied {
        true => Bytes::copy_from_slice(&piece),
        false => piece,
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        let call = this.guard.call();
        if !this.rest.is_empty() {
            let piece = next_piece(this.rest, *this.is_unary, *this.is_copied, &call.memory);
            this.ongoing.record().bytes_sent(piece.len());
            call.add_transferred(piece.len());
            if *this.is_unary {
                call.memory.release_to(this.rest.len());
            }
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if *this.is_over {
            return Poll::Ready(None);
        }
        // Unwind safe: after a panic, the inner body is never polled again.
        let polled = catch_unwind(AssertUnwindSafe(|| this.inner.poll_frame(cx)));
        let outcome = match polled {
            Ok(Poll::Ready(frame)) => {
                call.set_waits_for_caller(true);
                Ok(frame)
            }
            Ok(Poll::Pending) => {
                call.set_waits_for_caller(false);
                let Some(draining) = this.draining else {
                    return Poll::Pending;
                };
                ready!(draining.as_mut().poll(cx));
                Err(Failure::Rejected(Rejected::Draining))
            }
            Err(_panic) => Err(Failure::Panicked),
        };
        let frame = outcome.unwrap_or_else(|failure| {
            *this.is_over = true;
            Some(Ok(Frame::trailers(trailers(
                failure,
                this.ongoing.record(),
            ))))
        });
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            record_status(this.ongoing.record(), trailers);
        }
        Poll::Ready(frame.map(|frame| {
            frame.map(|frame| match frame.into_data() {
                Ok(data) => {
                    *this.is_copied = data.len() > MAX_SHARED_BYTES;
                    *this.rest = data;
                    let piece =
                        next_piece(this.rest, *this.is_unary, *this.is_copied, &call.memory);
                    this.ongoing.record().bytes_sent(piece.len());
                    call.add_transferred(piece.len());
                    Frame::data(piece)
                }
                Err(trailers) => trailers,
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && (self.is_over || self.inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Records the caller's status code, if these fields have it.
pub(crate) fn record_status(record: &Record, fields: &HeaderMap) {
    let code = fields.get(GRPC_STATUS);
    if let Some(code) = code.and_then(|code| code.to_str().ok()?.parse().ok()) {
        record.status(code);
    }
}

fn trailers(failure: Failure, record: &Record) -> HeaderMap {
    let status = failure.into_status(record, Credentials::Service, None);
    let mut trailers = status.into_http::<()>().into_parts().0.headers;
    trailers.remove(http::header::CONTENT_TYPE);
    trailers
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use http_body_util::{BodyExt, StreamBody};
    use tokio::time::Instant;
    use tokio_stream::{StreamExt, iter};

    use super::*;
    use crate::{
        call::deadline::{Deadline, TimeoutKind},
        inbound::Connection,
        memory::{Budget, Level},
        middleware::open_calls::OpenCalls,
        telemetry::{Method, metrics::Metrics, traces::Trace},
    };

    fn response_body(inner: Body, is_unary: bool) -> ResponseBody {
        response_body_within(&Budget::unlimited(), inner, is_unary)
    }

    fn response_body_within(budget: &Budget, inner: Body, is_unary: bool) -> ResponseBody {
        let metrics = Arc::new(Metrics::new().expect("fresh"));
        let method = Method::of("/alim.v1.GraphService/Stream");
        let trace = Trace::begin(None, method, &HeaderMap::new());
        let ongoing = Ongoing::begin(metrics, method, "id".into(), trace);
        let end = Deadline::after(Instant::now(), Duration::MAX, TimeoutKind::Caller);
        let connection = Connection::new(([127, 0, 0, 1], 1).into(), budget);
        let record = ongoing.record().clone();
        let guard = OpenCalls::default().open(record, None, end, &connection, true);
        let end_conditions = EndConditions {
            is_unary,
            draining: None,
            on_drop: None,
        };
        ResponseBody::new(inner, end_conditions, ongoing, guard)
    }

    #[tokio::test]
    async fn a_panic_after_the_head_ends_the_body_with_a_status() {
        let frames = iter([true, false]).map(|is_sound| {
            assert!(is_sound, "a deliberate panic");
            Ok::<_, Status>(Frame::data(Bytes::from_static(b"event")))
        });
        let mut body = response_body(Body::new(StreamBody::new(frames)), false);

        let event = body.frame().await.expect("a frame").expect("no error");
        assert!(event.is_data());
        let last = body.frame().await.expect("a frame").expect("no error");
        let trailers = last.into_trailers().expect("trailers");
        assert_eq!(trailers[GRPC_STATUS], "13", "INTERNAL");
        assert_eq!(trailers["grpc-retry-pushback-ms"], "-1");
        assert!(body.is_end_stream() && body.frame().await.is_none());
    }

    /// The sizes of the pieces of a message of `size` bytes.
    async fn pieces(size: usize, is_unary: bool) -> Vec<usize> {
        pieces_within(&Budget::unlimited(), size, is_unary).await
    }

    async fn pieces_within(budget: &Budget, size: usize, is_unary: bool) -> Vec<usize> {
        let message: Bytes = (0..=u8::MAX).cycle().take(size).collect();
        let whole = iter([Ok::<_, Status>(Frame::data(message.clone()))]);
        let mut body = response_body_within(budget, Body::new(StreamBody::new(whole)), is_unary);
        let (mut sizes, mut all) = (Vec::new(), Vec::new());
        while let Some(frame) = body.frame().await {
            let piece = frame.expect("no error").into_data().expect("data");
            sizes.push(piece.len());
            all.extend(piece);
        }
        assert_eq!(all, message);
        sizes
    }

    #[tokio::test]
    async fn a_large_message_is_sent_in_pieces_and_a_unary_responses_last_byte_alone() {
        assert_eq!(pieces(4096, true).await, [4096]);
        assert_eq!(pieces(4097, true).await, [4096, 1]);
        assert_eq!(
            pieces(100_000, true).await,
            [[16384; 6].as_slice(), &[1696]].concat()
        );
        assert_eq!(pieces(6000, false).await, [6000]);
        assert_eq!(pieces(32_768, false).await, [16384, 16384]);
        assert_eq!(pieces(0, true).await, [0]);
    }

    #[tokio::test]
    async fn while_memory_is_short_h2_never_buffers_a_whole_unary_response() {
        let budget = Budget::unlimited();
        budget.set_level(Level::Short);
        assert_eq!(pieces_within(&budget, 60, true).await, [59, 1]);
        assert_eq!(pieces_within(&budget, 1, true).await, [1]);
        assert_eq!(pieces_within(&budget, 60, false).await, [60]);
    }
}
