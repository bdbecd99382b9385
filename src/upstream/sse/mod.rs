//! A streamed body into events: guard, framing, eventsource-stream, [`Event`].
//!
//! Pulled, not pumped: nothing is read from the upstream unless somebody polls [`Events`], so a
//! caller who stops reading stops the reading here. Kept at any time: one chunk as hyper gave it and
//! one unfinished event within its limit.
//!
//! eventsource-stream is handed one whole event at a time, a large one line by line: its cost is linear
//! only so, which `benches/sse.rs` checks. Nothing of the state that it would carry from event to event
//! is needed, since the bridge has no use for `id` and `retry` (WHATWG HTML 9.2.6).

pub mod framing;
pub mod guard;
mod room;

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
    room::Room,
};
use super::error::{self, Error};
use crate::{call::reply::Event, memory::Account};

/// How long, and for how many bytes, the end of a body is waited for after `done`, so that its
/// connection can serve another call. uvicorn sends it at once.
const END_TIMEOUT: Duration = Duration::from_millis(500);
const END_BYTES: usize = 4096;
/// Kept between events; what a longer one needed is given back, so that idle streams stay small.
const KEPT_CAPACITY: usize = 4096;
/// Bytes after which a poll gives way to other tasks, about 0.1 ms of work; a line is as much work as these bytes, and its own.
const TURN_BYTES: usize = 64 * 1024;
const LINE_BYTES: usize = 256;
/// Bytes up to which an event is parsed as it is: a few lines, so that copying them is cheap.
const SMALL_EVENT: usize = 512;

/// How a streamed body is to be read.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How newlines inside tokens are read.
    pub framing: Framing,
    /// Bytes that the lines of one event may have together as they came, joined by one byte each,
    /// comments not counted; exactly as many pass. No line may be longer either, comments included.
    pub max_event_bytes: usize,
}

/// The events of one streamed body, in order: after `done` or an error there are no more.
#[derive(Debug)]
pub struct Events {
    body: Option<reqwest::Body>,
    settings: Settings,
    guard: Guard,
    state: State,
    line: Vec<u8>,
    block: Vec<u8>,
    event_bytes: usize,
    /// What was read since the last poll that gave way.
    turn_bytes: usize,
    last_byte: Instant,
    room: Room,
    key: Option<SecretString>,
}

impl Events {
    /// Reads `body` as `settings` say, while `memory` has room; `key` is kept out of what failures quote.
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
            turn_bytes: 0,
            last_byte: Instant::now(),
            room: Room::new(memory),
            key,
        }
    }

    /// When the upstream last proved alive, by bytes of any kind, comments included.
    pub fn last_byte(&self) -> Instant {
        self.last_byte
    }

    /// The next event; `None` after `done` or an error. Gives way after some lines or bytes, whatever
    /// they hold: a flood must not keep a worker from other calls.
    ///
    /// # Errors
    ///
    /// - [`Error::StreamFailed`] for an `error` event, or when the body's unterminated last line is
    ///   a JSON object with `detail` or `error`.
    /// - [`Error::Truncated`] when the body ends, or is cut, before `done`.
    /// - [`Error::TooLarge`] when an event, or a line, exceeds its limit.
    pub fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event, Error>>> {
        if self.body.is_none() {
            return Poll::Ready(None);
        }
        let mut read = self.buffered_event();
        if let Ok(None) = read
            && self.turn_bytes < TURN_BYTES
        {
            match self.poll_chunk(cx) {
                Poll::Ready(Some(chunk)) => {
                    self.last_byte = Instant::now();
                    self.room.read(chunk.len());
                    self.guard.push(chunk);
                    read = self.buffered_event();
                }
                Poll::Ready(None) => {
                    self.body = None;
                    let end = end_without_done(self.guard.unfinished(), self.key.as_ref());
                    return Poll::Ready(Some(Err(end)));
                }
                Poll::Pending => {
                    self.turn_bytes = 0;
                    self.room.release_to(self.kept_bytes());
                    return Poll::Pending;
                }
            }
        }
        let outcome = match read {
            Ok(Some(event)) => event_or_error(event, self.key.as_ref()),
            Ok(None) => {
                self.turn_bytes = 0;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Err(TooLong) => Err(Error::TooLarge {
                what: error::Part::Event,
                limit: self.settings.max_event_bytes,
            }),
        };
        match outcome {
            Ok(Event::Done) => self.leave(),
            Ok(_) => {}
            Err(_) => self.body = None,
        }
        Poll::Ready(Some(outcome))
    }

    /// An event of the bytes at hand, as (type, data); none too when the turn is over.
    fn buffered_event(&mut self) -> Result<Option<(String, String)>, TooLong> {
        while self.turn_bytes < TURN_BYTES && self.guard.next_line(&mut self.line)? {
            self.count()?;
            let (state, line, block) = (&mut self.state, &self.line, &mut self.block);
            if self.settings.framing.read(state, line, block) {
                let event = match block.as_slice() {
                    b"\n" => None, // a blank line alone
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

    /// Counts the line at hand towards its event.
    fn count(&mut self) -> Result<(), TooLong> {
        self.turn_bytes += LINE_BYTES + self.line.len();
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

    /// Bytes of the event that is not whole yet.
    fn kept_bytes(&self) -> usize {
        self.guard.unfinished().len() + self.block.len()
    }

    /// The next bytes of the body; a cut connection reads as its end, since neither can be `done`.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let kept = self.kept_bytes();
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        ready!(self.room.poll(kept, cx));
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

    /// Lets the body end by itself in a task of its own: what comes after `done` is ignored, but a
    /// body that was read to its end leaves a connection that can be used again.
    fn leave(&mut self) {
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

/// Reads one whole event by the standard, where bytes that are no UTF-8 become U+FFFD.
///
/// For each line, eventsource-stream copies what is left of its piece, and for each piece what it
/// withheld since a byte that is no UTF-8. So only a small event goes as it is, which nearly always
/// does; else the event is decoded and goes line by line. The line end before it keeps the crate's own
/// BOM rule, which panics, away from text that begins with U+FEFF.
fn parse(block: &[u8]) -> Option<(String, String)> {
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

/// An event of exactly one `event: ` and one `data: ` line, as ALİM sends nearly all, without the parser: it costs two thirds of a
/// token else. All others are none here.
fn canonical(block: &[u8]) -> Option<(String, String)> {
    let rest = block.strip_prefix(b"event: ")?;
    let end = memchr(b'\n', rest)?;
    let data = rest[end + 1..].strip_prefix(b"data: ")?;
    let data = data.strip_suffix(b"\n\n")?;
    if end == 0 || memchr(b'\n', data).is_some() {
        return None;
    }
    let kind = str::from_utf8(&rest[..end]).ok()?;
    Some((kind.to_owned(), str::from_utf8(data).ok()?.to_owned()))
}

/// The first event of `pieces`; none when a byte is no UTF-8, for what follows it is withheld.
fn read(pieces: impl Iterator<Item: AsRef<[u8]>>) -> Option<(String, String)> {
    let pieces = stream::iter(pieces.map(Ok::<_, Infallible>));
    let event = pieces.eventsource().next().now_or_never()??.ok()?;
    Some((event.event, event.data))
}

fn event_or_error(
    (kind, data): (String, String),
    key: Option<&SecretString>,
) -> Result<Event, Error> {
    match kind.as_str() {
        "token" => Ok(Event::Token(data)),
        "node" => Ok(Event::Node(data)),
        "done" => Ok(Event::Done),
        "error" => Err(Error::StreamFailed {
            detail: Some(error::hide(
                error::detail_of(data.as_bytes()).unwrap_or(data),
                key,
            )),
        }),
        _ => Ok(Event::Other { kind, data }),
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

    /// What eventsource-stream makes of a block.
    fn by_the_crate(block: &[u8]) -> Option<(String, String)> {
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
            let event = Some((kind.to_owned(), data.to_owned()));
            assert_eq!(canonical(block.as_bytes()), event, "{block:?}");
            assert_eq!(by_the_crate(block.as_bytes()), event, "{block:?}");
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
        fn whatever_is_read_without_the_parser_is_what_the_parser_reads(
            block in "(event|data|id|retry|:|\u{feff})?(:| )?( )?(token|ə|[^\r\n]{0,3})?\n(event|data)?:? ?[^\r\n]{0,4}\n(\n|data: a\n\n)"
        ) {
            let read = canonical(block.as_bytes());
            if read.is_some() {
                prop_assert_eq!(read, by_the_crate(block.as_bytes()));
            }
        }

        #[test]
        fn any_event_of_one_line_each_is_what_the_parser_reads(
            kind in "[^\r\n]{1,8}", data in "[^\r\n]{0,16}"
        ) {
            let block = format!("event: {kind}\ndata: {data}\n\n");
            let read = canonical(block.as_bytes());
            prop_assert!(read.is_some());
            prop_assert_eq!(read, by_the_crate(block.as_bytes()));
        }
    }
}
