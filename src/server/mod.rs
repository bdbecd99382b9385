//! The server: a function of its settings, a bound listener and a stop signal.
//!
//! [`run`] puts the parts together, waits for the drain, and says whether every call could end by
//! itself. Shutdown, in order: health says NOT_SERVING, the drain delay passes, admission closes and
//! connections get GOAWAY, open calls go on until the drain's time is up, then each ends with a status
//! of its own; callers who do not read can only be closed.

mod accept;
mod admin;
mod connection;
mod connections;
pub mod descriptors;
mod files;
mod health;
mod overload;
mod reflection;
mod services;
pub mod tls;
mod watch;

use std::{pin::pin, sync::Arc, time::Duration};

use http::Request;
use hyper::{body::Incoming, service::service_fn};
use tokio::{
    net::TcpListener,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::body::Body;
use tonic_health::server::HealthReporter;
use tower::Service as _;

use self::{
    accept::Listener, connection::Protocols, connections::Connections, overload::Overload,
    services::Services, tls::Tls,
};
use crate::{
    admission::Admission,
    callers::{Callers, TrustedProxies},
    inbound::Connection,
    memory::Budget,
    middleware::{
        self, CallLayer, CallService, identity::Identity, open_calls::OpenCalls, origins::Origins,
        request_body::MessageLimits, timeouts::Timeouts, web::WebService,
    },
    reload::Reload,
    service::Bridge,
    shutdown::Shutdown,
    status::Credentials,
    telemetry::{metrics::Metrics, traces::Traces},
    upstream::{self, Upstream},
};

/// How long the last statuses may take to leave after the cut.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);
/// HTTP/2 streams that one connection may have beyond `MAX_CALLS`: callers keep back what exceeds the
/// transport's limit, in silence, so admission must be the one that refuses, and health must get through.
const SPARE_STREAMS: usize = 1024;
/// Bytes of a call's head that come in: more than pass, so that most that do not get a status.
const MAX_HEAD_BYTES: u32 = 4 * middleware::MAX_METADATA_BYTES as u32;

/// How to serve.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whose pages may call, by gRPC-Web and over HTTP/1.1 too; `None` where no page may.
    pub web: Option<Origins>,
    /// TLS towards callers; `None` is plain HTTP.
    pub tls: Option<Reload<Tls>>,
    /// Where spans go; `None` is nowhere.
    pub traces: Option<Traces>,
    /// Those who may call; `None` when everyone may.
    pub callers: Option<Reload<Callers>>,
    /// The proxies who may say which of them calls.
    pub trusted_proxies: TrustedProxies,
    /// Whose key the upstream is shown.
    pub credentials: Credentials,
    /// How long calls may take.
    pub timeouts: Timeouts,
    /// Open calls, all connections together.
    pub max_calls: usize,
    /// Bytes of a request message, decompressed; exactly as many pass.
    pub max_request_bytes: usize,
    /// Bytes that the process may use.
    pub memory_limit: usize,
    /// Bytes that one call may hold.
    pub largest_call: usize,
    /// Bytes of an encoded unary answer.
    pub max_reply_bytes: usize,
    /// From a call's head to its whole request message.
    pub message_timeout: Duration,
    /// Open connections.
    pub max_connections: usize,
    /// From a connection's start to its GOAWAY, give or take a tenth; its calls go on.
    pub max_connection_age: Option<Duration>,
    /// From the end of a connection's last request to its GOAWAY.
    pub max_connection_idle: Duration,
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

impl Settings {
    /// What calls may hold together.
    pub fn budget(&self) -> Budget {
        Budget::within(self.memory_limit, self.largest_call)
    }
}

/// How the drain went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every call ended by itself, and its answer was delivered.
    Clean,
    /// Calls were still open, or answers unread, when the time was up.
    Forced,
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
    let mut background = JoinSet::new(); // dropped, and so stopped, on return
    let mut running = start(
        &settings,
        upstream,
        listener,
        admin,
        &shutdown.drain,
        &mut background,
    )
    .await?;
    tokio::select! {
        ended = &mut running.serving => if let Err(panicked) = ended {
            std::panic::resume_unwind(panicked.into_panic());
        },
        () = shutdown.drain.cancelled() => {}
    }

    tracing::info!(open_calls = running.admission.open_calls(), "draining");
    running.probe.abort();
    let _ = (&mut running.probe).await; // what it still says must not come after NOT_SERVING
    health::stop_serving(&running.reporter).await;
    tokio::select! {
        () = sleep(settings.drain_delay) => {}
        () = shutdown.force.cancelled() => {}
    }
    running.admission.close();
    running.goaway.cancel();
    Ok(drain(running, settings.drain_timeout, &shutdown.force).await)
}

/// What has to be stopped, each in its turn.
struct Running {
    /// EndConditions when all connections have closed.
    serving: AbortOnDropHandle<()>,
    probe: AbortOnDropHandle<()>,
    reporter: HealthReporter,
    admission: Admission,
    open_calls: OpenCalls,
    goaway: CancellationToken,
}

async fn start(
    settings: &Settings,
    upstream: upstream::Settings,
    tcp: TcpListener,
    admin: Option<TcpListener>,
    drain: &CancellationToken,
    background: &mut JoinSet<()>,
) -> Result<Running, Error> {
    let metrics = Arc::new(Metrics::new()?);
    let budget = settings.budget();
    let connections = Connections::new(settings.max_connections, budget.clone());
    files::watch(settings, &upstream, &metrics, &connections, background);
    let upstream = Upstream::new(upstream)?;
    let admission = Admission::new(settings.max_calls);
    if let Some(tcp) = admin {
        let admin = admin::Admin {
            metrics: Arc::clone(&metrics),
            health: upstream.health().clone(),
            quota: upstream.quota().clone(),
            admission: admission.clone(),
            connections: connections.clone(),
            budget: budget.clone(),
            memory_limit: settings.memory_limit,
            drain: drain.clone(),
        };
        background.spawn(admin::serve(tcp, admin));
    }
    let reporter = HealthReporter::new();
    let health = watch::service(&reporter);
    health::begin(&reporter).await;
    let interval = settings.health_interval;
    let probe = health::probe(
        upstream.clone(),
        reporter.clone(),
        Arc::clone(&metrics),
        interval,
    );
    let probe = AbortOnDropHandle::new(tokio::spawn(probe));

    let (goaway, open_calls) = (CancellationToken::new(), OpenCalls::default());
    let bridge = Bridge {
        upstream,
        idle: settings.timeouts.idle,
        credentials: settings.credentials,
        max_reply_bytes: settings.max_reply_bytes,
        draining: goaway.clone(),
    };
    let services = Services::new(bridge, settings.max_request_bytes, health);
    background.spawn(open_calls.clone().run_watchdog());
    let overload = Overload {
        memory_limit: settings.memory_limit,
        budget,
        open_calls: open_calls.clone(),
        metrics: Arc::clone(&metrics),
    };
    background.spawn(overload.watch());
    let layer = CallLayer {
        metrics: Arc::clone(&metrics),
        traces: settings.traces.clone(),
        identity: Identity {
            callers: settings.callers.clone(),
            trusted_proxies: settings.trusted_proxies.clone(),
            credentials: settings.credentials,
        },
        origins: settings.web.clone(),
        timeouts: settings.timeouts,
        admission: admission.clone(),
        open_calls: open_calls.clone(),
        message_limits: MessageLimits::new(
            settings.message_timeout,
            settings.max_request_bytes,
            goaway.clone(),
        ),
    };
    let (layer, web) = (Arc::new(layer), settings.web.clone());
    let listener = Listener {
        tcp,
        connections,
        tls: settings.tls.clone(),
        settings: connection_settings(settings),
        max_files: descriptors::limit(),
        metrics: Some(metrics),
        new_service: move |connection: &Arc<Connection>| {
            let layer =
                CallService::new(Arc::clone(&layer), Arc::clone(connection), services.clone());
            let web = WebService::new(web.as_ref(), layer);
            service_fn(move |request: Request<Incoming>| web.clone().call(request.map(Body::new)))
        },
    };
    let serving = tokio::spawn(accept::run(listener, goaway.clone()));
    Ok(Running {
        serving: AbortOnDropHandle::new(serving),
        probe,
        reporter,
        admission,
        open_calls,
        goaway,
    })
}

/// Waits until every connection has closed, which is when every answer has been delivered, and every call has its record;
/// then ends the calls that are left.
async fn drain(running: Running, drain_timeout: Duration, force: &CancellationToken) -> Drained {
    let calls = running.open_calls.clone();
    let mut serving = pin!(async move {
        let _ = running.serving.await;
        calls.ended().await;
    });
    tokio::select! {
        biased;
        () = &mut serving => return Drained::Clean,
        () = sleep(drain_timeout) => {}
        () = force.cancelled() => {}
    }
    let open_calls = running.admission.open_calls();
    tracing::warn!(
        open_calls,
        "calls or connections that are still open are ended"
    );
    running.open_calls.force_end();
    let closed = timeout(FLUSH_TIMEOUT, serving).await;
    match open_calls == 0 && closed.is_ok() {
        true => Drained::Clean,
        false => Drained::Forced,
    }
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
