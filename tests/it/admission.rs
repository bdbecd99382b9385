//! Limits on calls (`MAX_CALLS`) and on connections (`MAX_CONNECTIONS`).

use std::{fmt::Debug, future::Future, time::Duration};

use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;

use crate::support::{
    Bridge, RichStatus, ask, ask_stream,
    callers::{CallersFile, entry},
    deployed::Deployed,
    extra::{advance_time, with_metadata},
    reply_json, sse_answer, sse_tokens,
    upstream::{Reply, Upstream},
};

/// A generous timeout for something that happens at once.
const SOON: Duration = Duration::from_secs(5);

/// A bridge with a limit of one call.
async fn with_one_permit(upstream: &Upstream) -> Bridge {
    Bridge::with(&upstream.url(), &[("MAX_CALLS", "1")]).await
}

fn an_open_stream() -> Reply {
    Reply::sse(sse_tokens(&["a"])).then_hold()
}

fn a_reply() -> Reply {
    Reply::json(200, reply_json())
}

/// Asserts that the call is rejected at once, instead of waiting in HTTP/2.
async fn assert_saturated<T: Debug>(call: impl Future<Output = Result<T, Status>>) {
    let answer = timeout(SOON, call).await.expect("at once");
    let status = answer.expect_err("no permit");
    let saturated = (Code::Unavailable, "BRIDGE_SATURATED".to_owned());
    assert_eq!(status.code_and_reason(), saturated, "{status:?}");
    assert_eq!(status.info("sent").as_deref(), Some("false"));
    assert_eq!(status.pushback(), None, "the caller's own policy decides");
}

#[tokio::test]
async fn a_call_over_the_limit_is_rejected_while_a_stream_is_open() {
    let upstream = Upstream::scripted([an_open_stream()]);
    let bridge = with_one_permit(&upstream).await;
    let _open = bridge.stream("Salam").await.expect("a token");
    assert_saturated(bridge.invoke("Salam")).await;
    assert_saturated(bridge.stream("Salam")).await;
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn a_call_over_the_limit_is_rejected_while_another_waits_for_its_reply() {
    let upstream = Upstream::scripted([Reply::nothing().then_hold()]);
    let bridge = with_one_permit(&upstream).await;
    let mut client = bridge.client.clone();
    let waiting = tokio::spawn(async move { client.invoke(ask("Salam")).await });
    upstream.wait_for_requests(1).await;
    assert_saturated(bridge.invoke("Salam")).await;
    assert_eq!(upstream.requests().len(), 1);
    waiting.abort();
}

#[tokio::test]
async fn max_calls_limits_all_connections_together() {
    let upstream = Upstream::scripted([an_open_stream(), an_open_stream(), an_open_stream()]);
    let bridge = Bridge::with(&upstream.url(), &[("MAX_CALLS", "3")]).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut client = bridge.new_client();
        open.push(client.stream(ask_stream("Salam")).await.expect("a permit"));
    }
    assert_saturated(bridge.invoke("Salam")).await;
}

#[tokio::test]
async fn health_is_served_when_calls_are_at_the_limit() {
    let upstream = Upstream::scripted([an_open_stream()]);
    let bridge = with_one_permit(&upstream).await;
    let _open = bridge.stream("Salam").await.expect("a token");
    let health = timeout(SOON, bridge.health("")).await;
    let health = health.expect("at once").expect("known");
    assert_eq!(health, ServingStatus::Serving);
}

#[tokio::test]
async fn a_finished_stream_releases_its_permit() {
    let upstream = Upstream::scripted([Reply::sse(sse_answer(&["a"])), a_reply()]);
    let bridge = with_one_permit(&upstream).await;
    bridge.stream_all("Salam").await.1.expect("OK");
    bridge.invoke("Salam").await.expect("a permit");
}

#[tokio::test]
async fn a_finished_invoke_releases_its_permit() {
    let upstream = Upstream::scripted([a_reply(), a_reply()]);
    let bridge = with_one_permit(&upstream).await;
    bridge.invoke("Salam").await.expect("a reply");
    bridge.invoke("Salam").await.expect("a permit");
}

#[tokio::test]
async fn a_caller_who_leaves_mid_stream_releases_its_permit() {
    let upstream = Upstream::scripted([an_open_stream(), a_reply()]);
    let bridge = with_one_permit(&upstream).await;
    drop(bridge.stream("Salam").await.expect("a token"));
    upstream.wait_for_close().await;
    bridge.invoke("Salam").await.expect("a permit");
}

#[tokio::test]
async fn a_caller_who_leaves_before_the_reply_releases_its_permit() {
    for is_stream in [false, true] {
        let upstream = Upstream::scripted([Reply::nothing().then_hold(), a_reply()]);
        let bridge = with_one_permit(&upstream).await;
        let mut client = bridge.client.clone();
        let waiting = tokio::spawn(async move {
            match is_stream {
                false => client.invoke(ask("Salam")).await.map(drop),
                true => client.stream(ask_stream("Salam")).await.map(drop),
            }
        });
        upstream.wait_for_requests(1).await;
        waiting.abort();
        upstream.wait_for_close().await;
        bridge.invoke("Salam").await.expect("a permit");
    }
}

#[tokio::test]
async fn a_failed_call_releases_its_permit() {
    let failures = [
        Reply::json(500, "{}"),
        Reply::nothing(),
        Reply::sse(sse_tokens(&["a"])).then_reset(),
        Reply::sse("event: error\ndata: no\n\n"),
    ];
    for failure in failures {
        let upstream = Upstream::scripted([failure, a_reply()]);
        let bridge = with_one_permit(&upstream).await;
        let (_, ending) = bridge.stream_all("Salam").await;
        ending.expect_err("a failure");
        bridge.invoke("Salam").await.expect("a permit");
    }
}

#[tokio::test]
async fn an_invalid_call_releases_its_permit() {
    let upstream = Upstream::scripted([a_reply()]);
    let bridge = with_one_permit(&upstream).await;
    let status = bridge.invoke("").await;
    let invalid = (Code::InvalidArgument, "INVALID_REQUEST".to_owned());
    assert_eq!(status.expect_err("empty").code_and_reason(), invalid);
    bridge.invoke("Salam").await.expect("a permit");
}

#[tokio::test]
async fn a_connection_over_the_limit_is_closed_at_once() {
    let upstream = Upstream::answering(a_reply());
    let bridge = Bridge::with(&upstream.url(), &[("MAX_CONNECTIONS", "1")]).await;
    bridge.invoke("Salam").await.expect("a reply");
    let mut second = TcpStream::connect(bridge.address).await.expect("a port");
    assert_closed(&mut second).await;
    bridge.invoke("Salam").await.expect("still open");
}

async fn assert_closed(connection: &mut TcpStream) {
    let mut all = Vec::new();
    let end = timeout(SOON, connection.read_to_end(&mut all)).await;
    end.expect("closed at once").expect("the end");
}

#[tokio::test]
async fn a_connection_within_the_limit_stays_open() {
    let upstream = Upstream::answering(a_reply());
    let bridge = Bridge::with(&upstream.url(), &[("MAX_CONNECTIONS", "2")]).await;
    bridge.invoke("Salam").await.expect("a reply");
    let mut second = bridge.new_client();
    second.invoke(ask("Salam")).await.expect("a reply");
}

#[tokio::test]
async fn a_silent_connection_is_closed_after_ten_seconds() {
    let upstream = Upstream::answering(a_reply());
    let bridge = Bridge::start(&upstream.url()).await;
    let mut silent = TcpStream::connect(bridge.address).await.expect("a port");
    advance_time(Duration::from_secs(11)).await; // the preface's timeout is ten seconds
    assert_closed(&mut silent).await;
}

#[tokio::test]
async fn a_full_listener_closes_its_oldest_unused_connection_for_a_new_one() {
    let upstream = Upstream::answering(a_reply());
    let bridge = Bridge::with(&upstream.url(), &[("MAX_CONNECTIONS", "2")]).await;
    bridge.invoke("Salam").await.expect("a reply");
    let mut silent = TcpStream::connect(bridge.address).await.expect("a port");
    let mut new = bridge.new_client();
    new.invoke(ask("Salam")).await.expect("a reply");
    assert_closed(&mut silent).await;
    bridge.invoke("Salam").await.expect("still open");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_bridge_names_the_busiest_callers_once_a_minute() {
    let file = CallersFile::with(&(entry("hog", "h") + &entry("orders", "o")));
    for (callers_file, named) in [(&*file.path(), "hog 3, orders 1"), ("", "127.0.0.1 4")] {
        let upstream = Upstream::answering(an_open_stream());
        let settings = [("MAX_CALLS", "3"), ("CALLERS_FILE", callers_file)];
        let bridge = Deployed::with(&upstream.url(), &settings);
        let mut client = bridge.client();
        let as_caller = |key: &'static [u8]| [("authorization", key)];
        let mut open = Vec::new();
        for _ in 0..3 {
            let ask = with_metadata(ask_stream("Salam"), &as_caller(b"Bearer h"));
            open.push(client.stream(ask).await.expect("a head"));
        }
        for _ in 0..3 {
            let ask = with_metadata(ask("Salam"), &as_caller(b"Bearer o"));
            client.invoke(ask).await.expect_err("full");
        }
        drop(open);
        let log = bridge.running.stop().stderr;
        let lines = log
            .lines()
            .filter(|line| line.contains("MAX_CALLS calls are open"));
        let lines: Vec<_> = lines.collect();
        assert_eq!(lines.len(), 1, "{log}");
        let busiest = format!(r#""busiest":"{named}""#);
        assert!(lines[0].contains(&busiest), "{busiest}: {}", lines[0]);
    }
}
