//! One memory budget for everything that calls hold: request messages, replies, events, and their copies.
//!
//! Each call has an [`Account`]. It starts with a fixed amount at admission, and grows in steps as bytes arrive. If a request does
//! not fit, it is rejected. If a reply or an event does not fit, it is read later, because it is already paid for. The calls of a
//! connection have a share of the budget, so one connection can't take all of it.
//!
//! Waiting must always end. So one call per connection can exceed the share, and one call of all can use the reserve, which is
//! as large as the largest call. The buffers inside libraries can't be measured. The fixed amount includes those of an idle
//! call, and readers count a chunk several times.

mod account;
mod waiters;

use std::sync::{
    Arc,
    atomic::{AtomicU8, AtomicUsize, Ordering},
};

use tokio::sync::Semaphore;

pub use self::account::Account;
use self::waiters::Waiters;

/// The fixed amount of an admitted call: 22 KiB that libraries allocate for an idle stream, and [`INCLUDED_BYTES`].
pub const ADMISSION_BYTES: usize = 32 * 1024;
/// The bytes of a call's messages that [`ADMISSION_BYTES`] covers.
pub const INCLUDED_BYTES: usize = 8 * 1024;
/// The amount by which an account grows.
const STEP_BYTES: usize = 16 * 1024;
/// The memory of the process without calls: code, runtime, TLS, metrics.
pub const PROCESS_BYTES: usize = 16 * 1024 * 1024;
/// One connection's calls can hold the budget divided by this.
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
    waiters: Waiters,
    /// What the call that uses the reserve has grown by.
    reserve_used: AtomicUsize,
    /// Its one permit allows a call to use the reserve.
    reserve_permit: Arc<Semaphore>,
}

/// The part of the budget for the calls of one connection.
#[derive(Debug)]
pub struct Share {
    budget: Budget,
    used: AtomicUsize,
    waiters: Waiters,
    /// Its one permit allows a call to exceed the share.
    excess_permit: Arc<Semaphore>,
}

/// How close the process is to its memory limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// There is enough memory.
    Normal,
    /// Memory is short. Nothing is kept for callers who do not read it.
    Short,
    /// No call is admitted.
    Full,
}

/// The limit that stops an account from growing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The calls of this connection hold their share.
    #[error(
        "the calls of this connection hold {share} bytes, which is their share of the bridge's memory"
    )]
    Connection {
        /// The size of one connection's share.
        share: usize,
    },
    /// All calls together hold the budget.
    #[error("all calls hold {limit} bytes, which is what MEMORY_LIMIT leaves for them")]
    Budget {
        /// The size of the budget.
        limit: usize,
    },
    /// The process is near its memory limit, for whatever reason.
    #[error("the bridge's process is near its MEMORY_LIMIT")]
    Process,
}

impl Budget {
    /// The budget of a process with `memory_limit` bytes, where one call needs at most `largest_call`. A quarter is left for
    /// memory that the allocator can't use.
    pub fn within(memory_limit: usize, largest_call: usize) -> Self {
        let limit = memory_limit.saturating_sub(PROCESS_BYTES) / 4 * 3;
        Self(Arc::new(Pool {
            limit,
            reserve: largest_call,
            share: (limit / SHARES).max(largest_call),
            used: AtomicUsize::new(0),
            level: AtomicU8::new(Level::Normal as u8),
            waiters: Waiters::default(),
            reserve_used: AtomicUsize::new(0),
            reserve_permit: Arc::new(Semaphore::new(1)),
        }))
    }

    /// A budget that is never used up.
    pub fn unlimited() -> Self {
        Self::within(usize::MAX, 0)
    }

    /// The smallest `memory_limit` with which other calls can continue next to the largest one.
    pub fn least_limit(largest_call: usize) -> usize {
        let budget = largest_call
            .saturating_mul(3)
            .saturating_add(32 * ADMISSION_BYTES);
        PROCESS_BYTES.saturating_add(budget / 3 * 4)
    }

    /// A share for a new connection.
    pub fn new_share(&self) -> Arc<Share> {
        Arc::new(Share {
            budget: self.clone(),
            used: AtomicUsize::new(0),
            waiters: Waiters::default(),
            excess_permit: Arc::new(Semaphore::new(1)),
        })
    }

    /// The bytes that all calls together can hold.
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// The bytes that all calls together hold now.
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// The number of calls that can be open if none of them grows.
    pub fn idle_calls(&self) -> usize {
        (self.0.limit - self.0.reserve.min(self.0.limit)) / ADMISSION_BYTES
    }

    /// Sets how close the process is to its memory limit.
    pub fn set_level(&self, level: Level) {
        self.0.level.store(level as u8, Ordering::Relaxed);
    }

    /// The used fraction of the growth limit; 1 when calls can't grow any more.
    pub fn pressure(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a ratio")]
        let ratio = self.used() as f64 / self.growth_limit().max(1) as f64;
        ratio
    }

    fn is_at_least(&self, level: Level) -> bool {
        self.0.level.load(Ordering::Relaxed) >= level as u8
    }

    /// Calls are admitted below this, so that what is unused of the reserve stays free.
    fn admission_limit(&self) -> usize {
        let unused = self
            .0
            .reserve
            .saturating_sub(self.0.reserve_used.load(Ordering::SeqCst));
        self.0.limit.saturating_sub(unused)
    }

    /// Calls can grow up to this, so that there is space to admit others.
    fn growth_limit(&self) -> usize {
        self.0.limit.saturating_sub(self.0.reserve) / SHARES * (SHARES - 1)
    }

    fn full(&self) -> Full {
        Full::Budget {
            limit: self.0.limit,
        }
    }
}

impl Share {
    /// A new, empty account for one call.
    pub fn open(self: &Arc<Self>) -> Arc<Account> {
        Arc::new(Account::new(Arc::clone(self)))
    }
}

/// Adds `more` to `used` unless the sum exceeds `limit`.
fn add(used: &AtomicUsize, more: usize, limit: usize) -> bool {
    let sum = |used: usize| used.checked_add(more).filter(|sum| *sum <= limit);
    used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, sum)
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const MIB: usize = 1024 * 1024;
    pub(super) const LARGEST: usize = MIB;

    /// A budget of 15 MiB, with a reserve of 1 MiB: calls grow to 12.25 MiB, those of one connection to 1.875 MiB.
    pub(super) fn budget() -> Budget {
        Budget::within(PROCESS_BYTES + 20 * MIB, LARGEST)
    }

    pub(super) fn admitted(share: &Arc<Share>) -> Arc<Account> {
        let account = share.open();
        account.admit().expect("space");
        account
    }

    #[test]
    fn one_connection_can_not_take_the_whole_budget() {
        let budget = budget();
        let (hog, other) = (budget.new_share(), budget.new_share());
        let held: Vec<_> = (0..4).map(|_| admitted(&hog)).collect();
        let full: Vec<_> = held.iter().map(|it| it.try_hold(MIB).is_err()).collect();
        assert_eq!(full, [false, true, true, true]);
        let share = budget.limit() / SHARES;
        assert_eq!(held[1].try_hold(MIB), Err(Full::Connection { share }));
        held[1]
            .try_hold(INCLUDED_BYTES)
            .expect("included at admission");
        admitted(&other).try_hold(MIB).expect("space");
    }

    #[test]
    fn growth_leaves_space_for_admission_and_admission_leaves_the_reserve() {
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
    fn near_the_process_limit_no_call_is_admitted_and_open_ones_continue() {
        let budget = budget();
        let share = budget.new_share();
        let open = admitted(&share);
        budget.set_level(Level::Full);
        assert_eq!(share.open().admit(), Err(Full::Process));
        assert_eq!(
            share.open().try_hold(MIB),
            Err(Full::Process),
            "an account that is not admitted"
        );
        open.try_hold(MIB).expect("space");
        budget.set_level(Level::Short);
        share.open().admit().expect("space");
    }
}
