//! Timeouts and deadlines: each ends its call with its own reason, and drops the upstream call at once.

use std::time::Duration;

use futures_util::stream;
use http_body_util::StreamBody;
use tonic::{Code, Status};
use tower::Service;

use crate::support::{
    Bridge, RichStatus, ask, ask_stream,
    bare::Connection,
    read_all, sse_answer, sse_tokens, text, token,
    upstream::{Gate, Reply, Upstream},
    with_timeout,
};

fn assert_deadline_exceeded(status: &Status, reason: &str) {
    let expected = (Code::DeadlineExceeded, reason.to_owned());
    assert_eq!(status.code_and_reason(), expected, "{status:?}");
    assert_eq!(status.pushback().as_deref(), Some("-1"));
}

#[tokio::test]
async fn a_slow_invoke_ends_by_invoke_timeout() {
    for silence in [
        Reply::nothing().then_hold(),
        Reply::head(200)
            .header("content-type", "application/json")
            .header("content-length", "9")
            .then_hold(),
    ] {
        let upstream = Upstream::answering(silence);
        let bridge = Bridge::with(&upstream.url(), &[("INVOKE_TIMEOUT", "200ms")]).await;
        let status = bridge.invoke("Salam").await.expect_err("too late");
        assert_deadline_exceeded(&status, "INVOKE_TIMEOUT");
        upstream.wait_for_close().await;
    }
}

#[tokio::test]
async fn a_stream_without_a_first_event_ends_by_initial_timeout_and_comments_do_not_count() {
    for silence in [
        Reply::nothing().then_hold(),
        Reply::sse(": ping\n\n").then_hold(),
    ] {
        let upstream = Upstream::answering(silence);
        let bridge = Bridge::with(&upstream.url(), &[("STREAM_INITIAL_TIMEOUT", "200ms")]).await;
        let status = bridge.stream_failure("Salam").await;
        assert_deadline_exceeded(&status, "INITIAL_TIMEOUT");
        upstream.wait_for_close().await;
    }
}

#[tokio::test]
async fn a_silent_stream_ends_by_idle_timeout() {
    let upstream = Upstream::answering(Reply::sse(sse_tokens(&["a"])).then_hold());
    let bridge = Bridge::with(&upstream.url(), &[("STREAM_IDLE_TIMEOUT", "200ms")]).await;
    let (events, ending) = bridge.stream_all("Salam").await;
    assert_eq!(events, [token("a")]);
    assert_deadline_exceeded(&ending.expect_err("silent"), "IDLE_TIMEOUT");
    upstream.wait_for_close().await;
}

#[tokio::test]
async fn heartbeats_keep_a_stream_from_being_idle() {
    let gates: Vec<_> = (0..9).map(|_| Gate::default()).collect();
    let mut reply = Reply::sse(sse_tokens(&["a"]));
    for gate in &gates[..8] {
        reply = reply.wait(gate).chunk(": ping\n\n");
    }
    let upstream = Upstream::answering(reply.wait(&gates[8]).chunk(sse_answer(&["b"])));
    let bridge = Bridge::with(&upstream.url(), &[("STREAM_IDLE_TIMEOUT", "400ms")]).await;
    let heartbeat = tokio::spawn(async move {
        for gate in gates {
            tokio::time::sleep(Duration::from_millis(100)).await; // twice the idle time in all
            gate.open();
        }
    });
    let (events, ending) = bridge.stream_all("Salam").await;
    ending.expect("OK: bytes kept coming");
    assert_eq!(text(&events), "ab");
    heartbeat.await.expect("no panic");
}

#[tokio::test]
async fn a_long_stream_ends_by_its_lifetime() {
    let upstream = Upstream::answering(Reply::sse(sse_tokens(&["a"])).then_hold());
    let bridge = Bridge::with(&upstream.url(), &[("STREAM_LIFETIME", "300ms")]).await;
    let (events, ending) = bridge.stream_all("Salam").await;
    assert_eq!(events, [token("a")]);
    assert_deadline_exceeded(&ending.expect_err("too long"), "LIFETIME_EXCEEDED");
    upstream.wait_for_close().await;
}

/// Sets grpc-timeout as plain metadata, so that the client does not enforce it.
fn with_grpc_timeout<T>(timeout: &'static str, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request
        .metadata_mut()
        .insert("grpc-timeout", timeout.parse().expect("ASCII"));
    request
}

#[tokio::test]
async fn the_bridge_enforces_the_callers_deadline_to_the_end_of_the_stream() {
    let upstream = Upstream::answering(Reply::sse(sse_tokens(&["a"])).then_hold());
    let bridge = Bridge::start(&upstream.url()).await;
    let mut client = bridge.bare_client().await;
    let answer = client
        .stream(with_grpc_timeout("300m", ask_stream("Salam")))
        .await;
    let (events, ending) = read_all(answer.expect("an event").into_inner()).await;
    assert_eq!(events, [token("a")]);
    assert_deadline_exceeded(&ending.expect_err("too late"), "CALLER_DEADLINE");
    upstream.wait_for_close().await;
}

#[tokio::test]
async fn a_callers_deadline_before_the_head_is_deadline_exceeded_and_not_cancelled() {
    let upstream = Upstream::answering(Reply::nothing().then_hold());
    let bridge = Bridge::start(&upstream.url()).await;
    let mut client = bridge.bare_client().await;
    for timeout in ["200m", "20m"] {
        let invoked = client
            .invoke(with_grpc_timeout(timeout, ask("Salam")))
            .await;
        assert_deadline_exceeded(&invoked.expect_err("too late"), "CALLER_DEADLINE");
        let streamed = client
            .stream(with_grpc_timeout(timeout, ask_stream("Salam")))
            .await;
        assert_deadline_exceeded(&streamed.expect_err("too late"), "CALLER_DEADLINE");
        upstream.wait_for_close().await;
    }
}

#[tokio::test]
async fn a_call_without_its_message_ends_at_its_deadline() {
    let upstream = Upstream::answering(Reply::nothing());
    let bridge = Bridge::with(&upstream.url(), &[("INVOKE_TIMEOUT", "300ms")]).await;
    for (timeout, reason) in [("100m", "CALLER_DEADLINE"), ("9S", "INVOKE_TIMEOUT")] {
        let announced = http::Request::post("http://bridge/alim.v1.GraphService/Invoke")
            .header("content-type", "application/grpc")
            .header("grpc-timeout", timeout)
            .body(tonic::body::Body::new(StreamBody::new(stream::pending::<
                Never,
            >())));
        let mut connection = Connection::open(bridge.address).await;
        let answer = connection
            .call(announced.expect("a request"))
            .await
            .expect("an answer");
        assert_deadline_exceeded(
            &Status::from_header_map(answer.headers()).expect("a status"),
            reason,
        );
    }
    assert!(upstream.requests().is_empty());
}

type Never = Result<http_body::Frame<bytes::Bytes>, Status>;

#[tokio::test]
async fn a_client_that_enforces_its_deadline_sees_it_too() {
    let upstream = Upstream::answering(Reply::nothing().then_hold());
    let bridge = Bridge::start(&upstream.url()).await;
    let status = bridge
        .client
        .clone()
        .invoke(with_timeout(200, ask("Salam")))
        .await
        .expect_err("too late");
    assert!(
        matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled),
        "{status:?}"
    );
    upstream.wait_for_close().await;
}

#[tokio::test]
async fn a_caller_who_stops_reading_does_not_keep_the_upstream_call_past_its_lifetime() {
    let flood = "x".repeat(60_000);
    let flood: Vec<_> = (0..400).map(|_| sse_tokens(&[&flood])).collect();
    let upstream = Upstream::answering(Reply::sse_chunks(flood).then_hold());
    let settings = [("STREAM_LIFETIME", "500ms"), ("MAX_CALLS", "1")];
    let bridge = Bridge::with(&upstream.url(), &settings).await;
    let unread = bridge.stream("Salam").await.expect("an event").into_inner();
    upstream.wait_for_close().await; // while nobody reads
    let (events, ending) = read_all(unread).await;
    let reset = ending.expect_err("too long");
    assert_eq!(reset.code(), Code::Cancelled, "RST_STREAM: {reset:?}");
    assert!(events.len() < 400, "the reading stopped with the caller");
    let (_, metrics) = bridge.admin("/metrics").await;
    for line in [
        r#"alim_bridge_failures_total{reason="LIFETIME_EXCEEDED"} 1"#,
        "alim_bridge_caller_cancelled_total 0",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line}: {metrics}"
        );
    }
}

#[tokio::test]
async fn a_caller_who_leaves_closes_the_upstream_connection() {
    for reply in [
        Reply::nothing().then_hold(),
        Reply::sse(sse_tokens(&["a"])).then_hold(),
    ] {
        let upstream = Upstream::answering(reply);
        let bridge = Bridge::start(&upstream.url()).await;
        let (mut invoker, mut streamer) = (bridge.client.clone(), bridge.client.clone());
        let mut events = None;
        tokio::select! {
            _ = invoker.invoke(ask("Salam")) => {}
            _ = async { upstream.wait_for_requests(1).await } => {}
        }
        tokio::select! {
            answer = streamer.stream(ask_stream("Salam")) => events = answer.ok(),
            _ = async { upstream.wait_for_requests(2).await } => {}
        }
        drop(events);
        upstream.wait_for_close().await;
        upstream.wait_for_close().await;
    }
}
