//! `PUT /log`: the level of the bridge's own lines changes while it runs, and no other library's.

use super::{local, send};
use crate::support::{
    SERVICE_KEY, ask,
    deployed::Deployed,
    upstream::{Reply, Upstream},
};

const DEBUG_LINE: &str = "the upstream failed";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_debug_line_appears_after_the_level_is_changed_and_not_after_it_is_reset() {
    let upstream = Upstream::answering(Reply::json(503, "{}"));
    let settings = [("LOG", "info"), ("ACCESS_LOG", "on")];
    let mut bridge = Deployed::with(&upstream.url(), &settings);
    let mut client = bridge.client();
    let status = async || local(bridge.admin, "GET /status").await.json()["log"].clone();
    assert_eq!(status().await, "info");

    let changed = local(bridge.admin, "PUT /log?filter=alim_bridge%3Ddebug").await;
    assert_eq!(changed.status, 200, "{changed:?}");
    assert_eq!(changed.json()["log"], "alim_bridge=debug,info");
    assert_eq!(status().await, "alim_bridge=debug,info");
    client.invoke(ask("Salam")).await.expect_err("503");
    let line = bridge
        .running
        .wait_for_log("an operator changes the log's filter");
    assert!(line.contains("alim_bridge=debug,info"), "{line}");
    bridge.running.wait_for_log(DEBUG_LINE);
    bridge.running.wait_for_log("call ended");

    let reset = local(bridge.admin, "PUT /log").await;
    assert_eq!((reset.status, &reset.json()["log"]), (200, &"info".into()));
    client.invoke(ask("Salam")).await.expect_err("503");
    bridge
        .running
        .wait_for_log("an operator changes the log's filter");
    let line = bridge.running.wait_for_log("alim_bridge::"); // the next line at all
    assert!(line.contains("call ended"), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_finest_level_prints_neither_keys_nor_messages() {
    let upstream = Upstream::answering(Reply::json(503, "{}"));
    let bridge = Deployed::with(&upstream.url(), &[]);
    let changed = local(bridge.admin, "PUT /log?filter=trace").await;
    assert_eq!(changed.json()["log"], "alim_bridge=trace,info");
    bridge
        .client()
        .invoke(ask("a farmer's question"))
        .await
        .expect_err("503");
    let log = bridge.running.stop().stderr;
    assert!(log.contains(DEBUG_LINE), "{log}");
    for secret in [SERVICE_KEY, "farmer", "hyper::", "h2::", "reqwest::"] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_of_other_libraries_and_unreadable_ones_are_rejected_with_the_reason() {
    let upstream = Upstream::answering(Reply::json(503, "{}"));
    let mut bridge = Deployed::with(&upstream.url(), &[]);
    for (filter, reason) in [
        (
            "h2%3Dtrace",
            "part 1 must concern alim_bridge: other libraries can print keys\n",
        ),
        (
            "debug,hyper%3Ddebug",
            "part 2 must concern alim_bridge: other libraries can print keys\n",
        ),
        ("loud", "part 1 must be a level, "),
        ("alim_bridge%3D", "part 1 must be a level, "),
        ("alim_bridge%5Bx%5D%3Ddebug", "part 1 must concern "),
    ] {
        let answer = local(bridge.admin, &format!("PUT /log?filter={filter}")).await;
        assert_eq!(answer.status, 400, "{filter}: {answer:?}");
        assert!(answer.body.starts_with(reason), "{filter}: {answer:?}");
    }
    let status = local(bridge.admin, "GET /status").await;
    assert_eq!(status.json()["log"], "info");
    let get = send(
        bridge.admin,
        "GET /log?filter=debug",
        &[("host", "localhost")],
    )
    .await;
    assert_eq!(get.status, 405);
    bridge.client().invoke(ask("Salam")).await.expect_err("503");
    bridge.running.wait_for_log("call ended");
    assert!(!bridge.running.stop().stderr.contains("an operator changes"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_logged_also_if_the_old_or_the_new_filter_is_off() {
    let upstream = Upstream::answering(Reply::json(503, "{}"));
    let bridge = Deployed::with(&upstream.url(), &[]);
    for filter in ["off", "off", "error", "debug"] {
        let changed = local(bridge.admin, &format!("PUT /log?filter={filter}")).await;
        assert_eq!(changed.status, 200, "{changed:?}");
    }
    let log = bridge.running.stop().stderr;
    let lines = log
        .lines()
        .filter(|line| line.contains("an operator changes the log's filter"));
    let filters = ["alim_bridge=off,info", "alim_bridge=debug,info"];
    let lines: Vec<_> = lines.collect();
    assert_eq!(
        lines.len(),
        2,
        "from info to off, and from error to debug: {log}"
    );
    for (line, filter) in lines.iter().zip(filters) {
        assert!(line.contains(filter), "{line}");
    }
}
