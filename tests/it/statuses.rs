//! The mapping of the upstream's HTTP statuses, for Invoke and for Stream.

use serde_json::json;
use tonic::{Code, Status};

use crate::support::{
    Bridge, RichStatus, ask, ask_stream,
    extra::with_metadata,
    upstream::{Reply, Upstream},
    with_timeout,
};

/// The statuses of both methods for this reply.
async fn statuses(reply: Reply) -> [Status; 2] {
    statuses_of("r-1", reply).await
}

/// The statuses of both methods for this reply, with a request id.
async fn statuses_of(id: &str, reply: Reply) -> [Status; 2] {
    let upstream = Upstream::answering(reply);
    let bridge = Bridge::start(&upstream.url()).await;
    let mut client = bridge.client.clone();
    let id = [("x-request-id", id.as_bytes())];
    let invoked = client.invoke(with_metadata(ask("Salam"), &id)).await;
    let streamed = client.stream(with_metadata(ask_stream("Salam"), &id)).await;
    let invoked = invoked.expect_err("no reply");
    let streamed = streamed.expect_err("trailers only, before any event");
    assert_eq!(upstream.requests().len(), 2, "nothing is sent twice");
    [invoked, streamed]
}

fn retry_delay(status: &Status) -> Option<u64> {
    let info = status.error_details().retry_info().cloned()?;
    info.retry_delay.map(|delay| delay.as_secs())
}

#[tokio::test]
async fn each_status_of_the_upstream_has_its_code_reason_and_pushback() {
    use Code::*;
    const NEVER: Option<&str> = Some("-1");
    let cases = [
        (400, InvalidArgument, "UPSTREAM_REJECTED_REQUEST", None),
        (401, Internal, "UPSTREAM_CREDENTIALS_REJECTED", None),
        (402, FailedPrecondition, "UPSTREAM_REJECTED_REQUEST", None),
        (403, Internal, "UPSTREAM_CREDENTIALS_REJECTED", None),
        (404, Unimplemented, "UPSTREAM_ROUTE_MISSING", None),
        (405, Unimplemented, "UPSTREAM_ROUTE_MISSING", None),
        (406, FailedPrecondition, "UPSTREAM_REJECTED_REQUEST", None),
        (408, Unavailable, "UPSTREAM_UNAVAILABLE", NEVER),
        (409, Aborted, "UPSTREAM_CONFLICT", None),
        (410, NotFound, "UPSTREAM_NOT_FOUND", None),
        (412, FailedPrecondition, "UPSTREAM_PRECONDITION", None),
        (413, ResourceExhausted, "UPSTREAM_REQUEST_TOO_LARGE", None),
        (418, FailedPrecondition, "UPSTREAM_REJECTED_REQUEST", None),
        (422, InvalidArgument, "UPSTREAM_REJECTED_REQUEST", None),
        (425, Unavailable, "UPSTREAM_UNAVAILABLE", NEVER),
        (429, ResourceExhausted, "UPSTREAM_RATE_LIMITED", None),
        (500, Internal, "UPSTREAM_FAILED", NEVER),
        (501, Unimplemented, "UPSTREAM_ROUTE_MISSING", NEVER),
        (502, Unavailable, "UPSTREAM_UNAVAILABLE", NEVER),
        (503, Unavailable, "UPSTREAM_UNAVAILABLE", NEVER),
        (504, DeadlineExceeded, "UPSTREAM_TIMEOUT", NEVER),
        (507, Internal, "UPSTREAM_FAILED", NEVER),
        (301, Internal, "UPSTREAM_REDIRECTED", None),
        (307, Internal, "UPSTREAM_REDIRECTED", None),
    ];
    for (http, code, reason, pushback) in cases {
        let reply =
            Reply::json(http, r#"{"detail":"why"}"#).header("location", "http://127.0.0.1:1/");
        for status in statuses(reply).await {
            assert_eq!(
                status.code_and_reason(),
                (code, reason.to_owned()),
                "{http}"
            );
            assert_eq!(status.pushback().as_deref(), pushback, "{http}");
            assert_eq!(status.info("httpStatus"), Some(http.to_string()));
            assert_eq!(status.info("sent").as_deref(), Some("true"), "{http}");
            assert_eq!(
                status.message().contains("why"),
                http >= 400,
                "{http}: {status:?}"
            );
        }
    }
}

/// The statuses of both methods for this reply to a question in a thread.
async fn statuses_in_a_thread(reply: Reply) -> [Status; 2] {
    let upstream = Upstream::answering(reply);
    let bridge = Bridge::start(&upstream.url()).await;
    let thread_id = Some("4c13b087-ffe8-49de-8772-026386d86267".to_owned());
    let (mut question, mut streamed) = (ask("Bəs sabah?"), ask_stream("Bəs sabah?"));
    question.thread_id.clone_from(&thread_id);
    streamed.thread_id = thread_id;
    let mut client = bridge.client.clone();
    let invoked = client.invoke(question).await.expect_err("no reply");
    let streamed = client.stream(streamed).await.expect_err("no event");
    [invoked, streamed]
}

#[tokio::test]
async fn a_404_is_a_missing_route_unless_it_is_json_about_a_sent_thread() {
    let missing = (Code::Unimplemented, "UPSTREAM_ROUTE_MISSING".to_owned());
    let not_found = (Code::NotFound, "UPSTREAM_NOT_FOUND".to_owned());
    let about_thread = Reply::json(404, r#"{"detail":"Thread not found"}"#);
    let of_fastapi = Reply::json(404, r#"{"detail":"Not Found"}"#);
    let page = Reply::json(404, "<h1>404</h1>").header("content-type", "text/html");
    for status in statuses_in_a_thread(about_thread.clone()).await {
        assert_eq!(status.code_and_reason(), not_found, "{status:?}");
    }
    let mut about_path = statuses(about_thread).await.to_vec();
    for reply in [
        of_fastapi,
        page,
        Reply::head(404).header("content-length", "0"),
    ] {
        about_path.extend(statuses_in_a_thread(reply.clone()).await);
        about_path.extend(statuses(reply).await);
    }
    for status in about_path {
        assert_eq!(status.code_and_reason(), missing, "{status:?}");
        assert!(status.message().contains("UPSTREAM_URL"), "{status:?}");
    }
}

#[tokio::test]
async fn a_400_without_json_blames_upstream_url() {
    let nginx = "<html>The plain HTTP request was sent to HTTPS port</html>";
    let go = "Client sent an HTTP request to an HTTPS server.\n";
    for body in [nginx, go, ""] {
        let reply = Reply::json(400, body).header("content-type", "text/plain");
        for status in statuses(reply).await {
            let malformed = (Code::Internal, "UPSTREAM_MALFORMED_REPLY".to_owned());
            assert_eq!(status.code_and_reason(), malformed, "{body}");
            assert!(status.message().contains("UPSTREAM_URL"), "{status:?}");
            assert_eq!(status.info("httpStatus").as_deref(), Some("400"));
        }
    }
}

#[tokio::test]
async fn invalid_fields_of_a_422_become_a_bad_request() {
    let body = json!({"detail": [
        {"type": "string_too_short", "loc": ["body", "message"], "msg": "too short", "input": ""},
        {"type": "x", "loc": ["body", "scenario_context", "crops", 0], "msg": "no crop"},
    ]});
    for status in statuses(Reply::json(422, body)).await {
        let rich = status.error_details();
        let violations = &rich.bad_request().expect("a BadRequest").field_violations;
        let found: Vec<_> = violations
            .iter()
            .map(|v| (v.field.as_str(), v.description.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                ("message", "too short"),
                ("scenario_context.crops.0", "no crop")
            ]
        );
    }
}

#[tokio::test]
async fn retry_after_becomes_retry_info_and_pushback_if_nothing_has_run() {
    for http in [408, 425, 429, 501, 503] {
        for status in statuses(Reply::json(http, "{}").header("retry-after", "7")).await {
            assert_eq!(retry_delay(&status), Some(7), "{http}");
            assert_eq!(status.pushback().as_deref(), Some("7000"), "{http}");
            assert_eq!(
                status.metadata().get("retry-after").expect("passed on"),
                "7"
            );
        }
    }
}

#[tokio::test]
async fn a_call_that_may_have_run_is_never_retried_despite_retry_after() {
    for http in [500, 502, 504, 507] {
        for status in statuses(Reply::json(http, "{}").header("retry-after", "7")).await {
            assert_eq!(status.pushback().as_deref(), Some("-1"), "{http}");
            assert_eq!(retry_delay(&status), None, "{http}: some libraries obey it");
        }
    }
}

#[tokio::test]
async fn a_retry_after_of_0_or_in_the_past_is_ignored() {
    for value in ["0", "Sun, 06 Nov 1994 08:49:37 GMT"] {
        for (http, pushback) in [(503, Some("-1")), (429, None)] {
            for status in statuses(Reply::json(http, "{}").header("retry-after", value)).await {
                assert_eq!(status.pushback().as_deref(), pushback, "{http}: {value}");
                assert_eq!(retry_delay(&status), None, "{http}: {value}");
            }
        }
    }
}

#[tokio::test]
async fn a_pushback_beyond_the_callers_deadline_is_minus_1() {
    for (seconds, pushback) in [("30", "-1"), ("5", "5000")] {
        let reply = Reply::json(503, "{}").header("retry-after", seconds);
        let upstream = Upstream::answering(reply);
        let bridge = Bridge::start(&upstream.url()).await;
        let mut client = bridge.client.clone();
        let invoked = client.invoke(with_timeout(10_000, ask("Salam"))).await;
        let streamed = client
            .stream(with_timeout(10_000, ask_stream("Salam")))
            .await;
        for status in [invoked.expect_err("503"), streamed.expect_err("503")] {
            assert_eq!(status.pushback().as_deref(), Some(pushback));
            let delay = retry_delay(&status).map(|delay| delay.to_string());
            assert_eq!(delay.as_deref(), Some(seconds));
        }
    }
}

#[tokio::test]
async fn an_html_body_is_never_quoted() {
    let page = "<html><body>nginx/1.2 at 10.0.0.7</body></html>";
    for status in statuses(Reply::json(502, page).header("content-type", "text/html")).await {
        assert_eq!(status.message(), "the upstream is not available now (502)");
    }
}

#[tokio::test]
async fn an_upstreams_text_is_cleaned_of_control_characters_and_urls() {
    let detail = "Client error\r\nfor url 'http://graph:8123/threads/1?key=x'\u{7}";
    for status in statuses(Reply::json(500, json!({"detail": detail}))).await {
        assert_eq!(
            status.message(),
            "the upstream failed (500): Client error  for url '<url>'"
        );
    }
}

#[tokio::test]
async fn an_error_body_over_64_kib_loses_only_its_detail() {
    let detail = json!({"detail": "x".repeat(70 * 1024)});
    for status in statuses(Reply::json(400, detail)).await {
        assert_eq!(status.message(), "the upstream rejected the request (400)");
    }
}

#[tokio::test]
async fn an_endless_error_body_loses_only_its_detail() {
    let upstream = Upstream::answering(
        Reply::head(400)
            .header("content-type", "application/json")
            .header("content-length", "99")
            .send("{\"det")
            .then_hold(),
    );
    let bridge = Bridge::start(&upstream.url()).await;
    let status = bridge.invoke("Salam").await.expect_err("rejected");
    let rejected = (
        Code::InvalidArgument,
        "UPSTREAM_REJECTED_REQUEST".to_owned(),
    );
    assert_eq!(status.code_and_reason(), rejected);
}

#[tokio::test]
async fn a_status_is_never_larger_than_callers_accept() {
    let fields: Vec<_> = (0..40)
        .map(|n| json!({"loc": ["body", format!("sahə{n}")], "msg": "ə".repeat(900)}))
        .collect();
    for body in [
        json!({"detail": fields}),
        json!({"detail": "ə".repeat(9000)}),
        json!({"detail": "a".repeat(9000)}), // the details repeat the message
    ] {
        let mut reply = Reply::json(422, body);
        for name in [
            "x-ratelimit-limit-of-all-forty-letters-1",
            "x-ratelimit-limit-of-all-forty-letters-2",
            "x-ratelimit-limit-of-all-forty-letters-3",
            "x-ratelimit-limit-of-all-forty-letters-4",
            "x-ratelimit-limit-of-all-forty-letters-5",
            "x-ratelimit-limit-of-all-forty-letters-6",
        ] {
            reply = reply.header(name, &"9".repeat(128));
        }
        reply = reply.header("retry-after", &format!("{:0128}", 7));
        for status in statuses_of(&"r".repeat(128), reply).await {
            let head = status.into_http::<()>();
            let size = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
                name.as_str().len() + value.len() + 32
            };
            let fields = head.headers().iter().filter(|(name, _)| *name != "date");
            let total: usize = fields.map(size).sum();
            assert!(total <= 4096, "{total} bytes");
            assert!(head.headers()["grpc-message"].len() <= 1024);
        }
    }
}
