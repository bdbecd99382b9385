//! An upstream that sends each reply twice: no caller gets the reply to another.
//!
//! It replies to each request with the key of that request, and sends the reply again a millisecond later, like a defective
//! proxy. The next call on that connection would get the second reply.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

use crate::support::{Bridge, ask, extra::with_metadata};

/// How long a test waits for an expected event.
const TIMEOUT: Duration = Duration::from_secs(10);

/// An upstream that sends each reply twice.
struct DoubleReplies {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    /// Notified when the bridge closes a connection after its second reply, without another request.
    closed: Arc<Notify>,
}

impl DoubleReplies {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let this = Self {
            address: listener.local_addr().expect("bound"),
            requests: Arc::default(),
            closed: Arc::default(),
        };
        let (requests, closed) = (Arc::clone(&this.requests), Arc::clone(&this.closed));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (requests, closed) = (Arc::clone(&requests), Arc::clone(&closed));
                tokio::spawn(async move {
                    if reply_twice(socket, &requests).await.is_none() {
                        closed.notify_one();
                    }
                });
            }
        });
        this
    }

    fn url(&self) -> String {
        format!("http://{}/api/v1", self.address)
    }
}

/// Replies until the peer closes the connection.
async fn reply_twice(mut socket: TcpStream, requests: &AtomicUsize) -> Option<()> {
    socket.set_nodelay(true).ok()?;
    loop {
        let key = key_of_request(&mut socket).await?;
        requests.fetch_add(1, Ordering::SeqCst);
        let body = json!({"response": key, "thread_id": "t"}).to_string();
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(answer.as_bytes()).await.ok()?;
        tokio::time::sleep(Duration::from_millis(1)).await;
        socket.write_all(answer.as_bytes()).await.ok()?;
    }
}

/// Reads the next complete request and returns its key; the body is a JSON object.
async fn key_of_request(socket: &mut TcpStream) -> Option<String> {
    let mut text = String::new();
    while !text.ends_with('}') {
        let mut bytes = [0; 4096];
        let read = socket
            .read(&mut bytes)
            .await
            .ok()
            .filter(|read| *read > 0)?;
        text += str::from_utf8(&bytes[..read]).expect("ASCII");
    }
    let key = text
        .lines()
        .find_map(|line| line.strip_prefix("x-api-key: "));
    Some(key.expect("a key").to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_caller_with_its_own_key_gets_the_reply_to_another() {
    let upstream = DoubleReplies::start().await;
    let bridge = Bridge::with(&upstream.url(), &[("CREDENTIALS", "caller")]).await;
    let mut client = bridge.client.clone();
    for number in 0..40 {
        let key = format!("key-{number}");
        let request = with_metadata(ask("Salam"), &[("x-api-key", key.as_bytes())]);
        let reply = client.invoke(request).await.expect("a reply");
        assert_eq!(reply.into_inner().response, key);
    }
    assert_eq!(upstream.requests.load(Ordering::SeqCst), 40);
}

#[tokio::test]
async fn a_connection_with_unread_bytes_is_closed_and_not_reused() {
    let upstream = DoubleReplies::start().await;
    let bridge = Bridge::start(&upstream.url()).await;
    for number in 1..=3 {
        bridge.invoke("Salam").await.expect("a reply");
        let closed = tokio::time::timeout(TIMEOUT, upstream.closed.notified()).await;
        closed.expect("the connection is closed");
        assert_eq!(upstream.requests.load(Ordering::SeqCst), number);
    }
}
