//! A collector that receives OTLP over gRPC and keeps the spans and the metrics.

use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::{KeyValue, any_value::Value},
    metrics::v1::Metric,
    resource::v1::Resource,
    trace::v1::{ResourceSpans, Span},
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{
    Request, Response, Status,
    codec::CompressionEncoding,
    transport::{Identity, Server, ServerTlsConfig},
};

use crate::tls::authority;

/// A running collector.
pub(crate) struct Collector {
    pub(crate) url: String,
    received: Received,
    _task: AbortOnDropHandle<Result<(), tonic::transport::Error>>,
}

#[derive(Clone, Default)]
struct Received(
    Arc<Mutex<Vec<ResourceSpans>>>,
    Arc<Mutex<Vec<ExportMetricsServiceRequest>>>,
);

#[tonic::async_trait]
impl MetricsService for Received {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.1.lock().expect("no panic").push(request.into_inner());
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let spans = request.into_inner().resource_spans;
        self.0.lock().expect("no panic").extend(spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    pub(crate) async fn start() -> Self {
        Self::with("http", Server::builder()).await
    }

    /// A collector with TLS and this certificate.
    pub(crate) async fn with_tls(identity: &authority::Identity) -> Self {
        let identity = Identity::from_pem(&identity.cert, &identity.key);
        let tls = ServerTlsConfig::new().identity(identity);
        let server = Server::builder().tls_config(tls).expect("a pair");
        Self::with("https", server).await
    }

    async fn with(scheme: &str, mut server: Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("{scheme}://{}", listener.local_addr().expect("bound"));
        let received = Received::default();
        let server = server
            .add_service(TraceServiceServer::new(received.clone()))
            .add_service(
                MetricsServiceServer::new(received.clone())
                    .accept_compressed(CompressionEncoding::Gzip),
            );
        let serving = server.serve_with_incoming(TcpListenerStream::new(listener));
        Self {
            url,
            received,
            _task: AbortOnDropHandle::new(tokio::spawn(serving)),
        }
    }

    /// All spans so far.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let received = self.received.0.lock().expect("no panic");
        let scopes = received.iter().flat_map(|spans| &spans.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }

    /// The metrics of the newest export, and who sent them. Empty before the first.
    pub(crate) fn metrics(&self) -> (Resource, Vec<Metric>) {
        let received = self.received.1.lock().expect("no panic");
        let newest = received.last().and_then(|it| it.resource_metrics.first());
        let Some(newest) = newest else {
            return Default::default();
        };
        let metrics = newest
            .scope_metrics
            .iter()
            .flat_map(|it| it.metrics.clone());
        (newest.resource.clone().expect("set"), metrics.collect())
    }

    /// The name of the service that sent the spans.
    pub(crate) fn service(&self) -> String {
        let received = self.received.0.lock().expect("no panic");
        let resource = received.first().expect("spans").resource.as_ref();
        value(&resource.expect("a resource").attributes, "service.name")
    }
}

/// An attribute's value as text. Empty if there is none.
pub(crate) fn attribute(span: &Span, name: &str) -> String {
    value(&span.attributes, name)
}

/// The names of a span's events.
pub(crate) fn events(span: &Span) -> Vec<&str> {
    span.events
        .iter()
        .map(|event| event.name.as_str())
        .collect()
}

/// The spans' names, sorted.
pub(crate) fn named(spans: &[Span]) -> Vec<&str> {
    let mut names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
    names.sort_unstable();
    names
}

pub(crate) fn value(attributes: &[KeyValue], name: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == name);
    match found.and_then(|found| found.value.as_ref()?.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        Some(Value::BoolValue(is_set)) => is_set.to_string(),
        _ => String::new(),
    }
}
