//! The server: a function of its settings, a bound listener and a stop signal.
//!
//! [`run`] puts the parts together, waits for the drain, and says whether every call could end by
//! itself. Shutdown, in order: health says NOT_SERVING, the drain delay passes, admission closes and
//! connections get GOAWAY, open calls go on until the drain's time is up, then each ends with a status
//! of its own; callers who do not read can only be closed.

mod admin;
pub mod health;
mod listener;
pub mod tls;

use std::{sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::rustls;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::{codec::CompressionEncoding, transport::Server};
use tonic_health::ServingStatus;

use crate::{
    admission::Admission,
    callers::CallerKeys,
    grpc::{Bridge, clocks::Clocks, edge::Edge, failure::Credentials},
    pb::{self, graph_service_server::GraphServiceServer},
    reload::Reload,
    shutdown::Shutdown,
    telemetry::metrics::Metrics,
    upstream::{self, Upstream},
};

/// How long the last statuses may take to leave, and health watchers to go, after the last call.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);
/// How often the drain looks whether calls are open.
const DRAIN_TICK: Duration = Duration::from_millis(20);

/// How to serve.
#[derive(Clone, Debug)]
pub struct Settings {
    /// TLS towards callers; `None` is plain HTTP/2.
    pub tls: Option<Reload<rustls::ServerConfig>>,
    /// The keys of those who may call; `None` when everyone may.
    pub callers: Option<Reload<CallerKeys>>,
    /// Whose key the upstream is shown.
    pub credentials: Credentials,
    /// How long calls may take.
    pub clocks: Clocks,
    /// Open calls, all connections together.
    pub max_calls: usize,
    /// Bytes of a request message, decompressed; exactly as many pass.
    pub max_request_bytes: usize,
    /// Bytes of an encoded unary answer.
    pub max_reply_bytes: usize,
    /// Open connections.
    pub max_connections: usize,
    /// From a connection's start to its GOAWAY; its calls go on.
    pub max_connection_age: Option<Duration>,
    /// Between HTTP/2 PINGs to callers.
    pub keepalive_interval: Duration,
    /// From a PING to the closing of a connection that did not answer it.
    pub keepalive_timeout: Duration,
    /// Between probes of the upstream.
    pub health_interval: Duration,
    /// From the stop signal to the closing of admission.
    pub drain_delay: Duration,
    /// From the closing of admission until open calls are ended.
    pub drain_timeout: Duration,
}

/// How the drain went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every call ended by itself.
    Clean,
    /// Calls were still open when the time was up.
    Cut,
}

/// Why the server can't run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client for the upstream can't be set up.
    #[error(transparent)]
    Upstream(#[from] upstream::BuildError),
    /// A metric can't be registered.
    #[error("metrics can't be set up")]
    Metrics(#[from] prometheus::Error),
    /// The reflection service can't be built from the descriptors.
    #[error("reflection can't be set up")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// gRPC stopped by itself.
    #[error("the gRPC server stopped")]
    Transport(#[from] tonic::transport::Error),
}

/// Serves until `shutdown` has run its course.
///
/// # Errors
///
/// - [`Error`] when a part can't be set up; nothing was served then.
pub async fn run(
    settings: Settings,
    upstream: upstream::Settings,
    listener: TcpListener,
    admin: Option<TcpListener>,
    shutdown: Shutdown,
) -> Result<Drained, Error> {
    let mut beside = JoinSet::new(); // dropped, and so stopped, on return
    watch_files(&settings, &upstream, &mut beside);
    let upstream = Upstream::new(upstream)?;
    let metrics = Arc::new(Metrics::new()?);
    let admission = Admission::new(settings.max_calls);
    if let Some(listener) = admin {
        let (metrics, admission) = (Arc::clone(&metrics), admission.clone());
        let drain = shutdown.drain.clone();
        beside.spawn(admin::serve(
            listener,
            admin::Admin {
                metrics,
                admission,
                drain,
            },
        ));
    }
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_service_status(health::SERVICE, ServingStatus::Unknown)
        .await;
    let interval = settings.health_interval;
    let probe = health::probe(
        upstream.clone(),
        reporter.clone(),
        Arc::clone(&metrics),
        interval,
    );
    let probe = beside.spawn(probe);

    let bridge = Bridge {
        upstream,
        admission: admission.clone(),
        idle: settings.clocks.idle,
        credentials: settings.credentials,
        max_reply_bytes: settings.max_reply_bytes,
        cut: shutdown.cut.clone(),
    };
    let graph = GraphServiceServer::new(bridge)
        .accept_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(settings.max_request_bytes)
        .max_encoding_message_size(usize::MAX);
    let edge = Edge {
        metrics,
        callers: settings.callers.clone(),
        clocks: settings.clocks,
    };
    let router = transport(&settings)
        .layer(edge)
        .add_service(graph)
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);

    let (ready, connections) = mpsc::channel(64);
    let (limit, tls) = (settings.max_connections, settings.tls.clone());
    let accept = beside.spawn(listener::accept(listener, limit, tls, ready));
    let goaway = CancellationToken::new();
    let connections = ReceiverStream::new(connections);
    let serving =
        router.serve_with_incoming_shutdown(connections, goaway.clone().cancelled_owned());
    let mut serving = AbortOnDropHandle::new(tokio::spawn(serving));
    tokio::select! {
        ended = &mut serving => match ended {
            Ok(served) => served?,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        },
        () = shutdown.drain.cancelled() => {}
    }

    tracing::info!(open_calls = admission.open_calls(), "draining");
    probe.abort();
    health::stop_serving(&reporter).await;
    tokio::select! {
        () = sleep(settings.drain_delay) => {}
        () = shutdown.cut.cancelled() => {}
    }
    accept.abort();
    admission.close();
    goaway.cancel();
    let drained = drain(&admission, settings.drain_timeout, &shutdown.cut).await;
    let _ = timeout(FLUSH_TIMEOUT, serving).await;
    Ok(drained)
}

/// Waits for the open calls, then ends them.
async fn drain(admission: &Admission, patience: Duration, cut: &CancellationToken) -> Drained {
    tokio::select! {
        biased;
        () = until_idle(admission) => return Drained::Clean,
        () = sleep(patience) => {}
        () = cut.cancelled() => {}
    }
    tracing::warn!(open_calls = admission.open_calls(), "open calls are ended");
    cut.cancel();
    let _ = timeout(FLUSH_TIMEOUT, until_idle(admission)).await;
    Drained::Cut
}

async fn until_idle(admission: &Admission) {
    while admission.open_calls() > 0 {
        sleep(DRAIN_TICK).await;
    }
}

fn transport(settings: &Settings) -> Server {
    let mut server = Server::builder()
        .http2_keepalive_interval(Some(settings.keepalive_interval))
        .http2_keepalive_timeout(Some(settings.keepalive_timeout))
        // One connection may carry all calls: admission counts them, and refuses with a reason.
        .max_concurrent_streams(u32::try_from(settings.max_calls).unwrap_or(u32::MAX));
    if let Some(age) = settings.max_connection_age {
        server = server.max_connection_age(age);
    }
    server
}

/// Ours, health's, and google.rpc's, without which grpcurl prints rich errors as base64.
fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}

fn watch_files(settings: &Settings, upstream: &upstream::Settings, beside: &mut JoinSet<()>) {
    if let Some(tls) = settings.tls.clone() {
        beside.spawn(tls.watch());
    }
    if let Some(callers) = settings.callers.clone() {
        beside.spawn(callers.watch());
    }
    if let Some(key) = upstream.key.clone() {
        beside.spawn(key.watch());
    }
}
