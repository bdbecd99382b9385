//! Traces: each call to ALİM has a server span, and a client span for its request to the upstream.
//!
//! The spans come from OpenTelemetry's own API and not from tracing. So no internals of libraries can be exported, and a
//! bridge without traces pays nothing. W3C Trace Context is read from metadata and sent to the upstream. Names follow
//! OpenTelemetry's semantic conventions for RPC and HTTP. The SDK reads sampling, resource and headers from the standard
//! `OTEL_` variables. The queue is bounded, so a slow or dead collector costs spans, never a call.

use std::sync::OnceLock;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, Injector, TextMapPropagator},
    trace::{SpanKind, Status, TraceContextExt, TraceId, Tracer, TracerProvider},
};
use opentelemetry_otlp::{
    ExporterBuildError, SpanExporter, WithExportConfig, WithTonicConfig,
    tonic_types::transport::ClientTlsConfig,
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{SdkTracer, SdkTracerProvider},
};
use prometheus::IntCounter;
use url::Url;

use super::{
    Method, codes,
    resource::{SERVICE, resource},
    spans::SpanQueue,
};

/// Who answers, in OpenTelemetry's conventions for generative AI.
pub(super) const GEN_AI: [(&str, &str); 2] = [
    ("gen_ai.operation.name", "invoke_agent"),
    ("gen_ai.provider.name", "alim"),
];

/// Exports spans. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    upstream: [KeyValue; 2],
    dropped: IntCounter,
}

impl Traces {
    /// Sends spans to `collector` as OTLP over gRPC; at most `max_queued` wait. Client spans name `upstream`. It does not connect
    /// yet, so the collector can be down. Call it within a tokio runtime.
    ///
    /// # Errors
    ///
    /// - [`ExporterBuildError`] if the URL or an `OTEL_` variable can't be used.
    pub fn to(
        collector: &Url,
        max_queued: usize,
        upstream: &Url,
    ) -> Result<Self, ExporterBuildError> {
        let mut exporter = SpanExporter::builder().with_tonic();
        if collector.scheme() == "https" {
            // The exporter's default TLS has no roots at all.
            exporter = exporter.with_tls_config(ClientTlsConfig::new().with_enabled_roots());
        }
        let exporter = exporter.with_endpoint(collector.as_str()).build()?;
        let dropped = dropped_spans();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(SpanQueue::new(exporter, max_queued, dropped.clone()))
            .with_resource(resource())
            .build();
        let host = upstream.host_str().unwrap_or_default().to_owned();
        let port = upstream.port_or_known_default().unwrap_or_default();
        Ok(Self {
            tracer: provider.tracer(SERVICE),
            provider,
            dropped,
            upstream: [
                KeyValue::new("server.address", host),
                KeyValue::new("server.port", i64::from(port)),
            ],
        })
    }

    /// The number of spans that did not reach the collector.
    pub(super) fn dropped(&self) -> &IntCounter {
        &self.dropped
    }

    /// Sends what is queued and stops; blocks for at most five seconds.
    pub fn stop(&self) {
        if let Err(error) = self.provider.shutdown() {
            tracing::warn!(%error, "the last spans may be lost");
        }
    }
}

/// Counts spans that did not reach the collector.
pub(super) fn dropped_spans() -> IntCounter {
    let counter = IntCounter::new(
        "alim_bridge_spans_dropped_total",
        "Spans lost because too many waited, or because the collector did not take them.",
    );
    counter.expect("a valid name")
}

/// The trace that a call belongs to.
#[derive(Debug)]
pub struct Trace {
    /// The caller's trace id, used until spans begin.
    id: Option<String>,
    pending: Option<Pending>,
    spans: OnceLock<Spans>,
}

/// What the spans begin with.
#[derive(Debug)]
struct Pending {
    traces: Traces,
    method: Method,
    parent: Context,
}

#[derive(Debug)]
struct Spans {
    id: Option<String>,
    traces: Traces,
    method: Method,
    server: Context,
    client: OnceLock<Context>,
}

impl Trace {
    /// The caller's trace, or a new one if spans are exported. Calls that do not go to ALİM have no spans. No span begins before
    /// the [call's caller is identified](super::Record::identified).
    pub fn begin(traces: Option<&Traces>, method: Method, metadata: &HeaderMap) -> Self {
        let parent = metadata.get("traceparent");
        let pending = traces.filter(|_| method.is_ours()).map(|traces| Pending {
            traces: traces.clone(),
            method,
            parent: TraceContextPropagator::new().extract(&Metadata(metadata)),
        });
        Self {
            id: parent.and_then(|value| trace_id(value.to_str().ok()?)),
            pending,
            spans: OnceLock::new(),
        }
    }

    /// Begins the server span, if spans are exported.
    pub(super) fn start(&self) {
        if let Some(pending) = &self.pending {
            self.spans.get_or_init(|| pending.start());
        }
    }

    /// The trace id for logs.
    pub(super) fn id(&self) -> Option<&str> {
        let spans = self.spans.get().map(|spans| &spans.id);
        spans.unwrap_or(&self.id).as_deref()
    }

    /// The context of the server span. Without one, the caller's own context in `headers`.
    pub(super) fn context(&self, headers: &HeaderMap) -> HeaderMap {
        let mut context = HeaderMap::new();
        match self.spans.get() {
            Some(spans) => {
                TraceContextPropagator::new()
                    .inject_context(&spans.server, &mut Headers(&mut context));
            }
            None => {
                for name in ["traceparent", "tracestate"] {
                    let name = HeaderName::from_static(name);
                    for value in headers.get_all(&name) {
                        context.append(name.clone(), value.clone());
                    }
                }
            }
        }
        context
    }

    /// Begins the client span, and adds its context to the `headers` of the request to the upstream.
    pub(super) fn begin_upstream(&self, headers: &mut HeaderMap) {
        let Some(spans) = self.spans.get() else {
            return;
        };
        let client = spans.client.get_or_init(|| spans.client_span());
        headers.remove("tracestate");
        TraceContextPropagator::new().inject_context(client, &mut Headers(headers));
    }

    /// Records the status of the upstream's head.
    pub(super) fn upstream_status(&self, status: u16) {
        if let Some(client) = self.client() {
            let status = KeyValue::new("http.response.status_code", i64::from(status));
            client.span().set_attribute(status);
        }
    }

    /// Ends the client span. `reason` says why the upstream failed, if it did.
    pub(super) fn upstream_over<I: IntoIterator<Item = KeyValue>>(
        &self,
        reason: Option<&'static str>,
        attributes: impl FnOnce() -> I,
    ) {
        let Some(client) = self.client() else { return };
        client.span().set_attributes(attributes());
        if let Some(reason) = reason {
            fail(client, reason);
        }
        client.span().end();
    }

    /// Adds an event to the server span.
    pub(super) fn event(&self, name: &'static str) {
        if let Some(spans) = self.spans.get() {
            spans.server.span().add_event(name, Vec::new());
        }
    }

    /// Ends the server span of the call with the gRPC status `code`.
    pub(super) fn end<I: IntoIterator<Item = KeyValue>>(
        &self,
        code: i32,
        reason: Option<&'static str>,
        attributes: impl FnOnce() -> I,
    ) {
        let Some(spans) = self.spans.get() else {
            return;
        };
        let span = spans.server.span();
        let name = codes::protocol_name(code);
        // The second is its name up to version 1.44 of the conventions.
        span.set_attribute(KeyValue::new("rpc.status_code", name));
        span.set_attribute(KeyValue::new("rpc.response.status_code", name));
        span.set_attributes(attributes());
        match reason {
            Some(reason) if codes::is_server_error(code) => fail(&spans.server, reason),
            Some(reason) => span.set_attribute(error_type(reason)),
            None => {}
        }
        span.end();
    }

    fn client(&self) -> Option<&Context> {
        self.spans.get()?.client.get()
    }
}

impl Pending {
    fn start(&self) -> Spans {
        let [_, service, name] = self.method.labels();
        let name = format!("{service}/{name}");
        let tracer = &self.traces.tracer;
        let span = tracer
            .span_builder(name.clone())
            .with_kind(SpanKind::Server)
            .with_attributes([
                KeyValue::new("rpc.system.name", "grpc"),
                KeyValue::new("rpc.method", name),
            ]);
        let span = tracer.build_with_context(span, &self.parent);
        let server = self.parent.with_span(span);
        let id = server.span().span_context().trace_id();
        Spans {
            id: (id != TraceId::INVALID).then(|| id.to_string()),
            traces: self.traces.clone(),
            method: self.method,
            server,
            client: OnceLock::new(),
        }
    }
}

impl Spans {
    fn client_span(&self) -> Context {
        let (verb, route) = self.method.route();
        let span = self
            .traces
            .tracer
            .span_builder(format!("{verb} {route}"))
            .with_kind(SpanKind::Client)
            .with_attributes([
                KeyValue::new("http.request.method", verb),
                KeyValue::new("url.template", route),
            ]);
        let span = self.traces.tracer.build_with_context(span, &self.server);
        let client = self.server.with_span(span);
        client.span().set_attributes(self.traces.upstream.clone());
        if self.method.is_generation() {
            let span = client.span();
            span.set_attributes(GEN_AI.map(|(name, value)| KeyValue::new(name, value)));
            let is_stream = self.method == Method::Stream;
            span.set_attribute(KeyValue::new("gen_ai.request.stream", is_stream));
        }
        client
    }
}

fn fail(span: &Context, reason: &'static str) {
    let span = span.span();
    span.set_attribute(error_type(reason));
    span.set_status(Status::error(reason));
}

fn error_type(reason: &'static str) -> KeyValue {
    KeyValue::new("error.type", reason)
}

/// The trace id of a W3C `traceparent` (Trace Context, 3.2.2): 32 hex digits, not all zero.
fn trace_id(traceparent: &str) -> Option<String> {
    let id = traceparent.split('-').nth(1)?;
    let is_hex = id
        .bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_valid = id.len() == 32 && is_hex && id.bytes().any(|byte| byte != b'0');
    is_valid.then(|| id.to_owned())
}

struct Metadata<'a>(&'a HeaderMap);

impl Extractor for Metadata<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct Headers<'a>(&'a mut HeaderMap);

impl Injector for Headers<'_> {
    fn set(&mut self, key: &str, value: String) {
        if value.is_empty() {
            return; // an empty tracestate
        }
        let name = HeaderName::try_from(key);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_id_is_read_only_from_a_valid_traceparent() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        let parent = format!("00-{id}-00f067aa0ba902b7-01");
        assert_eq!(trace_id(&parent).as_deref(), Some(id));
        assert_eq!(
            trace_id("00-00000000000000000000000000000000-00f067aa0ba902b7-01"),
            None
        );
        assert_eq!(trace_id("rubbish"), None);
    }
}
