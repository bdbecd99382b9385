//! Admission control: a permit for each open call, or a rejection.
//!
//! A permit is held until the call has released everything, because a stream has a cost for as long as it lasts. tower's
//! concurrency limit ends at the response head. When the bridge drains, admission closes for good.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

use crate::memory::Full;

/// A permit for one open call; dropping it releases the permit.
#[derive(Debug)]
pub struct Permit(#[expect(dead_code, reason = "held to be dropped")] OwnedSemaphorePermit);

/// Why a call is rejected. Nothing of it was sent to the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// The limit on open calls is reached.
    #[error("{limit} calls are open, the limit is {limit}")]
    Saturated {
        /// The setting `MAX_CALLS`.
        limit: usize,
    },
    /// The connection's limit on health watches and reflection streams is reached.
    #[error("{limit} watches are open on this connection, the limit is {limit}")]
    Watches {
        /// Streams per connection.
        limit: usize,
    },
    /// The limit on incomplete health and reflection messages is reached.
    #[error("{limit} messages to health and reflection are incomplete, the limit is {limit}")]
    Probes {
        /// Messages on all connections together.
        limit: usize,
    },
    /// The memory budget has no space for the call.
    #[error(transparent)]
    Memory(#[from] Full),
    /// The caller's limit on open calls is reached.
    #[error("{limit} calls of this caller are open, the limit is {limit}")]
    CallerSaturated {
        /// `max_open_calls` of the caller.
        limit: usize,
    },
    /// The caller has used up its rate limit.
    #[error("the rate of this caller is used up for {wait:?}")]
    CallerRateLimited {
        /// The time until the next call can start.
        wait: Duration,
    },
    /// The bridge is shutting down.
    #[error("the bridge is shutting down")]
    Draining,
}

/// Limits the number of open calls; clones share the count.
#[derive(Clone, Debug)]
pub struct Admission {
    permits: Arc<Semaphore>,
    limit: usize,
}

impl Admission {
    /// Allows `limit` open calls at a time.
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

    /// Rejects all further calls. Open calls continue.
    pub fn close(&self) {
        self.permits.close();
    }

    /// The maximum number of open calls.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// The number of open calls.
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
    fn after_close_open_calls_continue_and_new_ones_are_rejected() {
        let admission = Admission::new(2);
        let first = admission.admit().expect("a permit");
        admission.close();
        assert_eq!(admission.admit().err(), Some(Rejected::Draining));
        assert_eq!(admission.open_calls(), 1);
        drop(first);
        assert_eq!(admission.open_calls(), 0);
    }
}
