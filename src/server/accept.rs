//! The accept loop: it accepts and counts connections, and serves each in its own task.
//!
//! Above its limit a listener closes the oldest connection that never carried a call, to admit the new one. If there is none,
//! it closes the new one, and a load-balancing caller tries another bridge. A slow TLS handshake blocks nobody.

use std::{
    convert::Infallible, error::Error, io, net::SocketAddr, os::fd::AsRawFd, sync::Arc,
    time::Duration,
};

use http::{Request, Response};
use http_body::Body;
use hyper::{body::Incoming, service::Service};
use prometheus::IntCounter;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
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
        Warning,
        metrics::Metrics,
        state::{ConnectionRejection, OverloadAction},
    },
};

/// How long accepting pauses if the process or the system is out of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// TCP keepalive detects a dead peer while nothing is sent. The user timeout detects it while sent bytes are not
/// acknowledged. HTTP/2's PING is faster, but HTTP/1.1 has none.
const TCP_KEEPALIVE: Duration = Duration::from_secs(15);
const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const TCP_KEEPALIVE_PROBES: u32 = 3;
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(45);

/// A listener, and how it serves its connections.
pub(super) struct Listener<F> {
    pub(super) tcp: TcpListener,
    pub(super) connections: Connections,
    pub(super) tls: Option<Reload<Tls>>,
    pub(super) settings: Settings,
    /// Maximum of open files.
    pub(super) max_files: u64,
    /// Connections that could not be accepted.
    pub(super) accept_errors: IntCounter,
    /// Counts rejected connections.
    pub(super) metrics: Option<Arc<Metrics>>,
    /// Builds the service of one connection.
    pub(super) new_service: F,
}

/// Accepts until `goaway`, then waits until all connections have closed. If it is dropped, it closes them.
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
                listener.accept_errors.inc();
                if let Some(suppressed) = failing.next() {
                    tracing::warn!(%error, suppressed, "connections can't be accepted");
                }
                if is_exhausted(&error) {
                    sleep(ACCEPT_PAUSE).await;
                }
                continue;
            }
        };
        if listener.is_short_of_descriptors(&stream) {
            if let Some(suppressed) = short.next() {
                tracing::warn!(
                    suppressed,
                    "a connection was closed: nearly all open files are in use"
                );
            }
            continue;
        }
        match listener.admit(peer) {
            Some(open) => drop(tasks.spawn(listener.serve(stream, open))),
            None => {
                if let Some(suppressed) = full.next() {
                    let max_connections = listener.connections.limit();
                    tracing::warn!(
                        max_connections,
                        suppressed,
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
    /// Whether nearly all file descriptors are in use. The system assigns the lowest free number, so the number of the newest
    /// shows how many are in use. The remaining ones are for open calls and the admin port.
    fn is_short_of_descriptors(&self, stream: &TcpStream) -> bool {
        let Some(metrics) = &self.metrics else {
            return false;
        };
        let number = u64::try_from(stream.as_raw_fd()).unwrap_or(0);
        let is_short = number >= self.max_files - self.max_files / 20;
        if is_short {
            metrics.state.overloaded(OverloadAction::RejectConnection);
        }
        is_short
    }

    fn admit(&self, peer: SocketAddr) -> Option<Open> {
        match self.connections.admit(peer) {
            Admitted::Yes(open) => Some(open),
            Admitted::Evicting(open) => {
                count_rejection(self.metrics.as_deref(), ConnectionRejection::Evicted);
                Some(open)
            }
            Admitted::No => {
                count_rejection(self.metrics.as_deref(), ConnectionRejection::Limit);
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
            if let Err(rejection) = served {
                count_rejection(metrics.as_deref(), rejection);
            }
        }
    }
}

fn count_rejection(metrics: Option<&Metrics>, rejection: ConnectionRejection) {
    if let Some(metrics) = metrics {
        metrics.state.connection_rejected(rejection);
    }
}

fn set_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?; // otherwise a token is delayed by about 10 ms
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(TCP_KEEPALIVE)
        .with_interval(TCP_KEEPALIVE_INTERVAL)
        .with_retries(TCP_KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT))
}

/// Whether accepting fails until resources are released (accept(2)). All other errors concern one connection.
fn is_exhausted(error: &io::Error) -> bool {
    let exhausted = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    error
        .raw_os_error()
        .is_some_and(|code| exhausted.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepting_pauses_only_if_a_resource_is_exhausted() {
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
