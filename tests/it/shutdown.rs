//! The two stages of a shutdown, as callers, probes and the upstream see them.

mod wire;

use std::time::Duration;

use crate::support::{
    Bridge, RichStatus, ask, ask_stream,
    extra::{SERVICE, next_health},
    read_all, reply_json, sse_tokens, token,
    upstream::{Gate, Reply, Upstream},
};
use alim_bridge::{pb::stream_response::Event, server::Drained};
use tokio::{net::TcpStream, time::timeout};
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;

use self::wire::{GOAWAY, HEADERS, Wire};

const DONE: &str = "event: done\ndata: [DONE]\n\n";

/// Far longer than any test, so that only the shutdown can have ended a call.
const NEVER: &str = "1h";
/// How long a test waits for an expected event.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A token, and `done` once the gate opens.
fn token_then_done(gate: &Gate) -> Reply {
    let begun = Reply::sse(sse_tokens(&["a"]));
    begun.wait(gate).chunk(DONE)
}

/// The status of a call that was still open at the drain timeout.
fn assert_forced(status: &Status, events: Option<&str>) {
    let expected = (Code::Unavailable, "BRIDGE_DRAINING".to_owned());
    assert_eq!(status.code_and_reason(), expected, "{status:?}");
    assert_eq!(status.pushback().as_deref(), Some("-1"), "it may have run");
    assert_eq!(status.info("sent").as_deref(), Some("true"));
    assert_eq!(status.info("eventsDelivered").as_deref(), events);
}

/// Begins the drain, and waits until its GOAWAY has reached the wire.
async fn begin_drain(bridge: &Bridge, wire: &Wire) {
    wire.hold();
    bridge.shutdown.drain.cancel();
    wire.holds(GOAWAY).await;
}

async fn drained(bridge: Bridge) -> Drained {
    let drained = timeout(TIMEOUT, bridge.drain()).await;
    drained.expect("long before the drain's own time is up")
}

#[tokio::test]
async fn without_calls_the_drain_is_over_at_once() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let bridge = Bridge::with(&upstream.url(), &[("DRAIN_TIMEOUT", NEVER)]).await;
    bridge.invoke("Salam").await.expect("a reply");
    assert_eq!(drained(bridge).await, Drained::Clean);
}

#[tokio::test]
async fn an_open_stream_continues_through_the_drain_to_its_done() {
    let gate = Gate::default();
    let upstream = Upstream::answering(token_then_done(&gate));
    let bridge = Bridge::with(&upstream.url(), &[("DRAIN_TIMEOUT", NEVER)]).await;
    let wire = Wire::to(bridge.address).await;
    let events = wire.client().stream(ask_stream("Salam")).await;
    begin_drain(&bridge, &wire).await;
    wire.release();
    gate.open();
    let (events, ending) = read_all(events.expect("a token").into_inner()).await;
    ending.expect("OK");
    assert!(matches!(events[..], [Event::Token(_), Event::Done(_)]));
    assert_eq!(drained(bridge).await, Drained::Clean);
}

#[tokio::test]
async fn an_open_invoke_continues_through_the_drain_to_its_reply() {
    let gate = Gate::default();
    let body = reply_json();
    let late = Reply::head(200).header("content-type", "application/json");
    let late = late.header("content-length", &body.len().to_string());
    let upstream = Upstream::answering(late.wait(&gate).send(body));
    let bridge = Bridge::with(&upstream.url(), &[("DRAIN_TIMEOUT", NEVER)]).await;
    let wire = Wire::to(bridge.address).await;
    let mut client = wire.client();
    let answer = tokio::spawn(async move { client.invoke(ask("Salam")).await });
    upstream.wait_for_requests(1).await;
    begin_drain(&bridge, &wire).await;
    wire.release();
    gate.open();
    answer.await.expect("no panic").expect("a reply");
    assert_eq!(drained(bridge).await, Drained::Clean);
}

#[tokio::test]
async fn during_the_drain_new_connections_are_refused() {
    let gate = Gate::default();
    let upstream = Upstream::answering(token_then_done(&gate));
    let bridge = Bridge::with(&upstream.url(), &[("DRAIN_TIMEOUT", NEVER)]).await;
    let wire = Wire::to(bridge.address).await;
    let open = wire.client().stream(ask_stream("Salam")).await;
    begin_drain(&bridge, &wire).await;
    TcpStream::connect(bridge.address)
        .await
        .expect_err("refused");
    gate.open();
    wire.release();
    let open = open.expect("a token").into_inner();
    read_all(open).await.1.expect("OK");
}

#[tokio::test]
async fn a_call_that_crosses_the_goaway_is_rejected_as_draining_and_retryable_elsewhere() {
    let gate = Gate::default();
    let upstream = Upstream::answering(token_then_done(&gate));
    let bridge = Bridge::with(&upstream.url(), &[("DRAIN_TIMEOUT", NEVER)]).await;
    let wire = Wire::to(bridge.address).await;
    let mut client = wire.client();
    let open = client.stream(ask_stream("Salam")).await.expect("a token");
    begin_drain(&bridge, &wire).await; // the caller has not received the GOAWAY yet
    let answered = async {
        wire.holds(HEADERS).await;
        wire.release();
    };
    let (refused, ()) = tokio::join!(client.invoke(ask("late")), answered);
    assert_refused(&refused.expect_err("draining"));
    gate.open();
    read_all(open.into_inner()).await.1.expect("OK");
    assert_eq!(upstream.requests().len(), 1, "the late call was not sent");
    assert_eq!(drained(bridge).await, Drained::Clean);
}

fn assert_refused(status: &Status) {
    let expected = (Code::Unavailable, "BRIDGE_DRAINING".to_owned());
    assert_eq!(status.code_and_reason(), expected, "{status:?}");
    assert_eq!(status.info("sent").as_deref(), Some("false"));
    assert_eq!(status.pushback(), None);
}

#[tokio::test]
async fn a_stream_that_outlasts_the_drain_ends_with_its_own_status() {
    let upstream = Upstream::answering(Reply::sse(sse_tokens(&["a"])).then_hold());
    let bridge = Bridge::with(&upstream.url(), &[("DRAIN_TIMEOUT", "50ms")]).await;
    let events = bridge.stream("Salam").await.expect("a token").into_inner();
    let ((events, ending), drained) = tokio::join!(read_all(events), drained(bridge));
    assert_eq!(events, [token("a")]);
    assert_forced(&ending.expect_err("forced"), Some("1"));
    assert_eq!(drained, Drained::Forced);
    upstream.wait_for_close().await;
}

#[tokio::test]
async fn a_call_without_an_event_or_reply_ends_with_a_status_too() {
    let upstream = Upstream::answering(Reply::nothing().then_hold());
    let bridge = Bridge::with(&upstream.url(), &[("DRAIN_TIMEOUT", "50ms")]).await;
    let (mut first, mut second) = (bridge.client.clone(), bridge.client.clone());
    let invoke = tokio::spawn(async move { first.invoke(ask("Salam")).await });
    let stream = tokio::spawn(async move { second.stream(ask_stream("Salam")).await });
    upstream.wait_for_requests(2).await;
    assert_eq!(drained(bridge).await, Drained::Forced);
    let invoked = invoke.await.expect("no panic");
    assert_forced(&invoked.expect_err("forced"), None);
    let streamed = stream.await.expect("no panic");
    assert_forced(&streamed.expect_err("trailers only"), None);
    upstream.wait_for_close().await;
    upstream.wait_for_close().await;
}

#[tokio::test]
async fn the_second_stage_forces_the_end_at_once_during_the_drain_delay_and_after() {
    for delay in ["0s", NEVER] {
        let upstream = Upstream::answering(Reply::sse(sse_tokens(&["a"])).then_hold());
        let settings = [("DRAIN_DELAY", delay), ("DRAIN_TIMEOUT", NEVER)];
        let bridge = Bridge::with(&upstream.url(), &settings).await;
        let events = bridge.stream("Salam").await.expect("a token").into_inner();
        bridge.shutdown.drain.cancel();
        bridge.shutdown.force.cancel();
        let ((_, ending), _) = tokio::join!(read_all(events), drained(bridge));
        assert_forced(&ending.expect_err("forced"), Some("1"));
        upstream.wait_for_close().await;
    }
}

#[tokio::test]
async fn a_caller_that_does_not_read_cannot_delay_the_drain() {
    let more_than_windows_hold = vec![sse_tokens(&[&"x".repeat(100_000)]); 100];
    let upstream = Upstream::answering(Reply::sse_chunks(more_than_windows_hold).then_hold());
    let bridge = Bridge::with(&upstream.url(), &[("DRAIN_TIMEOUT", "50ms")]).await;
    let _unread = bridge.stream("Salam").await.expect("a token");
    assert_eq!(drained(bridge).await, Drained::Forced);
    upstream.wait_for_close().await;
}

#[tokio::test]
async fn a_caller_that_receives_nothing_cannot_delay_the_second_stage() {
    let upstream = Upstream::answering(Reply::sse(sse_tokens(&["a"])).then_hold());
    let bridge = Bridge::with(&upstream.url(), &[("DRAIN_TIMEOUT", NEVER)]).await;
    let wire = Wire::to(bridge.address).await;
    let _open = wire.client().stream(ask_stream("Salam")).await;
    begin_drain(&bridge, &wire).await; // the wire stays held
    bridge.shutdown.force.cancel();
    assert_eq!(drained(bridge).await, Drained::Forced);
    upstream.wait_for_close().await;
}

#[tokio::test]
async fn a_health_watch_reports_the_drain_and_does_not_delay_it() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let bridge = Bridge::with(&upstream.url(), &[("DRAIN_TIMEOUT", NEVER)]).await;
    let mut watch = bridge.watch("").await;
    assert_eq!(next_health(&mut watch).await, ServingStatus::Serving);
    assert_eq!(drained(bridge).await, Drained::Clean);
    assert_eq!(next_health(&mut watch).await, ServingStatus::NotServing);
    assert_refused(&watch.message().await.expect_err("the end"));
}

#[tokio::test]
async fn during_the_drain_delay_calls_are_answered_and_health_reports_not_serving() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let bridge = Bridge::with(&upstream.url(), &[("DRAIN_DELAY", NEVER)]).await;
    assert_eq!(bridge.admin("/readyz").await.0, 200);
    bridge.shutdown.drain.cancel();
    assert_eq!(bridge.admin("/readyz").await.0, 503);
    assert_eq!(bridge.admin("/livez").await.0, 200);
    bridge.invoke("Salam").await.expect("a reply");
    let mut late = bridge.new_client();
    late.invoke(ask("Salam")).await.expect("a reply");
}

#[tokio::test]
async fn both_services_stop_serving_as_soon_as_the_drain_begins() {
    let upstream = Upstream::answering(Reply::head(200).header("content-length", "0"));
    let health = upstream.url();
    let settings = [
        ("UPSTREAM_HEALTH_URL", health.as_str()),
        ("UPSTREAM_HEALTH_INTERVAL", "10ms"),
        ("DRAIN_DELAY", NEVER),
    ];
    let bridge = Bridge::with(&upstream.url(), &settings).await;
    upstream.wait_for_requests(2).await; // the first probe has a result
    let mut watches = [bridge.watch("").await, bridge.watch(SERVICE).await];
    for expected in [ServingStatus::Serving, ServingStatus::NotServing] {
        for watch in &mut watches {
            assert_eq!(next_health(watch).await, expected);
        }
        bridge.shutdown.drain.cancel();
    }
}
