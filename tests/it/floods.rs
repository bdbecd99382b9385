//! Hostile connections: floods of frames that cost the peer nothing, and peers that stop responding at each step.
//! Their cost is bounded, and other callers do not notice them.

use std::time::Duration;

use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

use crate::support::{
    Bridge, ask, ask_stream,
    deployed::Deployed,
    extra::{advance_time, get},
    frames::{
        CANCEL, CONTINUATION, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, HEADERS, PING, PREFACE,
        PRIORITY, RESET, Raw, SETTINGS, call, field, frame, head,
    },
    reply_json, sse_tokens,
    upstream::{Reply, Upstream},
};

/// How much a flood can grow the bridge's memory.
const GROWTH_KIB: u64 = 8 * 1024;
/// How long a peer that does not read can send before it counts as blocked.
const HELD_UP: Duration = Duration::from_secs(1);
/// A generous limit for what happens at once.
const SOON: Duration = Duration::from_secs(10);
/// So that a dead peer is detected at once.
const IMPATIENT: [(&str, &str); 2] = [
    ("KEEPALIVE_INTERVAL", "300ms"),
    ("KEEPALIVE_TIMEOUT", "300ms"),
];

fn reset(stream: u32) -> Vec<u8> {
    frame(RESET, 0, stream, &CANCEL.to_be_bytes())
}

async fn no_call_is_open(bridge: &Bridge) {
    let closing = async {
        while !get(bridge.admin, "/metrics")
            .await
            .1
            .contains("\nalim_bridge_open_calls 0\n")
        {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, closing).await.expect("all permits are back");
}

/// CVE-2023-44487.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_rapid_resets_barely_reach_the_upstream_and_release_everything() {
    let upstream = Upstream::answering(Reply::nothing().then_hold());
    let bridge = Bridge::start(&upstream.url()).await;
    let mut attacker = Raw::open(bridge.address, &[]).await;
    let streams = (0..10_000).map(|n| 2 * n + 1);
    let attack: Vec<_> = streams
        .flat_map(|stream| [call("Stream", stream, &[]), reset(stream)].concat())
        .collect();
    let _ = attacker.send(&attack).await;
    let _ = attacker.send(&frame(PING, 0, 0, &[0; 8])).await;
    // The PING is answered once all is read, unless the bridge closes the connection first. That depends on how many calls it reads
    // together with their resets.
    let _ = attacker.next(PING).await;
    no_call_is_open(&bridge).await;
    let reached = upstream.requests().len();
    assert!(reached < 1000, "{reached} calls reached the upstream");
}

#[tokio::test]
async fn over_1024_calls_cancelled_before_they_are_read_end_their_connection() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let bridge = Bridge::start(&upstream.url()).await;
    let mut attacker = Raw::open(bridge.address, &[]).await;
    // POST, http and / of HPACK's static table: so small that one write takes all, and the bridge reads all at once.
    let head = |stream| {
        frame(
            HEADERS,
            END_STREAM | END_HEADERS,
            stream,
            &[0x83, 0x86, 0x84],
        )
    };
    let attack: Vec<_> = (0..1100)
        .flat_map(|n| [head(2 * n + 1), reset(2 * n + 1)].concat())
        .collect();
    attacker.send(&attack).await.expect("open");
    assert_eq!(attacker.goaway_code().await, Some(ENHANCE_YOUR_CALM));
    bridge.invoke("Salam").await.expect("others are answered");
}

#[tokio::test]
async fn five_hundred_calls_cancelled_at_once_keep_their_connection() {
    let upstream = Upstream::answering(Reply::nothing().then_hold());
    let bridge = Bridge::start(&upstream.url()).await;
    let mut caller = Raw::open(bridge.address, &[]).await;
    let taken_back = (0..500).map(|n| 2 * n + 1);
    let taken_back: Vec<_> = taken_back
        .flat_map(|stream| [call("Stream", stream, &[]), reset(stream)].concat())
        .collect();
    caller.send(&taken_back).await.expect("open");
    caller.send(&call("Invoke", 1001, &[])).await.expect("open");
    let asked = async {
        while !upstream
            .requests()
            .iter()
            .any(|asked| asked.path.ends_with("/graph/invoke"))
        {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, asked).await.expect("the connection goes on");
}

#[tokio::test]
async fn calls_that_are_reset_after_their_start_release_everything() {
    let upstream = Upstream::answering(Reply::nothing().then_hold());
    let bridge = Bridge::with(&upstream.url(), &[("MAX_CALLS", "1")]).await;
    let mut attacker = Raw::open(bridge.address, &[]).await;
    for count in 1..=200 {
        let stream = 2 * count - 1;
        attacker
            .send(&call("Stream", stream, &[]))
            .await
            .expect("open");
        upstream.wait_for_requests(count as usize).await; // so there were free permits again
        attacker.send(&reset(stream)).await.expect("open");
        upstream.wait_for_close().await;
    }
    no_call_is_open(&bridge).await;
}

#[tokio::test]
async fn an_endless_head_is_rejected_early() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let bridge = Bridge::start(&upstream.url()).await;
    for piece in [field("a", b"b"), Vec::new()] {
        let mut attacker = Raw::open(bridge.address, &[]).await;
        let mut attack = frame(HEADERS, 0, 1, &head("Invoke", &[]));
        for _ in 0..10_000 {
            attack.extend(frame(CONTINUATION, 0, 1, &piece));
        }
        let _ = attacker.send(&attack).await; // the bridge can close before it ends
        assert_eq!(attacker.goaway_code().await, Some(ENHANCE_YOUR_CALM));
        bridge.invoke("Salam").await.expect("others are answered");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_frames_from_a_peer_that_does_not_read_are_not_buffered() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let bridge = Deployed::with(&upstream.url(), &[]);
    bridge.client().invoke(ask("Salam")).await.expect("a reply");
    let before = bridge.resident_kib();
    let mut attackers = Vec::new();
    for attack in [
        frame(PING, 0, 0, b"aaaaaaaa"),
        frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]),
        frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 7]),
        frame(0x42, 0, 0, b"unknown"),
        frame(RESET, 0, 1, &CANCEL.to_be_bytes()),
    ] {
        let mut attacker = Raw::open(bridge.address, &[]).await;
        let attack = attack.repeat(400_000);
        let _ = timeout(HELD_UP, attacker.send(&attack)).await;
        let asked = bridge.client().invoke(ask("Salam")).await;
        asked.expect("others are answered");
        attackers.push(attacker);
    }
    let grown = bridge.resident_kib().saturating_sub(before);
    assert!(grown <= GROWTH_KIB, "{grown} KiB");
}

/// Like a machine that lost its power: no FIN, no RST, no PING acknowledgement.
#[tokio::test]
async fn a_dead_peer_releases_its_permits_and_upstream_calls() {
    let flood = Reply::sse("").flood(format!("ea60\r\n{:60000}\r\n", "event: token\ndata: a\n\n"));
    for reply in [
        Reply::nothing().then_hold(),
        Reply::sse(sse_tokens(&["a"])).then_hold(),
        flood,
    ] {
        let upstream = Upstream::answering(reply);
        let bridge = Bridge::with(&upstream.url(), &IMPATIENT).await;
        let large_windows = [0, 4, 0x7f, 0xff, 0xff, 0xff];
        let mut silent = Raw::open(bridge.address, &large_windows).await;
        silent.send(&call("Stream", 1, &[])).await.expect("open");
        silent.send(&call("Invoke", 3, &[])).await.expect("open");
        upstream.wait_for_close().await;
        upstream.wait_for_close().await;
        no_call_is_open(&bridge).await;
    }
}

#[tokio::test]
async fn a_silent_peer_that_answers_pings_stays_connected() {
    let upstream = Upstream::answering(Reply::sse(sse_tokens(&["a"])).then_hold());
    let bridge = Bridge::with(&upstream.url(), &IMPATIENT).await;
    let answer = bridge.client.clone().stream(ask_stream("Salam")).await;
    let mut events = answer.expect("an event").into_inner();
    events.message().await.expect("OK").expect("an event");
    let ended = timeout(Duration::from_secs(2), events.message()).await; // three intervals
    assert!(ended.is_err(), "{ended:?}");
}

/// Admission must reject first. The streams that a connection can have in addition are bounded too.
#[tokio::test]
async fn a_connection_allows_streams_for_all_calls_and_1024_probes() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let bridge = Bridge::with(&upstream.url(), &[("MAX_CALLS", "10")]).await;
    let mut peer = Raw::open(bridge.address, &[]).await;
    let settings = peer.next(SETTINGS).await.expect("a hello").payload;
    let streams = settings.chunks(6).find(|setting| setting[..2] == [0, 3]);
    assert_eq!(streams, Some(&[0, 3, 0, 0, 4, 10][..]), "{settings:?}");
}

async fn assert_closed(connection: &mut TcpStream) {
    let end = timeout(SOON, connection.read_to_end(&mut Vec::new())).await;
    let _ = end.expect("closed"); // by FIN or by RST
}

#[tokio::test]
async fn an_unfinished_preface_ends_its_connection() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let bridge = Bridge::start(&upstream.url()).await;
    let mut half = Raw(TcpStream::connect(bridge.address).await.expect("a port"));
    half.send(&PREFACE[..23]).await.expect("open");
    advance_time(Duration::from_secs(11)).await; // the preface timeout is 10 s
    assert_closed(&mut half.0).await;
}

#[tokio::test]
async fn a_peer_that_sends_nothing_after_its_preface_is_closed() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let bridge = Bridge::with(&upstream.url(), &IMPATIENT).await;
    let mut silent = Raw(TcpStream::connect(bridge.address).await.expect("a port"));
    silent.send(PREFACE).await.expect("open");
    assert_closed(&mut silent.0).await;
}
