//! The known threads: those that `POST /threads` and earlier invokes created.
//!
//! Only the newest [`LIMIT`] are kept, so a long load test can't fill the memory. A thread has its
//! metadata and no history, because an answer depends on its message alone.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value};
use uuid::Uuid;

/// The largest number of threads. At this number, the next one evicts the oldest. It is far more than a
/// test needs, and takes a few megabytes without metadata.
const LIMIT: usize = 10_000;

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
    metadata: HashMap<Uuid, Map<String, Value>>,
    oldest_first: VecDeque<Uuid>,
}

impl Threads {
    /// Creates a thread.
    pub(super) fn create(&self, metadata: Map<String, Value>) -> Uuid {
        let id = Uuid::new_v4();
        let mut inner = self.lock();
        if inner.oldest_first.len() >= LIMIT
            && let Some(oldest) = inner.oldest_first.pop_front()
        {
            inner.metadata.remove(&oldest);
        }
        inner.oldest_first.push_back(id);
        inner.metadata.insert(id, metadata);
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
        let metadata = inner.metadata.get(&id).ok_or(Error::Unknown(id))?;
        Ok((id, metadata.clone()))
    }

    /// Deletes the thread with this id.
    ///
    /// # Errors
    /// As [`Threads::find`].
    pub(super) fn delete(&self, id: &str) -> Result<Uuid, Error> {
        let (id, _) = self.find(id)?;
        let mut inner = self.lock();
        inner.metadata.remove(&id);
        inner.oldest_first.retain(|other| *other != id);
        Ok(id)
    }

    /// No critical section can panic halfway, so the data of a poisoned lock is consistent.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        for _ in 2..LIMIT {
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
        for _ in 2..LIMIT {
            threads.create(Map::new());
        }
        assert_eq!(threads.delete(&second.to_string()), Ok(second));
        threads.create(Map::new());
        assert!(threads.find(&oldest.to_string()).is_ok());
    }
}
