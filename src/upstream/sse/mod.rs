//! Turns a streamed body into events: guard, framing, eventsource-stream, [`Event`].
//!
//! Pull-based: the upstream is read only when [`Events`] is polled, so a caller that stops reading stops the reading
//! here. The stream buffers at most one chunk from hyper and one unfinished event within its limit.
//!
//! eventsource-stream gets one whole event at a time, and a large one line by line. Only then is its cost linear, which
//! `benches/sse.rs` checks. Each event gets a fresh parser. Only `id` and `retry` would last from event to event (WHATWG HTML
//! 9.2.6), and the bridge uses neither.

pub mod framing;
pub mod guard;
mod read_budget;

use std::{
    borrow::Cow,
    convert::Infallible,
    iter,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use eventsource_stream::Eventsource;
use futures_util::{FutureExt, StreamExt, stream};
use http_body::Body as _;
use http_body_util::BodyExt;
use memchr::memchr;
use secrecy::SecretString;
use tokio::time::Instant;

use self::{
    framing::{Framing, State},
    guard::{BOM, Guard, TooLong},
    read_budget::ReadBudget,
};
use super::error::{self, Error};
use crate::{call::reply::Event, memory::Account};

/// After `done`, the time and the bytes allowed for the body's end, so that its connection can be reused. uvicorn sends
/// the end at once.
const END_TIMEOUT: Duration = Duration::from_millis(500);
const END_BYTES: usize = 4096;
/// Buffer capacity kept between events. More is released, so that idle streams stay small.
const KEPT_CAPACITY: usize = 4096;
/// A poll yields to other tasks after this many bytes, about 0.1 ms of work. Each line counts as its bytes and `LINE_COST`.
const YIELD_BYTES: usize = 64 * 1024;
const LINE_COST: usize = 256;
/// An event up to this size is parsed in one piece: it has few lines, so copying them is cheap.
const SMALL_EVENT: usize = 512;

/// How to read a streamed body.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How newlines inside tokens are read.
    pub framing: Framing,
    /// Maximum size in bytes of an event's lines, inclusive. They count as received, joined by one byte each, without comments.
    /// It also limits each line, comments included.
    pub max_event_bytes: usize,
}

/// The events of one streamed body, in order. `done` or an error is the last.
#[derive(Debug)]
pub struct Events {
    body: Option<reqwest::Body>,
    settings: Settings,
    guard: Guard,
    state: State,
    line: Vec<u8>,
    block: Vec<u8>,
    event_bytes: usize,
    /// Bytes read since the last yield.
    bytes_since_yield: usize,
    last_byte: Instant,
    read_budget: ReadBudget,
    key: Option<SecretString>,
}

impl Events {
    /// Reads `body` as `settings` say, within the budget of `memory`. Errors never quote `key`.
    pub fn new(
        body: reqwest::Body,
        settings: Settings,
        memory: Arc<Account>,
        key: Option<SecretString>,
    ) -> Self {
        Self {
            body: Some(body),
            settings,
            guard: Guard::new(settings.max_event_bytes),
            state: State::default(),
            line: Vec::new(),
            block: Vec::new(),
            event_bytes: 0,
            bytes_since_yield: 0,
            last_byte: Instant::now(),
            read_budget: ReadBudget::new(memory),
            key,
        }
    }

    /// When the upstream last sent a byte, comments included.
    pub fn last_byte(&self) -> Instant {
        self.last_byte
    }

    /// The next event, or `None` after `done` or an error. Yields after some lines or bytes, whatever they contain, so that
    /// a flood can't keep a worker from other calls.
    ///
    /// # Errors
    ///
    /// - [`Error::StreamFailed`] for an `error` event, or if the body's unterminated last line is
    ///   a JSON object with `detail` or `error`.
    /// - [`Error::Truncated`] if the body ends, or its connection breaks, before `done`.
    /// - [`Error::TooLarge`] if an event or a line exceeds its limit.
    pub fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event, Error>>> {
        if self.body.is_none() {
            return Poll::Ready(None);
        }
        let mut read = self.buffered_event();
        if let Ok(None) = read
            && self.bytes_since_yield < YIELD_BYTES
        {
            match self.poll_chunk(cx) {
                Poll::Ready(Some(chunk)) => {
                    self.last_byte = Instant::now();
                    self.read_budget.record_chunk(chunk.len());
                    self.guard.push(chunk);
                    read = self.buffered_event();
                }
                Poll::Ready(None) => {
                    self.body = None;
                    let end = end_without_done(self.guard.unfinished(), self.key.as_ref());
                    return Poll::Ready(Some(Err(end)));
                }
                Poll::Pending => {
                    self.bytes_since_yield = 0;
                    self.read_budget.release_to(self.unfinished_bytes());
                    return Poll::Pending;
                }
            }
        }
        let outcome = match read {
            Ok(Some(event)) => event_or_error(event, self.key.as_ref()),
            Ok(None) => {
                self.bytes_since_yield = 0;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Err(TooLong) => Err(Error::TooLarge {
                what: error::Part::Event,
                limit: self.settings.max_event_bytes,
            }),
        };
        match outcome {
            Ok(Event::Done) => self.finish_in_background(),
            Ok(_) => {}
            Err(_) => self.body = None,
        }
        Poll::Ready(Some(outcome))
    }

    /// The next event in the buffer, as (type, data). `None` if there is none, or if it is time to yield.
    fn buffered_event(&mut self) -> Result<Option<Parsed>, TooLong> {
        while self.bytes_since_yield < YIELD_BYTES && self.guard.next_line(&mut self.line)? {
            self.count_line()?;
            let (state, line, block) = (&mut self.state, &self.line, &mut self.block);
            if self.settings.framing.read(state, line, block) {
                let event = match block.as_slice() {
                    b"\n" => None, // only a blank line
                    block => parse(block),
                };
                block.clear();
                block.shrink_to(KEPT_CAPACITY);
                self.line.shrink_to(KEPT_CAPACITY);
                if event.is_some() {
                    return Ok(event);
                }
            }
        }
        Ok(None)
    }

    /// Adds the current line to the size of its event.
    fn count_line(&mut self) -> Result<(), TooLong> {
        self.bytes_since_yield += LINE_COST + self.line.len();
        if self.line.is_empty() {
            self.event_bytes = 0;
        } else if !self.line.starts_with(b":") {
            let joint = usize::from(self.event_bytes > 0);
            self.event_bytes += joint + self.line.len();
        }
        match self.event_bytes > self.settings.max_event_bytes {
            true => Err(TooLong),
            false => Ok(()),
        }
    }

    /// Bytes of the unfinished event.
    fn unfinished_bytes(&self) -> usize {
        self.guard.unfinished().len() + self.block.len()
    }

    /// The next bytes of the body. A broken connection reads as the body's end, since neither is a `done`.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let kept = self.unfinished_bytes();
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        ready!(self.read_budget.poll_reserve(kept, cx));
        loop {
            match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(data));
                    }
                }
                Some(Err(_)) | None => return Poll::Ready(None),
            }
        }
    }

    /// Reads the body to its end in a background task. All that follows `done` is ignored, but only a body that was read
    /// to its end leaves a connection that can be reused.
    fn finish_in_background(&mut self) {
        if let Some(body) = self.body.take()
            && !body.is_end_stream()
        {
            tokio::spawn(tokio::time::timeout(END_TIMEOUT, read_to_end(body)));
        }
    }
}

async fn read_to_end(mut body: reqwest::Body) {
    let mut left = END_BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(bytes) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

/// The type and the data of an event.
type Parsed = (Cow<'static, str>, String);

/// Parses one whole event by the standard. Invalid UTF-8 becomes U+FFFD.
///
/// For each line, eventsource-stream copies the rest of its piece. For each piece, it copies all bytes withheld since an
/// invalid one. So only a small valid event is passed in one piece, which is nearly every event. All others are decoded, and
/// passed line by line. They are preceded by a line end, because the crate's own BOM rule panics on text that begins with
/// U+FEFF.
fn parse(block: &[u8]) -> Option<Parsed> {
    let canonical = canonical(block);
    if canonical.is_some() {
        return canonical;
    }
    if block.len() <= SMALL_EVENT && !block.starts_with(BOM) {
        let event = read(iter::once(block));
        if event.is_some() || str::from_utf8(block).is_ok() {
            return event;
        }
    }
    let text = str::from_utf8(block).map_or_else(|_| String::from_utf8_lossy(block), Cow::from);
    read(iter::once("\n").chain(text.split_inclusive('\n')))
}

/// Parses an event of exactly one `event: ` and one `data: ` line, the form of nearly all of ALİM's events. Without this shortcut,
/// the parser takes two thirds of the cost of a token. For all others it returns `None`.
fn canonical(block: &[u8]) -> Option<Parsed> {
    let rest = block.strip_prefix(b"event: ")?;
    let end = memchr(b'\n', rest)?;
    let data = rest[end + 1..].strip_prefix(b"data: ")?;
    let data = data.strip_suffix(b"\n\n")?;
    if end == 0 || memchr(b'\n', data).is_some() {
        return None;
    }
    let kind = match str::from_utf8(&rest[..end]).ok()? {
        "token" => Cow::Borrowed("token"), // saves an allocation
        kind => Cow::Owned(kind.to_owned()),
    };
    Some((kind, str::from_utf8(data).ok()?.to_owned()))
}

/// The first event of `pieces`. `None` if a byte is not UTF-8, because the crate withholds what follows it.
fn read(pieces: impl Iterator<Item: AsRef<[u8]>>) -> Option<Parsed> {
    let pieces = stream::iter(pieces.map(Ok::<_, Infallible>));
    let event = pieces.eventsource().next().now_or_never()??.ok()?;
    Some((event.event.into(), event.data))
}

fn event_or_error((kind, data): Parsed, key: Option<&SecretString>) -> Result<Event, Error> {
    match kind.as_ref() {
        "token" => Ok(Event::Token(data)),
        "node" => Ok(Event::Node(data)),
        "done" => Ok(Event::Done),
        "error" => Err(Error::StreamFailed {
            detail: Some(error::hide(
                error::detail_of(data.as_bytes()).unwrap_or(data),
                key,
            )),
        }),
        _ => Ok(Event::Other {
            kind: kind.into_owned(),
            data,
        }),
    }
}

fn end_without_done(unfinished: &[u8], key: Option<&SecretString>) -> Error {
    match error::is_error_object(unfinished) {
        true => Error::StreamFailed {
            detail: error::detail_of(unfinished).map(|detail| error::hide(detail, key)),
        },
        false => Error::Truncated,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The event that eventsource-stream parses from a block.
    fn parsed_by_crate(block: &[u8]) -> Option<Parsed> {
        read(iter::once(block))
    }

    #[test]
    fn an_event_of_one_line_each_needs_no_parser() {
        for (block, kind, data) in [
            ("event: token\ndata: salam\n\n", "token", "salam"),
            ("event: token\ndata: \n\n", "token", ""),
            ("event: token\ndata:   iki\n\n", "token", "  iki"),
            ("event:  x\ndata: : y\n\n", " x", ": y"),
        ] {
            let event = Some((kind.into(), data.to_owned()));
            assert_eq!(canonical(block.as_bytes()), event, "{block:?}");
            assert_eq!(parsed_by_crate(block.as_bytes()), event, "{block:?}");
        }
        for other in [
            "event: \ndata: a\n\n",
            "event: token\ndata: a\ndata: b\n\n",
            "event: token\ndata:a\n\n",
            "event: token\nid: 1\ndata: a\n\n",
            "data: a\nevent: token\n\n",
            "event: token\ndata: a\n",
        ] {
            assert_eq!(canonical(other.as_bytes()), None, "{other:?}");
        }
        assert_eq!(canonical(b"event: token\ndata: \xff\n\n"), None);
    }

    proptest! {
        #[test]
        fn the_shortcut_reads_what_the_parser_reads(
            block in "(event|data|id|retry|:|\u{feff})?(:| )?( )?(token|ə|[^\r\n]{0,3})?\n(event|data)?:? ?[^\r\n]{0,4}\n(\n|data: a\n\n)"
        ) {
            let read = canonical(block.as_bytes());
            if read.is_some() {
                prop_assert_eq!(read, parsed_by_crate(block.as_bytes()));
            }
        }

        #[test]
        fn the_shortcut_reads_any_event_of_one_line_each(
            kind in "[^\r\n]{1,8}", data in "[^\r\n]{0,16}"
        ) {
            let block = format!("event: {kind}\ndata: {data}\n\n");
            let read = canonical(block.as_bytes());
            prop_assert!(read.is_some());
            prop_assert_eq!(read, parsed_by_crate(block.as_bytes()));
        }
    }
}
