//! The command `demo`: starts the embedded ALİM and a bridge, and makes two calls through the real port.

use std::{net::SocketAddr, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpListener;

use super::{
    Error, Target, ask,
    screen::{Output, print},
};
use crate::{
    config::{Config, RawSettings},
    emulator::{self, OverLimit, RateLimit},
    pb::{InvokeRequest, StreamRequest},
    quota::Rate,
    server::{self, Drained},
    shutdown::Shutdown,
    telemetry::logs,
};

const QUESTION: &str = "Salam! Pomidorda zərərverici var, nə edim?";

/// Starts both, prints an Invoke and a Stream, suggests further commands, and serves until a signal. The commands call
/// `program`, because this one need not be on the PATH.
///
/// # Errors
///
/// - [`Error::Usage`] if a setting is invalid, [`Error::Demo`] if the bridge fails, and the errors of the
///   two calls.
pub async fn run(
    settings: RawSettings,
    shutdown: Shutdown,
    program: &str,
) -> Result<Drained, Error> {
    let upstream = TcpListener::bind("127.0.0.1:0").await?;
    let upstream_url = format!("http://{}/api/v1", upstream.local_addr()?);
    let mut emulated = emulator::Settings::default();
    let config = demo_config(settings, &upstream_url, &emulated.api_key)?;
    let quota = config.upstream.quota.rate;
    emulated.rate_limit = quota.map(|rate| RateLimit {
        rate,
        over_limit: OverLimit::Crash,
    });
    let _log_writer = logs::init(config.logs);
    let listener = bind(config.listen).await?;
    let address = listener.local_addr()?;
    let admin = match config.admin_listen {
        Some(address) => Some(bind(address).await?),
        None => None,
    };
    let metrics = admin.as_ref().map(metrics_url).transpose()?;
    let stop_emulator = shutdown.force.clone();
    let emulator = tokio::spawn(emulator::run(emulated, upstream, stop_emulator.clone()));
    let bridge = server::run(
        config.server,
        config.upstream,
        listener,
        admin,
        shutdown.clone(),
    );
    let mut bridge = tokio::spawn(bridge);

    print(&format!(
        "An embedded ALİM serves {upstream_url}\nalim-bridge serves gRPC on {address}\n"
    ))?;
    if let Some(url) = &metrics {
        let page = url.trim_end_matches("metrics");
        print(&format!(
            "Its metrics are on {url}\nIts admin page is on {page}\n"
        ))?;
    }
    tokio::select! {
        result = show(program, address, metrics.as_deref(), quota) => match result {
            Err(Error::Interrupted) => {
                shutdown.drain.cancelled().await; // Ctrl-C interrupts the call too
            }
            result => result?,
        },
        ended = &mut bridge => return to_result(ended),
        () = shutdown.drain.cancelled() => {}
    }
    let drained = to_result(bridge.await);
    stop_emulator.cancel();
    let _ = emulator.await;
    drained
}

type Joined = Result<Result<Drained, server::Error>, tokio::task::JoinError>;

fn to_result(ended: Joined) -> Result<Drained, Error> {
    let demo = |error: &dyn std::error::Error| Error::Demo(error.to_string());
    ended
        .map_err(|error| demo(&error))?
        .map_err(|error| demo(&error))
}

fn metrics_url(admin: &TcpListener) -> std::io::Result<String> {
    Ok(format!("http://{}/metrics", admin.local_addr()?))
}

fn demo_config(
    mut raw: RawSettings,
    upstream_url: &str,
    key: &SecretString,
) -> Result<Config, Error> {
    raw.add_flag("UPSTREAM_URL", upstream_url.into());
    raw.add_flag("UPSTREAM_API_KEY", key.expose_secret().into());
    let parsed = Config::parse(&raw);
    let mut config = parsed.map_err(|invalid| Error::Usage(invalid.to_string()))?;
    config.server.metrics_export = None; // nor does it send spans
    Ok(config)
}

/// Binds the usual address, so that README's commands work. If that fails, says why, and binds another port.
async fn bind(usual: SocketAddr) -> Result<TcpListener, Error> {
    let failed = match TcpListener::bind(usual).await {
        Ok(listener) => return Ok(listener),
        Err(error) => error,
    };
    let other = TcpListener::bind(SocketAddr::new(usual.ip(), 0)).await?;
    let address = other.local_addr()?;
    print(&format!(
        "{usual} can't be used ({failed}): {address} is used instead\n"
    ))?;
    Ok(other)
}

async fn show(
    program: &str,
    address: SocketAddr,
    metrics: Option<&str>,
    quota: Option<Rate>,
) -> Result<(), Error> {
    let target = Target {
        address: address.to_string(),
        timeout: Some(Duration::from_secs(60)),
        ..Target::default()
    };
    print(&format!("\n── Invoke: {QUESTION}\n\n"))?;
    let question = InvokeRequest {
        message: QUESTION.into(),
        user_id: "demo".into(),
        ..InvokeRequest::default()
    };
    ask::invoke(&target, question, Output::Transcript).await?;
    print(&format!("\n── Stream: {QUESTION}\n\n"))?;
    let question = StreamRequest {
        message: QUESTION.into(),
        user_id: "demo".into(),
        ..StreamRequest::default()
    };
    ask::stream(&target, question, Output::Transcript).await?;
    print(&next_steps(program, address, metrics, quota))?;
    std::future::pending().await
}

fn next_steps(
    program: &str,
    address: SocketAddr,
    metrics: Option<&str>,
    quota: Option<Rate>,
) -> String {
    let scrape = metrics.map(|url| format!("curl -s {url}\n"));
    let scrape = scrape.unwrap_or_default();
    let share = match quota {
        None => format!(
            "{program} demo --upstream-quota 5/10s    # shows ALİM's rate limit; with --quota-wait 8s calls wait instead of failing"
        ),
        Some(rate) => format!(
            "for n in $(seq {}); do {program} invoke --address {address} Salam; done    # the quota is {rate}: the last one is told when to retry",
            rate.requests().min(100) + 1,
        ),
    };
    format!(
        r#"
── Try next, in another terminal

{program} stream --address {address} "Nə vaxt suvarım?"
{program} chat --address {address}
grpcurl -plaintext -d '{{"message": "Nə vaxt suvarım?"}}' {address} alim.v1.GraphService/Invoke
grpcurl -plaintext -d '{{"message": "Nə vaxt suvarım?"}}' {address} alim.v1.GraphService/Stream
grpcurl -plaintext -d '{{"message": ""}}' {address} alim.v1.GraphService/Invoke
grpcurl -plaintext {address} describe alim.v1.GraphService
{share}
{scrape}
Ready. Ctrl-C stops it.
"#
    )
}
