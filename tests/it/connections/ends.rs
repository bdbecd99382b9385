//! How connections end: by age, by idleness, and for lack of file descriptors.

use std::{net::SocketAddr, time::Duration};

use crate::support::{
    Bridge, SERVICE_KEY, ask,
    extra::{advance_time, channel_to, get},
    frames::{DATA, END_HEADERS, GOAWAY, HEADERS, RESET, Raw, frame, head_of},
    reply_json,
    running::{Running, start_with_file_limit},
    upstream::{Reply, Upstream},
};
use alim_bridge::pb::graph_service_client::GraphServiceClient;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{LIST_SERVICES, REFLECTION, SOON};

/// Less than the ten seconds after which silent connections are closed.
const AT_ONCE: Duration = Duration::from_secs(5);

fn upstream() -> Upstream {
    Upstream::answering(Reply::json(200, reply_json()))
}

#[tokio::test]
async fn an_idle_connection_gets_goaway_and_one_with_a_watch_does_not() {
    let upstream = upstream();
    let settings = [("MAX_CONNECTION_IDLE", "10m"), ("KEEPALIVE_INTERVAL", "1h")]; // no PING ends it
    let bridge = Bridge::with(&upstream.url(), &settings).await;
    let mut idle = Raw::open(bridge.address, &[]).await;
    let mut watch = bridge.watch("").await;
    watch.message().await.expect("OK").expect("a status");
    bridge.invoke("Salam").await.expect("a reply");
    advance_time(Duration::from_secs(599)).await;
    let early = timeout(Duration::from_millis(200), idle.next(GOAWAY)).await;
    assert!(early.is_err(), "no GOAWAY before the idle timeout");
    bridge.invoke("Salam").await.expect("the same connection");
    advance_time(Duration::from_secs(10)).await;
    assert!(idle.next(GOAWAY).await.is_some(), "GOAWAY before the end");
    assert!(idle.next(GOAWAY).await.is_none(), "closed");
    advance_time(Duration::from_secs(1200)).await;
    let more = timeout(Duration::from_millis(200), watch.message()).await;
    assert!(more.is_err(), "the watch stays open: {more:?}");
}

/// tonic reads the request of a reflection stream in a task of its own, which would outlive the response.
#[tokio::test]
async fn a_reflection_stream_past_its_deadline_is_no_longer_an_open_request() {
    let upstream = upstream();
    let bridge = Bridge::with(&upstream.url(), &[("MAX_CONNECTION_IDLE", "2s")]).await;
    let mut caller = Raw::open(bridge.address, &[]).await;
    let head = head_of(REFLECTION, &[("grpc-timeout", b"300m")]);
    let head = frame(HEADERS, END_HEADERS, 1, &head);
    let message = frame(DATA, 0, 1, &LIST_SERVICES);
    caller.send(&[head, message].concat()).await.expect("open");
    let reset = timeout(SOON, caller.next(RESET)).await;
    assert!(reset.expect("in time").is_some(), "a reset");
    let goaway = timeout(SOON, caller.next(GOAWAY)).await;
    assert!(goaway.expect("in time").is_some(), "idle from then on");
}

#[tokio::test]
async fn connections_opened_together_do_not_expire_together() {
    let upstream = upstream();
    let settings = [("MAX_CONNECTION_AGE", "100s"), ("KEEPALIVE_INTERVAL", "1h")];
    let bridge = Bridge::with(&upstream.url(), &settings).await;
    let mut open = Vec::new();
    for _ in 0..40 {
        let mut raw = Raw::open(bridge.address, &[]).await;
        raw.next(crate::support::frames::SETTINGS)
            .await
            .expect("served");
        open.push(raw);
    }
    let mut ages = Vec::new();
    for second in [89, 95, 100, 105, 111_u64] {
        let passed = ages.last().map_or(0, |(second, _)| *second);
        advance_time(Duration::from_secs(second - passed)).await;
        let mut gone = 0;
        for raw in &mut open {
            let ended = timeout(Duration::from_millis(5), raw.next(GOAWAY)).await;
            gone += usize::from(ended.is_ok());
        }
        ages.push((second, gone));
    }
    let gone: Vec<_> = ages.iter().map(|(_, gone)| *gone).collect();
    assert_eq!((gone[0], gone[4]), (0, 40), "{gone:?}");
    assert!(
        gone[1] > 0 && gone[1] < 40,
        "a tenth more or less: {gone:?}"
    );
}

/// A bridge with a limit of 300 open files, its address, and that of its admin port.
fn with_300_files(upstream: &Upstream) -> (Running, SocketAddr, SocketAddr) {
    let url = upstream.url();
    let variables = [
        ("ALIM_BRIDGE_UPSTREAM_URL", &*url),
        ("ALIM_BRIDGE_UPSTREAM_API_KEY", SERVICE_KEY),
        ("ALIM_BRIDGE_LISTEN", "127.0.0.1:0"),
        ("ALIM_BRIDGE_ADMIN_LISTEN", "127.0.0.1:0"),
        ("ALIM_BRIDGE_LOG_FORMAT", "json"),
    ];
    let mut running = start_with_file_limit(300, &["serve"], &variables);
    let serving: serde_json::Value =
        serde_json::from_str(&running.wait_for_log("\"serving\"")).expect("JSON");
    let bound = |name: &str| {
        serving[name]
            .as_str()
            .expect("bound")
            .parse()
            .expect("an address")
    };
    (running, bound("address"), bound("admin"))
}

/// Sockets on the admin port must not use up the file descriptors that calls need.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_sockets_on_the_admin_port_block_neither_calls_nor_probes() {
    let upstream = upstream();
    let (_running, address, admin) = with_300_files(&upstream);
    let mut silent = Vec::new();
    for _ in 0..320 {
        silent.push(TcpStream::connect(admin).await.expect("a port"));
    }
    for path in ["/livez", "/metrics"] {
        let answer = timeout(AT_ONCE, get(admin, path)).await;
        assert_eq!(answer.expect("at once").0, 200, "{path}");
    }
    let mut client = GraphServiceClient::new(channel_to(address));
    let answer = timeout(AT_ONCE, client.invoke(ask("Salam"))).await;
    answer.expect("at once").expect("a reply");
    let mut oldest = silent.swap_remove(0);
    let closed = timeout(AT_ONCE, oldest.read(&mut [0])).await;
    assert!(closed.is_ok(), "the oldest is closed for new ones");
}

#[tokio::test]
async fn health_watches_over_http1_do_not_block_a_full_listener() {
    let upstream = upstream();
    let settings = [("MAX_CONNECTIONS", "30"), ("GRPC_WEB", "*")];
    let bridge = Bridge::with(&upstream.url(), &settings).await;
    let watch = "POST /grpc.health.v1.Health/Watch HTTP/1.1\r\nhost: bridge\r\n\
                 content-type: application/grpc-web\r\ncontent-length: 5\r\n\r\n\0\0\0\0\0";
    let mut watches = Vec::new();
    for _ in 0..30 {
        let mut page = TcpStream::connect(bridge.address).await.expect("a port");
        page.write_all(watch.as_bytes()).await.expect("open");
        let _ = page.read(&mut [0]).await.expect("an answer");
        watches.push(page);
    }
    bridge.invoke("Salam").await.expect("a reply");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn near_the_file_limit_new_connections_are_closed_and_others_are_served() {
    let upstream = upstream();
    let (_running, address, admin) = with_300_files(&upstream);
    let mut client = GraphServiceClient::new(channel_to(address));
    client.invoke(ask("Salam")).await.expect("a reply");
    let mut silent = Vec::new();
    for _ in 0..320 {
        silent.push(TcpStream::connect(address).await.expect("a port"));
    }
    let closed = timeout(AT_ONCE, silent[319].read(&mut [0])).await;
    assert!(matches!(closed, Ok(Ok(0) | Err(_))), "{closed:?}");
    let answer = timeout(AT_ONCE, client.invoke(ask("Salam"))).await;
    answer
        .expect("at once")
        .expect("a file descriptor is left for its connection to ALİM");
    let metrics = get(admin, "/metrics").await.1;
    let action = r#"alim_bridge_overload_actions_total{action="reject_connection"} "#;
    let count = metrics.lines().find_map(|line| line.strip_prefix(action));
    let count: u32 = count.expect("counted").parse().expect("a number");
    assert!((30..60).contains(&count), "{count}");
    drop(silent);
    let mut next = GraphServiceClient::new(channel_to(address));
    next.invoke(ask("Salam")).await.expect("a reply again");
}
