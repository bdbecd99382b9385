//! Which key is accepted where: the callers' at the bridge, and the one that is sent to the upstream.

mod quotes;

use std::{fs, time::Duration};

use crate::support::{
    Bridge, RichStatus, SERVICE_KEY, ask, ask_stream,
    callers::{CallersFile, entry, sha256},
    config,
    extra::{advance_time, wait_for_file_reload, with_metadata},
    reply_json, sse_tokens,
    upstream::{Reply, Upstream},
};
use alim_bridge::pb::{InvokeRequest, StreamRequest};
use tempfile::NamedTempFile;
use tonic::{Code, IntoRequest, Request, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
};

/// A key that only one caller has.
const KEY: &str = "orders-key";

/// Credentials that are not accepted.
const NOT_ITS_KEY: [&str; 8] = [
    "",
    "Bearer ",
    "Bearer another-key",
    "bearer ORDERS-KEY",
    "Basic orders-key",
    "orders-key",
    "Bearerorders-key",
    "Bearer orders-key, Bearer orders-key",
];

fn failure(code: Code, reason: &str) -> (Code, String) {
    (code, reason.into())
}

fn missing() -> (Code, String) {
    failure(Code::Unauthenticated, "CALLER_CREDENTIALS_MISSING")
}

fn rejected() -> (Code, String) {
    failure(Code::Unauthenticated, "CALLER_CREDENTIALS_REJECTED")
}

fn a_reply() -> Reply {
    Reply::json(200, reply_json())
}

/// A bridge with one caller, its upstream, and its callers file.
async fn guarded() -> (Upstream, Bridge, CallersFile) {
    let file = CallersFile::with(&entry("orders", KEY));
    let upstream = Upstream::answering(a_reply());
    let bridge = Bridge::with(&upstream.url(), &[("CALLERS_FILE", &file.path())]).await;
    (upstream, bridge, file)
}

/// A bridge that forwards the caller's own key.
async fn passing_on(reply: Reply) -> (Upstream, Bridge) {
    let upstream = Upstream::answering(reply);
    let bridge = Bridge::with(&upstream.url(), &[("CREDENTIALS", "caller")]).await;
    (upstream, bridge)
}

/// A bridge whose service key is in this file.
async fn with_key_file(upstream: &Upstream, file: &NamedTempFile) -> Bridge {
    let (url, path) = (upstream.url(), file.path().to_str().expect("UTF-8"));
    let settings = [("UPSTREAM_URL", &*url), ("UPSTREAM_API_KEY_FILE", path)];
    Bridge::from_config(config(&settings)).await
}

fn authorized<T>(message: T, authorization: &str) -> Request<T> {
    with_metadata(message, &[("authorization", authorization.as_bytes())])
}

fn keyed<T>(message: T, key: &str) -> Request<T> {
    with_metadata(message, &[("x-api-key", key.as_bytes())])
}

/// The statuses of both methods for a request that must fail before the first event.
async fn rejections(
    bridge: &Bridge,
    invoke: impl IntoRequest<InvokeRequest>,
    stream: impl IntoRequest<StreamRequest>,
) -> [Status; 2] {
    let mut client = bridge.client.clone();
    [
        client.invoke(invoke).await.expect_err("no reply"),
        client.stream(stream).await.expect_err("no event"),
    ]
}

#[tokio::test]
async fn a_call_without_a_key_is_rejected_and_nothing_is_sent() {
    let (upstream, bridge, _dir) = guarded().await;
    for status in rejections(&bridge, ask("Salam"), ask_stream("Salam")).await {
        assert_eq!(status.code_and_reason(), missing());
        assert_eq!(status.info("sent").as_deref(), Some("false"));
        assert_eq!(status.pushback(), None);
    }
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn any_other_credentials_are_rejected_and_nothing_is_sent() {
    let (upstream, bridge, _dir) = guarded().await;
    let hash = format!("Bearer {}", sha256(KEY));
    for shown in NOT_ITS_KEY.into_iter().chain([&*hash]) {
        let invoke = authorized(ask("Salam"), shown);
        for status in rejections(&bridge, invoke, authorized(ask_stream("Salam"), shown)).await {
            assert_eq!(status.code_and_reason(), rejected(), "{shown:?}");
            assert_eq!(status.info("sent").as_deref(), Some("false"), "{shown:?}");
        }
    }
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn a_second_authorization_header_is_rejected() {
    let (upstream, bridge, _file) = guarded().await;
    for other in [&b"Bearer orders-key"[..], b"Bearer another-key"] {
        let both = [
            ("authorization", &b"Bearer orders-key"[..]),
            ("authorization", other),
        ];
        let answer = bridge
            .client
            .clone()
            .invoke(with_metadata(ask("Salam"), &both))
            .await;
        assert_eq!(answer.expect_err("two").code_and_reason(), rejected());
    }
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn a_caller_with_its_key_is_admitted_and_the_key_is_not_forwarded() {
    let (upstream, bridge, _dir) = guarded().await;
    let mut client = bridge.client.clone();
    for shown in ["Bearer orders-key", "bearer  orders-key"] {
        let reply = client.invoke(authorized(ask("Salam"), shown)).await;
        reply.expect("a reply");
    }
    for asked in upstream.requests() {
        assert!(!format!("{asked:?}").contains(KEY), "{asked:?}");
        assert_eq!(asked.headers["x-api-key"], SERVICE_KEY);
    }
}

#[tokio::test]
async fn health_needs_no_key() {
    let (_upstream, bridge, _dir) = guarded().await;
    let health = bridge.health("").await.expect("no key needed");
    assert_eq!(health, ServingStatus::Serving);
    bridge.watch("").await;
}

#[tokio::test]
async fn reflection_needs_a_key() {
    let (_upstream, bridge, _dir) = guarded().await;
    let mut reflection = ServerReflectionClient::new(bridge.channel.clone());
    let asked = || tokio_stream::iter([ServerReflectionRequest::default()]);
    let status = reflection.server_reflection_info(asked()).await;
    assert_eq!(status.expect_err("no key").code_and_reason(), missing());
    let asked = authorized(asked(), "Bearer orders-key");
    let answer = reflection.server_reflection_info(asked).await;
    answer.expect("with the key");
}

#[tokio::test]
async fn an_unknown_method_needs_a_key_before_it_is_reported_as_unknown() {
    let (_upstream, bridge, _dir) = guarded().await;
    let status = unknown_method(&bridge, Request::new(ask("Salam"))).await;
    assert_eq!(status.code_and_reason(), missing());
    let status = unknown_method(&bridge, authorized(ask("Salam"), "Bearer orders-key")).await;
    let unknown = failure(Code::Unimplemented, "METHOD_UNKNOWN");
    assert_eq!(status.code_and_reason(), unknown);
}

async fn unknown_method(bridge: &Bridge, request: Request<InvokeRequest>) -> Status {
    let mut grpc = tonic::client::Grpc::new(bridge.channel.clone());
    grpc.ready().await.expect("a connection");
    let path = http::uri::PathAndQuery::from_static("/alim.v1.GraphService/Guess");
    let codec = tonic_prost::ProstCodec::<InvokeRequest, InvokeRequest>::default();
    let answer = grpc.unary(request, path, codec).await;
    answer.expect_err("no such method")
}

#[tokio::test]
async fn a_changed_callers_file_is_reloaded_and_a_bad_change_keeps_the_old_one() {
    let (_upstream, bridge, file) = guarded().await;
    let mut client = bridge.client.clone();
    for (content, known, unknown) in [
        (
            entry("orders", "second"),
            "Bearer second",
            "Bearer orders-key",
        ),
        (
            "orders = 'no-hash'".into(),
            "Bearer second",
            "Bearer no-hash",
        ),
        (String::new(), "Bearer second", "Bearer "),
        (entry("orders", "third"), "Bearer third", "Bearer second"),
    ] {
        file.put("callers.toml", &content);
        wait_for_file_reload().await;
        let passed = client.invoke(authorized(ask("Salam"), known)).await;
        passed.unwrap_or_else(|status| panic!("after {content:?}: {status:?}"));
        let status = client.invoke(authorized(ask("Salam"), unknown)).await;
        assert_eq!(status.expect_err("unknown").code_and_reason(), rejected());
    }
}

#[tokio::test]
async fn a_callers_own_key_is_sent_to_the_upstream() {
    let (upstream, bridge) = passing_on(a_reply()).await;
    let mut client = bridge.client.clone();
    for key in ["first", "second"] {
        let reply = client.invoke(keyed(ask("Salam"), key)).await;
        reply.expect("a reply");
    }
    let shown = upstream.requests();
    let shown = shown.iter().map(|asked| &asked.headers["x-api-key"]);
    assert_eq!(shown.collect::<Vec<_>>(), ["first", "second"]);
}

#[tokio::test]
async fn a_caller_that_brings_no_key_is_rejected_and_nothing_is_sent() {
    let (upstream, bridge) = passing_on(a_reply()).await;
    for key in [
        &[][..],
        &[("x-api-key", &b""[..])],
        &[("x-api-key", b"\xff")],
    ] {
        let invoke = with_metadata(ask("Salam"), key);
        let stream = with_metadata(ask_stream("Salam"), key);
        for status in rejections(&bridge, invoke, stream).await {
            assert_eq!(status.code_and_reason(), missing(), "{key:?}");
            assert_eq!(status.info("sent").as_deref(), Some("false"));
        }
    }
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn a_callers_key_that_the_upstream_rejects_is_the_callers_fault() {
    for (http, code) in [(401, Code::Unauthenticated), (403, Code::PermissionDenied)] {
        let (_upstream, bridge) = passing_on(Reply::json(http, "{}")).await;
        let invoke = keyed(ask("Salam"), KEY);
        for status in rejections(&bridge, invoke, keyed(ask_stream("Salam"), KEY)).await {
            let refused = failure(code, "CALLER_CREDENTIALS_REJECTED");
            assert_eq!(status.code_and_reason(), refused, "{http}");
            assert_eq!(status.info("sent").as_deref(), Some("true"), "{http}");
        }
    }
}

#[tokio::test]
async fn a_service_key_that_the_upstream_rejects_is_the_bridges_fault() {
    for http in [401, 403] {
        let upstream = Upstream::answering(Reply::json(http, "{}"));
        let bridge = Bridge::start(&upstream.url()).await;
        let invoke = keyed(ask("Salam"), KEY);
        for status in rejections(&bridge, invoke, keyed(ask_stream("Salam"), KEY)).await {
            let refused = failure(Code::Internal, "UPSTREAM_CREDENTIALS_REJECTED");
            assert_eq!(status.code_and_reason(), refused, "{http}");
        }
    }
}

#[tokio::test]
async fn with_a_service_key_the_callers_key_never_reaches_the_upstream() {
    let upstream = Upstream::answering(a_reply());
    let bridge = Bridge::start(&upstream.url()).await;
    let mut client = bridge.client.clone();
    let reply = client.invoke(keyed(ask("Salam"), KEY)).await;
    reply.expect("a reply");
    let asked = &upstream.requests()[0];
    let shown = asked.headers.get_all("x-api-key").iter();
    assert_eq!(shown.collect::<Vec<_>>(), [SERVICE_KEY]);
    assert!(!format!("{asked:?}").contains(KEY), "{asked:?}");
}

#[tokio::test]
async fn a_changed_service_key_is_used_from_then_on_and_a_bad_change_is_not() {
    let file = NamedTempFile::new().expect("a file");
    fs::write(&file, "first\n").expect("written");
    let upstream = Upstream::answering(a_reply());
    let bridge = with_key_file(&upstream, &file).await;
    for (content, shown) in [
        ("first\n", "first"),
        ("second", "second"),
        ("two words", "second"),
        ("\n", "second"),
        (" third\n", "third"),
    ] {
        fs::write(&file, content).expect("written");
        wait_for_file_reload().await;
        bridge.invoke("Salam").await.expect("a reply");
        let asked = upstream.requests().pop().expect("a request");
        assert_eq!(asked.headers["x-api-key"], shown, "after {content:?}");
    }
}

#[tokio::test]
async fn a_partly_written_key_file_is_not_used() {
    let file = NamedTempFile::new().expect("a file");
    fs::write(&file, "first").expect("written");
    let upstream = Upstream::answering(a_reply());
    let bridge = with_key_file(&upstream, &file).await;
    // The file is checked after 2 s and after 4 s, and has another content each time.
    for (content, millis) in [("sec", 3000), ("second", 1500)] {
        fs::write(&file, content).expect("written");
        advance_time(Duration::from_millis(millis)).await;
        bridge.invoke("Salam").await.expect("a reply");
    }
    wait_for_file_reload().await;
    bridge.invoke("Salam").await.expect("a reply");
    let shown = upstream.requests();
    let shown = shown.iter().map(|asked| &asked.headers["x-api-key"]);
    assert_eq!(shown.collect::<Vec<_>>(), ["first", "first", "second"]);
}

#[tokio::test]
async fn a_partly_written_callers_file_locks_nobody_out() {
    let (_upstream, bridge, file) = guarded().await;
    let mut client = bridge.client.clone();
    file.put("callers.toml", &entry("orders", "another"));
    advance_time(Duration::from_secs(3)).await; // one check
    let passed = client.invoke(authorized(ask("Salam"), "Bearer orders-key"));
    passed.await.expect("its line is not written yet");
}

/// Identity is checked before admission: an unidentified caller must not learn how loaded the bridge is.
#[tokio::test]
async fn a_caller_that_brings_no_key_is_rejected_before_admission() {
    let upstream = Upstream::answering(Reply::sse(sse_tokens(&["a"])).then_hold());
    let settings = [("CREDENTIALS", "caller"), ("MAX_CALLS", "1")];
    let bridge = Bridge::with(&upstream.url(), &settings).await;
    let with_key = with_metadata(ask_stream("Salam"), &[("x-api-key", b"own")]);
    let open = bridge.client.clone().stream(with_key).await;
    let _open = open.expect("a token");
    for status in rejections(&bridge, ask("Salam"), ask_stream("Salam")).await {
        assert_eq!(status.code_and_reason(), missing());
    }
    assert_eq!(upstream.requests().len(), 1);
}
