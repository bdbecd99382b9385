//! The registry of open calls, and the watchdog that aborts them. `report` lists them for the admin page.
//!
//! If a caller stops reading, hyper stops polling the response body, so the body cannot end the call itself. The
//! watchdog checks all open calls and aborts those that are overdue. An abort resets the HTTP/2 stream and drops everything
//! that the call holds. The call's permit is released only then.

mod report;

use std::{
    cmp::Reverse,
    future::poll_fn,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

pub use self::report::{OpenCallView, Report, State};
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

/// The time that a caller who still reads has to receive its status before the abort. A forced drain waits longer than this.
const GRACE: Duration = Duration::from_millis(200);
/// How often the watchdog checks all calls.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// While memory is short, a caller is stalled after this time without progress.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);
/// The unread part of a response that h2 buffers, in addition to what the call's account holds.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// All open calls of one server; clones share them.
#[derive(Clone, Debug, Default)]
pub struct OpenCalls(Arc<Calls>);

#[derive(Debug, Default)]
struct Calls {
    open: Mutex<Slab<Arc<OpenCall>>>,
    opened: AtomicU64,
    /// Notified when the last one has ended.
    ended: Notify,
    /// When it was last logged that the bridge is full.
    warned: Mutex<Option<Instant>>,
}

/// One call, from the request head to the end of the response body.
#[derive(Debug)]
pub(crate) struct OpenCall {
    /// Its number since the start. Unlike a request id, no caller can choose it.
    id: u64,
    pub(crate) record: Record,
    /// The call's part of the memory budget.
    pub(crate) memory: Arc<Account>,
    /// The caller, if the callers file identifies it.
    pub(crate) caller: Option<Arc<Caller>>,
    end: Deadline,
    abort: Abort,
    aborted: AtomicBool,
    request: OpenRequest,
    peer: SocketAddr,
    is_call: bool,
    forced: OnceLock<Forced>,
    waker: AtomicWaker,
    waits_for_caller: AtomicBool,
    transferred_bytes: AtomicUsize,
    progress: Mutex<Option<Progress>>,
}

/// When a call is ended from outside, and why.
#[derive(Clone, Copy, Debug)]
struct Forced {
    at: Instant,
    cause: ForcedBy,
}

/// Who ends a call from outside.
#[derive(Clone, Copy, Debug)]
enum ForcedBy {
    /// The drain timeout.
    Drain,
    /// An operator, on the admin port.
    Operator,
}

impl ForcedBy {
    fn failure(self) -> Failure {
        match self {
            Self::Drain => Failure::DrainTimeout,
            Self::Operator => Failure::OperatorCancelled,
        }
    }
}

/// The last observed byte count, and since when it has not changed.
#[derive(Clone, Copy, Debug)]
struct Progress {
    transferred_bytes: usize,
    since: Instant,
}

impl OpenCalls {
    /// Adds a call of `caller` with the deadline `end`.
    pub(crate) fn open(
        &self,
        record: Record,
        caller: Option<Arc<Caller>>,
        end: Deadline,
        connection: &Arc<Connection>,
        is_call: bool,
    ) -> CallGuard {
        let call = Arc::new(OpenCall {
            id: self.0.opened.fetch_add(1, Ordering::Relaxed) + 1,
            record,
            memory: connection.new_account(),
            caller,
            end,
            abort: connection.new_abort(),
            aborted: AtomicBool::new(false),
            request: connection.open_request(is_call),
            peer: connection.peer(),
            is_call,
            forced: OnceLock::new(),
            waker: AtomicWaker::new(),
            waits_for_caller: AtomicBool::new(true),
            transferred_bytes: AtomicUsize::new(0),
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

    /// Ends all open calls, each with a status. If a caller does not read the status, the watchdog aborts its call.
    pub fn force_end(&self) {
        for (_, call) in &*self.lock() {
            call.force(ForcedBy::Drain);
        }
    }

    /// Waits until no call is open. By then, each call's record is written.
    pub async fn ended(&self) {
        loop {
            let ended = self.0.ended.notified();
            if self.lock().is_empty() {
                return;
            }
            ended.await;
        }
    }

    /// Aborts overdue calls. Never returns; drop the future to stop it.
    pub async fn run_watchdog(self) {
        let mut checks = interval(CHECK_INTERVAL);
        loop {
            let now = checks.tick().await;
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

    /// Aborts stalled calls until `bytes` are released, the largest first. Returns the number of aborted calls.
    pub fn abort_stalled(&self, bytes: usize) -> usize {
        let now = Instant::now();
        let mut stalled: Vec<_> = {
            let calls = self.lock();
            let stalled = calls.iter().filter(|(_, call)| call.is_stalled(now));
            stalled.map(|(_, call)| Arc::clone(call)).collect()
        };
        stalled.sort_by_key(|call| Reverse(call.memory.held()));
        // The memory of a call that was reset before is not free until its task has run.
        let (reset, stalled): (Vec<_>, Vec<_>) = stalled
            .into_iter()
            .partition(|call| call.aborted.load(Ordering::Relaxed));
        let held = |call: &Arc<OpenCall>| call.memory.held() + SEND_BUFFER_BYTES;
        let mut released = reset.iter().map(held).sum::<usize>();
        let victims = stalled.iter().take_while(|call| {
            let is_needed = released < bytes;
            released += held(call);
            is_needed
        });
        let victims: Vec<_> = victims.collect();
        for call in &victims {
            call.abort_for(&Failure::CallerStalled);
        }
        victims.len()
    }

    /// Calls `count` with the caller of each open call to ALİM: its name, or else the address of its peer.
    pub(super) fn count_calls(&self, mut count: impl FnMut(String)) {
        for (_, call) in self.lock().iter().filter(|(_, call)| call.is_call) {
            count(match &call.caller {
                Some(caller) => caller.name().to_string(),
                None => call.peer.ip().to_string(),
            });
        }
    }

    /// Whether no warning was due within the last `pause`.
    pub(super) fn is_warning_due(&self, now: Instant, pause: Duration) -> bool {
        let warned = self.0.warned.lock();
        let mut warned = warned.unwrap_or_else(|held| held.into_inner());
        let is_due = warned.is_none_or(|last| last + pause <= now);
        if is_due {
            *warned = Some(now);
        }
        is_due
    }

    fn lock(&self) -> MutexGuard<'_, Slab<Arc<OpenCall>>> {
        let open = self.0.open.lock();
        open.unwrap_or_else(|held| held.into_inner())
    }
}

impl OpenCall {
    /// Ends the call from outside. The first cause wins.
    fn force(&self, cause: ForcedBy) {
        let at = Instant::now();
        let _ = self.forced.set(Forced { at, cause });
        self.waker.wake();
    }

    /// Why the call is ended from outside, by the drain timeout or by an operator. `None` if it is not.
    pub(crate) fn forced_failure(&self) -> Option<Failure> {
        Some(self.forced.get()?.cause.failure())
    }

    /// Wakes the task of `cx` when the call is ended from outside. Only one task at a time can wait.
    pub(crate) fn poll_forced(&self, cx: &mut Context<'_>) -> Poll<Failure> {
        self.waker.register(cx.waker());
        match self.forced_failure() {
            Some(failure) => Poll::Ready(failure),
            None => Poll::Pending,
        }
    }

    /// Waits until the call is ended from outside.
    pub(crate) async fn forced(&self) -> Failure {
        poll_fn(|cx| self.poll_forced(cx)).await
    }

    /// Records that the request message is complete.
    pub(crate) fn message_completed(&self) {
        self.set_waits_for_caller(false);
        self.request.message_completed();
    }

    /// Records whether the call waits for the caller, to send more or to read more.
    pub(crate) fn set_waits_for_caller(&self, waits: bool) {
        self.waits_for_caller.store(waits, Ordering::Relaxed);
    }

    /// Adds bytes that were received from the caller or sent to it. Only one task at a time calls this.
    pub(crate) fn add_transferred(&self, bytes: usize) {
        let transferred = self.transferred_bytes.load(Ordering::Relaxed);
        self.transferred_bytes
            .store(transferred.wrapping_add(bytes), Ordering::Relaxed);
    }

    /// Whether the caller has neither sent nor read anything for [`STALL_TIMEOUT`], judging by the previous checks.
    fn is_stalled(&self, now: Instant) -> bool {
        let progress = self.progress.lock();
        let mut progress = progress.unwrap_or_else(|held| held.into_inner());
        let transferred_bytes = self.transferred_bytes.load(Ordering::Relaxed);
        if !self.waits_for_caller.load(Ordering::Relaxed) {
            *progress = None;
            return false;
        }
        let last = progress.filter(|last| last.transferred_bytes == transferred_bytes);
        let since = last.map_or(now, |last| last.since);
        *progress = Some(Progress {
            transferred_bytes,
            since,
        });
        since + STALL_TIMEOUT <= now
    }

    /// Why the call is overdue; `None` if it is not.
    fn overdue(&self, now: Instant) -> Option<Failure> {
        let is_over = |at: Instant| at + GRACE <= now;
        match self.forced.get() {
            Some(forced) if is_over(forced.at) => Some(forced.cause.failure()),
            _ if is_over(self.end.at) => Some(Failure::DeadlineExceeded(self.end.kind)),
            _ => None,
        }
    }

    /// Aborts the call. The caller can miss the status, but the record has it.
    fn abort(&self, now: Instant) {
        match self.overdue(now) {
            Some(failure) => self.abort_for(&failure),
            None => self.abort.abort(),
        }
    }

    fn abort_for(&self, failure: &Failure) {
        self.record
            .aborted(failure.code() as i32, failure.reason(Credentials::Service));
        self.aborted.store(true, Ordering::Relaxed);
        self.abort.abort();
    }
}

/// Keeps a call registered and holds its permits. It lives until the response body ends.
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

    /// Holds the bridge's permit and the caller's slot while the call is open.
    pub(crate) fn attach_permit(&mut self, permit: Permit, slot: Option<Slot>) {
        (self.permit, self.slot) = (Some(permit), slot);
    }

    /// Holds one of the connection's watch permits while the call is open.
    pub(crate) fn attach_watch(&mut self, watch: OwnedSemaphorePermit) {
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

#[cfg(test)]
mod tests;
