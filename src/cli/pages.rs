//! The commands `completions` and `man`: what shells and `man` read, made from the same commands.

use clap::{Arg, ArgMatches, Command, value_parser};
use clap_complete::Shell;

use super::Error;

pub(super) fn commands() -> [Command; 2] {
    [
        Command::new("completions")
            .about("Print completions for a shell: source <(alim-bridge completions bash)")
            .arg(
                Arg::new("shell")
                    .required(true)
                    .value_name("SHELL")
                    .value_parser(value_parser!(Shell))
                    .help("The shell that reads them"),
            ),
        Command::new("man")
            .about("Print a man page: alim-bridge man | man -l -")
            .arg(
                Arg::new("command")
                    .value_name("COMMAND")
                    .help("The command whose page to print, instead of the first page"),
            ),
    ]
}

/// The completions for the shell.
pub fn completions(mut command: Command, matches: &ArgMatches) -> Vec<u8> {
    let shell = matches.get_one::<Shell>("shell").expect("it is required");
    let mut text = Vec::new();
    clap_complete::generate(*shell, &mut command, "alim-bridge", &mut text);
    text
}

/// The man page of the bridge, or of one of its commands.
///
/// # Errors
///
/// - [`Error::Usage`] if there is no such command.
pub fn man(mut command: Command, matches: &ArgMatches) -> Result<Vec<u8>, Error> {
    command.build();
    let page = match matches.get_one::<String>("command") {
        None => command,
        Some(name) => {
            let found = command.find_subcommand(name).cloned();
            let found = found.ok_or_else(|| Error::Usage(format!("there is no command {name}")))?;
            let name = format!("alim-bridge-{}", found.get_name());
            found.name(name)
        }
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text)?;
    Ok(text)
}
