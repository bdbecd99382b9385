//! The memory that one stream reserves before it reads. If the budget is full, the upstream is not read.
//!
//! It counts the unfinished event, whose buffer can be twice as large, the chunk that is read, and hyper's read-ahead. That is one
//! chunk that waits in hyper's channel and one in its buffer, each up to twice the one before. A complete event still counts until
//! the next one is polled, because its copies are on their way to the caller.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use crate::{memory::Account, upstream::MAX_CHUNK_BYTES};

/// The minimum that hyper reads at once. Each connection allocates this much anyway, so it is not counted.
const MIN_CHUNK_BYTES: usize = 8 * 1024;

type Waiting = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The memory that one stream reserves.
pub(super) struct ReadBudget {
    memory: Arc<Account>,
    chunk_bytes: usize,
    waiting: Option<Waiting>,
}

impl ReadBudget {
    pub(super) fn new(memory: Arc<Account>) -> Self {
        Self {
            memory,
            chunk_bytes: 0,
            waiting: None,
        }
    }

    /// Records the size of a chunk that was read.
    pub(super) fn record_chunk(&mut self, bytes: usize) {
        self.chunk_bytes = match bytes {
            small if small < MIN_CHUNK_BYTES => 0,
            large => large,
        };
    }

    /// Ready if the budget allows the next chunk, in addition to the `kept` bytes of the unfinished event.
    pub(super) fn poll_reserve(&mut self, kept: usize, cx: &mut Context<'_>) -> Poll<()> {
        if self.waiting.is_none() {
            let bytes = self.needed(kept);
            if self.memory.try_hold(bytes).is_ok() {
                return Poll::Ready(());
            }
            let memory = Arc::clone(&self.memory);
            self.waiting = Some(Box::pin(async move { memory.hold(bytes).await }));
        }
        if let Some(waiting) = &mut self.waiting {
            ready!(waiting.as_mut().poll(cx));
        }
        self.waiting = None;
        Poll::Ready(())
    }

    /// Releases the memory that a stream does not need once it has read everything but `kept` bytes.
    pub(super) fn release_to(&self, kept: usize) {
        if self.waiting.is_none() {
            self.memory.release_to(self.needed(kept));
        }
    }

    fn needed(&self, kept: usize) -> usize {
        let ahead = |chunk: usize| chunk.min(MAX_CHUNK_BYTES);
        let read_ahead = ahead(2 * self.chunk_bytes) + ahead(4 * self.chunk_bytes);
        2 * (kept + self.chunk_bytes) + read_ahead
    }
}

impl fmt::Debug for ReadBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadBudget")
            .field("chunk_bytes", &self.chunk_bytes)
            .finish_non_exhaustive()
    }
}
