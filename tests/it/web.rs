//! gRPC-Web as a page sees it, over HTTP/1.1 and HTTP/2. `tests/clients/web` has tests with a browser.

mod doors;
mod ends;
mod page;

use crate::support::{
    Bridge, RichStatus, ask, ask_stream,
    bare::Connection,
    reply_json, sse_answer, sse_tokens, text, token,
    upstream::{Gate, Reply, Upstream},
};
use alim_bridge::pb::{InvokeResponse, StreamRequest};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use prost::Message;
use tonic::Code;
use tower::Service;

use self::page::{ORIGIN, Page, event, frame, frames};

const DONE: &str = "event: done\ndata: [DONE]\n\n";

/// A bridge that pages of [`ORIGIN`] can call, with these additional settings.
async fn for_pages(upstream: &Upstream, settings: &[(&str, &str)]) -> Bridge {
    let all = [&[("GRPC_WEB", ORIGIN)], settings].concat();
    Bridge::with(&upstream.url(), &all).await
}

#[tokio::test]
async fn a_page_gets_each_token_at_once_and_then_done_and_the_trailers() {
    let gates = [Gate::default(), Gate::default()];
    let reply = Reply::sse(sse_tokens(&["a"])).wait(&gates[0]);
    let reply = reply.chunk(sse_tokens(&["b"])).wait(&gates[1]).chunk(DONE);
    let upstream = Upstream::answering(reply);
    let bridge = for_pages(&upstream, &[]).await;
    let mut page = Page::at(bridge.address).await;
    page.call("Stream", &[], ask_stream("Salam")).await;
    let head = page.head().await;
    assert_eq!(head.status, 200);
    assert_eq!(head.headers["content-type"], "application/grpc-web+proto");
    for (expected, gate) in ["a", "b"].into_iter().zip(&gates) {
        let (messages, trailers) = frames(page.chunk().await.expect("a chunk"));
        assert_eq!(messages.len(), 1, "the next one was not sent yet");
        assert_eq!(event(messages[0].clone()), token(expected));
        assert_eq!(trailers, None);
        gate.open();
    }
    let (messages, trailers) = frames(page.rest().await);
    assert_eq!(messages.len(), 1, "done");
    assert_eq!(trailers.expect("trailers")["grpc-status"], "0");
}

#[tokio::test]
async fn a_page_invokes_again_over_the_same_connection() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let bridge = for_pages(&upstream, &[]).await;
    let mut page = Page::at(bridge.address).await;
    for _ in 0..3 {
        page.call("Invoke", &[("x-request-id", "r-1")], ask("Salam"))
            .await;
        let answer = page.answer().await;
        assert_eq!(answer.status().code(), Code::Ok);
        assert_eq!(answer.head.headers["x-request-id"], "r-1");
        let reply = InvokeResponse::decode(answer.messages[0].clone());
        assert_eq!(reply.expect("a reply").response, "Suvarın.");
    }
    let requests = upstream.requests();
    assert_eq!(requests.len(), 3);
    assert_eq!(requests[0].json()["message"], "Salam");
}

#[tokio::test]
async fn a_failure_before_the_first_event_is_in_the_response_headers() {
    let reply = Reply::json(429, r#"{"detail":"slow down"}"#).header("retry-after", "7");
    let upstream = Upstream::answering(reply.header("x-ratelimit-remaining", "0"));
    let bridge = for_pages(&upstream, &[]).await;
    let mut page = Page::at(bridge.address).await;
    for method in ["Invoke", "Stream"] {
        page.call(method, &[], ask("Salam")).await;
        let answer = page.answer().await;
        assert_eq!((answer.head.status, answer.messages.len()), (200, 0));
        let expected = (Code::ResourceExhausted, "UPSTREAM_RATE_LIMITED".to_owned());
        assert_eq!(answer.status().code_and_reason(), expected);
        assert_eq!(answer.status().pushback().as_deref(), Some("7000"));
        let exposed = &answer.head.headers["access-control-expose-headers"];
        let exposed: Vec<_> = exposed.to_str().expect("ASCII").split(", ").collect();
        for name in [
            "grpc-status",
            "grpc-message",
            "grpc-status-details-bin",
            "grpc-retry-pushback-ms",
            "x-request-id",
            "x-ratelimit-remaining",
            "retry-after",
        ] {
            assert!(answer.head.headers.contains_key(name), "{name} is a header");
            assert!(exposed.contains(&name), "{name} is exposed");
        }
        assert!(exposed.contains(&"x-thread-id"), "{exposed:?}");
    }
}

#[tokio::test]
async fn a_failure_mid_stream_is_in_the_trailers_frame() {
    let upstream = Upstream::answering(Reply::sse(sse_tokens(&["a", "b"])).then_reset());
    let bridge = for_pages(&upstream, &[]).await;
    let mut page = Page::at(bridge.address).await;
    page.call("Stream", &[], ask_stream("Salam")).await;
    let answer = page.answer().await;
    assert_eq!(text(&answer.events()), "ab");
    assert!(!answer.head.headers.contains_key("grpc-status"));
    let status = answer.status();
    let expected = (Code::Unavailable, "UPSTREAM_STREAM_TRUNCATED".to_owned());
    assert_eq!(status.code_and_reason(), expected);
    assert_eq!(status.info("eventsDelivered").as_deref(), Some("2"));
    assert_eq!(status.pushback().as_deref(), Some("-1"));
}

#[tokio::test]
async fn a_text_mode_page_gets_every_frame_in_base64() {
    let gate = Gate::default();
    let reply = Reply::sse(sse_tokens(&["a"])).wait(&gate).chunk(DONE);
    let upstream = Upstream::answering(reply);
    let bridge = for_pages(&upstream, &[]).await;
    let mut page = Page::at(bridge.address).await;
    let kind = "application/grpc-web-text";
    let headers = [("content-type", kind), ("accept", kind), ("origin", ORIGIN)];
    let question = base64(&frame(&ask_stream("Salam")));
    let path = "/alim.v1.GraphService/Stream";
    let request = page::request("POST", path, &headers, question.as_bytes());
    page.send(&request).await;
    let head = page.head().await;
    let content_type = head.headers["content-type"].to_str().expect("ASCII");
    assert!(content_type.starts_with(kind), "{content_type}");
    let first = from_base64(&page.chunk().await.expect("a chunk"));
    assert_eq!(event(frames(first).0.remove(0)), token("a"));
    gate.open();
    let (messages, trailers) = frames(from_base64(&page.rest().await));
    assert_eq!(messages.len(), 1, "done");
    assert_eq!(trailers.expect("trailers")["grpc-status"], "0");
    assert_eq!(upstream.requests()[0].json()["message"], "Salam");
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group
            .iter()
            .chain(&[0; 3][group.len()..])
            .fold(0, |bits: usize, byte| bits << 8 | usize::from(*byte));
        for index in 0..4 {
            let letter = char::from(BASE64[bits >> (18 - 6 * index) & 63]);
            text.push(if index > group.len() { '=' } else { letter });
        }
    }
    text
}

/// Each piece can have its own padding (gRPC-Web, Protocol differences: text-encoded streams).
fn from_base64(text: &[u8]) -> Bytes {
    let mut bytes = Vec::new();
    for group in text.chunks(4) {
        let letters = group.iter().filter(|letter| **letter != b'=');
        let values = letters.map(|letter| BASE64.iter().position(|known| known == letter));
        let values: Vec<_> = values.map(|value| value.expect("base64")).collect();
        let bits =
            values.iter().fold(0, |bits, value| bits << 6 | value) << (6 * (4 - values.len()));
        let decoded = u32::try_from(bits).expect("24 bits").to_be_bytes();
        bytes.extend(&decoded[1..values.len()]);
    }
    bytes.into()
}

#[tokio::test]
async fn pages_and_services_call_over_http2() {
    let upstream = Upstream::answering(Reply::sse(sse_answer(&["a"])));
    let bridge = for_pages(&upstream, &[]).await;
    let request = http::Request::post("http://bridge/alim.v1.GraphService/Stream")
        .header("content-type", "application/grpc-web")
        .header("origin", ORIGIN)
        .body(body(&ask_stream("Salam")));
    let mut connection = Connection::open(bridge.address).await;
    let answer = connection.call(request.expect("a request")).await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.headers()["access-control-allow-origin"], ORIGIN);
    let body = answer.into_body().collect().await.expect("a body");
    assert_eq!(body.trailers(), None, "they are in the body");
    let (messages, trailers) = frames(body.to_bytes());
    assert_eq!(event(messages[0].clone()), token("a"));
    assert_eq!(trailers.expect("trailers")["grpc-status"], "0");
    let (events, ending) = bridge.stream_all("Salam").await;
    ending.expect("OK");
    assert_eq!(text(&events), "a");
}

fn body(message: &StreamRequest) -> tonic::body::Body {
    tonic::body::Body::new(Full::new(Bytes::from(frame(message))))
}

#[tokio::test]
async fn tokens_that_arrive_together_are_sent_together() {
    let tokens: Vec<_> = (0..20_000).map(|n| format!("{n} ")).collect();
    let tokens: Vec<_> = tokens.iter().map(String::as_str).collect();
    let upstream = Upstream::answering(Reply::sse(sse_answer(&tokens)));
    let bridge = for_pages(&upstream, &[]).await;
    let mut page = Page::at(bridge.address).await;
    page.call("Stream", &[], ask_stream("Salam")).await;
    page.head().await;
    let (mut chunks, mut all) = (0, Vec::new());
    while let Some(chunk) = page.chunk().await {
        chunks += 1;
        all.extend(chunk);
    }
    let events: Vec<_> = frames(all.into()).0.into_iter().map(event).collect();
    assert_eq!(text(&events), tokens.concat());
    assert!(chunks < 200, "{chunks} chunks for 20000 tokens");
}

#[tokio::test]
async fn a_pages_call_is_recorded_once() {
    let upstream = Upstream::answering(Reply::sse(sse_tokens(&["a"])).then_close());
    let bridge = for_pages(&upstream, &[]).await;
    let mut page = Page::at(bridge.address).await;
    page.call("Stream", &[], ask_stream("Salam")).await;
    page.answer().await;
    let labels =
        r#"grpc_method="Stream",grpc_service="alim.v1.GraphService",grpc_type="server_stream""#;
    let (_, metrics) = bridge.admin("/metrics").await;
    for line in [
        format!("grpc_server_started_total{{{labels}}} 1"),
        format!(r#"grpc_server_handled_total{{grpc_code="Unavailable",{labels}}} 1"#),
        "alim_bridge_caller_cancelled_total 0".into(),
        "alim_bridge_open_calls 0".into(),
    ] {
        assert!(metrics.contains(&line), "no {line} in\n{metrics}");
    }
}
