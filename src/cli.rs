//! The command line: clap's commands, the settings' flags made from their table, and what was typed
//! turned into what is meant.

mod callers;
mod emulate;
mod target;

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use prost_types::Struct;

pub use self::{
    callers::{Callers, callers},
    emulate::{EMULATE, emulator},
    target::{called, probed},
};
use crate::{
    call::json,
    client::{Error, screen::Output},
    config::{PREFIX, SETTINGS, Setting, Strings},
    pb::StreamRequest,
};

const EXIT_CODES: &str = "Exit codes: 0 success, 1 failure, 64 bad usage; invoke, stream and health \
exit with 64 + the gRPC status code when the call fails, as grpcurl does.";

const CHAT: &str = "The thread that the answers are given in is told on standard error; --thread-id goes \
on with it. Ctrl-C stops an answer; Ctrl-D, or Ctrl-C at an empty prompt, ends the conversation. When \
standard input is no terminal, each of its lines is asked, and the exit code is that of the last call \
that failed, 64 + its gRPC status code, or 0.";

/// Settings of `demo`, and their defaults there: its log must not break into what it shows.
pub const DEMO: &[(&str, &str)] = &[
    ("ADMIN_LISTEN", "127.0.0.1:9464"),
    ("LOG", "warn"),
    ("LOG_FORMAT", "auto"),
    ("ACCESS_LOG", "off"),
    ("UPSTREAM_QUOTA", "off"),
    ("QUOTA_WAIT", "0s"),
];

/// All commands.
pub fn command() -> Command {
    Command::new("alim-bridge")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Typed gRPC in front of ALİM's REST and Server-Sent Events")
        .after_help(EXIT_CODES)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(serve())
        .subcommand(
            Command::new("demo")
                .about("Start an embedded ALİM and a bridge, show two calls, go on serving")
                .args(DEMO.iter().map(setting)),
        )
        .subcommand(emulate::command())
        .subcommand(question(
            Command::new("invoke").about("Ask, and wait for the whole answer"),
        ))
        .subcommand(
            question(Command::new("stream").about("Ask, and see the answer being typed")).arg(
                Arg::new("start-thread")
                    .long("start-thread")
                    .action(ArgAction::SetTrue)
                    .conflicts_with("thread-id")
                    .help("Start a conversation that can be gone on with, and name it"),
            ),
        )
        .subcommand(
            about(Command::new("chat").about("Ask, read and ask on, in one thread"))
                .after_help(CHAT),
        )
        .subcommand(health())
        .subcommand(callers::command())
}

fn serve() -> Command {
    Command::new("serve")
        .about("Serve gRPC in front of ALİM")
        .after_help(
            "A flag goes before its environment variable. All settings at fault are told at once. \
            ALIM_BRIDGE_UPSTREAM_API_KEY has no flag: other users can read a process's arguments.",
        )
        .args(with_flags().map(|it| setting(&(it.name, it.default))))
}

fn with_flags() -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().filter(|setting| setting.flag().is_some())
}

/// The flag of a setting, with its default in this command.
fn setting(&(name, default): &(&'static str, &str)) -> Arg {
    let setting = SETTINGS.iter().find(|setting| setting.name == name);
    let setting = setting.unwrap_or_else(|| panic!("{name} stands in the table"));
    let default = match default {
        "" => String::new(),
        default => format!(" [default: {default}]"),
    };
    let help = format!("{}{default} [env: {PREFIX}{name}]", setting.help);
    Arg::new(name)
        .long(
            setting
                .flag()
                .expect("only settings with a flag are arguments"),
        )
        .value_name("VALUE")
        .allow_hyphen_values(true)
        .help(help)
}

fn target(command: Command) -> Command {
    command
        .arg(
            option(
                "address",
                "ADDRESS",
                "The bridge: a host, host:port, or a URL with http or https",
            )
            .default_value("127.0.0.1:50051")
            .env("ALIM_ADDRESS"),
        )
        .arg(
            option(
                "ca-file",
                "PATH",
                "PEM authorities that may vouch for the bridge",
            )
            .value_parser(value_parser!(PathBuf)),
        )
        .args(identity())
        .arg(
            option(
                "caller-key-file",
                "PATH",
                "Holds the key that is sent as authorization: Bearer [env, the key: ALIM_CALLER_KEY]",
            )
            .value_parser(value_parser!(PathBuf)),
        )
        .arg(
            option(
                "api-key-file",
                "PATH",
                "Holds the caller's own key for ALİM, sent as x-api-key [env, the key: ALIM_API_KEY]",
            )
            .value_parser(value_parser!(PathBuf)),
        )
        .arg(
            option("timeout", "DURATION", "The deadline that is sent along")
                .value_parser(humantime::parse_duration),
        )
}

/// For TLS, beside --ca-file.
fn identity() -> [Arg; 3] {
    let pem = |name, help| option(name, "PATH", help).value_parser(value_parser!(PathBuf));
    [
        pem(
            "cert-file",
            "PEM certificate chain that is shown to the bridge",
        )
        .requires("key-file"),
        pem("key-file", "PEM private key of that certificate").requires("cert-file"),
        Arg::new("insecure")
            .long("insecure")
            .action(ArgAction::SetTrue)
            .conflicts_with("ca-file")
            .help("Take any certificate of the bridge's: keys may then go to anyone"),
    ]
}

fn question(command: Command) -> Command {
    about(command)
        .arg(
            Arg::new("message")
                .required(true)
                .value_name("MESSAGE")
                .help("What the farmer says; - reads it from standard input"),
        )
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .help("Print JSON, one object a line; a failure too, on standard error"),
        )
        .after_help(EXIT_CODES)
}

/// The bridge to ask, and what is said with each message.
fn about(command: Command) -> Command {
    target(command)
        .arg(option("user-id", "ID", "Who asks"))
        .arg(option(
            "thread-id",
            "UUID",
            "The conversation to go on with",
        ))
        .arg(option(
            "farm-id",
            "ID",
            "The farm that the question is about",
        ))
        .arg(option("language", "CODE", "The language of the answer"))
        .arg(option(
            "system-prompt-override",
            "TEXT",
            "Takes the place of the system prompt",
        ))
        .arg(option(
            "scenario-context",
            "JSON",
            "Facts about the farmer's situation, a JSON object",
        ))
}

fn health() -> Command {
    target(Command::new("health").about("Exit with 0 when a bridge serves"))
        .arg(
            option(
                "service",
                "NAME",
                "The service to ask about; alim.v1.GraphService follows the upstream",
            )
            .default_value(""),
        )
        .arg(option("http", "URL", "Ask this URL for a 200 instead"))
        .after_help(EXIT_CODES)
}

fn option(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

/// All settings: flags go before the environment, `vars`.
pub fn settings(matches: &ArgMatches, vars: impl Iterator<Item = (String, String)>) -> Strings {
    let mut strings = flags(matches, with_flags().map(|setting| setting.name));
    strings.environment(vars);
    strings
}

/// These settings alone, with defaults of their own: others in the environment are meant for `serve`.
pub fn few_settings(
    few: &[(&'static str, &str)],
    matches: &ArgMatches,
    vars: impl Iterator<Item = (String, String)>,
) -> Strings {
    let mut strings = flags(matches, few.iter().map(|(name, _)| *name));
    let is_read = |name: &str| {
        few.iter()
            .any(|(it, _)| name.strip_prefix(PREFIX) == Some(it))
    };
    strings.environment(vars.filter(|(name, _)| is_read(name)));
    let defaults = few.iter();
    strings.environment(defaults.map(|(name, value)| (format!("{PREFIX}{name}"), (*value).into())));
    strings
}

fn flags(matches: &ArgMatches, names: impl Iterator<Item = &'static str>) -> Strings {
    let mut strings = Strings::default();
    for name in names {
        if let Some(value) = matches.get_one::<String>(name) {
            strings.flag(name, value.clone());
        }
    }
    strings
}

/// Whether failures are for a script.
pub fn wants_json(matches: &ArgMatches) -> bool {
    matches.try_get_one::<bool>("json").ok().flatten() == Some(&true)
}

/// The question to ask, and how to show the answer.
///
/// # Errors
///
/// - [`Error::Usage`] when the scenario context is no JSON object, [`Error::Io`] when standard input
///   can't be read.
pub fn asked(matches: &ArgMatches) -> Result<(StreamRequest, Output), Error> {
    let message = match text(matches, "message").unwrap_or_default() {
        dash if dash == "-" => std::io::read_to_string(std::io::stdin())?,
        message => message,
    };
    let output = match matches.get_flag("json") {
        true => Output::Json,
        false => Output::Text,
    };
    let question = StreamRequest {
        message,
        ..said_with_each(matches)?
    };
    Ok((question, output))
}

/// All of a question but its message.
///
/// # Errors
///
/// - [`Error::Usage`] when the scenario context is no JSON object.
pub fn said_with_each(matches: &ArgMatches) -> Result<StreamRequest, Error> {
    let context = text(matches, "scenario-context")
        .map(|text| parse_object(&text))
        .transpose()?;
    Ok(StreamRequest {
        message: String::new(),
        user_id: text(matches, "user-id").unwrap_or_default(),
        thread_id: text(matches, "thread-id"),
        farm_id: text(matches, "farm-id"),
        language: text(matches, "language"),
        system_prompt_override: text(matches, "system-prompt-override"),
        scenario_context: context,
        start_thread: matches.try_get_one::<bool>("start-thread").ok().flatten() == Some(&true),
    })
}

fn parse_object(text: &str) -> Result<Struct, Error> {
    let object = serde_json::from_str(text).map_err(|error| error.to_string());
    let object =
        object.and_then(|object| json::to_struct(object).map_err(|error| error.to_string()));
    object.map_err(|why| Error::Usage(format!("--scenario-context must be a JSON object: {why}")))
}

fn text(matches: &ArgMatches, name: &str) -> Option<String> {
    matches.get_one::<String>(name).cloned()
}
