//! Tests the scripted upstream with a raw socket.

use std::io::ErrorKind;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::upstream::{Gate, Reply, Upstream, refused_url};

const REQUEST: &str =
    "POST /api/v1/graph/invoke HTTP/1.1\r\nX-API-Key: k\r\ncontent-length: 9\r\n\r\n{\"a\":\"b\"}";
const NO_LENGTH: &str = "GET /health HTTP/1.1\r\nhost: a\r\n\r\n";

#[tokio::test]
async fn a_complete_request_is_recorded_and_answered() {
    let upstream = Upstream::answering(Reply::json(201, "{}").header("retry-after", "7"));
    let mut peer = connect(&upstream.url()).await;
    for byte in REQUEST.as_bytes() {
        peer.write_all(&[*byte])
            .await
            .expect("a listening upstream");
    }
    let answer = read_until(&mut peer, "{}").await;
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    assert!(
        answer.contains("content-length: 2\r\nretry-after: 7\r\n\r\n"),
        "{answer}"
    );

    let [request] = &upstream.requests()[..] else {
        panic!("one request")
    };
    assert_eq!(
        (&*request.method, &*request.path),
        ("POST", "/api/v1/graph/invoke")
    );
    assert_eq!(request.headers["x-api-key"], "k");
    assert_eq!(request.json(), serde_json::json!({"a": "b"}));
}

#[tokio::test]
async fn a_connection_is_kept_after_a_complete_reply() {
    let upstream = Upstream::scripted([Reply::json(200, "one"), Reply::sse("two")]);
    let mut peer = connect(&upstream.url()).await;
    send(&mut peer, REQUEST).await;
    read_until(&mut peer, "one").await;
    send(&mut peer, NO_LENGTH).await;
    read_until(&mut peer, "\r\n3\r\ntwo\r\n0\r\n\r\n").await;
    assert_eq!(connections(&upstream), [0, 0]);
}

#[tokio::test]
async fn an_incomplete_request_is_not_recorded() {
    let upstream = Upstream::answering(Reply::nothing());
    let mut peer = connect(&upstream.url()).await;
    send(&mut peer, &REQUEST[..REQUEST.len() - 1]).await;
    peer.shutdown().await.expect("an open socket");
    let end = peer.read_to_end(&mut Vec::new()).await;
    assert_eq!((end.ok(), upstream.requests().len()), (Some(0), 0));
}

#[tokio::test]
async fn a_close_during_an_open_reply_is_noticed() {
    let upstream = Upstream::answering(Reply::sse_chunks(["a", "", "bc"]).then_hold());
    let mut peer = connect(&upstream.url()).await;
    send(&mut peer, REQUEST).await;
    read_until(&mut peer, "\r\n\r\n1\r\na\r\n2\r\nbc\r\n").await;
    drop(peer);
    upstream.wait_for_close().await;
}

#[tokio::test]
async fn a_gate_stops_the_script_until_it_opens() {
    let gate = Gate::default();
    let upstream = Upstream::answering(Reply::sse("a").wait(&gate).chunk("b"));
    let mut peer = connect(&upstream.url()).await;
    send(&mut peer, REQUEST).await;
    assert!(
        read_until(&mut peer, "a\r\n")
            .await
            .ends_with("\r\n1\r\na\r\n")
    );
    let early = peer.try_read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(early, Err(ErrorKind::WouldBlock));
    gate.open();
    read_until(&mut peer, "1\r\nb\r\n0\r\n\r\n").await;
}

#[tokio::test]
async fn a_close_at_a_gate_is_noticed_too() {
    let upstream = Upstream::answering(Reply::nothing().wait(&Gate::default()));
    let mut peer = connect(&upstream.url()).await;
    send(&mut peer, REQUEST).await;
    upstream.wait_for_requests(1).await;
    drop(peer);
    upstream.wait_for_close().await;
}

#[tokio::test]
async fn then_close_ends_and_then_reset_resets() {
    let half = Reply::head(200).header("content-length", "9").send("half");
    let replies = [
        Reply::nothing(),
        half.clone().then_close(),
        half.then_reset(),
        Reply::nothing().then_reset(),
    ];
    let upstream = Upstream::scripted(replies);
    let mut ends = Vec::new();
    for _ in 0..4 {
        let mut peer = connect(&upstream.url()).await;
        send(&mut peer, REQUEST).await;
        let mut answer = Vec::new();
        let end = peer
            .read_to_end(&mut answer)
            .await
            .map_err(|error| error.kind());
        ends.push((answer.ends_with(b"half"), end.map(|_| ())));
    }
    let reset = Err(ErrorKind::ConnectionReset);
    assert_eq!(
        ends,
        [
            (false, Ok(())),
            (true, Ok(())),
            (true, reset),
            (false, reset)
        ]
    );
    assert_eq!(connections(&upstream), [0, 1, 2, 3]);
}

#[tokio::test]
#[should_panic(expected = "2 requests for 1 scripted replies")]
async fn a_request_without_a_reply_fails_the_test() {
    let upstream = Upstream::scripted([Reply::json(200, "{}")]);
    let mut peer = connect(&upstream.url()).await;
    send(&mut peer, &REQUEST.repeat(2)).await;
    read_until(&mut peer, "HTTP/1.1 500 ").await;
}

#[tokio::test]
#[should_panic(expected = "the scripted upstream panicked")]
async fn a_panic_inside_the_upstream_fails_the_test() {
    let upstream = Upstream::answering(Reply::nothing());
    let mut peer = connect(&upstream.url()).await;
    send(&mut peer, "no request\r\n\r\n").await;
    drop(peer.read_to_end(&mut Vec::new()).await);
}

#[tokio::test]
async fn nothing_listens_at_the_refused_url() {
    let refused = TcpStream::connect(authority(&refused_url())).await;
    let error = refused.expect_err("no listener");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

fn connections(upstream: &Upstream) -> Vec<usize> {
    let requests = upstream.requests();
    requests.iter().map(|request| request.connection).collect()
}

fn authority(url: &str) -> &str {
    let path = url.strip_prefix("http://").expect("a plain URL");
    path.strip_suffix("/api/v1").expect("the base path")
}

async fn connect(url: &str) -> TcpStream {
    let connected = TcpStream::connect(authority(url)).await;
    connected.expect("a listening upstream")
}

async fn send(peer: &mut TcpStream, request: &str) {
    let written = peer.write_all(request.as_bytes()).await;
    written.expect("a listening upstream");
}

/// Reads up to and including `end`.
async fn read_until(peer: &mut TcpStream, end: &str) -> String {
    let mut read = String::new();
    while !read.ends_with(end) {
        let byte = peer.read_u8().await;
        read.push(byte.expect("more of the answer").into());
    }
    read
}
