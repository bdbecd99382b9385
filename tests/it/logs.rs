//! Log lines and their readers: a slow or dead reader must not stall a call. Two logs are written: the application log,
//! and a record of each call.

use std::{
    io::{BufRead, BufReader, Read},
    time::{Duration, Instant},
};

use crate::support::{
    SERVICE_KEY, ask, ask_stream,
    bare::Connection,
    deployed::Deployed,
    extra::{channel_to, get, with_metadata},
    frames::{Raw, call},
    reply_json,
    running::{self, Running},
    sse_tokens,
    upstream::{Reply, Upstream},
};
use alim_bridge::pb::graph_service_client::GraphServiceClient;
use serde_json::Value;

/// Enough calls for far more lines than the queue holds, since the libraries log lines for each call too.
const CALLS: usize = 400;

const SERVE: [&str; 5] = ["serve", "--listen", "127.0.0.1:0", "--admin-listen", "off"];

fn settings(url: &str) -> [(&str, &str); 3] {
    [
        ("ALIM_BRIDGE_UPSTREAM_URL", url),
        ("ALIM_BRIDGE_UPSTREAM_API_KEY", SERVICE_KEY),
        ("ALIM_BRIDGE_LOG", "trace"),
    ]
}

fn start(upstream: &Upstream) -> (Running, impl Read + use<>) {
    running::start_unread(&SERVE, &settings(&upstream.url()))
}

async fn call_often(address: &str) {
    let address = address.parse().expect("an address");
    let mut client = GraphServiceClient::new(channel_to(address));
    let calls = async {
        for _ in 0..CALLS {
            client.invoke(ask("Salam")).await.expect("a reply");
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(60), calls).await;
    ended.expect("no call is stalled");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unread_log_stalls_neither_calls_nor_the_exit() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let (mut bridge, mut unread) = start(&upstream);
    call_often(&bridge.address()).await;
    assert_eq!(bridge.stop().code, Some(0));

    let mut lines = String::new();
    unread.read_to_string(&mut lines).expect("UTF-8");
    let is_lost = !lines.contains("\"stopped\"");
    assert!(
        is_lost,
        "so few lines that nothing stalled: {}",
        lines.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_lost_behind_a_stalled_reader_are_counted_within_1000_lines() {
    const ROUNDS: usize = 5;
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let serve = [&SERVE[..4], &["127.0.0.1:0"]].concat();
    let url = upstream.url();
    let [url, key, _] = settings(&url);
    let (mut bridge, unread) = running::start_unread(&serve, &[url, key]);
    let mut unread = BufReader::new(unread);
    let mut line = String::new();
    while !line.contains("\"serving\"") {
        line.clear();
        unread.read_line(&mut line).expect("UTF-8");
    }
    let admin = field(&line, "admin").parse().expect("an address");
    let address = bridge.address();
    for _ in 0..ROUNDS {
        call_often(&address).await;
    }
    let (_, metrics) = get(admin, "/metrics").await;
    let mut lines = metrics.lines();
    let dropped = lines.find_map(|line| line.strip_prefix("alim_bridge_log_lines_dropped_total "));
    let dropped: usize = dropped.expect("a counter").parse().expect("a count");

    let reading = tokio::task::spawn_blocking(move || {
        let lines = unread.lines().map_while(Result::ok);
        lines.filter(|line| line.contains("call ended")).count()
    });
    assert_eq!(bridge.stop().code, Some(0));
    let read = reading.await.expect("no panic");
    let ended = ROUNDS * CALLS;
    let in_the_pipe = 64 * 1024 / 250; // a record has more than 250 bytes
    assert!(
        ended - dropped <= 1000 + in_the_pipe,
        "{dropped} of {ended}"
    );
    let uncounted = ended - dropped - read;
    assert!(uncounted <= 1, "{uncounted}"); // the last record can come after the scrape
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_with_a_dead_reader_fails_no_call() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let (mut bridge, unread) = start(&upstream);
    drop(unread);
    call_often(&bridge.address()).await;
    assert_eq!(bridge.stop().code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_stalled_outputs_do_not_stall_the_exit() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let url = upstream.url();
    let (bridge, address, _unread) = running::start_on_one_pipe(&SERVE, &settings(&url));
    call_often(&address).await;
    let stopped = tokio::task::spawn_blocking(|| bridge.stop().code);
    let code = tokio::time::timeout(Duration::from_secs(60), stopped).await;
    assert_eq!(code.expect("it ends").expect("no panic"), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_the_drain_forces_to_end_is_recorded_even_if_its_caller_does_not_read() {
    const CALLERS: usize = 3;
    let tokens = sse_tokens(&["Suvarma vaxtı səhər tezdəndir. "; 10_000]);
    let upstream = Upstream::answering(Reply::sse(tokens).then_hold());
    let url = upstream.url();
    let mut settings = settings(&url).to_vec();
    settings.extend([
        ("ALIM_BRIDGE_LOG", "info"),
        ("ALIM_BRIDGE_DRAIN_TIMEOUT", "1s"),
    ]);
    let mut bridge = running::start(&SERVE, &settings);
    let address = bridge.address();
    let connection = Connection::with_window(address.parse().expect("an address"), 1024).await;
    let origin = format!("http://{address}").parse().expect("a URL");
    let client = GraphServiceClient::with_origin(connection, origin);
    let mut unread = Vec::new();
    for _ in 0..CALLERS {
        let answer = client.clone().stream(ask_stream("Salam")).await;
        unread.push(answer.expect("a head"));
    }
    let ended = tokio::task::spawn_blocking(|| bridge.stop())
        .await
        .expect("no panic");
    assert_eq!(ended.code, Some(1), "it had to force the end");
    let records = ended
        .stderr
        .lines()
        .filter(|line| line.contains("call ended"));
    let forced = records.filter(|line| line.contains("BRIDGE_DRAINING"));
    assert_eq!(forced.count(), CALLERS, "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_has_the_request_ids_of_the_upstream_and_the_bridge() {
    for (status, body) in [(200, reply_json()), (500, "{}".to_owned())] {
        let reply = Reply::json(status, body).header("x-request-id", "u-1");
        let upstream = Upstream::answering(reply);
        let url = upstream.url();
        let [url, key, _] = settings(&url);
        let mut bridge = running::start(&SERVE, &[url, key]);
        let address = bridge.address().parse().expect("an address");
        let mut client = GraphServiceClient::new(channel_to(address));
        let _ = client
            .invoke(with_metadata(ask("Salam"), &[("x-request-id", b"r-1")]))
            .await;
        let record = bridge.wait_for_log("call ended");
        for field in [r#""request_id":"r-1""#, r#""upstream.request_id":"u-1""#] {
            assert!(record.contains(field), "{record}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_omitted_from_replies_is_warned_about_once_and_not_quoted() {
    let body = r#"{"response":"a","thread_id":"t","model":["gizli"],"metadata":"gizli"}"#;
    let upstream = Upstream::answering(Reply::json(200, body));
    let url = upstream.url();
    let [url, key, _] = settings(&url);
    let mut bridge = running::start(&SERVE, &[url, key]);
    call_often(&bridge.address()).await;
    let log = bridge.stop().stderr;
    for field in ["model", "metadata"] {
        let named = format!(r#""field":"{field}""#);
        let warnings = log.lines().filter(|line| line.contains(&named));
        assert_eq!(warnings.count(), 1, "{field}");
    }
    assert!(!log.contains("gizli"));
}

#[tokio::test(flavor = "multi_thread")]
async fn unidentified_callers_are_counted_and_cannot_fill_the_log() {
    const UNKNOWN: usize = 100;
    let keys = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&keys, "[[caller]]\nname = 'orders'\n").expect("written");
    let keys = keys.path().to_str().expect("UTF-8");
    for (level, is_shown) in [("info", false), ("debug", true)] {
        let serve = [
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
        ];
        let level = format!("off,alim_bridge={level}");
        let [url, key, _] = settings("http://127.0.0.1:1");
        let settings = [
            url,
            key,
            ("ALIM_BRIDGE_LOG", level.as_str()),
            ("ALIM_BRIDGE_CALLERS_FILE", keys),
        ];
        let mut bridge = running::start(&serve, &settings);
        let address = bridge.address().parse().expect("an address");
        let admin = field(&bridge.wait_for_log("serving"), "admin");
        let mut client = GraphServiceClient::new(channel_to(address));
        let start = Instant::now();
        for _ in 0..UNKNOWN {
            client.invoke(ask("Salam")).await.expect_err("no key");
        }
        let seconds = usize::try_from(start.elapsed().as_secs()).expect("few");
        let (_, counts) = get(admin.parse().expect("an address"), "/metrics").await;
        let counted = r#"failures_total{reason="CALLER_CREDENTIALS_MISSING"} 100"#;
        assert!(counts.contains(counted), "{counts}");

        let log = bridge.stop().stderr;
        let shown = log.lines().filter(|line| line.contains("call ended"));
        let limits = match is_shown {
            true => 10..=10 * (seconds + 1),
            false => 0..=0,
        };
        assert!(limits.contains(&shown.count()), "{level}: {log}");
    }
}

fn field(line: &str, name: &str) -> String {
    let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
    line[name].as_str().expect("a text").to_owned()
}

/// The standard error of a bridge after two calls, one of which fails, and a health check.
async fn written(settings: &[(&str, &str)]) -> String {
    let upstream = Upstream::scripted([Reply::json(200, reply_json()), Reply::json(500, "{}")]);
    let bridge = Deployed::with_log(&upstream.url(), settings);
    let mut client = bridge.client();
    client.invoke(ask("Salam")).await.expect("a reply");
    client.invoke(ask("Salam")).await.expect_err("500");
    let address = bridge.address.to_string();
    let health = move || running::run(&["health", "--address", &address]).code;
    let health = tokio::task::spawn_blocking(health).await;
    assert_eq!(health.expect("no panic"), Some(0));
    bridge.running.stop().stderr
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_log_ignores_the_filter_of_the_application_log() {
    for log in ["warn", "off"] {
        let written = written(&[("LOG", log)]).await;
        assert_eq!(written.lines().count(), 2, "{written}");
        assert_eq!(written.matches("call ended").count(), 2, "{written}");
    }
    let written = written(&[("ACCESS_LOG", "off")]).await;
    assert_eq!(written.matches("call ended").count(), 0, "{written}");
    assert!(written.contains("\"serving\""), "{written}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_log_can_have_failures_only_or_health_checks_too() {
    let errors = written(&[("LOG", "off"), ("ACCESS_LOG", "errors")]).await;
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(errors.contains("\"UPSTREAM_FAILED\""), "{errors}");
    let all = written(&[("LOG", "off"), ("ACCESS_LOG", "all")]).await;
    assert_eq!(all.lines().count(), 3, "{all}");
    assert!(all.contains("\"rpc.method\":\"Check\""), "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_has_the_bytes_of_both_messages_as_json_and_as_text() {
    let json = written(&[("LOG", "off")]).await;
    let record = json.lines().next().expect("a record");
    let record: Value = serde_json::from_str(record).expect("JSON");
    let expected = |name: &str| record[name].as_u64().expect("a count");
    // Fields of two bytes and their text; before the reply, gRPC's prefix of five bytes.
    let (asked, answered) = (ask("Salam"), "Suvarın.".len() + 36 + 1);
    let asked = asked.message.len() + asked.user_id.len() + 2 * 2;
    assert_eq!(expected("bytes_in"), asked as u64, "{record}");
    assert_eq!(
        expected("bytes_out"),
        (answered + 3 * 2 + 5) as u64,
        "{record}"
    );
    let text = written(&[("LOG", "off"), ("LOG_FORMAT", "text")]).await;
    let expected = format!("bytes_in={asked} bytes_out=");
    let record = text.lines().next().expect("a record");
    assert!(
        record.contains("  INFO alim_bridge::call: call ended rpc.method=\"Invoke\"")
            && record.contains(&expected),
        "{record}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_has_the_time_that_its_caller_allowed() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let mut bridge = Deployed::with(&upstream.url(), &[]);
    for allowed in [Some(20_000.0), None] {
        let mut request = tonic::Request::new(ask("Salam"));
        if allowed.is_some() {
            request.set_timeout(Duration::from_secs(20));
        }
        let mut client = bridge.client();
        client.invoke(request).await.expect("a reply");
        let record = bridge.running.wait_for_log("call ended");
        let record: Value = serde_json::from_str(&record).expect("JSON");
        assert_eq!(record["deadline_ms"].as_f64(), allowed, "{record}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_names_the_peer_of_its_call() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let mut bridge = Deployed::with(&upstream.url(), &[]);
    let mut caller = Raw::open(bridge.address, &[]).await;
    caller.send(&call("Invoke", 1, &[])).await.expect("open");
    let record = bridge.running.wait_for_log("call ended");
    let record: serde_json::Value = serde_json::from_str(&record).expect("JSON");
    let address = caller.0.local_addr().expect("bound");
    assert_eq!(record["peer"], address.to_string());
}
