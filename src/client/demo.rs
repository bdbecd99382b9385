//! `demo`: the embedded ALİM, a bridge in front of it, and two calls through the real port.

use std::{net::SocketAddr, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpListener;

use super::{
    Error, Target, ask,
    screen::{Output, print},
};
use crate::{
    config::{Config, Strings},
    emulator::{self, OverLimit, RateLimit},
    pb::{InvokeRequest, StreamRequest},
    quota::Rate,
    server::{self, Drained},
    shutdown::Shutdown,
    telemetry::logs,
};

const QUESTION: &str = "Salam! Pomidorda zərərverici var, nə edim?";

/// Starts both, shows an Invoke and a Stream, prints what to try next, and serves until a signal.
///
/// # Errors
///
/// - [`Error::Usage`] when a setting can't be used, [`Error::Demo`] when a part can't start; those of the
///   two calls.
pub async fn run(settings: Strings, shutdown: Shutdown) -> Result<Drained, Error> {
    let upstream = TcpListener::bind("127.0.0.1:0").await?;
    let upstream_url = format!("http://{}/api/v1", upstream.local_addr()?);
    let mut emulated = emulator::Settings::default();
    let config = demo_config(settings, &upstream_url, &emulated.api_key)?;
    let quota = config.upstream.quota.rate;
    emulated.rate_limit = quota.map(|rate| RateLimit {
        rate,
        over_limit: OverLimit::Crash,
    });
    let _written = logs::init(config.logs);
    let listener = bind(config.listen).await?;
    let address = listener.local_addr()?;
    let admin = match config.admin_listen {
        Some(usual) => Some(bind(usual).await?),
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
        print(&format!("Its metrics are on {url}\n"))?;
    }
    tokio::select! {
        shown = show(address, metrics.as_deref(), quota) => match shown {
            Err(Error::Interrupted) => {
                shutdown.drain.cancelled().await; // Ctrl-C: the call that is shown hears of it too
            }
            shown => shown?,
        },
        ended = &mut bridge => return drained(ended),
        () = shutdown.drain.cancelled() => {}
    }
    let drained = drained(bridge.await);
    stop_emulator.cancel();
    let _ = emulator.await;
    drained
}

type Joined = Result<Result<Drained, server::Error>, tokio::task::JoinError>;

fn drained(ended: Joined) -> Result<Drained, Error> {
    let demo = |error: &dyn std::error::Error| Error::Demo(error.to_string());
    ended
        .map_err(|error| demo(&error))?
        .map_err(|error| demo(&error))
}

fn metrics_url(admin: &TcpListener) -> std::io::Result<String> {
    Ok(format!("http://{}/metrics", admin.local_addr()?))
}

fn demo_config(
    mut strings: Strings,
    upstream_url: &str,
    key: &SecretString,
) -> Result<Config, Error> {
    strings.flag("UPSTREAM_URL", upstream_url.into());
    strings.flag("UPSTREAM_API_KEY", key.expose_secret().into());
    Config::parse(&strings).map_err(|faults| Error::Usage(faults.to_string()))
}

/// The usual address, so that the lines to try can be copied; another port where that is taken.
async fn bind(usual: SocketAddr) -> std::io::Result<TcpListener> {
    match TcpListener::bind(usual).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind(SocketAddr::new(usual.ip(), 0)).await,
    }
}

async fn show(
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
    print(&next_steps(address, metrics, quota))?;
    std::future::pending().await
}

fn next_steps(address: SocketAddr, metrics: Option<&str>, quota: Option<Rate>) -> String {
    let scrape = metrics.map(|url| format!("curl -s {url}\n"));
    let scrape = scrape.unwrap_or_default();
    let share = match quota {
        None => "alim-bridge demo --upstream-quota 5/10s    # ALİM's rate limit at work; --quota-wait 8s lets calls wait for their turn".into(),
        Some(rate) => format!(
            "for n in $(seq {}); do alim-bridge invoke --address {address} Salam; done    # the quota is {rate}: the last one learns when to come again",
            rate.requests().min(100) + 1,
        ),
    };
    format!(
        r#"
── Try next, in another terminal

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
