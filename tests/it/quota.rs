//! UPSTREAM_QUOTA and QUOTA_WAIT: the requests that reach ALİM, and what rejected callers learn.

mod emulated;
mod rate_limit;
mod service;
mod share;

use std::time::{Duration, Instant};

use crate::support::{
    Bridge, RichStatus, ask, ask_stream,
    extra::{advance_time, with_metadata},
    reply_json, sse_answer,
    upstream::{Gate, Reply, Upstream, refused_url},
    with_timeout,
};
use alim_bridge::pb::{CreateThreadRequest, GetThreadRequest, StreamRequest};
use tonic::{Code, Request, Status, metadata::MetadataMap};

const THREAD: &str = "6f1c2d3e-4b5a-4978-8a6b-0c1d2e3f4a5b";

fn a_reply() -> Reply {
    Reply::json(200, reply_json())
}

/// A bridge whose key has this quota.
async fn with_quota(upstream: &Upstream, quota: &str, wait: &str) -> Bridge {
    let settings = [("UPSTREAM_QUOTA", quota), ("QUOTA_WAIT", wait)];
    Bridge::with(&upstream.url(), &settings).await
}

/// Checks the status of a call that the quota rejected, unsent. Returns the wait that it names.
fn exhausted(status: &Status) -> Duration {
    let expected = (Code::ResourceExhausted, "QUOTA_EXHAUSTED".to_owned());
    assert_eq!(status.code_and_reason(), expected, "{status:?}");
    assert_eq!(status.info("sent").as_deref(), Some("false"));
    let rich = status.error_details();
    let info = rich.retry_info().expect("RetryInfo");
    info.retry_delay.expect("a delay")
}

fn limits(metadata: &MetadataMap) -> [u64; 3] {
    ["limit", "remaining", "reset"].map(|name| {
        let name = format!("x-ratelimit-{name}");
        let values: Vec<_> = metadata.get_all(&*name).iter().collect();
        let [value] = values[..] else {
            panic!("{name}: {values:?}")
        };
        value.to_str().expect("ASCII").parse().expect("a number")
    })
}

/// No window had more than `limit` requests.
fn assert_kept(upstream: &Upstream, limit: usize, window: Duration) {
    let requests = upstream.requests();
    for first_and_last in requests.windows(limit + 1) {
        let apart = first_and_last[limit].at - first_and_last[0].at;
        assert!(apart >= window, "{} in {apart:?}", limit + 1);
    }
}

#[tokio::test]
async fn a_call_beyond_the_quota_gets_the_exact_wait() {
    let upstream = Upstream::answering(a_reply());
    let bridge = with_quota(&upstream, "3/2s", "0s").await;
    for left in (0..3).rev() {
        let answer = bridge.invoke("Salam").await.expect("a free slot");
        let [limit, remaining, reset] = limits(answer.metadata());
        assert_eq!((limit, remaining, reset), (3, left, 3));
    }
    let status = bridge.invoke("Salam").await.expect_err("no free slot");
    let wait = exhausted(&status);
    let millis = wait.as_micros().div_ceil(1000);
    assert_eq!(status.pushback(), Some(millis.to_string()));
    assert!(wait <= Duration::from_millis(2250), "{wait:?}");
    assert_eq!(limits(status.metadata())[..2], [3, 0]);
    assert_eq!(upstream.requests().len(), 3, "nothing was sent");
    advance_time(Duration::from_millis(u64::try_from(millis).expect("short"))).await;
    bridge.invoke("Salam").await.expect("it said so");
    assert_kept(&upstream, 3, Duration::from_secs(2));
}

#[tokio::test]
async fn the_wait_is_exact_for_a_burst_whose_requests_have_not_left_yet() {
    let upstream = Upstream::answering(a_reply());
    let bridge = with_quota(&upstream, "2/s", "0s").await;
    let burst = (0..3).map(|_| bridge.invoke("Salam"));
    let answers = futures_util::future::join_all(burst).await;
    let rejected: Vec<_> = answers.iter().filter_map(|it| it.as_ref().err()).collect();
    let [status] = rejected[..] else {
        panic!("{answers:?}")
    };
    advance_time(exhausted(status)).await;
    bridge.invoke("Salam").await.expect("it said so");
    assert_kept(&upstream, 2, Duration::from_secs(1));
}

#[tokio::test]
async fn no_window_exceeds_the_quota_however_calls_arrive() {
    let upstream = Upstream::answering(a_reply());
    let bridge = with_quota(&upstream, "3/s", "30s").await;
    let calls = (0..12).map(|number| {
        let (mut client, mut threads) = (bridge.new_client(), bridge.threads());
        async move {
            match number % 3 {
                0 => client.invoke(ask("Salam")).await.map(drop),
                1 => client.stream(ask_stream("Salam")).await.map(drop),
                _ => {
                    let asked = CreateThreadRequest::default();
                    threads.create_thread(asked).await.map(drop)
                }
            }
        }
    });
    let answers = futures_util::future::join_all(calls).await;
    let reasons = answers.iter().filter_map(|it| it.as_ref().err());
    let mut reasons = reasons.map(|status| status.code_and_reason().1);
    assert!(reasons.all(|reason| reason == "UPSTREAM_MALFORMED_REPLY"));
    assert_eq!(upstream.requests().len(), 12);
    assert_kept(&upstream, 3, Duration::from_secs(1));
}

#[tokio::test]
async fn a_stream_that_starts_a_thread_acquires_two_slots_or_sends_nothing() {
    let thread = Reply::json(200, format!(r#"{{"thread_id":"{THREAD}"}}"#));
    let upstream = Upstream::scripted([a_reply(), thread, Reply::sse(sse_answer(&["a"]))]);
    let bridge = with_quota(&upstream, "2/s", "0s").await;
    let starting = StreamRequest {
        start_thread: true,
        ..ask_stream("Salam")
    };
    bridge.invoke("Salam").await.expect("a free slot");
    let mut client = bridge.client.clone();
    let rejected = client.stream(starting.clone()).await;
    let wait = exhausted(&rejected.expect_err("one slot only"));
    assert_eq!(upstream.requests().len(), 1);
    advance_time(wait).await;
    let stream = client.stream(starting).await.expect("two slots");
    assert_eq!(limits(stream.metadata())[..2], [2, 0]);
    assert_eq!(upstream.requests().len(), 3);
}

#[tokio::test]
async fn requests_without_a_body_count_too() {
    let upstream = Upstream::answering(Reply::json(200, format!(r#"{{"thread_id":"{THREAD}"}}"#)));
    let bridge = with_quota(&upstream, "2/min", "0s").await;
    let mut threads = bridge.threads();
    let asked = GetThreadRequest {
        thread_id: THREAD.into(),
    };
    for _ in 0..2 {
        threads
            .get_thread(asked.clone())
            .await
            .expect("a free slot");
    }
    let rejected = threads.get_thread(asked).await.expect_err("no free slot");
    assert!(exhausted(&rejected) > Duration::from_secs(59));
}

#[tokio::test]
async fn an_abandoned_request_counts_with_a_body_and_without() {
    let upstream = Upstream::answering(Reply::nothing().then_hold());
    let bridge = with_quota(&upstream, "2/min", "0s").await;
    let (mut client, mut threads) = (bridge.client.clone(), bridge.threads());
    let asked = GetThreadRequest {
        thread_id: THREAD.into(),
    };
    let late = threads.get_thread(with_timeout(300, asked)).await;
    late.expect_err("no answer comes");
    let late = client.invoke(with_timeout(300, ask("Salam"))).await;
    late.expect_err("no answer comes");
    assert_eq!(upstream.wait_for_requests(2).await.len(), 2);
    exhausted(&bridge.invoke("Salam").await.expect_err("no free slot"));
}

#[tokio::test]
async fn a_call_that_found_no_connection_costs_no_quota() {
    let settings = [("UPSTREAM_QUOTA", "2/min"), ("RETRIES", "1")];
    let bridge = Bridge::with(&refused_url(), &settings).await;
    for _ in 0..4 {
        let status = bridge.invoke("Salam").await.expect_err("nobody there");
        assert_eq!(status.code_and_reason().1, "UPSTREAM_UNREACHABLE");
        let asked = GetThreadRequest {
            thread_id: THREAD.into(),
        };
        let status = bridge.threads().get_thread(asked).await;
        let status = status.expect_err("nobody there");
        assert_eq!(status.code_and_reason().1, "UPSTREAM_UNREACHABLE");
    }
}

#[tokio::test]
async fn a_health_probe_with_the_key_counts_and_is_not_sent_above_the_quota() {
    let upstream = Upstream::answering(a_reply());
    let url = format!("{}/graph/health", upstream.url());
    let settings = [
        ("UPSTREAM_QUOTA", "2/min"),
        ("UPSTREAM_HEALTH_URL", &url),
        ("UPSTREAM_HEALTH_INTERVAL", "100ms"),
    ];
    let bridge = Bridge::with(&upstream.url(), &settings).await;
    upstream.wait_for_requests(2).await;
    advance_time(Duration::from_millis(500)).await;
    exhausted(&bridge.invoke("Salam").await.expect_err("two probes"));
    assert_eq!(upstream.requests().len(), 2);
}

#[tokio::test]
async fn a_429_with_retry_after_stops_the_key_until_then() {
    let limited = Reply::json(429, r#"{"detail":"slow"}"#).header("retry-after", "1");
    let upstream = Upstream::scripted([limited, a_reply()]);
    let bridge = with_quota(&upstream, "30/min", "0s").await;
    let status = bridge.invoke("Salam").await.expect_err("429");
    assert_eq!(status.code_and_reason().1, "UPSTREAM_RATE_LIMITED");
    let [limit, remaining, _] = limits(status.metadata());
    assert_eq!((limit, remaining), (30, 0), "stopped");
    let wait = exhausted(&bridge.invoke("Salam").await.expect_err("stopped"));
    assert!(wait <= Duration::from_secs(1), "{wait:?}");
    advance_time(wait).await;
    bridge.invoke("Salam").await.expect("it said so");
}

#[tokio::test]
async fn a_429_ends_the_wait_of_calls_that_can_not_be_served_in_time() {
    let gate = Gate::default();
    let limited = Reply::nothing()
        .wait(&gate)
        .send("HTTP/1.1 429 Too Many Requests\r\nretry-after: 60\r\ncontent-length: 0\r\n\r\n");
    let upstream = Upstream::scripted([a_reply(), limited]);
    let bridge = with_quota(&upstream, "2/2s", "5s").await;
    bridge.invoke("Salam").await.expect("a free slot");
    let limited = share::call(&bridge, "", "limited");
    upstream.wait_for_requests(2).await;
    let waiting = share::call(&bridge, "", "waits");
    waits(&bridge, 1).await;
    gate.open();
    let status = waiting.await.expect("no panic").expect_err("stopped");
    assert!(exhausted(&status) > Duration::from_secs(58));
    limited.await.expect("no panic").expect_err("429");
    assert_eq!(upstream.requests().len(), 2);
}

/// Waits until this many calls wait for the quota.
async fn waits(bridge: &Bridge, calls: usize) {
    let line = format!("alim_bridge_quota_waiting_calls {calls}\n");
    let until = Instant::now() + Duration::from_secs(10);
    while !bridge.admin("/metrics").await.1.contains(&line) {
        assert!(Instant::now() < until, "{calls} calls never waited");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_remaining_requests_that_alim_reports_lower_the_quota() {
    let reply = a_reply()
        .header("x-ratelimit-limit", "30")
        .header("x-ratelimit-remaining", "1")
        .header("x-ratelimit-reset", "1800000000")
        .header("x-ratelimit-policy", "log");
    let upstream = Upstream::answering(reply);
    let bridge = with_quota(&upstream, "5/min", "0s").await;
    let answer = bridge.invoke("Salam").await.expect("a free slot");
    assert_eq!(limits(answer.metadata()), [5, 1, 61], "others use the key");
    assert!(!answer.metadata().contains_key("x-ratelimit-policy"));
    let metrics = bridge.admin("/metrics").await.1;
    for line in [
        "alim_bridge_quota_limit 5\n",
        "alim_bridge_quota_remaining{upstream_key=\"service\"} 1\n",
        "alim_bridge_quota_requests_total{upstream_key=\"service\"} 1\n",
        "alim_bridge_upstream_ratelimit_remaining 1\n",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
}

#[tokio::test]
async fn without_a_quota_alims_limits_are_forwarded_and_no_quota_metric_exists() {
    let upstream = Upstream::answering(a_reply().header("x-ratelimit-limit", "30"));
    let bridge = Bridge::start(&upstream.url()).await;
    let answer = bridge.invoke("Salam").await.expect("a reply");
    assert_eq!(
        answer.metadata().get("x-ratelimit-limit").expect("ALİM's"),
        "30"
    );
    assert!(
        !bridge
            .admin("/metrics")
            .await
            .1
            .contains("alim_bridge_quota_")
    );
}

#[tokio::test]
async fn each_key_that_callers_bring_has_its_own_quota() {
    let upstream = Upstream::answering(a_reply());
    let settings = [("CREDENTIALS", "caller"), ("UPSTREAM_QUOTA", "2/min")];
    let bridge = Bridge::with(&upstream.url(), &settings).await;
    let mut client = bridge.client.clone();
    let keyed =
        |key: &str| -> Request<_> { with_metadata(ask("Salam"), &[("x-api-key", key.as_bytes())]) };
    for key in ["one", "other"] {
        for _ in 0..2 {
            client.invoke(keyed(key)).await.expect("a free slot");
        }
        exhausted(&client.invoke(keyed(key)).await.expect_err("no free slot"));
    }
}

#[tokio::test]
async fn a_wait_beyond_the_callers_deadline_is_rejected_at_once() {
    let upstream = Upstream::answering(a_reply());
    let bridge = with_quota(&upstream, "2/2s", "30s").await;
    for _ in 0..2 {
        bridge.invoke("Salam").await.expect("a free slot");
    }
    let began = Instant::now();
    let mut client = bridge.client.clone();
    let rejected = client.invoke(with_timeout(1000, ask("Salam"))).await;
    let status = rejected.expect_err("too late");
    assert!(exhausted(&status) > Duration::from_secs(1));
    assert_eq!(
        status.pushback().as_deref(),
        Some("-1"),
        "it would wait in vain"
    );
    assert!(began.elapsed() < Duration::from_millis(900));
    bridge.invoke("Salam").await.expect("waits for its turn");
    assert_eq!(upstream.requests().len(), 3);
}
