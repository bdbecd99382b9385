//! One budget of bytes for all that calls hold: request messages, replies, events, and their copies.
//!
//! A call has an [`Account`]. It takes a first step when it is admitted, and grows in steps as bytes come. A request
//! that does not fit is rejected. A reply or an event that does not fit is not read until it does, because it has been paid
//! for. A connection's calls together have a share of the budget, so that one connection can't take all of it.
//!
//! So that waiting always ends, one call of each connection may go beyond the share, and one call of all may use the reserve,
//! which is as large as the largest call. Buffers inside libraries can't be asked: a first step includes what they hold
//! for an idle call, and readers count a chunk several times.

mod account;
mod freed;

use std::sync::{
    Arc,
    atomic::{AtomicU8, AtomicUsize, Ordering},
};

use tokio::sync::Semaphore;

pub use self::account::Account;
use self::freed::Freed;

/// What a call holds from its admission on: 22 KiB that the libraries set aside for an idle stream, and its first bytes.
pub const FIRST_STEP: usize = 32 * 1024;
/// Bytes of a call's messages that the first step covers.
pub const FREE_BYTES: usize = 8 * 1024;
/// What an account grows by.
const STEP: usize = 16 * 1024;
/// The process without calls: code, runtime, TLS, metrics.
pub const BASE: usize = 16 * 1024 * 1024;
/// The part of the budget that one connection's calls may hold.
const SHARES: usize = 8;

/// The budget of one process; clones share it.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    limit: usize,
    reserve: usize,
    share: usize,
    used: AtomicUsize,
    level: AtomicU8,
    freed: Freed,
    pass: Arc<Semaphore>,
}

/// The part of the budget that the calls of one connection have together.
#[derive(Debug)]
pub struct Share {
    budget: Budget,
    used: AtomicUsize,
    freed: Freed,
    pass: Arc<Semaphore>,
}

/// How near the process is to its memory limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// There is room.
    Normal,
    /// Memory is short: nothing may be kept for callers who do not read it.
    Short,
    /// No call is admitted.
    Full,
}

/// What does not let an account grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The calls of this connection hold their share.
    #[error(
        "the calls of this connection hold {share} bytes, which is their share of the bridge's memory"
    )]
    Connection {
        /// Bytes of one connection's share.
        share: usize,
    },
    /// All calls together hold the budget.
    #[error("all calls hold {limit} bytes, which is what MEMORY_LIMIT leaves for them")]
    Budget {
        /// Bytes of the budget.
        limit: usize,
    },
    /// The process is near its limit, whatever it is that holds the memory.
    #[error("the bridge's process is near its MEMORY_LIMIT")]
    Process,
}

impl Budget {
    /// The budget of a process that may use `memory_limit` bytes, where one call needs at most `largest_call`. A quarter is left to
    /// what the allocator can't use.
    pub fn within(memory_limit: usize, largest_call: usize) -> Self {
        let limit = memory_limit.saturating_sub(BASE) / 4 * 3;
        Self(Arc::new(Pool {
            limit,
            reserve: largest_call,
            share: (limit / SHARES).max(largest_call),
            used: AtomicUsize::new(0),
            level: AtomicU8::new(Level::Normal as u8),
            freed: Freed::default(),
            pass: Arc::new(Semaphore::new(1)),
        }))
    }

    /// A budget that is never used up.
    pub fn unlimited() -> Self {
        Self::within(usize::MAX, 0)
    }

    /// The least `memory_limit` for which calls can go on beside the largest one.
    pub fn least_limit(largest_call: usize) -> usize {
        let budget = largest_call
            .saturating_mul(3)
            .saturating_add(32 * FIRST_STEP);
        BASE.saturating_add(budget / 3 * 4)
    }

    /// The share of a new connection.
    pub fn new_share(&self) -> Arc<Share> {
        Arc::new(Share {
            budget: self.clone(),
            used: AtomicUsize::new(0),
            freed: Freed::default(),
            pass: Arc::new(Semaphore::new(1)),
        })
    }

    /// Bytes that calls may hold together.
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// Bytes that they hold.
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Calls that can be open at a time while each holds its first step alone.
    pub fn idle_calls(&self) -> usize {
        (self.0.limit - self.0.reserve.min(self.0.limit)) / FIRST_STEP
    }

    /// Says how near the process is to its limit.
    pub fn set_level(&self, level: Level) {
        self.0.level.store(level as u8, Ordering::Relaxed);
    }

    /// The part that is in use of what calls may grow to, 1 when there is no room.
    pub fn pressure(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a ratio")]
        let ratio = self.used() as f64 / self.growth_limit().max(1) as f64;
        ratio
    }

    fn is_at_least(&self, level: Level) -> bool {
        self.0.level.load(Ordering::Relaxed) >= level as u8
    }

    /// What calls that are admitted may hold together, so that the reserve stays.
    fn admission_limit(&self) -> usize {
        self.0.limit.saturating_sub(self.0.reserve)
    }

    /// What calls may grow to together, so that there is room for first steps.
    fn growth_limit(&self) -> usize {
        self.admission_limit() / SHARES * (SHARES - 1)
    }

    fn full(&self) -> Full {
        Full::Budget {
            limit: self.0.limit,
        }
    }
}

impl Share {
    /// The account of a new call, which holds nothing yet.
    pub fn open(self: &Arc<Self>) -> Arc<Account> {
        Arc::new(Account::new(Arc::clone(self)))
    }
}

/// Adds to `used` unless that would exceed `limit`.
fn add(used: &AtomicUsize, more: usize, limit: usize) -> bool {
    let sum = used.fetch_add(more, Ordering::SeqCst).saturating_add(more);
    if sum > limit {
        used.fetch_sub(more, Ordering::SeqCst);
    }
    sum <= limit
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const MIB: usize = 1024 * 1024;
    pub(super) const LARGEST: usize = MIB;

    /// A budget of 15 MiB, with a reserve of 1 MiB: calls grow to 12.25 MiB, those of one connection to 1.875 MiB.
    pub(super) fn budget() -> Budget {
        Budget::within(BASE + 20 * MIB, LARGEST)
    }

    pub(super) fn admitted(share: &Arc<Share>) -> Arc<Account> {
        let account = share.open();
        account.admit().expect("room");
        account
    }

    #[test]
    fn one_connection_can_not_take_what_others_need() {
        let budget = budget();
        let (hog, other) = (budget.new_share(), budget.new_share());
        let held: Vec<_> = (0..4).map(|_| admitted(&hog)).collect();
        let full: Vec<_> = held.iter().map(|it| it.try_hold(MIB).is_err()).collect();
        assert_eq!(full, [false, true, true, true]);
        let share = budget.limit() / SHARES;
        assert_eq!(held[1].try_hold(MIB), Err(Full::Connection { share }));
        held[1]
            .try_hold(FREE_BYTES)
            .expect("its first step is its own");
        admitted(&other).try_hold(MIB).expect("room");
    }

    #[test]
    fn calls_that_have_grown_leave_room_for_first_steps_and_those_for_the_reserve() {
        let budget = budget();
        let large: Vec<_> = (0..20).map(|_| admitted(&budget.new_share())).collect();
        let full = Full::Budget {
            limit: budget.limit(),
        };
        let grown = large.iter().filter(|it| it.try_hold(MIB) == Ok(())).count();
        assert_eq!(grown, 11);
        assert_eq!(large[19].try_hold(MIB), Err(full));
        assert!(budget.pressure() > 0.9, "{}", budget.pressure());
        let mut small: Vec<_> = Vec::new();
        let share = budget.new_share();
        let rejected = loop {
            let account = share.open();
            match account.admit() {
                Ok(()) => small.push(account),
                Err(rejected) => break rejected,
            }
        };
        assert_eq!(rejected, full);
        assert!(small.len() > 50, "{}", small.len());
        assert!(budget.used() <= budget.limit() - LARGEST);
    }

    #[test]
    fn near_the_process_limit_no_call_is_admitted_and_those_admitted_go_on() {
        let budget = budget();
        let share = budget.new_share();
        let open = admitted(&share);
        budget.set_level(Level::Full);
        assert_eq!(share.open().admit(), Err(Full::Process));
        assert_eq!(
            share.open().try_hold(MIB),
            Err(Full::Process),
            "a head that waits"
        );
        open.try_hold(MIB).expect("room");
        budget.set_level(Level::Short);
        share.open().admit().expect("room");
    }
}
