//! One connection's bytes: what comes first must come soon, what leaves together leaves in one write, and a
//! peer who reads nothing is closed.
//!
//! HTTP/2 is one task a connection, and tokio runs a task that was just woken next: it would write each message
//! of each stream by itself. So the first write of the task's turn waits until the tasks that are ready now have had theirs.
//! That is no timer: where none is ready it comes at once. A turn begins with reading all that is there, as h2 does before it
//! writes. HTTP/1.1 has one answer at a time, and nothing to gain.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::opening::Opening;
use crate::inbound::Connection;

/// From the first write that a peer has no room for to the closing of its connection. HTTP/2's PING finds out
/// sooner; HTTP/1.1 has none, and hyper would wait without end.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// TCP, or TLS over it.
pub(super) type Socket = Either<TcpStream, TlsStream<TcpStream>>;

pin_project! {
    /// A connection's bytes, both ways.
    pub(super) struct Io {
        #[pin]
        socket: Socket,
        awaited: Option<Awaited>,
        turn: Turn,
        stalled: Option<Pin<Box<Sleep>>>,
        connection: Arc<Connection>,
    }
}

/// An opening that is still to come.
struct Awaited {
    opening: Opening,
    due: Pin<Box<Sleep>>,
}

/// The opening did not come in time.
#[derive(Debug)]
pub(super) struct OpeningTimeout;

impl fmt::Display for OpeningTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection's opening took too long")
    }
}

impl std::error::Error for OpeningTimeout {}

impl Io {
    /// The bytes of a connection that ends when its opening is not whole after `within`.
    pub(super) fn new(
        socket: Socket,
        serves_http1: bool,
        within: Duration,
        connection: Arc<Connection>,
    ) -> Self {
        let awaited = Awaited {
            opening: Opening::new(serves_http1),
            due: Box::pin(sleep(within)),
        };
        Self {
            socket,
            awaited: Some(awaited),
            turn: Turn::Fresh,
            stalled: None,
            connection,
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
    connection: &Connection,
    cx: &mut Context<'_>,
) -> Poll<io::Result<T>> {
    if written.is_ready() {
        *stalled = None;
        connection.set_unwritten(false);
        return written;
    }
    let due = stalled.get_or_insert_with(|| {
        connection.set_unwritten(true);
        Box::pin(sleep(WRITE_TIMEOUT))
    });
    match due.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
        Poll::Pending => Poll::Pending,
    }
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.project();
        let before = buffer.filled().len();
        let read = this.socket.poll_read(cx, buffer);
        if let Some(awaited) = this.awaited {
            let came = &buffer.filled()[before..];
            if awaited.opening.is_whole_after(came) {
                if matches!(awaited.opening, Opening::Http1(_)) {
                    *this.turn = Turn::Always;
                }
                *this.awaited = None;
            } else if read.is_pending() && awaited.due.as_mut().poll(cx).is_ready() {
                let error = io::Error::new(io::ErrorKind::TimedOut, OpeningTimeout);
                return Poll::Ready(Err(error));
            }
        }
        if read.is_pending() {
            this.turn.has_read_all();
        }
        read
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        if this.turn.poll_write(cx).is_pending() {
            this.connection.set_unwritten(true);
            return Poll::Pending;
        }
        let written = this.socket.poll_write(cx, bytes);
        unless_stalled(written, this.stalled, this.connection, cx)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        let flushed = this.socket.poll_flush(cx); // TLS keeps what the peer has no room for
        unless_stalled(flushed, this.stalled, this.connection, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        let closed = this.socket.poll_shutdown(cx);
        unless_stalled(closed, this.stalled, this.connection, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        if this.turn.poll_write(cx).is_pending() {
            this.connection.set_unwritten(true);
            return Poll::Pending;
        }
        let written = this.socket.poll_write_vectored(cx, slices);
        unless_stalled(written, this.stalled, this.connection, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures_util::FutureExt;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::memory::Budget;

    async fn connection() -> (Io, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let peer = TcpStream::connect(address).await.expect("connected");
        let (socket, from) = listener.accept().await.expect("accepted");
        let connection = Connection::new(from, &Budget::unlimited());
        let io = Io::new(
            Either::Left(socket),
            true,
            Duration::from_secs(9),
            connection,
        );
        (io, peer)
    }

    async fn read_all(connection: &mut Io) {
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
