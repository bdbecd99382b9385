//! Those who wait for bytes, woken one at a time as bytes are given back.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Wakes those who wait for bytes, one at a time.
#[derive(Debug, Default)]
pub(super) struct Freed {
    notify: Notify,
    waiting: AtomicUsize,
}

impl Freed {
    /// Waits until `fits`, which is asked each time that something was freed.
    pub(super) async fn wait(&self, fits: impl Fn() -> bool) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let _waiting = Waiting(&self.waiting);
        while !fits() {
            self.notify.notified().await;
        }
        self.notify.notify_one(); // there may be room for the next one too
    }

    /// Wakes the one that has waited longest.
    pub(super) fn wake(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.notify.notify_one();
        }
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
