//! The cost of one connection: with an incomplete head or message, with unread responses, and at shutdown. Each test attacks
//! the built command and measures its memory.

mod drain;
mod ends;
mod memory;
pub(crate) mod unread;

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, future::join_all, stream};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{Instant, timeout},
};
use tonic::{Code, Status};
use tower::Service;

use crate::support::{
    RichStatus, ask,
    bare::Connection,
    deployed::Deployed,
    frames::{DATA, END_HEADERS, END_STREAM, HEADERS, Raw, frame, head_of},
    reply_json,
    upstream::{Reply, Upstream},
};

pub(crate) const INVOKE: &str = "/alim.v1.GraphService/Invoke";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const CHECK: &str = "/grpc.health.v1.Health/Check";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
/// The methods that need a permit.
const CALLS: [&str; 5] = [
    INVOKE,
    "/alim.v1.GraphService/Stream",
    "/alim.v1.ThreadService/CreateThread",
    "/alim.v1.ThreadService/GetThread",
    "/alim.v1.ThreadService/DeleteThread",
];
/// The methods that need no permit.
const PROBES: [&str; 4] = [
    CHECK,
    WATCH,
    REFLECTION,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];
/// A reflection request for the names of services, which leaves the stream open.
const LIST_SERVICES: [u8; 7] = [0, 0, 0, 0, 2, 7 << 3 | 2, 0];
/// The default of `MAX_REQUEST_BYTES`.
const MESSAGE_BYTES: usize = 4 * 1024 * 1024;
const UNFINISHED: usize = 60;
/// A generous timeout for something that happens at once.
const SOON: Duration = Duration::from_secs(10);
const FOUR: [(&str, &str); 2] = [("MAX_CALLS", "4"), ("MESSAGE_TIMEOUT", "3s")];

fn upstream() -> Upstream {
    Upstream::answering(Reply::json(200, reply_json()))
}

/// A message of 4 MiB whose last hundred bytes are never sent.
pub(crate) fn unfinished(flag: u8) -> tonic::body::Body {
    let mut message = vec![0; MESSAGE_BYTES - 100];
    message[0] = flag;
    message[1..5].copy_from_slice(&(MESSAGE_BYTES as u32 - 5).to_be_bytes());
    let frame = Ok::<_, Status>(Frame::data(Bytes::from(message)));
    tonic::body::Body::new(StreamBody::new(
        stream::iter([frame]).chain(stream::pending()),
    ))
}

pub(crate) fn request(
    path: &str,
    kind: &str,
    body: tonic::body::Body,
) -> Request<tonic::body::Body> {
    let request = Request::post(format!("http://bridge{path}"))
        .header("content-type", kind)
        .header("te", "trailers");
    request.body(body).expect("a request")
}

/// The status of a response, from its head or its trailers.
async fn status(answer: Response<Incoming>) -> Status {
    let (head, body) = answer.into_parts();
    if let Some(status) = Status::from_header_map(&head.headers) {
        return status;
    }
    let body = body.collect().await.expect("a complete response");
    let trailers = body.trailers().cloned().unwrap_or_else(HeaderMap::new);
    Status::from_header_map(&trailers).expect("a status")
}

/// Sends sixty unfinished messages on one connection, and reads the responses. Returns the growth of the memory in KiB.
async fn attack(bridge: &Deployed, path: &str, kind: &str, flag: u8) -> (u64, Vec<Status>) {
    let before = bridge.resident_kib();
    let connection = Connection::open(bridge.address).await;
    let calls = (0..UNFINISHED).map(|_| {
        let mut connection = connection.clone();
        let mut request = request(path, kind, unfinished(flag));
        if flag == 1 {
            let gzip = http::HeaderValue::from_static("gzip");
            request.headers_mut().insert("grpc-encoding", gzip);
        }
        async move { status(connection.call(request).await.expect("an answer")).await }
    });
    let answers = tokio::spawn(timeout(SOON, join_all(calls)));
    let mut highest = before;
    while !answers.is_finished() {
        highest = highest.max(bridge.resident_kib());
        tokio::time::sleep(Duration::from_millis(20)).await; // between two samples of the memory
    }
    let answers = answers.await.expect("no panic");
    (highest - before, answers.expect("an end in time"))
}

fn reasons(answers: &[Status]) -> (usize, usize) {
    let count = |reason: &str| {
        let with = answers
            .iter()
            .filter(|status| status.code_and_reason().1 == reason);
        with.count()
    };
    (count("BRIDGE_SATURATED"), count("MESSAGE_TIMEOUT"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_messages_are_limited_by_max_calls() {
    let upstream = upstream();
    let bridge = Deployed::with(
        &upstream.url(),
        &[FOUR.as_slice(), &[("GRPC_WEB", "*")]].concat(),
    );
    for path in CALLS {
        for (kind, flag) in [
            ("application/grpc", 0),
            ("application/grpc", 1),
            ("application/grpc-web+proto", 0),
        ] {
            let (grown, answers) = attack(&bridge, path, kind, flag).await;
            assert_eq!(
                reasons(&answers),
                (UNFINISHED - 4, 4),
                "{path} {kind} {flag}"
            );
            let sent = answers.iter().filter_map(|status| status.info("sent"));
            assert!(sent.into_iter().all(|sent| sent == "false"));
            assert!(grown < 48 * 1024, "{path} {kind} {flag}: {grown} KiB");
        }
    }
    assert!(upstream.requests().is_empty());
    bridge.wait_for_open_calls(0).await;
    let answer = bridge.client().invoke(ask("Salam")).await;
    answer.expect("the bridge still serves");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_who_leaves_before_its_message_is_complete_is_recorded_as_canceled() {
    let upstream = upstream();
    let bridge = Deployed::with(&upstream.url(), &[]);
    let mut caller = Raw::open(bridge.address, &[]).await;
    let head = frame(HEADERS, END_HEADERS, 1, &head_of(INVOKE, &[]));
    let part = frame(DATA, 0, 1, &[0, 0, 0, 1, 0, 7, 7]);
    caller.send(&[head, part].concat()).await.expect("open");
    bridge.wait_for_open_calls(1).await;
    drop(caller);
    bridge.wait_for_open_calls(0).await;
    let canceled = r#"grpc_code="Canceled",grpc_method="Invoke""#;
    let count = bridge.metric("grpc_server_handled_total", canceled).await;
    assert_eq!(count, 1, "{}", bridge.metrics().await);
    let left = bridge
        .metric("alim_bridge_caller_cancelled_total", "")
        .await;
    assert_eq!(left, 1);
}

/// Over HTTP/1.1, a connection has one call, so there are sixty connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_messages_over_http1_are_limited_by_max_calls() {
    let upstream = upstream();
    let bridge = Deployed::with(
        &upstream.url(),
        &[FOUR.as_slice(), &[("GRPC_WEB", "*")]].concat(),
    );
    let before = bridge.resident_kib();
    let head = format!(
        "POST {INVOKE} HTTP/1.1\r\nhost: bridge\r\ncontent-type: application/grpc-web\r\n\
         content-length: {MESSAGE_BYTES}\r\n\r\n"
    );
    let mut message = vec![0; MESSAGE_BYTES - 100];
    message[1..5].copy_from_slice(&(MESSAGE_BYTES as u32 - 5).to_be_bytes());
    let request = [head.as_bytes(), &message].concat();
    let pages = (0..UNFINISHED).map(async |_| {
        let mut page = TcpStream::connect(bridge.address).await.expect("a port");
        let _ = timeout(Duration::from_secs(1), page.write_all(&request)).await; // rejected ones are closed
        page
    });
    let pages = join_all(pages).await;
    bridge.wait_for_open_calls(4).await;
    let grown = bridge.resident_kib().saturating_sub(before);
    assert!(grown < 48 * 1024, "{grown} KiB");
    bridge.wait_for_open_calls(0).await;
    drop(pages);
    assert!(upstream.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_messages_to_health_and_reflection_are_rejected_by_their_size() {
    let upstream = upstream();
    let bridge = Deployed::with(&upstream.url(), &FOUR);
    for path in PROBES {
        let (grown, answers) = attack(&bridge, path, "application/grpc", 0).await;
        assert_eq!(answers.len(), UNFINISHED);
        let is_health = path.contains("Health"); // tonic ends reflection without an error
        assert!(!is_health || answers.iter().all(|status| status.code() != Code::Ok));
        assert!(grown < 16 * 1024, "{path}: {grown} KiB");
    }
}

/// The messages are small enough to be accepted, but never complete.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_most_64_health_messages_are_incomplete_and_a_probe_is_served() {
    let upstream = upstream();
    let bridge = Deployed::with(&upstream.url(), &[("MESSAGE_TIMEOUT", "1m")]); // too long to reject any
    let mut attacker = Raw::open(bridge.address, &[]).await;
    for count in 0..100 {
        let head = frame(HEADERS, END_HEADERS, 2 * count + 1, &head_of(CHECK, &[]));
        let part = frame(DATA, 0, 2 * count + 1, &[0, 0, 0, 0x20, 0, 1, 1]);
        attacker.send(&[head, part].concat()).await.expect("open");
    }
    let rejected = async {
        for _ in 0..36 {
            attacker.next(HEADERS).await.expect("a rejection");
        }
    };
    timeout(SOON, rejected).await.expect("at once");
    let mut health = tonic_health::pb::health_client::HealthClient::new(
        crate::support::extra::channel_to(bridge.address),
    );
    let probe = health.check(tonic_health::pb::HealthCheckRequest::default());
    let probe = timeout(Duration::from_secs(2), probe).await;
    probe.expect("at once").expect("health");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_heads_on_one_connection_block_no_other_and_end_in_time() {
    let upstream = upstream();
    let bridge = Deployed::with(&upstream.url(), &[("MESSAGE_TIMEOUT", "4s")]);
    let mut attacker = Raw::open(bridge.address, &[]).await;
    let start = Instant::now();
    let heads: Vec<_> = (0..5000)
        .flat_map(|count| frame(HEADERS, END_HEADERS, 2 * count + 1, &head_of(INVOKE, &[])))
        .collect();
    attacker.send(&heads).await.expect("open");
    bridge.wait_for_open_calls(100).await;
    for _ in 0..20 {
        let answer = bridge.client().invoke(ask("Salam")).await;
        answer.expect("other connections are served");
    }
    let ended = async {
        for _ in 0..5000 {
            attacker.next(HEADERS).await.expect("a status");
        }
    };
    timeout(3 * SOON, ended).await.expect("each ends");
    assert!(start.elapsed() >= Duration::from_secs(4));
    let timeouts = bridge
        .metric("alim_bridge_failures_total", "MESSAGE_TIMEOUT")
        .await;
    assert_eq!(timeouts, 5000);
    assert_eq!(upstream.requests().len(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_can_hold_sixteen_health_watches() {
    let upstream = upstream();
    let bridge = Deployed::with(&upstream.url(), &[]);
    let before = bridge.resident_kib();
    let mut attackers = Vec::new();
    for _ in 0..6 {
        let mut attacker = Raw::open(bridge.address, &[]).await;
        let watches: Vec<_> = (0..1000)
            .flat_map(|count| {
                let head = frame(HEADERS, END_HEADERS, 2 * count + 1, &head_of(WATCH, &[]));
                [head, frame(DATA, END_STREAM, 2 * count + 1, &[0; 5])].concat()
            })
            .collect();
        attacker.send(&watches).await.expect("open");
        for _ in 0..1000 {
            attacker.next(HEADERS).await.expect("an answer");
        }
        attackers.push(attacker);
    }
    let grown = bridge.resident_kib().saturating_sub(before);
    assert!(grown < 24 * 1024, "{grown} KiB");
    let started = bridge
        .metric("grpc_server_started_total", "\"Watch\"")
        .await;
    let rejected = bridge
        .metric("grpc_server_handled_total", "\"Watch\"")
        .await;
    assert_eq!((started, rejected), (6000, 6000 - 6 * 16));
}
