//! Streams that start their own thread, and where they return the thread's id.

use crate::support::{
    Bridge, RichStatus, ask_stream, read_all, sse_answer, sse_tokens,
    upstream::{Reply, Upstream},
};
use alim_bridge::pb::{StreamRequest, StreamResponse, stream_response::Event};
use serde_json::json;
use std::time::Duration;
use tokio::time::timeout;
use tonic::{Code, Response, Streaming};

use super::THREAD;

const SOON: Duration = Duration::from_secs(10);

type Head = Response<Streaming<StreamResponse>>;

fn starting(message: &str) -> StreamRequest {
    StreamRequest {
        start_thread: true,
        ..ask_stream(message)
    }
}

fn going_on(message: &str) -> StreamRequest {
    StreamRequest {
        thread_id: Some(THREAD.into()),
        ..ask_stream(message)
    }
}

fn made() -> Reply {
    Reply::json(200, json!({ "thread_id": THREAD }))
}

fn named(head: &Head) -> Option<String> {
    let id = head.metadata().get("x-thread-id")?;
    Some(id.to_str().expect("ASCII").to_owned())
}

/// The thread id in the last event. Empty if it names none.
async fn done(head: Head) -> String {
    let (events, ending) = read_all(head.into_inner()).await;
    ending.expect("OK");
    let Some(Event::Done(done)) = events.last().cloned() else {
        panic!("{events:?}")
    };
    done.thread_id
}

#[tokio::test]
async fn a_stream_that_starts_a_thread_uses_it_and_returns_its_id() {
    let answer = Reply::sse(sse_answer(&["a"]));
    let upstream = Upstream::scripted([made(), answer.clone(), answer]);
    let bridge = Bridge::start(&upstream.url()).await;
    let mut client = bridge.client.clone();
    let head = client.stream(starting("Salam")).await.expect("a head");
    assert_eq!(named(&head).as_deref(), Some(THREAD));
    assert_eq!(done(head).await, THREAD);
    let [first, second] = &upstream.requests()[..] else {
        panic!("two requests")
    };
    assert_eq!((&*first.method, &*first.path), ("POST", "/api/v1/threads"));
    assert_eq!(first.json(), json!({"metadata": {}}));
    assert_eq!(second.json()["thread_id"], THREAD);
    assert!(second.json().get("start_thread").is_none());
    let id = |at: usize| upstream.requests()[at].headers["x-request-id"].clone();
    assert_eq!(id(0), id(1), "one call");
    let head = client.stream(going_on("Salam")).await.expect("a head");
    assert_eq!(named(&head).as_deref(), Some(THREAD));
    assert_eq!(done(head).await, THREAD);
}

#[tokio::test]
async fn a_stream_returns_its_head_when_the_upstream_accepts_the_question() {
    let accepted = || Reply::sse("").then_hold();
    let upstream = Upstream::scripted([made(), accepted(), accepted()]);
    let bridge = Bridge::start(&upstream.url()).await;
    for question in [starting("Salam"), going_on("Salam")] {
        let head = timeout(SOON, bridge.client.clone().stream(question)).await;
        let head = head.expect("a head before any event").expect("OK");
        assert_eq!(named(&head).as_deref(), Some(THREAD));
        drop(head);
        upstream.wait_for_close().await;
    }
}

#[tokio::test]
async fn a_stream_without_a_thread_names_none() {
    let upstream = Upstream::answering(Reply::sse(sse_answer(&["a"])));
    let bridge = Bridge::start(&upstream.url()).await;
    let head = bridge.stream("Salam").await.expect("a head");
    assert_eq!(named(&head), None);
    assert_eq!(done(head).await, "");
}

#[tokio::test]
async fn a_failed_stream_returns_its_threads_id_before_and_after_the_first_event() {
    let truncated = || Reply::sse(sse_tokens(&["a"]));
    let upstream = Upstream::scripted([
        made(),
        Reply::json(503, "{}"),
        made(),
        truncated(),
        truncated(),
    ]);
    let bridge = Bridge::start(&upstream.url()).await;
    let mut client = bridge.client.clone();
    let status = client.stream(starting("Salam")).await.expect_err("503");
    assert_eq!(status.info("threadId").as_deref(), Some(THREAD));
    for question in [starting("Salam"), going_on("Salam")] {
        let head = client.stream(question).await.expect("a head");
        let status = read_all(head.into_inner()).await.1.expect_err("cut");
        assert_eq!(status.info("threadId").as_deref(), Some(THREAD));
    }
}

#[tokio::test]
async fn a_thread_can_not_be_both_started_and_continued() {
    let upstream = Upstream::answering(made());
    let bridge = Bridge::start(&upstream.url()).await;
    let both = StreamRequest {
        start_thread: true,
        ..going_on("")
    };
    let status = bridge.client.clone().stream(both).await;
    let status = status.expect_err("invalid");
    let expected = (Code::InvalidArgument, "INVALID_REQUEST".to_owned());
    assert_eq!(status.code_and_reason(), expected);
    let details = status.error_details();
    let violations = &details.bad_request().expect("named").field_violations;
    let fields: Vec<_> = violations.iter().map(|it| it.field.as_str()).collect();
    assert_eq!(fields, ["message", "start_thread"], "all at once");
    let empty = StreamRequest {
        thread_id: Some(String::new()),
        ..starting("")
    };
    let status = bridge.client.clone().stream(empty).await;
    assert!(
        !status
            .expect_err("no message")
            .message()
            .contains("start_thread")
    );
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn an_upstream_without_threads_does_not_receive_the_question() {
    let upstream = Upstream::scripted([Reply::json(404, r#"{"detail":"Not Found"}"#)]);
    let bridge = Bridge::start(&upstream.url()).await;
    let status = bridge.client.clone().stream(starting("Salam")).await;
    let status = status.expect_err("no threads");
    let expected = (Code::Unimplemented, "UPSTREAM_ROUTE_MISSING".to_owned());
    assert_eq!(status.code_and_reason(), expected);
    assert_eq!(status.info("threadId"), None);
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn a_thread_whose_id_is_not_a_uuid_is_not_used() {
    let upstream = Upstream::scripted([Reply::json(200, r#"{"thread_id":"../runs"}"#)]);
    let bridge = Bridge::start(&upstream.url()).await;
    let status = bridge.client.clone().stream(starting("Salam")).await;
    let expected = (Code::Internal, "UPSTREAM_MALFORMED_REPLY".to_owned());
    assert_eq!(status.expect_err("no UUID").code_and_reason(), expected);
}

#[tokio::test]
async fn a_thread_and_its_question_share_one_deadline() {
    let answers = [Reply::nothing().then_hold(), made()];
    for (answer, asked) in answers.into_iter().zip([1, 2]) {
        let held = Reply::nothing().then_hold();
        let upstream = Upstream::scripted([answer, held].into_iter().take(asked));
        let settings = [("STREAM_INITIAL_TIMEOUT", "300ms")];
        let bridge = Bridge::with(&upstream.url(), &settings).await;
        let status = bridge.client.clone().stream(starting("Salam")).await;
        let expected = (Code::DeadlineExceeded, "INITIAL_TIMEOUT".to_owned());
        let status = status.expect_err("late");
        assert_eq!(status.code_and_reason(), expected);
        let thread = (asked == 2).then(|| THREAD.to_owned());
        assert_eq!(status.info("threadId"), thread);
        assert_eq!(upstream.requests().len(), asked);
    }
}
