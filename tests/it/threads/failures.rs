//! The matrix: fault × {CreateThread, GetThread, DeleteThread}. The methods return what Invoke returns, and in every case
//! the upstream receives each call once.

use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;
use tonic::{Code, Status};

use super::{THREAD, a_thread, all, create, delete, get};
use crate::support::{
    Bridge, RichStatus, sse_tokens,
    upstream::{Reply, Upstream, refused_url},
    with_timeout,
};

const MALFORMED: &str = "UPSTREAM_MALFORMED_REPLY";
const INTERRUPTED: &str = "UPSTREAM_INTERRUPTED";
const TOO_LARGE: &str = "UPSTREAM_REPLY_TOO_LARGE";
const MISSING: &str = "UPSTREAM_ROUTE_MISSING";

/// A generous limit for what happens at once.
const SOON: Duration = Duration::from_secs(5);

/// The status of each method if the upstream always sends this reply.
async fn statuses(reply: Reply) -> [(&'static str, Status); 3] {
    let upstream = Upstream::answering(reply);
    let bridge = Bridge::with(&upstream.url(), &[("MAX_REPLY_BYTES", "4096")]).await;
    let results = all(&bridge).await;
    assert_eq!(upstream.requests().len(), 3, "nothing is sent twice");
    results.map(|(method, result)| (method, result.expect_err(method)))
}

fn assert_failed(status: &Status, code: Code, reason: &str, name: &str) {
    assert_eq!(
        status.code_and_reason(),
        (code, reason.to_owned()),
        "{name}: {status:?}"
    );
    assert_eq!(status.pushback().as_deref(), Some("-1"), "{name}");
    assert_eq!(status.info("sent").as_deref(), Some("true"), "{name}");
}

#[tokio::test]
async fn a_response_that_is_not_a_thread_fails_as_for_an_invoke() {
    use Code::{Internal, ResourceExhausted, Unavailable};
    let truncated = || {
        let head = Reply::head(200).header("content-type", "application/json");
        head.header("content-length", "99").send("{\"thr")
    };
    let html = a_thread().header("content-type", "text/html");
    let zipped = a_thread().header("content-encoding", "gzip");
    let large = json!({"thread_id": THREAD, "deleted": true, "x": "x".repeat(5000)});
    for (name, reply, code, reason) in [
        (
            "closed before the head",
            Reply::nothing(),
            Unavailable,
            INTERRUPTED,
        ),
        (
            "reset before the head",
            Reply::nothing().then_reset(),
            Unavailable,
            INTERRUPTED,
        ),
        (
            "cut inside the body",
            truncated().then_reset(),
            Unavailable,
            INTERRUPTED,
        ),
        (
            "closed inside the body",
            truncated().then_close(),
            Unavailable,
            INTERRUPTED,
        ),
        ("wrong content type", html, Internal, MALFORMED),
        ("compressed unasked", zipped, Internal, MALFORMED),
        (
            "another success",
            Reply::json(201, json!({"thread_id": THREAD, "deleted": true})),
            Internal,
            MALFORMED,
        ),
        ("no content", Reply::head(204), Internal, MALFORMED),
        ("empty body", Reply::json(200, ""), Internal, MALFORMED),
        ("no JSON", Reply::json(200, "{\"thr"), Internal, MALFORMED),
        (
            "a list",
            Reply::json(200, json!([THREAD, true])),
            Internal,
            MALFORMED,
        ),
        (
            "missing field",
            Reply::json(200, json!({"metadata": {}})),
            Internal,
            MALFORMED,
        ),
        (
            "wrong type",
            Reply::json(200, json!({"thread_id": 1, "deleted": "true"})),
            Internal,
            MALFORMED,
        ),
        (
            "null",
            Reply::json(200, json!({"thread_id": null, "deleted": null})),
            Internal,
            MALFORMED,
        ),
        (
            "a body over its limit",
            Reply::json(200, large),
            ResourceExhausted,
            TOO_LARGE,
        ),
    ] {
        for (method, status) in statuses(reply).await {
            assert_failed(&status, code, reason, &format!("{method}, {name}"));
        }
    }
}

#[tokio::test]
async fn an_unconfirmed_deletion_is_an_error() {
    for body in [json!({"deleted": false}), json!({"thread_id": THREAD})] {
        let upstream = Upstream::answering(Reply::json(200, body));
        let bridge = Bridge::start(&upstream.url()).await;
        let mut client = bridge.threads();
        let status = client.delete_thread(delete(THREAD)).await;
        let status = status.expect_err("not deleted");
        assert_failed(&status, Code::Internal, MALFORMED, "DeleteThread");
        assert!(
            status
                .message()
                .ends_with("not a JSON object with deleted: true")
        );
    }
}

#[tokio::test]
async fn metadata_that_no_caller_can_read_is_omitted_from_a_thread() {
    let deep = "{\"a\":".repeat(60) + "1" + &"}".repeat(60);
    for metadata in [&deep, "7", "[]", "\"a\"", "null"] {
        let body = format!(r#"{{"thread_id":"{THREAD}","metadata":{metadata}}}"#);
        let upstream = Upstream::answering(Reply::json(200, body));
        let bridge = Bridge::start(&upstream.url()).await;
        let got = bridge.threads().get_thread(get(THREAD)).await;
        let got = got.expect("a thread").into_inner();
        assert_eq!((&*got.thread_id, got.metadata), (THREAD, None));
    }
}

#[tokio::test]
async fn metadata_that_grows_too_large_is_not_forwarded() {
    let grown = format!(r#"{{"n":[{}]}}"#, vec!["1"; 1000].join(","));
    let body = format!(r#"{{"thread_id":"{THREAD}","metadata":{grown}}}"#);
    let upstream = Upstream::answering(Reply::json(200, body));
    let bridge = Bridge::with(&upstream.url(), &[("MAX_REPLY_BYTES", "4096")]).await;
    let mut client = bridge.threads();
    let created = client.create_thread(create(None)).await;
    let got = client.get_thread(get(THREAD)).await;
    for status in [created, got].map(|answer| answer.expect_err("grown")) {
        assert_failed(&status, Code::ResourceExhausted, TOO_LARGE, "grown");
    }
}

#[tokio::test]
async fn each_status_of_the_upstream_has_its_mapping() {
    use Code::*;
    const NEVER: Option<&str> = Some("-1");
    for (http, code, reason, pushback) in [
        (400, InvalidArgument, "UPSTREAM_REJECTED_REQUEST", None),
        (401, Internal, "UPSTREAM_CREDENTIALS_REJECTED", None),
        (403, Internal, "UPSTREAM_CREDENTIALS_REJECTED", None),
        (405, Unimplemented, MISSING, None),
        (409, Aborted, "UPSTREAM_CONFLICT", None),
        (410, NotFound, "UPSTREAM_NOT_FOUND", None),
        (422, InvalidArgument, "UPSTREAM_REJECTED_REQUEST", None),
        (
            429,
            ResourceExhausted,
            "UPSTREAM_RATE_LIMITED",
            Some("7000"),
        ),
        (500, Internal, "UPSTREAM_FAILED", NEVER),
        (501, Unimplemented, MISSING, Some("7000")),
        (502, Unavailable, "UPSTREAM_UNAVAILABLE", NEVER),
        (503, Unavailable, "UPSTREAM_UNAVAILABLE", Some("7000")),
        (504, DeadlineExceeded, "UPSTREAM_TIMEOUT", NEVER),
        (307, Internal, "UPSTREAM_REDIRECTED", None),
    ] {
        let mut reply = Reply::json(http, r#"{"detail":"Thread not found"}"#);
        if http == 429 || http > 500 {
            reply = reply.header("retry-after", "7");
        }
        for (method, status) in statuses(reply.header("location", "/api/v1/threads")).await {
            let expected = (code, reason.to_owned());
            assert_eq!(status.code_and_reason(), expected, "{method}, {http}");
            assert_eq!(status.pushback().as_deref(), pushback, "{method}, {http}");
            assert_eq!(
                status.info("httpStatus"),
                Some(http.to_string()),
                "{method}"
            );
        }
    }
}

#[tokio::test]
async fn an_upstream_without_threads_differs_from_an_unknown_thread() {
    for (body, code, reason) in [
        (r#"{"detail":"Not Found"}"#, Code::Unimplemented, MISSING),
        ("<h1>404</h1>", Code::Unimplemented, MISSING),
        (
            r#"{"detail":"Thread not found"}"#,
            Code::NotFound,
            "UPSTREAM_NOT_FOUND",
        ),
    ] {
        for (method, status) in statuses(Reply::json(404, body)).await {
            let expected = match method {
                "CreateThread" => (Code::Unimplemented, MISSING.to_owned()), // no thread was sent
                _ => (code, reason.to_owned()),
            };
            assert_eq!(status.code_and_reason(), expected, "{method}: {body}");
        }
    }
}

#[tokio::test]
async fn invalid_fields_of_a_422_become_a_bad_request() {
    let fault = json!({"loc": ["body", "metadata", "crops", 0], "msg": "no crop"});
    for (method, status) in statuses(Reply::json(422, json!({"detail": [fault]}))).await {
        let rich = status.error_details();
        let violations = &rich.bad_request().expect(method).field_violations;
        assert_eq!(violations[0].field, "metadata.crops.0", "{method}");
    }
}

#[tokio::test]
async fn without_a_connection_nothing_was_sent() {
    let bridge = Bridge::start(&refused_url()).await;
    for (method, result) in all(&bridge).await {
        let status = result.expect_err(method);
        let expected = (Code::Unavailable, "UPSTREAM_UNREACHABLE".to_owned());
        assert_eq!(status.code_and_reason(), expected, "{method}");
        assert_eq!(status.info("sent").as_deref(), Some("false"), "{method}");
        assert_eq!(status.pushback(), None, "{method}");
    }
}

#[tokio::test]
async fn a_thread_call_that_takes_too_long_ends_by_invoke_timeout_and_is_dropped() {
    let upstream = Upstream::answering(Reply::nothing().then_hold());
    let bridge = Bridge::with(&upstream.url(), &[("INVOKE_TIMEOUT", "200ms")]).await;
    for (method, result) in all(&bridge).await {
        let status = result.expect_err(method);
        assert_failed(&status, Code::DeadlineExceeded, "INVOKE_TIMEOUT", method);
        upstream.wait_for_close().await;
    }
}

#[tokio::test]
async fn a_thread_call_ends_at_the_callers_deadline_and_when_the_caller_leaves() {
    let upstream = Upstream::answering(Reply::nothing().then_hold());
    let bridge = Bridge::start(&upstream.url()).await;
    let mut client = bridge.threads();
    let late = client.get_thread(with_timeout(200, get(THREAD))).await;
    let code = late.expect_err("too late").code();
    assert!(
        matches!(code, Code::DeadlineExceeded | Code::Cancelled),
        "{code:?}"
    );
    upstream.wait_for_close().await;
    tokio::select! {
        _ = client.delete_thread(delete(THREAD)) => panic!("nothing was answered"),
        _ = upstream.wait_for_requests(2) => {}
    }
    upstream.wait_for_close().await;
}

#[tokio::test]
async fn a_thread_call_needs_a_permit_and_gives_it_back() {
    let stream = Reply::sse(sse_tokens(&["a"])).then_hold();
    let upstream = Upstream::scripted([a_thread(), a_thread(), a_thread(), stream]);
    let bridge = Bridge::with(&upstream.url(), &[("MAX_CALLS", "1")]).await;
    for (method, result) in all(&bridge).await {
        result.expect(method);
    }
    let _open = bridge.stream("Salam").await.expect("a free slot");
    for (method, result) in timeout(SOON, all(&bridge)).await.expect("at once") {
        let status = result.expect_err(method);
        let expected = (Code::Unavailable, "BRIDGE_SATURATED".to_owned());
        assert_eq!(status.code_and_reason(), expected, "{method}");
        assert_eq!(status.info("sent").as_deref(), Some("false"), "{method}");
    }
}

#[tokio::test]
async fn what_tonic_rejects_has_its_reason_for_threads_too() {
    let upstream = Upstream::answering(a_thread());
    let bridge = Bridge::with(&upstream.url(), &[("MAX_REQUEST_BYTES", "64")]).await;
    let large = get(&"x".repeat(65));
    let status = bridge.threads().get_thread(large).await;
    let expected = (Code::ResourceExhausted, "REQUEST_TOO_LARGE".to_owned());
    assert_eq!(status.expect_err("too large").code_and_reason(), expected);
    assert!(upstream.requests().is_empty());
}
