//! Traces as an OpenTelemetry collector receives them, over real OTLP.

pub(crate) mod collector;

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use crate::{
    support::{
        Bridge, RichStatus, SERVICE_KEY, ask, ask_stream,
        callers::{CallersFile, entry},
        config,
        deployed::Deployed,
        extra::with_metadata,
        frames::{HEADERS, Raw, call},
        reply_json, running, sse_answer,
        upstream::{Reply, Upstream, refused_url},
    },
    tls::authority::{Authority, Files},
};
use alim_bridge::{pb::StreamRequest, telemetry::traces::Traces};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};
use tonic::Code;

use self::collector::{Collector, attribute, events, named};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A bridge that sends its spans to a collector.
async fn traced(upstream: &Upstream, collector: &str) -> (Bridge, Traces) {
    traced_with_queue(2048, upstream, collector).await
}

async fn traced_with_queue(
    max_queued: usize,
    upstream: &Upstream,
    collector: &str,
) -> (Bridge, Traces) {
    let mut config = config(&[
        ("UPSTREAM_URL", &upstream.url()),
        ("UPSTREAM_API_KEY", SERVICE_KEY),
    ]);
    let collector = collector.parse().expect("a URL");
    let traces = Traces::to(&collector, max_queued, &config.upstream.url).expect("an exporter");
    config.server.traces = Some(traces.clone());
    (Bridge::from_config(config).await, traces)
}

/// Exports all queued spans.
async fn flushed(traces: Traces) {
    let stopped = tokio::task::spawn_blocking(move || traces.stop()).await;
    stopped.expect("no panic");
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The server span and the client span of the only call.
fn both(spans: &[Span]) -> (&Span, &Span) {
    assert_eq!(spans.len(), 2, "{spans:#?}");
    let of = |kind| spans.iter().find(|span| span.kind() == kind).expect("one");
    (of(SpanKind::Server), of(SpanKind::Client))
}

#[tokio::test]
async fn an_invoke_has_a_server_span_in_the_callers_trace_and_a_client_span_for_the_upstream() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let collector = Collector::start().await;
    let (bridge, traces) = traced(&upstream, &collector.url).await;
    let parent = format!("00-{TRACE}-{PARENT}-01");
    let metadata: [(&str, &[u8]); 3] = [
        ("traceparent", parent.as_bytes()),
        ("tracestate", b"a=b"),
        ("x-request-id", b"r-1"),
    ];
    let request = with_metadata(ask("Salam"), &metadata);
    bridge
        .client
        .clone()
        .invoke(request)
        .await
        .expect("a reply");
    flushed(traces).await;

    let spans = collector.spans();
    let (server, client) = both(&spans);
    assert_eq!(
        (hex(&server.trace_id), hex(&server.parent_span_id)),
        (TRACE.into(), PARENT.into())
    );
    assert_eq!(
        (&client.trace_id, &client.parent_span_id),
        (&server.trace_id, &server.span_id)
    );
    assert_eq!(server.name, "alim.v1.GraphService/Invoke");
    for name in ["rpc.status_code", "rpc.response.status_code"] {
        assert_eq!(attribute(server, name), "OK", "{name}");
    }
    assert_eq!(attribute(server, "alim_bridge.request_id"), "r-1");
    assert_eq!(client.name, "POST /graph/invoke");
    assert_eq!(attribute(client, "http.response.status_code"), "200");
    assert_eq!(attribute(client, "server.address"), "127.0.0.1");
    for (name, value) in [
        ("gen_ai.operation.name", "invoke_agent"),
        ("gen_ai.provider.name", "alim"),
        ("gen_ai.request.stream", "false"),
        ("gen_ai.conversation.id", ""),
    ] {
        assert_eq!(attribute(client, name), value, "{name}");
    }
    assert_eq!(collector.service(), "alim-bridge");
    let headers = upstream.requests().remove(0).headers;
    assert_eq!(
        headers["traceparent"],
        format!("00-{TRACE}-{}-01", hex(&client.span_id))
    );
    assert_eq!(headers["tracestate"], "a=b");
}

#[tokio::test]
async fn a_server_span_names_the_peer_of_its_call() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let collector = Collector::start().await;
    let (bridge, traces) = traced(&upstream, &collector.url).await;
    let mut caller = Raw::open(bridge.address, &[]).await;
    caller.send(&call("Invoke", 1, &[])).await.expect("open");
    for part in ["a head", "trailers"] {
        caller.next(HEADERS).await.expect(part);
    }
    flushed(traces).await;

    let spans = collector.spans();
    let (server, _) = both(&spans);
    let address = caller.0.local_addr().expect("bound");
    let named = |part| attribute(server, &format!("network.peer.{part}"));
    assert_eq!(
        (named("address"), named("port")),
        (address.ip().to_string(), address.port().to_string())
    );
}

#[tokio::test]
async fn a_streams_span_records_its_first_token_and_its_end() {
    let upstream = Upstream::answering(Reply::sse(sse_answer(&["a", "b"])));
    let collector = Collector::start().await;
    let (bridge, traces) = traced(&upstream, &collector.url).await;
    let thread = "01a20443-d4c5-7483-899c-61f7c3ac97e9";
    let request = StreamRequest {
        thread_id: Some(thread.into()),
        ..ask_stream("Salam")
    };
    let stream = bridge.client.clone().stream(request).await;
    let mut stream = stream.expect("a head").into_inner();
    while stream.message().await.expect("an event").is_some() {}
    flushed(traces).await;

    let spans = collector.spans();
    let (server, client) = both(&spans);
    assert_eq!(attribute(client, "gen_ai.request.stream"), "true");
    assert_eq!(attribute(client, "gen_ai.conversation.id"), thread);
    let first = attribute(client, "gen_ai.response.time_to_first_chunk");
    assert!(first.parse::<f64>().expect("seconds") > 0.0);
    assert_eq!(events(server), ["first token", "done"]);
    assert_eq!(attribute(server, "alim_bridge.tokens"), "2");
    assert_ne!(hex(&server.trace_id), TRACE, "a trace of its own");
    let headers = upstream.requests().remove(0).headers;
    assert!(!headers.contains_key("tracestate"));
    assert!(client.end_time_unix_nano <= server.end_time_unix_nano);
}

#[tokio::test]
async fn a_failure_of_the_upstream_marks_both_spans_and_one_of_the_caller_neither() {
    let upstream = Upstream::answering(Reply::json(500, r#"{"detail":"secret detail"}"#));
    let collector = Collector::start().await;
    let (bridge, traces) = traced(&upstream, &collector.url).await;
    let failed = bridge.invoke("Salam").await.expect_err("500");
    assert_eq!(
        failed.code_and_reason(),
        (Code::Internal, "UPSTREAM_FAILED".into())
    );
    bridge.invoke("").await.expect_err("no message");
    flushed(traces).await;

    let spans = collector.spans();
    assert!(
        !format!("{spans:?}").contains("secret detail"),
        "no text of the upstream"
    );
    let (invalid, failed): (Vec<_>, Vec<_>) = spans
        .into_iter()
        .partition(|span| attribute(span, "error.type") == "INVALID_REQUEST");
    let (server, client) = both(&failed);
    for span in [server, client] {
        assert_eq!(span.status.as_ref().expect("set").code(), StatusCode::Error);
        assert_eq!(attribute(span, "error.type"), "UPSTREAM_FAILED");
    }
    assert_eq!(attribute(client, "http.response.status_code"), "500");
    let [invalid] = &invalid[..] else {
        panic!("{invalid:?}")
    };
    assert_eq!(
        invalid.status.as_ref().map(|status| status.code()),
        Some(StatusCode::Unset)
    );
}

#[tokio::test]
async fn probes_and_internals_of_libraries_are_not_exported() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let collector = Collector::start().await;
    let (bridge, traces) = traced(&upstream, &collector.url).await;
    bridge.health("").await.expect("known");
    bridge.invoke("Salam").await.expect("a reply");
    flushed(traces).await;
    assert_eq!(
        named(&collector.spans()),
        ["POST /graph/invoke", "alim.v1.GraphService/Invoke"]
    );
}

#[tokio::test]
async fn a_dead_collector_costs_spans_and_no_call() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let gone = refused_url();
    let (bridge, traces) = traced(&upstream, gone.trim_end_matches("/api/v1")).await;
    for _ in 0..100 {
        bridge.invoke("Salam").await.expect("a reply");
    }
    flushed(traces).await;
    assert_eq!(dropped_spans(&bridge).await, 200);
}

async fn dropped_spans(bridge: &Bridge) -> u64 {
    let (_, metrics) = bridge.admin("/metrics").await;
    let mut lines = metrics.lines();
    let count = lines.find_map(|line| line.strip_prefix("alim_bridge_spans_dropped_total "));
    count.expect("a counter").parse().expect("a count")
}

#[tokio::test]
async fn spans_that_exceed_the_queue_of_a_silent_collector_are_counted() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", silent.local_addr().expect("bound"));
    let (bridge, _traces) = traced_with_queue(16, &upstream, &url).await;
    for _ in 0..40 {
        bridge.invoke("Salam").await.expect("a reply");
    }
    let dropped = dropped_spans(&bridge).await; // of 80; 16 wait, and 16 may be on their way
    assert!((48..=64).contains(&dropped), "{dropped}");
}

/// Runs the built command with these variables for its collector: one call, then the stop.
async fn deployed(variables: &[(&str, &str)]) {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let url = upstream.url();
    let usual = [
        ("ALIM_BRIDGE_UPSTREAM_URL", url.as_str()),
        ("ALIM_BRIDGE_UPSTREAM_API_KEY", SERVICE_KEY),
    ];
    let args = ["serve", "--listen", "127.0.0.1:0", "--admin-listen", "off"];
    let mut bridge = running::start(&args, &[&usual, variables].concat());
    let address = bridge.address();
    let asked = running::start(&["invoke", "--address", &address, "Salam"], &[]).wait();
    assert_eq!(asked.code, Some(0), "{}", asked.stderr);
    assert_eq!(bridge.stop().code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn opentelemetrys_variables_are_used_and_the_last_spans_are_sent_at_the_stop() {
    let collector = Collector::start().await;
    let bare = collector.url.trim_start_matches("http://");
    deployed(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", bare),
        ("OTEL_SERVICE_NAME", "farm-bridge"),
    ])
    .await;
    assert_eq!(collector.spans().len(), 2);
    assert_eq!(collector.service(), "farm-bridge");

    for off in [
        ("OTEL_SDK_DISABLED", "true"),
        ("OTEL_TRACES_EXPORTER", "none"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
    ] {
        deployed(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url), off]).await;
        assert_eq!(collector.spans().len(), 2, "{off:?}");
    }
}

#[test]
fn an_unsupported_protocol_is_reported_once_at_startup_with_the_remedy() {
    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
    const GENERAL: (&str, &str) = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
    const OF_TRACES: (&str, &str) = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json");
    let grpc = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc");
    let ours = ("ALIM_BRIDGE_OTLP_ENDPOINT", "http://127.0.0.1:4317");
    let off = ("OTEL_TRACES_EXPORTER", "none");
    for (variables, unsupported) in [
        (&[ENDPOINT, GENERAL][..], Some(GENERAL.0)),
        (&[ENDPOINT, GENERAL, OF_TRACES], Some(OF_TRACES.0)),
        (&[ENDPOINT, GENERAL, grpc], None),
        (&[ENDPOINT, GENERAL, ours], None),
        (&[ENDPOINT, GENERAL, off], None),
        (&[GENERAL], None),
    ] {
        let key = ("ALIM_BRIDGE_UPSTREAM_API_KEY", SERVICE_KEY);
        let args = ["serve", "--listen", "127.0.0.1:0", "--admin-listen", "off"];
        let mut bridge = running::start(&args, &[variables, &[key]].concat());
        bridge.address();
        let log = bridge.stop().stderr;
        let warnings = log
            .lines()
            .filter(|line| line.contains("no traces are sent"));
        let warnings: Vec<_> = warnings.collect();
        assert_eq!(warnings.len(), usize::from(unsupported.is_some()), "{log}");
        let named = format!("\"variable\":\"{}\"", unsupported.unwrap_or_default());
        assert!(warnings.iter().all(|line| line.contains(&named)), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_with_tls_is_trusted_by_the_systems_roots() {
    let authority = Authority::new();
    let identity = authority.vouch_for("127.0.0.1");
    let files = Files::with(&identity);
    files.put("roots.pem", &authority.pem);
    let collector = Collector::with_tls(&identity).await;
    deployed(&[
        ("ALIM_BRIDGE_OTLP_ENDPOINT", &collector.url),
        ("SSL_CERT_FILE", &files.path("roots.pem")),
    ])
    .await;
    assert_eq!(collector.spans().len(), 2);
}

#[tokio::test]
async fn a_span_names_its_caller_and_an_unidentified_caller_has_no_span() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let collector = Collector::start().await;
    let file = CallersFile::with(&entry("orders", "o"));
    let mut config = config(&[
        ("UPSTREAM_URL", &upstream.url()),
        ("UPSTREAM_API_KEY", SERVICE_KEY),
        ("CALLERS_FILE", &file.path()),
    ]);
    let traces = Traces::to(
        &collector.url.parse().expect("a URL"),
        2048,
        &config.upstream.url,
    );
    let traces = traces.expect("an exporter");
    config.server.traces = Some(traces.clone());
    let bridge = Bridge::from_config(config).await;
    for authorization in [&[][..], &[("authorization", &b"Bearer guess"[..])]] {
        let request = with_metadata(ask("Salam"), authorization);
        let status = bridge.client.clone().invoke(request).await;
        assert_eq!(status.expect_err("unknown").code(), Code::Unauthenticated);
    }
    let known = with_metadata(ask("Salam"), &[("authorization", b"Bearer o")]);
    bridge.client.clone().invoke(known).await.expect("a reply");
    flushed(traces).await;
    let spans = collector.spans();
    let (server, _) = both(&spans);
    assert_eq!(attribute(server, "alim_bridge.caller"), "orders");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_collector_delays_the_exit_no_longer_than_the_drain() {
    let mute = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let mute = format!("http://{}", mute.local_addr().expect("bound"));
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let settings = [("OTLP_ENDPOINT", mute.as_str()), ("DRAIN_TIMEOUT", "0s")];
    let bridge = Deployed::with(&upstream.url(), &settings);
    bridge.client().invoke(ask("Salam")).await.expect("a reply"); // this makes a span
    let start = Instant::now();
    assert_eq!(bridge.running.stop().code, Some(0));
    let took = start.elapsed(); // the SDK alone would wait five seconds
    assert!(took < Duration::from_secs(3), "{took:?}");
}
