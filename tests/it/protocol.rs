//! Requests that violate gRPC's own rules get a clear status, and nothing reaches the upstream.

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use tonic::{Code, Status, codec::CompressionEncoding};
use tower::Service;

use crate::support::{
    Bridge, RichStatus, ask, ask_stream,
    bare::Connection,
    reply_json,
    upstream::{Reply, Upstream},
};

const INVOKE: &str = "/alim.v1.GraphService/Invoke";

/// Sends the bytes unchanged, and reads the status from the head or the trailers.
async fn send_raw(bridge: &Bridge, path: &str, body: Bytes, headers: &[(&str, &str)]) -> Status {
    let mut request = http::Request::post(format!("http://{}{path}", bridge.address))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request
        .body(tonic::body::Body::new(Full::new(body)))
        .expect("a request");
    let mut channel = bridge.channel.clone();
    let ready = tower::Service::<http::Request<tonic::body::Body>>::poll_ready;
    std::future::poll_fn(|cx| ready(&mut channel, cx))
        .await
        .expect("a connection");
    let answer = tower::Service::call(&mut channel, request)
        .await
        .expect("an answer");
    if let Some(status) = Status::from_header_map(answer.headers()) {
        return status;
    }
    let rest = answer.into_body().collect().await.expect("a body");
    Status::from_header_map(rest.trailers().expect("trailers")).expect("a status")
}

fn frame(flag: u8, message: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(flag);
    frame.put_u32(u32::try_from(message.len()).expect("short"));
    frame.put_slice(message);
    frame.freeze()
}

async fn idle_upstream() -> (Upstream, Bridge) {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let bridge = Bridge::with(&upstream.url(), &[("MAX_REQUEST_BYTES", "4096")]).await;
    (upstream, bridge)
}

#[tokio::test]
async fn a_request_that_violates_grpc_gets_a_reason_and_is_not_sent() {
    let (upstream, bridge) = idle_upstream().await;
    let large = [&[0x0a, 0x88, 0x27][..], &[b'x'; 5000]].concat();
    let cases = [
        (
            "invalid UTF-8",
            INVOKE,
            frame(0, b"\x0a\x02\xff\xfe"),
            vec![],
            Code::InvalidArgument,
            "MALFORMED_REQUEST",
        ),
        (
            "not protobuf",
            INVOKE,
            frame(0, b"\xff\xff\xff"),
            vec![],
            Code::InvalidArgument,
            "MALFORMED_REQUEST",
        ),
        (
            "no message",
            INVOKE,
            Bytes::new(),
            vec![],
            Code::Unimplemented,
            "MALFORMED_REQUEST",
        ),
        (
            "two messages",
            INVOKE,
            [frame(0, b"\x0a\x01a"), frame(0, b"\x0a\x01b")]
                .concat()
                .into(),
            vec![],
            Code::Unimplemented,
            "MALFORMED_REQUEST",
        ),
        (
            "a second message to Stream",
            "/alim.v1.GraphService/Stream",
            [frame(0, b"\x0a\x01a"), Bytes::from_static(b"\0")]
                .concat()
                .into(),
            vec![],
            Code::Unimplemented,
            "MALFORMED_REQUEST",
        ),
        (
            "half a message",
            INVOKE,
            Bytes::from_static(b"\0\0\0\0\x09\x0a"),
            vec![],
            Code::InvalidArgument,
            "MALFORMED_REQUEST",
        ),
        (
            "a wrong flag",
            INVOKE,
            frame(7, b""),
            vec![],
            Code::InvalidArgument,
            "MALFORMED_REQUEST",
        ),
        (
            "two questions about health",
            "/grpc.health.v1.Health/Check",
            [frame(0, b""), frame(0, b"")].concat().into(),
            vec![],
            Code::Unimplemented,
            "MALFORMED_REQUEST",
        ),
        (
            "compressed without grpc-encoding",
            INVOKE,
            frame(1, b""),
            vec![],
            Code::Internal,
            "MALFORMED_REQUEST",
        ),
        (
            "compressed with identity",
            INVOKE,
            frame(1, b"\x0a\x01a"),
            vec![("grpc-encoding", "identity")],
            Code::Internal,
            "MALFORMED_REQUEST",
        ),
        (
            "not gzip",
            INVOKE,
            frame(1, b"rubbish"),
            vec![("grpc-encoding", "gzip")],
            Code::InvalidArgument,
            "MALFORMED_REQUEST",
        ),
        (
            "unknown compression",
            INVOKE,
            frame(1, b""),
            vec![("grpc-encoding", "br")],
            Code::Unimplemented,
            "ENCODING_UNSUPPORTED",
        ),
        (
            "too large",
            INVOKE,
            frame(0, &large),
            vec![],
            Code::ResourceExhausted,
            "REQUEST_TOO_LARGE",
        ),
        (
            "unknown method",
            "/alim.v1.GraphService/Ask",
            frame(0, b""),
            vec![],
            Code::Unimplemented,
            "METHOD_UNKNOWN",
        ),
        (
            "unknown service",
            "/alim.v2.GraphService/Invoke",
            frame(0, b""),
            vec![],
            Code::Unimplemented,
            "METHOD_UNKNOWN",
        ),
    ];
    for (name, path, body, headers, code, reason) in cases {
        let status = send_raw(&bridge, path, body, &headers).await;
        assert_eq!(
            status.code_and_reason(),
            (code, reason.to_owned()),
            "{name}: {status:?}"
        );
        assert_eq!(status.info("sent").as_deref(), Some("false"), "{name}");
    }
    assert!(
        upstream.requests().is_empty(),
        "nothing reached the upstream"
    );
}

#[tokio::test]
async fn a_content_type_other_than_grpc_gets_415() {
    let (upstream, bridge) = idle_upstream().await;
    for content_type in [
        "text/plain",
        "application/json",
        "application/grpc-web+proto",
        "application/grpc+json",
        "application/grpc+protobuf",
    ] {
        let request = http::Request::post("http://bridge/alim.v1.GraphService/Invoke")
            .header("content-type", content_type)
            .body(tonic::body::Body::new(Full::new(frame(0, b"\x0a\x01a"))));
        let mut connection = Connection::open(bridge.address).await;
        let answer = connection
            .call(request.expect("a request"))
            .await
            .expect("an answer");
        assert_eq!(answer.status(), 415, "{content_type}");
    }
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn a_call_that_is_not_a_post_gets_405_and_is_not_sent() {
    let (upstream, bridge) = idle_upstream().await;
    for method in ["GET", "PUT", "DELETE", "HEAD"] {
        let request = http::Request::builder()
            .method(method)
            .uri("http://bridge/alim.v1.GraphService/Invoke")
            .header("content-type", "application/grpc")
            .body(tonic::body::Body::new(Full::new(frame(0, b"\x0a\x01a"))));
        let mut connection = Connection::open(bridge.address).await;
        let answer = connection.call(request.expect("a request")).await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.status(), 405, "{method}");
        assert_eq!(answer.headers()["allow"], "POST", "{method}");
        let status = Status::from_header_map(answer.headers()).expect("a status");
        let malformed = (Code::InvalidArgument, "MALFORMED_REQUEST".to_owned());
        assert_eq!(status.code_and_reason(), malformed, "{method}");
    }
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn a_request_too_large_after_decompression_is_rejected() {
    let (upstream, bridge) = idle_upstream().await;
    let client = bridge.client.clone();
    let mut client = client.send_compressed(CompressionEncoding::Gzip);
    let status = client
        .invoke(ask(&"ə".repeat(100_000)))
        .await
        .expect_err("a bomb");
    let expected = (Code::ResourceExhausted, "REQUEST_TOO_LARGE".to_owned());
    assert_eq!(status.code_and_reason(), expected);
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn a_compressed_request_within_the_limit_is_accepted() {
    let (upstream, bridge) = idle_upstream().await;
    let mut client = bridge
        .client
        .clone()
        .send_compressed(CompressionEncoding::Gzip);
    client
        .invoke(ask(&"ə".repeat(1000)))
        .await
        .expect("a reply");
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn a_request_of_exactly_the_limit_is_accepted_and_one_byte_more_is_not() {
    let (upstream, bridge) = idle_upstream().await;
    let overhead = 3 + 2 + "u-1".len(); // the two fields' tags and lengths
    bridge
        .invoke(&"x".repeat(4096 - overhead))
        .await
        .expect("exactly 4096 bytes");
    let status = bridge
        .invoke(&"x".repeat(4097 - overhead))
        .await
        .expect_err("4097");
    let expected = (Code::ResourceExhausted, "REQUEST_TOO_LARGE".to_owned());
    assert_eq!(status.code_and_reason(), expected);
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn invalid_fields_are_named_and_nothing_is_sent() {
    let (upstream, bridge) = idle_upstream().await;
    let mut request = ask_stream("");
    request.thread_id = Some("../runs/stream?a=".into());
    let status = bridge
        .client
        .clone()
        .stream(request)
        .await
        .expect_err("invalid");
    let expected = (Code::InvalidArgument, "INVALID_REQUEST".to_owned());
    assert_eq!(status.code_and_reason(), expected);
    let rich = status.error_details();
    let violations = rich
        .bad_request()
        .expect("a BadRequest")
        .field_violations
        .iter();
    let fields: Vec<_> = violations
        .map(|violation| violation.field.as_str())
        .collect();
    assert_eq!(fields, ["message", "thread_id"]);
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn a_number_that_json_can_not_represent_is_named() {
    use prost_types::{Struct, Value, value::Kind};
    let (upstream, bridge) = idle_upstream().await;
    let nan = Value {
        kind: Some(Kind::NumberValue(f64::NAN)),
    };
    let mut request = ask("");
    request.scenario_context = Some(Struct {
        fields: [("a".into(), nan)].into(),
    });
    let status = bridge
        .client
        .clone()
        .invoke(request)
        .await
        .expect_err("NaN");
    let rich = status.error_details();
    let violations = rich.bad_request().expect("named").field_violations.iter();
    let fields: Vec<_> = violations
        .map(|violation| violation.field.as_str())
        .collect();
    assert_eq!(fields, ["message", "scenario_context"], "all at once");
    assert!(upstream.requests().is_empty());
}
