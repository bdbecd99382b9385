//! The matrix: fault × {Invoke, Stream} × {before the head, before the first event, mid-stream}.
//!
//! Each case is the upstream's behavior after it has read the request, and the expected status. In all of them the upstream
//! gets the call once, and the connection is not reused.

use crate::support::{
    Bridge, RichStatus, read_all, reply_json, sse_tokens, text,
    upstream::{Reply, Upstream, refused_url},
};
use alim_bridge::pb::stream_response::Event;
use tonic::{Code, Status};

const TRUNCATED: &str = "UPSTREAM_STREAM_TRUNCATED";
const MALFORMED: &str = "UPSTREAM_MALFORMED_REPLY";
const INTERRUPTED: &str = "UPSTREAM_INTERRUPTED";
const FAILED: &str = "UPSTREAM_STREAM_FAILED";
const TOO_LARGE: &str = "UPSTREAM_REPLY_TOO_LARGE";

fn assert_status(status: &Status, code: Code, reason: &str, name: &str) {
    assert_eq!(
        status.code_and_reason(),
        (code, reason.to_owned()),
        "{name}: {status:?}"
    );
    assert_eq!(
        status.pushback().as_deref(),
        Some("-1"),
        "{name}: the upstream may have run it"
    );
    assert_eq!(status.info("sent").as_deref(), Some("true"), "{name}");
}

/// The expected code and reason; `None` if the failure does not apply to the method.
type Expected = Option<(Code, &'static str)>;

/// Invoke, and Stream before its first event. Until the upstream has accepted the question, a stream's response is trailers-only.
#[tokio::test]
async fn a_failure_before_the_first_event_ends_with_a_status_that_forbids_a_retry() {
    use Code::{Internal, ResourceExhausted, Unavailable};
    let html = |status| Reply::json(status, "<html>").header("content-type", "text/html");
    let cases: Vec<(&str, Reply, Expected, Expected)> = vec![
        // (failure, the upstream's reply, Invoke's status, Stream's status)
        (
            "closed before the head",
            Reply::nothing(),
            Some((Unavailable, INTERRUPTED)),
            Some((Unavailable, INTERRUPTED)),
        ),
        (
            "reset before the head",
            Reply::nothing().then_reset(),
            Some((Unavailable, INTERRUPTED)),
            Some((Unavailable, INTERRUPTED)),
        ),
        (
            "not HTTP",
            Reply::nothing().send("rubbish\r\n\r\n").then_close(),
            Some((Unavailable, INTERRUPTED)),
            Some((Unavailable, INTERRUPTED)),
        ),
        (
            "wrong content type",
            html(200),
            Some((Internal, MALFORMED)),
            Some((Internal, MALFORMED)),
        ),
        (
            "another success",
            Reply::json(202, reply_json()),
            Some((Internal, MALFORMED)),
            Some((Internal, MALFORMED)),
        ),
        (
            "unrequested compression",
            Reply::json(200, reply_json()).header("content-encoding", "gzip"),
            Some((Internal, MALFORMED)),
            None,
        ),
        (
            "unrequested compression of the stream",
            Reply::sse("x").header("content-encoding", "gzip"),
            None,
            Some((Internal, MALFORMED)),
        ),
        (
            "empty body",
            Reply::json(200, ""),
            Some((Internal, MALFORMED)),
            None,
        ),
        (
            "not JSON",
            Reply::json(200, "{\"resp"),
            Some((Internal, MALFORMED)),
            None,
        ),
        (
            "a list",
            Reply::json(200, r#"["a","b",null,null]"#),
            Some((Internal, MALFORMED)),
            None,
        ),
        (
            "missing field",
            Reply::json(200, r#"{"response":"a"}"#),
            Some((Internal, MALFORMED)),
            None,
        ),
        (
            "wrong type",
            Reply::json(200, r#"{"response":1,"thread_id":"t"}"#),
            Some((Internal, MALFORMED)),
            None,
        ),
        (
            "reset inside the body",
            Reply::head(200)
                .header("content-type", "application/json")
                .header("content-length", "99")
                .send("{\"resp")
                .then_reset(),
            Some((Unavailable, INTERRUPTED)),
            None,
        ),
        (
            "closed inside the body",
            Reply::head(200)
                .header("content-type", "application/json")
                .header("content-length", "99")
                .send("{\"resp")
                .then_close(),
            Some((Unavailable, INTERRUPTED)),
            None,
        ),
        (
            "a body over its limit",
            Reply::json(
                200,
                format!(r#"{{"response":"{}","thread_id":"t"}}"#, "x".repeat(5000)),
            ),
            Some((ResourceExhausted, TOO_LARGE)),
            None,
        ),
        (
            "empty stream",
            Reply::sse(""),
            None,
            Some((Unavailable, TRUNCATED)),
        ),
        (
            "comments alone",
            Reply::sse(": ping\n\n"),
            None,
            Some((Unavailable, TRUNCATED)),
        ),
        (
            "reset before an event",
            Reply::sse(": ping\n\n").then_reset(),
            None,
            Some((Unavailable, TRUNCATED)),
        ),
        (
            "ends inside the first event",
            Reply::sse("event: token\ndata: a\n"),
            None,
            Some((Unavailable, TRUNCATED)),
        ),
        (
            "done without its blank line",
            Reply::sse("event: done\ndata: [DONE]\n"),
            None,
            Some((Unavailable, TRUNCATED)),
        ),
        (
            "error event",
            Reply::sse("event: error\ndata: Graf yıxıldı\n\n"),
            None,
            Some((Internal, FAILED)),
        ),
        (
            "error event without a text",
            Reply::sse("event: error\ndata: \n\n"),
            None,
            Some((Internal, FAILED)),
        ),
        (
            "JSON instead of events",
            Reply::sse(r#"{"error":"Internal Server Error","detail":"x"}"#),
            None,
            Some((Internal, FAILED)),
        ),
        (
            "an event over its limit",
            Reply::sse(format!("event: token\ndata: {}\n\n", "x".repeat(5000))),
            None,
            Some((ResourceExhausted, TOO_LARGE)),
        ),
    ];
    for (name, reply, invoke, stream) in cases {
        let upstream = Upstream::answering(reply);
        let limits = [("MAX_REPLY_BYTES", "4096"), ("MAX_EVENT_BYTES", "4096")];
        let bridge = Bridge::with(&upstream.url(), &limits).await;
        if let Some((code, reason)) = invoke {
            let status = bridge.invoke("Salam").await.expect_err(name);
            assert_status(&status, code, reason, name);
        }
        if let Some((code, reason)) = stream {
            let has_head = invoke.is_none() && reason != MALFORMED;
            let status = match bridge.stream("Salam").await {
                Ok(_) if !has_head => panic!("{name}: not trailers-only"),
                Ok(head) => read_all(head.into_inner()).await.1.expect_err(name),
                Err(status) => status,
            };
            assert_status(&status, code, reason, name);
            let delivered = has_head.then(|| "0".to_owned());
            assert_eq!(status.info("eventsDelivered"), delivered, "{name}");
        }
        let calls = usize::from(invoke.is_some()) + usize::from(stream.is_some());
        let sent = upstream.requests().len();
        assert_eq!(sent, calls, "{name}: nothing is sent twice");
    }
}

#[tokio::test]
async fn a_failure_mid_stream_ends_with_a_status_after_the_events() {
    use Code::{Internal, ResourceExhausted, Unavailable};
    let start = || sse_tokens(&["Sal", "am"]);
    let then = |rest: &str| Reply::sse_chunks([start(), rest.to_owned()]);
    let cases = [
        (
            "ends without done",
            Reply::sse(start()),
            Unavailable,
            TRUNCATED,
        ),
        (
            "closed without the last chunk",
            Reply::sse(start()).then_close(),
            Unavailable,
            TRUNCATED,
        ),
        (
            "reset",
            Reply::sse(start()).then_reset(),
            Unavailable,
            TRUNCATED,
        ),
        (
            "closed inside a chunk",
            Reply::sse(start()).send("5\r\nab").then_close(),
            Unavailable,
            TRUNCATED,
        ),
        (
            "ends inside an event",
            then("event: token\ndata: yarım\n"),
            Unavailable,
            TRUNCATED,
        ),
        (
            "ends inside a line",
            then("event: tok"),
            Unavailable,
            TRUNCATED,
        ),
        (
            "error event",
            then("event: error\ndata: Graf yıxıldı\n\n"),
            Internal,
            FAILED,
        ),
        (
            "unterminated error object",
            then(r#"{"detail":"Graf yıxıldı"}"#),
            Internal,
            FAILED,
        ),
        (
            "an event over its limit",
            then(&format!("data: {}\n\n", "x".repeat(5000))),
            ResourceExhausted,
            TOO_LARGE,
        ),
        (
            "a line over its limit",
            then(&"x".repeat(5000)),
            ResourceExhausted,
            TOO_LARGE,
        ),
        (
            "chunked framing broken",
            Reply::sse(start()).send("zz\r\n").then_close(),
            Unavailable,
            TRUNCATED,
        ),
    ];
    for (name, reply, code, reason) in cases {
        let upstream = Upstream::answering(reply);
        let bridge = Bridge::with(&upstream.url(), &[("MAX_EVENT_BYTES", "4096")]).await;
        let (events, ending) = bridge.stream_all("Salam").await;
        assert_eq!(text(&events).trim_end(), "Salam", "{name}");
        assert!(
            !events.iter().any(|event| matches!(event, Event::Done(_))),
            "{name}: never both Done and a status"
        );
        let status = ending.expect_err(name);
        assert_status(&status, code, reason, name);
        assert_eq!(
            status.info("eventsDelivered"),
            Some(events.len().to_string()),
            "{name}"
        );
        let sent = upstream.requests().len();
        assert_eq!(sent, 1, "{name}: nothing is sent twice");
    }
}

#[tokio::test]
async fn the_text_of_an_error_event_reaches_the_caller_cleaned() {
    let upstream = Upstream::answering(Reply::sse(
        "event: error\ndata: Graf yıxıldı: http://inner:1/x\n\n",
    ));
    let bridge = Bridge::start(&upstream.url()).await;
    let status = bridge.stream_failure("Salam").await;
    assert_eq!(
        status.message(),
        "the upstream failed while answering: Graf yıxıldı: <url>"
    );
}

#[tokio::test]
async fn without_a_connection_nothing_is_sent_and_retries_are_allowed() {
    let bridge = Bridge::start(&refused_url()).await;
    let invoked = bridge
        .invoke("Salam")
        .await
        .expect_err("connection refused");
    let streamed = bridge
        .stream("Salam")
        .await
        .expect_err("connection refused");
    for status in [invoked, streamed] {
        let unreachable = (Code::Unavailable, "UPSTREAM_UNREACHABLE".to_owned());
        assert_eq!(status.code_and_reason(), unreachable);
        assert_eq!(status.info("sent").as_deref(), Some("false"));
        assert_eq!(status.pushback(), None);
    }
}

#[tokio::test]
async fn an_upstream_name_that_does_not_resolve_is_unreachable() {
    let bridge = Bridge::start("http://no-such-host.invalid:8000/api/v1").await;
    let status = bridge.invoke("Salam").await.expect_err("no such host");
    let unreachable = (Code::Unavailable, "UPSTREAM_UNREACHABLE".to_owned());
    assert_eq!(status.code_and_reason(), unreachable);
}

#[tokio::test]
async fn an_upstream_that_never_finishes_its_tls_handshake_is_unreachable() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let url = format!("https://{}/api/v1", silent.local_addr().expect("bound"));
    let settings = [("CONNECT_TIMEOUT", "100ms"), ("RETRIES", "0")];
    let bridge = Bridge::with(&url, &settings).await;
    let status = bridge.invoke("Salam").await.expect_err("no TLS there");
    let unreachable = (Code::Unavailable, "UPSTREAM_UNREACHABLE".to_owned());
    assert_eq!(status.code_and_reason(), unreachable);
    assert_eq!(status.info("sent").as_deref(), Some("false"));
}

#[tokio::test]
async fn an_unreadable_optional_field_is_left_out_of_the_reply() {
    let deep = "{\"a\":".repeat(60) + "1" + &"}".repeat(60);
    let wrong = ["7", "[\"a\"]", "true", "null"];
    for (model, metadata) in wrong
        .map(|wrong| (wrong, wrong))
        .into_iter()
        .chain([("{}", &*deep)])
    {
        let body =
            format!(r#"{{"response":"a","thread_id":"t","model":{model},"metadata":{metadata}}}"#);
        let upstream = Upstream::answering(Reply::json(200, body));
        let bridge = Bridge::start(&upstream.url()).await;
        let reply = bridge.invoke("Salam").await.expect(model).into_inner();
        assert_eq!((&*reply.response, &*reply.thread_id), ("a", "t"), "{model}");
        assert_eq!((&*reply.model, reply.metadata), ("", None), "{model}");
    }
}

#[tokio::test]
async fn a_reply_that_exceeds_the_limit_as_protobuf_is_rejected() {
    let numbers = vec!["1"; 1000].join(",");
    let body = format!(r#"{{"response":"a","thread_id":"t","metadata":{{"n":[{numbers}]}}}}"#);
    let upstream = Upstream::answering(Reply::json(200, body));
    let bridge = Bridge::with(&upstream.url(), &[("MAX_REPLY_BYTES", "4096")]).await;
    let status = bridge.invoke("Salam").await.expect_err("too large");
    assert_status(&status, Code::ResourceExhausted, TOO_LARGE, "many numbers");
}
