//! Metrics as Prometheus scrapes them from the admin port.

mod exported;
mod itself;

use std::{collections::BTreeMap, time::Duration};

use crate::support::{
    Bridge, ask, ask_stream,
    extra::{advance_time, with_metadata},
    reply_json, sse_answer, sse_tokens,
    upstream::{Reply, Upstream, refused_url},
};
use alim_bridge::call::reason::Reason;

const INVOKE: &str =
    r#"{grpc_method="Invoke",grpc_service="alim.v1.GraphService",grpc_type="unary"}"#;
const STREAM: &str =
    r#"{grpc_method="Stream",grpc_service="alim.v1.GraphService",grpc_type="server_stream"}"#;

/// Every sample by its name and labels.
async fn samples(bridge: &Bridge) -> BTreeMap<String, f64> {
    let (status, text) = bridge.admin("/metrics").await;
    assert_eq!(status, 200);
    let lines = text.lines().skip_while(|line| !line.is_empty()).skip(1);
    let samples = lines.filter(|line| !line.starts_with('#'));
    let samples = samples.map(|line| line.rsplit_once(' ').expect("a name and a value"));
    samples
        .map(|(name, value)| (name.to_owned(), value.parse().expect("a number")))
        .collect()
}

/// Scrapes until a sample has this value. A call is counted once its response body is dropped.
async fn scraped(bridge: &Bridge, name: &str, value: f64) -> BTreeMap<String, f64> {
    let until = async {
        loop {
            let samples = samples(bridge).await;
            if samples.get(name) == Some(&value) {
                return samples;
            }
            tokio::task::yield_now().await;
        }
    };
    let found = tokio::time::timeout(std::time::Duration::from_secs(10), until).await;
    match found {
        Ok(samples) => samples,
        Err(_) => panic!("{name} is not {value}: {:#?}", samples(bridge).await),
    }
}

fn failures(reason: &str) -> String {
    format!(r#"alim_bridge_failures_total{{reason="{reason}"}}"#)
}

fn with_code(labels: &str, code: &str) -> String {
    let labels = labels.trim_start_matches('{');
    format!(r#"grpc_server_handled_total{{grpc_code="{code}",{labels}"#)
}

#[tokio::test]
async fn calls_and_tokens_are_counted_under_the_names_of_public_dashboards() {
    let upstream = Upstream::scripted([
        Reply::json(200, reply_json()).header("x-ratelimit-remaining", "7"),
        Reply::sse(sse_answer(&["a", "b", "c"])),
        Reply::json(500, "{}"),
    ]);
    let bridge = Bridge::with(&upstream.url(), &[("MAX_CALLS", "9")]).await;
    let before = samples(&bridge).await;
    assert!(!before.contains_key("alim_bridge_upstream_ratelimit_remaining"));
    bridge.invoke("Salam").await.expect("a reply");
    bridge.stream_all("Salam").await.1.expect("whole");
    bridge.invoke("Salam").await.expect_err("500");

    let samples = scraped(&bridge, &with_code(INVOKE, "Internal"), 1.0).await;
    let is = |name: &str, value: f64| assert_eq!(samples.get(name), Some(&value), "{name}");
    is(&with_code(INVOKE, "OK"), 1.0);
    is(&with_code(STREAM, "OK"), 1.0);
    is(&format!("grpc_server_started_total{INVOKE}"), 2.0);
    is(&format!("grpc_server_handling_seconds_count{STREAM}"), 1.0);
    is(&format!("grpc_server_msg_received_total{INVOKE}"), 2.0);
    is(&format!("grpc_server_msg_received_total{STREAM}"), 1.0);
    is(&format!("grpc_server_msg_sent_total{INVOKE}"), 1.0);
    is(&format!("grpc_server_msg_sent_total{STREAM}"), 4.0);
    is("alim_bridge_tokens_total", 3.0);
    is("alim_bridge_time_to_first_token_seconds_count", 1.0);
    is("alim_bridge_inter_token_seconds_count", 2.0);
    is(&failures("UPSTREAM_FAILED"), 1.0);
    is("alim_bridge_upstream_ratelimit_remaining", 7.0);
    is("alim_bridge_open_calls", 0.0);
    is("alim_bridge_max_calls", 9.0);
    is("alim_bridge_caller_cancelled_total", 0.0);
    is("alim_bridge_log_lines_dropped_total", 0.0);
    let version = env!("CARGO_PKG_VERSION");
    is(
        &format!(r#"alim_bridge_build_info{{version="{version}"}}"#),
        1.0,
    );
    assert!(samples["process_resident_memory_bytes"] > 0.0);
}

#[tokio::test]
async fn every_reason_is_counted_from_zero() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let bridge = Bridge::start(&upstream.url()).await;
    let before = samples(&bridge).await;
    for reason in Reason::ALL.map(Reason::name) {
        assert_eq!(before.get(&failures(reason)), Some(&0.0), "{reason}");
    }
    bridge.invoke("").await.expect_err("no message");
    let after = scraped(&bridge, &failures("INVALID_REQUEST"), 1.0).await;
    let counted = after.iter().filter(|(name, _)| name.contains("reason="));
    assert_eq!(counted.map(|(_, count)| count).sum::<f64>(), 1.0);
}

#[tokio::test]
async fn an_open_call_is_exported_and_a_caller_that_leaves_counts_as_cancelled() {
    let upstream = Upstream::answering(Reply::sse(sse_tokens(&["a"])).then_hold());
    let bridge = Bridge::start(&upstream.url()).await;
    let mut client = bridge.client.clone();
    let mut events = client
        .stream(ask_stream("Salam"))
        .await
        .expect("a head")
        .into_inner();
    events.message().await.expect("no status").expect("a token");
    assert_eq!(samples(&bridge).await["alim_bridge_open_calls"], 1.0);
    drop(events);

    let samples = scraped(&bridge, "alim_bridge_caller_cancelled_total", 1.0).await;
    assert_eq!(samples[&with_code(STREAM, "Canceled")], 1.0);
    assert_eq!(samples["alim_bridge_open_calls"], 0.0);
}

/// The names of the series of calls.
fn series(samples: &BTreeMap<String, f64>) -> Vec<&String> {
    let names = samples.keys();
    names
        .filter(|name| name.starts_with("grpc_server_"))
        .collect()
}

#[tokio::test]
async fn the_first_scrape_has_a_zero_for_each_method_and_code_that_can_occur() {
    let first = samples(&Bridge::start(&refused_url()).await).await;
    let zeros = first
        .iter()
        .filter(|(name, _)| name.starts_with("grpc_server_"));
    assert!(zeros.clone().all(|(_, value)| *value == 0.0), "{first:#?}");
    let count = |part: &str| {
        zeros
            .clone()
            .filter(|(name, _)| name.contains(part))
            .count()
    };
    assert_eq!(count("handled_total"), 5 * 13 + 2 * 10 + 11 + 9);
    assert_eq!(count("started_total"), 9);
    assert_eq!(count("handling_seconds_count"), 9);
    assert_eq!(count("msg_received_total"), 5);
    for (labels, code) in [(INVOKE, "Aborted"), (STREAM, "Unavailable"), (STREAM, "OK")] {
        assert!(
            first.contains_key(&with_code(labels, code)),
            "{labels} {code}"
        );
    }
    for code in ["Unknown", "AlreadyExists", "OutOfRange", "DataLoss"] {
        assert_eq!(count(&format!("\"{code}\"")), 0, "{code}");
    }
}

#[tokio::test]
async fn no_response_of_the_upstream_adds_a_series() {
    let answers: Vec<_> = (400..=599)
        .map(|status| Reply::json(status, "{}"))
        .collect();
    let upstream = Upstream::scripted(answers.iter().chain(&answers).cloned());
    let bridge = Bridge::start(&upstream.url()).await;
    let before = samples(&bridge).await;
    for _ in &answers {
        bridge.invoke("Salam").await.expect_err("no success");
        bridge.stream("Salam").await.expect_err("no success");
    }
    bridge.health("alim.v1.Other").await.expect_err("unknown");
    let last = format!("grpc_server_started_total{STREAM}");
    let after = scraped(&bridge, &last, answers.len() as f64).await;
    assert_eq!(series(&after), series(&before));
}

#[tokio::test]
async fn the_service_keys_remaining_requests_are_exported_for_a_minute() {
    const LEFT: &str = "alim_bridge_upstream_ratelimit_remaining";
    let reply = Reply::json(200, reply_json()).header("x-ratelimit-remaining", "7");
    let upstream = Upstream::answering(reply);
    let bridge = Bridge::start(&upstream.url()).await;
    bridge.invoke("Salam").await.expect("a reply");
    advance_time(Duration::from_secs(59)).await;
    assert_eq!(samples(&bridge).await.get(LEFT), Some(&7.0));
    advance_time(Duration::from_secs(1)).await;
    assert_eq!(samples(&bridge).await.get(LEFT), None);
    bridge.invoke("Salam").await.expect("a reply");
    assert_eq!(samples(&bridge).await.get(LEFT), Some(&7.0));
}

#[tokio::test]
async fn a_callers_own_keys_remaining_requests_are_not_exported() {
    let reply = Reply::json(200, reply_json()).header("x-ratelimit-remaining", "7");
    let upstream = Upstream::answering(reply);
    let bridge = Bridge::with(&upstream.url(), &[("CREDENTIALS", "caller")]).await;
    let request = with_metadata(ask("Salam"), &[("x-api-key", b"k")]);
    let answer = bridge.client.clone().invoke(request).await;
    let answer = answer.expect("a reply");
    assert!(answer.metadata().contains_key("x-ratelimit-remaining"));
    let samples = samples(&bridge).await;
    assert!(!samples.contains_key("alim_bridge_upstream_ratelimit_remaining"));
}
