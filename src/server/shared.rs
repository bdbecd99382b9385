//! What the parts of a server share, and the parts that are made from it: the layers with the accept loop, the overload watch, the
//! admin port's state and the exporter of metrics.

use std::sync::Arc;

use http::Request;
use hyper::{body::Incoming, service::service_fn};
use tokio::{net::TcpListener, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::Service as _;

use super::{
    Settings,
    accept::{self, Listener},
    admin,
    connection::{self, Protocols},
    connections::Connections,
    descriptors,
    overload::Overload,
    services::CallServices,
};
use crate::{
    admission::Admission,
    inbound::Connection,
    memory::Budget,
    middleware::{
        self, CallLayer, CallService, identity::Identity, open_calls::OpenCalls,
        request_body::MessageLimits, web::WebService,
    },
    telemetry::{
        metrics::Metrics,
        otlp::{self, Exporter},
        state::ListenerName,
    },
    upstream::Upstream,
};

/// HTTP/2 streams of one connection beyond `MAX_CALLS`. If a connection reaches the transport's limit, its caller
/// queues silently. So admission must reject first, and health checks must still get a stream.
const SPARE_STREAMS: usize = 1024;
/// Bytes of a request's head that are read. The bridge accepts fewer, so most heads that are too large still get a status.
const MAX_HEAD_BYTES: u32 = 4 * middleware::MAX_METADATA_BYTES as u32;

/// What the parts of a server share.
pub(super) struct Shared {
    pub(super) metrics: Arc<Metrics>,
    budget: Budget,
    pub(super) connections: Connections,
    pub(super) open_calls: OpenCalls,
    pub(super) admission: Admission,
    pub(super) goaway: CancellationToken,
}

impl Shared {
    pub(super) fn new(settings: &Settings) -> Result<Self, prometheus::Error> {
        let metrics = Arc::new(Metrics::new()?);
        metrics.count_spans(settings.traces.as_ref())?;
        let budget = settings.budget();
        Ok(Self {
            metrics,
            connections: Connections::new(settings.max_connections, budget.clone()),
            budget,
            open_calls: OpenCalls::default(),
            admission: Admission::new(settings.max_calls),
            goaway: CancellationToken::new(),
        })
    }

    pub(super) fn admin(
        &self,
        settings: &Settings,
        upstream: &Upstream,
        upstream_url: String,
        drain: &CancellationToken,
    ) -> admin::Admin {
        admin::Admin {
            metrics: Arc::clone(&self.metrics),
            health: upstream.health().clone(),
            quota: upstream.quota().clone(),
            admission: self.admission.clone(),
            connections: self.connections.clone(),
            budget: self.budget.clone(),
            memory_limit: settings.memory_limit,
            drain: drain.clone(),
            open_calls: self.open_calls.clone(),
            callers: settings.callers.clone(),
            upstream_url,
            settings: settings.effective.clone().into(),
            started: Instant::now(),
        }
    }

    pub(super) fn overload(&self, settings: &Settings) -> Overload {
        Overload {
            memory_limit: settings.memory_limit,
            budget: self.budget.clone(),
            open_calls: self.open_calls.clone(),
            metrics: Arc::clone(&self.metrics),
        }
    }

    fn call_layer(&self, settings: &Settings) -> CallLayer {
        CallLayer {
            metrics: Arc::clone(&self.metrics),
            traces: settings.traces.clone(),
            identity: Identity {
                callers: settings.callers.clone(),
                trusted_proxies: settings.trusted_proxies.clone(),
                credentials: settings.credentials,
            },
            origins: settings.web.clone(),
            timeouts: settings.timeouts,
            admission: self.admission.clone(),
            open_calls: self.open_calls.clone(),
            message_limits: MessageLimits::new(
                settings.message_timeout,
                settings.max_request_bytes,
                self.goaway.clone(),
            ),
        }
    }

    /// Accepts connections until the drain. Each gets `services` in the layers of its own.
    pub(super) fn accept_loop<S: CallServices>(
        &self,
        settings: &Settings,
        tcp: TcpListener,
        services: S,
        prepare: fn(Request<Body>) -> Request<Body>,
    ) -> impl Future<Output = ()> + use<S> {
        let layer = Arc::new(self.call_layer(settings));
        let web = settings.web.clone();
        let listener = Listener {
            tcp,
            connections: self.connections.clone(),
            tls: settings.tls.clone(),
            settings: connection_settings(settings),
            max_files: descriptors::limit(),
            accept_errors: self.metrics.state.accept_errors(ListenerName::Grpc),
            metrics: Some(Arc::clone(&self.metrics)),
            new_service: move |connection: &Arc<Connection>| {
                let (layer, connection) = (Arc::clone(&layer), Arc::clone(connection));
                let layer = CallService::new(layer, connection, services.clone());
                let web = WebService::new(web.as_ref(), layer);
                service_fn(move |request: Request<Incoming>| {
                    web.clone().call(prepare(request.map(Body::new)))
                })
            },
        };
        accept::run(listener, self.goaway.clone())
    }
}

/// The exporter of metrics. It reads what the admin port shows.
pub(super) fn exporter(
    settings: otlp::Settings,
    state: admin::Admin,
) -> Result<Exporter, otlp::SetupError> {
    let metrics = Arc::clone(&state.metrics);
    let gather = move || {
        state.update_metrics();
        state.metrics.gather(&state.admission)
    };
    Exporter::new(settings, metrics, Arc::new(gather))
}

fn connection_settings(settings: &Settings) -> connection::Settings {
    let streams = settings.max_calls.saturating_add(SPARE_STREAMS);
    connection::Settings {
        protocols: match settings.web {
            Some(_) => Protocols::Both,
            None => Protocols::Http2,
        },
        max_head_bytes: MAX_HEAD_BYTES,
        max_streams: u32::try_from(streams).unwrap_or(u32::MAX),
        keepalive: Some((settings.keepalive_interval, settings.keepalive_timeout)),
        max_age: settings.max_connection_age,
        max_idle: settings.max_connection_idle,
    }
}
