//! The server: a function of its settings, a bound listener and a stop signal.
//!
//! [`run`] puts the parts together, waits for the drain, and says whether every call could end by
//! itself. Shutdown, in order: health says NOT_SERVING, the drain delay passes, admission closes and
//! connections get GOAWAY, open calls go on until the drain's time is up, then each ends with a status
//! of its own; callers who do not read can only be closed.

mod admin;
mod connection;
pub mod descriptors;
mod health;
mod listener;
mod opening;
mod places;
pub mod tls;

use std::{sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::{codec::CompressionEncoding, transport::Server};
use tonic_health::server::HealthReporter;

use self::{places::Places, tls::Tls};
use crate::{
    admission::Admission,
    callers::CallerKeys,
    grpc::{
        Bridge,
        clocks::Clocks,
        edge::{self, Edge},
        failure::Credentials,
        origins::Origins,
        web::Web,
    },
    pb::{
        self, graph_service_server::GraphServiceServer, thread_service_server::ThreadServiceServer,
    },
    reload::Reload,
    shutdown::Shutdown,
    telemetry::{metrics::Metrics, state::Files, traces::Traces},
    upstream::{self, Upstream},
};

/// How long the last statuses may take to leave after the cut.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);
/// HTTP/2 streams that one connection may have beyond `MAX_CALLS`: callers keep back what exceeds the
/// transport's limit, in silence, so admission must be the one that refuses, and health must get through.
const SPARE_STREAMS: usize = 1024;
/// Calls that a connection may take back before the bridge has seen them: a caller who gives up on many at
/// once must not lose the others, as it would over h2's own 20. More are an attack (CVE-2023-44487).
const MAX_UNSEEN_CANCELS: usize = 1024;
/// Bytes of a call's head that come in: more than pass, so that most that do not get a status.
const MAX_HEAD_BYTES: u32 = 4 * edge::MAX_METADATA_BYTES as u32;

/// How to serve.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whose pages may call, by gRPC-Web and over HTTP/1.1 too; `None` where no page may.
    pub web: Option<Origins>,
    /// TLS towards callers; `None` is plain HTTP.
    pub tls: Option<Reload<Tls>>,
    /// Where spans go; `None` is nowhere.
    pub traces: Option<Traces>,
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
    /// Every call ended by itself, and its answer was delivered.
    Clean,
    /// Calls were still open, or answers unread, when the time was up.
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
    let mut running = start(
        &settings,
        upstream,
        listener,
        admin,
        &shutdown.drain,
        &mut beside,
    )
    .await?;
    tokio::select! {
        ended = &mut running.serving => match ended {
            Ok(served) => served?,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        },
        () = shutdown.drain.cancelled() => {}
    }

    tracing::info!(open_calls = running.admission.open_calls(), "draining");
    running.probe.abort();
    let _ = (&mut running.probe).await; // what it still says must not come after NOT_SERVING
    health::stop_serving(&running.reporter).await;
    tokio::select! {
        () = sleep(settings.drain_delay) => {}
        () = shutdown.cut.cancelled() => {}
    }
    running.accept.abort();
    running.admission.close();
    running.goaway.cancel();
    Ok(drain(running, settings.drain_timeout, &shutdown.cut).await)
}

type Serving = AbortOnDropHandle<Result<(), tonic::transport::Error>>;

/// What has to be stopped, each in its turn.
struct Running {
    serving: Serving,
    accept: AbortHandle,
    probe: AbortOnDropHandle<()>,
    reporter: HealthReporter,
    admission: Admission,
    goaway: CancellationToken,
    /// Ends the open calls; apart from the stop signal's, so that what is open can be seen before.
    cut: CancellationToken,
}

async fn start(
    settings: &Settings,
    upstream: upstream::Settings,
    listener: TcpListener,
    admin: Option<TcpListener>,
    drain: &CancellationToken,
    beside: &mut JoinSet<()>,
) -> Result<Running, Error> {
    let metrics = Arc::new(Metrics::new()?);
    watch_files(settings, &upstream, &metrics, beside);
    let upstream = Upstream::new(upstream)?;
    let admission = Admission::new(settings.max_calls);
    let places = Places::new(settings.max_connections);
    if let Some(listener) = admin {
        let admin = admin::Admin {
            metrics: Arc::clone(&metrics),
            health: upstream.health().clone(),
            admission: admission.clone(),
            places: places.clone(),
            drain: drain.clone(),
        };
        beside.spawn(admin::serve(listener, admin));
    }
    let (reporter, health) = tonic_health::server::health_reporter();
    health::begin(&reporter).await;
    let interval = settings.health_interval;
    let probe = health::probe(
        upstream.clone(),
        reporter.clone(),
        Arc::clone(&metrics),
        interval,
    );
    let probe = AbortOnDropHandle::new(tokio::spawn(probe));

    let (goaway, cut) = (CancellationToken::new(), CancellationToken::new());
    let bridge = Bridge {
        upstream,
        admission: admission.clone(),
        idle: settings.clocks.idle,
        credentials: settings.credentials,
        max_reply_bytes: settings.max_reply_bytes,
        cut: cut.clone(),
    };
    let edge = Edge {
        metrics: Arc::clone(&metrics),
        traces: settings.traces.clone(),
        callers: settings.callers.clone(),
        origins: settings.web.clone(),
        clocks: settings.clocks,
        goaway: goaway.clone(),
    };
    let web = Web {
        origins: settings.web.clone(),
    };
    let router = transport(settings)
        .layer(web)
        .layer(edge)
        .add_service(graph(bridge.clone(), settings.max_request_bytes))
        .add_service(threads(bridge, settings.max_request_bytes))
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    let (ready, connections) = mpsc::channel(64);
    let (tls, http1) = (settings.tls.clone(), settings.web.is_some());
    let accept = listener::accept(listener, places, metrics, tls, http1, ready);
    let accept = beside.spawn(accept);
    let connections = ReceiverStream::new(connections);
    let serving =
        router.serve_with_incoming_shutdown(connections, goaway.clone().cancelled_owned());
    let serving = AbortOnDropHandle::new(tokio::spawn(serving));
    Ok(Running {
        serving,
        accept,
        probe,
        reporter,
        admission,
        goaway,
        cut,
    })
}

/// Waits until every connection has closed, which is when every answer has been delivered; then ends
/// the calls that are left.
async fn drain(running: Running, patience: Duration, impatience: &CancellationToken) -> Drained {
    let mut serving = running.serving;
    tokio::select! {
        biased;
        _ = &mut serving => return Drained::Clean,
        () = sleep(patience) => {}
        () = impatience.cancelled() => {}
    }
    let open_calls = running.admission.open_calls();
    tracing::warn!(
        open_calls,
        "calls or connections that are still open are ended"
    );
    running.cut.cancel();
    let closed = timeout(FLUSH_TIMEOUT, serving).await;
    match open_calls == 0 && closed.is_ok() {
        true => Drained::Clean,
        false => Drained::Cut,
    }
}

fn graph(bridge: Bridge, max_request_bytes: usize) -> GraphServiceServer<Bridge> {
    GraphServiceServer::new(bridge)
        .accept_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(max_request_bytes)
        .max_encoding_message_size(usize::MAX)
}

fn threads(bridge: Bridge, max_request_bytes: usize) -> ThreadServiceServer<Bridge> {
    ThreadServiceServer::new(bridge)
        .accept_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(max_request_bytes)
        .max_encoding_message_size(usize::MAX)
}

fn transport(settings: &Settings) -> Server {
    let streams = settings.max_calls.saturating_add(SPARE_STREAMS);
    let mut server = Server::builder()
        .accept_http1(settings.web.is_some())
        .http2_max_header_list_size(MAX_HEAD_BYTES)
        .http2_max_pending_accept_reset_streams(Some(MAX_UNSEEN_CANCELS))
        .http2_keepalive_interval(Some(settings.keepalive_interval))
        .http2_keepalive_timeout(Some(settings.keepalive_timeout))
        .max_concurrent_streams(u32::try_from(streams).unwrap_or(u32::MAX));
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

fn watch_files(
    settings: &Settings,
    upstream: &upstream::Settings,
    metrics: &Arc<Metrics>,
    beside: &mut JoinSet<()>,
) {
    let watched = |files: Files| {
        metrics.state.watched(files);
        let metrics = Arc::clone(metrics);
        move |outcome| metrics.state.reloaded(files, outcome)
    };
    if let Some(tls) = settings.tls.clone() {
        let (count, shown, metrics) = (watched(Files::Tls), tls.clone(), Arc::clone(metrics));
        let note_end = move || metrics.state.certificate_ends(shown.load().ends);
        note_end();
        beside.spawn(tls.watch(move |outcome| {
            count(outcome);
            note_end();
        }));
    }
    if let Some(callers) = settings.callers.clone() {
        beside.spawn(callers.watch(watched(Files::CallerKeys)));
    }
    if let Some(key) = upstream.key.clone().filter(Reload::is_of_files) {
        beside.spawn(key.watch(watched(Files::UpstreamKey)));
    }
}
