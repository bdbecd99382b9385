//! One connection, from its first byte to its last: TLS, HTTP, age, idleness and drain.
//!
//! hyper serves the connection; this file decides how long. To end a connection it sends GOAWAY (RFC 9113, 6.8), or over HTTP/1.1
//! accepts no further request. The connection closes when its calls have ended. Each HTTP/2 stream runs in a task that can be
//! aborted.

mod io;
mod preface;

use std::{
    convert::Infallible,
    error::Error,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use http::{Request, Response};
use http_body::Body;
use hyper::{body::Incoming, rt::Executor, service::Service};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    net::TcpStream,
    time::{Instant, Sleep, sleep_until, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::either::Either;

use self::io::{Io, PrefaceTimeout};
use super::tls;
use crate::{
    inbound::{Connection, Ending},
    telemetry::state::ConnectionRejection,
};

/// From the connection's start to the end of its TLS handshake, and from there to the end of its preface. Over HTTP/1.1 also from
/// the end of a reply to the end of the next request's head.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// From GOAWAY to the closing of a connection without calls. Requests that the caller sent meanwhile are still answered.
const LINGER: Duration = Duration::from_millis(250);
/// Flow-control windows: unread request bytes of one stream, and of all streams of a connection. They bound what a call costs that
/// is rejected or has to wait.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Reply bytes that h2 buffers for one stream, however large the caller's windows are.
const MAX_SEND_BUFFER: usize = 64 * 1024;
/// Calls of a connection that can be cancelled before the bridge has seen them. With h2's default of 20, a caller that cancels
/// many calls at once would lose its other calls too. More than this are an attack (CVE-2023-44487).
const MAX_UNSEEN_CANCELS: usize = 1024;

/// The settings of a listener's connections.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Versions of HTTP that are served.
    pub(super) protocols: Protocols,
    /// Maximum size of a request's head in bytes.
    pub(super) max_head_bytes: u32,
    /// Maximum of concurrent streams of one connection.
    pub(super) max_streams: u32,
    /// Between HTTP/2 PINGs; and from a PING to the closing of a connection that did not acknowledge it.
    pub(super) keepalive: Option<(Duration, Duration)>,
    /// From a connection's start to its GOAWAY, plus or minus a tenth.
    pub(super) max_age: Option<Duration>,
    /// From the end of its last request to its GOAWAY.
    pub(super) max_idle: Duration,
}

/// Versions of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocols {
    Http1,
    Http2,
    Both,
}

/// Runs each HTTP/2 stream of a connection in its own task.
#[derive(Clone)]
struct StreamTasks(Arc<Connection>);

impl<F> Executor<F> for StreamTasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let starting = self.0.take_newest_task(); // hyper has just handed the request to the service
        let task = tokio::spawn(stream);
        if let Some(starting) = starting {
            starting.set(task.abort_handle());
        }
    }
}

/// Serves `service` on a connection until it ends.
///
/// # Errors
///
/// - [`ConnectionRejection`] if the connection ended before it could carry a request.
pub(super) async fn serve<S, B>(
    stream: TcpStream,
    connection: &Arc<Connection>,
    tls: Option<TlsAcceptor>,
    settings: &Settings,
    service: S,
) -> Result<(), ConnectionRejection>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S::Future: Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let io = tokio::select! {
        io = accept_tls(stream, tls) => io?,
        _ = connection.ended(None) => return Ok(()),
    };
    if let Either::Right(tls) = &io
        && let Some(certificate) = tls.get_ref().1.peer_certificates().and_then(<[_]>::first)
    {
        connection.set_certificate_names(tls::names(certificate));
    }
    let is_http1_served = settings.protocols != Protocols::Http2;
    let io = Io::new(
        io,
        is_http1_served,
        HANDSHAKE_TIMEOUT,
        Arc::clone(connection),
    );
    let builder = settings.builder(StreamTasks(Arc::clone(connection)));
    let mut served = pin!(builder.serve_connection(TokioIo::new(io), service));
    let mut lifetime = Lifetime::new(connection, settings);
    loop {
        tokio::select! {
            biased;
            ended = served.as_mut() => return check_preface_timeout(ended),
            ending = connection.ended(lifetime.ending) => match ending {
                Ending::GoAway => lifetime.go_away(),
                Ending::Close => return Ok(()),
            },
            () = &mut lifetime.timer => if lifetime.is_over() {
                return Ok(());
            },
        }
        if lifetime.is_draining() {
            served.as_mut().graceful_shutdown();
        }
    }
}

/// Decides when a connection gets GOAWAY, and when it closes.
struct Lifetime<'a> {
    connection: &'a Connection,
    age: Option<Instant>,
    max_idle: Duration,
    ending: Option<Ending>,
    timer: Pin<Box<Sleep>>,
}

impl<'a> Lifetime<'a> {
    fn new(connection: &'a Connection, settings: &Settings) -> Self {
        // Plus or minus a tenth, so that connections made together do not end together (gRFC A9).
        let jitter = 0.9 + 0.2 * fastrand::f64();
        let age = settings.max_age.map(|age| age.mul_f64(jitter));
        let mut lifetime = Self {
            connection,
            age: age.map(|age| connection.accepted() + age),
            max_idle: settings.max_idle,
            ending: None,
            timer: Box::pin(sleep_until(connection.accepted())),
        };
        let check = lifetime.next_check(Instant::now());
        lifetime.timer.as_mut().reset(check);
        lifetime
    }

    fn is_draining(&self) -> bool {
        self.ending.is_some()
    }

    fn go_away(&mut self) {
        self.ending = Some(Ending::GoAway);
        self.timer.as_mut().reset(Instant::now() + LINGER);
    }

    /// Checks the connection when the timer has fired. Returns true if it can close.
    fn is_over(&mut self) -> bool {
        let now = Instant::now();
        if self.is_draining() {
            let is_idle = self.connection.last_active() + LINGER <= now;
            let has_calls = self.connection.open_calls() > 0 || self.connection.has_unwritten();
            self.timer.as_mut().reset(now + LINGER);
            return is_idle && !has_calls;
        }
        let idle_until = self.connection.last_active() + self.max_idle;
        let is_idle = self.connection.open_requests() == 0 && idle_until <= now;
        match is_idle || self.age.is_some_and(|age| age <= now) {
            true => self.go_away(),
            false => {
                let check = self.next_check(now);
                self.timer.as_mut().reset(check);
            }
        }
        false
    }

    fn next_check(&self, now: Instant) -> Instant {
        let from = match self.connection.open_requests() {
            0 => self.connection.last_active(),
            _ => now,
        };
        let idle = from + self.max_idle;
        self.age.map_or(idle, |age| age.min(idle))
    }
}

impl Settings {
    fn builder(&self, tasks: StreamTasks) -> auto::Builder<StreamTasks> {
        let mut builder = auto::Builder::new(tasks);
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HANDSHAKE_TIMEOUT)
            .max_buf_size(self.max_head_bytes as usize);
        builder
            .http2()
            .timer(TokioTimer::new())
            .auto_date_header(false) // gRPC callers ignore it
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(MAX_SEND_BUFFER)
            .max_header_list_size(self.max_head_bytes)
            .max_concurrent_streams(self.max_streams)
            .max_pending_accept_reset_streams(MAX_UNSEEN_CANCELS);
        if let Some((interval, timeout)) = self.keepalive {
            let mut http2 = builder.http2();
            http2.keep_alive_interval(interval);
            http2.keep_alive_timeout(timeout);
        }
        match self.protocols {
            Protocols::Http1 => builder.http1_only(),
            Protocols::Http2 => builder.http2_only(),
            Protocols::Both => builder,
        }
    }
}

async fn accept_tls(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
) -> Result<io::Socket, ConnectionRejection> {
    let Some(tls) = tls else {
        return Ok(Either::Left(stream));
    };
    match timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => Ok(Either::Right(stream)),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            Err(ConnectionRejection::TlsFailed)
        }
        Err(_) => {
            tracing::debug!("a TLS handshake took too long");
            Err(ConnectionRejection::TlsTimeout)
        }
    }
}

/// Whether the connection ended because its preface timed out. hyper wraps the cause in its own errors.
fn check_preface_timeout(
    ended: Result<(), Box<dyn Error + Send + Sync>>,
) -> Result<(), ConnectionRejection> {
    let Err(error) = ended else { return Ok(()) };
    tracing::debug!(%error, "a connection ended");
    let mut cause: Option<&(dyn Error + 'static)> = Some(&*error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && let Some(inner) = io.get_ref()
            && inner.is::<PrefaceTimeout>()
        {
            return Err(ConnectionRejection::OpeningTimeout);
        }
        cause = error.source();
    }
    Ok(())
}
