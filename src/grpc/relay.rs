//! Events into the messages of one stream: clocks, counts, exactly one ending.
//!
//! Pulled, not pumped: a [`Relay`] asks the upstream for as much as the caller takes. hyper does not
//! poll a stream whose caller has stopped reading, so the upstream call is kept in a [`Slot`] that the
//! call's [`Hold`](super::hold::Hold) can empty from outside when the deadline, the lifetime or the
//! drain is over; a caller who reads again then finds the status. Initial and idle need no watchdog: a
//! caller who is not polled is not waiting for the upstream.
//!
//! A relay ends once: with `Done`, or with one [`Failure`]. Dropping it, as hyper does when the caller
//! leaves, drops the upstream call.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use tokio::time::Instant;
use tokio_stream::Stream;
use tonic::Status;

use super::{
    alarm::Alarm,
    failure::{Credentials, Failure},
    response::{self, Tally},
};
use crate::{
    deadline::Clock,
    pb,
    reply::Event,
    telemetry::Record,
    upstream::{Error, sse::Events},
};

/// One stream from its first event to its one ending.
pub(super) struct Relay {
    slot: Arc<Slot>,
    idle: Duration,
    idle_check: Alarm,
    record: Record,
    credentials: Credentials,
    tally: Tally,
    last_token: Option<Instant>,
    delivered: u64,
    is_over: bool,
}

impl Relay {
    /// A relay whose first event is still to come: the caller of this bounds the wait for it. `idle`
    /// is the longest silence of the upstream from then on; `credentials` say whose key it is asked with.
    pub(super) fn new(
        events: Events,
        idle: Duration,
        record: Record,
        credentials: Credentials,
    ) -> Self {
        Self {
            slot: Arc::new(Slot::new(events)),
            idle,
            idle_check: Alarm::new(Instant::now() + idle),
            tally: Tally {
                thread_id: record.thread_id(),
                ..Tally::default()
            },
            record,
            credentials,
            last_token: None,
            delivered: 0,
            is_over: false,
        }
    }

    /// Waits for the first event, which the head of the answer is held back for.
    pub(super) async fn first(&mut self) -> Result<pb::StreamResponse, Failure> {
        let (event, came) = poll_fn(|cx| self.slot.poll_event(cx)).await?;
        self.idle_check.set(came + self.idle);
        Ok(self.deliver(event, came))
    }

    /// What ends the upstream call from outside; the first end stands, and only that is noted.
    pub(super) fn let_go(&self) -> impl FnOnce(Failure) + Send + 'static {
        let (slot, record) = (Arc::clone(&self.slot), self.record.clone());
        move |failure| {
            let reason = failure.reason(Credentials::Service);
            if slot.end(failure) {
                record.failed(reason); // the caller may never read it
                record.upstream_over();
            }
        }
    }

    fn poll_event_or_idle(&mut self, cx: &mut Context<'_>) -> Poll<Result<Came, Failure>> {
        if let Poll::Ready(outcome) = self.slot.poll_event(cx) {
            return Poll::Ready(outcome);
        }
        while self.idle_check.poll(cx).is_ready() {
            match self.slot.last_byte().map(|last| last + self.idle) {
                Some(at) if at > Instant::now() => self.idle_check.set(at),
                Some(_) => return Poll::Ready(Err(Failure::Clock(Clock::Idle))),
                None => return self.slot.poll_event(cx), // ended meanwhile, and not by silence
            }
        }
        Poll::Pending
    }

    fn deliver(&mut self, event: Event, came: Instant) -> pb::StreamResponse {
        match &event {
            Event::Token(text) => {
                let since_start = came - self.record.started();
                self.tally.tokens += 1;
                self.tally.characters += text.chars().count() as u64;
                self.tally.first_token.get_or_insert(since_start);
                let gap = self.last_token.replace(came).map(|last| came - last);
                self.record.token(gap, since_start);
            }
            Event::Done => {
                self.record.done();
                self.over();
            }
            Event::Node(_) | Event::Other { .. } => {}
        }
        self.delivered += 1;
        self.record.message_sent();
        response::event(event, &self.tally, self.record.started())
    }

    /// Ends the stream with the status for `failure`, which tells how many events went before it.
    fn fail(&mut self, failure: Failure) -> Status {
        self.record.failed(failure.reason(Credentials::Service));
        self.over();
        failure.tell(&self.record, self.credentials, Some(self.delivered))
    }

    fn over(&mut self) {
        self.is_over = true;
        self.slot.end(Failure::Upstream(Error::Truncated));
        self.record.upstream_over();
    }
}

/// The messages after the first; none after the one ending.
impl Stream for Relay {
    type Item = Result<pb::StreamResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let outcome = ready!(self.poll_event_or_idle(cx));
        Poll::Ready(Some(match outcome {
            Ok((event, came)) => Ok(self.deliver(event, came)),
            Err(failure) => Err(self.fail(failure)),
        }))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.slot.end(Failure::Cut); // its watchdog may still know it
    }
}

/// An event, and when its last bytes came.
type Came = (Event, Instant);

/// The upstream call, where both the relay and its watchdog can reach it.
struct Slot(Mutex<State>);

enum State {
    Open {
        events: Box<Events>,
        waiting: Option<Waker>,
    },
    Ended(Option<Failure>),
}

impl Slot {
    fn new(events: Events) -> Self {
        Self(Mutex::new(State::Open {
            events: Box::new(events),
            waiting: None,
        }))
    }

    fn poll_event(&self, cx: &mut Context<'_>) -> Poll<Result<Came, Failure>> {
        match &mut *self.lock() {
            State::Open {
                events, waiting, ..
            } => match events.poll_event(cx) {
                Poll::Ready(Some(Ok(event))) => Poll::Ready(Ok((event, events.last_byte()))),
                Poll::Ready(Some(Err(error))) => Poll::Ready(Err(error.into())),
                Poll::Ready(None) => Poll::Ready(Err(Failure::Upstream(Error::Truncated))),
                Poll::Pending => {
                    match waiting {
                        Some(waker) => waker.clone_from(cx.waker()),
                        None => *waiting = Some(cx.waker().clone()),
                    }
                    Poll::Pending
                }
            },
            State::Ended(failure) => {
                Poll::Ready(Err(failure.take().unwrap_or(Error::Truncated.into())))
            }
        }
    }

    fn last_byte(&self) -> Option<Instant> {
        match &*self.lock() {
            State::Open { events, .. } => Some(events.last_byte()),
            State::Ended(_) => None,
        }
    }

    /// Drops the upstream call; whoever waits for an event gets `failure`. False when it had ended.
    fn end(&self, failure: Failure) -> bool {
        let mut state = self.lock();
        if matches!(*state, State::Ended(_)) {
            return false;
        }
        let open = std::mem::replace(&mut *state, State::Ended(Some(failure)));
        drop(state);
        if let State::Open {
            waiting: Some(waker),
            ..
        } = open
        {
            waker.wake();
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|held| held.into_inner())
    }
}
