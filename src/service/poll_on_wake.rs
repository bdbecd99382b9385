//! Skips polls of the inner stream until its waker fires.
//!
//! tonic's encoder polls a stream until it is pending. hyper then polls the body once more, and h2 wakes the task for each frame
//! that the task itself sends. Without this, one token polls the stream, and the upstream connection, four times. So the
//! inner stream gets a waker of its own, and is not polled before that fires. Without it a paced token takes 7 % more instructions.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use tokio_stream::Stream;

/// A stream that polls `inner` again after `Pending` only when `inner` has called its waker, or when another task polls.
pub(super) struct PollOnWake<S> {
    inner: S,
    flag: Option<(Arc<WakeFlag>, Waker)>,
}

/// Wakes its task and records that the stream should be polled. That is also set at first, and after each item.
struct WakeFlag {
    task: Waker,
    should_poll: AtomicBool,
}

impl<S> PollOnWake<S> {
    /// Wraps `inner`.
    pub(super) fn new(inner: S) -> Self {
        Self { inner, flag: None }
    }
}

impl WakeFlag {
    /// A flag for `task`, and the waker that sets it.
    fn new(task: &Waker) -> (Arc<Self>, Waker) {
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
        let (flag, waker) = this.flag.get_or_insert_with(|| WakeFlag::new(cx.waker()));
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

    const TIMEOUT: Duration = Duration::from_secs(10);

    /// Wraps `inner`, and counts its polls.
    fn counted<'a, S: Stream + Unpin + 'a>(
        mut inner: S,
        polls: &'a Cell<u32>,
    ) -> PollOnWake<impl Stream<Item = S::Item> + Unpin + 'a> {
        PollOnWake::new(stream::poll_fn(move |cx| {
            polls.set(polls.get() + 1);
            Pin::new(&mut inner).poll_next(cx)
        }))
    }

    #[tokio::test]
    async fn a_pending_stream_is_polled_again_only_after_it_wakes() {
        let (polls, (send, receive)) = (Cell::new(0), mpsc::unbounded_channel());
        let mut poll_on_wake = counted(UnboundedReceiverStream::new(receive), &polls);
        for round in 1..4 {
            for _ in 0..3 {
                assert_eq!(poll_on_wake.next().now_or_never(), None);
            }
            assert_eq!(polls.get(), 3 * round - 2);
            for (times, item) in [(3 * round - 1, 'a'), (3 * round, 'b')] {
                send.send(item).expect("open");
                assert_eq!(timeout(TIMEOUT, poll_on_wake.next()).await, Ok(Some(item)));
                assert_eq!(polls.get(), times);
            }
        }
    }

    #[tokio::test]
    async fn a_ready_stream_is_polled_to_its_end() {
        let poll_on_wake = PollOnWake::new(stream::iter([1, 2, 3]));
        let all = timeout(TIMEOUT, poll_on_wake.collect::<Vec<_>>()).await;
        assert_eq!(all, Ok(vec![1, 2, 3]));
    }

    #[tokio::test(start_paused = true)]
    async fn the_task_that_polled_last_is_woken() {
        let (polls, (send, receive)) = (Cell::new(0), mpsc::unbounded_channel());
        let mut poll_on_wake = counted(UnboundedReceiverStream::new(receive), &polls);
        let other_task = noop_waker();
        let pending = poll_on_wake.poll_next_unpin(&mut Context::from_waker(&other_task));
        assert!(pending.is_pending());
        tokio::spawn(async move {
            sleep(TIMEOUT / 2).await;
            send.send(7)
        });
        let start = Instant::now();
        assert_eq!(timeout(TIMEOUT, poll_on_wake.next()).await, Ok(Some(7)));
        assert!(start.elapsed() < TIMEOUT, "the task was not woken");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_wakes_its_task_during_a_poll_is_polled_again() {
        let polls = Cell::new(0);
        let mut poll_on_wake = PollOnWake::new(stream::poll_fn(|cx| {
            polls.set(polls.get() + 1);
            if polls.get() < 3 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(Some(polls.get()))
        }));
        assert_eq!(timeout(TIMEOUT, poll_on_wake.next()).await, Ok(Some(3)));
    }
}
