//! Traces: of each call to ALİM a server span, and a client span for what it asked of the upstream.
//!
//! Spans are made with OpenTelemetry's own API and not out of tracing's, so nothing of the libraries'
//! insides can be exported, and a bridge without traces pays nothing. W3C Trace Context comes in from
//! metadata and goes out to the upstream. Names are those of OpenTelemetry's semantic conventions for
//! RPC and HTTP; sampling, resource, queue and headers are the standard `OTEL_` variables', read by
//! the SDK. A collector that is slow or gone costs spans, never a call: the queue is bounded.

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
    Resource,
    propagation::TraceContextPropagator,
    trace::{SdkTracer, SdkTracerProvider},
};
use url::Url;

use super::{Method, codes};

const SERVICE: &str = "alim-bridge";

/// Where spans go; clones share the queue.
#[derive(Clone, Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    upstream: [KeyValue; 2],
}

impl Traces {
    /// Sends spans to `collector`, as OTLP over gRPC; `upstream` is what client spans name. Nothing is
    /// connected yet, so the collector may be down. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// - [`ExporterBuildError`] when the URL or an `OTEL_` variable can't be used.
    pub fn to(collector: &Url, upstream: &Url) -> Result<Self, ExporterBuildError> {
        let mut exporter = SpanExporter::builder().with_tonic();
        if collector.scheme() == "https" {
            // Its own choice has no roots at all.
            exporter = exporter.with_tls_config(ClientTlsConfig::new().with_enabled_roots());
        }
        let exporter = exporter.with_endpoint(collector.as_str()).build()?;
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource())
            .build();
        let host = upstream.host_str().unwrap_or_default().to_owned();
        let port = upstream.port_or_known_default().unwrap_or_default();
        Ok(Self {
            tracer: provider.tracer(SERVICE),
            provider,
            upstream: [
                KeyValue::new("server.address", host),
                KeyValue::new("server.port", i64::from(port)),
            ],
        })
    }

    /// Sends what is queued and stops; blocks for at most five seconds.
    pub fn stop(&self) {
        if let Err(error) = self.provider.shutdown() {
            tracing::warn!(%error, "the last spans may be lost");
        }
    }
}

/// The SDK's, with our name where the environment gives none.
fn resource() -> Resource {
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let builder = || Resource::builder().with_attribute(version.clone());
    let found = builder().build();
    let name = found.get(&"service.name".into());
    let is_unnamed = name.is_none_or(|name| name.as_str().starts_with("unknown_service"));
    match is_unnamed {
        true => builder().with_service_name(SERVICE).build(),
        false => found,
    }
}

/// The trace that a call belongs to.
#[derive(Debug)]
pub struct Trace {
    /// The caller's, until spans begin.
    id: Option<String>,
    planned: Option<Planned>,
    spans: OnceLock<Spans>,
}

/// What spans begin with.
#[derive(Debug)]
struct Planned {
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
    /// The caller's trace, or a new one where there is somewhere to send its spans; calls that do not
    /// ask ALİM have no spans. None begins before the
    /// [call's caller is known](super::Record::identified).
    pub fn begin(traces: Option<&Traces>, method: Method, metadata: &HeaderMap) -> Self {
        let parent = metadata.get("traceparent");
        let planned = traces.filter(|_| method.is_ours()).map(|traces| Planned {
            traces: traces.clone(),
            method,
            parent: TraceContextPropagator::new().extract(&Metadata(metadata)),
        });
        Self {
            id: parent.and_then(|value| trace_id(value.to_str().ok()?)),
            planned,
            spans: OnceLock::new(),
        }
    }

    /// Begins the server span, where there is somewhere to send it.
    pub(super) fn start(&self) {
        if let Some(planned) = &self.planned {
            self.spans.get_or_init(|| planned.start());
        }
    }

    /// Its id, as logs show it.
    pub(super) fn id(&self) -> Option<&str> {
        let spans = self.spans.get().map(|spans| &spans.id);
        spans.unwrap_or(&self.id).as_deref()
    }

    /// The upstream is asked: begins the client span, and names it in the request's `headers`.
    pub(super) fn ask(&self, headers: &mut HeaderMap) {
        let Some(spans) = self.spans.get() else {
            return;
        };
        let client = spans.client.get_or_init(|| spans.begin_client());
        headers.remove("tracestate");
        TraceContextPropagator::new().inject_context(client, &mut Headers(headers));
    }

    /// The upstream's head bears this status.
    pub(super) fn answered(&self, status: u16) {
        if let Some(client) = self.client() {
            let status = KeyValue::new("http.response.status_code", i64::from(status));
            client.span().set_attribute(status);
        }
    }

    /// The upstream owes nothing more; `reason` says why it failed, if it did.
    pub(super) fn upstream_over(&self, reason: Option<&'static str>) {
        let Some(client) = self.client() else { return };
        if let Some(reason) = reason {
            fail(client, reason);
        }
        client.span().end();
    }

    /// Something happened in the life of the call.
    pub(super) fn event(&self, name: &'static str) {
        if let Some(spans) = self.spans.get() {
            spans.server.span().add_event(name, Vec::new());
        }
    }

    /// The call is over, with the gRPC status `code`.
    pub(super) fn end(
        &self,
        code: i32,
        reason: Option<&'static str>,
        attributes: impl IntoIterator<Item = KeyValue>,
    ) {
        let Some(spans) = self.spans.get() else {
            return;
        };
        self.upstream_over(reason);
        let span = spans.server.span();
        let name = codes::in_protocol(code);
        span.set_attribute(KeyValue::new("rpc.response.status_code", name));
        span.set_attributes(attributes);
        match reason {
            Some(reason) if codes::is_servers_fault(code) => fail(&spans.server, reason),
            Some(reason) => span.set_attribute(error_type(reason)),
            None => {}
        }
        span.end();
    }

    fn client(&self) -> Option<&Context> {
        self.spans.get()?.client.get()
    }
}

impl Planned {
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
    fn begin_client(&self) -> Context {
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
    let fits = id.len() == 32 && is_hex && id.bytes().any(|byte| byte != b'0');
    fits.then(|| id.to_owned())
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
            return; // no tracestate
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
    fn a_trace_id_is_taken_only_from_a_well_formed_traceparent() {
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
