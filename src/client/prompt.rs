//! Reads a conversation's lines: with an editor at a terminal, else from standard input.
//!
//! While the editor waits, the terminal is in raw mode and Ctrl-C is a key. While an answer comes, Ctrl-C
//! is a signal.

use std::io::{self, IsTerminal};

use rustyline::{
    Cmd, ConditionalEventHandler, Config, Editor, Event, EventContext, EventHandler, KeyEvent,
    Movement, RepeatCount, error::ReadlineError, history::MemHistory,
};
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin};

use super::Error;

/// The source of a conversation's lines.
pub(super) struct Prompt {
    source: Source,
    is_interactive: bool,
}

enum Source {
    /// Standard input and output are terminals. The editor keeps a history of this session.
    Editor(Box<Editor<(), MemHistory>>),
    Lines(Lines<BufReader<Stdin>>),
}

impl Prompt {
    /// Opens an editor if standard input and output are terminals.
    ///
    /// # Errors
    ///
    /// - [`Error::Io`] if the terminal can't be used.
    pub(super) fn open() -> Result<Self, Error> {
        let is_interactive = io::stdin().is_terminal();
        let source = match is_interactive && io::stdout().is_terminal() {
            true => Source::Editor(Box::new(editor().map_err(to_error)?)),
            false => Source::Lines(BufReader::new(tokio::io::stdin()).lines()),
        };
        Ok(Self {
            source,
            is_interactive,
        })
    }

    /// Whether standard input is a terminal.
    pub(super) fn is_interactive(&self) -> bool {
        self.is_interactive
    }

    /// The next line that is not blank. `None` at the end of the input, at Ctrl-D, or at Ctrl-C on a terminal.
    ///
    /// # Errors
    ///
    /// - [`Error::Io`] if the input can't be read or is not UTF-8.
    /// - [`Error::Interrupted`] at Ctrl-C, if standard input is not a terminal.
    pub(super) async fn next(&mut self) -> Result<Option<String>, Error> {
        loop {
            let line = match &mut self.source {
                Source::Editor(editor) => read_line(editor)?,
                Source::Lines(lines) => tokio::select! {
                    line = lines.next_line() => line?,
                    _ = tokio::signal::ctrl_c() => match self.is_interactive {
                        true => None,
                        false => return Err(Error::Interrupted),
                    },
                },
            };
            if line.as_ref().is_none_or(|line| !line.trim().is_empty()) {
                return Ok(line);
            }
        }
    }
}

fn editor() -> rustyline::Result<Editor<(), MemHistory>> {
    let config = Config::builder().auto_add_history(true).build();
    let history = MemHistory::with_config(&config);
    let mut editor = Editor::with_history(config, history)?;
    let ctrl_c = EventHandler::Conditional(Box::new(CtrlC));
    editor.bind_sequence(KeyEvent::ctrl('C'), ctrl_c);
    Ok(editor)
}

/// Blocks this thread. The runtime's other threads keep serving the connection.
fn read_line(editor: &mut Editor<(), MemHistory>) -> Result<Option<String>, Error> {
    match tokio::task::block_in_place(|| editor.readline("> ")) {
        Ok(line) => Ok(Some(line)),
        Err(ReadlineError::Interrupted | ReadlineError::Eof) => Ok(None),
        Err(error) => Err(to_error(error)),
    }
}

fn to_error(error: ReadlineError) -> Error {
    Error::Io(match error {
        ReadlineError::Io(error) => error,
        other => io::Error::other(other),
    })
}

/// Clears the line. On an empty line the editor's default applies, which ends the conversation.
struct CtrlC;

impl ConditionalEventHandler for CtrlC {
    fn handle(
        &self,
        _: &Event,
        _: RepeatCount,
        _: bool,
        context: &EventContext<'_>,
    ) -> Option<Cmd> {
        (!context.line().is_empty()).then_some(Cmd::Kill(Movement::WholeBuffer))
    }
}
