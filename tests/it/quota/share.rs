//! Calls that wait for the quota: which is served next, and what ends the wait.

use std::time::Duration;

use crate::support::{
    Bridge, RichStatus, ask,
    callers::{CallersFile, entry},
    extra::{advance_time, with_metadata},
    upstream::{Request, Upstream},
    with_timeout,
};
use alim_bridge::server::Drained;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use super::{a_reply, assert_kept, exhausted, waits, with_quota};

/// Starts a call of this caller.
pub(super) fn call(bridge: &Bridge, caller: &str, message: &str) -> JoinHandle<Result<(), Status>> {
    let mut client = bridge.new_client();
    let authorization = format!("Bearer {caller}");
    let asked = with_metadata(ask(message), &[("authorization", authorization.as_bytes())]);
    tokio::spawn(async move { client.invoke(asked).await.map(drop) })
}

#[tokio::test]
async fn a_callers_first_call_waits_for_one_turn_of_a_caller_with_many() {
    let file = CallersFile::with(&["loud", "polite"].map(|name| entry(name, name)).concat());
    let upstream = Upstream::answering(a_reply());
    let settings = [
        ("UPSTREAM_QUOTA", "2/s"),
        ("QUOTA_WAIT", "30s"),
        ("CALLERS_FILE", &file.path()),
    ];
    let bridge = Bridge::with(&upstream.url(), &settings).await;
    let loud: Vec<_> = (0..8).map(|_| call(&bridge, "loud", "loud")).collect();
    waits(&bridge, 6).await;
    let polite = call(&bridge, "polite", "polite");
    polite.await.expect("no panic").expect("its turn");
    let before = upstream.requests();
    let position = before
        .iter()
        .position(|it| it.json()["message"] == "polite");
    assert!(position.expect("sent") <= 3, "{position:?}");
    for call in loud {
        call.await.expect("no panic").expect("its turn");
    }
    assert_kept(&upstream, 2, Duration::from_secs(1));
}

#[tokio::test]
async fn callers_who_contend_are_served_by_their_weight() {
    let heavy = entry("heavy", "heavy") + "weight = 2\n";
    let file = CallersFile::with(&(heavy + &entry("light", "light")));
    let upstream = Upstream::answering(a_reply());
    let settings = [
        ("UPSTREAM_QUOTA", "3/s"),
        ("QUOTA_WAIT", "30s"),
        ("CALLERS_FILE", &file.path()),
    ];
    let bridge = Bridge::with(&upstream.url(), &settings).await;
    let first: Vec<_> = (0..3).map(|_| call(&bridge, "light", "first")).collect();
    upstream.wait_for_requests(3).await;
    let mut calls = Vec::new();
    for (name, waiting) in [("light", 6), ("heavy", 12)] {
        calls.extend((0..6).map(|_| call(&bridge, name, name)));
        waits(&bridge, waiting).await;
    }
    for call in first.into_iter().chain(calls) {
        call.await.expect("no panic").expect("its turn");
    }
    let requests = upstream.requests();
    let windows: Vec<_> = requests[3..].chunks(3).collect();
    for window in &windows[..3] {
        let is_heavy = |it: &&Request| it.json()["message"] == "heavy";
        assert_eq!(window.iter().filter(is_heavy).count(), 2, "{window:?}");
    }
}

#[tokio::test]
async fn a_call_that_leaves_or_exceeds_its_deadline_frees_its_turn() {
    let upstream = Upstream::answering(a_reply());
    let bridge = with_quota(&upstream, "2/2s", "30s").await;
    for _ in 0..2 {
        bridge.invoke("Salam").await.expect("a free slot");
    }
    let leaving: Vec<_> = (0..4).map(|_| call(&bridge, "", "leaves")).collect();
    waits(&bridge, 4).await;
    let last = call(&bridge, "", "stays");
    waits(&bridge, 5).await;
    for call in leaving {
        call.abort();
    }
    waits(&bridge, 1).await;
    let mut client = bridge.new_client();
    let late = client.invoke(with_timeout(2900, ask("late"))).await;
    late.expect("the second of the next two");
    last.await.expect("no panic").expect("the first of them");
    assert_eq!(upstream.requests().len(), 4);
}

#[tokio::test]
async fn a_call_that_waits_the_maximum_gets_the_exact_remaining_wait() {
    let upstream = Upstream::answering(a_reply());
    let bridge = with_quota(&upstream, "2/2s", "3s").await;
    for _ in 0..2 {
        bridge.invoke("Salam").await.expect("a free slot");
    }
    let turns: Vec<_> = (0..2).map(|_| call(&bridge, "", "waits")).collect();
    waits(&bridge, 2).await;
    let status = bridge.invoke("Salam").await.expect_err("a window later");
    assert!(exhausted(&status) > Duration::from_secs(3));
    for turn in turns {
        turn.await.expect("no panic").expect("its turn");
    }
    assert_kept(&upstream, 2, Duration::from_secs(2));
}

#[tokio::test]
async fn calls_that_wait_end_in_a_drain_at_once() {
    let upstream = Upstream::answering(a_reply());
    let bridge = with_quota(&upstream, "2/min", "10m").await;
    for _ in 0..2 {
        bridge.invoke("Salam").await.expect("a free slot");
    }
    let waiting: Vec<_> = (0..2).map(|_| call(&bridge, "", "waits")).collect();
    waits(&bridge, 2).await;
    assert_eq!(bridge.drain().await, Drained::Clean);
    for call in waiting {
        let status = call.await.expect("no panic").expect_err("the drain");
        let expected = (Code::Unavailable, "BRIDGE_DRAINING".to_owned());
        assert_eq!(status.code_and_reason(), expected, "{status:?}");
        assert_eq!(status.info("sent").as_deref(), Some("false"));
        assert_eq!(
            status.pushback(),
            None,
            "another bridge can have free slots"
        );
    }
    assert_eq!(upstream.requests().len(), 2);
}

#[tokio::test]
async fn a_call_that_waits_holds_its_permit() {
    let upstream = Upstream::answering(a_reply());
    let settings = [
        ("UPSTREAM_QUOTA", "2/2s"),
        ("QUOTA_WAIT", "30s"),
        ("MAX_CALLS", "1"),
    ];
    let bridge = Bridge::with(&upstream.url(), &settings).await;
    for _ in 0..2 {
        bridge.invoke("Salam").await.expect("a free slot");
    }
    let waiting = call(&bridge, "", "waits");
    waits(&bridge, 1).await;
    let status = bridge.invoke("Salam").await.expect_err("only one permit");
    assert_eq!(status.code_and_reason().1, "BRIDGE_SATURATED");
    waiting.abort();
    waits(&bridge, 0).await;
    advance_time(Duration::from_millis(2300)).await;
    bridge.invoke("Salam").await.expect("both are free");
}
