//! The known threads: those that `POST /threads` and earlier invokes created.
//!
//! Only the newest are kept, up to [`MAX_THREADS`] and [`MAX_METADATA_BYTES`], so a long load test can't fill the
//! memory. A thread has its metadata and no history, because an answer depends on its message alone.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value};
use uuid::Uuid;

/// The largest number of threads. At this number, the next one evicts the oldest. It is far more than a
/// test needs, and takes a few megabytes without metadata.
const MAX_THREADS: usize = 10_000;
/// The largest size of all metadata as JSON. Beyond it the oldest threads are evicted, but never the newest.
const MAX_METADATA_BYTES: usize = 16 * 1024 * 1024;

/// Why a thread can't be used.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum Error {
    /// The id is not a UUID, so no thread ever had it.
    #[error("thread id is not a valid UUID")]
    NotUuid,
    /// It was never created, was deleted, or was evicted.
    #[error("thread {0} not found")]
    Unknown(Uuid),
}

/// The known threads.
#[derive(Debug, Default)]
pub(super) struct Threads(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    threads: HashMap<Uuid, Thread>,
    oldest_first: VecDeque<Uuid>,
    /// The size of all metadata as JSON.
    bytes: usize,
}

#[derive(Debug)]
struct Thread {
    metadata: Map<String, Value>,
    bytes: usize,
}

impl Threads {
    /// Creates a thread.
    pub(super) fn create(&self, metadata: Map<String, Value>) -> Uuid {
        let id = Uuid::new_v4();
        let bytes = serde_json::to_vec(&metadata).map_or(0, |json| json.len());
        let mut inner = self.lock();
        while inner.oldest_first.len() >= MAX_THREADS || inner.bytes + bytes > MAX_METADATA_BYTES {
            let Some(oldest) = inner.oldest_first.pop_front() else {
                break;
            };
            inner.remove(&oldest);
        }
        inner.oldest_first.push_back(id);
        inner.bytes += bytes;
        inner.threads.insert(id, Thread { metadata, bytes });
        id
    }

    /// Returns the thread with this id, and its metadata.
    ///
    /// # Errors
    /// - [`Error::NotUuid`]: `id` is not a UUID.
    /// - [`Error::Unknown`]: there is no thread with this id.
    pub(super) fn find(&self, id: &str) -> Result<(Uuid, Map<String, Value>), Error> {
        let id = Uuid::try_parse(id).map_err(|_| Error::NotUuid)?;
        let inner = self.lock();
        let thread = inner.threads.get(&id).ok_or(Error::Unknown(id))?;
        Ok((id, thread.metadata.clone()))
    }

    /// Deletes the thread with this id.
    ///
    /// # Errors
    /// As [`Threads::find`].
    pub(super) fn delete(&self, id: &str) -> Result<Uuid, Error> {
        let (id, _) = self.find(id)?;
        let mut inner = self.lock();
        inner.remove(&id);
        inner.oldest_first.retain(|other| *other != id);
        Ok(id)
    }

    /// No critical section can panic halfway, so the data of a poisoned lock is consistent.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn remove(&mut self, id: &Uuid) {
        let bytes = self.threads.remove(id).map_or(0, |thread| thread.bytes);
        self.bytes -= bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_above_the_limit_evicts_the_oldest() {
        let threads = Threads::default();
        let oldest = threads.create(Map::new());
        let second = threads.create(Map::new());
        for _ in 2..MAX_THREADS {
            threads.create(Map::new());
        }
        assert!(threads.find(&oldest.to_string()).is_ok());

        threads.create(Map::new());
        assert_eq!(
            threads.find(&oldest.to_string()),
            Err(Error::Unknown(oldest))
        );
        assert!(threads.find(&second.to_string()).is_ok());
    }

    #[test]
    fn a_deleted_thread_no_longer_counts() {
        let threads = Threads::default();
        let oldest = threads.create(Map::new());
        let second = threads.create(Map::new());
        for _ in 2..MAX_THREADS {
            threads.create(Map::new());
        }
        assert_eq!(threads.delete(&second.to_string()), Ok(second));
        threads.create(Map::new());
        assert!(threads.find(&oldest.to_string()).is_ok());
    }

    #[test]
    fn large_metadata_evicts_the_oldest_and_never_the_newest() {
        let threads = Threads::default();
        let metadata = |bytes| Map::from_iter([("a".into(), "x".repeat(bytes).into())]);
        let oldest = threads.create(metadata(MAX_METADATA_BYTES / 2));
        let second = threads.create(metadata(MAX_METADATA_BYTES / 4));
        let third = threads.create(metadata(MAX_METADATA_BYTES / 2));
        let is_known = |id: Uuid| threads.find(&id.to_string()).is_ok();
        assert_eq!([oldest, second, third].map(is_known), [false, true, true]);
        let largest = threads.create(metadata(MAX_METADATA_BYTES + 1));
        assert_eq!([second, third, largest].map(is_known), [false, false, true]);
        assert!(threads.delete(&largest.to_string()).is_ok());
        assert_eq!(threads.lock().bytes, 0);
    }
}
