//! The command line: clap's commands, flags generated from the table of settings, and the conversion of
//! arguments into requests and settings.

mod callers;
mod emulate;
mod pages;
mod target;
mod top;

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use prost_types::Struct;

pub use self::{
    callers::{CallersAction, callers_action},
    emulate::{EMULATE, emulator_settings},
    pages::{completions, man},
    target::{health_url, target},
    top::top_settings,
};
use crate::{
    call::json,
    client::{Error, screen::Output},
    config::{GROUPS, PREFIX, RawSettings, SETTINGS, Setting},
    pb::StreamRequest,
};

const EXIT_CODES: &str = "Exit codes: 0 success, 1 failure, 64 bad usage; invoke, stream and health \
exit with 64 + the gRPC status code when the call fails, as grpcurl does.";

const CHAT: &str = "The thread's id is printed on standard error; --thread-id continues that thread. \
Ctrl-C stops an answer. Ctrl-D, or Ctrl-C at an empty prompt, ends the conversation. If standard input is \
not a terminal, each of its lines is a question. The exit code is then 64 + the gRPC status code of the \
last call that failed, or 0.";

/// Settings of `demo`, with their defaults there. By default its log does not mix with its output.
const DEMO: &[(&str, &str)] = &[
    ("ADMIN_LISTEN", "127.0.0.1:9464"),
    ("LOG", "warn"),
    ("LOG_FORMAT", "auto"),
    ("ACCESS_LOG", "off"),
    ("UPSTREAM_QUOTA", "off"),
    ("QUOTA_WAIT", "0s"),
];

/// The whole command line.
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
                .about("Start an embedded ALİM and a bridge, show two calls, and keep serving")
                .args(DEMO.iter().map(setting_flag)),
        )
        .subcommand(emulate::command())
        .subcommand(with_message(
            Command::new("invoke").about("Ask a question and wait for the whole answer"),
        ))
        .subcommand(
            with_message(
                Command::new("stream").about("Ask a question and print the answer as it comes"),
            )
            .arg(
                Arg::new("start-thread")
                    .long("start-thread")
                    .action(ArgAction::SetTrue)
                    .conflicts_with("thread-id")
                    .help("Start a thread to continue later, and print its id"),
            ),
        )
        .subcommand(
            with_question(Command::new("chat").about("Hold a conversation in one thread"))
                .after_help(CHAT),
        )
        .subcommand(health())
        .subcommand(callers::command())
        .subcommand(top::command())
        .subcommands(pages::commands())
}

fn serve() -> Command {
    Command::new("serve")
        .about("Serve gRPC in front of ALİM")
        .after_help(
            "A flag overrides its environment variable. All configuration errors are reported together. \
            ALIM_BRIDGE_UPSTREAM_API_KEY has no flag: other users can read a process's arguments.",
        )
        .arg(
            Arg::new("check")
                .long("check")
                .action(ArgAction::SetTrue)
                .help("Check all settings and files, print the effective settings, and exit: 0, or 64 with every fault"),
        )
        .args(flags_by_group())
}

/// The flags of all settings, under the headings of `docs/settings.md`.
fn flags_by_group() -> impl Iterator<Item = Arg> {
    let mut heading = "";
    settings_with_flags().map(move |setting| {
        if let Some((_, title)) = GROUPS.iter().find(|(first, _)| *first == setting.name) {
            heading = title;
        }
        setting_flag(&(setting.name, setting.default)).help_heading(heading)
    })
}

/// Whether `serve` only checks its settings.
pub fn is_check(matches: &ArgMatches) -> bool {
    matches.get_flag("check")
}

fn settings_with_flags() -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().filter(|setting| setting.flag().is_some())
}

/// The flag of a setting, with its default in this command.
fn setting_flag(&(name, default): &(&'static str, &str)) -> Arg {
    let setting = SETTINGS.iter().find(|setting| setting.name == name);
    let setting = setting.unwrap_or_else(|| panic!("{name} is in the table"));
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

/// Adds the flags that select a bridge and the credentials for it.
fn with_target(command: Command) -> Command {
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
                "PEM file of certificate authorities to trust for the bridge",
            )
            .value_parser(value_parser!(PathBuf)),
        )
        .args(tls_flags())
        .arg(
            option(
                "caller-key-file",
                "PATH",
                "File with the key to send as authorization: Bearer [env, the key: ALIM_CALLER_KEY]",
            )
            .value_parser(value_parser!(PathBuf)),
        )
        .arg(
            option(
                "api-key-file",
                "PATH",
                "File with the caller's own key for ALİM, sent as x-api-key [env, the key: ALIM_API_KEY]",
            )
            .value_parser(value_parser!(PathBuf)),
        )
        .arg(
            option("timeout", "DURATION", "The call's deadline, such as 30s")
                .value_parser(humantime::parse_duration),
        )
}

/// The TLS flags other than --ca-file.
fn tls_flags() -> [Arg; 3] {
    let pem = |name, help| option(name, "PATH", help).value_parser(value_parser!(PathBuf));
    [
        pem("cert-file", "PEM client certificate chain, for mutual TLS").requires("key-file"),
        pem("key-file", "PEM private key of that certificate").requires("cert-file"),
        Arg::new("insecure")
            .long("insecure")
            .action(ArgAction::SetTrue)
            .conflicts_with("ca-file")
            .help("Accept any certificate: keys can then go to anyone"),
    ]
}

/// Adds the arguments of a command that sends one question.
fn with_message(command: Command) -> Command {
    with_question(command)
        .arg(
            Arg::new("message")
                .required(true)
                .value_name("MESSAGE")
                .help("The farmer's message; - reads it from standard input"),
        )
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .help("Print JSON, one object per line; failures too, on standard error"),
        )
        .after_help(EXIT_CODES)
}

/// Adds the flags of the target, and of the fields that are sent with each message.
fn with_question(command: Command) -> Command {
    with_target(command)
        .arg(option("user-id", "ID", "The user who asks"))
        .arg(option("thread-id", "UUID", "The thread to continue"))
        .arg(option(
            "farm-id",
            "ID",
            "The farm that the question is about",
        ))
        .arg(option(
            "language",
            "CODE",
            "The language of the answer, such as az",
        ))
        .arg(option(
            "system-prompt-override",
            "TEXT",
            "Replaces the system prompt",
        ))
        .arg(option(
            "scenario-context",
            "JSON",
            "Facts about the farmer's situation, a JSON object",
        ))
}

fn health() -> Command {
    with_target(Command::new("health").about("Check a bridge's health: exit with 0 if it serves"))
        .mut_arg("timeout", |timeout| timeout.default_value("5s"))
        .arg(
            option(
                "service",
                "NAME",
                "The service to ask about; alim.v1.GraphService follows the upstream",
            )
            .default_value(""),
        )
        .arg(option(
            "http",
            "URL",
            "Check that this URL answers 200 instead",
        ))
        .after_help(EXIT_CODES)
}

fn option(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

/// Reads all settings. Flags override the environment, `vars`.
pub fn settings(matches: &ArgMatches, vars: impl Iterator<Item = (String, String)>) -> RawSettings {
    let mut raw = read_flags(matches, settings_with_flags().map(|setting| setting.name));
    raw.add_environment(vars);
    raw
}

/// Reads the settings of `demo`. Other settings in the environment are for `serve`. A variable that is no setting is an error, as in
/// `serve`.
pub fn demo_settings(
    matches: &ArgMatches,
    vars: impl Iterator<Item = (String, String)>,
) -> RawSettings {
    let is_setting = |name: &str| SETTINGS.iter().any(|setting| setting.name == name);
    settings_of(DEMO, matches, vars, |name| !is_setting(name))
}

/// Reads the log settings of `emulate`. All other variables are for `serve`.
pub fn emulator_log_settings(
    matches: &ArgMatches,
    vars: impl Iterator<Item = (String, String)>,
) -> RawSettings {
    settings_of(EMULATE, matches, vars, |_| false)
}

/// Reads `names`, each with the command's own default, and the variables of which `is_read_too` says so.
fn settings_of(
    names: &[(&'static str, &str)],
    matches: &ArgMatches,
    vars: impl Iterator<Item = (String, String)>,
    is_read_too: impl Fn(&str) -> bool,
) -> RawSettings {
    let mut raw = read_flags(matches, names.iter().map(|(name, _)| *name));
    let is_read = |name: &str| {
        let name = name.strip_prefix(PREFIX);
        name.is_some_and(|name| names.iter().any(|(it, _)| *it == name) || is_read_too(name))
    };
    raw.add_environment(vars.filter(|(name, _)| is_read(name)));
    let defaults = names.iter();
    raw.add_environment(defaults.map(|(name, value)| (format!("{PREFIX}{name}"), (*value).into())));
    raw
}

fn read_flags(matches: &ArgMatches, names: impl Iterator<Item = &'static str>) -> RawSettings {
    let mut raw = RawSettings::default();
    for name in names {
        if let Some(value) = matches.get_one::<String>(name) {
            raw.add_flag(name, value.clone());
        }
    }
    raw
}

/// Whether to print errors as JSON.
pub fn wants_json(matches: &ArgMatches) -> bool {
    matches.try_get_one::<bool>("json").ok().flatten() == Some(&true)
}

/// Reads the question, and how to print the answer.
///
/// # Errors
///
/// - [`Error::Usage`] if the scenario context is not a JSON object, [`Error::Io`] if standard input can't
///   be read.
pub fn question(matches: &ArgMatches) -> Result<(StreamRequest, Output), Error> {
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
        ..question_template(matches)?
    };
    Ok((question, output))
}

/// Reads all fields of a question except its message.
///
/// # Errors
///
/// - [`Error::Usage`] if the scenario context is not a JSON object.
pub fn question_template(matches: &ArgMatches) -> Result<StreamRequest, Error> {
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
