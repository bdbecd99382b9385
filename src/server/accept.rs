//! Connections in: accepted, counted, and each served in a task of its own.
//!
//! Over its limit a listener closes the newcomer, which a balancing caller answers by going elsewhere, unless another connection
//! never asked anything. A slow TLS handshake blocks nobody.

use std::{
    convert::Infallible, error::Error, io, net::SocketAddr, os::fd::AsRawFd, sync::Arc,
    time::Duration,
};

use http::{Request, Response};
use http_body::Body;
use hyper::{body::Incoming, service::Service};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{
    connection::{self, Settings},
    connections::{Admitted, Connections, Open},
    tls::Tls,
};
use crate::{
    inbound::Connection,
    reload::Reload,
    telemetry::{
        metrics::Metrics,
        state::{ConnectionRejection, OverloadAction},
    },
};

/// How long accepting pauses when the process or the system is out of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Between two warnings of one kind.
const WARNING_PAUSE: Duration = Duration::from_secs(60);
/// A peer that is gone without a word is found by probes while nothing is sent, and by the age of what it has not
/// acknowledged while something is: each misses what the other finds. HTTP/2's PING is sooner; HTTP/1.1 has none.
const TCP_KEEPALIVE: Duration = Duration::from_secs(15);
const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const TCP_KEEPALIVE_PROBES: u32 = 3;
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(45);

/// A listener, and how its connections are served.
pub(super) struct Listener<F> {
    pub(super) tcp: TcpListener,
    pub(super) connections: Connections,
    pub(super) tls: Option<Reload<Tls>>,
    pub(super) settings: Settings,
    /// Files that may be open.
    pub(super) max_files: u64,
    /// Where refused connections are counted.
    pub(super) metrics: Option<Arc<Metrics>>,
    /// Makes the service of one connection.
    pub(super) new_service: F,
}

/// Accepts until `goaway`, then waits until all connections have gone; dropping it closes them.
pub(super) async fn run<F, S, B>(listener: Listener<F>, goaway: CancellationToken)
where
    F: Fn(&Arc<Connection>) -> S + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    let [mut full, mut failing, mut short] = [(); 3].map(|()| Warning::default());
    loop {
        let accepted = tokio::select! {
            () = goaway.cancelled() => break,
            accepted = listener.tcp.accept() => accepted,
            Some(_) = tasks.join_next() => continue,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if let Some(unsaid) = failing.is_due() {
                    tracing::warn!(%error, unsaid, "connections can't be accepted");
                }
                if is_exhausted(&error) {
                    sleep(ACCEPT_PAUSE).await;
                }
                continue;
            }
        };
        if listener.is_short_of_files(&stream) {
            if let Some(unsaid) = short.is_due() {
                tracing::warn!(
                    unsaid,
                    "a connection was closed: nearly all open files are in use"
                );
            }
            continue;
        }
        match listener.admit(peer) {
            Some(open) => drop(tasks.spawn(listener.serve(stream, open))),
            None => {
                if let Some(unsaid) = full.is_due() {
                    let max_connections = listener.connections.limit();
                    tracing::warn!(
                        max_connections,
                        unsaid,
                        "a connection over the limit was closed"
                    );
                }
            }
        }
    }
    drop(listener.tcp);
    listener.connections.go_away();
    while tasks.join_next().await.is_some() {}
}

impl<F, S, B> Listener<F>
where
    F: Fn(&Arc<Connection>) -> S + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    /// Descriptors are given lowest first, so the number of the newest says how many are in use. What is left is for calls that
    /// are open, and for the admin port.
    fn is_short_of_files(&self, stream: &TcpStream) -> bool {
        let Some(metrics) = &self.metrics else {
            return false;
        };
        let number = u64::try_from(stream.as_raw_fd()).unwrap_or(0);
        let is_short = number >= self.max_files / 100 * 95;
        if is_short {
            metrics.state.overloaded(OverloadAction::RejectConnection);
        }
        is_short
    }

    fn admit(&self, peer: SocketAddr) -> Option<Open> {
        match self.connections.admit(peer) {
            Admitted::Yes(open) => Some(open),
            Admitted::ForAnother(open) => {
                refused(self.metrics.as_deref(), ConnectionRejection::Evicted);
                Some(open)
            }
            Admitted::No => {
                refused(self.metrics.as_deref(), ConnectionRejection::Limit);
                None
            }
        }
    }

    fn serve(
        &self,
        stream: TcpStream,
        open: Open,
    ) -> impl Future<Output = ()> + Send + use<F, S, B> {
        let tls = self.tls.as_ref().map(|tls| Arc::clone(&tls.load().config));
        let (settings, metrics) = (self.settings.clone(), self.metrics.clone());
        let service = (self.new_service)(&open);
        async move {
            if let Err(error) = set_options(&stream) {
                tracing::debug!(%error, "a socket's options can't be set");
            }
            let tls = tls.map(TlsAcceptor::from);
            let served = connection::serve(stream, &open, tls, &settings, service).await;
            if let Err(refusal) = served {
                refused(metrics.as_deref(), refusal);
            }
        }
    }
}

fn refused(metrics: Option<&Metrics>, refusal: ConnectionRejection) {
    if let Some(metrics) = metrics {
        metrics.state.refused(refusal);
    }
}

fn set_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?; // else a token would take 10 ms
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(TCP_KEEPALIVE)
        .with_interval(TCP_KEEPALIVE_INTERVAL)
        .with_retries(TCP_KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT))
}

/// Whether accepting fails until something is given back (accept(2)). All other errors are of one connection.
fn is_exhausted(error: &io::Error) -> bool {
    let exhausted = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    error
        .raw_os_error()
        .is_some_and(|code| exhausted.contains(&code))
}

/// A warning that comes once a minute, however often there is cause.
#[derive(Debug, Default)]
struct Warning {
    last: Option<Instant>,
    unsaid: u64,
}

impl Warning {
    /// How many were kept back since the last, when the next is due.
    fn is_due(&mut self) -> Option<u64> {
        let now = Instant::now();
        if self.last.is_some_and(|last| now < last + WARNING_PAUSE) {
            self.unsaid += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_warning_comes_once_a_minute_with_the_count_of_those_between() {
        let mut warning = Warning::default();
        let said = [warning.is_due(), warning.is_due(), warning.is_due()];
        assert_eq!(said, [Some(0), None, None]);
        tokio::time::advance(WARNING_PAUSE).await;
        assert_eq!(warning.is_due(), Some(2));
    }

    #[test]
    fn accepting_pauses_only_where_something_is_exhausted() {
        for (code, pauses) in [
            (libc::EMFILE, true),
            (libc::ENFILE, true),
            (libc::ECONNABORTED, false),
            (libc::EPERM, false),
        ] {
            let error = io::Error::from_raw_os_error(code);
            assert_eq!(is_exhausted(&error), pauses, "{error}");
        }
    }
}
