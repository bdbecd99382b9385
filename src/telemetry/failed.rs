//! The last failed calls, for the admin page.
//!
//! Anyone who reaches the port can cause failures before its caller is identified. So those have places of their own, and can't
//! displace the failures of known callers.

use std::{
    cmp::Reverse,
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

/// The failed calls that are kept, of all callers together.
pub const MAX_FAILED_CALLS: usize = 50;
/// How many of them can be calls without an identified caller.
const MAX_UNIDENTIFIED: usize = 10;

/// One failed call.
#[derive(Clone, Debug)]
pub struct FailedCall {
    /// When it ended.
    pub ended: SystemTime,
    /// The name of its method.
    pub method: &'static str,
    /// The name of its gRPC code.
    pub code: &'static str,
    /// The name of its reason.
    pub reason: &'static str,
    /// Its id in logs and at ALİM.
    pub request_id: String,
    /// Its caller's name in the callers file.
    pub caller: Option<Arc<str>>,
    /// The peer of its connection.
    pub peer: Option<SocketAddr>,
    /// From its start to its end.
    pub duration: Duration,
}

/// The last failed calls.
#[derive(Debug, Default)]
pub struct FailedCalls(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    identified: VecDeque<FailedCall>,
    unidentified: VecDeque<FailedCall>,
}

impl FailedCalls {
    /// Keeps a call, in place of the oldest one if there are too many.
    pub(super) fn add(&self, call: FailedCall, is_identified: bool) {
        let mut kept = self.0.lock().unwrap_or_else(|held| held.into_inner());
        let (calls, limit) = match is_identified {
            true => (&mut kept.identified, MAX_FAILED_CALLS - MAX_UNIDENTIFIED),
            false => (&mut kept.unidentified, MAX_UNIDENTIFIED),
        };
        if calls.len() == limit {
            calls.pop_front();
        }
        calls.push_back(call);
    }

    /// The calls, the newest first.
    pub fn list(&self) -> Vec<FailedCall> {
        let mut calls: Vec<_> = {
            let kept = self.0.lock().unwrap_or_else(|held| held.into_inner());
            let both = kept.identified.iter().chain(&kept.unidentified);
            both.cloned().collect()
        };
        calls.sort_by_key(|call| Reverse(call.ended));
        calls
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(number: u64) -> FailedCall {
        FailedCall {
            ended: SystemTime::UNIX_EPOCH + Duration::from_secs(number),
            method: "Invoke",
            code: "Unavailable",
            reason: "UPSTREAM_UNAVAILABLE",
            request_id: number.to_string(),
            caller: None,
            peer: None,
            duration: Duration::ZERO,
        }
    }

    #[test]
    fn fifty_calls_are_kept_and_unidentified_callers_displace_only_each_other() {
        let failed = FailedCalls::default();
        for number in 0..100 {
            failed.add(call(number), true);
        }
        for number in 100..1000 {
            failed.add(call(number), false);
        }
        let ids = failed.list().into_iter().map(|call| call.request_id);
        let expected = (990..1000).rev().chain((60..100).rev());
        let expected: Vec<_> = expected.map(|number: u64| number.to_string()).collect();
        assert_eq!(ids.collect::<Vec<_>>(), expected);
    }
}
