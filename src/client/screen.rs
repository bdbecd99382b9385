//! Prints the answer to standard output and everything else to standard error, so that the answer can be
//! piped.
//!
//! A model's text must not control a terminal. If an output is a terminal, the text goes through
//! [`sanitize`]. Piped text is not changed.

use std::io::{self, IsTerminal, Write};

use super::{Error, show};
use crate::{pb::stream_response::Event, sanitize};

/// How an answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// The answer on standard output as it comes. Steps and statistics on standard error.
    Text,
    /// The answer on standard output as it comes. The current step on standard error; on a terminal, it
    /// replaces the one before.
    Chat,
    /// Everything on standard output.
    Transcript,
    /// Protobuf's JSON mapping, one object per line.
    Json,
}

/// The most characters of a step's name. A longer one could wrap, and then can't be erased.
const MAX_STEP: usize = 60;
/// Moves to the beginning of the line and erases it (ECMA-48: EL).
const CLEAR_LINE: &str = "\r\x1b[2K";

/// Prints one answer.
pub(super) struct Screen {
    output: Output,
    is_mid_line: bool,
    has_step: bool,
}

impl Screen {
    pub(super) fn new(output: Output) -> Self {
        Self {
            output,
            is_mid_line: false,
            has_step: false,
        }
    }

    /// Prints the id of a new thread. JSON has it in `done`.
    pub(super) fn print_thread(&mut self, id: &str) -> Result<(), Error> {
        match self.output {
            Output::Json => Ok(()),
            _ => print_note(&format!("· thread {id}")),
        }
    }

    /// Prints one event.
    pub(super) fn print_event(&mut self, event: Event) -> Result<(), Error> {
        if self.output == Output::Json {
            return print(&format!("{}\n", show::event_json(event)));
        }
        let is_chat = self.output == Output::Chat;
        match event {
            Event::Token(token) => self.text(&token.text),
            Event::Node(node) if is_chat => self.step(&node.name),
            Event::Other(_) | Event::Done(_) if is_chat => Ok(()),
            Event::Node(node) => self.line(&format!("· {}", node.name)),
            Event::Other(other) => self.line(&format!("· {}: {}", other.r#type, other.data)),
            Event::Done(done) => self.line(&show::done_text(&done)),
        }
    }

    /// Moves to the beginning of a new line, if the cursor is not there.
    pub(super) fn finish(&mut self) -> Result<(), Error> {
        self.clear_step()?;
        match std::mem::take(&mut self.is_mid_line) {
            true => print("\n"),
            false => Ok(()),
        }
    }

    fn text(&mut self, text: &str) -> Result<(), Error> {
        self.clear_step()?;
        if let Some(last) = text.chars().next_back() {
            self.is_mid_line = last != '\n';
        }
        print(text)
    }

    fn line(&mut self, line: &str) -> Result<(), Error> {
        self.finish()?;
        match self.output {
            Output::Transcript => print(&format!("{line}\n")),
            Output::Text | Output::Chat | Output::Json => print_note(line),
        }
    }

    /// Prints the current step, but not into a line that has a part of the answer.
    fn step(&mut self, name: &str) -> Result<(), Error> {
        let mut err = io::stderr();
        if !err.is_terminal() {
            return print_note(&format!("· {name}"));
        }
        if !self.is_mid_line {
            let name: String = sanitize::line(name).chars().take(MAX_STEP).collect();
            write!(err, "{CLEAR_LINE}\x1b[2m· {name}\x1b[0m")?;
            self.has_step = true;
        }
        Ok(())
    }

    fn clear_step(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.has_step) {
            write!(io::stderr(), "{CLEAR_LINE}")?;
        }
        Ok(())
    }
}

/// Writes to standard output and flushes, so that each token appears at once.
pub(super) fn print(text: &str) -> Result<(), Error> {
    write(io::stdout().lock(), text)
}

/// Writes a line to standard error.
///
/// # Errors
///
/// - [`Error::Io`] if it can't be written.
pub fn print_note(line: &str) -> Result<(), Error> {
    write(io::stderr().lock(), &format!("{line}\n"))
}

fn write(mut out: impl Write + IsTerminal, text: &str) -> Result<(), Error> {
    match out.is_terminal() {
        true => out.write_all(sanitize::text(text).as_bytes())?,
        false => out.write_all(text.as_bytes())?,
    }
    out.flush()?;
    Ok(())
}
