//! The right of a call to send its requests, each of which counts once it is sent.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use super::{Limits, ReportedLimit, key::Key, window::Sent};

/// The right of a call to send its requests. It is empty if the quota is off.
#[derive(Debug, Default)]
pub struct Slots(Vec<Arc<Slot>>);

/// The right to send one request. If it is dropped before it is marked as sent, the right returns to the key.
pub struct Slot {
    key: Arc<Key>,
    sent: OnceLock<Sent>,
}

impl Slots {
    /// The right to requests that are reserved.
    pub(super) fn of(key: &Arc<Key>, requests: u32) -> Self {
        let slot = |_| {
            Arc::new(Slot {
                key: Arc::clone(key),
                sent: OnceLock::new(),
            })
        };
        Self((0..requests).map(slot).collect())
    }

    /// The slot of the request that is sent now. `None` if the quota is off.
    pub fn current(&self) -> Option<&Arc<Slot>> {
        self.0.first()
    }

    /// Takes one slot for a request that is sent before the others.
    pub fn split_off(&mut self) -> Self {
        Self(self.0.pop().into_iter().collect())
    }
}

impl Slot {
    /// Records that the request is sent now. From here on it counts, whatever its result.
    pub fn mark_sent(&self) {
        self.key.send(&self.sent);
    }

    /// Reads the upstream's limit from a response, which can show requests of others with the same key. Returns the key's limits.
    pub fn reconcile(&self, reported: ReportedLimit) -> Limits {
        self.mark_sent();
        self.key.reconcile(self.sent.get().copied(), reported)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.sent.get().is_none() {
            self.key.release();
        }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sent = &self.sent;
        f.debug_struct("Slot")
            .field("sent", sent)
            .finish_non_exhaustive()
    }
}
