//! What the admin page shows of a call's record: an open call's progress, and a failed call's end.

use std::{
    net::SocketAddr,
    sync::atomic::Ordering,
    time::{Duration, SystemTime},
};

use super::{Method, Notes, Record, failed::FailedCall};
use crate::{call::reason::Reason, sanitize};

impl Record {
    /// The method of the call.
    pub fn method(&self) -> Method {
        self.0.method
    }

    /// The tokens received so far.
    pub fn tokens(&self) -> u64 {
        self.0.tokens.load(Ordering::Relaxed)
    }

    /// The peer of the call's connection, if known.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        self.notes().peer
    }

    pub(super) fn failed_call(
        &self,
        notes: &Notes,
        code: &'static str,
        reason: Reason,
        duration: Duration,
    ) -> FailedCall {
        FailedCall {
            ended: SystemTime::now(),
            method: self.0.method.labels()[2],
            code,
            reason: reason.name(),
            request_id: sanitize::line(&self.0.request_id),
            caller: notes.caller.clone(),
            peer: notes.peer,
            duration,
        }
    }
}
