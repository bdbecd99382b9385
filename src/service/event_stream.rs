//! Events into the messages of one stream: timers, counts, exactly one ending.
//!
//! Pulled, not pumped: a [`EventStream`] asks the upstream for as much as the caller takes. hyper does not
//! poll a stream whose caller has stopped reading: such a call is aborted by the watchdog of
//! [`open_calls`](super::open_calls) when the deadline, the lifetime or the drain is over. Initial and idle need no
//! watchdog: a caller who is not polled is not waiting for the upstream.
//!
//! A relay ends once: with `Done`, or with one [`Failure`]. Dropping it, as hyper does when the caller
//! leaves, drops the upstream call.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::Instant;
use tokio_stream::Stream;
use tonic::Status;

use super::response::{self, Tally};
use crate::{
    call::{
        deadline::{Deadline, TimeoutKind},
        reply::Event,
    },
    middleware::{context::CallContext, open_calls::OpenCall},
    pb,
    status::{Credentials, Failure},
    telemetry::Record,
    timer::Timer,
    upstream::{Error, sse::Events},
};

/// One stream from its first event to its one ending.
pub(super) struct EventStream {
    /// None once the stream is over.
    events: Option<Box<Events>>,
    call: Arc<OpenCall>,
    idle: Duration,
    end: Deadline,
    timer: Timer,
    credentials: Credentials,
    tally: Tally,
    last_token: Option<Instant>,
    delivered: u64,
}

impl EventStream {
    /// A relay whose first event is still to come: the caller of this bounds the wait for it. `idle`
    /// is the longest silence of the upstream from then on; `credentials` say whose key it is asked with.
    pub(super) fn new(
        events: Events,
        idle: Duration,
        context: &CallContext,
        credentials: Credentials,
    ) -> Self {
        Self {
            events: Some(Box::new(events)),
            call: Arc::clone(&context.call),
            idle,
            end: context.deadlines.end,
            timer: Timer::new(context.deadlines.end.at),
            tally: Tally {
                thread_id: context.record().thread_id(),
                ..Tally::default()
            },
            credentials,
            last_token: None,
            delivered: 0,
        }
    }

    /// Waits for the first event, which the head of the answer is held back for.
    pub(super) async fn first(&mut self) -> Result<pb::StreamResponse, Failure> {
        let (event, came) = poll_fn(|cx| self.poll_event(cx)).await?;
        self.timer.set(self.end.at.min(came + self.idle));
        Ok(self.deliver(event, came))
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<Arrived, Failure>> {
        let events = self.events.as_mut();
        let events = events.expect("nobody asks a stream that is over");
        match ready!(events.poll_event(cx)) {
            Some(Ok(event)) => Poll::Ready(Ok((event, events.last_byte()))),
            Some(Err(error)) => Poll::Ready(Err(error.into())),
            None => Poll::Ready(Err(Error::Truncated.into())),
        }
    }

    /// An event, or what ends the wait for it.
    fn poll_event_or_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<Arrived, Failure>> {
        if self.call.is_forced() {
            return Poll::Ready(Err(Failure::DrainTimeout));
        }
        if let Poll::Ready(outcome) = self.poll_event(cx) {
            return Poll::Ready(outcome);
        }
        while self.timer.poll(cx).is_ready() {
            let silent = self
                .events
                .as_ref()
                .map(|events| events.last_byte() + self.idle);
            let now = Instant::now();
            match silent {
                _ if self.end.at <= now => return Poll::Ready(Err(self.end.kind.into())),
                Some(silent) if silent > now => self.timer.set(self.end.at.min(silent)),
                _ => return Poll::Ready(Err(TimeoutKind::Idle.into())),
            }
        }
        self.call
            .poll_forced(cx)
            .map(|()| Err(Failure::DrainTimeout))
    }

    fn deliver(&mut self, event: Event, came: Instant) -> pb::StreamResponse {
        match &event {
            Event::Token(text) => {
                let since_start = came - self.record().started();
                self.tally.tokens += 1;
                self.tally.characters += text.chars().count() as u64;
                self.tally.first_token.get_or_insert(since_start);
                let gap = self.last_token.replace(came).map(|last| came - last);
                self.record().token(gap, since_start);
            }
            Event::Done => {
                self.record().done();
                self.end();
            }
            Event::Node(_) | Event::Other { .. } => {}
        }
        self.delivered += 1;
        self.record().message_sent();
        response::event(event, &self.tally, self.record().started())
    }

    /// EndConditions the stream with the status for `failure`, which says how many events went before it.
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

/// The messages after the first; none after the one ending.
impl Stream for EventStream {
    type Item = Result<pb::StreamResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.events.is_none() {
            return Poll::Ready(None);
        }
        let outcome = ready!(self.poll_event_or_end(cx));
        Poll::Ready(Some(match outcome {
            Ok((event, came)) => Ok(self.deliver(event, came)),
            Err(failure) => Err(self.fail(failure)),
        }))
    }
}

/// An event, and when its last bytes came.
type Arrived = (Event, Instant);
