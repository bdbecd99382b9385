//! The commands that check and edit the callers file.

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command, value_parser};

const HELP: &str = "The file is the CALLERS_FILE of serve; docs/callers.md describes it. Exit codes: 0 success, 1 the file can't \
be written, 64 the file, the name or an argument is invalid.";

/// What to do with a callers file.
pub enum CallersAction<'a> {
    /// Check it, as `serve` does at startup.
    Check(&'a PathBuf),
    /// Add a key for the caller with this name.
    Add(&'a PathBuf, &'a str),
}

pub(super) fn command() -> Command {
    Command::new("callers")
        .about("Check the callers file, or add a key to it")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .after_help(HELP)
        .subcommand(
            Command::new("check")
                .about("Report all errors in the file, or print one line per caller")
                .arg(file()),
        )
        .subcommand(
            Command::new("add")
                .about("Create a key for a caller, write its hash to the file and print the key, which can't be shown again")
                .arg(file())
                .arg(
                    Arg::new("name")
                        .required(true)
                        .value_name("NAME")
                        .help("The caller: a new one, or one that gets another key"),
                ),
        )
}

fn file() -> Arg {
    Arg::new("file")
        .required(true)
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help("The callers file; add creates it if it is missing")
}

/// Reads what to do with which file.
pub fn callers_action(matches: &ArgMatches) -> CallersAction<'_> {
    let (name, matches) = matches.subcommand().expect("clap requires one");
    let file = matches.get_one("file").expect("clap requires it");
    match name {
        "check" => CallersAction::Check(file),
        _ => {
            let name = matches.get_one::<String>("name");
            CallersAction::Add(file, name.expect("clap requires it"))
        }
    }
}
