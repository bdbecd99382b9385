//! An upstream that quotes the key that it received. No status contains the key, wherever the quote was.

use std::fs;

use alim_bridge::pb::StreamResponse;
use serde_json::json;
use tempfile::NamedTempFile;
use tonic::{Response, Status, Streaming};

use super::{KEY, keyed, passing_on, with_key_file};
use crate::support::{
    Bridge, RichStatus, SERVICE_KEY, ask_stream,
    extra::wait_for_file_reload,
    read_all, sse_tokens,
    upstream::{Gate, Reply, Upstream},
};

/// All that the caller receives with a status, as text: the raw headers and the details.
fn everything_in(status: &Status) -> String {
    let head = status.clone().into_http::<()>();
    let details = String::from_utf8_lossy(status.details()).into_owned();
    format!(
        "{status:?} {:?} {details} {:?}",
        head.headers(),
        status.error_details()
    )
}

/// Responses that quote this key, each in a position that is reported to callers.
fn quoting(key: &str) -> Vec<(&'static str, Reply)> {
    let quote = format!("no such key: '{key}' ({key})");
    let fields = json!({"detail": [{"loc": ["header", key], "msg": quote}]});
    let event = |data: String| Reply::sse(format!("event: error\ndata: {data}\n\n"));
    let last_line = json!({"detail": quote});
    vec![
        (
            "detail of a 401",
            Reply::json(401, json!({"detail": quote})),
        ),
        (
            "detail of a 403",
            Reply::json(403, json!({"detail": quote})),
        ),
        (
            "detail of a 500",
            Reply::json(500, json!({"detail": quote})),
        ),
        ("error of a 400", Reply::json(400, json!({"error": quote}))),
        ("msg of a 422", Reply::json(422, fields)),
        (
            "error event, JSON",
            event(json!({"detail": quote}).to_string()),
        ),
        ("error event, text", event(quote)),
        ("the last line", Reply::sse(last_line.to_string())),
    ]
}

/// The status of a stream that fails before or after its head.
async fn failure_of(asked: Result<Response<Streaming<StreamResponse>>, Status>) -> Status {
    match asked {
        Ok(head) => read_all(head.into_inner()).await.1.expect_err("a failure"),
        Err(status) => status,
    }
}

#[tokio::test]
async fn no_status_contains_the_service_key_wherever_the_upstream_quotes_it() {
    for (position, reply) in quoting(SERVICE_KEY) {
        let upstream = Upstream::answering(reply);
        let bridge = Bridge::start(&upstream.url()).await;
        let (_, ending) = bridge.stream_all("Salam").await;
        let all = everything_in(&ending.expect_err(position));
        assert!(!all.contains(SERVICE_KEY), "{position}: {all}");
        assert!(all.contains("'<key>' (<key>)"), "{position}: {all}");
    }
}

#[tokio::test]
async fn no_status_contains_a_callers_own_key() {
    for (position, reply) in quoting(KEY) {
        let (_upstream, bridge) = passing_on(reply).await;
        let mut client = bridge.client.clone();
        let asked = client.stream(keyed(ask_stream("Salam"), KEY)).await;
        let all = everything_in(&failure_of(asked).await);
        assert!(!all.contains(KEY), "{position}: {all}");
        assert!(all.contains("'<key>' (<key>)"), "{position}: {all}");
    }
}

#[tokio::test]
async fn no_trailer_contains_a_key_quoted_after_the_first_event() {
    let error = json!({"detail": format!("bad key {SERVICE_KEY}")});
    let body = sse_tokens(&["a"]) + &format!("event: error\ndata: {error}\n\n");
    let upstream = Upstream::answering(Reply::sse(body));
    let bridge = Bridge::start(&upstream.url()).await;
    let answer = bridge.stream("Salam").await.expect("a first event");
    let (events, ending) = read_all(answer.into_inner()).await;
    let all = everything_in(&ending.expect_err("an error event"));
    assert_eq!(events.len(), 1);
    assert!(
        !all.contains(SERVICE_KEY) && all.contains("bad key <key>"),
        "{all}"
    );
}

#[tokio::test]
async fn an_invoke_quotes_no_key_either() {
    for (position, reply) in quoting(SERVICE_KEY).into_iter().take(5) {
        let upstream = Upstream::answering(reply);
        let bridge = Bridge::start(&upstream.url()).await;
        let all = everything_in(&bridge.invoke("Salam").await.expect_err(position));
        assert!(!all.contains(SERVICE_KEY), "{position}: {all}");
        assert!(all.contains("'<key>' (<key>)"), "{position}: {all}");
    }
}

#[tokio::test]
async fn a_header_that_quotes_the_key_is_not_forwarded() {
    let reply = Reply::json(429, "{}")
        .header("x-ratelimit-scope", &format!("a {SERVICE_KEY}"))
        .header("x-ratelimit-of-service-key", "30")
        .header("x-ratelimit-limit", "60");
    let upstream = Upstream::answering(reply);
    let bridge = Bridge::start(&upstream.url()).await;
    let all = everything_in(&bridge.invoke("Salam").await.expect_err("limited"));
    assert!(!all.contains(SERVICE_KEY), "{all}");
    assert!(all.contains("x-ratelimit-limit"), "{all}");
}

#[tokio::test]
async fn no_status_contains_the_key_that_was_sent_even_if_it_has_changed_since() {
    let file = NamedTempFile::new().expect("a file");
    fs::write(&file, "first-key").expect("written");
    let gate = Gate::default();
    let late = Reply::nothing().wait(&gate).send(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n\
         event: error\ndata: bad key first-key\n\n",
    );
    let upstream = Upstream::answering(late);
    let bridge = with_key_file(&upstream, &file).await;
    let mut client = bridge.client.clone();
    let asked =
        tokio::spawn(async move { failure_of(client.stream(ask_stream("Salam")).await).await });
    upstream.wait_for_requests(1).await;
    fs::write(&file, "second-key").expect("written");
    wait_for_file_reload().await;
    gate.open();
    let status = asked.await.expect("no panic");
    assert!(
        everything_in(&status).contains("bad key <key>"),
        "{status:?}"
    );
}
