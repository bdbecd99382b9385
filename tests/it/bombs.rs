//! Decompression bombs and other amplifying requests are rejected, in little time and memory.

use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, FlushCompress};
use http_body_util::{BodyExt, Full};
use prost_types::{Struct, Value, value::Kind};
use serde_json::json;
use tonic::{Code, Status};
use tower::Service;

use crate::support::{
    Bridge, RichStatus, ask,
    bare::Connection,
    deployed::Deployed,
    extra::with_metadata,
    reply_json,
    upstream::{Reply, Upstream},
};

/// The maximum growth of the bridge's memory from a bomb: a few times the largest message.
const GROWTH_KIB: u64 = 24 * 1024;
/// The maximum peak for the widest request: 32 times its four megabytes on the wire.
const WIDE_KIB: u64 = 128 * 1024;
/// A long time for a rejection, but a short one for a gigabyte.
const SOON: Duration = Duration::from_secs(5);
/// A gzip head without a name (RFC 1952, 2.3).
const GZIP_HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// A gigabyte of zeros in a megabyte, gzip's best ratio: one block, repeated.
fn gigabyte() -> Vec<u8> {
    let mut deflate = Compress::new(Compression::best(), false);
    let mut block = Vec::with_capacity(1 << 16);
    let zeros = vec![0; 1 << 20];
    let done = deflate.compress_vec(&zeros, &mut block, FlushCompress::Full);
    done.expect("it fits");
    [&GZIP_HEAD[..], &block.repeat(1024)].concat()
}

fn compressed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(1);
    frame.put_u32(u32::try_from(message.len()).expect("short"));
    frame.put_slice(message);
    frame.freeze()
}

async fn status(bridge: &Deployed, body: Bytes) -> Status {
    let request = http::Request::post("http://bridge/alim.v1.GraphService/Invoke")
        .header("content-type", "application/grpc")
        .header("grpc-encoding", "gzip")
        .body(tonic::body::Body::new(Full::new(body)));
    let mut connection = Connection::open(bridge.address).await;
    let answer = connection
        .call(request.expect("a request"))
        .await
        .expect("an answer");
    if let Some(status) = Status::from_header_map(answer.headers()) {
        return status;
    }
    let rest = answer.into_body().collect().await.expect("a body");
    Status::from_header_map(rest.trailers().expect("trailers")).expect("a status")
}

#[tokio::test]
async fn a_gigabyte_in_a_megabyte_is_rejected_in_little_time_and_memory() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let bridge = Deployed::with(&upstream.url(), &[]);
    let bomb = compressed(&gigabyte());
    let (before, start) = (bridge.resident_kib(), Instant::now());
    let found = status(&bridge, bomb).await.code_and_reason();
    assert_eq!(
        found,
        (Code::ResourceExhausted, "REQUEST_TOO_LARGE".to_owned())
    );
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    let grown = bridge.resident_kib().saturating_sub(before);
    assert!(grown <= GROWTH_KIB, "{grown} KiB");
    assert!(upstream.requests().is_empty());
}

/// `levels` Structs inside one another.
fn nested(levels: usize) -> Struct {
    let wrap = |inner: Struct, _| {
        let kind = Some(Kind::StructValue(inner));
        Struct {
            fields: [("a".to_owned(), Value { kind })].into(),
        }
    };
    (0..levels).fold(Struct::default(), wrap)
}

#[tokio::test]
async fn a_context_nested_too_deep_is_malformed_and_nothing_is_sent() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let bridge = Deployed::with(&upstream.url(), &[]);
    let mut client = bridge.client();
    for (levels, passes) in [(30, true), (40, false), (1000, false)] {
        let mut request = ask("Salam");
        request.scenario_context = Some(nested(levels));
        let found = client.invoke(request).await.map(drop);
        let found = found.map_err(|status| status.code_and_reason());
        let malformed = (Code::InvalidArgument, "MALFORMED_REQUEST".to_owned());
        assert_eq!(
            found,
            if passes { Ok(()) } else { Err(malformed) },
            "{levels}"
        );
    }
    assert_eq!(upstream.requests().len(), 1);
}

/// A null in a list takes two bytes on the wire, and 40 or more as a value.
#[tokio::test]
async fn two_million_nulls_in_the_largest_request_take_bounded_memory() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let bridge = Deployed::with(&upstream.url(), &[]);
    let values = vec![Value { kind: None }; 2_000_000];
    let list = Kind::ListValue(prost_types::ListValue { values });
    let mut request = ask("Salam");
    request.scenario_context = Some(Struct {
        fields: [("a".to_owned(), Value { kind: Some(list) })].into(),
    });
    let before = bridge.resident_kib();
    bridge.client().invoke(request).await.expect("a reply");
    let grown = bridge.peak_kib() - before;
    assert!(grown <= WIDE_KIB, "{grown} KiB");
}

/// HTTP/2 adds 32 bytes to each field's name and value (RFC 9113, 6.5.2).
#[tokio::test]
async fn metadata_over_16_kib_is_rejected_with_a_status() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let bridge = Bridge::start(&upstream.url()).await;
    for (count, length, passes) in [
        (1, 15_000, true),
        (1, 17_000, false),
        (1, 60_000, false),
        (380, 1, true),
        (800, 1, false),
        (6, 8192, false),
    ] {
        let value = vec![b'a'; length];
        let pairs = vec![("x-custom", value.as_slice()); count];
        let answer = bridge
            .client
            .clone()
            .invoke(with_metadata(ask("Salam"), &pairs))
            .await;
        let found = answer.map(drop).map_err(|status| status.code_and_reason());
        let too_large = (Code::ResourceExhausted, "REQUEST_TOO_LARGE".to_owned());
        assert_eq!(
            found,
            if passes { Ok(()) } else { Err(too_large) },
            "{count} of {length}"
        );
    }
    assert_eq!(upstream.requests().len(), 2);
}

/// The reply has no length, or announces too many bytes. The limit applies to received bytes, and the bridge does not wait for
/// announced ones.
#[tokio::test]
async fn a_reply_over_its_limit_is_rejected_before_its_end() {
    let json = || Reply::head(200).header("content-type", "application/json");
    let endless = json().header("transfer-encoding", "chunked");
    let announced = json().header("content-length", "4194305");
    for reply in [
        endless.flood("400\r\n".to_owned() + &" ".repeat(1024) + "\r\n"),
        announced.then_hold(),
    ] {
        let upstream = Upstream::answering(reply);
        let bridge = Bridge::with(&upstream.url(), &[("INVOKE_TIMEOUT", "9s")]).await;
        let status = bridge.invoke("Salam").await.expect_err("too large");
        let too_large = (
            Code::ResourceExhausted,
            "UPSTREAM_REPLY_TOO_LARGE".to_owned(),
        );
        assert_eq!(status.code_and_reason(), too_large);
        upstream.wait_for_close().await;
    }
}

/// The limit is half of the 8 KiB that callers accept; HTTP/2 adds 32 bytes to each field.
#[tokio::test]
async fn the_trailers_of_a_status_are_at_most_4_kib() {
    let long = "ə".repeat(300);
    let error = json!({"loc": ["body", long], "msg": long});
    let upstream = Upstream::answering(Reply::json(422, json!({"detail": vec![error; 16]})));
    let bridge = Bridge::start(&upstream.url()).await;
    let status = bridge.invoke("Salam").await.expect_err("rejected");
    assert!(
        status
            .error_details()
            .bad_request()
            .is_some_and(|it| it.field_violations.len() > 4)
    );
    let sent = status.into_http::<()>();
    let sizes = sent
        .headers()
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 32);
    let size: usize = sizes.sum();
    assert!(size <= 4096 + 200, "{size} bytes"); // date and content-type come from the transport
}
