//! One connection's bytes: what comes first must come soon, what leaves together leaves in one write, and a
//! peer who reads nothing is closed.
//!
//! HTTP/2 is one task a connection, and tokio runs a task that was just woken next: it would write each message
//! of each stream by itself. So the first write of the task's turn waits until the tasks that are ready now have had theirs.
//! That is no timer: where none is ready it comes at once. A turn begins with reading all that is there, as h2 does before it
//! writes. HTTP/1.1 has one answer at a time, and nothing to gain.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{Sleep, sleep},
};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tonic::transport::server::Connected;

use super::opening::Opening;
use crate::telemetry::{metrics::Metrics, state::Refusal};

/// From the first write that a peer has no room for to the closing of its connection. HTTP/2's PING finds out
/// sooner; HTTP/1.1 has none, and hyper would wait without end.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// TCP, or TLS over it.
pub(super) type Io = Either<TcpStream, TlsStream<TcpStream>>;

pin_project! {
    /// A connection that is ready for HTTP, and its place among the connections.
    pub(super) struct Connection {
        #[pin]
        io: Io,
        awaited: Option<Awaited>,
        turn: Turn,
        stalled: Option<Pin<Box<Sleep>>>,
        _place: OwnedSemaphorePermit,
    }
}

/// An opening that is still to come.
pub(super) struct Awaited {
    opening: Opening,
    due: Pin<Box<Sleep>>,
    metrics: Arc<Metrics>,
}

impl Awaited {
    /// An opening that must be whole after `within`.
    pub(super) fn new(serves_http1: bool, within: Duration, metrics: Arc<Metrics>) -> Self {
        Self {
            opening: Opening::new(serves_http1),
            due: Box::pin(sleep(within)),
            metrics,
        }
    }
}

impl Connection {
    /// A connection that ends when what is awaited does not come.
    pub(super) fn new(io: Io, awaited: Awaited, place: OwnedSemaphorePermit) -> Self {
        Self {
            io,
            awaited: Some(awaited),
            turn: Turn::Fresh,
            stalled: None,
            _place: place,
        }
    }
}

/// Where the connection's task is in its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// It has written nothing yet.
    Fresh,
    /// It lets the tasks that are ready go first.
    GivesWay,
    /// All that it writes goes out.
    Writes,
    /// It writes whenever it has something: HTTP/1.1.
    Always,
}

impl Turn {
    /// Pending for the first write of a turn, once.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Fresh => {
                *self = Self::GivesWay;
                cx.waker().wake_by_ref(); // a task that wakes itself goes to the end of the queue
                Poll::Pending
            }
            Self::GivesWay | Self::Writes => {
                *self = Self::Writes;
                Poll::Ready(())
            }
            Self::Always => Poll::Ready(()),
        }
    }

    /// Nothing is left to read: what was written belongs to the turn before.
    fn has_read_all(&mut self) {
        if *self == Self::Writes {
            *self = Self::Fresh;
        }
    }
}

fn unless_stalled<T>(
    written: Poll<io::Result<T>>,
    stalled: &mut Option<Pin<Box<Sleep>>>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<T>> {
    if written.is_ready() {
        *stalled = None;
        return written;
    }
    let due = stalled.get_or_insert_with(|| Box::pin(sleep(WRITE_TIMEOUT)));
    match due.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
        Poll::Pending => Poll::Pending,
    }
}

impl Connected for Connection {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.project();
        let before = buffer.filled().len();
        let read = this.io.poll_read(cx, buffer);
        if let Some(awaited) = this.awaited {
            let came = &buffer.filled()[before..];
            if awaited.opening.is_whole_after(came) {
                if matches!(awaited.opening, Opening::Http1(_)) {
                    *this.turn = Turn::Always;
                }
                *this.awaited = None;
            } else if read.is_pending() && awaited.due.as_mut().poll(cx).is_ready() {
                awaited.metrics.state.refused(Refusal::OpeningTimeout);
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        if read.is_pending() {
            this.turn.has_read_all();
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        ready!(this.turn.poll_write(cx));
        let written = this.io.poll_write(cx, bytes);
        unless_stalled(written, this.stalled, cx)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        let flushed = this.io.poll_flush(cx); // TLS keeps what the peer has no room for
        unless_stalled(flushed, this.stalled, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        let closed = this.io.poll_shutdown(cx);
        unless_stalled(closed, this.stalled, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        ready!(this.turn.poll_write(cx));
        let written = this.io.poll_write_vectored(cx, slices);
        unless_stalled(written, this.stalled, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures_util::FutureExt;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        sync::Semaphore,
    };

    use super::*;

    async fn connection() -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let peer = TcpStream::connect(address).await.expect("connected");
        let (io, _) = listener.accept().await.expect("accepted");
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned();
        let place = place.expect("a place");
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let awaited = Awaited::new(true, Duration::from_secs(9), metrics);
        let connection = Connection::new(Either::Left(io), awaited, place);
        (connection, peer)
    }

    async fn read_all(connection: &mut Connection) {
        let read = connection.read(&mut [0]).now_or_never();
        assert!(read.is_none(), "the peer has sent nothing");
    }

    #[tokio::test]
    async fn what_is_ready_goes_before_the_first_write_of_a_turn_and_before_no_other() {
        let (mut connection, _peer) = connection().await;
        let turns = RefCell::new(Vec::new());
        for _ in 0..2 {
            read_all(&mut connection).await;
            let write = async {
                connection.write_all(b"token").await.expect("written");
                turns.borrow_mut().push("written");
                for _ in 0..3 {
                    connection.flush().await.expect("flushed");
                    let more = connection.write_all(b"token").now_or_never();
                    more.expect("at once").expect("written");
                }
            };
            let other = async { turns.borrow_mut().push("other") };
            tokio::join!(biased; write, other);
        }
        assert_eq!(turns.take(), ["other", "written", "other", "written"]);
    }

    #[tokio::test]
    async fn http1_writes_at_once() {
        let (mut connection, mut peer) = connection().await;
        let head = b"GET / HTTP/1.1\r\n\r\n";
        peer.write_all(head).await.expect("sent");
        connection.read_exact(&mut [0; 18]).await.expect("read");
        let written = connection.write_all(b"HTTP/1.1 200 OK").now_or_never();
        written.expect("at once").expect("written");
    }
}
