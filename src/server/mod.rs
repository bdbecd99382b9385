//! The server: a function of its settings, a bound listener and a stop signal.
//!
//! [`run`] starts all parts, waits for the drain, and returns whether every call ended by itself. The
//! shutdown has five steps: health reports NOT_SERVING; the drain delay passes; admission closes and
//! connections get GOAWAY; open calls continue until the drain timeout; each remaining call then ends with
//! its own status. A caller that does not read gets no status: its connection is closed.

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
mod shared;
pub mod tls;
mod watch;

use std::{pin::pin, sync::Arc, time::Duration};

use http::Request;
use secrecy::SecretString;
use tokio::{
    net::TcpListener,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::body::Body;
use tonic_health::server::HealthReporter;

use self::{
    services::{CallServices, Services},
    shared::{Shared, exporter},
    tls::Tls,
};
use crate::{
    admission::Admission,
    callers::{Callers, TrustedProxies},
    memory::Budget,
    middleware::{open_calls::OpenCalls, origins::Origins, timeouts::Timeouts},
    reload::Reload,
    service::Bridge,
    shutdown::Shutdown,
    status::Credentials,
    telemetry::{
        otlp::{self, Exporter},
        runtime,
        traces::Traces,
    },
    upstream::{self, Upstream},
};

/// From the forced end of open calls to the closing of their connections: time to deliver the last statuses.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);
/// Time to send the last metrics if the drain took all of its own time.
const LAST_EXPORT_TIMEOUT: Duration = Duration::from_millis(250);

/// The settings of the server.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Origins of web pages that can call, by gRPC-Web and over HTTP/1.1 too. `None` allows no page.
    pub web: Option<Origins>,
    /// TLS towards callers. `None` serves plain HTTP.
    pub tls: Option<Reload<Tls>>,
    /// Where spans are exported. `None` exports none.
    pub traces: Option<Traces>,
    /// Where metrics are exported by OTLP. `None` exports none.
    pub metrics_export: Option<otlp::Settings>,
    /// The callers that are allowed. `None` allows everyone.
    pub callers: Option<Reload<Callers>>,
    /// Proxies that are trusted to name the caller behind them.
    pub trusted_proxies: TrustedProxies,
    /// Whose API key is sent to the upstream.
    pub credentials: Credentials,
    /// Deadlines and timeouts of calls.
    pub timeouts: Timeouts,
    /// Maximum of open calls, over all connections.
    pub max_calls: usize,
    /// Maximum size of a request message in bytes, decompressed and inclusive.
    pub max_request_bytes: usize,
    /// Maximum memory of the process in bytes.
    pub memory_limit: usize,
    /// Maximum memory of one call in bytes.
    pub largest_call: usize,
    /// Maximum size of an encoded unary reply in bytes.
    pub max_reply_bytes: usize,
    /// From a call's head to the end of its request message.
    pub message_timeout: Duration,
    /// Maximum of open connections.
    pub max_connections: usize,
    /// From a connection's start to its GOAWAY, plus or minus a tenth. Its calls continue.
    pub max_connection_age: Option<Duration>,
    /// From the end of a connection's last request to its GOAWAY.
    pub max_connection_idle: Duration,
    /// Between HTTP/2 PINGs to callers.
    pub keepalive_interval: Duration,
    /// From a PING to the closing of a connection that did not acknowledge it.
    pub keepalive_timeout: Duration,
    /// Who sends this token may see the admin page. `None` allows loopback peers only.
    pub admin_token: Option<Reload<SecretString>>,
    /// The effective settings by name, without secrets, for the admin page.
    pub effective: Vec<(&'static str, String)>,
    /// Between probes of the upstream.
    pub health_interval: Duration,
    /// From the stop signal to the closing of admission.
    pub drain_delay: Duration,
    /// From the closing of admission to the forced end of open calls.
    pub drain_timeout: Duration,
}

impl Settings {
    /// The memory budget that all calls share.
    pub fn budget(&self) -> Budget {
        Budget::within(self.memory_limit, self.largest_call)
    }
}

/// The outcome of the drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every call ended by itself, and its reply was delivered.
    Clean,
    /// At the timeout, calls were still open or replies unread.
    Forced,
}

/// Why the server can't start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The HTTP client for the upstream can't be built.
    #[error(transparent)]
    Upstream(#[from] upstream::BuildError),
    /// The exporter of metrics can't be set up.
    #[error(transparent)]
    Export(#[from] otlp::SetupError),
    /// A metric can't be registered.
    #[error("metrics can't be set up")]
    Metrics(#[from] prometheus::Error),
}

/// Serves until the shutdown is complete.
///
/// # Errors
///
/// - [`Error`] if a part can't be set up. Nothing was served then.
pub async fn run(
    settings: Settings,
    upstream: upstream::Settings,
    listener: TcpListener,
    admin: Option<TcpListener>,
    shutdown: Shutdown,
) -> Result<Drained, Error> {
    let listeners = (listener, admin);
    run_services(settings, upstream, listeners, shutdown, |it| it, |it| it).await
}

/// As [`run`], but with other services on the same accept loop and layers: `tests/conformance/server` serves one that others wrote.
/// `prepare` gets each request before the layers, so it can choose the method whose deadlines and limits hold.
///
/// # Errors
///
/// - As [`run`].
#[doc(hidden)]
pub async fn run_other<S: CallServices>(
    settings: Settings,
    upstream: upstream::Settings,
    listener: TcpListener,
    shutdown: Shutdown,
    services: S,
    prepare: fn(Request<Body>) -> Request<Body>,
) -> Result<Drained, Error> {
    let listeners = (listener, None);
    run_services(
        settings,
        upstream,
        listeners,
        shutdown,
        |_| services,
        prepare,
    )
    .await
}

async fn run_services<S: CallServices>(
    settings: Settings,
    upstream: upstream::Settings,
    listeners: (TcpListener, Option<TcpListener>),
    shutdown: Shutdown,
    replace: impl FnOnce(Services) -> S,
    prepare: fn(Request<Body>) -> Request<Body>,
) -> Result<Drained, Error> {
    let mut background = JoinSet::new(); // aborted on return
    let mut running = start(
        &settings,
        upstream,
        listeners,
        &shutdown.drain,
        &mut background,
        replace,
        prepare,
    )
    .await?;
    tokio::select! {
        ended = &mut running.serving => if let Err(panicked) = ended {
            std::panic::resume_unwind(panicked.into_panic());
        },
        () = shutdown.drain.cancelled() => {}
    }

    let until = Instant::now() + settings.drain_delay + settings.drain_timeout;
    tracing::info!(open_calls = running.admission.open_calls(), "draining");
    running.probe.abort();
    let _ = (&mut running.probe).await; // its last report must not follow NOT_SERVING
    health::stop_serving(&running.reporter).await;
    tokio::select! {
        () = sleep(settings.drain_delay) => {}
        () = shutdown.force.cancelled() => {}
    }
    running.admission.close();
    running.goaway.cancel();
    let export = running.export.take();
    let drained = drain(running, settings.drain_timeout, &shutdown.force).await;
    if let Some((exporter, task)) = export {
        task.abort();
        let left = until.saturating_duration_since(Instant::now());
        tokio::select! {
            () = exporter.flush(left.max(LAST_EXPORT_TIMEOUT)) => {}
            () = shutdown.force.cancelled() => {}
        }
    }
    Ok(drained)
}

/// The running parts that the shutdown stops one by one.
struct Running {
    /// Completes when all connections have closed.
    serving: AbortOnDropHandle<()>,
    probe: AbortOnDropHandle<()>,
    reporter: HealthReporter,
    admission: Admission,
    open_calls: OpenCalls,
    goaway: CancellationToken,
    /// Sends metrics at intervals, where that is set up.
    export: Option<(Exporter, AbortOnDropHandle<()>)>,
}

async fn start<S: CallServices>(
    settings: &Settings,
    upstream: upstream::Settings,
    (tcp, admin): (TcpListener, Option<TcpListener>),
    drain: &CancellationToken,
    background: &mut JoinSet<()>,
    replace: impl FnOnce(Services) -> S,
    prepare: fn(Request<Body>) -> Request<Body>,
) -> Result<Running, Error> {
    let shared = Shared::new(settings)?;
    let (metrics, connections) = (&shared.metrics, &shared.connections);
    files::watch(settings, &upstream, metrics, connections, background);
    let upstream_url = upstream.url.to_string();
    let upstream = Upstream::new(upstream)?;
    let state = shared.admin(settings, &upstream, upstream_url, drain);
    let export = settings.metrics_export.clone();
    let export = export.map(|export| exporter(export, state.clone()));
    let export = export.transpose()?.map(|exporter| {
        let task = AbortOnDropHandle::new(tokio::spawn(exporter.clone().run()));
        (exporter, task)
    });
    if let Some(tcp) = admin {
        background.spawn(admin::serve(tcp, state, settings.admin_token.clone()));
    }
    background.spawn(shared.open_calls.clone().run_watchdog());
    background.spawn(shared.overload(settings).watch());
    background.spawn(runtime::watch_delay(Arc::clone(&shared.metrics)));

    let reporter = HealthReporter::new();
    let health = watch::service(&reporter);
    health::set_unknown(&reporter).await;
    let probe = health::probe(
        upstream.clone(),
        reporter.clone(),
        Arc::clone(&shared.metrics),
        settings.health_interval,
    );
    let bridge = Bridge {
        upstream,
        idle: settings.timeouts.idle,
        credentials: settings.credentials,
        max_reply_bytes: settings.max_reply_bytes,
        draining: shared.goaway.clone(),
    };
    let services = replace(Services::new(bridge, settings.max_request_bytes, health));
    let serving = shared.accept_loop(settings, tcp, services, prepare);
    Ok(Running {
        serving: AbortOnDropHandle::new(tokio::spawn(serving)),
        probe: AbortOnDropHandle::new(tokio::spawn(probe)),
        reporter,
        admission: shared.admission,
        open_calls: shared.open_calls,
        goaway: shared.goaway,
        export,
    })
}

/// Waits until all connections have closed and all calls have their record. At the timeout it forces the remaining calls to end.
/// A connection closes only when its replies are delivered.
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
