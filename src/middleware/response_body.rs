//! An answer's body, with what must last as long as it does: the call's record, and its permit.
//!
//! However it ends, it ends with trailers: a panic in what makes it becomes a status too, for a bare
//! reset would say nothing to the caller. Large messages are passed on in pieces, because h2 keeps what it is given
//! until the caller's window has room: so most of an unread answer stays here, where its permit is.

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

/// What is passed on at once: what fits one DATA frame, by the frame size that callers begin with.
const PIECE_BYTES: usize = 16 * 1024;
/// Messages above this are copied into their pieces, or the last unread piece would keep the whole of them.
const MAX_SHARED_BYTES: usize = 64 * 1024;
/// Of a longer unary answer, and of any while memory is short, the last byte leaves by itself: hyper waits until the caller's window
/// has room for all before it.
const MAX_UNREAD_BYTES: usize = 4 * 1024;

pin_project! {
    /// The body of every answer. The fields are dropped in this order: what makes the answer can
    /// still note what it did, and the permit is free last.
    pub struct ResponseBody {
        #[pin]
        inner: Body,
        rest: Bytes,
        is_copied: bool,
        is_unary: bool,
        goaway: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
        answered: Option<DropGuard>,
        is_over: bool,
        ongoing: Ongoing,
        guard: CallGuard,
    }
}

/// How an answer's body ends.
pub(crate) struct EndConditions {
    /// There is one message.
    pub(crate) is_unary: bool,
    /// EndConditions the body when it comes: a health watch would else keep a drain waiting.
    pub(crate) goaway: Option<CancellationToken>,
    /// Dropped with the body.
    pub(crate) answered: Option<DropGuard>,
}

impl ResponseBody {
    /// A body that ends by itself, or as `ends` says.
    pub(crate) fn new(
        inner: Body,
        ends: EndConditions,
        ongoing: Ongoing,
        guard: CallGuard,
    ) -> Self {
        guard.call().waits_for_caller(true); // hyper asks for the body once the caller's window has room
        Self {
            inner,
            rest: Bytes::new(),
            is_copied: false,
            is_unary: ends.is_unary,
            goaway: ends.goaway.map(|token| Box::pin(token.cancelled_owned())),
            answered: ends.answered,
            is_over: false,
            ongoing,
            guard,
        }
    }
}

/// Takes the next piece off a message that is longer than one.
fn next_piece(rest: &mut Bytes, is_unary: bool, is_copied: bool, memory: &Account) -> Bytes {
    let may_stay = match memory.is_memory_short() {
        true => 1,
        false => MAX_UNREAD_BYTES,
    };
    let length = match rest.len() {
        long if long > PIECE_BYTES => PIECE_BYTES,
        long if is_unary && long > may_stay => long - 1,
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
            call.moved(piece.len());
            if *this.is_unary {
                call.memory.release_to(this.rest.len());
            }
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if *this.is_over {
            return Poll::Ready(None);
        }
        // What a panic leaves behind is never polled again.
        let polled = catch_unwind(AssertUnwindSafe(|| this.inner.poll_frame(cx)));
        let outcome = match polled {
            Ok(Poll::Ready(frame)) => {
                call.waits_for_caller(true);
                Ok(frame)
            }
            Ok(Poll::Pending) => {
                call.waits_for_caller(false);
                let Some(goaway) = this.goaway else {
                    return Poll::Pending;
                };
                ready!(goaway.as_mut().poll(cx));
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
            note_status(this.ongoing.record(), trailers);
        }
        Poll::Ready(frame.map(|frame| {
            frame.map(|frame| match frame.into_data() {
                Ok(data) => {
                    *this.is_copied = data.len() > MAX_SHARED_BYTES;
                    *this.rest = data;
                    let piece =
                        next_piece(this.rest, *this.is_unary, *this.is_copied, &call.memory);
                    this.ongoing.record().bytes_sent(piece.len());
                    call.moved(piece.len());
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

/// Notes the code that goes to the caller, where these are the fields that bear it.
pub(crate) fn note_status(record: &Record, fields: &HeaderMap) {
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
        let ends = EndConditions {
            is_unary,
            goaway: None,
            answered: None,
        };
        ResponseBody::new(inner, ends, ongoing, guard)
    }

    #[tokio::test]
    async fn a_panic_after_the_head_ends_the_body_with_a_status_and_is_not_met_again() {
        let frames = iter([true, false]).map(|is_whole| {
            assert!(is_whole, "the fault that is tried");
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

    /// The sizes of the pieces that a message of this size leaves in.
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
    async fn a_large_message_leaves_in_pieces_and_the_last_byte_of_an_answer_alone() {
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
    async fn while_memory_is_short_no_answer_stays_where_nobody_can_end_it() {
        let budget = Budget::unlimited();
        budget.set_level(Level::Short);
        assert_eq!(pieces_within(&budget, 60, true).await, [59, 1]);
        assert_eq!(pieces_within(&budget, 1, true).await, [1]);
        assert_eq!(pieces_within(&budget, 60, false).await, [60]);
    }
}
