//! Connections in: accepted, counted, their TLS handshake done.
//!
//! Each handshake has a task and a time limit of its own, so that a slow one blocks nobody; what must come
//! after it, the opening, has the same limit. Over `MAX_CONNECTIONS` a connection is closed at once,
//! which a balancing caller answers by going elsewhere. TCP_NODELAY is set here, because tonic's own is
//! lost with `serve_with_incoming` and a token would take 10 ms.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, rustls};
use tokio_util::either::Either;

use super::connection::{Connection, Io};
use crate::reload::Reload;

/// From the connection's start to the end of its TLS handshake, and from then to the end of its opening.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long accepting pauses when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
                let connection = Connection::new(io, serves_http1, HANDSHAKE_TIMEOUT, place);
                let _ = ready.send(Ok(connection)).await;
            }
        });
    }
}

async fn shake_hands(stream: TcpStream, acceptor: Option<TlsAcceptor>) -> Option<Io> {
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
