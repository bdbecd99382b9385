//! One connection's bytes: what comes first must come soon, what leaves together leaves in one write, and a
//! peer who reads nothing is closed.
//!
//! HTTP/2 is one task a connection, and tokio runs a task that was just woken next: it would write each message
//! of each stream by itself. So the first write waits until the tasks that are ready now have had their turn. That is no
//! timer: where none is ready it comes at once.

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
        has_given_way: bool,
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
            has_given_way: false,
            stalled: None,
            _place: place,
        }
    }
}

/// Lets the tasks that are ready go first, once before each flush.
fn give_way(has_given_way: &mut bool, cx: &mut Context<'_>) -> Poll<()> {
    if std::mem::replace(has_given_way, true) {
        return Poll::Ready(());
    }
    cx.waker().wake_by_ref(); // a task that wakes itself goes to the end of the queue
    Poll::Pending
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
                *this.awaited = None;
            } else if read.is_pending() && awaited.due.as_mut().poll(cx).is_ready() {
                awaited.metrics.state.refused(Refusal::OpeningTimeout);
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
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
        ready!(give_way(this.has_given_way, cx));
        let written = this.io.poll_write(cx, bytes);
        unless_stalled(written, this.stalled, cx)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        let flushed = this.io.poll_flush(cx);
        *this.has_given_way &= flushed.is_pending();
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().io.poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        ready!(give_way(this.has_given_way, cx));
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
    use tokio::{io::AsyncWriteExt, net::TcpListener, sync::Semaphore};

    use super::*;

    async fn connection() -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let peer = TcpStream::connect(address).await.expect("connected");
        let (io, _) = listener.accept().await.expect("accepted");
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned();
        let place = place.expect("a place");
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let awaited = Awaited::new(false, Duration::from_secs(9), metrics);
        let connection = Connection::new(Either::Left(io), awaited, place);
        (connection, peer)
    }

    #[tokio::test]
    async fn what_is_ready_goes_before_the_first_write_after_a_flush_and_before_no_other() {
        let (mut connection, _peer) = connection().await;
        let turns = RefCell::new(Vec::new());
        for _ in 0..2 {
            let write = async {
                connection.write_all(b"token").await.expect("written");
                turns.borrow_mut().push("written");
                let second = connection.write_all(b"token").now_or_never();
                second.expect("at once").expect("written");
                connection.flush().await.expect("flushed");
            };
            let other = async { turns.borrow_mut().push("other") };
            tokio::join!(biased; write, other);
        }
        assert_eq!(turns.take(), ["other", "written", "other", "written"]);
    }
}
