//! The threads that this ALİM knows: those made by `POST /threads` and by earlier invokes.
//!
//! The newest [`LIMIT`] are kept and the oldest is forgotten for each one more, so that a long load
//! test can't fill the memory. A thread remembers its metadata and nothing of what was said in it:
//! an answer depends on its message alone.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value};
use uuid::Uuid;

/// How many threads are known at once; at exactly this many, the next one drives out the oldest. Far
/// more than a test holds open, and a few megabytes without metadata.
const LIMIT: usize = 10_000;

/// Why a thread can't be gone on with.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum Error {
    /// The id is no UUID, so it was never one of ours.
    #[error("thread id is not a valid UUID")]
    NotUuid,
    /// It was never made here, or was deleted, or is forgotten.
    #[error("thread {0} not found")]
    Unknown(Uuid),
}

/// The known threads.
#[derive(Debug, Default)]
pub(super) struct Threads(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    metadata: HashMap<Uuid, Map<String, Value>>,
    oldest_first: VecDeque<Uuid>,
}

impl Threads {
    /// Makes a new thread.
    pub(super) fn create(&self, metadata: Map<String, Value>) -> Uuid {
        let id = Uuid::new_v4();
        let mut kept = self.kept();
        if kept.oldest_first.len() >= LIMIT
            && let Some(oldest) = kept.oldest_first.pop_front()
        {
            kept.metadata.remove(&oldest);
        }
        kept.oldest_first.push_back(id);
        kept.metadata.insert(id, metadata);
        id
    }

    /// Looks up the thread with that id: itself and its metadata.
    ///
    /// # Errors
    /// - [`Error::NotUuid`]: `id` is no UUID.
    /// - [`Error::Unknown`]: it is one, of no thread here.
    pub(super) fn find(&self, id: &str) -> Result<(Uuid, Map<String, Value>), Error> {
        let id = Uuid::try_parse(id).map_err(|_| Error::NotUuid)?;
        let kept = self.kept();
        let metadata = kept.metadata.get(&id).ok_or(Error::Unknown(id))?;
        Ok((id, metadata.clone()))
    }

    /// Forgets the thread with that id.
    ///
    /// # Errors
    /// As [`Threads::find`].
    pub(super) fn delete(&self, id: &str) -> Result<Uuid, Error> {
        let (id, _) = self.find(id)?;
        let mut kept = self.kept();
        kept.metadata.remove(&id);
        kept.oldest_first.retain(|other| *other != id);
        Ok(id)
    }

    /// Nothing in here can panic halfway, so a poisoned lock still guards whole data.
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_more_than_the_limit_drives_out_the_oldest() {
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
    fn a_deleted_thread_makes_room() {
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
