//! Turns the upstream's events into the messages of one stream, with its timeouts and exactly one ending.
//!
//! The stream ends once: with `Done`, or with one [`Failure`]. When the caller leaves, hyper drops it, and that drops the
//! upstream call.
//!
//! It reads from the upstream only as fast as the caller reads. If a caller stops reading, hyper stops polling the stream. Then
//! the watchdog of [`open_calls`](crate::middleware::open_calls) enforces the deadline, the lifetime and the drain timeout. The
//! initial and idle timeouts need no watchdog, because an unpolled stream does not wait for the upstream.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};
use tokio_stream::Stream;
use tonic::Status;

use super::response::{self, Totals};
use crate::{
    call::{
        deadline::{Deadline, TimeoutKind},
        reply::Event,
    },
    middleware::{context::CallContext, open_calls::OpenCall},
    pb,
    status::{Credentials, Failure},
    telemetry::Record,
    upstream::{Error, sse::Events},
};

/// One stream, from the head of the upstream's response to its ending.
pub(super) struct EventStream {
    /// `None` once the stream is over.
    events: Option<Box<Events>>,
    call: Arc<OpenCall>,
    /// For the first event.
    first: Deadline,
    idle: Duration,
    end: Deadline,
    timer: Pin<Box<Sleep>>,
    credentials: Credentials,
    totals: Totals,
    last_token: Option<Instant>,
    delivered: u64,
}

impl EventStream {
    /// A stream that waits for its first event. From that on, `idle` is the longest silence of the upstream. `credentials` say
    /// whose key the upstream gets.
    pub(super) fn new(
        events: Events,
        idle: Duration,
        context: &CallContext,
        credentials: Credentials,
    ) -> Self {
        Self {
            events: Some(Box::new(events)),
            call: Arc::clone(&context.call),
            first: context.deadlines.head,
            idle,
            end: context.deadlines.end,
            timer: Box::pin(sleep_until(context.deadlines.head.at)),
            totals: Totals {
                thread_id: context.record().thread_id(),
                ..Totals::default()
            },
            credentials,
            last_token: None,
            delivered: 0,
        }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<TimedEvent, Failure>> {
        let events = self.events.as_mut();
        let events = events.expect("a stream that is over is never polled");
        match ready!(events.poll_event(cx)) {
            Some(Ok(event)) => Poll::Ready(Ok((event, events.last_byte()))),
            Some(Err(error)) => Poll::Ready(Err(error.into())),
            None => Poll::Ready(Err(Error::Truncated.into())),
        }
    }

    /// The next event, or the failure that ends the wait for it.
    fn poll_event_or_timeout(&mut self, cx: &mut Context<'_>) -> Poll<Result<TimedEvent, Failure>> {
        if let Some(failure) = self.call.forced_failure() {
            return Poll::Ready(Err(failure));
        }
        if let Poll::Ready(outcome) = self.poll_event(cx) {
            return Poll::Ready(outcome);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            let deadline = self.deadline();
            deadline.check()?;
            self.timer.as_mut().reset(deadline.at);
        }
        self.call.poll_forced(cx).map(Err)
    }

    /// The deadline for the next event.
    fn deadline(&self) -> Deadline {
        let deadline = match &self.events {
            Some(events) if self.delivered > 0 => {
                Deadline::after(events.last_byte(), self.idle, TimeoutKind::Idle)
            }
            _ => self.first,
        };
        deadline.or_sooner(Some(self.end))
    }

    /// Counts the event and builds the caller's message.
    fn build_message(&mut self, event: Event, received: Instant) -> pb::StreamResponse {
        match &event {
            Event::Token(text) => {
                let since_start = received - self.record().started();
                self.totals.tokens += 1;
                self.totals.characters += text.chars().count() as u64;
                self.totals.first_token.get_or_insert(since_start);
                let last = self.last_token.replace(received);
                let gap = last.map(|last| received - last);
                self.record().token(gap, since_start);
            }
            Event::Done => {
                self.record().done();
                self.end();
            }
            Event::Node(_) | Event::Other { .. } => {}
        }
        self.delivered += 1;
        if self.delivered == 1 {
            let deadline = self.deadline();
            self.timer.as_mut().reset(deadline.at);
        }
        self.record().message_sent();
        response::event(event, &self.totals, self.record().started())
    }

    /// Ends the stream. The status includes the number of events that were sent before.
    fn fail(&mut self, failure: Failure) -> Status {
        self.record().failed(failure.reason(Credentials::Service));
        self.end();
        failure.into_status(self.record(), self.credentials, Some(self.delivered))
    }

    fn end(&mut self) {
        self.events = None;
        self.record().upstream_over();
    }

    fn record(&self) -> &Record {
        &self.call.record
    }
}

/// Yields nothing after the ending.
impl Stream for EventStream {
    type Item = Result<pb::StreamResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.events.is_none() {
            return Poll::Ready(None);
        }
        let outcome = ready!(self.poll_event_or_timeout(cx));
        Poll::Ready(Some(match outcome {
            Ok((event, received)) => Ok(self.build_message(event, received)),
            Err(failure) => Err(self.fail(failure)),
        }))
    }
}

/// An event, and when its last bytes were received.
type TimedEvent = (Event, Instant);
