//! How a page's call and its connection end: deadlines, drains, pages that leave or stop reading, slow heads.

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

/// Far longer than any test: only what must end a call can have ended it.
const NEVER: &str = "1h";
/// How long a test waits for what must happen.
const TIMEOUT: Duration = Duration::from_secs(10);

fn an_open_stream() -> Reply {
    Reply::sse(sse_tokens(&["a"])).then_hold()
}

/// A page in the middle of a stream: its first token has come.
async fn reading(bridge: &Bridge) -> Page {
    let mut page = Page::at(bridge.address).await;
    page.call("Stream", &[], ask_stream("Salam")).await;
    page.head().await;
    page.chunk().await.expect("a token");
    page
}

fn assert_told(status: &Status, code: Code, reason: &str) {
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
    drained.expect("long before the drain's own time is up")
}

#[tokio::test]
async fn a_pages_deadline_is_enforced_before_the_head_and_to_the_end_of_the_stream() {
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
        assert_told(&answer.status(), Code::DeadlineExceeded, "CALLER_DEADLINE");
        upstream.wait_for_close().await;
    }
}

#[tokio::test]
async fn a_page_that_never_sends_its_message_is_not_waited_for_beyond_the_deadlines() {
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
async fn a_page_that_stops_reading_does_not_keep_the_upstream_call_past_its_lifetime() {
    let flood = vec![sse_tokens(&[&"x".repeat(60_000)]); 400];
    let upstream = Upstream::answering(Reply::sse_chunks(flood).then_hold());
    let settings = [("STREAM_LIFETIME", "2s"), ("MAX_CALLS", "1")];
    let bridge = for_pages(&upstream, &settings).await;
    let mut unread = Page::at(bridge.address).await;
    unread.call("Stream", &[], ask_stream("Salam")).await;
    upstream.wait_for_close().await; // while nobody reads
    unread.is_cut_off().await;
    let (_, metrics) = bridge.admin("/metrics").await;
    let reason = r#"alim_bridge_failures_total{reason="LIFETIME_EXCEEDED"} 1"#;
    assert!(metrics.lines().any(|told| told == reason), "{metrics}");
}

#[tokio::test]
async fn a_pages_stream_goes_on_through_the_drain_to_its_done_and_its_connection_closes() {
    let gate = Gate::default();
    let reply = Reply::sse(sse_tokens(&["a"])).wait(&gate).chunk(DONE);
    let upstream = Upstream::answering(reply);
    let bridge = for_pages(&upstream, &[("DRAIN_TIMEOUT", NEVER)]).await;
    let mut page = reading(&bridge).await;
    let mut idle = Page::at(bridge.address).await;
    idle.call("Nothing", &[], ask("")).await;
    idle.answer().await;
    bridge.shutdown.drain.cancel();
    idle.is_closed().await; // so the drain has reached the connections
    gate.open();
    let rest = page.rest().await;
    assert!(rest.windows(15).any(|part| part == b"grpc-status:0\r\n"));
    page.is_closed().await;
    assert_eq!(drained(bridge).await, Drained::Clean);
}

#[tokio::test]
async fn a_pages_stream_that_outlasts_the_drain_ends_with_a_status_of_its_own() {
    let upstream = Upstream::answering(an_open_stream());
    let bridge = for_pages(&upstream, &[("DRAIN_TIMEOUT", "50ms")]).await;
    let mut page = Page::at(bridge.address).await;
    page.call("Stream", &[], ask_stream("Salam")).await;
    upstream.wait_for_requests(1).await;
    let (answer, drained) = tokio::join!(page.answer(), drained(bridge));
    assert_told(&answer.status(), Code::Unavailable, "BRIDGE_DRAINING");
    assert_eq!(drained, Drained::Forced);
    upstream.wait_for_close().await;
}

#[tokio::test]
async fn a_page_that_does_not_read_cannot_hold_up_the_drain() {
    let flood = vec![sse_tokens(&[&"x".repeat(100_000)]); 100];
    let upstream = Upstream::answering(Reply::sse_chunks(flood).then_hold());
    let bridge = for_pages(&upstream, &[("DRAIN_TIMEOUT", "50ms")]).await;
    let _unread = reading(&bridge).await;
    assert_eq!(drained(bridge).await, Drained::Forced);
    upstream.wait_for_close().await;
}

#[tokio::test]
async fn a_connection_of_a_certain_age_closes_after_its_call() {
    let gate = Gate::default();
    let reply = Reply::sse(sse_tokens(&["a"])).wait(&gate).chunk(DONE);
    let upstream = Upstream::answering(reply);
    let bridge = for_pages(&upstream, &[("MAX_CONNECTION_AGE", "300ms")]).await;
    let mut page = reading(&bridge).await;
    let mut idle = Page::at(bridge.address).await;
    idle.call("Nothing", &[], ask("")).await;
    idle.answer().await;
    idle.is_closed().await; // and so the other one is as old
    gate.open();
    let rest = page.rest().await;
    assert!(rest.windows(15).any(|part| part == b"grpc-status:0\r\n"));
    page.is_closed().await;
}

#[tokio::test]
async fn a_connection_whose_first_head_is_not_whole_in_ten_seconds_is_closed() {
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
        page.is_closed().await;
    }
}

#[tokio::test]
async fn a_head_that_came_is_not_followed_by_a_limit_on_the_call() {
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
async fn a_connection_that_sends_no_next_head_is_closed_after_half_a_minute() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let bridge = for_pages(&upstream, &[]).await;
    let mut page = Page::at(bridge.address).await;
    page.call("Invoke", &[], ask("Salam")).await;
    assert_eq!(page.answer().await.status().code(), Code::Ok);
    page.send(b"POST / HTTP/1.1\r\n").await;
    advance_time(Duration::from_secs(31)).await;
    page.is_closed().await;
}

#[tokio::test]
async fn a_page_that_never_reads_again_gives_its_connections_place_back() {
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
        if timeout(Duration::from_millis(200), next.is_closed())
            .await
            .is_err()
        {
            return; // it may stay
        }
    }
    panic!("its place is still taken");
}
