//! Messages that come together leave together.
//!
//! hyper's client hands over one chunk a poll, so without this each token of a burst would leave in a
//! DATA frame of its own; h2 0.4.16 and later, so every default tonic caller, closes a connection that
//! holds about 10,000 unread DATA frames under 256 bytes. tonic's encoder puts into one frame what is
//! ready at once, so all that is done here is to be ready with several: a message leaves at once, but
//! one within [`WINDOW`] of the last may wait up to that long for company, or until 32 KiB are ready. tokio's timers
//! count in milliseconds and round up, so a wait can end one later.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use prost::Message;
use tokio::time::Instant;
use tokio_stream::Stream;

use crate::{pb::codec::FRAME_BYTES, timer::Timer};

const WINDOW: Duration = Duration::from_millis(1);

/// A stream whose messages come in groups.
pub(super) struct Coalesced<S: Stream> {
    inner: S,
    group: VecDeque<S::Item>,
    bytes: usize,
    is_leaving: bool,
    is_over: bool,
    last_left: Option<Instant>,
    window: Option<Timer>,
}

impl<S: Stream> Coalesced<S> {
    /// `first`, which leaves at once, and the messages of `rest` in groups.
    pub(super) fn new(first: S::Item, rest: S) -> Self {
        Self {
            inner: rest,
            group: VecDeque::from([first]),
            bytes: 0,
            is_leaving: true,
            is_over: false,
            last_left: None,
            window: None,
        }
    }

    /// The next message of a group that is to leave. What the group took is given back with its last one, so
    /// that idle streams stay small.
    fn leaving(&mut self) -> Option<S::Item> {
        if !self.is_leaving {
            return None;
        }
        let message = self.group.pop_front()?;
        if self.group.is_empty() {
            (self.group, self.is_leaving, self.bytes) = (VecDeque::new(), false, 0);
            self.last_left = Some(Instant::now());
        }
        Some(message)
    }

    /// Whether a message that is alone must wait for company; sets the timer if so.
    fn must_wait(&mut self) -> bool {
        let now = Instant::now();
        let end = self.last_left.map(|last| last + WINDOW);
        let Some(end) = end.filter(|end| *end > now) else {
            return false;
        };
        match &mut self.window {
            Some(window) => window.set(end),
            None => self.window = Some(Timer::new(end)),
        }
        true
    }

    fn window_is_over(&mut self, cx: &mut Context<'_>) -> bool {
        let window = self.window.as_mut();
        window.is_none_or(|window| window.poll(cx).is_ready())
    }
}

impl<S, M, E> Stream for Coalesced<S>
where
    S: Stream<Item = Result<M, E>> + Unpin,
    M: Message + Unpin,
    E: Unpin,
{
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        loop {
            if let Some(message) = self.leaving() {
                return Poll::Ready(Some(message));
            }
            if self.is_over {
                return Poll::Ready(None);
            }
            match Pin::new(&mut self.inner).poll_next(cx) {
                Poll::Ready(Some(message)) => {
                    if self.group.is_empty() && !self.must_wait() {
                        self.last_left = Some(Instant::now());
                        return Poll::Ready(Some(message));
                    }
                    self.bytes += message.as_ref().map_or(FRAME_BYTES, Message::encoded_len);
                    self.group.push_back(message);
                    self.is_leaving = self.bytes >= FRAME_BYTES;
                }
                Poll::Ready(None) => (self.is_over, self.is_leaving) = (true, true),
                Poll::Pending if self.group.is_empty() => return Poll::Pending,
                Poll::Pending => match self.window_is_over(cx) {
                    true => self.is_leaving = true,
                    false => return Poll::Pending,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::Token;
    use tokio::sync::mpsc::unbounded_channel;
    use tokio_stream::{StreamExt, wrappers::UnboundedReceiverStream};

    fn token(text: &str) -> Result<Token, ()> {
        Ok(Token { text: text.into() })
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_comes_alone_leaves_at_once() {
        let (send, receive) = unbounded_channel();
        let mut packed = Coalesced::new(token("a"), UnboundedReceiverStream::new(receive));
        for is_first in [true, false, false] {
            if !is_first {
                send.send(token("a")).expect("open");
            }
            let start = Instant::now();
            assert_eq!(packed.next().await, Some(token("a")));
            assert_eq!(start.elapsed(), Duration::ZERO);
            tokio::time::sleep(WINDOW).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_close_behind_another_waits_for_company_at_most_a_window() {
        let (send, receive) = unbounded_channel();
        let mut packed = Coalesced::new(token("a"), UnboundedReceiverStream::new(receive));
        packed.next().await;
        let start = Instant::now();
        send.send(token("b")).expect("open");
        let next = packed.next().await;
        assert_eq!(next, Some(token("b")));
        let waited = start.elapsed();
        assert!(
            waited > Duration::ZERO && waited <= 2 * WINDOW,
            "{waited:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_and_the_end_leave_without_waiting() {
        for rest in [vec![token("b"), Err(())], vec![token("b")]] {
            let (send, receive) = unbounded_channel();
            for message in rest.clone() {
                send.send(message).expect("open");
            }
            drop(send);
            let start = Instant::now();
            let packed = Coalesced::new(token("a"), UnboundedReceiverStream::new(receive));
            let all: Vec<_> = packed.collect().await;
            assert_eq!(all, [vec![token("a")], rest].concat());
            assert_eq!(start.elapsed(), Duration::ZERO);
        }
    }
}
