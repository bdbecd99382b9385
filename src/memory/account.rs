//! One call's part of the budget.

use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::sync::OwnedSemaphorePermit;

use super::{ADMISSION_BYTES, Budget, Full, INCLUDED_BYTES, Level, STEP_BYTES, Share, add};

/// The memory that one call holds; dropping it releases all of it. Only one task at a time calls it.
#[derive(Debug)]
pub struct Account {
    share: Arc<Share>,
    is_admitted: AtomicBool,
    held: AtomicUsize,
    permits: Mutex<Permits>,
}

/// The permits to exceed a limit. The call keeps each of them only while it needs it.
#[derive(Debug, Default)]
struct Permits {
    exceed_share: Option<OwnedSemaphorePermit>,
    use_reserve: Option<OwnedSemaphorePermit>,
}

impl Account {
    /// An account without a limit.
    pub fn unlimited() -> Arc<Self> {
        Budget::unlimited().new_share().open()
    }

    /// An empty account of `share`.
    pub(super) fn new(share: Arc<Share>) -> Self {
        Self {
            share,
            is_admitted: AtomicBool::new(false),
            held: AtomicUsize::new(0),
            permits: Mutex::default(),
        }
    }

    /// Takes the fixed amount of an admitted call.
    ///
    /// # Errors
    ///
    /// - [`Full::Process`] or [`Full::Budget`] when there is no space.
    pub fn admit(&self) -> Result<(), Full> {
        let budget = self.budget();
        if budget.is_at_least(Level::Full) {
            return Err(Full::Process);
        }
        if !add(&budget.0.used, ADMISSION_BYTES, budget.admission_limit()) {
            return Err(budget.full());
        }
        self.is_admitted.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Grows to hold at least `bytes`, if there is space. Never waits.
    ///
    /// # Errors
    ///
    /// - [`Full::Connection`] or [`Full::Budget`] when there is no space; the account does not change.
    /// - [`Full::Process`] when the call is not admitted and the process is near its limit.
    pub fn try_hold(&self, bytes: usize) -> Result<(), Full> {
        let (wanted, held) = (steps(bytes), self.held.load(Ordering::Relaxed));
        match wanted > held {
            true => self.grow(wanted - held),
            false => Ok(()),
        }
    }

    /// Grows to hold at least `bytes`. Waits until there is space.
    pub async fn hold(&self, bytes: usize) {
        while self.hold_or_reject(bytes).await.is_err() {
            let budget = &self.budget().0;
            tokio::select! {
                () = budget.waiters.wait(|| self.try_hold(bytes).is_ok()) => {}
                permit = Arc::clone(&budget.reserve_permit).acquire_owned() => {
                    self.permits().use_reserve = permit.ok();
                }
            }
        }
    }

    /// Grows to hold at least `bytes`. Waits for other calls of its connection, but not for other connections.
    ///
    /// # Errors
    ///
    /// - [`Full::Budget`] when all calls together leave no space.
    /// - [`Full::Process`] when the call is not admitted and the process is near its limit.
    pub async fn hold_or_reject(&self, bytes: usize) -> Result<(), Full> {
        loop {
            match self.try_hold(bytes) {
                Err(Full::Connection { .. }) => {}
                outcome => return outcome,
            }
            let fits = || !matches!(self.try_hold(bytes), Err(Full::Connection { .. }));
            tokio::select! {
                () = self.share.waiters.wait(fits) => {}
                permit = Arc::clone(&self.share.excess_permit).acquire_owned() => {
                    self.permits().exceed_share = permit.ok();
                }
            }
        }
    }

    /// Releases what the account holds beyond `bytes`.
    pub fn release_to(&self, bytes: usize) {
        let (wanted, held) = (steps(bytes), self.held.load(Ordering::Relaxed));
        if wanted < held {
            self.held.store(wanted, Ordering::Relaxed);
            self.release(held - wanted);
        }
    }

    /// Whether the process is short of memory.
    pub fn is_memory_short(&self) -> bool {
        self.budget().is_at_least(Level::Short)
    }

    /// The bytes that the account holds.
    pub fn held(&self) -> usize {
        let first = match self.is_admitted.load(Ordering::Relaxed) {
            true => ADMISSION_BYTES,
            false => 0,
        };
        first + self.held.load(Ordering::Relaxed)
    }

    fn grow(&self, more: usize) -> Result<(), Full> {
        let (share, budget) = (&self.share, self.budget());
        if budget.is_at_least(Level::Full) && !self.is_admitted.load(Ordering::Relaxed) {
            return Err(Full::Process);
        }
        let permits = self.permits();
        let share_limit = match permits.exceed_share.is_some() || permits.use_reserve.is_some() {
            true => usize::MAX,
            false => budget.0.share,
        };
        if !add(&share.used, more, share_limit) {
            return Err(Full::Connection {
                share: budget.0.share,
            });
        }
        let limit = match permits.use_reserve.is_some() {
            true => budget.0.limit,
            false => budget.growth_limit(),
        };
        if !add(&budget.0.used, more, limit) {
            share.used.fetch_sub(more, Ordering::SeqCst);
            return Err(budget.full());
        }
        if permits.use_reserve.is_some() {
            budget.0.reserve_used.fetch_add(more, Ordering::SeqCst);
        }
        self.held.fetch_add(more, Ordering::Relaxed);
        Ok(())
    }

    fn release(&self, bytes: usize) {
        let (share, budget) = (&self.share, self.budget());
        let share_used = share.used.fetch_sub(bytes, Ordering::SeqCst) - bytes;
        let used = budget.0.used.fetch_sub(bytes, Ordering::SeqCst) - bytes;
        let mut permits = self.permits();
        permits
            .exceed_share
            .take_if(|_| share_used <= budget.0.share);
        if permits.use_reserve.is_some() {
            let in_use = &budget.0.reserve_used;
            let is_over = used <= budget.growth_limit();
            let left = in_use.load(Ordering::SeqCst).saturating_sub(bytes);
            in_use.store(if is_over { 0 } else { left }, Ordering::SeqCst);
            permits.use_reserve.take_if(|_| is_over);
        }
        drop(permits);
        share.waiters.wake_one();
        budget.0.waiters.wake_one();
    }

    fn budget(&self) -> &Budget {
        &self.share.budget
    }

    fn permits(&self) -> MutexGuard<'_, Permits> {
        self.permits.lock().unwrap_or_else(|held| held.into_inner())
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.release_to(0);
        if *self.is_admitted.get_mut() {
            let budget = &self.budget().0;
            budget.used.fetch_sub(ADMISSION_BYTES, Ordering::SeqCst);
            budget.waiters.wake_one();
        }
    }
}

/// The size of the steps that cover `bytes`, in addition to [`ADMISSION_BYTES`].
fn steps(bytes: usize) -> usize {
    bytes
        .saturating_sub(INCLUDED_BYTES)
        .div_ceil(STEP_BYTES)
        .saturating_mul(STEP_BYTES)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{task::JoinSet, time::timeout};

    use super::*;
    use crate::memory::tests::{LARGEST, MIB, admitted, budget};

    const TIMEOUT: Duration = Duration::from_secs(60);

    #[test]
    fn an_account_grows_in_steps_and_releases_all() {
        let budget = budget();
        let account = budget.new_share().open();
        assert_eq!(budget.used(), 0);
        account.admit().expect("space");
        account.try_hold(INCLUDED_BYTES).expect("covered");
        assert_eq!(
            (budget.used(), account.held()),
            (ADMISSION_BYTES, ADMISSION_BYTES)
        );
        account.try_hold(INCLUDED_BYTES + 1).expect("space");
        assert_eq!(budget.used(), ADMISSION_BYTES + STEP_BYTES);
        account.try_hold(MIB).expect("space");
        account.release_to(INCLUDED_BYTES + STEP_BYTES);
        assert_eq!(account.held(), ADMISSION_BYTES + STEP_BYTES);
        account.release_to(MIB);
        assert_eq!(
            budget.used(),
            ADMISSION_BYTES + STEP_BYTES,
            "releasing to more than it holds changes nothing"
        );
        drop(account);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_waits_for_the_share_continues_when_another_call_ends() {
        let share = budget().new_share();
        let (first, second, third) = (admitted(&share), admitted(&share), admitted(&share));
        first.try_hold(MIB).expect("space");
        second
            .hold_or_reject(MIB)
            .await
            .expect("one call can exceed the share");
        let waiting = tokio::spawn({
            let third = Arc::clone(&third);
            async move { third.hold_or_reject(MIB).await }
        });
        tokio::time::sleep(TIMEOUT).await;
        assert!(!waiting.is_finished());
        drop(second);
        let held = timeout(TIMEOUT, waiting).await.expect("woken");
        held.expect("no panic").expect("space");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_rejected_when_other_connections_hold_the_budget() {
        let budget = budget();
        let others: Vec<_> = (0..12).map(|_| admitted(&budget.new_share())).collect();
        let held = others.iter().filter(|it| it.try_hold(MIB).is_ok()).count();
        assert_eq!(held, 11);
        let account = admitted(&budget.new_share());
        let full = Full::Budget {
            limit: budget.limit(),
        };
        assert_eq!(account.hold_or_reject(2 * MIB).await, Err(full));
    }

    /// Each call grows to the maximum in small steps and holds it for a while. Without the reserve, all would wait for each
    /// other.
    #[tokio::test(start_paused = true)]
    async fn calls_that_wait_for_memory_never_deadlock() {
        let budget = budget();
        let shares: Vec<_> = (0..10).map(|_| budget.new_share()).collect();
        let mut calls = JoinSet::new();
        for call in 0..200 {
            let (account, budget) = (admitted(&shares[call % shares.len()]), budget.clone());
            calls.spawn(async move {
                for bytes in (0..=LARGEST).step_by(STEP_BYTES) {
                    account.hold(bytes).await;
                    assert!(budget.used() <= budget.limit(), "{}", budget.used());
                    tokio::task::yield_now().await;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            });
        }
        let all = timeout(TIMEOUT, async {
            while let Some(call) = calls.join_next().await {
                call.expect("no panic");
            }
        });
        all.await.expect("no call waits without end");
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_are_admitted_while_one_uses_the_reserve() {
        let budget = budget();
        let others: Vec<_> = (0..12).map(|_| admitted(&budget.new_share())).collect();
        let held = others.iter().filter(|it| it.try_hold(MIB).is_ok()).count();
        assert_eq!(held, 11);
        let user = admitted(&budget.new_share());
        let free = |budget: &Budget| (budget.admission_limit() - budget.used()) / ADMISSION_BYTES;
        let before = free(&budget);
        user.hold(MIB).await;
        assert!(free(&budget) >= before, "{} of {before}", free(&budget));
        let share = budget.new_share();
        let admitted: Vec<_> = (0..before).map(|_| admitted(&share)).collect();
        assert!(budget.used() <= budget.limit(), "{}", budget.used());
        drop((admitted, others, user));
        assert_eq!(budget.0.reserve_used.load(Ordering::SeqCst), 0);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_is_dropped_releases_everything() {
        let budget = budget();
        let share = budget.new_share();
        let (first, second) = (admitted(&share), admitted(&share));
        first.try_hold(MIB).expect("space");
        second.hold(MIB).await;
        let third = admitted(&share);
        let waited = timeout(TIMEOUT, third.hold(MIB)).await;
        assert!(waited.is_err(), "there was space for three");
        drop((first, second));
        timeout(TIMEOUT, third.hold(MIB))
            .await
            .expect("space again");
        drop(third);
        assert_eq!(budget.used(), 0);
    }
}
