//! The memory budget, and attempts to exceed it. `MEMORY_LIMIT` holds, replies that are paid for are delivered, and
//! well-behaved callers are served. `tests/faults/run memory` is the full attack, for any duration.

use std::{ops::RangeInclusive, time::Duration};

use futures_util::future::join_all;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::timeout;
use tonic::Code;
use tower::Service;

use super::{
    INVOKE, SOON, request, status, unfinished,
    unread::{STREAM, large_reply, question},
    upstream,
};
use crate::support::{
    RichStatus, ask,
    bare::Connection,
    deployed::Deployed,
    sse_tokens,
    upstream::{Reply, Request, Upstream},
};

/// It leaves 36 MiB for calls. They grow to 23 MiB, and those of one connection to 9.6 MiB. The reserve is also 9.6 MiB.
const LIMIT: [(&str, &str); 1] = [("MEMORY_LIMIT", "64MiB")];
/// The limit, and what the process can take beyond it, because a debug build is large.
const ABOVE_KIB: u64 = (64 + 32) * 1024;
const LONG: Duration = Duration::from_secs(60);

/// Sends each call on its own connection, and reads the responses to their end.
async fn read_all(bridge: &Deployed, path: &str, calls: usize) -> Vec<usize> {
    let calls = (0..calls).map(|_| async {
        let mut connection = Connection::open(bridge.address).await;
        let call = connection.call(request(path, "application/grpc", question("Salam")));
        let answer = call.await.expect("a head");
        let rejection = answer.headers().get("grpc-message").cloned();
        assert_eq!(rejection, None, "not rejected");
        let answer = answer.into_body().collect().await.expect("no reset");
        let trailers = answer.trailers().cloned().unwrap_or_default();
        assert_eq!(trailers["grpc-status"], "0", "{trailers:?}");
        answer.to_bytes().len()
    });
    timeout(LONG, join_all(calls)).await.expect("all in time")
}

/// Sends calls on one connection, and does not read the response bodies.
async fn leave_unread(
    bridge: &Deployed,
    path: &str,
    calls: usize,
) -> Vec<http::Response<Incoming>> {
    let connection = Connection::with_window(bridge.address, 0).await;
    let calls = (0..calls).map(|_| {
        let mut connection = connection.clone();
        let call = request(path, "application/grpc", question("Salam"));
        async move { timeout(SOON, connection.call(call)).await.ok()?.ok() }
    });
    join_all(calls).await.into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_wait_for_memory_and_are_all_delivered() {
    let upstream = Upstream::answering(large_reply());
    let bridge = Deployed::with(&upstream.url(), &LIMIT);
    let lengths = read_all(&bridge, INVOKE, 40).await;
    assert!(lengths.iter().all(|bytes| *bytes > 3 << 20), "{lengths:?}");
    assert_eq!(upstream.requests().len(), 40, "no call is sent twice");
    assert!(bridge.peak_kib() < ABOVE_KIB, "{} KiB", bridge.peak_kib());
    bridge.wait_for_open_calls(0).await;
    assert_eq!(bridge.metric("alim_bridge_buffered_bytes", "").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_wait_for_memory_and_are_all_delivered() {
    let event = sse_tokens(&[&"a".repeat(900_000)]);
    let chunks = vec![event; 4]
        .into_iter()
        .chain(["event: done\ndata: x\n\n".into()]);
    let upstream = Upstream::answering(Reply::sse_chunks(chunks));
    let bridge = Deployed::with(&upstream.url(), &LIMIT);
    let lengths = read_all(&bridge, STREAM, 40).await;
    assert!(
        lengths.iter().all(|bytes| *bytes > 3_600_000),
        "{lengths:?}"
    );
    assert!(bridge.peak_kib() < ABOVE_KIB, "{} KiB", bridge.peak_kib());
    bridge.wait_for_open_calls(0).await;
    assert_eq!(bridge.metric("alim_bridge_buffered_bytes", "").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_without_memory_is_rejected_unsent_and_a_small_one_is_served() {
    let upstream = upstream();
    let bridge = Deployed::with(&upstream.url(), &LIMIT);
    let large = join_all((0..8).map(|_| async {
        let mut connection = Connection::open(bridge.address).await;
        let call = connection.call(request(INVOKE, "application/grpc", unfinished(0)));
        timeout(SOON / 2, call).await.ok()
    }));
    let rejected: Vec<_> = large.await.into_iter().flatten().collect();
    assert!((1..=4).contains(&rejected.len()), "{}", rejected.len());
    for answer in rejected {
        let status = status(answer.expect("an answer")).await;
        assert_eq!(
            status.code_and_reason(),
            (Code::Unavailable, "BRIDGE_SATURATED".into())
        );
        assert_eq!(status.info("sent").as_deref(), Some("false"));
        assert!(status.message().contains("MEMORY_LIMIT"), "{status:?}");
    }
    bridge.client().invoke(ask("Salam")).await.expect("small");
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_requests_on_one_connection_wait_for_memory_and_are_sent_once_and_whole() {
    let upstream = upstream();
    let bridge = Deployed::with(&upstream.url(), &LIMIT);
    let (client, message) = (bridge.client(), "a".repeat(3_900_000));
    let calls = (0..12).map(|_| {
        let mut client = client.clone();
        let call = ask(&message);
        async move { client.invoke(call).await.expect("answered") }
    });
    timeout(LONG, join_all(calls)).await.expect("all in time");
    let requests = upstream.requests();
    assert_eq!(requests.len(), 12);
    let is_whole = |request: &Request| request.body.len() > message.len();
    assert!(requests.iter().all(is_whole));
    assert!(bridge.peak_kib() < ABOVE_KIB, "{} KiB", bridge.peak_kib());
}

/// Leaves sixty responses unread on one connection, of 3 MiB each or endless.
async fn unread_responses_leave_memory_for_another_connection(
    path: &str,
    reply: Reply,
    heads: RangeInclusive<usize>,
) {
    let upstream = Upstream::scripted(std::iter::repeat_n(reply, 60).chain([large_reply()]));
    let bridge = Deployed::with(&upstream.url(), &[("MEMORY_LIMIT", "96MiB")]);
    let unread = leave_unread(&bridge, path, 60).await;
    assert!(
        heads.contains(&unread.len()),
        "{} have a head",
        unread.len()
    );
    let held = async || bridge.metric("alim_bridge_buffered_bytes", "").await;
    let filled = async { while held().await < 4 << 20 {} };
    timeout(LONG, filled).await.expect("unread responses");
    assert_eq!(read_all(&bridge, INVOKE, 1).await.len(), 1);
    let held = held().await;
    assert!(held < 22 << 20, "{held}");
    assert_eq!(
        bridge
            .metric("alim_bridge_overload_actions_total", "")
            .await,
        0
    );
    assert!(bridge.peak_kib() < ABOVE_KIB, "{} KiB", bridge.peak_kib());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_replies_on_one_connection_leave_memory_for_another() {
    unread_responses_leave_memory_for_another_connection(INVOKE, large_reply(), 1..=29).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_events_on_one_connection_leave_memory_for_another() {
    let event = sse_tokens(&[&"a".repeat(900_000)]);
    let events = Reply::sse_chunks(vec![event; 4]).then_hold();
    unread_responses_leave_memory_for_another_connection(STREAM, events, 60..=60).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_callers_are_reset_when_memory_is_short() {
    let upstream = Upstream::answering(large_reply());
    let bridge = Deployed::with(&upstream.url(), &[("MEMORY_LIMIT", "320MiB")]); // a debug build must stay under 95 % of it
    let unread = join_all((0..16).map(|_| leave_unread(&bridge, INVOKE, 4))).await;
    let unread: Vec<_> = unread.into_iter().flatten().collect();
    let count = async |name| bridge.metric(name, "").await;
    let reset = async {
        while bridge
            .metric("alim_bridge_failures_total", "CALLER_STALLED")
            .await
            == 0
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(LONG, reset).await.expect("a reset");
    let released = async {
        while bridge.resident_kib() > 272 * 1024 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(LONG, released).await.expect("memory again");
    for _ in 0..4 {
        read_all(&bridge, INVOKE, 1).await;
    }
    assert!(
        bridge.peak_kib() < ABOVE_KIB + 256 * 1024,
        "{} KiB",
        bridge.peak_kib()
    );
    drop(unread);
    bridge.wait_for_open_calls(0).await;
    let reset = bridge
        .metric("alim_bridge_failures_total", "CALLER_STALLED")
        .await;
    assert_eq!(count("alim_bridge_overload_actions_total").await, reset);
    assert_eq!(count("alim_bridge_buffered_bytes").await, 0);
}
