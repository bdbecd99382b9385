//! Connections and calls that hang at SIGTERM: only calls that have reached ALİM delay the exit.

use std::time::{Duration, Instant};

use tokio::{net::TcpStream, time::timeout};

use super::{CALLS, LIST_SERVICES, PROBES, REFLECTION, SOON, WATCH, upstream};
use crate::support::{
    ask_stream,
    deployed::Deployed,
    frames::{
        DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, Raw, SETTINGS, call, frame, head_of,
    },
    read_all, sse_tokens,
    upstream::{Gate, Reply, Upstream},
};

/// From SIGTERM to the exit, if no call is open at ALİM. It is generous, because a debug build under load is slow.
const AT_ONCE: Duration = Duration::from_secs(3);

/// Much longer than a connection without calls takes to close.
const A_WHILE: Duration = Duration::from_secs(1);

/// Sends `bytes` on a connection of their own, and then terminates the bridge, which must exit at once.
async fn exits_at_once_despite(name: &str, bytes: &[u8], log: &str) {
    let upstream = upstream();
    let settings = [
        ("DRAIN_TIMEOUT", "30s"),
        ("GRPC_WEB", "*"),
        ("LOG_FORMAT", "json"),
    ];
    let mut bridge = Deployed::with(&upstream.url(), &settings);
    let mut peer = Raw(TcpStream::connect(bridge.address).await.expect("a port"));
    peer.send(bytes).await.expect("open");
    await_metric(&bridge, "alim_bridge_open_connections").await;
    if bytes.starts_with(PREFACE) {
        await_metric(&bridge, "grpc_server_started_total").await;
    }
    let start = Instant::now();
    bridge.running.signal("TERM");
    bridge.running.wait_for_log("draining");
    if !log.is_empty() {
        bridge.running.wait_for_log(log);
    }
    let ended = bridge.running.wait();
    assert_eq!(ended.code, Some(0), "{name}: {}", ended.stderr);
    assert!(start.elapsed() < AT_ONCE, "{name}: {:?}", start.elapsed());
    assert!(upstream.requests().is_empty());
}

/// Waits until the metric is not 0.
async fn await_metric(bridge: &Deployed, metric: &str) {
    let counted = async {
        while bridge.metric(metric, "").await == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, counted).await.expect("counted in time");
}

fn http2(frames: &[u8]) -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[]), frames].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_without_a_complete_preface_does_not_delay_the_drain() {
    for (name, bytes) in [
        ("a bare connection", &b""[..]),
        ("half a preface", &PREFACE[..12]),
        ("half a head", b"POST /alim"),
    ] {
        exits_at_once_despite(name, bytes, "").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_without_its_message_is_rejected_by_the_drain_and_recorded() {
    for path in CALLS {
        let head = frame(HEADERS, END_HEADERS, 1, &head_of(path, &[]));
        exits_at_once_despite(path, &http2(&head), "BRIDGE_DRAINING").await;
        let part = frame(DATA, 0, 1, &[0, 0, 0, 1, 0, 7, 7]);
        exits_at_once_despite(path, &http2(&[head, part].concat()), "BRIDGE_DRAINING").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_without_its_message_does_not_delay_the_drain() {
    for path in PROBES {
        let head = frame(HEADERS, END_HEADERS, 1, &head_of(path, &[]));
        exits_at_once_despite(path, &http2(&head), "").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_watches_reflection_and_pages_do_not_delay_the_drain() {
    for (path, flags, message) in [
        (WATCH, END_STREAM, &[0; 5][..]),
        (REFLECTION, 0, &LIST_SERVICES),
    ] {
        let head = frame(HEADERS, END_HEADERS, 1, &head_of(path, &[]));
        let message = frame(DATA, flags, 1, message);
        exits_at_once_despite(path, &http2(&[head, message].concat()), "").await;
    }
    let page = b"OPTIONS / HTTP/1.1\r\nhost: bridge\r\n\r\n";
    exits_at_once_despite("an idle page", &page[..], "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_drain_waits_for_a_call_that_is_at_alim() {
    let gate = Gate::default();
    let started = Reply::sse(sse_tokens(&["a"]));
    let upstream = Upstream::answering(started.wait(&gate).chunk("event: done\ndata: [DONE]\n\n"));
    let mut bridge = Deployed::with(&upstream.url(), &[]);
    let events = bridge.client().stream(ask_stream("Salam")).await;
    bridge.running.signal("TERM");
    bridge.running.wait_for_log("draining");
    tokio::time::sleep(A_WHILE).await; // connections without calls have closed by now
    gate.open();
    let (events, ending) = read_all(events.expect("a token").into_inner()).await;
    ending.expect("OK");
    assert_eq!(events.len(), 2, "{events:?}");
    assert_eq!(bridge.running.wait().code, Some(0));
}

/// The replies exceed what a socket can buffer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_drain_waits_for_buffered_replies_of_a_slow_reader() {
    const ANSWERS: u32 = 400;
    let json = format!(
        r#"{{"response":"{}","thread_id":"6f1c2d3e-4b5a-4978-8a6b-0c1d2e3f4a5b"}}"#,
        "a".repeat(50_000)
    );
    let upstream = Upstream::answering(Reply::json(200, json));
    let mut bridge = Deployed::with(&upstream.url(), &[]);
    let windows = [0, 4, 0x7f, 0xff, 0xff, 0xff];
    let mut reader = Raw::open(bridge.address, &windows).await;
    let rest: u32 = (1 << 31) - 1 - 65_535;
    let window = frame(8, 0, 0, &rest.to_be_bytes());
    reader.send(&window).await.expect("open");
    for count in 0..ANSWERS {
        let call = call("Invoke", 2 * count + 1, &[]);
        reader.send(&call).await.expect("open");
    }
    let over = async {
        while bridge.metric("grpc_server_handled_total", "Invoke").await < u64::from(ANSWERS) {
            tokio::task::yield_now().await;
        }
    };
    timeout(6 * SOON, over).await.expect("answered");
    bridge.running.signal("TERM");
    bridge.running.wait_for_log("draining");
    tokio::time::sleep(A_WHILE).await; // connections without calls have closed by now
    for count in 0..2 * ANSWERS {
        let more = reader.next(HEADERS).await;
        assert!(more.is_some(), "only {count} heads and trailers");
    }
    assert_eq!(bridge.running.wait().code, Some(0));
}
