//! The ends of a page's calls and connections: deadlines, drains, cancellation, unread answers, slow heads.

use std::time::Duration;

use crate::support::{
    Bridge, RichStatus, ask, ask_stream,
    extra::advance_time,
    reply_json, sse_tokens, token,
    upstream::{Gate, Reply, Upstream},
};
use alim_bridge::server::Drained;
use tokio::time::timeout;
use tonic::{Code, Status};

use super::{
    DONE, for_pages,
    page::{Page, request},
};

/// Far longer than any test, so that it can't end a call.
const NEVER: &str = "1h";
/// The timeout of every wait.
const TIMEOUT: Duration = Duration::from_secs(10);

fn an_open_stream() -> Reply {
    Reply::sse(sse_tokens(&["a"])).then_hold()
}

/// A page in the middle of a stream, after its first token.
async fn reading(bridge: &Bridge) -> Page {
    let mut page = Page::at(bridge.address).await;
    page.call("Stream", &[], ask_stream("Salam")).await;
    page.head().await;
    page.chunk().await.expect("a token");
    page
}

fn assert_sent(status: &Status, code: Code, reason: &str) {
    assert_eq!(status.code_and_reason(), (code, reason.to_owned()));
    assert_eq!(status.info("sent").as_deref(), Some("true"));
}

fn assert_unsent(status: &Status, reason: &str) {
    let expected = (Code::DeadlineExceeded, reason.to_owned());
    assert_eq!(status.code_and_reason(), expected);
    assert_eq!(status.info("sent").as_deref(), Some("false"));
}

async fn drained(bridge: Bridge) -> Drained {
    let drained = timeout(TIMEOUT, bridge.drain()).await;
    drained.expect("the drain ends long before DRAIN_TIMEOUT")
}

#[tokio::test]
async fn a_pages_deadline_applies_to_the_whole_call() {
    let silent = Reply::nothing().then_hold();
    for (method, reply, events) in [
        ("Invoke", silent.clone(), vec![]),
        ("Stream", silent, vec![]),
        ("Stream", an_open_stream(), vec![token("a")]),
    ] {
        let upstream = Upstream::answering(reply);
        let bridge = for_pages(&upstream, &[]).await;
        let mut page = Page::at(bridge.address).await;
        page.call(method, &[("grpc-timeout", "300m")], ask("Salam"))
            .await;
        let answer = page.answer().await;
        assert_eq!(answer.events(), events);
        assert_sent(&answer.status(), Code::DeadlineExceeded, "CALLER_DEADLINE");
        upstream.wait_for_close().await;
    }
}

#[tokio::test]
async fn a_page_that_never_sends_its_message_times_out() {
    let upstream = Upstream::answering(Reply::nothing());
    let bridge = for_pages(&upstream, &[("MESSAGE_TIMEOUT", "300ms")]).await;
    for (timeout, reason) in [("100m", "CALLER_DEADLINE"), ("9S", "MESSAGE_TIMEOUT")] {
        let headers = [
            ("content-type", "application/grpc-web"),
            ("grpc-timeout", timeout),
        ];
        let whole = request("POST", "/alim.v1.GraphService/Invoke", &headers, &[0; 100]);
        let mut page = Page::at(bridge.address).await;
        page.send(&whole[..whole.len() - 100]).await;
        let answer = page.answer().await;
        assert_unsent(&answer.status(), reason);
    }
    assert!(upstream.requests().is_empty());
}

/// hyper closes a connection whose request it has not read to its end.
#[tokio::test]
async fn an_answer_before_the_requests_end_announces_the_close_and_no_reset_can_lose_it() {
    let upstream = Upstream::answering(Reply::nothing());
    let bridge = for_pages(&upstream, &[]).await;
    let headers = [("content-type", "application/json")];
    let body = vec![b'x'; 512 * 1024];
    let whole = request("POST", "/alim.v1.GraphService/Invoke", &headers, &body);
    let (first, rest) = whole.split_at(whole.len() - body.len() + 1000);
    let mut page = Page::at(bridge.address).await;
    page.send(first).await;
    let head = page.head().await;
    assert_eq!(
        (head.status, &head.headers["connection"]),
        (415, &"close".parse().expect("a value"))
    );
    for piece in rest.chunks(16 * 1024) {
        page.send(piece).await; // fails if the bridge has reset the connection
        tokio::task::yield_now().await;
    }
    page.expect_closed().await;
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn an_answer_to_a_whole_request_keeps_the_connection() {
    let upstream = Upstream::answering(Reply::nothing());
    let bridge = for_pages(&upstream, &[]).await;
    let mut page = Page::at(bridge.address).await;
    for _ in 0..2 {
        page.call("Invoke", &[], ask("")).await;
        let answer = page.answer().await;
        assert_eq!(answer.status().code(), Code::InvalidArgument);
        assert!(!answer.head.headers.contains_key("connection"));
    }
}

#[tokio::test]
async fn a_page_that_leaves_closes_the_upstream_connection_and_is_counted() {
    let upstream = Upstream::scripted([Reply::nothing().then_hold(), an_open_stream()]);
    let bridge = for_pages(&upstream, &[("MAX_CALLS", "1")]).await;
    let mut waiting = Page::at(bridge.address).await;
    waiting.call("Invoke", &[], ask("Salam")).await;
    upstream.wait_for_requests(1).await;
    drop(waiting);
    upstream.wait_for_close().await;
    drop(reading(&bridge).await);
    upstream.wait_for_close().await;
    let (_, metrics) = bridge.admin("/metrics").await;
    assert!(
        metrics.contains("alim_bridge_caller_cancelled_total 2"),
        "{metrics}"
    );
    assert!(metrics.contains("alim_bridge_open_calls 0"), "{metrics}");
}

#[tokio::test]
async fn a_page_that_stops_reading_ends_at_the_streams_lifetime() {
    let flood = vec![sse_tokens(&[&"x".repeat(60_000)]); 400];
    let upstream = Upstream::answering(Reply::sse_chunks(flood).then_hold());
    let settings = [("STREAM_LIFETIME", "2s"), ("MAX_CALLS", "1")];
    let bridge = for_pages(&upstream, &settings).await;
    let mut unread = Page::at(bridge.address).await;
    unread.call("Stream", &[], ask_stream("Salam")).await;
    upstream.wait_for_close().await; // although the page does not read
    unread.expect_truncated().await;
    let (_, metrics) = bridge.admin("/metrics").await;
    let reason = r#"alim_bridge_failures_total{reason="LIFETIME_EXCEEDED"} 1"#;
    assert!(metrics.lines().any(|line| line == reason), "{metrics}");
}

#[tokio::test]
async fn a_pages_stream_completes_during_the_drain_and_its_connection_closes() {
    let gate = Gate::default();
    let reply = Reply::sse(sse_tokens(&["a"])).wait(&gate).chunk(DONE);
    let upstream = Upstream::answering(reply);
    let bridge = for_pages(&upstream, &[("DRAIN_TIMEOUT", NEVER)]).await;
    let mut page = reading(&bridge).await;
    let mut idle = Page::at(bridge.address).await;
    idle.call("Nothing", &[], ask("")).await;
    idle.answer().await;
    bridge.shutdown.drain.cancel();
    idle.expect_closed().await; // so the connections have seen the drain
    gate.open();
    let rest = page.rest().await;
    assert!(rest.windows(15).any(|part| part == b"grpc-status:0\r\n"));
    page.expect_closed().await;
    assert_eq!(drained(bridge).await, Drained::Clean);
}

#[tokio::test]
async fn a_pages_stream_that_outlasts_the_drain_ends_with_a_status() {
    let upstream = Upstream::answering(an_open_stream());
    let bridge = for_pages(&upstream, &[("DRAIN_TIMEOUT", "50ms")]).await;
    let mut page = Page::at(bridge.address).await;
    page.call("Stream", &[], ask_stream("Salam")).await;
    upstream.wait_for_requests(1).await;
    let (answer, drained) = tokio::join!(page.answer(), drained(bridge));
    assert_sent(&answer.status(), Code::Unavailable, "BRIDGE_DRAINING");
    assert_eq!(drained, Drained::Forced);
    upstream.wait_for_close().await;
}

#[tokio::test]
async fn a_page_that_does_not_read_does_not_delay_the_drain() {
    let flood = vec![sse_tokens(&[&"x".repeat(100_000)]); 100];
    let upstream = Upstream::answering(Reply::sse_chunks(flood).then_hold());
    let bridge = for_pages(&upstream, &[("DRAIN_TIMEOUT", "50ms")]).await;
    let _unread = reading(&bridge).await;
    assert_eq!(drained(bridge).await, Drained::Forced);
    upstream.wait_for_close().await;
}

#[tokio::test]
async fn a_connection_at_its_maximum_age_closes_after_its_call() {
    let gate = Gate::default();
    let reply = Reply::sse(sse_tokens(&["a"])).wait(&gate).chunk(DONE);
    let upstream = Upstream::answering(reply);
    let bridge = for_pages(&upstream, &[("MAX_CONNECTION_AGE", "300ms")]).await;
    let mut page = reading(&bridge).await;
    let mut idle = Page::at(bridge.address).await;
    idle.call("Nothing", &[], ask("")).await;
    idle.answer().await;
    idle.expect_closed().await; // so the other one is as old
    gate.open();
    let rest = page.rest().await;
    assert!(rest.windows(15).any(|part| part == b"grpc-status:0\r\n"));
    page.expect_closed().await;
}

#[tokio::test]
async fn a_connection_without_a_complete_head_in_ten_seconds_is_closed() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let bridge = for_pages(&upstream, &[]).await;
    let parts = [
        "",
        "P",
        "POST / HTTP/1.1\r\nhost: bridge\r\ncontent-length: 0\r\n",
    ];
    let mut slow = Vec::new();
    for part in parts {
        let mut page = Page::at(bridge.address).await;
        page.send(part.as_bytes()).await;
        slow.push(page);
    }
    advance_time(Duration::from_secs(11)).await;
    for mut page in slow {
        page.expect_closed().await;
    }
}

#[tokio::test]
async fn the_head_timeout_does_not_limit_the_call() {
    let gate = Gate::default();
    let reply = Reply::sse(sse_tokens(&["a"])).wait(&gate).chunk(DONE);
    let upstream = Upstream::answering(reply);
    let bridge = for_pages(&upstream, &[]).await;
    let mut page = reading(&bridge).await;
    advance_time(Duration::from_secs(40)).await;
    gate.open();
    let answer = page.rest().await;
    assert!(answer.windows(15).any(|part| part == b"grpc-status:0\r\n"));
}

#[tokio::test]
async fn a_connection_without_a_next_head_is_closed_after_30_seconds() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let bridge = for_pages(&upstream, &[]).await;
    let mut page = Page::at(bridge.address).await;
    page.call("Invoke", &[], ask("Salam")).await;
    assert_eq!(page.answer().await.status().code(), Code::Ok);
    page.send(b"POST / HTTP/1.1\r\n").await;
    advance_time(Duration::from_secs(31)).await;
    page.expect_closed().await;
}

#[tokio::test]
async fn a_page_that_never_reads_again_frees_its_connection_slot() {
    let tokens = sse_tokens(&["Suvarma vaxtı səhər tezdəndir. "; 1000]);
    let endless = Reply::sse("").flood(format!("{:x}\r\n{tokens}\r\n", tokens.len()));
    let upstream = Upstream::answering(endless);
    let bridge = for_pages(
        &upstream,
        &[("MAX_CONNECTIONS", "1"), ("STREAM_LIFETIME", "24h")],
    )
    .await;
    let _stopped = reading(&bridge).await;
    for _ in 0..100 {
        advance_time(Duration::from_secs(61)).await;
        let mut next = Page::at(bridge.address).await;
        if timeout(Duration::from_millis(200), next.expect_closed())
            .await
            .is_err()
        {
            return; // it was accepted
        }
    }
    panic!("its slot is still in use");
}
