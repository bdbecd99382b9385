//! Corner cases: a second signal, unread responses, floods.

use std::time::Duration;

use crate::support::{
    Bridge, RichStatus,
    bare::Connection,
    extra::next_health,
    read_all, sse_tokens,
    upstream::{Reply, Upstream},
};
use alim_bridge::server::Drained;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use serde_json::json;
use tokio::time::timeout;
use tonic::Code;
use tower::Service;

const NEVER: &str = "1h";

/// A generous timeout for something that happens at once.
const SOON: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_second_signal_that_aborts_a_call_is_a_forced_drain() {
    for delay in ["0s", NEVER] {
        let upstream = Upstream::answering(Reply::sse(sse_tokens(&["a"])).then_hold());
        let settings = [("DRAIN_DELAY", delay), ("DRAIN_TIMEOUT", NEVER)];
        let bridge = Bridge::with(&upstream.url(), &settings).await;
        let events = bridge.stream("Salam").await.expect("a token").into_inner();
        let mut watch = bridge.watch("").await;
        next_health(&mut watch).await;
        bridge.shutdown.drain.cancel();
        next_health(&mut watch).await; // NOT_SERVING: the first stage has begun
        bridge.shutdown.force.cancel();
        let ((_, ending), drained) = tokio::join!(read_all(events), bridge.drain());
        let status = ending.expect_err("aborted");
        assert_eq!(status.code_and_reason().1, "BRIDGE_DRAINING");
        assert_eq!(drained, Drained::Forced, "after a delay of {delay}");
    }
}

/// The drain waits for data in the transport's buffers, not only for the upstream.
#[tokio::test]
async fn a_drain_waits_for_a_response_that_is_still_being_read() {
    let body = json!({"response": "x".repeat(3_000_000), "thread_id": "t"});
    let upstream = Upstream::answering(Reply::json(200, body));
    let bridge = Bridge::with(&upstream.url(), &[("DRAIN_TIMEOUT", "20s")]).await;
    let mut connection = Connection::open(bridge.address).await;
    let request = http::Request::post("http://bridge/alim.v1.GraphService/Invoke")
        .header("content-type", "application/grpc")
        .body(tonic::body::Body::new(Full::new(Bytes::from_static(
            b"\0\0\0\0\x03\x0a\x01a",
        ))));
    let answer = connection
        .call(request.expect("a request"))
        .await
        .expect("a head");
    let drained = tokio::spawn(bridge.drain());
    tokio::time::sleep(Duration::from_secs(1)).await; // longer than the flush after a forced drain
    let body = answer
        .into_body()
        .collect()
        .await
        .expect("the complete response");
    assert_eq!(body.trailers().expect("trailers")["grpc-status"], "0");
    assert!(body.to_bytes().len() > 3_000_000);
    drop(connection);
    assert_eq!(drained.await.expect("no panic"), Drained::Clean);
}

/// Endless heartbeats must not keep a worker thread from the timers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_heartbeats_does_not_delay_timeouts() {
    let flood = Reply::sse_chunks(vec![":\n\n".repeat(20_000); 400]).then_hold();
    let upstream = Upstream::answering(flood);
    let bridge = Bridge::with(&upstream.url(), &[("STREAM_INITIAL_TIMEOUT", "300ms")]).await;
    let status = timeout(SOON, bridge.stream_failure("Salam")).await;
    let status = status.expect("a status in time");
    let expected = (Code::DeadlineExceeded, "INITIAL_TIMEOUT".to_owned());
    assert_eq!(status.code_and_reason(), expected);
}
