//! The shared state of one caller's connection: its peer, its open requests, and a way to abort each of them.
//!
//! The server creates one [`Connection`] for each accepted socket. The middleware counts requests on it. The server waits for
//! [`Connection::ended`] to close it. Nothing here depends on HTTP.

use std::{
    future::poll_fn,
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use futures_util::task::AtomicWaker;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::AbortHandle,
    time::Instant,
};

use crate::memory::{Account, Budget, Share};

/// The maximum number of calls per connection whose request message is incomplete. Without it, a connection that sends only
/// heads could hold every permit.
pub const MAX_PARTIAL_MESSAGES: usize = 100;
/// The maximum number of health watches and reflection streams per connection; a client opens one.
pub const MAX_WATCHES: usize = 16;

/// One connection of a caller.
#[derive(Debug)]
pub struct Connection {
    peer: SocketAddr,
    accepted: Instant,
    certificate_names: OnceLock<Vec<String>>,
    requests: AtomicUsize,
    calls: AtomicUsize,
    was_called: AtomicBool,
    last_active: AtomicU64,
    has_unwritten: AtomicBool,
    partial_messages: Arc<Semaphore>,
    watches: Arc<Semaphore>,
    share: Arc<Share>,
    newest_task: Mutex<Option<Task>>,
    ending: AtomicU8,
    waker: AtomicWaker,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// Accepts no new calls, and closes when the open ones have ended.
    GoAway = 1,
    /// Closes at once.
    Close = 2,
}

impl Connection {
    /// A connection from `peer`, accepted now. Its calls get a share of `budget`.
    pub fn new(peer: SocketAddr, budget: &Budget) -> Arc<Self> {
        Arc::new(Self {
            peer: SocketAddr::new(peer.ip().to_canonical(), peer.port()),
            accepted: Instant::now(),
            certificate_names: OnceLock::new(),
            requests: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            was_called: AtomicBool::new(false),
            last_active: AtomicU64::new(0),
            has_unwritten: AtomicBool::new(false),
            partial_messages: Arc::new(Semaphore::new(MAX_PARTIAL_MESSAGES)),
            watches: Arc::new(Semaphore::new(MAX_WATCHES)),
            share: budget.new_share(),
            newest_task: Mutex::new(None),
            ending: AtomicU8::new(0),
            waker: AtomicWaker::new(),
        })
    }

    /// The address of the caller, or of the proxy in front of it.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Sets the URIs and DNS names of the peer's verified certificate.
    pub fn set_certificate_names(&self, names: Vec<String>) {
        let _ = self.certificate_names.set(names);
    }

    /// The URIs and DNS names of the peer's verified certificate; `None` if it sent none.
    pub fn certificate_names(&self) -> Option<&[String]> {
        self.certificate_names.get().map(Vec::as_slice)
    }

    /// When the connection was accepted.
    pub fn accepted(&self) -> Instant {
        self.accepted
    }

    /// Counts a request until the guard is dropped. `is_call` is true for a call to ALİM.
    pub fn open_request(self: &Arc<Self>, is_call: bool) -> OpenRequest {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if is_call {
            self.calls.fetch_add(1, Ordering::Relaxed);
        }
        OpenRequest {
            connection: Arc::clone(self),
            is_call,
        }
    }

    /// The number of open requests, including health and reflection.
    pub fn open_requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// The number of open calls to ALİM.
    pub fn open_calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// Whether the connection has ever carried a complete call to ALİM.
    pub fn was_called(&self) -> bool {
        self.was_called.load(Ordering::Relaxed)
    }

    /// When the last request ended. Before that, when the connection was accepted.
    pub fn last_active(&self) -> Instant {
        self.accepted + Duration::from_millis(self.last_active.load(Ordering::Relaxed))
    }

    /// The semaphore for calls whose request message is incomplete.
    pub fn partial_messages(&self) -> Arc<Semaphore> {
        Arc::clone(&self.partial_messages)
    }

    /// A permit for one more health watch or reflection stream, if one is free.
    pub fn open_watch(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.watches).try_acquire_owned().ok()
    }

    /// A new, empty memory account for one call.
    pub fn new_account(&self) -> Arc<Account> {
        self.share.open()
    }

    /// Sets whether bytes wait to be written, for example because the peer's receive buffer is full.
    pub fn set_unwritten(&self, has_unwritten: bool) {
        self.has_unwritten.store(has_unwritten, Ordering::Relaxed);
    }

    /// Whether bytes wait to be written.
    pub fn has_unwritten(&self) -> bool {
        self.has_unwritten.load(Ordering::Relaxed)
    }

    /// An abort handle for the request that has just arrived. The executor then registers the request's task through
    /// [`take_newest_task`](Self::take_newest_task), before the next request arrives.
    pub fn new_abort(self: &Arc<Self>) -> Abort {
        let task = Task::default();
        *self.newest_task() = Some(task.clone());
        Abort {
            task,
            connection: Arc::clone(self),
        }
    }

    /// The task slot of the newest request, to be set to the task that runs it.
    pub fn take_newest_task(&self) -> Option<Task> {
        self.newest_task().take()
    }

    /// Ends the connection. A stronger ending replaces a weaker one.
    pub fn end(&self, ending: Ending) {
        self.ending.fetch_max(ending as u8, Ordering::Relaxed);
        self.waker.wake();
    }

    /// Waits until an ending stronger than `current` is requested. Only one task at a time can wait.
    pub async fn ended(&self, current: Option<Ending>) -> Ending {
        poll_fn(|cx| {
            self.waker.register(cx.waker());
            let ending = match self.ending.load(Ordering::Relaxed) {
                0 => None,
                1 => Some(Ending::GoAway),
                _ => Some(Ending::Close),
            };
            match ending {
                Some(ending) if Some(ending) > current => Poll::Ready(ending),
                _ => Poll::Pending,
            }
        })
        .await
    }

    fn newest_task(&self) -> std::sync::MutexGuard<'_, Option<Task>> {
        let newest = self.newest_task.lock();
        newest.unwrap_or_else(|held| held.into_inner())
    }
}

/// A guard that counts one request as open on its connection.
#[derive(Debug)]
pub struct OpenRequest {
    connection: Arc<Connection>,
    is_call: bool,
}

impl OpenRequest {
    /// Records that the request message is complete.
    pub fn message_completed(&self) {
        if self.is_call {
            self.connection.was_called.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let connection = &*self.connection;
        let age = connection.accepted.elapsed().as_millis();
        let age = u64::try_from(age).unwrap_or(u64::MAX);
        connection.last_active.store(age, Ordering::Relaxed);
        if self.is_call {
            connection.calls.fetch_sub(1, Ordering::Relaxed);
        }
        connection.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The task that runs one request. It is unset over HTTP/1.1, because only HTTP/2 has a task per request.
#[derive(Clone, Debug, Default)]
pub struct Task(Arc<OnceLock<AbortHandle>>);

impl Task {
    /// Sets the task.
    pub fn set(&self, task: AbortHandle) {
        let _ = self.0.set(task);
    }
}

/// Aborts one request from outside, and drops everything that it holds.
#[derive(Clone, Debug)]
pub struct Abort {
    task: Task,
    connection: Arc<Connection>,
}

impl Abort {
    /// Resets the HTTP/2 stream. Over HTTP/1.1, closes the connection, because there are no streams.
    pub fn abort(&self) {
        match self.task.0.get() {
            Some(task) => task.abort(),
            None => self.connection.end(Ending::Close),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> Arc<Connection> {
        Connection::new(([127, 0, 0, 1], 50_051).into(), &Budget::unlimited())
    }

    #[test]
    fn a_request_counts_until_its_guard_is_dropped() {
        let connection = connection();
        let (probe, call) = (
            connection.open_request(false),
            connection.open_request(true),
        );
        assert_eq!(
            (connection.open_requests(), connection.open_calls()),
            (2, 1)
        );
        probe.message_completed();
        assert!(!connection.was_called());
        call.message_completed();
        drop((probe, call));
        assert_eq!(
            (connection.open_requests(), connection.open_calls()),
            (0, 0)
        );
        assert!(connection.was_called());
    }

    /// Over HTTP/1.1, nothing takes the newest request's task slot.
    #[test]
    fn a_connection_is_freed_when_its_requests_have_ended() {
        let connection = connection();
        let freed = Arc::downgrade(&connection);
        drop((connection.new_abort(), connection.open_request(true)));
        drop(connection);
        assert!(freed.upgrade().is_none());
    }

    #[tokio::test]
    async fn the_stronger_ending_wins() {
        let connection = connection();
        connection.end(Ending::Close);
        connection.end(Ending::GoAway);
        assert_eq!(connection.ended(None).await, Ending::Close);
        assert_eq!(connection.ended(Some(Ending::GoAway)).await, Ending::Close);
    }
}
