//! Sends metrics to a collector by OTLP over gRPC, beside the Prometheus endpoint.
//!
//! It reads the same registry that Prometheus scrapes, so calls record nothing twice. One export is under way at a time and nothing is
//! queued: all values are cumulative, so what one export loses, the next one brings. A collector that is gone, slow or full costs the
//! resolution of a graph, never a call.

mod convert;
mod names;

use std::{sync::Arc, time::Duration};

use http::HeaderMap;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
    metrics_service_client::MetricsServiceClient,
};
use prometheus::proto::MetricFamily;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tonic::{
    Code, Request, Status,
    codec::CompressionEncoding,
    metadata::MetadataMap,
    transport::{Channel, ClientTlsConfig, Endpoint},
};
use url::Url;

use self::convert::Conversion;
use super::{metrics::Metrics, throttle::Warning};
use crate::sanitize;

/// To connect, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// PINGs find out that the collector has vanished without a FIN.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of an answer in bytes. A usual one is empty.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Until a collector that takes no metrics is asked again. Some take traces alone.
const UNIMPLEMENTED_PAUSE: Duration = Duration::from_secs(3600);

/// Where metrics are sent, and when.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The collector, `http` or `https`.
    pub collector: Url,
    /// Sent with each export, such as a token. Its values are marked as sensitive.
    pub headers: HeaderMap,
    /// From the start of one export to that of the next.
    pub interval: Duration,
    /// From an export's start to its answer.
    pub timeout: Duration,
    /// Whether exports are compressed with gzip.
    pub is_compressed: bool,
}

/// The exporter can't be set up.
#[derive(Debug, thiserror::Error)]
#[error("the exporter of metrics can't be set up")]
pub struct SetupError(#[from] tonic::transport::Error);

/// Reads all metrics, after what is only known at a scrape was brought up to date.
pub(crate) type Gather = Arc<dyn Fn() -> Vec<MetricFamily> + Send + Sync>;

/// Sends metrics. Clones share the connection.
#[derive(Clone)]
pub(crate) struct Exporter {
    client: MetricsServiceClient<Channel>,
    settings: Settings,
    metrics: Arc<Metrics>,
    gather: Gather,
    conversion: Arc<Conversion>,
}

/// Why an export failed.
enum Failure {
    /// The collector takes no metrics at all, or not as they are sent.
    Unimplemented(String),
    Other(String),
}

impl Exporter {
    /// Does not connect yet, so the collector can be down. Call it within a tokio runtime.
    pub(crate) fn new(
        settings: Settings,
        metrics: Arc<Metrics>,
        gather: Gather,
    ) -> Result<Self, SetupError> {
        let mut endpoint = Endpoint::from_shared(settings.collector.to_string())?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        if settings.collector.scheme() == "https" {
            endpoint = endpoint.tls_config(ClientTlsConfig::new().with_enabled_roots())?;
        }
        let client = MetricsServiceClient::new(endpoint.connect_lazy());
        let client = client.max_decoding_message_size(MAX_ANSWER_BYTES);
        let client = match settings.is_compressed {
            true => client.send_compressed(CompressionEncoding::Gzip),
            false => client,
        };
        Ok(Self {
            client,
            settings,
            conversion: Arc::new(Conversion::new(metrics.created())),
            metrics,
            gather,
        })
    }

    /// Exports at each interval until the future is dropped.
    pub(crate) async fn run(self) {
        let mut warning = Warning::default();
        let first = Instant::now() + self.settings.interval;
        let mut ticks = interval_at(first, self.settings.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_failing = false;
        loop {
            ticks.tick().await;
            let collector = self.settings.collector.as_str();
            match self.export(self.settings.timeout).await {
                Ok(()) if is_failing => {
                    is_failing = false;
                    tracing::info!(collector, "the collector takes metrics again");
                }
                Ok(()) => {}
                Err(Failure::Unimplemented(cause)) => {
                    tracing::warn!(
                        collector,
                        cause,
                        "the collector takes no metrics, and is asked again in an hour: set OTEL_METRICS_EXPORTER=none to send none, or OTEL_EXPORTER_OTLP_METRICS_ENDPOINT to another collector"
                    );
                    ticks.reset_after(UNIMPLEMENTED_PAUSE.max(self.settings.interval));
                }
                Err(Failure::Other(cause)) => {
                    is_failing = true;
                    if let Some(suppressed) = warning.next() {
                        tracing::warn!(
                            collector,
                            cause,
                            suppressed,
                            "metrics were not exported: the next export brings them"
                        );
                    }
                }
            }
        }
    }

    /// Exports the last values, within `limit`.
    pub(crate) async fn flush(&self, limit: Duration) {
        let limit = limit.min(self.settings.timeout);
        if let Err(Failure::Other(cause)) = self.export(limit).await {
            tracing::warn!(cause, "the last metrics may be lost");
        }
    }

    async fn export(&self, limit: Duration) -> Result<(), Failure> {
        let families = (self.gather)();
        let request = self.conversion.request(&families, self.metrics.durations());
        let exported = self.send(request, limit).await;
        if let Err(Failure::Other(_)) = &exported {
            self.metrics.export_failed();
        }
        exported
    }

    async fn send(
        &self,
        request: ExportMetricsServiceRequest,
        limit: Duration,
    ) -> Result<(), Failure> {
        let headers = MetadataMap::from_headers(self.settings.headers.clone());
        let mut request = Request::from_parts(headers, tonic::Extensions::default(), request);
        request.set_timeout(limit);
        let mut client = self.client.clone();
        match timeout(limit, client.export(request)).await {
            Ok(Ok(answer)) => judge(answer.into_inner()),
            Ok(Err(status)) => Err(status.into()),
            Err(_) => Err(Failure::Other("no answer in time".into())),
        }
    }
}

fn judge(answer: ExportMetricsServiceResponse) -> Result<(), Failure> {
    let rejected = answer.partial_success;
    match rejected.filter(|rejected| rejected.rejected_data_points > 0) {
        None => Ok(()),
        Some(rejected) => Err(Failure::Other(format!(
            "{} data points were rejected: {}",
            rejected.rejected_data_points,
            sanitize::text(&rejected.error_message)
        ))),
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let message = sanitize::text(status.message());
        match status.code() {
            Code::Unimplemented => Self::Unimplemented(message),
            code => Self::Other(format!("{code:?}: {message}")),
        }
    }
}
