//! The body of a request, until its message is whole.
//!
//! gRPC's handlers wait for a message without end. Here it must be whole within `MESSAGE_TIMEOUT`, and before a drain: what is
//! not whole by then has reached nobody. For a method with one request message, that is the end of the body; on a
//! bidirectional stream, each message by itself. Messages to health and reflection need no permit, so only so many
//! may be held in part.

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
    status::{Credentials, Failure},
};

/// Messages to health and reflection that may be held in part at a time, on all connections together. A probe's message
/// comes in one piece, so it needs none of them.
const MAX_PARTIAL_PROBES: usize = 64;

/// What bounds all messages; clones share it.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// From a call's head to its whole message.
    pub(crate) timeout: Duration,
    /// Bytes of a message.
    max_bytes: usize,
    /// Cancelled when what has not left for ALİM must end.
    pub(crate) draining: CancellationToken,
    partial_probes: Arc<Semaphore>,
}

impl Bounds {
    /// Messages have at most `max_bytes`, and must be whole after `timeout`, and when `draining` is cancelled.
    pub fn new(timeout: Duration, max_bytes: usize, draining: CancellationToken) -> Self {
        Self {
            timeout,
            max_bytes,
            draining,
            partial_probes: Arc::new(Semaphore::new(MAX_PARTIAL_PROBES)),
        }
    }
}

/// Which message the body holds.
pub(crate) enum Kind {
    /// A call to ALİM, which holds one of its connection's partial messages.
    Call(
        #[expect(dead_code, reason = "held to be dropped")] OwnedSemaphorePermit,
        Frames,
    ),
    /// Health: one message.
    Health(Frames),
    /// Reflection: any number, until its answer ends.
    Reflection(Frames, Pin<Box<WaitForCancellationFutureOwned>>),
}

type Room = Pin<Box<dyn Future<Output = Result<(), Full>> + Send>>;

/// Bytes that came before there was room for their message.
struct Waiting {
    frame: Frame<Bytes>,
    room: Room,
}

pin_project! {
    /// A request's body that ends in time.
    pub(crate) struct RequestBody {
        #[pin]
        inner: Body,
        call: Arc<OpenCall>,
        bounds: Bounds,
        kind: Option<Kind>,
        partial: Option<OwnedSemaphorePermit>,
        waiting: Option<Waiting>,
        due: Option<Instant>,
        limits: Option<Pin<Box<Limits>>>,
    }
}

pin_project! {
    /// What ends the wait for more of a message; made when there is a wait.
    struct Limits {
        #[pin]
        timeout: Sleep,
        #[pin]
        draining: WaitForCancellationFutureOwned,
    }
}

impl RequestBody {
    /// The body of a request whose head came at `started`.
    pub(crate) fn new(
        inner: Body,
        kind: Kind,
        call: Arc<OpenCall>,
        bounds: Bounds,
        started: Instant,
    ) -> Self {
        let due = match kind {
            Kind::Call(..) | Kind::Health(_) => Some(started + bounds.timeout),
            Kind::Reflection(..) => None, // until its first byte
        };
        Self {
            inner,
            call,
            bounds,
            kind: Some(kind),
            partial: None,
            waiting: None,
            due,
            limits: None,
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
        let polled = match this.waiting.as_mut() {
            None => this.inner.as_mut().poll_frame(cx),
            Some(waiting) => waiting.room.as_mut().poll(cx).map(|held| {
                let frame = this.waiting.take().map(|waiting| waiting.frame);
                frame.map(|frame| match held {
                    Ok(()) => Ok(frame),
                    Err(full) => Err(fail(Rejected::Memory(full).into(), this.call)),
                })
            }),
        };
        // Bytes that come without a pause must not outrun the timeout either.
        if (polled.is_pending() || this.limits.is_some())
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
            self.call.record.caller_left(); // the transport's error, not one of the bytes that came
        }
        let frame = match frame {
            Some(Ok(frame)) => Some(ready!(self.receive(frame, cx))),
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
    /// Passes a frame on: of a call's message once there is room for all of it, since tonic makes room at its prefix.
    fn receive(
        self: &mut Pin<&mut Self>,
        frame: Frame<Bytes>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Frame<Bytes>, Status>> {
        let this = self.as_mut().project();
        let Some(data) = frame.data_ref() else {
            return Poll::Ready(Ok(frame));
        };
        let Some(Kind::Call(_, frames)) = this.kind.as_mut() else {
            return Poll::Ready(self.receive_probe(frame));
        };
        this.call.moved(data.len());
        let is_within = |bytes: &usize| *bytes <= this.bounds.max_bytes; // else tonic rejects it
        frames.read(data);
        let bytes = Some(frames.announced()).filter(is_within).unwrap_or(0);
        match this.call.memory.try_hold(bytes) {
            Ok(()) => Poll::Ready(Ok(frame)),
            Err(Full::Connection { .. }) => {
                let room = wait_for_room(this.call, bytes);
                *this.waiting = Some(Waiting { frame, room });
                cx.waker().wake_by_ref(); // polls it for the first time
                Poll::Pending
            }
            Err(full) => Poll::Ready(Err(fail(Rejected::Memory(full).into(), this.call))),
        }
    }

    /// Passes a frame on; part of a message to health or reflection is held only where one more may be.
    fn receive_probe(
        self: &mut Pin<&mut Self>,
        frame: Frame<Bytes>,
    ) -> Result<Frame<Bytes>, Status> {
        let this = self.as_mut().project();
        let (Some(data), Some(Kind::Health(frames) | Kind::Reflection(frames, _))) =
            (frame.data_ref(), this.kind.as_mut())
        else {
            return Ok(frame);
        };
        if !frames.read(data) {
            *this.partial = None;
            if matches!(this.kind, Some(Kind::Reflection(..))) {
                (*this.due, *this.limits) = (None, None);
            }
        } else if this.partial.is_none() {
            let probes = Arc::clone(&this.bounds.partial_probes);
            let Ok(probe) = probes.try_acquire_owned() else {
                let limit = MAX_PARTIAL_PROBES;
                return Err(fail(Rejected::Probes { limit }.into(), this.call));
            };
            *this.partial = Some(probe);
            let timeout = this.bounds.timeout;
            this.due.get_or_insert_with(|| Instant::now() + timeout);
        }
        Ok(frame)
    }

    /// All of the request is there.
    fn end_message(self: &mut Pin<&mut Self>) {
        let this = self.as_mut().project();
        this.call.message_is_whole();
        (*this.kind, *this.partial) = (None, None);
        (*this.due, *this.limits) = (None, None);
    }

    /// Ready when no more is waited for: with an error that says why, or with the end of the answer.
    fn poll_ended(self: &mut Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Status>> {
        let this = self.as_mut().project();
        if let Some(Kind::Reflection(_, answered)) = this.kind
            && answered.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(None);
        }
        let Some(due) = *this.due else {
            return Poll::Pending;
        };
        let limits = this.limits.get_or_insert_with(|| {
            Box::pin(Limits {
                timeout: sleep_until(due),
                draining: this.bounds.draining.clone().cancelled_owned(),
            })
        });
        let limits = limits.as_mut().project();
        let failure = if limits.draining.poll(cx).is_ready() {
            Failure::Rejected(Rejected::Draining)
        } else if limits.timeout.poll(cx).is_ready() {
            Failure::MessageTimeout(this.bounds.timeout)
        } else {
            return Poll::Pending;
        };
        Poll::Ready(Some(fail(failure, this.call)))
    }
}

/// Waits until the other calls of the connection leave room.
fn wait_for_room(call: &OpenCall, bytes: usize) -> Room {
    let memory = Arc::clone(&call.memory);
    Box::pin(async move { memory.hold_or_reject(bytes).await })
}

fn fail(failure: Failure, call: &OpenCall) -> Status {
    failure.into_status(&call.record, Credentials::Service, None)
}
