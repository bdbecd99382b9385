//! Bursts of events, and callers who read slowly.

use std::time::Duration;

use crate::support::{
    Bridge, read_all, sse_answer, sse_tokens, text,
    upstream::{Reply, Upstream},
};
use alim_bridge::pb::stream_response::Event;

#[tokio::test]
async fn a_default_tonic_caller_that_pauses_in_a_burst_of_20000_tokens_gets_them_all() {
    let mut chunks: Vec<_> = (0..20_000)
        .map(|n| sse_tokens(&[&format!("{n} ")]))
        .collect();
    chunks.push(sse_answer(&[]));
    let upstream = Upstream::answering(Reply::sse_chunks(chunks));
    let bridge = Bridge::start(&upstream.url()).await;
    let events = bridge.stream("Salam").await.expect("an event").into_inner();
    tokio::time::sleep(Duration::from_millis(5000)).await; // the pause under test
    let (events, ending) = read_all(events).await;
    ending.expect("the connection survived");
    let expected: String = (0..20_000).map(|n| format!("{n} ")).collect();
    assert_eq!(text(&events), expected);
}

#[tokio::test]
async fn a_callers_pause_does_not_count_as_upstream_silence() {
    let large = "x".repeat(60_000);
    let mut chunks = vec![sse_tokens(&[&large]); 200];
    chunks.push(sse_answer(&[]));
    let upstream = Upstream::answering(Reply::sse_chunks(chunks));
    let bridge = Bridge::with(&upstream.url(), &[("STREAM_IDLE_TIMEOUT", "300ms")]).await;
    let events = bridge.stream("Salam").await.expect("an event").into_inner();
    tokio::time::sleep(Duration::from_secs(2)).await; // the pause under test
    let (events, ending) = read_all(events).await;
    ending.expect("OK: the upstream was never silent");
    assert_eq!(text(&events).len(), 200 * 60_000);
}

#[tokio::test]
async fn forty_thousand_events_in_one_chunk_arrive_in_order() {
    let tokens: Vec<_> = (0..40_000).map(|n| n.to_string()).collect();
    let tokens: Vec<_> = tokens.iter().map(String::as_str).collect();
    let upstream = Upstream::answering(Reply::sse(sse_answer(&tokens)));
    let bridge = Bridge::start(&upstream.url()).await;
    let (events, ending) = bridge.stream_all("Salam").await;
    ending.expect("OK");
    assert_eq!(text(&events), tokens.concat());
    let Some(Event::Done(done)) = events.last() else {
        panic!("no Done")
    };
    assert_eq!(done.token_count, 40_000);
}

#[tokio::test]
async fn an_event_is_sent_before_the_next_one_arrives() {
    let upstream = Upstream::answering(Reply::sse(sse_tokens(&["a"])).then_hold());
    let bridge = Bridge::start(&upstream.url()).await;
    let mut events = bridge.stream("Salam").await.expect("an event").into_inner();
    let first = events.message().await.expect("OK").expect("an event");
    assert_eq!(text(&[first.event.expect("set")]), "a");
}
