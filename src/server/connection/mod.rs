//! One connection, from its first byte to its last: TLS, HTTP, age, idleness and drain.
//!
//! hyper serves it; this decides how long. A connection that must go gets GOAWAY (RFC 9113, 6.8), or no further request over
//! HTTP/1.1, and closes when its calls have ended. Each HTTP/2 stream runs in a task that can be aborted.

mod io;
mod opening;

use std::{
    convert::Infallible, error::Error, future::poll_fn, pin::pin, sync::Arc, time::Duration,
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
    time::{Instant, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::either::Either;

use self::io::{Io, OpeningTimeout};
use super::tls;
use crate::{
    inbound::{Connection, Ending},
    telemetry::state::ConnectionRejection,
    timer::Timer,
};

/// From the connection's start to the end of its TLS handshake, and from then to the end of its opening. Over HTTP/1.1, from the
/// end of an answer to the end of the next head too.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// From GOAWAY to the closing of a connection without calls: what a caller has sent meanwhile is still answered.
const LINGER: Duration = Duration::from_millis(250);
/// Bytes of a request message that may wait unread on one stream, and on all streams of a connection: what is rejected or has
/// to wait costs no more.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes of an answer that h2 keeps for one stream, however large the caller's windows are.
const MAX_SEND_BUFFER: usize = 64 * 1024;
/// Calls that a connection may take back before the bridge has seen them: a caller who gives up on many at
/// once must not lose the others, as it would over h2's own 20. More are an attack (CVE-2023-44487).
const MAX_UNSEEN_CANCELS: usize = 1024;

/// How a listener's connections are served.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Which versions of HTTP there are.
    pub(super) protocols: Protocols,
    /// Bytes of a request's head.
    pub(super) max_head_bytes: u32,
    /// Streams of one connection.
    pub(super) max_streams: u32,
    /// Between HTTP/2 PINGs, and from a PING to the closing of a connection that did not answer it.
    pub(super) keepalive: Option<(Duration, Duration)>,
    /// From a connection's start to its GOAWAY, give or take a tenth.
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

/// Runs each HTTP/2 stream of a connection in a task of its own.
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
/// - [`ConnectionRejection`] when no request could come over it.
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
        io = shake_hands(stream, tls) => io?,
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
    let mut end = End::new(connection, settings);
    loop {
        tokio::select! {
            biased;
            ended = served.as_mut() => return judge(ended),
            ending = connection.ended(end.ending) => match ending {
                Ending::GoAway => end.go_away(),
                Ending::Close => return Ok(()),
            },
            () = poll_fn(|cx| end.timer.poll(cx)) => if end.is_over() {
                return Ok(());
            },
        }
        if end.is_going() {
            served.as_mut().graceful_shutdown();
        }
    }
}

/// When a connection must go, and when it is gone.
struct End<'a> {
    connection: &'a Connection,
    age: Option<Instant>,
    max_idle: Duration,
    ending: Option<Ending>,
    timer: Timer,
}

impl<'a> End<'a> {
    fn new(connection: &'a Connection, settings: &Settings) -> Self {
        // A tenth more or less, so that connections made together do not go together (gRFC A9).
        let jitter = 0.9 + 0.2 * fastrand::f64();
        let age = settings.max_age.map(|age| age.mul_f64(jitter));
        let mut end = Self {
            connection,
            age: age.map(|age| connection.accepted() + age),
            max_idle: settings.max_idle,
            ending: None,
            timer: Timer::new(connection.accepted()),
        };
        end.timer.set(end.next_look(Instant::now()));
        end
    }

    fn is_going(&self) -> bool {
        self.ending.is_some()
    }

    fn go_away(&mut self) {
        self.ending = Some(Ending::GoAway);
        self.timer.set(Instant::now() + LINGER);
    }

    /// Looks at the connection when its timer has fired: true where it is gone.
    fn is_over(&mut self) -> bool {
        let now = Instant::now();
        if self.is_going() {
            let is_idle = self.connection.last_active() + LINGER <= now;
            let has_calls = self.connection.open_calls() > 0 || self.connection.has_unwritten();
            self.timer.set(now + LINGER);
            return is_idle && !has_calls;
        }
        let idle_until = self.connection.last_active() + self.max_idle;
        let is_idle = self.connection.open_requests() == 0 && idle_until <= now;
        match is_idle || self.age.is_some_and(|age| age <= now) {
            true => self.go_away(),
            false => self.timer.set(self.next_look(now)),
        }
        false
    }

    fn next_look(&self, now: Instant) -> Instant {
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
            .auto_date_header(false) // no gRPC caller reads it
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

async fn shake_hands(
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

/// hyper's word for how a connection ended.
fn judge(ended: Result<(), Box<dyn Error + Send + Sync>>) -> Result<(), ConnectionRejection> {
    let Err(error) = ended else { return Ok(()) };
    tracing::debug!(%error, "a connection ended");
    let mut cause: Option<&(dyn Error + 'static)> = Some(&*error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && let Some(inner) = io.get_ref()
            && inner.is::<OpeningTimeout>()
        {
            return Err(ConnectionRejection::OpeningTimeout);
        }
        cause = error.source();
    }
    Ok(())
}
