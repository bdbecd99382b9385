//! Where a conversation's lines come from: an editor at a terminal, else the input as it is.
//!
//! The editor has the terminal in raw mode while it waits, so Ctrl-C is a key to it and no signal; while
//! an answer comes, it is a signal again.

use std::io::{self, IsTerminal};

use rustyline::{
    Cmd, ConditionalEventHandler, Config, Editor, Event, EventContext, EventHandler, KeyEvent,
    Movement, RepeatCount, error::ReadlineError, history::MemHistory,
};
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin};

use super::Error;

/// Lines of what was typed, one at a time.
pub(super) struct Prompt {
    source: Source,
    is_a_persons: bool,
}

enum Source {
    /// Both ways are a terminal. The lines of this session can be called up again.
    Editor(Box<Editor<(), MemHistory>>),
    Lines(Lines<BufReader<Stdin>>),
}

impl Prompt {
    /// Looks at what standard input and output are.
    ///
    /// # Errors
    ///
    /// - [`Error::Io`] when the terminal can't be used.
    pub(super) fn open() -> Result<Self, Error> {
        let is_a_persons = io::stdin().is_terminal();
        let source = match is_a_persons && io::stdout().is_terminal() {
            true => Source::Editor(Box::new(editor().map_err(broken)?)),
            false => Source::Lines(BufReader::new(tokio::io::stdin()).lines()),
        };
        Ok(Self {
            source,
            is_a_persons,
        })
    }

    /// Whether a person types, and no script.
    pub(super) fn is_a_persons(&self) -> bool {
        self.is_a_persons
    }

    /// The next line that is not blank; none at the end, as at Ctrl-D, or Ctrl-C of a person.
    ///
    /// # Errors
    ///
    /// - [`Error::Io`] when the input can't be read, or is no UTF-8; [`Error::Interrupted`] at Ctrl-C
    ///   while a script is waited for.
    pub(super) async fn next(&mut self) -> Result<Option<String>, Error> {
        loop {
            let line = match &mut self.source {
                Source::Editor(editor) => edit(editor)?,
                Source::Lines(lines) => tokio::select! {
                    line = lines.next_line() => line?,
                    _ = tokio::signal::ctrl_c() => match self.is_a_persons {
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

/// Waits on this thread: the runtime's others go on with the connection meanwhile.
fn edit(editor: &mut Editor<(), MemHistory>) -> Result<Option<String>, Error> {
    match tokio::task::block_in_place(|| editor.readline("> ")) {
        Ok(line) => Ok(Some(line)),
        Err(ReadlineError::Interrupted | ReadlineError::Eof) => Ok(None),
        Err(error) => Err(broken(error)),
    }
}

fn broken(error: ReadlineError) -> Error {
    Error::Io(match error {
        ReadlineError::Io(error) => error,
        other => io::Error::other(other),
    })
}

/// Takes back what was typed; at an empty prompt it ends the conversation, as the editor has it.
struct CtrlC;

impl ConditionalEventHandler for CtrlC {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, at: &EventContext<'_>) -> Option<Cmd> {
        (!at.line().is_empty()).then_some(Cmd::Kill(Movement::WholeBuffer))
    }
}
