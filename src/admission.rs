//! Who may begin a call: a permit, or a rejection.
//!
//! A permit is held until all that its call holds is given back, for a stream costs as long as it lasts; tower's
//! concurrency limit ends at the head. When the bridge drains, admission closes for good.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

use crate::memory::Full;

/// The right to have one call open; dropping it gives the right back.
#[derive(Debug)]
pub struct Permit(#[expect(dead_code, reason = "held to be dropped")] OwnedSemaphorePermit);

/// Why a call may not begin. The upstream never saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// As many calls are open as may be.
    #[error("{limit} calls are open, the limit is {limit}")]
    Saturated {
        /// The setting `MAX_CALLS`.
        limit: usize,
    },
    /// As many health watches or reflection streams are open on the connection as may be.
    #[error("{limit} watches are open on this connection, the limit is {limit}")]
    Watches {
        /// Streams a connection.
        limit: usize,
    },
    /// As many messages to health and reflection are held in part as may be.
    #[error("{limit} messages to health and reflection are not whole, the limit is {limit}")]
    Probes {
        /// Messages on all connections.
        limit: usize,
    },
    /// There is no memory for the call.
    #[error(transparent)]
    Memory(#[from] Full),
    /// As many calls of this caller are open as may be.
    #[error("{limit} calls of this caller are open, the limit is {limit}")]
    CallerSaturated {
        /// `max_open_calls` of the caller.
        limit: usize,
    },
    /// The caller has used up its rate.
    #[error("the rate of this caller is used up for {wait:?}")]
    CallerRateLimited {
        /// Until the next call may begin.
        wait: Duration,
    },
    /// The bridge is shutting down.
    #[error("the bridge is shutting down")]
    Draining,
}

/// Counts the open calls; clones share the count.
#[derive(Clone, Debug)]
pub struct Admission {
    permits: Arc<Semaphore>,
    limit: usize,
}

impl Admission {
    /// Lets `limit` calls be open at a time.
    pub fn new(limit: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(limit)),
            limit,
        }
    }

    /// Never waits: callers with a retry policy back off better than a queue inside the bridge could.
    ///
    /// # Errors
    ///
    /// - [`Rejected::Saturated`] when all permits are taken, [`Rejected::Draining`] after [`close`](Self::close).
    pub fn admit(&self) -> Result<Permit, Rejected> {
        match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => Ok(Permit(permit)),
            Err(TryAcquireError::NoPermits) => Err(Rejected::Saturated { limit: self.limit }),
            Err(TryAcquireError::Closed) => Err(Rejected::Draining),
        }
    }

    /// Rejects all further calls; those that are open go on.
    pub fn close(&self) {
        self.permits.close();
    }

    /// How many calls may be open.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// How many calls are open now.
    pub fn open_calls(&self) -> usize {
        self.limit - self.permits.available_permits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_permit_admits_the_next_call() {
        let admission = Admission::new(1);
        let first = admission.admit().expect("a permit");
        let full = Some(Rejected::Saturated { limit: 1 });
        assert_eq!(admission.admit().err(), full);
        drop(first);
        assert!(admission.admit().is_ok());
    }

    #[test]
    fn after_closing_open_calls_go_on_and_new_ones_are_rejected() {
        let admission = Admission::new(2);
        let first = admission.admit().expect("a permit");
        admission.close();
        assert_eq!(admission.admit().err(), Some(Rejected::Draining));
        assert_eq!(admission.open_calls(), 1);
        drop(first);
        assert_eq!(admission.open_calls(), 0);
    }
}
