//! What is reported of a caller, and what a change of the file does to it and to its calls.

use crate::support::{
    Bridge, RichStatus, ask,
    callers::{CallersFile, entry},
    deployed::Deployed,
    extra::wait_for_file_reload,
    read_all, sse_answer, sse_tokens,
    upstream::{Gate, Reply, Upstream},
};
use alim_bridge::pb::stream_response::Event;
use tonic::Code;

use super::{invoke, invoked_by, knowing, rejected, replying, streamed_by};

#[tokio::test]
async fn a_removed_key_stops_working_and_its_open_call_continues() {
    let gate = Gate::default();
    let reply = Reply::sse(sse_tokens(&["a"])).wait(&gate);
    let upstream = Upstream::answering(reply.chunk("event: done\ndata: [DONE]\n\n"));
    let text = entry("orders", "o") + &entry("billing", "b");
    let (bridge, file) = knowing(&upstream, &text, &[]).await;
    let mut client = bridge.client.clone();
    let open = client.stream(streamed_by("o")).await.expect("a token");
    file.put("callers.toml", &entry("billing", "b"));
    wait_for_file_reload().await;
    let status = invoke(&bridge, invoked_by("o")).await.expect_err("removed");
    assert_eq!(status.code_and_reason(), rejected());
    gate.open();
    let (events, ended) = read_all(open.into_inner()).await;
    ended.expect("done");
    assert!(matches!(events.last(), Some(Event::Done(_))));
    let (_, metrics) = bridge.admin("/metrics").await;
    assert!(metrics.contains(r#"alim_bridge_caller_started_total{caller="billing"} 0"#));
    assert!(!metrics.contains(r#"caller="orders""#), "{metrics}");
}

#[tokio::test]
async fn a_key_is_revoked_by_an_empty_list_and_a_file_with_faults_changes_nothing() {
    let upstream = replying();
    let (bridge, file) = knowing(&upstream, &entry("orders", "o"), &[]).await;
    file.put("callers.toml", &(entry("orders", "o") + "colour = 1\n"));
    wait_for_file_reload().await;
    invoke(&bridge, invoked_by("o"))
        .await
        .expect("the last good file");
    file.put(
        "callers.toml",
        "[[caller]]\nname = 'orders'\nkey_sha256 = []\n",
    );
    wait_for_file_reload().await;
    let status = invoke(&bridge, invoked_by("o")).await.expect_err("revoked");
    assert_eq!(status.code_and_reason(), rejected());
}

/// Waits until the metrics have this line.
async fn wait_for_metric(bridge: &Bridge, line: &str) {
    let exported = async {
        loop {
            let (_, metrics) = bridge.admin("/metrics").await;
            if metrics.lines().any(|found| found == line) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let in_time = tokio::time::timeout(std::time::Duration::from_secs(10), exported).await;
    in_time.unwrap_or_else(|_| panic!("not exported: {line}"));
}

#[tokio::test]
async fn calls_are_counted_under_their_callers_name() {
    let gate = Gate::default();
    let upstream = Upstream::scripted([
        Reply::sse(sse_answer(&["a", "b", "c"])),
        Reply::json(500, "{}"),
        Reply::sse(sse_tokens(&["a"])).wait(&gate),
    ]);
    let text = entry("orders", "o") + "max_open_calls = 1\n" + &entry("billing", "b");
    let (bridge, _file) = knowing(&upstream, &text, &[]).await;
    let mut client = bridge.client.clone();
    let stream = client.stream(streamed_by("o")).await.expect("events");
    read_all(stream.into_inner()).await.1.expect("done");
    wait_for_metric(
        &bridge,
        r#"alim_bridge_caller_open_calls{caller="orders"} 0"#,
    )
    .await;
    invoke(&bridge, invoked_by("o")).await.expect_err("500");
    let _open = client.stream(streamed_by("o")).await.expect("a token");
    invoke(&bridge, invoked_by("o")).await.expect_err("full");
    invoke(&bridge, ask("Salam")).await.expect_err("nobody");
    for line in [
        r#"alim_bridge_caller_started_total{caller="orders"} 4"#,
        r#"alim_bridge_caller_started_total{caller="billing"} 0"#,
        r#"alim_bridge_caller_tokens_total{caller="orders"} 3"#,
        r#"alim_bridge_caller_open_calls{caller="orders"} 1"#,
        r#"alim_bridge_caller_failures_total{caller="orders",reason="UPSTREAM_FAILED"} 1"#,
        r#"alim_bridge_caller_failures_total{caller="orders",reason="CALLER_SATURATED"} 1"#,
        r#"alim_bridge_caller_failures_total{caller="billing",reason="CALLER_RATE_LIMITED"} 0"#,
    ] {
        wait_for_metric(&bridge, line).await;
    }
    gate.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_log_of_the_command_names_the_caller() {
    let upstream = replying();
    let file = CallersFile::with(&entry("orders", "o"));
    let path = file.path();
    let settings = [("CALLERS_FILE", &*path), ("LOG_FORMAT", "json")];
    let bridge = Deployed::with(&upstream.url(), &settings);
    let mut client = bridge.client();
    client.invoke(invoked_by("o")).await.expect("a reply");
    let status = client.invoke(invoked_by("x")).await.expect_err("unknown");
    assert_eq!(status.code(), Code::Unauthenticated);
    let log = bridge.running.stop().stderr;
    let records: Vec<_> = log
        .lines()
        .filter(|line| line.contains("call ended"))
        .collect();
    assert_eq!(records.len(), 1, "{log}");
    assert!(records[0].contains(r#""caller":"orders""#), "{log}");
}
