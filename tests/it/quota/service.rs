//! QUOTA_SERVICE: two bridges that share a quota by a rate limit service on a real socket.

use std::time::{Duration, Instant};

use alim_bridge::telemetry::traces::Traces;
use tempfile::NamedTempFile;

use crate::{
    support::{
        Bridge, SERVICE_KEY, ask, config,
        extra::{advance_time, with_metadata},
        upstream::{Upstream, refused_url},
    },
    tls::authority::Authority,
    traces::collector::Collector,
};

use super::{
    a_reply, exhausted, limits,
    rate_limit::{Limiter, RESET},
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// A bridge that shares 30 a minute.
async fn sharing(upstream: &Upstream, service: &str, more: &[(&str, &str)]) -> Bridge {
    let settings = [("UPSTREAM_QUOTA", "30/min"), ("QUOTA_SERVICE", service)];
    Bridge::with(&upstream.url(), &[&settings, more].concat()).await
}

async fn has_metrics(bridge: &Bridge, lines: &[&str]) {
    let metrics = bridge.admin("/metrics").await.1;
    for line in lines {
        assert!(metrics.contains(&format!("{line}\n")), "{metrics}");
    }
}

/// Calls until an answer of the service came in time. On a busy machine the first connection can take longer than a call waits.
async fn find_service(bridge: &Bridge) {
    let answered = "alim_bridge_quota_service_requests_total{result=\"ok\"} 1\n";
    for _ in 0..20 {
        bridge.invoke("Salam").await.expect("its share at least");
        if bridge.admin("/metrics").await.1.contains(answered) {
            return;
        }
        advance_time(Duration::from_secs(1)).await;
    }
    panic!("the service never answered in time");
}

#[tokio::test]
async fn two_bridges_send_what_the_service_admits() {
    let upstream = Upstream::answering(a_reply());
    let limiter = Limiter::start(5).await;
    let bridges = [
        sharing(&upstream, &limiter.url, &[]).await,
        sharing(&upstream, &limiter.url, &[]).await,
    ];
    for bridge in &bridges {
        find_service(bridge).await;
    }
    let before = upstream.requests().len();
    for (at, left) in [(0, 2), (1, 1), (0, 0)] {
        let answer = bridges[at].invoke("Salam").await.expect("admitted");
        assert_eq!(limits(answer.metadata()), [30, left, 7]);
    }
    for bridge in [&bridges[1], &bridges[1], &bridges[0]] {
        let status = bridge.invoke("Salam").await.expect_err("over the limit");
        let wait = exhausted(&status);
        assert!(wait <= RESET && wait > RESET / 2, "{wait:?}");
    }
    assert_eq!(upstream.requests().len() - before, 3);
    assert_eq!(
        limiter.descriptors(),
        [1; 7],
        "a stopped key is not asked for"
    );
    assert_eq!(limiter.connections(), 2, "one for each bridge");
    let asked = |result| format!("alim_bridge_quota_service_requests_total{{result=\"{result}\"}}");
    has_metrics(
        &bridges[0],
        &[
            "alim_bridge_quota_service_up 1",
            "alim_bridge_quota_limit 30",
            "alim_bridge_quota_remaining{upstream_key=\"service\"} 0",
            &format!("{} 3", asked("ok")),
            &format!("{} 1", asked("over_limit")),
            &format!("{} 0", asked("error")),
        ],
    )
    .await;
}

#[tokio::test]
async fn without_the_service_each_bridge_keeps_to_its_share() {
    let upstream = Upstream::answering(a_reply());
    let replicas = ("QUOTA_REPLICAS", "15");
    let settings = [("UPSTREAM_QUOTA", "30/min"), replicas];
    let alone = Bridge::with(&upstream.url(), &settings).await;
    let nobody = refused_url().replace("/api/v1", "");
    let failing = sharing(&upstream, &nobody, &[replicas]).await;
    for (bridge, lines) in [
        (&alone, &["alim_bridge_quota_limit 2"][..]),
        (
            &failing,
            &[
                "alim_bridge_quota_service_up 0",
                "alim_bridge_quota_service_requests_total{result=\"error\"} 1",
            ],
        ),
    ] {
        let began = Instant::now();
        for left in [1, 0] {
            let answer = bridge.invoke("Salam").await.expect("its share");
            assert_eq!(limits(answer.metadata())[..2], [2, left]);
        }
        let status = bridge.invoke("Salam").await.expect_err("its share");
        let wait = Duration::from_millis(60_250).saturating_sub(exhausted(&status));
        assert!(wait <= began.elapsed(), "{wait:?}");
        has_metrics(bridge, lines).await;
    }
    assert_eq!(upstream.requests().len(), 4);
}

#[tokio::test]
async fn a_probe_with_the_key_asks_and_is_not_sent_over_the_limit() {
    let upstream = Upstream::answering(a_reply());
    let limiter = Limiter::start(1).await;
    let url = format!("{}/graph/health", upstream.url());
    let probes = [
        ("UPSTREAM_HEALTH_URL", &*url),
        ("UPSTREAM_HEALTH_INTERVAL", "100ms"),
    ];
    let bridge = sharing(&upstream, &limiter.url, &probes).await;
    upstream.wait_for_requests(1).await;
    advance_time(Duration::from_millis(500)).await;
    exhausted(&bridge.invoke("Salam").await.expect_err("one probe"));
    assert_eq!(upstream.requests().len(), 1);
    assert_eq!(limiter.descriptors(), [1, 1]);
}

#[tokio::test]
async fn the_service_can_have_tls_by_an_authority_of_its_own() {
    let upstream = Upstream::answering(a_reply());
    let authority = Authority::new();
    let limiter = Limiter::with_tls(&authority.vouch_for("localhost"), 99).await;
    let ca = NamedTempFile::new().expect("a file");
    std::fs::write(ca.path(), &authority.pem).expect("written");
    let ca = ("QUOTA_SERVICE_CA_FILE", ca.path().to_str().expect("UTF-8"));
    let bridge = sharing(&upstream, &limiter.url, &[ca]).await;
    find_service(&bridge).await;
    assert_eq!(limiter.connections(), 1);
    let suspicious = sharing(&upstream, &limiter.url, &[]).await;
    suspicious.invoke("Salam").await.expect("its share");
    has_metrics(&suspicious, &["alim_bridge_quota_service_up 0"]).await;
    assert_eq!(limiter.connections(), 1, "it trusts only the system's");
}

#[tokio::test]
async fn a_question_carries_its_deadline_and_the_callers_trace() {
    let upstream = Upstream::answering(a_reply());
    let limiter = Limiter::start(99).await;
    let bridge = sharing(&upstream, &limiter.url, &[]).await;
    find_service(&bridge).await;
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let metadata: [(&str, &[u8]); 3] = [
        ("traceparent", parent.as_bytes()),
        ("tracestate", b"a=b"),
        ("baggage", b"c=d"),
    ];
    let call = with_metadata(ask("Salam"), &metadata);
    bridge.client.clone().invoke(call).await.expect("admitted");
    let asked = limiter.metadata().pop().expect("asked");
    assert_eq!(asked["traceparent"], *parent);
    assert_eq!(asked["tracestate"], "a=b");
    assert!(!asked.contains_key("baggage") && !asked.contains_key("x-api-key"));
    assert_eq!(asked["grpc-timeout"], "50000000n");

    let collector = Collector::start().await;
    let mut config = config(&[
        ("UPSTREAM_URL", &upstream.url()),
        ("UPSTREAM_API_KEY", SERVICE_KEY),
        ("UPSTREAM_QUOTA", "30/min"),
        ("QUOTA_SERVICE", &limiter.url),
    ]);
    let url = collector.url.parse().expect("a URL");
    let traces = Traces::to(&url, config.max_queued_spans, &config.upstream.url);
    config.server.traces = Some(traces.expect("an exporter"));
    let traced = Bridge::from_config(config).await;
    find_service(&traced).await;
    let call = with_metadata(ask("Salam"), &metadata);
    traced.client.clone().invoke(call).await.expect("admitted");
    let asked = limiter.metadata().pop().expect("asked")["traceparent"].clone();
    let asked = asked.to_str().expect("ASCII");
    assert!(asked.starts_with(&format!("00-{TRACE}-")), "{asked}");
    assert_ne!(asked, parent, "the span of this call");
}
