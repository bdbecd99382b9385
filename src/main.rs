//! The `alim-bridge` command: dispatches to its subcommands.
//!
//! Exit codes: 0 for success, 1 for a failure, 64 for bad usage (EX_USAGE of sysexits), 64 + the gRPC
//! status code for a call that failed.

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

/// Time to send the last spans if the drain took all of its own time.
const LAST_SPANS_TIMEOUT: Duration = Duration::from_millis(250);

const FAILURE: u8 = 1;
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let matches = match cli::command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() {
                USAGE.into()
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let installed = rustls::crypto::ring::default_provider().install_default();
    installed.expect("no provider was installed before");
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, FAILURE),
    };
    let code = runtime.block_on(run(&matches));
    runtime.shutdown_background(); // a blocked task must not delay the exit
    code
}

async fn run(matches: &ArgMatches) -> ExitCode {
    let (result, flags) = match matches.subcommand() {
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
        Some(("top", flags)) => return top(flags).await,
        _ => unreachable!("clap knows only these"),
    };
    let error = match result {
        Ok(()) => return ExitCode::SUCCESS,
        // As in `alim-bridge stream … | head`, which closes the pipe when it has enough.
        Err(client::Error::Io(error)) if error.kind() == ErrorKind::BrokenPipe => {
            return ExitCode::SUCCESS;
        }
        Err(error) => match cli::target(flags, environment()) {
            Ok(target) => target.explain(error).await,
            Err(_) => error, // `error` has the same cause
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
        Err(invalid) => return fail(&invalid, USAGE),
    };
    if cli::is_check(flags) {
        return check(&config);
    }
    match bridge(config).await {
        Ok(drained) => exit_code(drained),
        Err(error) => fail(&*error, FAILURE),
    }
}

/// Prints the effective settings as lines of an environment file, and logs the warnings of a start.
fn check(config: &Config) -> ExitCode {
    let _log_writer = logs::init(config.logs.clone());
    warn_about_settings(config);
    if let Some(tls) = &config.server.tls {
        tls.load().warn_about_expiry();
    }
    if let Err(error) = traces(config) {
        return fail(&*error, USAGE);
    }
    for (name, value) in config.effective() {
        print_line(&format!("{}{name}={value}", config::PREFIX));
    }
    ExitCode::SUCCESS
}

fn traces(config: &Config) -> Result<Option<Traces>, BoxError> {
    let collector = config.collector.as_ref();
    let traces = collector.map(|collector| Traces::to(collector, &config.upstream.url));
    Ok(traces.transpose()?)
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

async fn bridge(mut config: Config) -> Result<Drained, BoxError> {
    let _log_writer = logs::init(config.logs.clone());
    let traces = traces(&config)?;
    config.server.traces.clone_from(&traces);
    warn_about_settings(&config);
    warn_about_file_limit(&config.server);
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
        settings = settings_line(&config),
        "serving"
    );
    print_line(&format!("alim-bridge listening on {address}"));
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
            _ => soon, // the server failed before a drain
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

/// All settings that have a value, on one line.
fn settings_line(config: &Config) -> String {
    let set = config.effective().into_iter();
    let set = set.filter(|(_, value)| !value.is_empty());
    let set: Vec<_> = set.map(|(name, value)| format!("{name}={value}")).collect();
    set.join(" ")
}

/// Warns about settings that are valid but probably not intended.
fn warn_about_settings(config: &Config) {
    if let Some(variable) = config.ignored_variable {
        tracing::warn!(
            variable,
            "no traces are sent: this variable selects a protocol other than grpc, and the bridge supports only grpc. Set it to grpc and the endpoint to the collector's gRPC port (usually 4317), or set ALIM_BRIDGE_OTLP_ENDPOINT"
        );
    }
    if config.is_open_to_the_network() {
        tracing::warn!(
            listen = %config.listen,
            "anyone who reaches this address may call, because TLS alone authenticates nobody: set TLS_CLIENT_CA_FILE, CALLERS_FILE or CREDENTIALS=caller"
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
            "MEMORY_LIMIT is too low for MAX_CALLS calls: raise it, or lower MAX_CALLS"
        );
    }
    if config.sends_keys_in_clear() {
        tracing::warn!(
            upstream = %config.upstream.url,
            "keys for ALİM are sent over the network in clear text: set UPSTREAM_URL to https, or let a mesh add TLS"
        );
    }
}

/// Sends the last spans, but not after `until`: a collector that does not answer must not delay the exit.
async fn send_last_spans(traces: Traces, until: Instant) {
    let sent = tokio::task::spawn_blocking(move || traces.stop());
    let _ = timeout_at(until, sent).await;
}

/// How many idle calls the bridge can have open at once.
fn admitted_calls(settings: &server::Settings) -> usize {
    settings.max_calls.min(settings.budget().idle_calls())
}

fn warn_about_file_limit(settings: &server::Settings) {
    match descriptors::raise_limit(settings.max_calls, settings.max_connections) {
        Ok(None) => {}
        Ok(Some(Shortage { limit, needed })) => tracing::warn!(
            limit,
            needed,
            "the limit on open files is below MAX_CALLS + MAX_CONNECTIONS: raise it (ulimit -Hn) or lower them"
        ),
        Err(error) => tracing::warn!(%error, "the limit on open files can't be read"),
    }
}

async fn emulate(flags: &ArgMatches) -> ExitCode {
    let (listen, settings) = match cli::emulator_settings(flags, environment()) {
        Ok(parsed) => parsed,
        Err(error) => return fail(&error, error.exit_code()),
    };
    let logs = match config::logs(&cli::settings_of(cli::EMULATE, flags, environment())) {
        Ok(logs) => logs,
        Err(invalid) => return fail(&invalid, USAGE),
    };
    let _log_writer = logs::init(logs);
    let served = async {
        let listener = bind("--listen", listen).await?;
        let shutdown = Shutdown::default();
        tokio::spawn(shutdown.clone().follow_signals()?);
        print_line(&format!(
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
    let settings = cli::settings_of(cli::DEMO, flags, environment());
    let shutdown = Shutdown::default();
    match shutdown.clone().follow_signals() {
        Ok(following) => drop(tokio::spawn(following)),
        Err(error) => return fail(&error, FAILURE),
    }
    match client::demo::run(settings, shutdown).await {
        Ok(drained) => exit_code(drained),
        Err(error) => fail(&error, error.exit_code()),
    }
}

fn callers(flags: &ArgMatches) -> ExitCode {
    let done = match cli::callers_action(flags) {
        cli::CallersAction::Check(path) => {
            edit::check(path).map(|lines| lines.iter().for_each(|it| print_line(it)))
        }
        cli::CallersAction::Add(path, name) => edit::add(path, name).map(|key| {
            print_line(&key);
            eprintln!(
                "alim-bridge: this is the only time that the key of {name} is printed; {} has its hash",
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
    let (question, output) = cli::question(flags)?;
    client::ask::invoke(&cli::target(flags, environment())?, question.into(), output).await
}

async fn stream(flags: &ArgMatches) -> Result<(), client::Error> {
    let (question, output) = cli::question(flags)?;
    client::ask::stream(&cli::target(flags, environment())?, question, output).await
}

async fn chat(flags: &ArgMatches) -> Result<u8, client::Error> {
    client::chat::run(
        &cli::target(flags, environment())?,
        cli::question_template(flags)?,
    )
    .await
}

async fn health(flags: &ArgMatches) -> Result<(), client::Error> {
    if let Some(url) = cli::health_url(flags)? {
        return client::health::http(url).await;
    }
    let service = flags.get_one::<String>("service").cloned();
    client::health::grpc(
        &cli::target(flags, environment())?,
        service.unwrap_or_default(),
    )
    .await
}

async fn top(flags: &ArgMatches) -> ExitCode {
    let shown = async { client::top::run(cli::top_settings(flags, environment())?).await };
    match shown.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, error.exit_code()),
    }
}

async fn bind(name: &str, address: std::net::SocketAddr) -> Result<TcpListener, BoxError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| format!("{name} {address}: {error}").into())
}

/// The environment, without variables whose name is not UTF-8: none of the bridge's is such.
fn environment() -> impl Iterator<Item = (String, String)> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((
            name.into_string().ok()?,
            value.to_string_lossy().into_owned(),
        ))
    };
    std::env::vars_os().filter_map(text)
}

fn exit_code(drained: Drained) -> ExitCode {
    match drained {
        Drained::Clean => ExitCode::SUCCESS,
        Drained::Forced => FAILURE.into(),
    }
}

/// Prints a line to standard output, for a program that waits for it.
fn print_line(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}"); // the reader may be gone
}

fn fail(error: &(dyn std::error::Error + 'static), code: u8) -> ExitCode {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let why = error.to_string();
        if !text.ends_with(&why) {
            text += &format!(": {why}"); // many errors already contain their source
        }
        cause = error.source();
    }
    for line in sanitize::text(&text).lines() {
        eprintln!("alim-bridge: {line}");
    }
    code.into()
}
