//! Who can call: origins, preflights, keys, and requests other than gRPC-Web.

use crate::support::{
    Bridge, RichStatus, ask,
    bare::Connection,
    callers::{CallersFile, entry},
    reply_json,
    upstream::{Reply, Upstream},
};
use alim_bridge::pb::InvokeRequest;
use bytes::Bytes;
use http_body_util::Full;
use tonic::{Code, Status};
use tower::Service;

use super::{
    for_pages,
    page::{Head, ORIGIN, Page, frame, request},
};

const INVOKE: &str = "/alim.v1.GraphService/Invoke";
const OTHER_ORIGIN: &str = "https://evil.example";

fn replying() -> Upstream {
    Upstream::answering(Reply::json(200, reply_json()))
}

/// The answer to a browser's preflight for this origin.
async fn preflight(bridge: &Bridge, origin: &str) -> Head {
    let headers = [
        ("origin", origin),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "content-type,x-grpc-web"),
    ];
    let mut page = Page::at(bridge.address).await;
    page.send(&request("OPTIONS", INVOKE, &headers, b"")).await;
    page.head().await
}

fn words<'a>(head: &'a Head, name: &str) -> Vec<&'a str> {
    let value = head.headers[name].to_str().expect("ASCII");
    value.split(", ").collect()
}

fn assert_shares_nothing(headers: &http::HeaderMap) {
    let names = headers.keys().map(http::HeaderName::as_str);
    let shared: Vec<_> = names.filter(|name| name.starts_with("access-")).collect();
    assert_eq!(shared, [""; 0]);
}

#[tokio::test]
async fn a_preflight_from_a_listed_origin_is_answered_and_not_forwarded() {
    let upstream = replying();
    let listed = format!("http://localhost:3000, {ORIGIN}");
    let bridge = Bridge::with(&upstream.url(), &[("GRPC_WEB", &listed)]).await;
    for origin in ["http://localhost:3000", ORIGIN] {
        let head = preflight(&bridge, origin).await;
        assert_eq!(head.status, 204);
        assert_eq!(head.headers["access-control-allow-origin"], origin);
        assert_eq!(words(&head, "access-control-allow-methods"), ["POST"]);
        assert_eq!(head.headers["access-control-max-age"], "7200");
        assert_eq!(head.headers["vary"], "origin");
        assert_eq!(
            words(&head, "access-control-allow-headers"),
            [
                "content-type",
                "x-grpc-web",
                "x-user-agent",
                "grpc-timeout",
                "authorization",
                "x-api-key",
                "x-request-id",
                "traceparent",
                "tracestate",
                "baggage",
                "accept-language",
            ]
        );
        assert!(
            !head
                .headers
                .contains_key("access-control-allow-credentials")
        );
    }
    assert!(upstream.requests().is_empty());
    let (_, metrics) = bridge.admin("/metrics").await;
    let started = metrics
        .lines()
        .filter(|line| line.starts_with("grpc_server_started_total{"));
    assert!(
        started.into_iter().all(|line| line.ends_with(" 0")),
        "no call"
    );
}

#[tokio::test]
async fn a_preflight_from_another_origin_is_rejected() {
    let upstream = replying();
    let bridge = for_pages(&upstream, &[]).await;
    for origin in [OTHER_ORIGIN, "http://app.example.az", "null", "*"] {
        let head = preflight(&bridge, origin).await;
        assert_eq!(head.status, 403, "{origin}");
        assert_shares_nothing(&head.headers);
    }
}

#[tokio::test]
async fn a_call_from_another_origin_is_rejected_and_not_forwarded() {
    let upstream = replying();
    let bridge = for_pages(&upstream, &[]).await;
    for origin in [OTHER_ORIGIN, "null", "https://app.example.az:443"] {
        let mut page = Page::at(bridge.address).await;
        let headers = [("content-type", "application/grpc-web"), ("origin", origin)];
        let call = request("POST", INVOKE, &headers, &frame(&ask("Salam")));
        page.send(&call).await;
        let answer = page.answer().await;
        assert_eq!(answer.head.status, 403, "{origin}");
        let expected = (Code::PermissionDenied, "ORIGIN_REJECTED".to_owned());
        assert_eq!(answer.status().code_and_reason(), expected);
        assert_eq!(answer.status().info("sent").as_deref(), Some("false"));
        assert_shares_nothing(&answer.head.headers);
    }
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn over_http2_another_origin_is_rejected_with_any_content_type() {
    let upstream = replying();
    let bridge = for_pages(&upstream, &[]).await;
    for kind in [
        "application/grpc-web+proto",
        "application/grpc",
        "text/plain",
    ] {
        let answer = over_http2(&bridge, &[("content-type", kind), ("origin", OTHER_ORIGIN)]).await;
        assert_eq!(answer.status(), 403, "{kind}");
        let status = Status::from_header_map(answer.headers()).expect("a status");
        assert_eq!(status.code_and_reason().1, "ORIGIN_REJECTED", "{kind}");
        assert_shares_nothing(answer.headers());
    }
    assert!(upstream.requests().is_empty());
}

async fn over_http2(
    bridge: &Bridge,
    headers: &[(&str, &str)],
) -> http::Response<hyper::body::Incoming> {
    let mut request = http::Request::post(format!("http://bridge{INVOKE}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = Full::new(Bytes::from(frame(&ask("Salam"))));
    let request = request.body(tonic::body::Body::new(body));
    let mut connection = Connection::open(bridge.address).await;
    let answer = connection.call(request.expect("a request")).await;
    answer.expect("an answer")
}

#[tokio::test]
async fn with_a_star_every_page_can_call() {
    let upstream = replying();
    let bridge = Bridge::with(&upstream.url(), &[("GRPC_WEB", "*")]).await;
    let head = preflight(&bridge, OTHER_ORIGIN).await;
    assert_eq!(head.headers["access-control-allow-origin"], "*");
    let mut page = Page::at(bridge.address).await;
    page.call("Invoke", &[], ask("Salam")).await;
    let answer = page.answer().await;
    assert_eq!(answer.status().code(), Code::Ok);
    assert_eq!(answer.head.headers["access-control-allow-origin"], "*");
}

#[tokio::test]
async fn a_page_sends_its_key_as_any_caller() {
    let upstream = replying();
    let file = CallersFile::with(&entry("orders", "k-1"));
    let bridge = for_pages(&upstream, &[("CALLERS_FILE", &file.path())]).await;
    let answer = preflight(&bridge, ORIGIN).await;
    assert_eq!(answer.status, 204, "preflights have no key");
    let mut page = Page::at(bridge.address).await;
    for (headers, reason) in [
        (&[][..], "CALLER_CREDENTIALS_MISSING"),
        (
            &[("authorization", "Bearer wrong")],
            "CALLER_CREDENTIALS_REJECTED",
        ),
    ] {
        page.call("Invoke", headers, ask("Salam")).await;
        let status = page.answer().await.status();
        assert_eq!(
            status.code_and_reason(),
            (Code::Unauthenticated, reason.to_owned())
        );
    }
    assert!(upstream.requests().is_empty());
    page.call("Invoke", &[("authorization", "Bearer k-1")], ask("Salam"))
        .await;
    assert_eq!(page.answer().await.status().code(), Code::Ok);
}

#[tokio::test]
async fn http1_requests_other_than_grpc_web_are_rejected_and_not_forwarded() {
    let upstream = replying();
    let bridge = for_pages(&upstream, &[]).await;
    let call = frame(&ask("Salam"));
    for (method, kind, status) in [
        ("POST", "application/grpc", 400),
        ("POST", "application/grpc-web+json", 415),
        ("POST", "application/json", 415),
        ("POST", "text/plain", 415),
        ("GET", "application/grpc-web", 405),
        ("OPTIONS", "text/plain", 415),
    ] {
        let headers = [("content-type", kind)];
        let mut page = Page::at(bridge.address).await;
        page.send(&request(method, INVOKE, &headers, &call)).await;
        assert_eq!(page.head().await.status, status, "{method} {kind}");
    }
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn without_grpc_web_pages_and_http1_are_rejected() {
    let upstream = replying();
    let bridge = Bridge::start(&upstream.url()).await;
    let kinds = ["application/grpc-web+proto", "application/grpc-web-text"];
    for kind in kinds {
        let answer = over_http2(&bridge, &[("content-type", kind), ("origin", ORIGIN)]).await;
        assert_eq!(answer.status(), 415);
        assert_shares_nothing(answer.headers());
        let headers = [("content-type", kind), ("origin", ORIGIN)];
        let mut page = Page::at(bridge.address).await;
        let call = request("POST", INVOKE, &headers, &frame(&ask("Salam")));
        page.send(&call).await;
        page.expect_no_http1().await;
    }
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn an_invalid_request_of_a_page_gets_its_reason() {
    let upstream = replying();
    let bridge = for_pages(&upstream, &[("MAX_REQUEST_BYTES", "4096")]).await;
    let mut page = Page::at(bridge.address).await;
    let large = "x".repeat(5000);
    for (method, message, code, reason) in [
        ("Invoke", "", Code::InvalidArgument, "INVALID_REQUEST"),
        ("Ask", "Salam", Code::Unimplemented, "METHOD_UNKNOWN"),
        (
            "Invoke",
            &large,
            Code::ResourceExhausted,
            "REQUEST_TOO_LARGE",
        ),
    ] {
        let question = InvokeRequest {
            message: message.into(),
            ..InvokeRequest::default()
        };
        page.call(method, &[], question).await;
        let status = page.answer().await.status();
        assert_eq!(status.code_and_reason(), (code, reason.to_owned()));
    }
    let text = "application/grpc-web-text";
    let headers = [("content-type", text), ("origin", ORIGIN)];
    page.send(&request("POST", INVOKE, &headers, b"no base64"))
        .await;
    let expected = (Code::InvalidArgument, "MALFORMED_REQUEST".to_owned());
    assert_eq!(page.answer().await.status().code_and_reason(), expected);
    assert!(upstream.requests().is_empty());
}
