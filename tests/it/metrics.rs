//! Metrics as Prometheus scrapes them from the admin port.

mod itself;

use std::collections::BTreeMap;

use alim_bridge::reason::Reason;

use crate::support::{
    Bridge, ask_stream, reply_json, sse_answer, sse_tokens,
    upstream::{Reply, Upstream},
};

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

/// Scrapes until a sample has this value: a call is counted when its body has been let go.
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
async fn calls_and_tokens_are_counted_under_the_names_that_public_dashboards_know() {
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
    is(&format!("grpc_server_msg_sent_total{INVOKE}"), 1.0);
    is(&format!("grpc_server_msg_sent_total{STREAM}"), 4.0);
    is("alim_bridge_tokens_total", 3.0);
    is("alim_bridge_time_to_first_token_seconds_count", 1.0);
    is("alim_bridge_inter_token_seconds_count", 2.0);
    is(
        r#"alim_bridge_upstream_errors_total{reason="UPSTREAM_FAILED"}"#,
        1.0,
    );
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
async fn every_reason_is_counted_from_zero_and_those_that_are_not_alims_too() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let bridge = Bridge::before(&upstream.url()).await;
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
async fn an_open_call_is_seen_and_a_caller_who_leaves_is_counted_as_cancelled() {
    let upstream = Upstream::answering(Reply::sse(sse_tokens(&["a"])).then_hold());
    let bridge = Bridge::before(&upstream.url()).await;
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
