//! What one call holds of the budget.

use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::sync::OwnedSemaphorePermit;

use super::{Budget, FIRST_STEP, FREE_BYTES, Full, Level, STEP, Share, add};

/// What one call holds; dropping it gives all of it back. Its owner calls it from one task at a time.
#[derive(Debug)]
pub struct Account {
    share: Arc<Share>,
    is_admitted: AtomicBool,
    held: AtomicUsize,
    passes: Mutex<Passes>,
}

/// The rights to go beyond a limit that a call has while it needs them.
#[derive(Debug, Default)]
struct Passes {
    share: Option<OwnedSemaphorePermit>,
    budget: Option<OwnedSemaphorePermit>,
}

impl Account {
    /// An account of a budget that is never used up.
    pub fn unlimited() -> Arc<Self> {
        Budget::unlimited().new_share().open()
    }

    /// An account of `share` that holds nothing yet.
    pub(super) fn new(share: Arc<Share>) -> Self {
        Self {
            share,
            is_admitted: AtomicBool::new(false),
            held: AtomicUsize::new(0),
            passes: Mutex::default(),
        }
    }

    /// Takes the first step.
    ///
    /// # Errors
    ///
    /// - [`Full::Process`] or [`Full::Budget`] when there is no room.
    pub fn admit(&self) -> Result<(), Full> {
        let budget = self.budget();
        if budget.is_at_least(Level::Full) {
            return Err(Full::Process);
        }
        if !add(&budget.0.used, FIRST_STEP, budget.admission_limit()) {
            return Err(budget.full());
        }
        self.is_admitted.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Holds `bytes` from now on, if there is room for as many as it does not hold yet.
    ///
    /// # Errors
    ///
    /// - [`Full::Connection`] or [`Full::Budget`]; it holds what it held then.
    pub fn try_hold(&self, bytes: usize) -> Result<(), Full> {
        let (wanted, held) = (steps(bytes), self.held.load(Ordering::Relaxed));
        match wanted > held {
            true => self.grow(wanted - held),
            false => Ok(()),
        }
    }

    /// Holds `bytes` from now on; waits until there is room.
    pub async fn hold(&self, bytes: usize) {
        while self.hold_or_reject(bytes).await.is_err() {
            let budget = &self.budget().0;
            tokio::select! {
                () = budget.freed.wait(|| self.try_hold(bytes).is_ok()) => {}
                pass = Arc::clone(&budget.pass).acquire_owned() => self.passes().budget = pass.ok(),
            }
        }
    }

    /// Holds `bytes` from now on; waits for the other calls of its connection, but not for those of others.
    ///
    /// # Errors
    ///
    /// - [`Full::Budget`] when all calls together leave no room.
    pub async fn hold_or_reject(&self, bytes: usize) -> Result<(), Full> {
        loop {
            match self.try_hold(bytes) {
                Err(Full::Connection { .. }) => {}
                outcome => return outcome,
            }
            let fits = || !matches!(self.try_hold(bytes), Err(Full::Connection { .. }));
            tokio::select! {
                () = self.share.freed.wait(fits) => {}
                pass = Arc::clone(&self.share.pass).acquire_owned() => self.passes().share = pass.ok(),
            }
        }
    }

    /// Gives back what it holds beyond `bytes`.
    pub fn release_to(&self, bytes: usize) {
        let (wanted, held) = (steps(bytes), self.held.load(Ordering::Relaxed));
        if wanted < held {
            self.held.store(wanted, Ordering::Relaxed);
            self.give_back(held - wanted);
        }
    }

    /// Whether memory is short, whoever holds it.
    pub fn is_memory_short(&self) -> bool {
        self.budget().is_at_least(Level::Short)
    }

    /// Bytes that it holds.
    pub fn held(&self) -> usize {
        let first = match self.is_admitted.load(Ordering::Relaxed) {
            true => FIRST_STEP,
            false => 0,
        };
        first + self.held.load(Ordering::Relaxed)
    }

    fn grow(&self, more: usize) -> Result<(), Full> {
        let (share, budget) = (&self.share, self.budget());
        if budget.is_at_least(Level::Full) && !self.is_admitted.load(Ordering::Relaxed) {
            return Err(Full::Process);
        }
        let passes = self.passes();
        let share_limit = match passes.share.is_some() || passes.budget.is_some() {
            true => usize::MAX,
            false => budget.0.share,
        };
        if !add(&share.used, more, share_limit) {
            return Err(Full::Connection {
                share: budget.0.share,
            });
        }
        let limit = match passes.budget.is_some() {
            true => budget.0.limit,
            false => budget.growth_limit(),
        };
        if !add(&budget.0.used, more, limit) {
            share.used.fetch_sub(more, Ordering::SeqCst);
            return Err(budget.full());
        }
        self.held.fetch_add(more, Ordering::Relaxed);
        Ok(())
    }

    fn give_back(&self, bytes: usize) {
        let (share, budget) = (&self.share, self.budget());
        let share_used = share.used.fetch_sub(bytes, Ordering::SeqCst) - bytes;
        let used = budget.0.used.fetch_sub(bytes, Ordering::SeqCst) - bytes;
        let mut passes = self.passes();
        passes.share.take_if(|_| share_used <= budget.0.share);
        passes.budget.take_if(|_| used <= budget.growth_limit());
        drop(passes);
        share.freed.wake();
        budget.0.freed.wake();
    }

    fn budget(&self) -> &Budget {
        &self.share.budget
    }

    fn passes(&self) -> MutexGuard<'_, Passes> {
        self.passes.lock().unwrap_or_else(|held| held.into_inner())
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.release_to(0);
        if *self.is_admitted.get_mut() {
            let budget = &self.budget().0;
            budget.used.fetch_sub(FIRST_STEP, Ordering::SeqCst);
            budget.freed.wake();
        }
    }
}

/// What an account holds for so many bytes, beyond its first step.
fn steps(bytes: usize) -> usize {
    bytes
        .saturating_sub(FREE_BYTES)
        .div_ceil(STEP)
        .saturating_mul(STEP)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{task::JoinSet, time::timeout};

    use super::*;
    use crate::memory::tests::{LARGEST, MIB, admitted, budget};

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn a_call_grows_in_steps_and_gives_all_back() {
        let budget = budget();
        let account = budget.new_share().open();
        assert_eq!(budget.used(), 0);
        account.admit().expect("room");
        account.try_hold(FREE_BYTES).expect("covered");
        assert_eq!((budget.used(), account.held()), (FIRST_STEP, FIRST_STEP));
        account.try_hold(FREE_BYTES + 1).expect("room");
        assert_eq!(budget.used(), FIRST_STEP + STEP);
        account.try_hold(MIB).expect("room");
        account.release_to(FREE_BYTES + STEP);
        assert_eq!(account.held(), FIRST_STEP + STEP);
        account.release_to(MIB);
        assert_eq!(
            budget.used(),
            FIRST_STEP + STEP,
            "it holds no more than before"
        );
        drop(account);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_its_connection_goes_on_when_another_call_of_it_ends() {
        let share = budget().new_share();
        let (first, second, third) = (admitted(&share), admitted(&share), admitted(&share));
        first.try_hold(MIB).expect("room");
        second
            .hold_or_reject(MIB)
            .await
            .expect("one may go beyond the share");
        let waiting = tokio::spawn({
            let third = Arc::clone(&third);
            async move { third.hold_or_reject(MIB).await }
        });
        tokio::time::sleep(PATIENCE).await;
        assert!(!waiting.is_finished());
        drop(second);
        let held = timeout(PATIENCE, waiting).await.expect("woken");
        held.expect("no panic").expect("room");
    }

    #[tokio::test(start_paused = true)]
    async fn what_can_not_grow_beside_the_calls_of_others_is_rejected_where_it_may_be() {
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

    /// Each call needs as much as one may, comes to it by small steps, and holds it for a while: without the reserve, all
    /// would wait for each other.
    #[tokio::test(start_paused = true)]
    async fn waiting_always_ends() {
        let budget = budget();
        let shares: Vec<_> = (0..10).map(|_| budget.new_share()).collect();
        let mut calls = JoinSet::new();
        for call in 0..200 {
            let (account, budget) = (admitted(&shares[call % shares.len()]), budget.clone());
            calls.spawn(async move {
                for bytes in (0..=LARGEST).step_by(STEP) {
                    account.hold(bytes).await;
                    assert!(budget.used() <= budget.limit(), "{}", budget.used());
                    tokio::task::yield_now().await;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            });
        }
        let all = timeout(PATIENCE, async {
            while let Some(call) = calls.join_next().await {
                call.expect("no panic");
            }
        });
        all.await.expect("no call waits without end");
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_leaves_while_it_waits_leaves_nothing_behind() {
        let budget = budget();
        let share = budget.new_share();
        let (first, second) = (admitted(&share), admitted(&share));
        first.try_hold(MIB).expect("room");
        second.hold(MIB).await;
        let third = admitted(&share);
        let waited = timeout(PATIENCE, third.hold(MIB)).await;
        assert!(waited.is_err(), "there was room for three");
        drop((first, second));
        timeout(PATIENCE, third.hold(MIB))
            .await
            .expect("room again");
        drop(third);
        assert_eq!(budget.used(), 0);
    }
}
