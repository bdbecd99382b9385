//! Hostile callers: unfinished messages, unread answers, heads without messages, and silent connections.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures_util::future::{join, join_all};
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};
use tower::Service;

use super::HOSTILE;
use crate::{
    connections::{
        INVOKE, request, unfinished,
        unread::{STREAM, question},
    },
    support::{
        bare::Connection,
        frames::{END_HEADERS, HEADERS, Raw, frame, head},
    },
};

/// Concurrent calls on one connection.
const CALLS: u32 = 10;
/// The lifetime of a connection.
const ROUND: Duration = Duration::from_millis(700);

/// Runs all attacks on new connections until the time is up.
pub(super) async fn attack(bridge: SocketAddr, end: Instant) {
    let calls = async {
        while Instant::now() < end {
            join(unfinished_messages(bridge), unread_answers(bridge)).await;
        }
    };
    let connections = async {
        while Instant::now() < end {
            join(heads(bridge), silence(bridge)).await;
        }
    };
    join(calls, connections).await;
}

async fn unfinished_messages(bridge: SocketAddr) {
    let connection = Connection::open(bridge).await;
    let calls = (0..CALLS).map(|_| {
        let mut connection = connection.clone();
        async move {
            connection
                .call(request(INVOKE, "application/grpc", unfinished(0)))
                .await
        }
    });
    let _ended = timeout(ROUND, join_all(calls)).await;
}

async fn unread_answers(bridge: SocketAddr) {
    let connection = Connection::with_window(bridge, 0).await;
    let calls = (0..CALLS).map(|call| {
        let mut connection = connection.clone();
        let path = if call % 2 == 0 { INVOKE } else { STREAM };
        let request = request(path, "application/grpc", question(&HOSTILE.to_string()));
        async move {
            let answer = connection.call(request).await;
            tokio::time::sleep(ROUND).await; // and reads nothing of it
            drop(answer);
        }
    });
    let _left = timeout(ROUND, join_all(calls)).await;
}

async fn heads(bridge: SocketAddr) {
    let mut raw = Raw::open(bridge, &[]).await;
    for call in 0..10 * CALLS {
        let head = frame(HEADERS, END_HEADERS, 2 * call + 1, &head("Invoke", &[]));
        if raw.send(&head).await.is_err() {
            return;
        }
    }
    let _ended = timeout(ROUND, async { while raw.next(HEADERS).await.is_some() {} }).await;
}

async fn silence(bridge: SocketAddr) {
    let mut stream = TcpStream::connect(bridge).await.expect("a connection");
    let _closed = timeout(ROUND, stream.read(&mut [0; 64])).await;
}
