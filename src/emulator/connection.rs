//! Connections that behave as uvicorn's do. They are below axum, which has no settings for these rules.
//!
//! - An idle connection is closed 5.0 s after its last answer.
//! - Every connection can be aborted from outside, so the drain ends even while a call is silent.
//! - HTTP/2 with prior knowledge fails, because uvicorn does not speak it. axum would, since tonic
//!   enables it in this build.

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

/// From the end of an answer to the end of its connection, if no other call comes. It is uvicorn's
/// default.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// The beginning of the HTTP/2 connection preface (RFC 9113, 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// Whether a connection has an open call. Its calls and its reader share this.
#[derive(Clone, Debug, Default)]
pub(super) struct Idle(Arc<Mutex<IdleState>>);

#[derive(Debug, Default)]
struct IdleState {
    /// `None` while a call is open, and before the first.
    since: Option<Instant>,
    /// Woken when a call ends, because hyper itself does not read again then.
    reader: Option<Waker>,
}

impl Idle {
    fn state(&self) -> MutexGuard<'_, IdleState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connected<IncomingStream<'_, UvicornListener>> for Idle {
    fn connect_info(connection: IncomingStream<'_, UvicornListener>) -> Self {
        connection.io().idle.clone()
    }
}

/// A guard for an open call. Its drop makes the connection idle.
struct OpenCall(Idle);

impl Drop for OpenCall {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.since = Some(Instant::now());
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }
}

/// The middleware that keeps a connection from being idle until the last byte of the answer.
pub(super) async fn track_call(
    Extension(ConnectInfo(idle)): Extension<ConnectInfo<Idle>>,
    call: Request,
    next: Next,
) -> Response {
    idle.state().since = None;
    let open = OpenCall(idle);
    next.run(call).await.map(|body| {
        // The closure owns the guard, so it is dropped with the body. `map_err` keeps the size hint.
        axum::body::Body::new(body.map_err(move |error| {
            let _guard = &open;
            error
        }))
    })
}

/// A bound listener whose connections follow these rules.
pub(super) struct UvicornListener {
    listener: TcpListener,
    abort: CancellationToken,
}

impl UvicornListener {
    /// Accepts connections on `listener`. `abort` closes all of them at once.
    pub(super) fn new(listener: TcpListener, abort: CancellationToken) -> Self {
        Self { listener, abort }
    }
}

impl Listener for UvicornListener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let (stream, caller) = Listener::accept(&mut self.listener).await;
        // Without it a token waits for the ACK of the one before. A socket works without it too.
        let _ = stream.set_nodelay(true);
        let connection = Connection {
            stream,
            idle: Idle::default(),
            keep_alive: Box::pin(sleep(KEEP_ALIVE)),
            abort: Box::pin(self.abort.clone().cancelled_owned()),
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
    abort: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Connection {
    fn check_abort(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.abort.as_mut().poll(cx) {
            Poll::Ready(()) => Err(ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }

    /// Ready once the connection has been idle for too long. The timer is reset at each poll, because a
    /// call may have started and ended since the last one.
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
        this.check_abort(cx)?;
        let before = buf.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut this.stream).poll_read(cx, buf) {
            let http2 = buf.filled()[before..].starts_with(HTTP2_PREFACE);
            return Poll::Ready(match http2 {
                true => Err(ErrorKind::InvalidData.into()),
                false => read,
            });
        }
        // A read of zero bytes is the end of the connection.
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
        this.check_abort(cx)?;
        Pin::new(&mut this.stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
