//! The commands on the callers file.

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command, value_parser};

const HELP: &str = "The file is CALLERS_FILE of serve; docs/callers.md says what it holds. Exit codes: 0 success, 1 the file \
can't be written, 64 something is wrong with the file, the name or the arguments.";

/// What is done with a callers file.
pub enum Callers<'a> {
    /// Read it as `serve` does.
    Check(&'a PathBuf),
    /// Add a key for the caller of this name.
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
                .about("Report everything that is wrong with the file, or one line on each caller")
                .arg(file()),
        )
        .subcommand(
            Command::new("add")
                .about("Make a key for a caller, write its hash and print the key, which nothing can show again")
                .arg(file())
                .arg(
                    Arg::new("name")
                        .required(true)
                        .value_name("NAME")
                        .help("Whose key: a new caller, or one that gets a further key"),
                ),
        )
}

fn file() -> Arg {
    Arg::new("file")
        .required(true)
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help("The callers file; add makes it where it is not there")
}

/// What was asked for.
pub fn callers(matches: &ArgMatches) -> Callers<'_> {
    let (name, matches) = matches.subcommand().expect("clap requires one");
    let file = matches.get_one("file").expect("clap requires it");
    match name {
        "check" => Callers::Check(file),
        _ => {
            let name = matches.get_one::<String>("name");
            Callers::Add(file, name.expect("clap requires it"))
        }
    }
}
