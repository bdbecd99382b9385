//! How many may come in: calls by their permits, connections by their places.

use std::{fmt::Debug, future::Future, time::Duration};

use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;

use crate::support::{
    Bridge, RichStatus, ask, ask_stream,
    extra::advance_time,
    reply_json, sse_answer, sse_tokens,
    upstream::{Reply, Upstream},
};

/// Long for what happens at once.
const SOON: Duration = Duration::from_secs(5);

/// A bridge with room for one call.
async fn with_room_for_one(upstream: &Upstream) -> Bridge {
    Bridge::with(&upstream.url(), &[("MAX_CALLS", "1")]).await
}

fn an_open_stream() -> Reply {
    Reply::sse(sse_tokens(&["a"])).then_hold()
}

fn a_reply() -> Reply {
    Reply::json(200, reply_json())
}

/// The call is refused at once for want of room, wherever HTTP/2 would make it wait.
async fn assert_saturated<T: Debug>(call: impl Future<Output = Result<T, Status>>) {
    let answer = timeout(SOON, call).await.expect("at once");
    let status = answer.expect_err("no room");
    let told = (Code::Unavailable, "BRIDGE_SATURATED".to_owned());
    assert_eq!(status.code_and_reason(), told, "{status:?}");
    assert_eq!(status.info("sent").as_deref(), Some("false"));
    assert_eq!(status.pushback(), None, "its own policy decides");
}

#[tokio::test]
async fn a_call_over_the_limit_is_refused_while_a_stream_is_open_and_nothing_is_sent() {
    let upstream = Upstream::scripted([an_open_stream()]);
    let bridge = with_room_for_one(&upstream).await;
    let _open = bridge.stream("Salam").await.expect("a token");
    assert_saturated(bridge.invoke("Salam")).await;
    assert_saturated(bridge.stream("Salam")).await;
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn a_call_over_the_limit_is_refused_while_another_waits_for_its_answer() {
    let upstream = Upstream::scripted([Reply::nothing().then_hold()]);
    let bridge = with_room_for_one(&upstream).await;
    let mut client = bridge.client.clone();
    let waiting = tokio::spawn(async move { client.invoke(ask("Salam")).await });
    upstream.wait_for_requests(1).await;
    assert_saturated(bridge.invoke("Salam")).await;
    assert_eq!(upstream.requests().len(), 1);
    waiting.abort();
}

#[tokio::test]
async fn as_many_calls_as_the_limit_says_are_open_over_all_connections_together() {
    let upstream = Upstream::scripted([an_open_stream(), an_open_stream(), an_open_stream()]);
    let bridge = Bridge::with(&upstream.url(), &[("MAX_CALLS", "3")]).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut client = bridge.new_client();
        open.push(client.stream(ask_stream("Salam")).await.expect("room"));
    }
    assert_saturated(bridge.invoke("Salam")).await;
}

#[tokio::test]
async fn health_is_told_on_a_connection_whose_calls_are_at_the_limit() {
    let upstream = Upstream::scripted([an_open_stream()]);
    let bridge = with_room_for_one(&upstream).await;
    let _open = bridge.stream("Salam").await.expect("a token");
    let health = timeout(SOON, bridge.health("")).await;
    let health = health.expect("at once").expect("known");
    assert_eq!(health, ServingStatus::Serving);
}

#[tokio::test]
async fn a_stream_that_has_ended_makes_room() {
    let upstream = Upstream::scripted([Reply::sse(sse_answer(&["a"])), a_reply()]);
    let bridge = with_room_for_one(&upstream).await;
    bridge.stream_all("Salam").await.1.expect("OK");
    bridge.invoke("Salam").await.expect("room");
}

#[tokio::test]
async fn an_invoke_that_has_ended_makes_room() {
    let upstream = Upstream::scripted([a_reply(), a_reply()]);
    let bridge = with_room_for_one(&upstream).await;
    bridge.invoke("Salam").await.expect("a reply");
    bridge.invoke("Salam").await.expect("room");
}

#[tokio::test]
async fn a_caller_who_leaves_in_the_middle_of_a_stream_makes_room() {
    let upstream = Upstream::scripted([an_open_stream(), a_reply()]);
    let bridge = with_room_for_one(&upstream).await;
    drop(bridge.stream("Salam").await.expect("a token"));
    upstream.wait_for_close().await;
    bridge.invoke("Salam").await.expect("room");
}

#[tokio::test]
async fn a_caller_who_leaves_before_there_is_an_answer_makes_room() {
    for is_stream in [false, true] {
        let upstream = Upstream::scripted([Reply::nothing().then_hold(), a_reply()]);
        let bridge = with_room_for_one(&upstream).await;
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
        bridge.invoke("Salam").await.expect("room");
    }
}

#[tokio::test]
async fn a_call_that_failed_makes_room_wherever_it_failed() {
    let failures = [
        Reply::json(500, "{}"),
        Reply::nothing(),
        Reply::sse(sse_tokens(&["a"])).then_reset(),
        Reply::sse("event: error\ndata: no\n\n"),
    ];
    for failure in failures {
        let upstream = Upstream::scripted([failure, a_reply()]);
        let bridge = with_room_for_one(&upstream).await;
        let (_, ending) = bridge.stream_all("Salam").await;
        ending.expect_err("a failure");
        bridge.invoke("Salam").await.expect("room");
    }
}

#[tokio::test]
async fn a_call_that_is_not_valid_gives_its_permit_back() {
    let upstream = Upstream::scripted([a_reply()]);
    let bridge = with_room_for_one(&upstream).await;
    let status = bridge.invoke("").await;
    let invalid = (Code::InvalidArgument, "INVALID_REQUEST".to_owned());
    assert_eq!(status.expect_err("empty").code_and_reason(), invalid);
    bridge.invoke("Salam").await.expect("room");
}

#[tokio::test]
async fn a_connection_over_the_limit_is_closed_at_once_and_the_first_goes_on() {
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
async fn a_connection_that_never_speaks_is_closed_after_ten_seconds() {
    let upstream = Upstream::answering(a_reply());
    let bridge = Bridge::start(&upstream.url()).await;
    let mut silent = TcpStream::connect(bridge.address).await.expect("a port");
    advance_time(Duration::from_secs(11)).await; // its preface was due after ten
    assert_closed(&mut silent).await;
}

#[tokio::test]
async fn a_full_listener_closes_its_oldest_connection_without_a_call_for_a_newcomer() {
    let upstream = Upstream::answering(a_reply());
    let bridge = Bridge::with(&upstream.url(), &[("MAX_CONNECTIONS", "2")]).await;
    bridge.invoke("Salam").await.expect("a reply");
    let mut silent = TcpStream::connect(bridge.address).await.expect("a port");
    let mut newcomer = bridge.new_client();
    newcomer.invoke(ask("Salam")).await.expect("a reply");
    assert_closed(&mut silent).await;
    bridge.invoke("Salam").await.expect("still open");
}
