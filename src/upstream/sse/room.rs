//! Room for what is read of a stream: nothing more is read from the upstream while there is none.
//!
//! Counted are the event that is not whole yet, in a buffer that may be twice as large, the chunk that comes, and what hyper
//! reads ahead meanwhile: a chunk that waits in its channel, and the next in its buffer, each up to twice the one before. An
//! event that is whole still counts until the next one is asked for, since its copies are on their way to the caller.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use crate::{memory::Account, upstream::MAX_CHUNK_BYTES};

/// What hyper reads at least, and sets aside for each connection anyway.
const MIN_CHUNK_BYTES: usize = 8 * 1024;

type Waiting = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What one stream holds.
pub(super) struct Room {
    memory: Arc<Account>,
    chunk_bytes: usize,
    waiting: Option<Waiting>,
}

impl Room {
    pub(super) fn new(memory: Arc<Account>) -> Self {
        Self {
            memory,
            chunk_bytes: 0,
            waiting: None,
        }
    }

    /// Notes a chunk that was read.
    pub(super) fn read(&mut self, bytes: usize) {
        self.chunk_bytes = match bytes {
            small if small < MIN_CHUNK_BYTES => 0,
            large => large,
        };
    }

    /// Ready when there is room for the next chunk, beside the `kept` bytes of an event that is not whole.
    pub(super) fn poll(&mut self, kept: usize, cx: &mut Context<'_>) -> Poll<()> {
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

    /// Gives back what a stream does not need that has read all there is, `kept` bytes apart.
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

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room")
            .field("chunk_bytes", &self.chunk_bytes)
            .finish_non_exhaustive()
    }
}
