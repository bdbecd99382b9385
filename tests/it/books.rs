//! The books: each call has one record and one count, under the code and the reason that its caller was told.

use crate::support::{
    ask, ask_stream,
    bare::Connection,
    deployed::Deployed,
    read_all, reply_json, sse_answer, sse_tokens,
    upstream::{Reply, Upstream},
    with_timeout,
};
use alim_bridge::{call::reason::Reason, pb::graph_service_client::GraphServiceClient};
use serde_json::Value;
use tonic::Request;

/// What a call's record says: method, code, reason.
type Entry = (String, String, Option<String>);

fn entry(method: &str, code: &str, reason: Option<&str>) -> Entry {
    (method.into(), code.into(), reason.map(Into::into))
}

/// The record of the next call that ends.
fn next_entry(bridge: &mut Deployed) -> Entry {
    let record = bridge.running.wait_for_log("call ended");
    let record: Value = serde_json::from_str(&record).expect("JSON");
    let text = |name: &str| record[name].as_str().map(String::from);
    let set = |name: &str| text(name).expect("always set");
    (set("rpc.method"), set("grpc.code"), text("reason"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_call_is_recorded_and_counted_once_under_what_its_caller_was_told() {
    let (begun, json) = (sse_tokens(&["a"]), reply_json());
    let rows = [
        (Reply::sse(sse_answer(&["a"])), entry("Stream", "OK", None)),
        (
            Reply::sse(&begun),
            entry("Stream", "Unavailable", Some("UPSTREAM_STREAM_TRUNCATED")),
        ),
        (
            Reply::sse(format!("{begun}event: error\ndata: no\n\n")),
            entry("Stream", "Internal", Some("UPSTREAM_STREAM_FAILED")),
        ),
        (
            Reply::sse(&begun).then_hold(),
            entry("Stream", "DeadlineExceeded", Some("LIFETIME_EXCEEDED")),
        ),
        (
            Reply::json(404, "{}"),
            entry("Stream", "Unimplemented", Some("UPSTREAM_ROUTE_MISSING")),
        ),
        (Reply::json(200, json), entry("Invoke", "OK", None)),
        (
            Reply::nothing(),
            entry("Invoke", "Unavailable", Some("UPSTREAM_INTERRUPTED")),
        ),
    ];
    let upstream = Upstream::scripted(rows.iter().map(|(reply, _)| reply.clone()));
    let mut bridge = Deployed::with(&upstream.url(), &[("STREAM_LIFETIME", "1s")]);
    let mut client = bridge.client();
    for (_, expected) in &rows {
        if expected.0 == "Invoke" {
            let _ = client.invoke(ask("Salam")).await;
        } else if let Ok(answer) = client.stream(ask_stream("Salam")).await {
            let _ = read_all(answer.into_inner()).await;
        }
        assert_eq!(next_entry(&mut bridge), *expected);
    }
    for (_, (method, code, _)) in &rows {
        let labels = format!("grpc_code=\"{code}\",grpc_method=\"{method}\"");
        let same = rows
            .iter()
            .filter(|(_, it)| (&it.0, &it.1) == (method, code))
            .count();
        let counted = bridge.metric("grpc_server_handled_total", &labels).await;
        assert_eq!(counted, same as u64, "{labels}");
    }
    for reason in Reason::ALL.map(Reason::name) {
        let told = |(_, it): &&(Reply, Entry)| it.2.as_deref() == Some(reason);
        let same = rows.iter().filter(told).count();
        let label = format!("reason=\"{reason}\"");
        let counted = bridge.metric("alim_bridge_failures_total", &label).await;
        assert_eq!(counted, same as u64, "{reason}");
    }
}

#[tokio::test]
async fn a_caller_who_leaves_is_recorded_as_canceled_and_counted_apart() {
    let upstream = Upstream::answering(Reply::sse(sse_tokens(&["a"])).then_hold());
    let mut bridge = Deployed::with(&upstream.url(), &[]);
    let mut client = bridge.client();
    drop(client.stream(ask_stream("Salam")).await.expect("an event"));
    upstream.wait_for_close().await;
    assert_eq!(next_entry(&mut bridge), entry("Stream", "Canceled", None));
    assert_eq!(
        bridge
            .metric("alim_bridge_caller_cancelled_total", "")
            .await,
        1
    );
    let late = client.stream(with_timeout(300, ask_stream("Salam"))).await;
    let _ = read_all(late.expect("an event").into_inner()).await;
    let told = entry("Stream", "DeadlineExceeded", Some("CALLER_DEADLINE"));
    assert_eq!(next_entry(&mut bridge), told);
    assert_eq!(
        bridge
            .metric("alim_bridge_caller_cancelled_total", "")
            .await,
        1
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)] // one sends the cancel while the other reads the log
async fn a_caller_whose_own_timer_wins_is_recorded_as_caller_deadline() {
    let upstream = Upstream::answering(Reply::nothing().then_hold());
    let mut bridge = Deployed::with(&upstream.url(), &[]);
    let mut request = Request::new(ask("Salam"));
    let timeout = "90m".parse().expect("ASCII"); // so it leaves within 100 ms of it, whenever that is
    request.metadata_mut().insert("grpc-timeout", timeout);
    let connection = Connection::open(bridge.address).await;
    let origin = format!("http://{}", bridge.address).parse().expect("a URL");
    let mut client = GraphServiceClient::with_origin(connection, origin);
    tokio::select! {
        _ = client.invoke(request) => {}
        _ = async { upstream.wait_for_requests(1).await } => {}
    }
    let met = entry("Invoke", "DeadlineExceeded", Some("CALLER_DEADLINE"));
    assert_eq!(next_entry(&mut bridge), met);
    let left = "alim_bridge_caller_cancelled_total";
    assert_eq!(bridge.metric(left, "").await, 0);
}
