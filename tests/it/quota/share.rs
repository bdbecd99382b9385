//! Calls that wait for the quota: which is served next, and what ends the wait.

use std::{fs, time::Duration};

use crate::support::{
    Bridge, RichStatus, ask,
    extra::{advance_time, with_metadata},
    upstream::Upstream,
    with_timeout,
};
use alim_bridge::server::Drained;
use ring::digest::{SHA256, digest};
use tempfile::NamedTempFile;
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
    let lines = ["loud", "polite"].map(|name| {
        let hash = digest(&SHA256, name.as_bytes());
        let hex: String = hash.as_ref().iter().map(|it| format!("{it:02x}")).collect();
        format!("[[caller]]\nname = \"{name}\"\nkey_sha256 = [\"{hex}\"]\n")
    });
    let file = NamedTempFile::new().expect("a file");
    fs::write(&file, lines.concat()).expect("written");
    let upstream = Upstream::answering(a_reply());
    let settings = [
        ("UPSTREAM_QUOTA", "2/s"),
        ("QUOTA_WAIT", "30s"),
        ("CALLERS_FILE", file.path().to_str().expect("UTF-8")),
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
