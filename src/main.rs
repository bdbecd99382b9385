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
    server::{self, Drained},
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
        Some(("completions", flags)) => {
            return page(Ok(cli::completions(cli::command(), flags)));
        }
        Some(("man", flags)) => return page(cli::man(cli::command(), flags)),
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
            let _ = client::screen::print_note(&error.to_json().to_string());
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
    config.warn();
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
    let traces = collector
        .map(|collector| Traces::to(collector, config.max_queued_spans, &config.upstream.url));
    Ok(traces.transpose()?)
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

async fn bridge(mut config: Config) -> Result<Drained, BoxError> {
    let _log_writer = logs::init(config.logs.clone());
    let traces = traces(&config)?;
    config.server.traces.clone_from(&traces);
    config.warn();
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
        admitted_calls = config.admitted_calls(),
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

/// Sends the last spans, but not after `until`: a collector that does not answer must not delay the exit.
async fn send_last_spans(traces: Traces, until: Instant) {
    let sent = tokio::task::spawn_blocking(move || traces.stop());
    let _ = timeout_at(until, sent).await;
}

async fn emulate(flags: &ArgMatches) -> ExitCode {
    let (listen, settings) = match cli::emulator_settings(flags, environment()) {
        Ok(parsed) => parsed,
        Err(error) => return fail(&error, error.exit_code()),
    };
    let logs = match config::logs(&cli::emulator_log_settings(flags, environment())) {
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
    let settings = cli::demo_settings(flags, environment());
    let shutdown = Shutdown::default();
    match shutdown.clone().follow_signals() {
        Ok(following) => drop(tokio::spawn(following)),
        Err(error) => return fail(&error, FAILURE),
    }
    match client::demo::run(settings, shutdown, &program()).await {
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
        Err(error @ (edit::Error::Write(..) | edit::Error::Random)) => fail(&error, FAILURE),
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
    bound.map_err(|error| {
        let hint = match error.kind() {
            ErrorKind::AddrInUse => ": stop the process that listens there, or choose another port",
            _ => "",
        };
        format!("{name} {address} can't be used: {error}{hint}").into()
    })
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

/// How this process was called, as others can call it.
fn program() -> String {
    let name = std::env::args().next();
    let is_one_word = |name: &String| !name.is_empty() && !name.contains(char::is_whitespace);
    name.filter(is_one_word)
        .map_or_else(|| "alim-bridge".into(), |name| sanitize::text(&name))
}

fn exit_code(drained: Drained) -> ExitCode {
    match drained {
        Drained::Clean => ExitCode::SUCCESS,
        Drained::Forced => FAILURE.into(),
    }
}

fn page(made: Result<Vec<u8>, client::Error>) -> ExitCode {
    match made.and_then(|page| Ok(std::io::stdout().write_all(&page)?)) {
        Err(client::Error::Io(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(&error, error.exit_code()),
        Ok(()) => ExitCode::SUCCESS,
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
