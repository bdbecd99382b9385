//! What the bridge forwards in addition to messages: metadata to the upstream, headers to the caller.

mod raw;

use std::collections::BTreeSet;

use crate::support::{
    Bridge, SERVICE_KEY, ask, ask_stream,
    extra::with_metadata,
    reply_json, sse_answer,
    upstream::{Reply, Upstream},
};
use alim_bridge::pb::InvokeRequest;
use http::HeaderMap;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use self::raw::Outcome;

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Headers that the bridge itself sends to the upstream.
const ITS_OWN: [&str; 7] = [
    "accept",
    "content-length",
    "content-type",
    "host",
    "user-agent",
    "x-api-key",
    "x-request-id",
];

/// Metadata that any response can have: gRPC's own, and the request id.
const GRPCS_OWN: [&str; 4] = ["content-type", "date", "grpc-status", "x-request-id"];

/// Headers that would do harm on the other side.
const PRIVATE: [&str; 6] = [
    "authorization",
    "cookie",
    "set-cookie",
    "server",
    "x-forwarded-for",
    "x-custom",
];

/// More rate-limit headers than are forwarded.
const LIMITS: [&str; 7] = [
    "x-ratelimit-a",
    "x-ratelimit-b",
    "x-ratelimit-c",
    "x-ratelimit-d",
    "x-ratelimit-e",
    "x-ratelimit-f",
    "x-ratelimit-g",
];

async fn answering() -> (Upstream, Bridge) {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let bridge = Bridge::start(&upstream.url()).await;
    (upstream, bridge)
}

/// The headers that the upstream received.
async fn sent_for(request: Request<InvokeRequest>) -> HeaderMap {
    let (upstream, bridge) = answering().await;
    let mut client = bridge.client.clone();
    client.invoke(request).await.expect("a reply");
    upstream.requests().remove(0).headers
}

fn names(headers: &HeaderMap) -> BTreeSet<&str> {
    headers.keys().map(http::HeaderName::as_str).collect()
}

fn set<'a>(names: &[&'a str]) -> BTreeSet<&'a str> {
    names.iter().copied().collect()
}

/// The names in a response's metadata that are not gRPC's own.
fn passed_back(metadata: &HeaderMap) -> BTreeSet<&str> {
    &names(metadata) - &set(&GRPCS_OWN)
}

/// The metadata of a response, or of a trailers-only status.
fn metadata<T>(answer: Result<Response<T>, Status>) -> HeaderMap {
    let metadata = match answer {
        Ok(answer) => answer.metadata().clone(),
        Err(status) => status.metadata().clone(),
    };
    metadata.into_headers()
}

/// The metadata of both methods' successful responses to a reply with these headers.
async fn metadata_of_good_answers(headers: &[(&'static str, &str)]) -> [HeaderMap; 2] {
    let dress = |reply: Reply| {
        let add = |reply: Reply, (name, value): &(&'static str, &str)| reply.header(name, value);
        headers.iter().fold(reply, add)
    };
    let json = dress(Reply::json(200, reply_json()));
    let upstream = Upstream::scripted([json, dress(Reply::sse(sse_answer(&["a"])))]);
    let bridge = Bridge::start(&upstream.url()).await;
    let reply = bridge.invoke("Salam").await.expect("a reply");
    let stream = bridge.stream("Salam").await.expect("a token");
    [metadata(Ok(reply)), metadata(Ok(stream))]
}

/// The metadata of both methods' statuses for an upstream that sends this reply.
async fn metadata_of_statuses(reply: Reply) -> [HeaderMap; 2] {
    let upstream = Upstream::answering(reply);
    let bridge = Bridge::start(&upstream.url()).await;
    let invoked = bridge.invoke("Salam").await.expect_err("no reply");
    let streamed = bridge.stream("Salam").await.expect_err("no token");
    [invoked, streamed].map(|status| metadata::<()>(Err(status)))
}

#[tokio::test]
async fn the_trace_the_language_and_the_request_id_reach_the_upstream_unchanged() {
    let crossing = [
        ("traceparent", TRACEPARENT.as_bytes()),
        ("tracestate", b"a=1,b=2"),
        ("baggage", b"farm=f-1;p=%0d%0a"),
        ("accept-language", b"az, en;q=0.5"),
        ("x-request-id", b"r-1"),
    ];
    let sent = sent_for(with_metadata(ask("Salam"), &crossing)).await;
    for (name, value) in crossing {
        let found: Vec<_> = sent.get_all(name).iter().collect();
        assert_eq!(found, [value], "{name}");
    }
    let crossed = ["traceparent", "tracestate", "baggage", "accept-language"];
    assert_eq!(names(&sent), &set(&ITS_OWN) | &set(&crossed));
}

#[tokio::test]
async fn no_other_metadata_reaches_the_upstream() {
    let mut pairs = PRIVATE.map(|name| (name, &b"secret"[..])).to_vec();
    pairs.extend([
        ("x-api-key", &b"secret"[..]),
        ("host", b"elsewhere.example"),
        ("content-encoding", b"br"),
        ("expect", b"100-continue"),
        ("traceparent-bin", b"MDANCng="),
        ("x-request-id-bin", b"MDANCng="),
    ]);
    let sent = sent_for(with_metadata(ask("Salam"), &pairs)).await;
    assert_eq!(names(&sent), set(&ITS_OWN));
    assert_eq!(sent["x-api-key"], SERVICE_KEY);
    assert!(sent["host"].as_bytes().starts_with(b"127.0.0.1:"));
    assert!(sent["user-agent"].as_bytes().starts_with(b"alim-bridge/"));
}

#[tokio::test]
async fn values_beyond_visible_ascii_or_8192_bytes_are_not_forwarded() {
    for (value, crosses) in [
        (&[b'a'; 8192][..], true),
        (&[b'a'; 8193], false),
        (b"a=\xff", false),
        ("a=\u{85}".as_bytes(), false),
    ] {
        for name in ["baggage", "traceparent", "accept-language"] {
            let sent = sent_for(with_metadata(ask("Salam"), &[(name, value)])).await;
            assert_eq!(sent.contains_key(name), crosses, "{name}: {value:?}");
        }
    }
}

#[tokio::test]
async fn a_line_end_in_metadata_adds_no_header_to_the_upstreams_request() {
    let (upstream, bridge) = answering().await;
    for end in ["\r\n", "\n", "\r", "\0"] {
        for name in ["traceparent", "x-request-id", "baggage"] {
            let value = format!("a{end}x-api-key: stolen");
            let outcome = raw::invoke(bridge.address, &[(name, value.as_bytes())]).await;
            assert_eq!(outcome, Outcome::Refused, "{name}: {value:?}");
        }
        let name = format!("baggage{end}x-api-key");
        let outcome = raw::invoke(bridge.address, &[(&name, b"stolen")]).await;
        assert_eq!(outcome, Outcome::Refused, "{name:?}");
    }
    let clean = raw::invoke(bridge.address, &[("baggage", b"a=b")]).await;
    assert_eq!(clean, Outcome::Answered, "so it was the line ends");
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn without_a_valid_request_id_one_is_generated_for_both_sides() {
    for unfit in [None, Some(&b""[..]), Some(&[b'r'; 129]), Some(b"r-\xff")] {
        let (upstream, bridge) = answering().await;
        let pairs: Vec<_> = unfit.map(|id| ("x-request-id", id)).into_iter().collect();
        let mut client = bridge.client.clone();
        let reply = client.invoke(with_metadata(ask("Salam"), &pairs)).await;
        let back = metadata(Ok(reply.expect("a reply")));
        let id = back["x-request-id"].to_str().expect("ASCII");
        assert!(Uuid::parse_str(id).is_ok(), "{id}");
        assert_eq!(upstream.requests()[0].headers["x-request-id"], id);
    }
}

#[tokio::test]
async fn no_two_calls_get_the_same_request_id() {
    let (upstream, bridge) = answering().await;
    for _ in 0..3 {
        bridge.invoke("Salam").await.expect("a reply");
    }
    let requests = upstream.requests();
    let ids = requests.iter().map(|asked| &asked.headers["x-request-id"]);
    assert_eq!(
        ids.map(|id| id.as_bytes()).collect::<BTreeSet<_>>().len(),
        3
    );
}

#[tokio::test]
async fn the_callers_request_id_comes_back_whatever_the_outcome() {
    let longest = "r".repeat(128);
    let outcomes = [
        Reply::json(200, reply_json()),
        Reply::sse(sse_answer(&["a"])),
        Reply::json(503, "{}"),
        Reply::nothing(),
    ];
    for reply in outcomes {
        let upstream = Upstream::answering(reply);
        let bridge = Bridge::start(&upstream.url()).await;
        let id = [("x-request-id", longest.as_bytes())];
        let mut client = bridge.client.clone();
        let invoked = client.invoke(with_metadata(ask("Salam"), &id)).await;
        assert_eq!(metadata(invoked)["x-request-id"], *longest);
        let streamed = client.stream(with_metadata(ask_stream("Salam"), &id)).await;
        assert_eq!(metadata(streamed)["x-request-id"], *longest);
    }
}

#[tokio::test]
async fn a_call_that_the_bridge_rejects_has_its_request_id() {
    let (_upstream, bridge) = answering().await;
    let request = with_metadata(ask(""), &[("x-request-id", b"r-1")]);
    let status = bridge.client.clone().invoke(request).await;
    assert_eq!(metadata(status)["x-request-id"], "r-1");
    let back = metadata(bridge.invoke("").await);
    let made = back["x-request-id"].to_str().expect("ASCII");
    assert!(Uuid::parse_str(made).is_ok(), "{made}");
}

#[tokio::test]
async fn an_upstreams_request_id_does_not_replace_the_callers() {
    let id = [("x-request-id", "u-1")];
    let mut answers = metadata_of_good_answers(&id).await.to_vec();
    answers.extend(metadata_of_statuses(Reply::json(500, "{}").header(id[0].0, id[0].1)).await);
    for metadata in answers {
        let ids: Vec<_> = metadata.get_all("x-request-id").iter().collect();
        assert_eq!(ids.len(), 1);
        assert_ne!(ids[0], "u-1");
    }
}

#[tokio::test]
async fn limits_are_forwarded_with_a_reply_and_nothing_else_is() {
    let limits = [
        ("x-ratelimit-limit", "60"),
        ("x-ratelimit-remaining", "59"),
        ("retry-after", "3"),
    ];
    let mut headers = PRIVATE.map(|name| (name, "secret")).to_vec();
    headers.extend([
        ("x-api-key", "secret"),
        ("x-rate", "1"),
        ("grpc-status", "7"),
    ]);
    headers.extend(limits);
    for metadata in metadata_of_good_answers(&headers).await {
        assert_eq!(passed_back(&metadata), set(&limits.map(|(name, _)| name)));
        for (name, value) in limits {
            assert_eq!(metadata[name], value);
        }
    }
}

#[tokio::test]
async fn limits_are_forwarded_with_a_status_and_nothing_else_is() {
    let mut reply = Reply::json(429, "{}");
    for name in PRIVATE.into_iter().chain(["x-api-key", "grpc-status"]) {
        reply = reply.header(name, "secret");
    }
    reply = reply
        .header("x-ratelimit-reset", "9")
        .header("retry-after", "9");
    for metadata in metadata_of_statuses(reply).await {
        let expected = ["x-ratelimit-reset", "retry-after", "grpc-retry-pushback-ms"];
        assert_eq!(passed_back(&metadata), set(&expected));
        assert_eq!(metadata["x-ratelimit-reset"], "9");
    }
}

#[tokio::test]
async fn at_most_six_limits_are_forwarded_and_always_retry_after() {
    let (fits, long) = ("9".repeat(128), "9".repeat(129));
    for (retry_after, comes_back) in [(&fits, true), (&long, false)] {
        let mut headers = LIMITS.map(|name| (name, fits.as_str())).to_vec();
        headers.push(("retry-after", retry_after.as_str()));
        for metadata in metadata_of_good_answers(&headers).await {
            let back = passed_back(&metadata);
            assert_eq!(back.contains("retry-after"), comes_back, "{back:?}");
            assert_eq!(back.len(), 6 + usize::from(comes_back), "{back:?}");
        }
    }
}

#[tokio::test]
async fn only_names_and_values_that_every_grpc_library_accepts_are_forwarded() {
    let odd = ["!", "~", "#", "*", "'", "|", "$", "+", "`", "^", "%", "&"];
    let odd = odd.map(|letter| &*format!("x-ratelimit-a{letter}").leak());
    for names in odd.chunks(6) {
        let mut headers: Vec<_> = names.iter().map(|name| (*name, "1")).collect();
        headers.push(("x-ratelimit-0_a.b-z", "1"));
        for metadata in metadata_of_good_answers(&headers).await {
            assert_eq!(passed_back(&metadata), set(&["x-ratelimit-0_a.b-z"]));
        }
    }
    let values = ["", "a\tb", "ə"];
    let headers: Vec<_> = LIMITS.into_iter().zip(values).collect();
    for metadata in metadata_of_good_answers(&headers).await {
        assert_eq!(passed_back(&metadata), set(&[]));
    }
}

#[tokio::test]
async fn headers_with_a_long_name_or_that_grpc_would_decode_are_not_forwarded() {
    let headers = [
        ("x-ratelimit-of-forty-bytes-exactly-01234", "1"),
        ("x-ratelimit-of-forty-one-bytes-0123456789", "1"),
        ("x-ratelimit-a-bin", "no base64!"), // grpc-go fails the whole call over it
    ];
    assert_eq!(headers.map(|(name, _)| name.len()), [40, 41, 17]);
    for metadata in metadata_of_good_answers(&headers).await {
        assert_eq!(passed_back(&metadata), set(&[headers[0].0]));
    }
}
