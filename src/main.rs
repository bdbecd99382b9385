//! The `alim-bridge` command: one match over what it can do.
//!
//! Exit codes: 0, 1 for a failure, 64 for bad usage (sysexits' EX_USAGE), 64 + the gRPC status code
//! for a call that failed.

use std::{
    io::{ErrorKind, Write},
    process::ExitCode,
    time::Duration,
};

use alim_bridge::{
    callers::edit,
    cli, client,
    config::{self, Config},
    emulator, sanitize,
    server::{
        self, Drained,
        descriptors::{self, Shortage},
    },
    shutdown::Shutdown,
    telemetry::{logs, traces::Traces},
};
use clap::ArgMatches;
use tokio::{
    net::TcpListener,
    time::{Instant, timeout_at},
};

/// What the last spans have where the drain has taken all of its time.
const LAST_SPANS_TIMEOUT: Duration = Duration::from_millis(250);

const FAILURE: u8 = 1;
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let matches = match cli::command().try_get_matches() {
        Ok(matches) => matches,
        Err(told) => {
            let _ = told.print();
            return if told.use_stderr() {
                USAGE.into()
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let installed = rustls::crypto::ring::default_provider().install_default();
    installed.expect("nothing installed one before");
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, FAILURE),
    };
    let code = runtime.block_on(run(&matches));
    runtime.shutdown_background(); // what is still blocked must not keep the process
    code
}

async fn run(matches: &ArgMatches) -> ExitCode {
    let (called, flags) = match matches.subcommand() {
        Some(("serve", flags)) => return serve(flags).await,
        Some(("emulate", flags)) => return emulate(flags).await,
        Some(("demo", flags)) => return demo(flags).await,
        Some(("callers", flags)) => return callers(flags),
        Some(("invoke", flags)) => (invoke(flags).await, flags),
        Some(("stream", flags)) => (stream(flags).await, flags),
        Some(("chat", flags)) => match chat(flags).await {
            Ok(code) => return code.into(),
            Err(error) => (Err(error), flags),
        },
        Some(("health", flags)) => (health(flags).await, flags),
        _ => unreachable!("clap knows only these"),
    };
    let error = match called {
        Ok(()) => return ExitCode::SUCCESS,
        // As in `alim-bridge stream … | head`: who reads has seen enough.
        Err(client::Error::Io(error)) if error.kind() == ErrorKind::BrokenPipe => {
            return ExitCode::SUCCESS;
        }
        Err(error) => match cli::called(flags, environment()) {
            Ok(target) => target.explain(error).await,
            Err(_) => error, // which says the same
        },
    };
    match cli::wants_json(flags) {
        true => {
            eprintln!("{}", error.to_json());
            error.exit_code().into()
        }
        false => fail(&error, error.exit_code()),
    }
}

async fn serve(flags: &ArgMatches) -> ExitCode {
    let config = match Config::parse(&cli::settings(flags, environment())) {
        Ok(config) => config,
        Err(faults) => return fail(&faults, USAGE),
    };
    match bridge(config).await {
        Ok(drained) => drained_code(drained),
        Err(error) => fail(&*error, FAILURE),
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

async fn bridge(mut config: Config) -> Result<Drained, BoxError> {
    let _written = logs::init(config.logs.clone());
    let traces = match &config.collector {
        Some(collector) => Some(Traces::to(collector, &config.upstream.url)?),
        None => None,
    };
    config.server.traces.clone_from(&traces);
    warn_of_settings(&config);
    warn_of_few_files(&config.server);
    let listener = bind("ALIM_BRIDGE_LISTEN", config.listen).await?;
    let address = listener.local_addr()?;
    let admin = match config.admin_listen {
        Some(address) => Some(bind("ALIM_BRIDGE_ADMIN_LISTEN", address).await?),
        None => None,
    };
    let admin_address = admin.as_ref().map(TcpListener::local_addr).transpose()?;
    let shutdown = Shutdown::default();
    tokio::spawn(shutdown.clone().follow_signals()?);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        %address,
        admin = admin_address.map(|address| address.to_string()),
        upstream = %config.upstream.url,
        memory_limit = config.server.memory_limit,
        admitted_calls = admitted_calls(&config.server),
        "serving"
    );
    tell(&format!("alim-bridge listening on {address}"));
    let (drain, force) = (shutdown.drain.clone(), shutdown.force.clone());
    let drain_time = config.server.drain_delay + config.server.drain_timeout;
    let until = tokio::spawn(async move {
        drain.cancelled().await;
        Instant::now() + drain_time
    });
    let drained = server::run(config.server, config.upstream, listener, admin, shutdown).await;
    if let Some(traces) = traces {
        let soon = Instant::now() + LAST_SPANS_TIMEOUT;
        let until = match timeout_at(soon, until).await {
            Ok(Ok(until)) => until.max(soon),
            _ => soon, // there was no drain
        };
        tokio::select! {
            () = send_last_spans(traces, until) => {}
            () = force.cancelled() => {}
        }
    }
    let drained = drained?;
    tracing::info!(?drained, "stopped");
    Ok(drained)
}

/// Warns of settings that can be used and may not be meant.
fn warn_of_settings(config: &Config) {
    if let Some(variable) = config.passed_over {
        tracing::warn!(
            variable,
            "no traces are sent: this variable asks for a protocol other than grpc, the only one that the bridge speaks; set it to grpc and the endpoint to the collector's gRPC port (mostly 4317), or set ALIM_BRIDGE_OTLP_ENDPOINT"
        );
    }
    if config.is_open_to_the_network() {
        tracing::warn!(
            listen = %config.listen,
            "anyone who reaches this address may call, for TLS alone authenticates nobody: set TLS_CLIENT_CA_FILE, CALLERS_FILE or CREDENTIALS=caller"
        );
    }
    if config.is_open_to_every_page() {
        tracing::warn!(
            listen = %config.listen,
            "any page in a browser that reaches this address may call: list origins in GRPC_WEB, or set CALLERS_FILE"
        );
    }
    let (admitted, max_calls) = (admitted_calls(&config.server), config.server.max_calls);
    if admitted < max_calls {
        tracing::warn!(
            memory_limit = config.server.memory_limit,
            admitted_calls = admitted,
            max_calls,
            "MEMORY_LIMIT has room for fewer calls than MAX_CALLS: raise it, or lower MAX_CALLS"
        );
    }
    if config.sends_keys_in_clear() {
        tracing::warn!(
            upstream = %config.upstream.url,
            "keys for ALİM go over the network in clear: set UPSTREAM_URL to https, or leave TLS to a mesh"
        );
    }
}

/// A collector that does not answer must not hold the exit.
async fn send_last_spans(traces: Traces, until: Instant) {
    let sent = tokio::task::spawn_blocking(move || traces.stop());
    let _ = timeout_at(until, sent).await;
}

/// Calls that the bridge has room for while each holds little.
fn admitted_calls(settings: &server::Settings) -> usize {
    settings.max_calls.min(settings.budget().idle_calls())
}

fn warn_of_few_files(settings: &server::Settings) {
    match descriptors::raise_limit(settings.max_calls, settings.max_connections) {
        Ok(None) => {}
        Ok(Some(Shortage { limit, needed })) => tracing::warn!(
            limit,
            needed,
            "the limit on open files is below MAX_CALLS + MAX_CONNECTIONS: raise it (ulimit -Hn) or lower them"
        ),
        Err(error) => tracing::warn!(%error, "the limit on open files is not known"),
    }
}

async fn emulate(flags: &ArgMatches) -> ExitCode {
    let (listen, settings) = match cli::emulator(flags, environment()) {
        Ok(emulator) => emulator,
        Err(error) => return fail(&error, error.exit_code()),
    };
    let logs = match config::logs(&cli::few_settings(cli::EMULATE, flags, environment())) {
        Ok(logs) => logs,
        Err(faults) => return fail(&faults, USAGE),
    };
    let _written = logs::init(logs);
    let served = async {
        let listener = bind("--listen", listen).await?;
        let shutdown = Shutdown::default();
        tokio::spawn(shutdown.clone().follow_signals()?);
        tell(&format!(
            "emulated ALİM listening on http://{}",
            listener.local_addr()?
        ));
        emulator::run(settings, listener, shutdown.drain).await?;
        Ok::<_, BoxError>(())
    };
    match served.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&*error, FAILURE),
    }
}

async fn demo(flags: &ArgMatches) -> ExitCode {
    let settings = cli::few_settings(cli::DEMO, flags, environment());
    let shutdown = Shutdown::default();
    match shutdown.clone().follow_signals() {
        Ok(following) => drop(tokio::spawn(following)),
        Err(error) => return fail(&error, FAILURE),
    }
    match client::demo::run(settings, shutdown).await {
        Ok(drained) => drained_code(drained),
        Err(error) => fail(&error, error.exit_code()),
    }
}

fn callers(flags: &ArgMatches) -> ExitCode {
    let done = match cli::callers(flags) {
        cli::Callers::Check(path) => {
            edit::check(path).map(|lines| lines.iter().for_each(|it| tell(it)))
        }
        cli::Callers::Add(path, name) => edit::add(path, name).map(|key| {
            tell(&key);
            eprintln!(
                "alim-bridge: the key of {name} is shown this once; {} holds its hash",
                path.display()
            );
        }),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ (edit::Error::Write(_) | edit::Error::Random)) => fail(&error, FAILURE),
        Err(error) => fail(&error, USAGE),
    }
}

async fn invoke(flags: &ArgMatches) -> Result<(), client::Error> {
    let (question, output) = cli::asked(flags)?;
    client::ask::invoke(&cli::called(flags, environment())?, question.into(), output).await
}

async fn stream(flags: &ArgMatches) -> Result<(), client::Error> {
    let (question, output) = cli::asked(flags)?;
    client::ask::stream(&cli::called(flags, environment())?, question, output).await
}

async fn chat(flags: &ArgMatches) -> Result<u8, client::Error> {
    client::chat::run(
        &cli::called(flags, environment())?,
        cli::said_with_each(flags)?,
    )
    .await
}

async fn health(flags: &ArgMatches) -> Result<(), client::Error> {
    if let Some(url) = cli::probed(flags)? {
        return client::health::http(url).await;
    }
    let service = flags.get_one::<String>("service").cloned();
    client::health::grpc(
        &cli::called(flags, environment())?,
        service.unwrap_or_default(),
    )
    .await
}

async fn bind(name: &str, address: std::net::SocketAddr) -> Result<TcpListener, BoxError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| format!("{name} {address}: {error}").into())
}

/// Variables that are no UTF-8 can't be ours.
fn environment() -> impl Iterator<Item = (String, String)> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((
            name.into_string().ok()?,
            value.to_string_lossy().into_owned(),
        ))
    };
    std::env::vars_os().filter_map(text)
}

fn drained_code(drained: Drained) -> ExitCode {
    match drained {
        Drained::Clean => ExitCode::SUCCESS,
        Drained::Forced => FAILURE.into(),
    }
}

/// For whoever waits for the port: one line on standard output.
fn tell(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}"); // nobody may be there to read it
}

fn fail(error: &(dyn std::error::Error + 'static), code: u8) -> ExitCode {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let why = error.to_string();
        if !text.ends_with(&why) {
            text += &format!(": {why}"); // many errors repeat their source themselves
        }
        cause = error.source();
    }
    for line in sanitize::text(&text).lines() {
        eprintln!("alim-bridge: {line}");
    }
    code.into()
}
