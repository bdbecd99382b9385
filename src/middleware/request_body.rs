//! A request body with a timeout, a drain and memory limits for its message.
//!
//! tonic waits for a request message without limit. Here the message must be complete within `MESSAGE_TIMEOUT` and before a
//! drain. If it is not, nothing of it has reached the upstream. For a method with one request message, "complete" means the
//! end of the body. On a bidirectional stream, each message counts separately. Health and reflection requests take no permit,
//! so the number of their incomplete messages has a limit of its own.

use std::{
    error::Error,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep_until},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Status, body::Body};

use super::{frames::Frames, open_calls::OpenCall};
use crate::{
    admission::Rejected,
    memory::Full,
    status::{Credentials, Failure, Protocol},
};

/// The maximum number of incomplete health and reflection messages, on all connections together. A probe's message
/// arrives in one piece, so it does not count.
const MAX_PARTIAL_PROBES: usize = 64;

/// tonic decodes a second message and drops it.
const MORE_THAN_ONE: &str = "the method takes one request message, and the caller sent more";

/// The limits on request messages; clones share them.
#[derive(Clone, Debug)]
pub struct MessageLimits {
    /// From the request head to the complete message.
    pub(crate) timeout: Duration,
    /// The maximum size of a message.
    max_bytes: usize,
    /// Cancelled when a drain ends the calls that have not reached ALİM yet.
    pub(crate) draining: CancellationToken,
    partial_probes: Arc<Semaphore>,
}

impl MessageLimits {
    /// A message has at most `max_bytes`. It must be complete within `timeout`, and before `draining` is cancelled.
    pub fn new(timeout: Duration, max_bytes: usize, draining: CancellationToken) -> Self {
        Self {
            timeout,
            max_bytes,
            draining,
            partial_probes: Arc::new(Semaphore::new(MAX_PARTIAL_PROBES)),
        }
    }
}

/// What the request body is for.
pub(crate) enum RequestKind {
    /// A call to ALİM, with one of its connection's slots for incomplete messages.
    Call(
        #[expect(dead_code, reason = "held to be dropped")] OwnedSemaphorePermit,
        Frames,
    ),
    /// Health: one message.
    Health(Frames),
    /// Reflection: any number of messages, until the response is over.
    Reflection(Frames, Pin<Box<WaitForCancellationFutureOwned>>),
}

type Reservation = Pin<Box<dyn Future<Output = Result<(), Full>> + Send>>;

/// A frame that waits for memory.
struct Waiting {
    frame: Frame<Bytes>,
    reservation: Reservation,
}

pin_project! {
    /// A request body that enforces the limits on its messages.
    pub(crate) struct RequestBody {
        #[pin]
        inner: Body,
        call: Arc<OpenCall>,
        limits: MessageLimits,
        kind: Option<RequestKind>,
        partial: Option<OwnedSemaphorePermit>,
        waiting: Option<Waiting>,
        deadline: Option<Instant>,
        wait: Option<Pin<Box<Wait>>>,
    }
}

pin_project! {
    /// The timers of a wait for more of a message; created when the wait begins.
    struct Wait {
        #[pin]
        timeout: Sleep,
        #[pin]
        draining: WaitForCancellationFutureOwned,
    }
}

impl RequestBody {
    /// The body of a request whose head arrived at `started`.
    pub(crate) fn new(
        inner: Body,
        kind: RequestKind,
        call: Arc<OpenCall>,
        limits: MessageLimits,
        started: Instant,
    ) -> Self {
        let deadline = match kind {
            RequestKind::Call(..) | RequestKind::Health(_) => Some(started + limits.timeout),
            RequestKind::Reflection(..) => None, // set at a message's first byte
        };
        Self {
            inner,
            call,
            limits,
            kind: Some(kind),
            partial: None,
            waiting: None,
            deadline,
            wait: None,
        }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut this = self.as_mut().project();
        let is_received = this.waiting.is_some(); // and counted, before it began to wait for memory
        let polled = match this.waiting.as_mut() {
            None => this.inner.as_mut().poll_frame(cx),
            Some(waiting) => waiting.reservation.as_mut().poll(cx).map(|reserved| {
                let frame = this.waiting.take().map(|waiting| waiting.frame);
                frame.map(|frame| match reserved {
                    Ok(()) => Ok(frame),
                    Err(full) => Err(fail(Rejected::Memory(full).into(), this.call)),
                })
            }),
        };
        // The timeout also applies while bytes arrive without a pause.
        if (polled.is_pending() || this.wait.is_some())
            && let Poll::Ready(ended) = self.poll_ended(cx)
        {
            return Poll::Ready(ended.map(Err));
        }
        let Poll::Ready(frame) = polled else {
            return Poll::Pending;
        };
        if let Some(Err(error)) = &frame
            && error.source().is_some()
        {
            self.call.record.caller_left(); // a transport error, not a fault in the received bytes
        }
        let frame = match frame {
            Some(Ok(frame)) if !is_received => Some(ready!(self.receive(frame, cx))),
            other => other,
        };
        if frame.is_none() || self.inner.is_end_stream() {
            self.end_message();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl RequestBody {
    /// Passes a frame on. A call's message waits until there is memory for all of it, because tonic allocates all at the prefix.
    fn receive(
        self: &mut Pin<&mut Self>,
        frame: Frame<Bytes>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Frame<Bytes>, Status>> {
        let this = self.as_mut().project();
        let Some(data) = frame.data_ref() else {
            return Poll::Ready(Ok(frame));
        };
        let Some(RequestKind::Call(_, frames)) = this.kind.as_mut() else {
            return Poll::Ready(self.receive_probe(frame));
        };
        this.call.add_transferred(data.len());
        let is_within = |bytes: &usize| *bytes <= this.limits.max_bytes; // else tonic rejects it
        frames.advance(data);
        if frames.started() > 1 {
            let failure = Failure::Protocol(Protocol::Cardinality, MORE_THAN_ONE.into());
            return Poll::Ready(Err(fail(failure, this.call)));
        }
        let bytes = Some(frames.announced()).filter(is_within).unwrap_or(0);
        match this.call.memory.try_hold(bytes) {
            Ok(()) => Poll::Ready(Ok(frame)),
            Err(Full::Connection { .. }) => {
                let reservation = reserve(this.call, bytes);
                *this.waiting = Some(Waiting { frame, reservation });
                cx.waker().wake_by_ref(); // so that the reservation is polled for the first time
                Poll::Pending
            }
            Err(full) => Poll::Ready(Err(fail(Rejected::Memory(full).into(), this.call))),
        }
    }

    /// Passes on a health or reflection frame. If it leaves a message incomplete, it takes one of the slots for that.
    fn receive_probe(
        self: &mut Pin<&mut Self>,
        frame: Frame<Bytes>,
    ) -> Result<Frame<Bytes>, Status> {
        let this = self.as_mut().project();
        let is_health = matches!(this.kind, Some(RequestKind::Health(_)));
        let (Some(data), Some(RequestKind::Health(frames) | RequestKind::Reflection(frames, _))) =
            (frame.data_ref(), this.kind.as_mut())
        else {
            return Ok(frame);
        };
        let is_partial = frames.advance(data);
        if is_health && frames.started() > 1 {
            let failure = Failure::Protocol(Protocol::Cardinality, MORE_THAN_ONE.into());
            return Err(fail(failure, this.call));
        }
        if !is_partial {
            *this.partial = None;
            if matches!(this.kind, Some(RequestKind::Reflection(..))) {
                (*this.deadline, *this.wait) = (None, None);
            }
        } else if this.partial.is_none() {
            let probes = Arc::clone(&this.limits.partial_probes);
            let Ok(probe) = probes.try_acquire_owned() else {
                let limit = MAX_PARTIAL_PROBES;
                return Err(fail(Rejected::Probes { limit }.into(), this.call));
            };
            *this.partial = Some(probe);
            let timeout = this.limits.timeout;
            this.deadline
                .get_or_insert_with(|| Instant::now() + timeout);
        }
        Ok(frame)
    }

    /// The request is complete.
    fn end_message(self: &mut Pin<&mut Self>) {
        let this = self.as_mut().project();
        this.call.message_completed();
        (*this.kind, *this.partial) = (None, None);
        (*this.deadline, *this.wait) = (None, None);
    }

    /// Ready when the wait for more bytes ends early: with an error, or with `None` if the response is over.
    fn poll_ended(self: &mut Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Status>> {
        let this = self.as_mut().project();
        if let Some(RequestKind::Reflection(_, response_over)) = this.kind
            && response_over.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(None);
        }
        let Some(deadline) = *this.deadline else {
            return Poll::Pending;
        };
        let wait = this.wait.get_or_insert_with(|| {
            Box::pin(Wait {
                timeout: sleep_until(deadline),
                draining: this.limits.draining.clone().cancelled_owned(),
            })
        });
        let wait = wait.as_mut().project();
        let failure = if wait.draining.poll(cx).is_ready() {
            Failure::Rejected(Rejected::Draining)
        } else if wait.timeout.poll(cx).is_ready() {
            Failure::MessageTimeout(this.limits.timeout)
        } else {
            return Poll::Pending;
        };
        Poll::Ready(Some(fail(failure, this.call)))
    }
}

/// Waits until the connection's other calls release enough memory.
fn reserve(call: &OpenCall, bytes: usize) -> Reservation {
    let memory = Arc::clone(&call.memory);
    Box::pin(async move { memory.hold_or_reject(bytes).await })
}

fn fail(failure: Failure, call: &OpenCall) -> Status {
    failure.into_status(&call.record, Credentials::Service, None)
}
