//! Callers with their own upstream keys: which key is sent, and that no connection serves two keys.

use std::collections::HashMap;

use crate::support::{
    Bridge, RichStatus, SERVICE_KEY, ask_stream,
    callers::{CallersFile, entry},
    deployed::Deployed,
    extra::wait_for_file_reload,
    read_all, reply_json, sse_answer,
    upstream::{Reply, Upstream, refused_url},
};
use alim_bridge::pb::StreamRequest;
use tonic::Code;

use super::{because, invoke, invoked_by, replying, streamed_by};

/// Callers with the key files `orders.key` and `billing.key`, and one without.
fn text() -> String {
    let own = |name: &str, key| entry(name, key) + &format!("upstream_key_file = '{name}.key'\n");
    own("orders", "o") + &own("billing", "b") + &entry("plain", "p")
}

async fn with_own_keys(upstream: &Upstream) -> (Bridge, CallersFile) {
    let file = CallersFile::with(&text());
    file.put("orders.key", "orders-own-key\n");
    file.put("billing.key", "billing-own-key\n");
    let path = file.path();
    let bridge = Bridge::with(&upstream.url(), &[("CALLERS_FILE", &*path)]).await;
    (bridge, file)
}

fn shown(upstream: &Upstream) -> Vec<String> {
    let requests = upstream.requests().into_iter();
    let keys = requests.map(|asked| asked.headers["x-api-key"].to_str().map(String::from));
    keys.map(|key| key.expect("ASCII")).collect()
}

#[tokio::test]
async fn the_upstream_gets_the_callers_own_key_or_else_the_bridges() {
    let upstream = replying();
    let (bridge, _file) = with_own_keys(&upstream).await;
    for key in ["o", "b", "p", "o"] {
        invoke(&bridge, invoked_by(key)).await.expect("a reply");
    }
    let expected = [
        "orders-own-key",
        "billing-own-key",
        SERVICE_KEY,
        "orders-own-key",
    ];
    assert_eq!(shown(&upstream), expected);
}

#[tokio::test]
async fn no_connection_ever_serves_two_keys() {
    let upstream = replying();
    let (bridge, _file) = with_own_keys(&upstream).await;
    for key in ["p", "o", "p", "b", "b", "o", "p", "b", "p"] {
        invoke(&bridge, invoked_by(key)).await.expect("a reply");
    }
    let mut of_connection = HashMap::new();
    for asked in upstream.requests() {
        let key = asked.headers["x-api-key"].clone();
        let first = of_connection
            .entry(asked.connection)
            .or_insert_with(|| key.clone());
        assert_eq!(*first, key, "connection {}", asked.connection);
    }
    let of_service = of_connection.values().filter(|key| *key == SERVICE_KEY);
    assert_eq!(of_service.count(), 1, "the bridge's own key has its pool");
}

#[tokio::test]
async fn a_started_thread_and_its_question_use_one_key() {
    let thread = r#"{"thread_id":"6f1c2d3e-4b5a-4978-8a6b-0c1d2e3f4a5b","metadata":{}}"#;
    let upstream = Upstream::scripted([Reply::json(200, thread), Reply::sse(sse_answer(&["a"]))]);
    let (bridge, _file) = with_own_keys(&upstream).await;
    let request = streamed_by("o").map(|_| StreamRequest {
        start_thread: true,
        ..ask_stream("Salam")
    });
    let stream = bridge.client.clone().stream(request).await.expect("events");
    read_all(stream.into_inner()).await.1.expect("done");
    assert_eq!(shown(&upstream), ["orders-own-key"; 2]);
}

#[tokio::test]
async fn a_changed_key_is_used_from_then_on_and_a_bad_change_is_not() {
    let upstream = replying();
    let (bridge, file) = with_own_keys(&upstream).await;
    for (content, expected) in [
        ("second", "second"),
        ("two words", "second"),
        ("", "second"),
        ("third\n", "third"),
    ] {
        file.put("orders.key", content);
        wait_for_file_reload().await;
        invoke(&bridge, invoked_by("o")).await.expect("a reply");
        let last = shown(&upstream).pop();
        assert_eq!(last.as_deref(), Some(expected), "after {content:?}");
    }
}

#[tokio::test]
async fn an_own_key_that_the_upstream_rejects_is_the_operators_fault() {
    for http in [401, 403] {
        let upstream = Upstream::answering(Reply::json(http, "{}"));
        let (bridge, _file) = with_own_keys(&upstream).await;
        let status = invoke(&bridge, invoked_by("o")).await.expect_err("refused");
        let refused = because(Code::Internal, "UPSTREAM_CREDENTIALS_REJECTED");
        assert_eq!(status.code_and_reason(), refused, "{http}");
    }
}

#[tokio::test]
async fn an_own_key_that_the_upstream_quotes_is_in_no_status() {
    let detail = r#"{"detail":"no such key: orders-own-key"}"#;
    let reply = Reply::json(409, detail).header("x-ratelimit-limit", "orders-own-key");
    let upstream = Upstream::answering(reply);
    let (bridge, _file) = with_own_keys(&upstream).await;
    let status = invoke(&bridge, invoked_by("o")).await.expect_err("a 409");
    assert!(status.message().contains("no such key: "), "{status:?}");
    assert!(
        !format!("{status:?}").contains("orders-own-key"),
        "{status:?}"
    );
}

#[tokio::test]
async fn an_own_keys_remaining_requests_are_not_exported_as_the_bridges() {
    let reply = Reply::json(200, reply_json()).header("x-ratelimit-remaining", "7");
    let upstream = Upstream::answering(reply);
    let (bridge, _file) = with_own_keys(&upstream).await;
    for (key, is_exported) in [("o", false), ("p", true)] {
        invoke(&bridge, invoked_by(key)).await.expect("a reply");
        let (_, metrics) = bridge.admin("/metrics").await;
        let found = metrics.contains("\nalim_bridge_upstream_ratelimit_remaining 7\n");
        assert_eq!(found, is_exported, "{key}");
    }
}

#[test]
fn keys_that_begin_alike_are_warned_about_at_startup() {
    let alike = format!("{}-0123456789", &SERVICE_KEY);
    for (key, is_warned) in [(&*alike, false), ("service-keyyyyyyyyyy", false)] {
        assert_eq!(warned(SERVICE_KEY, key), is_warned, "{key}");
    }
    assert!(warned("0123456789abcdef-one", "0123456789abcdef-two"));
    assert!(!warned("0123456789abcdex-one", "0123456789abcdef-two"));
}

/// Whether a bridge with this key warns if a caller has the other one.
fn warned(service: &str, own: &str) -> bool {
    let file = CallersFile::with(&(entry("orders", "o") + "upstream_key_file = 'key'\n"));
    file.put("key", own);
    let path = file.path();
    let settings = [("CALLERS_FILE", &*path), ("UPSTREAM_API_KEY", service)];
    let log = Deployed::with(&refused_url(), &settings)
        .running
        .stop()
        .stderr;
    assert!(!log.contains(own), "{log}");
    log.contains("the upstream keys of the bridge and orders begin with the same 16 characters")
}
