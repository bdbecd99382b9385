//! Callers who do not read: the watchdog ends their calls, and everything is released.

use std::time::Duration;

use futures_util::future::join_all;
use http_body_util::BodyExt;
use prost::Message;
use tonic::Code;
use tower::Service;

use super::{INVOKE, SOON, request, status};
use crate::support::{
    ask,
    bare::Connection,
    deployed::Deployed,
    frames::{DATA, END_HEADERS, END_STREAM, HEADERS, Raw, frame, head},
    sse_tokens,
    upstream::{Reply, Upstream},
};

pub(crate) const STREAM: &str = "/alim.v1.GraphService/Stream";
/// Enough rounds to notice what one round would leak.
const ROUNDS: u64 = 8;
const CALLS: u64 = 4 * ROUNDS;

/// A complete question in a gRPC frame.
pub(crate) fn question(text: &str) -> tonic::body::Body {
    let message = ask(text).encode_to_vec();
    let length = u32::try_from(message.len()).expect("short").to_be_bytes();
    let framed = [&[0], &length[..], &message].concat();
    tonic::body::Body::new(http_body_util::Full::new(framed.into()))
}

pub(super) fn large_reply() -> Reply {
    let text = "a".repeat(3 << 20);
    let json =
        format!(r#"{{"response":"{text}","thread_id":"6f1c2d3e-4b5a-4978-8a6b-0c1d2e3f4a5b"}}"#);
    Reply::json(200, json)
}

fn large_events() -> Reply {
    Reply::sse_chunks(vec![sse_tokens(&[&"a".repeat(900_000)]); 8]).then_hold()
}

/// Sends four calls at a time and reads only their heads. Each stays open until its deadline.
async fn unread_calls_release_everything(path: &str, reply: Reply, window: u32) {
    let upstream = Upstream::answering(reply);
    let bridge = Deployed::with(&upstream.url(), &[("MAX_CALLS", "4")]);
    let before = bridge.resident_kib();
    let connection = Connection::with_window(bridge.address, window).await;
    let mut open = Vec::new();
    for _ in 0..ROUNDS {
        let calls = (0..4).map(|_| {
            let mut connection = connection.clone();
            let mut request = request(path, "application/grpc", question("Salam"));
            let timeout = http::HeaderValue::from_static("400m");
            request.headers_mut().insert("grpc-timeout", timeout);
            async move { connection.call(request).await.expect("a head") }
        });
        open.extend(join_all(calls).await);
        bridge.wait_for_open_calls(0).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await; // memory is measured after this time
    let grown = bridge.resident_kib().saturating_sub(before);
    assert!(grown < 48 * 1024, "{grown} KiB");
    for answer in open {
        if answer.headers().contains_key("grpc-status") {
            continue; // on a busy machine, the deadline can pass before the head
        }
        let reset = answer.into_body().collect().await.expect_err("a reset");
        assert!(format!("{reset:?}").contains("Reset"), "{reset:?}");
    }
    let mut next = connection.clone();
    let answer = next
        .call(request(INVOKE, "application/grpc", question("")))
        .await;
    let status = status(answer.expect("the connection stays open")).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    let count = async |name, part| bridge.metric(name, part).await;
    assert_eq!(
        count("alim_bridge_failures_total", "CALLER_DEADLINE").await,
        CALLS
    );
    assert_eq!(
        count("grpc_server_handled_total", "DeadlineExceeded").await,
        CALLS
    );
    assert_eq!(count("alim_bridge_caller_cancelled_total", "").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_replies_are_dropped_at_their_deadline() {
    for window in [0, 1] {
        unread_calls_release_everything(INVOKE, large_reply(), window).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_events_are_dropped_at_their_deadline() {
    for window in [0, 1] {
        unread_calls_release_everything(STREAM, large_events(), window).await;
    }
}

/// The caller uses HTTP/2's largest windows, and does not read its socket.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unread_stream_costs_little_memory_with_the_largest_windows() {
    const STREAMS: u32 = 200;
    let tokens = sse_tokens(&["Suvarma vaxtı səhər tezdəndir. ".repeat(30).as_str(); 8]);
    let flood = Reply::sse("").flood(format!("{:x}\r\n{tokens}\r\n", tokens.len()));
    let upstream = Upstream::answering(flood);
    let bridge = Deployed::with(&upstream.url(), &[]);
    let before = bridge.resident_kib();
    let mut attacker = Raw::open(bridge.address, &[0, 4, 0x7f, 0xff, 0xff, 0xff]).await;
    let rest: u32 = (1 << 31) - 1 - 65_535;
    attacker
        .send(&frame(8, 0, 0, &rest.to_be_bytes()))
        .await
        .expect("open");
    let message = ask("Salam").encode_to_vec();
    let framed = [&[0, 0, 0, 0, message.len() as u8], &message[..]].concat();
    for count in 0..STREAMS {
        let head = frame(HEADERS, END_HEADERS, 2 * count + 1, &head("Stream", &[]));
        let message = frame(DATA, END_STREAM, 2 * count + 1, &framed);
        attacker
            .send(&[head, message].concat())
            .await
            .expect("open");
    }
    bridge.wait_for_open_calls(STREAMS.into()).await;
    tokio::time::sleep(SOON).await; // memory is measured after this time
    let each = bridge.resident_kib().saturating_sub(before) / u64::from(STREAMS);
    eprintln!("{each} KiB a stream");
    assert!(each < 400, "{each} KiB a stream");
}
