//! Where a command's words go: the answer to standard output, all else to standard error, so that the
//! answer can be piped.
//!
//! A model's text must not drive a terminal: where an output is one, [`sanitize`] comes first. What is piped
//! stays as it came.

use std::io::{self, IsTerminal, Write};

use super::{Error, show};
use crate::{pb::stream_response::Event, sanitize};

/// How an answer is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// The answer alone on standard output as it comes; steps and figures on standard error.
    Text,
    /// The answer alone on standard output as it comes; on standard error the step that it is at, and
    /// on a terminal in the place of the one before.
    Chat,
    /// All of it on standard output.
    Transcript,
    /// Protobuf's JSON mapping, one object a line.
    Json,
}

/// Characters of a step's name; a longer one could fill the line, and then not be taken back.
const MAX_STEP: usize = 60;
/// Back to the line's beginning, and it is empty (ECMA-48: EL).
const CLEAR_LINE: &str = "\r\x1b[2K";

/// An answer on its way to the screen.
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

    /// Names the conversation that was started; a script finds it in `done`.
    pub(super) fn thread(&mut self, id: &str) -> Result<(), Error> {
        match self.output {
            Output::Json => Ok(()),
            _ => aside(&format!("· thread {id}")),
        }
    }

    /// The text as it comes; steps and figures apart from it.
    pub(super) fn show(&mut self, event: Event) -> Result<(), Error> {
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

    /// Leaves the screen at the beginning of a line, whatever came.
    pub(super) fn end(&mut self) -> Result<(), Error> {
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
        self.end()?;
        match self.output {
            Output::Transcript => print(&format!("{line}\n")),
            Output::Text | Output::Chat | Output::Json => aside(line),
        }
    }

    /// Where a piece of the answer stands on the line already, a step would be written into it.
    fn step(&mut self, name: &str) -> Result<(), Error> {
        let mut err = io::stderr();
        if !err.is_terminal() {
            return aside(&format!("· {name}"));
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

/// To standard output, flushed at once: that is what makes it typing.
pub(super) fn print(text: &str) -> Result<(), Error> {
    write(io::stdout().lock(), text)
}

/// A line to standard error.
pub(super) fn aside(line: &str) -> Result<(), Error> {
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
