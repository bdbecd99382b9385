//! Repairs the framing of tokens: puts newlines that the upstream did not escape into the standard's form.
//!
//! ALİM writes `event: token\ndata: <text>\n\n` with the model's raw text. So a newline in a token breaks the framing, and
//! a standard parser loses text. Three states recover it without delaying any event:
//!
//! - `Out`: reads by the standard. After `event: token`, the first `data` line leads to `In`.
//! - `In`: a blank line completes the event and leads to `After`. A line that begins with `data:`, `event:`, `id:` or `retry:`
//!   is read by the standard. Any other line, a bare `data` too, is text: a newline and the line.
//! - `After`: a blank line is one more Token, a newline. A field line leads to `Out` and is read there. Any other line is a new
//!   Token, two newlines and the line, and leads to `In`. Comments are dropped in every state; in `After` one leads to `Out`.
//!
//! Model text that looks like a field, a comment or `\r` reads as such, so it can forge a `done`; see [`Framing::Strict`].

/// How `event: token` is read: the setting `SSE_FRAMING`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Recovers unescaped newlines.
    Recover,
    /// Reads by the standard alone. It is for an upstream that escapes its newlines, or adds blank lines between its events.
    Strict,
}

/// The state between two lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Outside a token.
    #[default]
    Out,
    /// After `event: token`, before its first `data` line.
    Token,
    /// Inside a token's text.
    In,
    /// After a token, where blank lines are text.
    After,
}

const NEWLINE_TOKEN: &[u8] = b"event: token\ndata:\ndata:\n";

impl Framing {
    /// Appends to `block` the lines that a standard parser must read instead of `line`. Returns true if the event is complete.
    /// The next state depends only on the state and the line. A comment adds nothing, so an endless series of heartbeats
    /// needs no memory.
    pub fn read(self, state: &mut State, line: &[u8], block: &mut Vec<u8>) -> bool {
        if line.starts_with(b":") {
            if *state == State::After {
                *state = State::Out;
            }
            return false;
        }
        if self == Self::Recover {
            match *state {
                State::In => return read_in(state, line, block),
                State::After if !is_field_line(line) => return read_after(state, line, block),
                State::Out | State::Token | State::After => *state = read_out(*state, line),
            }
        }
        push(block, &[line]);
        line.is_empty()
    }
}

fn read_out(state: State, line: &[u8]) -> State {
    match line.strip_prefix(b"event:") {
        Some(b"token" | b" token") => State::Token,
        Some(_) => State::Out,
        None if line == b"event" || line.is_empty() => State::Out,
        None if state == State::Token && (line == b"data" || line.starts_with(b"data:")) => {
            State::In
        }
        None if state == State::Token => State::Token,
        None => State::Out,
    }
}

fn read_in(state: &mut State, line: &[u8], block: &mut Vec<u8>) -> bool {
    if line.is_empty() {
        *state = State::After;
        push(block, &[b""]);
        return true;
    }
    match is_field_line(line) {
        true => push(block, &[line]),
        false => push(block, &[b"data: ", line]),
    }
    false
}

fn read_after(state: &mut State, line: &[u8], block: &mut Vec<u8>) -> bool {
    block.extend_from_slice(NEWLINE_TOKEN);
    if line.is_empty() {
        push(block, &[b""]);
        return true;
    }
    *state = State::In;
    push(block, &[b"data: ", line]);
    false
}

fn is_field_line(line: &[u8]) -> bool {
    let fields: [&[u8]; 4] = [b"data:", b"event:", b"id:", b"retry:"];
    fields.iter().any(|field| line.starts_with(field))
}

fn push(block: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|part| block.extend_from_slice(part));
    block.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reframed(lines: &[&str]) -> String {
        let (mut state, mut block) = (State::default(), Vec::new());
        for line in lines {
            Framing::Recover.read(&mut state, line.as_bytes(), &mut block);
        }
        String::from_utf8(block).expect("made of text")
    }

    #[test]
    fn well_framed_events_are_unchanged() {
        let lines = [
            "event: node",
            "data: weather",
            "",
            "event: done",
            "data: x",
            "",
        ];
        assert_eq!(reframed(&lines), lines.join("\n") + "\n");
    }

    #[test]
    fn a_line_inside_a_token_becomes_a_data_line() {
        assert_eq!(
            reframed(&["event: token", "data: a", "- b", "data", ""]),
            "event: token\ndata: a\ndata: - b\ndata: data\n\n"
        );
    }

    #[test]
    fn blank_lines_after_a_token_are_newline_tokens() {
        let token = "event: token\ndata: a\n\n";
        assert_eq!(
            reframed(&["event: token", "data: a", "", ""]),
            format!("{token}event: token\ndata:\ndata:\n\n")
        );
        assert_eq!(
            reframed(&["event: token", "data: a", "", "b", ""]),
            format!("{token}event: token\ndata:\ndata:\ndata: b\n\n")
        );
    }

    #[test]
    fn a_heartbeat_after_a_token_adds_nothing() {
        let lines = ["event: token", "data: a", "", ": ping", "", "event: token"];
        assert_eq!(
            reframed(&lines),
            "event: token\ndata: a\n\n\nevent: token\n"
        );
    }

    #[test]
    fn a_comment_inside_a_token_is_dropped() {
        assert_eq!(
            reframed(&["event: token", ": ping", "data: a", ": ping", "b", ""]),
            "event: token\ndata: a\ndata: b\n\n"
        );
    }

    #[test]
    fn only_the_token_event_is_reframed() {
        let lines = ["event: node", "data: a", "b", "", "", "data: c", "d", ""];
        assert_eq!(reframed(&lines), lines.join("\n") + "\n");
    }
}
