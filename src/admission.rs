//! Who may begin a call: a permit, or a refusal.
//!
//! A permit is held until the body of the answer ends, for a stream costs as long as it lasts; tower's
//! concurrency limit lets go at the head. When the bridge drains, admission closes for good.

use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

/// The right to have one call open; dropping it gives the place back.
#[derive(Debug)]
pub struct Permit {
    place: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Permit {
    /// Gives the place back before the answer's body has ended, for a caller who does not read it.
    pub fn release(&self) {
        let place = self.place.lock();
        drop(place.unwrap_or_else(|held| held.into_inner()).take());
    }
}

/// Why a call may not begin. The upstream never saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// As many calls are open as may be.
    #[error("{limit} calls are open, the limit is {limit}")]
    Saturated {
        /// The setting `MAX_CALLS`.
        limit: usize,
    },
    /// The bridge is shutting down.
    #[error("the bridge is shutting down")]
    Draining,
}

/// Counts the open calls; clones share the count.
#[derive(Clone, Debug)]
pub struct Admission {
    places: Arc<Semaphore>,
    limit: usize,
}

impl Admission {
    /// Lets `limit` calls be open at a time.
    pub fn new(limit: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(limit)),
            limit,
        }
    }

    /// Takes a place without waiting: a caller with a retry policy waits better than a queue.
    ///
    /// # Errors
    ///
    /// - [`Refused::Saturated`] when all places are taken, [`Refused::Draining`] after [`close`](Self::close).
    pub fn enter(&self) -> Result<Permit, Refused> {
        match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => Ok(Permit {
                place: Mutex::new(Some(place)),
            }),
            Err(TryAcquireError::NoPermits) => Err(Refused::Saturated { limit: self.limit }),
            Err(TryAcquireError::Closed) => Err(Refused::Draining),
        }
    }

    /// Refuses all further calls; those that are open go on.
    pub fn close(&self) {
        self.places.close();
    }

    /// How many calls may be open.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// How many calls are open now.
    pub fn open_calls(&self) -> usize {
        self.limit - self.places.available_permits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_permit_makes_room_for_the_next_call() {
        let admission = Admission::new(1);
        let first = admission.enter().expect("room");
        assert_eq!(
            admission.enter().err(),
            Some(Refused::Saturated { limit: 1 })
        );
        first.release();
        assert!(admission.enter().is_ok());
        drop(first);
        assert!(admission.enter().is_ok());
    }

    #[test]
    fn after_closing_open_calls_go_on_and_new_ones_are_refused() {
        let admission = Admission::new(2);
        let first = admission.enter().expect("room");
        admission.close();
        assert_eq!(admission.enter().err(), Some(Refused::Draining));
        assert_eq!(admission.open_calls(), 1);
        drop(first);
        assert_eq!(admission.open_calls(), 0);
    }
}
