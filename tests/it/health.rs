//! The upstream's health: what probes request, what calls experience, and how each change is reported.

use std::{
    io::{Read, Write},
    net::TcpListener,
    time::Duration,
};

use serde_json::Value;
use tonic::Streaming;
use tonic_health::pb::{
    HealthCheckResponse,
    health_check_response::ServingStatus::{self, NotServing, Serving, Unknown},
};

use crate::{
    support::{
        Bridge, SERVICE_KEY, ask,
        deployed::Deployed,
        extra::{SERVICE, advance_time, next_health},
        reply_json,
        upstream::{Reply, Upstream, refused_url},
    },
    tls::{
        authority::{Authority, Files},
        tls_before,
    },
};

/// The upstream's fault as `/readyz` reports it.
async fn fault(bridge: &Bridge) -> Option<String> {
    let (status, answer) = bridge.admin("/readyz").await;
    assert_eq!(
        status, 200,
        "the upstream takes no bridge out of a balancer"
    );
    let body = answer.rsplit("\r\n\r\n").next().expect("a body");
    let report: Value = serde_json::from_str(body).expect("JSON");
    report["upstreamFault"].as_str().map(Into::into)
}

/// A bridge whose only later source of health is its calls.
async fn probed_once(upstream: &Upstream) -> Bridge {
    Bridge::with(&upstream.url(), &[("UPSTREAM_HEALTH_INTERVAL", "1h")]).await
}

#[tokio::test]
async fn five_failed_calls_in_a_row_take_the_service_out_even_if_probes_succeed() {
    let failing = std::iter::repeat_n(Reply::json(503, "{}"), 5);
    let answers = failing.chain([Reply::json(200, reply_json())]);
    let upstream = Upstream::scripted(answers); // like a proxy, it accepts connections anyway
    let bridge = probed_once(&upstream).await;
    let mut watch = bridge.watch(SERVICE).await;
    while next_health(&mut watch).await != Serving {}
    for _ in 0..4 {
        bridge.invoke("Salam").await.expect_err("503");
    }
    assert_eq!(fault(&bridge).await, None);
    bridge.invoke("Salam").await.expect_err("503");
    assert_eq!(next_health(&mut watch).await, NotServing);
    let text = fault(&bridge).await.expect("a fault");
    assert!(text.starts_with(&upstream.url()), "{text}");
    assert!(
        text.ends_with("5 calls in a row failed, the last: answered 503"),
        "{text}"
    );
    bridge.invoke("Salam").await.expect("a reply");
    assert_eq!(next_health(&mut watch).await, Serving);
}

#[tokio::test]
async fn failed_calls_stop_counting_after_half_a_minute() {
    let upstream = Upstream::answering(Reply::json(500, "{}"));
    let bridge = Bridge::start(&upstream.url()).await;
    let mut watch = bridge.watch(SERVICE).await;
    for _ in 0..5 {
        bridge.invoke("Salam").await.expect_err("500");
    }
    while next_health(&mut watch).await != NotServing {}
    advance_time(Duration::from_secs(36)).await; // at least one probe later
    assert_eq!(next_health(&mut watch).await, Serving);
}

#[tokio::test]
async fn a_base_url_that_returns_404_for_everything_is_reported_at_the_first_call() {
    for answer in [
        Reply::json(404, r#"{"detail":"Not Found"}"#),
        Reply::json(404, "<html>"),
    ] {
        let upstream = Upstream::answering(answer);
        let bridge = probed_once(&upstream).await;
        let mut watch = bridge.watch(SERVICE).await;
        while next_health(&mut watch).await != Serving {}
        bridge.invoke("Salam").await.expect_err("404");
        assert_eq!(next_health(&mut watch).await, NotServing);
        let text = fault(&bridge).await.expect("a fault");
        let expected = format!(
            "{}/graph/invoke: answered 404: UPSTREAM_URL does not lead to ALİM",
            upstream.url()
        );
        assert_eq!(text, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_of_health_is_logged_once_with_url_and_cause() {
    let url = refused_url();
    let settings = [("UPSTREAM_HEALTH_INTERVAL", "10ms"), ("LOG_FORMAT", "json")];
    let mut bridge = Deployed::with(&url, &settings);
    let line = bridge.running.wait_for_log("the upstream is not healthy");
    let line: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(line["url"], url);
    let cause = line["cause"].as_str().expect("a cause");
    assert!(cause.contains("Connection refused"), "{cause}");
    bridge
        .client()
        .invoke(ask("Salam"))
        .await
        .expect_err("down");
    let log = bridge.running.stop().stderr;
    assert_eq!(
        log.matches("the upstream is not healthy").count(),
        1,
        "{log}"
    );
}

/// The service's status, once it is known.
async fn known(watch: &mut Streaming<HealthCheckResponse>) -> ServingStatus {
    loop {
        let health = next_health(watch).await;
        if health != Unknown {
            return health;
        }
    }
}

/// The key that a probe of `path` sends, and whether the bridge takes the response as healthy.
async fn probed(path: &str, body: &str) -> (Option<String>, bool) {
    let upstream = Upstream::answering(Reply::json(200, body));
    let url = upstream.url().replace("/api/v1", path);
    let bridge = Bridge::with(&upstream.url(), &[("UPSTREAM_HEALTH_URL", &url)]).await;
    let probe = upstream.wait_for_requests(1).await.remove(0);
    let mut watch = bridge.watch(SERVICE).await;
    let health = known(&mut watch).await;
    let key = probe.headers.get("x-api-key");
    let key = key.map(|key| key.to_str().expect("ASCII").to_owned());
    (key, health == Serving)
}

#[tokio::test]
async fn the_key_is_sent_only_to_a_health_url_below_the_base_url() {
    let key = Some(SERVICE_KEY.to_owned());
    assert_eq!(probed("/api/v1/graph/health", "{}").await, (key, true));
    for elsewhere in ["/live", "/api/v10/graph/health", "/health"] {
        assert_eq!(probed(elsewhere, "{}").await, (None, true), "{elsewhere}");
    }
}

#[tokio::test]
async fn an_upstream_that_reports_itself_unhealthy_is_unhealthy() {
    for (body, is_healthy) in [
        (r#"{"healthy": false}"#, false),
        (r#"{"healthy": true}"#, true),
    ] {
        assert_eq!(probed("/health", body).await, (None, is_healthy), "{body}");
    }
}

#[tokio::test]
async fn https_to_a_port_without_tls_is_named_as_the_cause() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for mut bridge in listener.incoming().flatten() {
            let _ = bridge.read(&mut [0; 512]);
            let _ = bridge.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let bridge = Bridge::with(&format!("https://{address}/api/v1"), &[]).await;
    let mut watch = bridge.watch(SERVICE).await;
    assert_eq!(known(&mut watch).await, NotServing);
    let fault = fault(&bridge).await.expect("a fault");
    assert!(fault.contains("does not speak TLS"), "{fault}");
}

#[tokio::test]
async fn the_probe_uses_tls_if_the_base_url_does() {
    let (authority, upstream) = (Authority::new(), Upstream::answering(Reply::nothing()));
    let identity = authority.vouch_for("127.0.0.1");
    let (url, _front) = tls_before(&upstream, &identity).await;
    let health = async |authority: &Authority| {
        let files = Files::with(&identity);
        files.put("ca.crt", &authority.pem);
        let bridge = Bridge::with(&url, &[("UPSTREAM_CA_FILE", &files.path("ca.crt"))]).await;
        let mut watch = bridge.watch(SERVICE).await;
        (known(&mut watch).await, fault(&bridge).await)
    };
    assert_eq!(health(&authority).await, (Serving, None));
    let (status, fault) = health(&Authority::new()).await;
    assert_eq!(
        status, NotServing,
        "it accepts connections, but calls would fail"
    );
    let fault = fault.expect("a fault");
    assert!(fault.contains("certificate"), "{fault}");
}
