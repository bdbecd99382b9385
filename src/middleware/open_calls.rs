//! The calls that are open, so that each can be ended from outside.
//!
//! hyper does not poll an answer whose caller has stopped reading, so nothing inside the answer can end such a call. The
//! watchdog looks at all of them: one that should have ended is aborted, which resets its HTTP/2 stream and drops all
//! that it holds. Its permit is free only then.

use std::{
    cmp::Reverse,
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use slab::Slab;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit},
    time::{Instant, interval},
};

use crate::{
    admission::Permit,
    call::deadline::Deadline,
    callers::{Caller, Slot},
    inbound::{Abort, Connection, OpenRequest},
    memory::Account,
    status::{Credentials, Failure},
    telemetry::Record,
};

/// What a caller who reads has for its status, before its call is aborted; a drain that cuts waits longer than this.
const GRACE: Duration = Duration::from_millis(200);
/// Between two looks at all calls.
const LOOK: Duration = Duration::from_millis(100);
/// How long a caller may do nothing while the bridge is short of memory.
const STALL: Duration = Duration::from_secs(5);
/// What h2 keeps of an answer that is not read, beside what the call's account holds.
const SEND_BUFFER: usize = 64 * 1024;

/// All open calls of one server; clones share them.
#[derive(Clone, Debug, Default)]
pub struct OpenCalls(Arc<Calls>);

#[derive(Debug, Default)]
struct Calls {
    open: Mutex<Slab<Arc<OpenCall>>>,
    /// Notified when the last one has ended.
    ended: Notify,
}

/// One call, from its head to the end of its answer's body.
#[derive(Debug)]
pub(crate) struct OpenCall {
    pub(crate) record: Record,
    /// What the call holds of the bridge's memory.
    pub(crate) memory: Arc<Account>,
    /// Who calls, where the callers file says it.
    pub(crate) caller: Option<Arc<Caller>>,
    end: Deadline,
    abort: Abort,
    request: OpenRequest,
    forced: OnceLock<Instant>,
    waker: AtomicWaker,
    waits_for_caller: AtomicBool,
    moved: AtomicUsize,
    progress: Mutex<Option<Progress>>,
}

/// What was last seen to have moved, and since when.
#[derive(Clone, Copy, Debug)]
struct Progress {
    moved: usize,
    since: Instant,
}

impl OpenCalls {
    /// Adds a call of `caller` that must have ended at `end`.
    pub(crate) fn open(
        &self,
        record: Record,
        caller: Option<Arc<Caller>>,
        end: Deadline,
        connection: &Arc<Connection>,
        is_call: bool,
    ) -> CallGuard {
        let call = Arc::new(OpenCall {
            record,
            memory: connection.new_account(),
            caller,
            end,
            abort: connection.new_abort(),
            request: connection.open_request(is_call),
            forced: OnceLock::new(),
            waker: AtomicWaker::new(),
            waits_for_caller: AtomicBool::new(true),
            moved: AtomicUsize::new(0),
            progress: Mutex::new(None),
        });
        CallGuard {
            key: self.lock().insert(Arc::clone(&call)),
            calls: self.clone(),
            call,
            permit: None,
            slot: None,
            watch: None,
        }
    }

    /// EndConditions all open calls, each with a status; those whose callers do not read it are aborted.
    pub fn force_end(&self) {
        for (_, call) in &*self.lock() {
            let _ = call.forced.set(Instant::now());
            call.waker.wake();
        }
    }

    /// Waits until no call is open: each has its record then.
    pub async fn ended(&self) {
        loop {
            let ended = self.0.ended.notified();
            if self.lock().is_empty() {
                return;
            }
            ended.await;
        }
    }

    /// Aborts each call that should have ended, until it is dropped.
    pub async fn watch(self) {
        let mut looks = interval(LOOK);
        loop {
            let now = looks.tick().await;
            let overdue: Vec<_> = {
                let calls = self.lock();
                let overdue = calls.iter().filter(|(_, call)| call.overdue(now).is_some());
                overdue.map(|(_, call)| Arc::clone(call)).collect()
            };
            for call in overdue {
                call.abort(now);
            }
        }
    }

    /// Aborts those that hold most among the calls whose caller does nothing, until `bytes` are given back; says how many.
    pub fn abort_stalled(&self, bytes: usize) -> usize {
        let now = Instant::now();
        let mut stalled: Vec<_> = {
            let calls = self.lock();
            let stalled = calls.iter().filter(|(_, call)| call.is_stalled(now));
            stalled.map(|(_, call)| Arc::clone(call)).collect()
        };
        stalled.sort_by_key(|call| Reverse(call.memory.held()));
        let mut given_back = 0;
        let enough = stalled.iter().take_while(|call| {
            let is_short = given_back < bytes;
            given_back += call.memory.held() + SEND_BUFFER;
            is_short
        });
        let enough: Vec<_> = enough.collect();
        for call in &enough {
            call.abort_for(&Failure::CallerStalled);
        }
        enough.len()
    }

    fn lock(&self) -> MutexGuard<'_, Slab<Arc<OpenCall>>> {
        let open = self.0.open.lock();
        open.unwrap_or_else(|held| held.into_inner())
    }
}

impl OpenCall {
    /// Whether the drain's time is up.
    pub(crate) fn is_forced(&self) -> bool {
        self.forced.get().is_some()
    }

    /// Wakes the task of `cx` when the drain's time is up. One task at a time may wait.
    pub(crate) fn poll_forced(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        match self.is_forced() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Waits until the drain's time is up.
    pub(crate) async fn forced(&self) {
        poll_fn(|cx| self.poll_forced(cx)).await;
    }

    /// Notes that the request's message is whole.
    pub(crate) fn message_is_whole(&self) {
        self.waits_for_caller(false);
        self.request.message_is_whole();
    }

    /// Notes whether it is for the caller to send or to read more.
    pub(crate) fn waits_for_caller(&self, waits: bool) {
        self.waits_for_caller.store(waits, Ordering::Relaxed);
    }

    /// Notes that so many bytes have come from the caller, or gone to it. One task at a time calls this.
    pub(crate) fn moved(&self, bytes: usize) {
        let moved = self.moved.load(Ordering::Relaxed);
        self.moved
            .store(moved.wrapping_add(bytes), Ordering::Relaxed);
    }

    /// Whether the caller has neither sent nor read anything for [`STALL`], by what was seen at the looks before.
    fn is_stalled(&self, now: Instant) -> bool {
        let progress = self.progress.lock();
        let mut progress = progress.unwrap_or_else(|held| held.into_inner());
        let moved = self.moved.load(Ordering::Relaxed);
        if !self.waits_for_caller.load(Ordering::Relaxed) {
            *progress = None;
            return false;
        }
        let last = progress.filter(|last| last.moved == moved);
        let since = last.map_or(now, |last| last.since);
        *progress = Some(Progress { moved, since });
        since + STALL <= now
    }

    /// Why the call should not be open any more.
    fn overdue(&self, now: Instant) -> Option<Failure> {
        let is_over = |at: Instant| at + GRACE <= now;
        match self.forced.get() {
            Some(at) if is_over(*at) => Some(Failure::DrainTimeout),
            _ if is_over(self.end.at) => Some(Failure::DeadlineExceeded(self.end.kind)),
            _ => None,
        }
    }

    /// Aborts the call. The caller may never learn why, but the record says it.
    fn abort(&self, now: Instant) {
        match self.overdue(now) {
            Some(failure) => self.abort_for(&failure),
            None => self.abort.abort(),
        }
    }

    fn abort_for(&self, failure: &Failure) {
        self.record
            .aborted(failure.code() as i32, failure.reason(Credentials::Service));
        self.abort.abort();
    }
}

/// Keeps a call among the open ones, with what it is admitted by; held to the end of its answer's body.
#[derive(Debug)]
pub(crate) struct CallGuard {
    calls: OpenCalls,
    key: usize,
    call: Arc<OpenCall>,
    permit: Option<Permit>,
    slot: Option<Slot>,
    watch: Option<OwnedSemaphorePermit>,
}

impl CallGuard {
    /// The call.
    pub(crate) fn call(&self) -> &Arc<OpenCall> {
        &self.call
    }

    /// Holds the bridge's permit, and the caller's slot, as long as the call is open.
    pub(crate) fn holds(&mut self, permit: Permit, slot: Option<Slot>) {
        (self.permit, self.slot) = (Some(permit), slot);
    }

    /// Holds one of the connection's watches as long as the call is open.
    pub(crate) fn holds_watch(&mut self, watch: OwnedSemaphorePermit) {
        self.watch = Some(watch);
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        let mut open = self.calls.lock();
        open.remove(self.key);
        if open.is_empty() {
            self.calls.0.ended.notify_waiters();
        }
    }
}
