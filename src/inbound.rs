//! A caller's connection as its calls see it: who is on it, what is open on it, and how to end a call from outside.
//!
//! The server makes one [`Connection`] for each accepted socket, and serves it; the layers round a call count on it.
//! The server watches it for what must end it ([`Connection::ended`]). Nothing here knows HTTP.

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

/// Calls of one connection that may wait for their request message at a time: a connection of heads alone must not
/// hold every permit.
pub const MAX_PARTIAL_MESSAGES: usize = 100;
/// Health watches, and reflection streams, that one connection may have open; a client opens one.
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
    starting: Mutex<Option<Task>>,
    ending: AtomicU8,
    waker: AtomicWaker,
}

/// How a connection must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// No new calls; it closes when those that are open have ended.
    GoAway = 1,
    /// At once.
    Close = 2,
}

impl Connection {
    /// A connection from `peer`, accepted now, whose calls have a share of `budget`.
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
            starting: Mutex::new(None),
            ending: AtomicU8::new(0),
            waker: AtomicWaker::new(),
        })
    }

    /// The caller's address, or that of the proxy before it.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Notes the URIs and DNS names of the certificate that the peer has proved to own.
    pub fn set_certificate_names(&self, names: Vec<String>) {
        let _ = self.certificate_names.set(names);
    }

    /// The URIs and DNS names of the peer's verified certificate; `None` where it showed none.
    pub fn certificate_names(&self) -> Option<&[String]> {
        self.certificate_names.get().map(Vec::as_slice)
    }

    /// When it was accepted.
    pub fn accepted(&self) -> Instant {
        self.accepted
    }

    /// Counts a request until its guard is dropped; `is_call` for one to ALİM.
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

    /// Requests that are open, those to health and reflection included.
    pub fn open_requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Calls to ALİM that are open.
    pub fn open_calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// Whether a call to ALİM ever came whole.
    pub fn was_called(&self) -> bool {
        self.was_called.load(Ordering::Relaxed)
    }

    /// When its last request ended, or when it was accepted.
    pub fn last_active(&self) -> Instant {
        self.accepted + Duration::from_millis(self.last_active.load(Ordering::Relaxed))
    }

    /// What limits the calls that wait for their message.
    pub fn partial_messages(&self) -> Arc<Semaphore> {
        Arc::clone(&self.partial_messages)
    }

    /// The right to have one more health watch or reflection stream open, if there is one.
    pub fn open_watch(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.watches).try_acquire_owned().ok()
    }

    /// The account of a new call, which holds nothing yet.
    pub fn new_account(&self) -> Arc<Account> {
        self.share.open()
    }

    /// Notes whether bytes wait to be written: the peer may have no room for them.
    pub fn set_unwritten(&self, has_unwritten: bool) {
        self.has_unwritten.store(has_unwritten, Ordering::Relaxed);
    }

    /// Whether bytes wait to be written.
    pub fn has_unwritten(&self) -> bool {
        self.has_unwritten.load(Ordering::Relaxed)
    }

    /// Something to end the request that comes now with. What runs the request takes it by
    /// [`take_starting`](Self::take_starting), before the next one comes.
    pub fn new_abort(self: &Arc<Self>) -> Abort {
        let task = Task::default();
        *self.starting() = Some(task.clone());
        Abort {
            task,
            connection: Arc::clone(self),
        }
    }

    /// Where to say which task runs the request that came last.
    pub fn take_starting(&self) -> Option<Task> {
        self.starting().take()
    }

    /// Asks for its end; the stronger of two stands.
    pub fn end(&self, ending: Ending) {
        self.ending.fetch_max(ending as u8, Ordering::Relaxed);
        self.waker.wake();
    }

    /// Waits until an end stronger than `than` is asked for. One task at a time may wait.
    pub async fn ended(&self, than: Option<Ending>) -> Ending {
        poll_fn(|cx| {
            self.waker.register(cx.waker());
            let ending = match self.ending.load(Ordering::Relaxed) {
                0 => None,
                1 => Some(Ending::GoAway),
                _ => Some(Ending::Close),
            };
            match ending {
                Some(ending) if Some(ending) > than => Poll::Ready(ending),
                _ => Poll::Pending,
            }
        })
        .await
    }

    fn starting(&self) -> std::sync::MutexGuard<'_, Option<Task>> {
        let starting = self.starting.lock();
        starting.unwrap_or_else(|held| held.into_inner())
    }
}

/// A request that is open on its connection, until this is dropped.
#[derive(Debug)]
pub struct OpenRequest {
    connection: Arc<Connection>,
    is_call: bool,
}

impl OpenRequest {
    /// Notes that its message is whole.
    pub fn message_is_whole(&self) {
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

/// The task that runs one request, once there is one: HTTP/2 has one for each.
#[derive(Clone, Debug, Default)]
pub struct Task(Arc<OnceLock<AbortHandle>>);

impl Task {
    /// Says which it is.
    pub fn is(&self, task: AbortHandle) {
        let _ = self.0.set(task);
    }
}

/// EndConditions one request from outside, with all that it holds.
#[derive(Clone, Debug)]
pub struct Abort {
    task: Task,
    connection: Arc<Connection>,
}

impl Abort {
    /// Resets the HTTP/2 stream; over HTTP/1.1, which has nothing smaller, closes the connection.
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
    fn a_request_counts_until_it_is_dropped() {
        let connection = connection();
        let (probe, call) = (
            connection.open_request(false),
            connection.open_request(true),
        );
        assert_eq!(
            (connection.open_requests(), connection.open_calls()),
            (2, 1)
        );
        probe.message_is_whole();
        assert!(!connection.was_called());
        call.message_is_whole();
        drop((probe, call));
        assert_eq!(
            (connection.open_requests(), connection.open_calls()),
            (0, 0)
        );
        assert!(connection.was_called());
    }

    /// Over HTTP/1.1 nobody takes what a request leaves to say which task runs it.
    #[test]
    fn a_connection_is_freed_when_its_requests_have_ended() {
        let connection = connection();
        let freed = Arc::downgrade(&connection);
        drop((connection.new_abort(), connection.open_request(true)));
        drop(connection);
        assert!(freed.upgrade().is_none());
    }

    #[tokio::test]
    async fn the_stronger_end_stands() {
        let connection = connection();
        connection.end(Ending::Close);
        connection.end(Ending::GoAway);
        assert_eq!(connection.ended(None).await, Ending::Close);
        assert_eq!(connection.ended(Some(Ending::GoAway)).await, Ending::Close);
    }
}
