//! The bytes of one connection: a timeout for its preface, one write for what is ready together, and a timeout for writes.
//!
//! hyper runs an HTTP/2 connection in one task, and tokio runs a task that was just woken next. Without care it would
//! write each message of each stream on its own. So the task yields once before the first write of its turn, and all tasks
//! that are ready run first. That adds no timer: if no task is ready, the write happens at once. A turn begins when
//! the task has read all that has arrived, as h2 does before it writes. HTTP/1.1 has one reply at a time and never yields.
//! Without the yield a paced token takes 18 % more instructions and half as many system calls again.

use std::{
    fmt,
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
    time::{Sleep, sleep},
};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::preface::Preface;
use crate::inbound::Connection;

/// From the first write that the peer does not take to the closing of its connection. HTTP/2's PING detects a dead peer
/// sooner. HTTP/1.1 has no PING, and hyper would wait forever.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long, and for how many bytes, the rest of a request is discarded after an HTTP/1.1 connection was closed.
const LINGER: Duration = Duration::from_millis(500);
const MAX_DISCARDED_BYTES: usize = 1024 * 1024;

/// TCP, or TLS over TCP.
pub(super) type Socket = Either<TcpStream, TlsStream<TcpStream>>;

pin_project! {
    /// The bytes of a connection, in both directions.
    pub(super) struct Io {
        #[pin]
        socket: Socket,
        pending: Option<PendingPreface>,
        turn: WriteTurn,
        write_timer: Option<Pin<Box<Sleep>>>,
        linger: Option<Linger>,
        connection: Arc<Connection>,
    }
}

/// A preface that has not arrived yet.
struct PendingPreface {
    preface: Preface,
    timer: Pin<Box<Sleep>>,
}

/// The preface did not arrive in time.
#[derive(Debug)]
pub(super) struct PrefaceTimeout;

impl fmt::Display for PrefaceTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection's preface took too long")
    }
}

impl std::error::Error for PrefaceTimeout {}

impl Io {
    /// If the preface is not whole after `within`, reads fail.
    pub(super) fn new(
        socket: Socket,
        serves_http1: bool,
        within: Duration,
        connection: Arc<Connection>,
    ) -> Self {
        let pending = PendingPreface {
            preface: Preface::new(serves_http1),
            timer: Box::pin(sleep(within)),
        };
        Self {
            socket,
            pending: Some(pending),
            turn: WriteTurn::Fresh,
            write_timer: None,
            linger: None,
            connection,
        }
    }
}

/// Discards what the peer of a closed connection still sends, until it closes too. A system that closes a socket with unread bytes
/// resets the connection, and the peer can lose a response that it has not read yet (RFC 9112, 9.6).
struct Linger {
    timer: Pin<Box<Sleep>>,
    left: usize,
}

impl Linger {
    fn new() -> Self {
        Self {
            timer: Box::pin(sleep(LINGER)),
            left: MAX_DISCARDED_BYTES,
        }
    }

    fn poll(&mut self, mut socket: Pin<&mut Socket>, cx: &mut Context<'_>) -> Poll<()> {
        let mut bytes = [0; 4096];
        while self.left > 0 {
            let mut buffer = ReadBuf::new(&mut bytes);
            match socket.as_mut().poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.left = self.left.saturating_sub(buffer.filled().len());
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return self.timer.as_mut().poll(cx),
            }
        }
        Poll::Ready(())
    }
}

/// What the connection's task does at its next write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriteTurn {
    /// It has written nothing yet: it will yield.
    Fresh,
    /// It has yielded, so that the ready tasks run first.
    Yielded,
    /// It writes without yielding until it has read everything.
    Writes,
    /// It never yields: HTTP/1.1.
    Always,
}

impl WriteTurn {
    /// Pending once, for the first write of a turn.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Fresh => {
                *self = Self::Yielded;
                cx.waker().wake_by_ref(); // a task that wakes itself goes to the back of the queue
                Poll::Pending
            }
            Self::Yielded | Self::Writes => {
                *self = Self::Writes;
                Poll::Ready(())
            }
            Self::Always => Poll::Ready(()),
        }
    }

    /// Nothing is left to read, so the next write begins a new turn.
    fn end_turn(&mut self) {
        if *self == Self::Writes {
            *self = Self::Fresh;
        }
    }
}

fn check_write_timeout<T>(
    written: Poll<io::Result<T>>,
    write_timer: &mut Option<Pin<Box<Sleep>>>,
    connection: &Connection,
    cx: &mut Context<'_>,
) -> Poll<io::Result<T>> {
    if written.is_ready() {
        *write_timer = None;
        connection.set_unwritten(false);
        return written;
    }
    let timer = write_timer.get_or_insert_with(|| {
        connection.set_unwritten(true);
        Box::pin(sleep(WRITE_TIMEOUT))
    });
    match timer.as_mut().poll(cx) {
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
        if let Some(pending) = this.pending {
            let arrived = &buffer.filled()[before..];
            if pending.preface.is_complete_after(arrived) {
                if matches!(pending.preface, Preface::Http1(_)) {
                    *this.turn = WriteTurn::Always;
                }
                *this.pending = None;
            } else if read.is_pending() && pending.timer.as_mut().poll(cx).is_ready() {
                let error = io::Error::new(io::ErrorKind::TimedOut, PrefaceTimeout);
                return Poll::Ready(Err(error));
            }
        }
        if read.is_pending() {
            this.turn.end_turn();
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
        check_write_timeout(written, this.write_timer, this.connection, cx)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        let flushed = this.socket.poll_flush(cx); // TLS buffers what the peer does not take
        check_write_timeout(flushed, this.write_timer, this.connection, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        let mut socket = this.socket;
        if this.linger.is_none() {
            let closed = socket.as_mut().poll_shutdown(cx);
            ready!(check_write_timeout(
                closed,
                this.write_timer,
                this.connection,
                cx
            ))?;
        }
        if *this.turn != WriteTurn::Always {
            return Poll::Ready(Ok(()));
        }
        let linger = this.linger.get_or_insert_with(Linger::new);
        linger.poll(socket, cx).map(Ok)
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
        check_write_timeout(written, this.write_timer, this.connection, cx)
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
    async fn ready_tasks_run_before_the_first_write_of_a_turn_only() {
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
