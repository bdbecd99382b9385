//! Connections in: accepted, counted, their TLS handshake done.
//!
//! Each handshake has a task and a time limit of its own, so that a slow one blocks nobody; what must come
//! after it, the opening, has the same limit. Over `MAX_CONNECTIONS` a connection is closed at once,
//! which a balancing caller answers by going elsewhere. TCP_NODELAY is set here, because tonic's own is
//! lost with `serve_with_incoming` and a token would take 10 ms.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::either::Either;

use super::{
    connection::{Awaited, Connection, Io},
    places::Places,
    tls::Tls,
};
use crate::{
    reload::Reload,
    telemetry::{metrics::Metrics, state::Refusal},
};

/// From the connection's start to the end of its TLS handshake, and from then to the end of its opening.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long accepting pauses when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until it is dropped, and sends what is ready for HTTP/2 or, with `serves_http1`, HTTP/1.1.
pub(super) async fn accept(
    listener: TcpListener,
    places: Places,
    metrics: Arc<Metrics>,
    tls: Option<Reload<Tls>>,
    serves_http1: bool,
    ready: mpsc::Sender<io::Result<Connection>>,
) {
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
        let Some(place) = places.take() else {
            metrics.state.refused(Refusal::Limit);
            let max_connections = places.limit();
            tracing::warn!(max_connections, "a connection over the limit was closed");
            continue;
        };
        let tls = tls.as_ref().map(|tls| Arc::clone(&tls.load().config));
        let acceptor = tls.map(TlsAcceptor::from);
        let (ready, metrics) = (ready.clone(), Arc::clone(&metrics));
        handshakes.spawn(async move {
            match shake_hands(stream, acceptor).await {
                Ok(io) => {
                    let awaited = Awaited::new(serves_http1, HANDSHAKE_TIMEOUT, metrics);
                    let connection = Connection::new(io, awaited, place);
                    let _ = ready.send(Ok(connection)).await;
                }
                Err(refusal) => metrics.state.refused(refusal),
            }
        });
    }
}

async fn shake_hands(stream: TcpStream, acceptor: Option<TlsAcceptor>) -> Result<Io, Refusal> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY can't be set");
    }
    let Some(acceptor) = acceptor else {
        return Ok(Either::Left(stream));
    };
    match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => Ok(Either::Right(stream)),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            Err(Refusal::TlsFailed)
        }
        Err(_) => {
            tracing::debug!("a TLS handshake took too long");
            Err(Refusal::TlsTimeout)
        }
    }
}
