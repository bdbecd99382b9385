//! Places for connections: as many as `MAX_CONNECTIONS`, each held until its connection has closed.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Counts the open connections, those whose TLS handshake is not done included; clones share the count.
#[derive(Clone, Debug)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    limit: usize,
}

impl Places {
    pub(super) fn new(limit: usize) -> Self {
        let free = Arc::new(Semaphore::new(limit));
        Self { free, limit }
    }

    /// A place, if one is free; dropping it gives it back.
    pub(super) fn take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).try_acquire_owned().ok()
    }

    /// How many connections may be open.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// How many are.
    pub(super) fn open(&self) -> usize {
        self.limit - self.free.available_permits()
    }
}
