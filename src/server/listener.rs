//! Connections in: accepted, counted, their TLS handshake done.
//!
//! Each handshake has a task and a time limit of its own, so that a slow one blocks nobody; what must come
//! after it, the [`Opening`], has the same limit. Over `MAX_CONNECTIONS` a connection is closed at once,
//! which a balancing caller answers by going elsewhere. TCP_NODELAY is set here, because tonic's own is
//! lost with `serve_with_incoming` and a token would take 10 ms.

use std::{
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
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
    time::{Sleep, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, rustls, server::TlsStream};
use tokio_util::either::Either;
use tonic::transport::server::Connected;

use super::opening::Opening;
use crate::reload::Reload;

/// From the connection's start to the end of its TLS handshake, and from then to the end of its opening.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// From the first write that a peer has no room for to the closing of its connection. HTTP/2's PING finds out
/// sooner; HTTP/1.1 has none, and hyper would wait without end.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long accepting pauses when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pin_project! {
    /// A connection that is ready for HTTP, and its place among the connections.
    pub(super) struct Connection {
        #[pin]
        io: Either<TcpStream, TlsStream<TcpStream>>,
        awaited: Option<Awaited>,
        stalled: Option<Pin<Box<Sleep>>>,
        _place: OwnedSemaphorePermit,
    }
}

/// An opening that is still to come.
struct Awaited {
    opening: Opening,
    due: Pin<Box<Sleep>>,
}

impl Awaited {
    fn new(serves_http1: bool) -> Self {
        Self {
            opening: Opening::new(serves_http1),
            due: Box::pin(sleep(HANDSHAKE_TIMEOUT)),
        }
    }
}

/// Accepts until it is dropped, and sends what is ready for HTTP/2 or, with `serves_http1`, HTTP/1.1.
pub(super) async fn accept(
    listener: TcpListener,
    max_connections: usize,
    tls: Option<Reload<rustls::ServerConfig>>,
    serves_http1: bool,
    ready: mpsc::Sender<io::Result<Connection>>,
) {
    let places = Arc::new(Semaphore::new(max_connections));
    let mut handshakes = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = handshakes.join_next() => continue,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection can't be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!(max_connections, "a connection over the limit was closed");
            continue;
        };
        let acceptor = tls.as_ref().map(|tls| TlsAcceptor::from(tls.load()));
        let ready = ready.clone();
        handshakes.spawn(async move {
            if let Some(io) = shake_hands(stream, acceptor).await {
                let awaited = Some(Awaited::new(serves_http1));
                let connection = Connection {
                    io,
                    awaited,
                    stalled: None,
                    _place: place,
                };
                let _ = ready.send(Ok(connection)).await;
            }
        });
    }
}

async fn shake_hands(
    stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
) -> Option<Either<TcpStream, TlsStream<TcpStream>>> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY can't be set");
    }
    let Some(acceptor) = acceptor else {
        return Some(Either::Left(stream));
    };
    match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => Some(Either::Right(stream)),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!("a TLS handshake took too long");
            None
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
                *this.awaited = None;
            } else if read.is_pending() && awaited.due.as_mut().poll(cx).is_ready() {
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
        let written = this.io.poll_write(cx, bytes);
        unless_stalled(written, this.stalled, cx)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().io.poll_flush(cx)
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
        let written = this.io.poll_write_vectored(cx, slices);
        unless_stalled(written, this.stalled, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
