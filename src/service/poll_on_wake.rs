//! A stream that is asked again only when it has something to tell.
//!
//! tonic's encoder asks for more until a stream is pending, hyper then asks the body once more, and h2 wakes the
//! task for each frame that the task itself sends. So a token that comes alone had its stream asked four times, and the
//! upstream's connection with it, for one answer. Here the stream gets a waker of its own, and is left alone while
//! that has not rung.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use tokio_stream::Stream;

/// A stream that, once it is pending, is not polled again until it has poll_on_wake who asked, or until somebody else asks.
pub(super) struct PollOnWake<S> {
    inner: S,
    flag: Option<(Arc<WakeFlag>, Waker)>,
}

/// Wakes its task, and remembers that the stream may be asked: at first, after an answer, and when it has rung.
struct WakeFlag {
    task: Waker,
    should_poll: AtomicBool,
}

impl<S> PollOnWake<S> {
    /// Leaves `inner` alone while it is pending.
    pub(super) fn new(inner: S) -> Self {
        Self { inner, flag: None }
    }
}

impl WakeFlag {
    /// A flag for `task`, whose stream may be asked, and what rings it.
    fn of(task: &Waker) -> (Arc<Self>, Waker) {
        let flag = Arc::new(Self {
            task: task.clone(),
            should_poll: AtomicBool::new(true),
        });
        (Arc::clone(&flag), flag.into())
    }
}

impl Wake for WakeFlag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.should_poll.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

impl<S: Stream + Unpin> Stream for PollOnWake<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let this = &mut *self;
        this.flag
            .take_if(|(flag, _)| !flag.task.will_wake(cx.waker()));
        let (flag, waker) = this.flag.get_or_insert_with(|| WakeFlag::of(cx.waker()));
        if !flag.should_poll.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        let polled = Pin::new(&mut this.inner).poll_next(&mut Context::from_waker(waker));
        if polled.is_ready() {
            flag.should_poll.store(true, Ordering::Release);
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, time::Duration};

    use futures_util::{FutureExt, StreamExt, stream, task::noop_waker};
    use tokio::{
        sync::mpsc,
        time::{Instant, sleep, timeout},
    };
    use tokio_stream::wrappers::UnboundedReceiverStream;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// `inner`, and how often it was asked.
    fn counted<'a, S: Stream + Unpin + 'a>(
        mut inner: S,
        asked: &'a Cell<u32>,
    ) -> PollOnWake<impl Stream<Item = S::Item> + Unpin + 'a> {
        PollOnWake::new(stream::poll_fn(move |cx| {
            asked.set(asked.get() + 1);
            Pin::new(&mut inner).poll_next(cx)
        }))
    }

    #[tokio::test]
    async fn what_is_pending_is_asked_again_once_it_has_something_to_tell() {
        let (asked, (send, receive)) = (Cell::new(0), mpsc::unbounded_channel());
        let mut poll_on_wake = counted(UnboundedReceiverStream::new(receive), &asked);
        for round in 1..4 {
            for _ in 0..3 {
                assert_eq!(poll_on_wake.next().now_or_never(), None);
            }
            assert_eq!(asked.get(), 3 * round - 2);
            for (times, item) in [(3 * round - 1, 'a'), (3 * round, 'b')] {
                send.send(item).expect("open");
                assert_eq!(timeout(PATIENCE, poll_on_wake.next()).await, Ok(Some(item)));
                assert_eq!(asked.get(), times);
            }
        }
    }

    #[tokio::test]
    async fn what_has_answered_is_asked_on_until_its_end() {
        let poll_on_wake = PollOnWake::new(stream::iter([1, 2, 3]));
        let all = timeout(PATIENCE, poll_on_wake.collect::<Vec<_>>()).await;
        assert_eq!(all, Ok(vec![1, 2, 3]));
    }

    #[tokio::test(start_paused = true)]
    async fn another_task_that_asks_is_the_one_that_is_woken() {
        let (asked, (send, receive)) = (Cell::new(0), mpsc::unbounded_channel());
        let mut poll_on_wake = counted(UnboundedReceiverStream::new(receive), &asked);
        let stranger = noop_waker();
        let pending = poll_on_wake.poll_next_unpin(&mut Context::from_waker(&stranger));
        assert!(pending.is_pending());
        tokio::spawn(async move {
            sleep(PATIENCE / 2).await;
            send.send(7)
        });
        let start = Instant::now();
        assert_eq!(timeout(PATIENCE, poll_on_wake.next()).await, Ok(Some(7)));
        assert!(start.elapsed() < PATIENCE, "seen only when time was up");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_wakes_its_task_while_it_is_asked_is_asked_again() {
        let turns = Cell::new(0);
        let mut poll_on_wake = PollOnWake::new(stream::poll_fn(|cx| {
            turns.set(turns.get() + 1);
            if turns.get() < 3 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(Some(turns.get()))
        }));
        assert_eq!(timeout(PATIENCE, poll_on_wake.next()).await, Ok(Some(3)));
    }
}
