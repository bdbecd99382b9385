//! A bridge without free file descriptors: its figures can still be read, and it does not blame the upstream.

use std::{collections::HashMap, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    SERVICE_KEY, ask_stream,
    extra::channel_to,
    running::{Running, start_with_file_limit},
    sse_tokens,
    upstream::{Reply, Upstream},
};
use alim_bridge::{call::reason::Reason, pb::graph_service_client::GraphServiceClient};
use serde_json::Value;

/// A bridge with few descriptors, and the addresses of both ports.
fn serve(upstream: &Upstream) -> (Running, [String; 2]) {
    let args = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
        "--upstream-health-interval",
        "10ms",
        "--retries",
        "0",
    ];
    let variables = [
        ("ALIM_BRIDGE_UPSTREAM_URL", &*upstream.url()),
        ("ALIM_BRIDGE_UPSTREAM_API_KEY", SERVICE_KEY),
        ("TOKIO_WORKER_THREADS", "2"),
    ]
    .map(|(name, value)| (name, value.to_owned()));
    let variables: Vec<_> = variables.iter().map(|(n, v)| (*n, &**v)).collect();
    let mut bridge = start_with_file_limit(80, &args, &variables);
    let line: Value = serde_json::from_str(&bridge.wait_for_log("serving")).expect("JSON");
    let addresses = ["address", "admin"].map(|name| line[name].as_str().expect("text").into());
    (bridge, addresses)
}

/// Scrapes over an open connection, as Prometheus does.
async fn scrape(connection: &mut TcpStream) -> HashMap<String, f64> {
    let request = "GET /metrics HTTP/1.1\r\nhost: bridge\r\n\r\n";
    let sent = connection.write_all(request.as_bytes()).await;
    sent.expect("the connection is open");
    let mut text = String::new();
    let is_whole = |text: &str| {
        let (head, body) = text.split_once("\r\n\r\n")?;
        let length = head.to_lowercase();
        let length = length.split_once("content-length: ")?.1.lines().next()?;
        (body.len() >= length.parse().ok()?).then_some(())
    };
    let mut part = [0; 16 * 1024];
    while is_whole(&text).is_none() {
        let read = connection.read(&mut part).await.expect("an answer");
        assert!(read > 0, "{text}");
        text += &String::from_utf8_lossy(&part[..read]);
    }
    let lines = text.lines().filter_map(|line| line.rsplit_once(' '));
    lines
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .collect()
}

/// Scrapes until this figure is at least `value`.
async fn scrape_until(connection: &mut TcpStream, name: &str, value: f64) -> HashMap<String, f64> {
    let scraping = async {
        loop {
            let figures = scrape(connection).await;
            if figures[name] >= value {
                return figures;
            }
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(60), scraping).await;
    found.unwrap_or_else(|_| panic!("{name} is below {value}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn without_free_descriptors_figures_are_exported_and_the_upstream_is_not_blamed() {
    let upstream = Upstream::answering(Reply::sse(sse_tokens(&["a"])).then_hold());
    let (bridge, [address, admin]) = serve(&upstream);
    let mut scraper = TcpStream::connect(&admin).await.expect("a port");
    scrape_until(&mut scraper, "alim_bridge_upstream_up", 1.0).await;
    let address = address.parse().expect("an address");
    let client = GraphServiceClient::new(channel_to(address));
    let mut open = Vec::new();
    let status = loop {
        match client.clone().stream(ask_stream("Salam")).await {
            Ok(events) => open.push(events),
            Err(status) => break status,
        }
        assert!(open.len() < 80, "the limit is not reached");
    };
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
    assert!(status.message().contains("file descriptor"), "{status:?}");
    let _unaccepted = TcpStream::connect(address).await.expect("the backlog");
    let _unaccepted_admin = TcpStream::connect(&admin).await.expect("the backlog");
    for listener in ["grpc", "admin"] {
        let errors = format!(r#"alim_bridge_accept_errors_total{{listener="{listener}"}}"#);
        scrape_until(&mut scraper, &errors, 3.0).await;
    }
    let figures = scrape(&mut scraper).await;
    assert_eq!(figures["process_max_fds"], 80.0);
    assert!(figures["process_open_fds"] >= 80.0, "with inherited ones");
    assert!(figures["process_resident_memory_bytes"] > 1e6);
    assert_eq!(
        figures["alim_bridge_upstream_up"], 1.0,
        "probes are made each 10 ms"
    );
    let failures = |reason: Reason| {
        figures[&format!(
            r#"alim_bridge_failures_total{{reason="{}"}}"#,
            reason.name()
        )]
    };
    let counts = [Reason::BridgeSaturated, Reason::UpstreamUnreachable].map(failures);
    assert_eq!(counts, [1.0, 0.0]);
    drop(open);
    let log = bridge.stop().stderr;
    let warnings = log.matches("connections can't be accepted").count();
    assert_eq!(warnings, 2, "one a minute of each listener: {log}");
}
