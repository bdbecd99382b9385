//! `/status`: its figures while calls go on, its bounds, and what it never contains.

use serde_json::{Value, json};

use super::{status, status_when};
use crate::support::{
    Bridge, SERVICE_KEY, ask, ask_stream,
    callers::{CallersFile, entry},
    extra::with_metadata,
    frames::{END_HEADERS, HEADERS, Raw, frame, head},
    reply_json, sse_answer, sse_tokens,
    upstream::{Reply, Upstream, refused_url},
};

const KEY: &str = "orders-key";

fn bearer<T>(message: T) -> tonic::Request<T> {
    let value = format!("Bearer {KEY}");
    with_metadata(message, &[("authorization", value.as_bytes())])
}

#[tokio::test]
async fn a_new_bridge_reports_its_version_limits_and_settings() {
    let bridge = Bridge::with(&refused_url(), &[("MAX_CALLS", "7")]).await;
    let status = status(&bridge).await;
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert!(status["uptimeSeconds"].as_f64().expect("seconds") >= 0.0);
    assert_eq!(status["draining"], false);
    assert_eq!(status["limits"]["calls"], json!({"used": 0, "limit": 7}));
    for absent in ["quota", "callers"] {
        assert_eq!(status[absent], Value::Null, "{absent}");
    }
    assert_eq!(
        status["firstToken"],
        json!({"count": 0, "p50Seconds": null, "p99Seconds": null})
    );
    let settings = status["settings"].as_array().expect("a list");
    let value =
        |name: &str| settings.iter().find(|it| it["name"] == name).expect(name)["value"].clone();
    assert_eq!(
        (value("MAX_CALLS"), value("RETRIES")),
        ("7".into(), "2".into())
    );
    assert!(!status.to_string().contains(SERVICE_KEY), "{status:#}");
}

#[tokio::test]
async fn open_ended_and_failed_calls_are_reported_by_caller() {
    let file = CallersFile::with(
        &(entry("orders", KEY) + "max_open_calls = 5\nrate = \"60/min\"\nweight = 2\n"),
    );
    let upstream = Upstream::scripted([
        Reply::json(200, reply_json()),
        Reply::json(503, r#"{"detail":"a secret of the upstream"}"#),
        Reply::sse(sse_answer(&["x", "y"])),
        Reply::sse(sse_tokens(&["a", "b", "c"])).then_hold(),
    ]);
    let path = file.path();
    let settings = [("CALLERS_FILE", &*path), ("UPSTREAM_QUOTA", "30/min")];
    let bridge = Bridge::with(&upstream.url(), &settings).await;
    let mut client = bridge.client.clone();
    client.invoke(bearer(ask("Salam"))).await.expect("a reply");
    client.invoke(bearer(ask("Salam"))).await.expect_err("503");
    let ended = client
        .stream(bearer(ask_stream("Salam")))
        .await
        .expect("a token");
    crate::support::read_all(ended.into_inner())
        .await
        .1
        .expect("OK");
    let _open = client
        .stream(bearer(ask_stream("Salam")))
        .await
        .expect("a token");
    bridge.invoke("Salam").await.expect_err("no key");

    let is_complete = |status: &Value| {
        status["lastFailures"]
            .as_array()
            .is_some_and(|calls| calls.len() == 2)
            && status["openCalls"]["calls"][0]["tokens"] == 3
            && status["methods"][1]["codes"] == json!([{"name": "OK", "count": 1}])
    };
    let status = status_when(&bridge, is_complete).await;
    let call = &status["openCalls"]["calls"][0];
    assert_eq!(status["openCalls"]["total"], 1);
    assert_eq!(
        (&call["method"], &call["caller"]),
        (&"Stream".into(), &"orders".into())
    );
    assert_eq!(
        (&call["id"], &call["state"]),
        (&4.into(), &"streams".into())
    );
    assert!(
        call["peer"]
            .as_str()
            .expect("a peer")
            .starts_with("127.0.0.1:")
    );
    assert!(call["heldBytes"].as_u64().expect("bytes") > 0);

    let codes = json!([{"name": "OK", "count": 1}, {"name": "Unavailable", "count": 1}, {"name": "Unauthenticated", "count": 1}]);
    assert_eq!(
        status["methods"][0],
        json!({"method": "Invoke", "started": 3, "codes": codes})
    );
    let failures = json!([
        {"name": "UPSTREAM_UNAVAILABLE", "count": 1},
        {"name": "CALLER_CREDENTIALS_MISSING", "count": 1},
    ]);
    assert_eq!(status["failures"], failures);
    let callers = json!([{
        "name": "orders", "weight": 2, "openCalls": 1, "maxOpenCalls": 5, "rate": "60/min", "hasOwnKey": false,
        "started": 4, "failed": 1, "tokens": 2,
    }]);
    assert_eq!(status["callers"], callers);
    let keys = json!([{"name": "service", "remaining": 26, "requests": 4}]);
    assert_eq!(
        status["quota"],
        json!({"limit": 30, "waiting": 0, "keys": keys})
    );
    let reasons = [&status["lastFailures"][0], &status["lastFailures"][1]];
    let reasons = reasons.map(|call| (&call["reason"], &call["caller"]));
    let newest = (&"CALLER_CREDENTIALS_MISSING".into(), &Value::Null);
    assert_eq!(
        reasons,
        [newest, (&"UPSTREAM_UNAVAILABLE".into(), &"orders".into())]
    );
    assert_eq!(
        status["firstToken"]["count"], 1,
        "a stream's, once it has ended"
    );
    assert!(status["interToken"]["p99Seconds"].as_f64().is_some());
    assert_eq!(status["limits"]["calls"]["used"], 1);
    for secret in ["Salam", "secret of", KEY, SERVICE_KEY, "Suvarın"] {
        assert!(!status.to_string().contains(secret), "{secret}: {status:#}");
    }
}

/// Calls whose message is not complete are open too, and a connection can hold thousands of them.
#[tokio::test]
async fn a_thousand_open_calls_are_listed_and_all_are_counted() {
    let bridge = Bridge::start(&refused_url()).await;
    let mut caller = Raw::open(bridge.address, &[]).await;
    let heads = (0..1100)
        .flat_map(|count| frame(HEADERS, END_HEADERS, 2 * count + 1, &head("Invoke", &[])));
    caller.send(&heads.collect::<Vec<_>>()).await.expect("open");
    let status = status_when(&bridge, |status| status["openCalls"]["total"] == 1100).await;
    let listed = status["openCalls"]["calls"].as_array().expect("a list");
    let ids: Vec<_> = listed
        .iter()
        .filter_map(|call| call["id"].as_u64())
        .collect();
    assert_eq!(ids, (1..=1000).collect::<Vec<_>>(), "the oldest");
}

#[tokio::test]
async fn the_last_fifty_failed_calls_are_kept_and_strangers_have_ten_of_them() {
    let file = CallersFile::with(&entry("orders", KEY));
    let bridge = Bridge::with(&refused_url(), &[("CALLERS_FILE", &*file.path())]).await;
    let mut client = bridge.client.clone();
    for _ in 0..60 {
        client
            .invoke(bearer(ask("")))
            .await
            .expect_err("no message");
    }
    for _ in 0..20 {
        bridge.invoke("Salam").await.expect_err("no key");
    }
    let is_complete = |status: &Value| status["failures"][1]["count"] == 20;
    let status = status_when(&bridge, is_complete).await;
    let calls = status["lastFailures"].as_array().expect("a list");
    let count = |reason: &str| calls.iter().filter(|call| call["reason"] == reason).count();
    assert_eq!(
        (
            count("INVALID_REQUEST"),
            count("CALLER_CREDENTIALS_MISSING")
        ),
        (40, 10)
    );
    assert_eq!(calls.len(), 50);
}
