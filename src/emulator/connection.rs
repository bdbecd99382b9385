//! Connections that behave as uvicorn's do, below axum, which has no word for either rule.
//!
//! An idle connection is closed 5.0 s after its last answer, and every connection can be cut from
//! outside, so that the drain has an end even while a call is silent. HTTP/2 with prior knowledge,
//! which axum would speak since tonic brings it into the build, fails, because uvicorn has none.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{Extension, Request};
use axum::middleware::Next;
use axum::response::Response;
use axum::serve::{IncomingStream, Listener};
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// From the end of an answer to the end of its connection, if no other call comes: uvicorn's
/// default.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// How HTTP/2 begins.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// Whether a connection has a call open, shared by the calls and the reading side.
#[derive(Clone, Debug, Default)]
pub(super) struct Idle(Arc<Mutex<IdleState>>);

#[derive(Debug, Default)]
struct IdleState {
    /// `None` while a call is open, and before the first.
    since: Option<Instant>,
    /// Who must look again when a call ends: hyper itself does not read anew then.
    reader: Option<Waker>,
}

impl Idle {
    fn state(&self) -> MutexGuard<'_, IdleState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connected<IncomingStream<'_, Gate>> for Idle {
    fn connect_info(connection: IncomingStream<'_, Gate>) -> Self {
        connection.io().idle.clone()
    }
}

/// A call that is open; dropping it makes its connection idle.
struct Open(Idle);

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.since = Some(Instant::now());
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }
}

/// The layer round every call: its connection is not idle until the last byte of its answer.
pub(super) async fn hold_open(
    Extension(ConnectInfo(idle)): Extension<ConnectInfo<Idle>>,
    call: Request,
    next: Next,
) -> Response {
    idle.state().since = None;
    let open = Open(idle);
    next.run(call).await.map(|body| {
        // Owned by the body's adapter, so dropped with the body; the size stays known.
        axum::body::Body::new(body.map_err(move |error| {
            let _held = &open;
            error
        }))
    })
}

/// A bound listener whose connections keep the rules.
pub(super) struct Gate {
    listener: TcpListener,
    cut: CancellationToken,
}

impl Gate {
    /// Lets callers in by `listener`, until `cut` closes all their connections at once.
    pub(super) fn new(listener: TcpListener, cut: CancellationToken) -> Self {
        Self { listener, cut }
    }
}

impl Listener for Gate {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let (stream, caller) = Listener::accept(&mut self.listener).await;
        // Without it a token waits for the last one's ACK; a socket that refuses still works.
        let _ = stream.set_nodelay(true);
        let connection = Connection {
            stream,
            idle: Idle::default(),
            keep_alive: Box::pin(sleep(KEEP_ALIVE)),
            cut: Box::pin(self.cut.clone().cancelled_owned()),
        };
        (connection, caller)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// One caller's connection.
pub(super) struct Connection {
    stream: TcpStream,
    idle: Idle,
    keep_alive: Pin<Box<Sleep>>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Connection {
    fn check_cut(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(cx) {
            Poll::Ready(()) => Err(ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }

    /// Ready once the connection has been idle for too long; set anew at each look, since a call may
    /// have come and gone meanwhile.
    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.idle.state();
        match state.since {
            Some(since) => {
                self.keep_alive.as_mut().reset(since + KEEP_ALIVE);
                self.keep_alive.as_mut().poll(cx)
            }
            None => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check_cut(cx)?;
        let before = buf.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut this.stream).poll_read(cx, buf) {
            let http2 = buf.filled()[before..].starts_with(HTTP2_PREFACE);
            return Poll::Ready(match http2 {
                true => Err(ErrorKind::InvalidData.into()),
                false => read,
            });
        }
        // Nothing read is how the end of a connection looks.
        this.poll_expired(cx).map(Ok)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check_cut(cx)?;
        Pin::new(&mut this.stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
