//! `POST /calls/{id}/cancel`: what the caller, the upstream and the records see of it.

use serde_json::Value;
use tonic::{Code, Status};

use super::{local, only_call, status, status_when};
use crate::support::{
    Bridge, RichStatus, ask, ask_stream,
    deployed::Deployed,
    extra::with_metadata,
    frames::{END_HEADERS, HEADERS, RESET, Raw, call, frame, head},
    read_all, reply_json, sse_tokens,
    upstream::{Reply, Upstream},
};

const REASON: &str = "OPERATOR_CANCELLED";

async fn cancel(bridge: &Bridge, call: &Value) {
    let answer = local(bridge.admin, &format!("POST /calls/{}/cancel", call["id"])).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["requestId"], call["requestId"]);
}

fn assert_cancelled(status: &Status, was_sent: bool, events: Option<&str>) {
    let expected = (Code::Cancelled, REASON.to_owned());
    assert_eq!(status.code_and_reason(), expected, "{status:?}");
    assert_eq!(status.info("sent"), Some(was_sent.to_string()));
    assert_eq!(status.info("eventsDelivered").as_deref(), events);
    assert_eq!(status.pushback().as_deref(), Some("-1"));
}

/// Waits until the only failed call has been recorded, and checks its record and its metric.
async fn assert_recorded(bridge: &Bridge, method: &str) {
    let is_over = |status: &Value| status["openCalls"]["total"] == 0;
    let status = status_when(bridge, is_over).await;
    let [failed] = &status["lastFailures"].as_array().expect("a list")[..] else {
        panic!("{status:#}")
    };
    let found = (&failed["method"], &failed["reason"], &failed["code"]);
    assert_eq!(found, (&method.into(), &REASON.into(), &"Canceled".into()));
    let (_, metrics) = bridge.admin("/metrics").await;
    let line = format!("alim_bridge_failures_total{{reason=\"{REASON}\"}} 1\n");
    assert!(metrics.contains(&line), "{metrics}");
    assert!(metrics.contains("alim_bridge_caller_cancelled_total 0\n"));
    assert!(metrics.contains("alim_bridge_open_calls 0\n"));
}

#[tokio::test]
async fn a_unary_call_ends_with_cancelled_and_its_upstream_request_is_aborted() {
    let upstream = Upstream::answering(Reply::nothing().then_hold());
    let bridge = Bridge::start(&upstream.url()).await;
    let mut client = bridge.client.clone();
    let caller = tokio::spawn(async move { client.invoke(ask("Salam")).await });
    upstream.wait_for_requests(1).await;
    cancel(&bridge, &only_call(&bridge, "waits_for_upstream").await).await;
    let status = caller.await.expect("no panic").expect_err("cancelled");
    assert_cancelled(&status, true, None);
    upstream.wait_for_close().await;
    assert_recorded(&bridge, "Invoke").await;
}

#[tokio::test]
async fn a_stream_ends_with_cancelled_after_its_events_and_its_upstream_request_is_aborted() {
    let upstream = Upstream::answering(Reply::sse(sse_tokens(&["a", "b"])).then_hold());
    let bridge = Bridge::start(&upstream.url()).await;
    let events = bridge.stream("Salam").await.expect("a token").into_inner();
    let call = only_call(&bridge, "streams").await;
    cancel(&bridge, &call).await;
    let (events, ending) = read_all(events).await;
    assert_eq!(events.len(), 2);
    assert_cancelled(&ending.expect_err("cancelled"), true, Some("2"));
    upstream.wait_for_close().await;
    assert_recorded(&bridge, "Stream").await;
    let again = local(bridge.admin, &format!("POST /calls/{}/cancel", call["id"])).await;
    assert_eq!(again.status, 404, "it is over");
}

#[tokio::test]
async fn a_queued_call_ends_with_cancelled_and_nothing_is_sent() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let settings = [
        ("UPSTREAM_QUOTA", "2/h"),
        ("QUOTA_WAIT", "2h"),
        ("INVOKE_TIMEOUT", "3h"),
    ];
    let bridge = Bridge::with(&upstream.url(), &settings).await;
    for _ in 0..2 {
        bridge.invoke("Salam").await.expect("within the quota");
    }
    let mut client = bridge.client.clone();
    let caller = tokio::spawn(async move { client.invoke(ask("Salam")).await });
    let call = only_call(&bridge, "queued").await;
    assert_eq!(status(&bridge).await["quota"]["waiting"], 1);
    cancel(&bridge, &call).await;
    let ended = caller.await.expect("no panic").expect_err("cancelled");
    assert_cancelled(&ended, false, None);
    assert_eq!(upstream.requests().len(), 2);
    assert_recorded(&bridge, "Invoke").await;
    assert_eq!(status(&bridge).await["quota"]["waiting"], 0);
}

#[tokio::test]
async fn a_call_whose_message_is_not_complete_is_cancelled() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let bridge = Bridge::start(&upstream.url()).await;
    let mut caller = Raw::open(bridge.address, &[]).await;
    let head = frame(HEADERS, END_HEADERS, 1, &head("Invoke", &[]));
    caller.send(&head).await.expect("open");
    cancel(&bridge, &only_call(&bridge, "reads_message").await).await;
    caller.next(HEADERS).await.expect("a status");
    assert_recorded(&bridge, "Invoke").await;
    assert!(upstream.requests().is_empty());
}

/// The caller can't read a status, so the watchdog resets its stream.
#[tokio::test]
async fn a_call_whose_caller_does_not_read_is_reset() {
    let long = sse_tokens(&[&"a".repeat(200_000)]);
    let upstream = Upstream::answering(Reply::sse(long).then_hold());
    let bridge = Bridge::start(&upstream.url()).await;
    let no_window = [0, 4, 0, 0, 0, 0]; // SETTINGS_INITIAL_WINDOW_SIZE
    let mut caller = Raw::open(bridge.address, &no_window).await;
    caller.send(&call("Stream", 1, &[])).await.expect("open");
    cancel(&bridge, &only_call(&bridge, "waits_for_caller").await).await;
    caller.next(RESET).await.expect("a reset");
    upstream.wait_for_close().await;
    assert_recorded(&bridge, "Stream").await;
}

#[tokio::test]
async fn only_the_chosen_call_is_cancelled() {
    let upstream = Upstream::answering(Reply::sse(sse_tokens(&["a"])).then_hold());
    let bridge = Bridge::start(&upstream.url()).await;
    let mut calls = Vec::new();
    for id in [b"one".as_slice(), b"two", b"three"] {
        let request = with_metadata(ask_stream("Salam"), &[("x-request-id", id)]);
        let events = bridge.client.clone().stream(request).await;
        calls.push(events.expect("a token").into_inner());
    }
    let open = status(&bridge).await["openCalls"]["calls"].clone();
    let ids: Vec<_> = open
        .as_array()
        .expect("a list")
        .iter()
        .map(|call| &call["requestId"])
        .collect();
    assert_eq!(ids, ["one", "two", "three"], "the oldest first");
    cancel(&bridge, &open[1]).await;
    let (_, ending) = read_all(calls.remove(1)).await;
    assert_cancelled(&ending.expect_err("cancelled"), true, Some("1"));
    let left = status_when(&bridge, |status| status["openCalls"]["total"] == 2).await;
    let left = left["openCalls"]["calls"].as_array().expect("a list");
    assert_eq!(
        (&left[0]["id"], &left[1]["id"]),
        (&open[0]["id"], &open[2]["id"])
    );
    for id in ["0", "-1", "x", "99999999999999999999", "4"] {
        let answer = local(bridge.admin, &format!("POST /calls/{id}/cancel")).await;
        assert_eq!(answer.status, 404, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelling_and_the_cancelled_call_are_logged() {
    let upstream = Upstream::answering(Reply::nothing().then_hold());
    let mut bridge = Deployed::with(&upstream.url(), &[]);
    let mut client = bridge.client();
    let caller = tokio::spawn(async move { client.invoke(ask("Salam")).await });
    upstream.wait_for_requests(1).await;
    let status = local(bridge.admin, "GET /status").await.json();
    let call = &status["openCalls"]["calls"][0];
    let answer = local(bridge.admin, &format!("POST /calls/{}/cancel", call["id"])).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    caller.await.expect("no panic").expect_err("cancelled");
    let id = call["requestId"].as_str().expect("an id");
    for text in ["an operator cancelled a call", "call ended"] {
        let line = bridge.running.wait_for_log(text);
        assert!(line.contains(id), "{line}");
        assert!(text != "call ended" || line.contains(REASON), "{line}");
    }
}
