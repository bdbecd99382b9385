//! ThreadService: its requests to the upstream, its responses, and conversations over several calls.

mod failures;
mod started;

use std::collections::BTreeSet;

use crate::support::{
    Bridge, RichStatus, SERVICE_KEY, ask, ask_stream,
    extra::{THREAD_SERVICE, with_metadata},
    read_all, text,
    upstream::{Gate, Reply, Request, Upstream, refused_url},
};
use alim_bridge::{
    emulator,
    pb::{
        CreateThreadRequest, DeleteThreadRequest, GetThreadRequest, InvokeRequest, StreamRequest,
        Thread,
    },
    server::Drained,
};
use prost_types::{Struct, Value, value::Kind};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus::{NotServing, Serving};

const THREAD: &str = "6f1c2d3e-4b5a-4978-8a6b-0c1d2e3f4a5b";

/// A response that is valid for every method.
fn a_thread() -> Reply {
    Reply::json(200, json!({"thread_id": THREAD, "deleted": true}))
}

fn create(metadata: Option<Struct>) -> CreateThreadRequest {
    let thread_id = "not its to choose".into();
    CreateThreadRequest {
        thread: Some(Thread {
            thread_id,
            metadata,
        }),
    }
}

fn get(id: &str) -> GetThreadRequest {
    GetThreadRequest {
        thread_id: id.into(),
    }
}

fn delete(id: &str) -> DeleteThreadRequest {
    DeleteThreadRequest {
        thread_id: id.into(),
    }
}

fn number(name: &str, number: f64) -> Struct {
    let kind = Some(Kind::NumberValue(number));
    Struct {
        fields: [(name.into(), Value { kind })].into(),
    }
}

/// The result of each method for the same upstream, with the method's name.
async fn all(bridge: &Bridge) -> [(&'static str, Result<(), Status>); 3] {
    let mut client = bridge.threads();
    let (created, got) = (
        client.create_thread(create(None)).await,
        client.get_thread(get(THREAD)).await,
    );
    let deleted = client.delete_thread(delete(THREAD)).await;
    [
        ("CreateThread", created.map(drop)),
        ("GetThread", got.map(drop)),
        ("DeleteThread", deleted.map(drop)),
    ]
}

/// The start line, the names of the headers, and the raw body.
fn wire(request: &Request) -> (String, BTreeSet<&str>, &[u8]) {
    let names = request.headers.keys().map(http::HeaderName::as_str);
    let line = format!("{} {}", request.method, request.path);
    (line, names.collect(), &request.body)
}

const HEADERS: [&str; 5] = ["accept", "host", "user-agent", "x-api-key", "x-request-id"];

#[tokio::test]
async fn create_thread_posts_the_metadata_and_answers_with_the_thread() {
    let kept = json!({"thread_id": THREAD, "metadata": {"hectares": 5}, "created_at": "now"});
    let upstream = Upstream::answering(Reply::json(200, kept));
    let bridge = Bridge::start(&upstream.url()).await;
    let asked = create(Some(number("hectares", 5.0)));
    let thread = bridge.threads().create_thread(asked).await.expect("OK");
    let thread = thread.into_inner();
    assert_eq!(thread.thread_id, THREAD);
    assert_eq!(thread.metadata, Some(number("hectares", 5.0)));
    let request = &upstream.requests()[0];
    let (line, names, body) = wire(request);
    assert_eq!(line, "POST /api/v1/threads");
    assert_eq!(body, br#"{"metadata":{"hectares":5}}"#);
    let with_body = ["content-length", "content-type"]
        .into_iter()
        .chain(HEADERS);
    assert_eq!(names, with_body.collect());
    assert_eq!(request.headers["content-type"], "application/json");
    assert_eq!(request.headers["accept"], "application/json");
    assert_eq!(request.headers["x-api-key"], SERVICE_KEY);
}

#[tokio::test]
async fn a_thread_without_metadata_is_created_with_an_empty_object() {
    let upstream = Upstream::answering(a_thread());
    let bridge = Bridge::start(&upstream.url()).await;
    let mut client = bridge.threads();
    for unset in [CreateThreadRequest::default(), create(None)] {
        let thread = client.create_thread(unset).await.expect("OK").into_inner();
        assert_eq!((&*thread.thread_id, thread.metadata), (THREAD, None));
    }
    for request in upstream.requests() {
        assert_eq!(request.body, r#"{"metadata":{}}"#);
    }
}

#[tokio::test]
async fn get_and_delete_name_the_thread_in_the_path_and_have_no_body() {
    let upstream = Upstream::answering(a_thread());
    let bridge = Bridge::start(&upstream.url()).await;
    let mut client = bridge.threads();
    let thread = client.get_thread(get(&THREAD.to_uppercase())).await;
    assert_eq!(thread.expect("OK").into_inner().thread_id, THREAD);
    client.delete_thread(delete(THREAD)).await.expect("OK");
    for (request, method) in upstream.requests().iter().zip(["GET", "DELETE"]) {
        let line = format!("{method} /api/v1/threads/{THREAD}");
        assert_eq!(wire(request), (line, HEADERS.into(), &b""[..]));
    }
}

#[tokio::test]
async fn threads_are_found_under_any_base_url() {
    for base in ["", "/", "/m%C9%99sl%C9%99h%C9%99t/"] {
        let upstream = Upstream::answering(a_thread());
        let url = upstream.url().replace("/api/v1", base);
        let bridge = Bridge::start(&url).await;
        let result = bridge.threads().get_thread(get(THREAD)).await;
        result.expect("OK");
        let path = format!("{}/threads/{THREAD}", base.trim_end_matches('/'));
        assert_eq!(upstream.requests()[0].path, path);
    }
}

/// Texts that are not the hyphenated form of a UUID.
const NO_UUIDS: [&str; 11] = [
    "",
    " ",
    "..",
    "../graph/invoke",
    "?a=6f1c2d3e-4b5a-4978-8a6b-0c1d2e3f4",
    "6f1c2d3e-4b5a-4978-8a6b-0c1d2e3f4a5b/",
    "6f1c2d3e-4b5a-4978-8a6b-0c1d2e3f4a5b/..",
    "6f1c2d3e4b5a49788a6b0c1d2e3f4a5b",
    "{6f1c2d3e-4b5a-4978-8a6b-0c1d2e3f4a5b}",
    "urn:uuid:6f1c2d3e-4b5a-4978-8a6b-0c1d2e3f4a5b",
    "6f1c2d3e-4b5a-4978-8a6b-0c1d2e3f4aə",
];

#[tokio::test]
async fn an_id_that_is_not_a_uuid_is_reported_and_never_sent() {
    let upstream = Upstream::answering(a_thread());
    let bridge = Bridge::start(&upstream.url()).await;
    let mut client = bridge.threads();
    for id in NO_UUIDS {
        let got = client.get_thread(get(id)).await.expect_err("no UUID");
        let deleted = client.delete_thread(delete(id)).await.expect_err("no UUID");
        for status in [got, deleted] {
            assert_invalid(&status, "thread_id", id);
        }
    }
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn metadata_that_json_cannot_represent_is_reported_and_never_sent() {
    let upstream = Upstream::answering(a_thread());
    let bridge = Bridge::start(&upstream.url()).await;
    let mut client = bridge.threads();
    for number in [f64::NAN, f64::INFINITY].map(|odd| number("a", odd)) {
        let status = client.create_thread(create(Some(number))).await;
        assert_invalid(&status.expect_err("not finite"), "thread.metadata", "");
    }
    assert!(upstream.requests().is_empty());
}

fn assert_invalid(status: &Status, field: &str, sent: &str) {
    let expected = (Code::InvalidArgument, "INVALID_REQUEST".to_owned());
    assert_eq!(status.code_and_reason(), expected, "{sent:?}");
    assert_eq!(status.info("sent").as_deref(), Some("false"), "{sent:?}");
    let rich = status.error_details();
    let violations = &rich.bad_request().expect("a BadRequest").field_violations;
    assert_eq!(
        (violations.len(), &*violations[0].field),
        (1, field),
        "{sent:?}"
    );
}

#[tokio::test]
async fn metadata_and_headers_are_forwarded_for_threads_too() {
    let reply = a_thread()
        .header("x-ratelimit-remaining", "29")
        .header("set-cookie", "a=b");
    let upstream = Upstream::answering(reply);
    let bridge = Bridge::start(&upstream.url()).await;
    let pairs: [(_, &[u8]); 3] = [
        ("x-request-id", b"r-1"),
        ("accept-language", b"az"),
        ("cookie", b"a=b"),
    ];
    let asked = with_metadata(get(THREAD), &pairs);
    let answer = bridge.threads().get_thread(asked).await.expect("OK");
    let sent = &upstream.requests()[0].headers;
    assert_eq!(
        (&sent["x-request-id"], &sent["accept-language"]),
        (
            &"r-1".parse().expect("a value"),
            &"az".parse().expect("a value")
        )
    );
    assert!(!sent.contains_key("cookie"));
    assert_eq!(
        answer.metadata().get("x-request-id").expect("its id"),
        "r-1"
    );
    assert_eq!(
        answer
            .metadata()
            .get("x-ratelimit-remaining")
            .expect("passed on"),
        "29"
    );
    assert!(!answer.metadata().contains_key("set-cookie"));
}

#[tokio::test]
async fn the_callers_own_key_is_required_and_sent_if_the_bridge_forwards_keys() {
    let upstream = Upstream::answering(a_thread());
    let bridge = Bridge::with(&upstream.url(), &[("CREDENTIALS", "caller")]).await;
    for (method, result) in all(&bridge).await {
        let missing = (
            Code::Unauthenticated,
            "CALLER_CREDENTIALS_MISSING".to_owned(),
        );
        assert_eq!(
            result.expect_err(method).code_and_reason(),
            missing,
            "{method}"
        );
    }
    assert!(upstream.requests().is_empty());
    let keyed = with_metadata(delete(THREAD), &[("x-api-key", b"its-own")]);
    bridge.threads().delete_thread(keyed).await.expect("OK");
    assert_eq!(upstream.requests()[0].headers["x-api-key"], "its-own");
}

#[tokio::test]
async fn thread_calls_are_counted_under_their_own_service() {
    let upstream = Upstream::answering(a_thread());
    let bridge = Bridge::start(&upstream.url()).await;
    for (method, result) in all(&bridge).await {
        result.expect(method);
    }
    bridge
        .threads()
        .get_thread(get(""))
        .await
        .expect_err("invalid");
    let (_, metrics) = bridge.admin("/metrics").await;
    for (name, labels, count) in [
        (
            "handled_total",
            r#"grpc_code="OK",grpc_method="CreateThread""#,
            1,
        ),
        (
            "handled_total",
            r#"grpc_code="OK",grpc_method="GetThread""#,
            1,
        ),
        (
            "handled_total",
            r#"grpc_code="OK",grpc_method="DeleteThread""#,
            1,
        ),
        (
            "handled_total",
            r#"grpc_code="InvalidArgument",grpc_method="GetThread""#,
            1,
        ),
        ("started_total", r#"grpc_method="GetThread""#, 2),
        ("msg_sent_total", r#"grpc_method="GetThread""#, 1),
    ] {
        let line = format!(
            r#"grpc_server_{name}{{{labels},grpc_service="alim.v1.ThreadService",grpc_type="unary"}} {count}"#
        );
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }
}

#[tokio::test]
async fn health_of_the_thread_service_is_that_of_the_upstream() {
    let up = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/api/v1", up.local_addr().expect("bound"));
    let bridge = Bridge::with(&url, &[("UPSTREAM_HEALTH_INTERVAL", "10ms")]).await;
    for _ in 0..2 {
        up.accept().await.expect("a probe"); // at the second probe, the first has a result
    }
    let health = bridge.health(THREAD_SERVICE).await;
    assert_eq!(health.expect("known"), Serving);
    let bridge = Bridge::start(&refused_url()).await;
    bridge.invoke("Salam").await.expect_err("unreachable"); // so the first probe has failed too
    let health = bridge.health(THREAD_SERVICE).await;
    assert_eq!(health.expect("known"), NotServing);
}

/// The embedded ALİM, until its guard is dropped, and a bridge in front of it.
async fn before_the_emulator() -> (DropGuard, Bridge) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/api/v1", listener.local_addr().expect("bound"));
    let stop = CancellationToken::new();
    let settings = emulator::Settings {
        api_key: SERVICE_KEY.into(),
        token_delay: std::time::Duration::ZERO,
        rate_limit: None,
    };
    tokio::spawn(emulator::run(settings, listener, stop.clone()));
    (stop.drop_guard(), Bridge::start(&url).await)
}

#[tokio::test]
async fn a_conversation_continues_in_its_thread() {
    let (_emulator, bridge) = before_the_emulator().await;
    let (mut client, mut threads) = (bridge.client.clone(), bridge.threads());
    let made = threads
        .create_thread(create(Some(number("hectares", 5.0))))
        .await;
    let thread = made.expect("a thread").into_inner();
    let thread_id = Some(thread.thread_id.clone());

    let first = StreamRequest {
        thread_id: thread_id.clone(),
        ..ask_stream("Nə vaxt suvarım?")
    };
    let (events, ending) = read_all(client.stream(first).await.expect("events").into_inner()).await;
    ending.expect("OK");
    assert!(!text(&events).is_empty());
    let second = InvokeRequest {
        thread_id,
        ..ask("Bəs sabah?")
    };
    let reply = client.invoke(second).await.expect("a reply").into_inner();
    assert_eq!(reply.thread_id, thread.thread_id);

    let found = threads.get_thread(get(&thread.thread_id)).await;
    assert_eq!(found.expect("known").into_inner(), thread);
    let gone = threads.delete_thread(delete(&thread.thread_id)).await;
    gone.expect("deleted");
    for unknown in [
        threads.get_thread(get(&thread.thread_id)).await.map(drop),
        threads
            .delete_thread(delete(&thread.thread_id))
            .await
            .map(drop),
    ] {
        let expected = (Code::NotFound, "UPSTREAM_NOT_FOUND".to_owned());
        assert_eq!(unknown.expect_err("deleted").code_and_reason(), expected);
    }
}

#[tokio::test]
async fn a_thread_call_that_is_open_when_the_drain_begins_is_answered() {
    let gate = Gate::default();
    let body = json!({"thread_id": THREAD}).to_string();
    let reply = Reply::head(200)
        .header("content-type", "application/json")
        .header("content-length", &body.len().to_string())
        .wait(&gate)
        .send(body);
    let upstream = Upstream::answering(reply);
    let bridge = Bridge::start(&upstream.url()).await;
    let mut client = bridge.threads();
    let open = tokio::spawn(async move { client.get_thread(get(THREAD)).await });
    upstream.wait_for_requests(1).await;
    bridge.shutdown.drain.cancel();
    gate.open();
    open.await.expect("no panic").expect("answered");
    assert_eq!(bridge.drain().await, Drained::Clean);
}
