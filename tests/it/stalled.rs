//! Callers who have stopped reading, in numbers: what they hold is bounded, and every clock of the
//! bridge ends their upstream calls and gives their permits back while they stay.
//!
//! Their windows are HTTP/2's own 65,535 bytes, which callers in Go, C++ and Python begin with.

use std::{net::SocketAddr, time::Duration};

use crate::support::{
    Bridge, ask_stream,
    bare::Connection,
    deployed::Deployed,
    extra::get,
    sse_tokens,
    upstream::{Reply, Upstream},
};
use alim_bridge::{
    pb::{StreamResponse, graph_service_client::GraphServiceClient},
    server::Drained,
};
use futures_util::future::join_all;
use tokio::time::Instant;
use tonic::{Request, Streaming};

/// HTTP/2's own initial window of a stream (RFC 9113, 6.9.2).
const WINDOW: u32 = 65_535;
/// Of the bridge's memory, for one stalled stream: about twice what is measured, and most of it is what
/// hyper's HTTP/1 client reads ahead, up to 417 KiB a connection.
const CEILING_KIB: u64 = 512;
/// Streams of a story that is not about memory.
const SOME: usize = 200;
/// How many streams are opened at once.
const AT_ONCE: usize = 50;

/// Tokens without end, a few KiB each.
fn flood() -> Reply {
    let text = "Suvarma vaxtı səhər tezdəndir. ".repeat(100);
    let tokens = sse_tokens(&[text.as_str(); 8]);
    Reply::sse("").flood(format!("{:x}\r\n{tokens}\r\n", tokens.len()))
}

/// Opens this many streams, reads one event of each and no more.
async fn stalled(
    address: SocketAddr,
    count: usize,
    a_connection: usize,
    timeout: Option<&'static str>,
) -> Vec<Streaming<StreamResponse>> {
    let origin: http::Uri = format!("http://{address}").parse().expect("a URL");
    let mut clients = Vec::new();
    for _ in 0..count.div_ceil(a_connection) {
        let connection = Connection::with_window(address, WINDOW).await;
        let client = GraphServiceClient::with_origin(connection, origin.clone());
        clients.extend(vec![client; a_connection]);
    }
    let mut streams = Vec::new();
    for clients in clients[..count].chunks(AT_ONCE) {
        let opening = clients.iter().map(|client| one(client.clone(), timeout));
        streams.extend(join_all(opening).await);
    }
    streams
}

async fn one(
    mut client: GraphServiceClient<Connection>,
    timeout: Option<&'static str>,
) -> Streaming<StreamResponse> {
    let mut request = Request::new(ask_stream("Salam"));
    if let Some(timeout) = timeout {
        let timeout = timeout.parse().expect("ASCII");
        request.metadata_mut().insert("grpc-timeout", timeout);
    }
    let answer = client.stream(request).await;
    let mut events = answer.expect("an event").into_inner();
    events.message().await.expect("OK").expect("an event");
    events
}

/// Waits until the memory has not grown by more than a hundredth for two seconds.
///
/// # Panics
/// After 40 s of growth.
async fn level_kib(bridge: &Deployed) -> u64 {
    let mut before = bridge.resident_kib();
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(2)).await; // the time that the figure is about
        let now = bridge.resident_kib();
        if now <= before + before / 100 {
            return now;
        }
        before = now;
    }
    panic!("the memory still grows, at {before} KiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_of_a_thousand_stalled_streams_levels_off_below_its_ceiling() {
    let upstream = Upstream::answering(flood());
    let bridge = Deployed::with(&upstream.url(), &[]);
    let base = bridge.resident_kib();
    let mut open = stalled(bridge.address, SOME, 1, None).await;
    open.extend(stalled(bridge.address, 1000 - SOME, 1000, None).await);
    let each = (level_kib(&bridge).await - base) / 1000;
    eprintln!("{each} KiB for each stalled stream");
    assert!(each <= CEILING_KIB, "{each} KiB for each stalled stream");
    bridge.wait_for_open_calls(1000).await;
    drop(open);
    bridge.wait_for_open_calls(0).await;
}

/// From a stream's start to its end in stories of a clock: enough for all to be open and stalled before.
const DUE: Duration = Duration::from_secs(15);

/// Waits until the clocks of streams that were opened after `start` are about to run out.
async fn almost_due(start: Instant) {
    tokio::time::sleep_until(start + DUE - Duration::from_secs(3)).await;
}

async fn assert_all_let_go(upstream: &Upstream) {
    for _ in 0..SOME {
        upstream.wait_for_close().await;
    }
}

async fn assert_no_call_is_open(bridge: &Bridge) {
    let (_, metrics) = get(bridge.admin, "/metrics").await;
    assert!(
        metrics.contains("\nalim_bridge_open_calls 0\n"),
        "{metrics}"
    );
}

#[tokio::test]
async fn at_their_deadlines_stalled_streams_give_all_back_while_their_callers_stay() {
    let upstream = Upstream::answering(flood());
    let bridge = Bridge::start(&upstream.url()).await;
    let start = Instant::now();
    let unread = stalled(bridge.address, SOME, 20, Some("15S")).await;
    almost_due(start).await;
    assert_all_let_go(&upstream).await;
    assert_no_call_is_open(&bridge).await;
    drop(unread);
}

#[tokio::test]
async fn at_the_end_of_their_lifetime_stalled_streams_give_all_back_while_their_callers_stay() {
    let upstream = Upstream::answering(flood());
    let bridge = Bridge::with(&upstream.url(), &[("STREAM_LIFETIME", "15s")]).await;
    let start = Instant::now();
    let unread = stalled(bridge.address, SOME, 20, None).await;
    almost_due(start).await;
    assert_all_let_go(&upstream).await;
    assert_no_call_is_open(&bridge).await;
    drop(unread);
}

#[tokio::test]
async fn when_the_drain_is_over_stalled_streams_give_all_back_while_their_callers_stay() {
    let upstream = Upstream::answering(flood());
    let bridge = Bridge::with(&upstream.url(), &[("DRAIN_TIMEOUT", "50ms")]).await;
    let unread = stalled(bridge.address, SOME, 20, None).await;
    assert_eq!(bridge.drain().await, Drained::Forced);
    assert_all_let_go(&upstream).await;
    drop(unread);
}
