//! A queue of tasks that wait for memory.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Wakes the tasks that wait for memory, one at a time.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    notify: Notify,
    count: AtomicUsize,
}

impl Waiters {
    /// Waits until `fits` returns true. It is called again each time memory was released.
    pub(super) async fn wait(&self, fits: impl Fn() -> bool) {
        self.count.fetch_add(1, Ordering::SeqCst);
        let _guard = CountGuard(&self.count);
        while !fits() {
            self.notify.notified().await;
        }
        self.notify.notify_one(); // there can be enough for the next one too
    }

    /// Wakes the task that has waited longest.
    pub(super) fn wake_one(&self) {
        if self.count.load(Ordering::SeqCst) > 0 {
            self.notify.notify_one();
        }
    }
}

struct CountGuard<'a>(&'a AtomicUsize);

impl Drop for CountGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
