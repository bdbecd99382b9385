//! A drain with many open streams: each stream that is read ends with `Done` or a status, none with a reset.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::support::{
    Bridge, RichStatus, ask_stream,
    extra::channel_to,
    read_all, sse_tokens,
    upstream::{Gate, Reply, Upstream},
};
use alim_bridge::{
    pb::{graph_service_client::GraphServiceClient, stream_response::Event},
    server::Drained,
};
use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tonic::Status;

const STREAMS: usize = 500;
const STREAMS_PER_CONNECTION: usize = 50;

type Exited = (Vec<Event>, Result<(), Status>);

/// Opens the streams over a few connections, waits for a token of each, and keeps reading.
async fn open(address: SocketAddr) -> Vec<JoinHandle<Exited>> {
    let clients =
        (0..STREAMS / STREAMS_PER_CONNECTION).map(|_| GraphServiceClient::new(channel_to(address)));
    let clients: Vec<_> = clients
        .flat_map(|client| vec![client; STREAMS_PER_CONNECTION])
        .collect();
    let opening = clients.into_iter().map(|mut client| async move {
        let answer = client.stream(ask_stream("Salam")).await;
        answer.expect("a token").into_inner()
    });
    let streams = join_all(opening).await.into_iter();
    streams
        .map(|events| tokio::spawn(read_all(events)))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_streams_end_with_done_when_the_drain_has_time() {
    let gate = Gate::default();
    let reply = Reply::sse(sse_tokens(&["a"])).wait(&gate);
    let upstream = Upstream::answering(reply.chunk("event: done\ndata: [DONE]\n\n"));
    let bridge = Bridge::start(&upstream.url()).await;
    let streams = open(bridge.address).await;
    let drained = tokio::spawn(bridge.drain());
    gate.open();
    for stream in join_all(streams).await {
        let (events, ending) = stream.expect("no panic");
        ending.expect("OK");
        assert!(matches!(events[..], [Event::Token(_), Event::Done(_)]));
    }
    assert_eq!(drained.await.expect("no panic"), Drained::Clean);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_streams_that_outlast_the_drain_each_end_with_a_status() {
    let upstream = Upstream::answering(Reply::sse(sse_tokens(&["a"])).then_hold());
    let bridge = Bridge::with(&upstream.url(), &[("DRAIN_TIMEOUT", "200ms")]).await;
    let streams = open(bridge.address).await;
    let start = Instant::now();
    assert_eq!(bridge.drain().await, Drained::Forced);
    let took = start.elapsed();
    for stream in join_all(streams).await {
        let (events, ending) = stream.expect("no panic");
        assert_eq!(events.len(), 1);
        let status = ending.expect_err("forced");
        assert_eq!(status.code_and_reason().1, "BRIDGE_DRAINING", "{status:?}");
    }
    assert!(took < Duration::from_secs(10), "{took:?}");
}
