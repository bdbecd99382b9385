//! Bytes into lines that are safe to parse: whole, bounded, without a byte order mark.
//!
//! Stands before [`framing`](super::framing) and eventsource-stream, which panics on a BOM and is
//! quadratic in long lines. The invariant: each byte is looked at once, wherever the chunks are cut,
//! and at most `limit` bytes of an unfinished line are kept.
//!
//! Rules: WHATWG HTML 9.2.5 (one leading BOM of the stream is dropped; a line ends at CR LF, LF or
//! CR). Lines are decoded later, an event at a time, which is the same as decoding the stream: CR and
//! LF are never inside a UTF-8 sequence.

use std::mem;

use bytes::{Buf, Bytes};
use memchr::memchr2;

/// U+FEFF in UTF-8.
pub(super) const BOM: &[u8] = b"\xEF\xBB\xBF";
/// Kept between lines; what a longer line needed is given back, so that idle streams stay small.
const KEPT_CAPACITY: usize = 4096;

/// A line longer than the limit; it was not kept.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong;

/// Cuts chunks into lines.
#[derive(Debug)]
pub struct Guard {
    chunk: Bytes,
    unfinished: Vec<u8>,
    limit: usize,
    at_start: bool,
    after_cr: bool,
}

impl Guard {
    /// A guard that lets lines of exactly `limit` bytes pass, line end not counted, and none longer.
    pub fn new(limit: usize) -> Self {
        Self {
            chunk: Bytes::new(),
            unfinished: Vec::new(),
            limit,
            at_start: true,
            after_cr: false,
        }
    }

    /// Takes the next chunk. Ask for lines until there is none before giving another.
    pub fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty(), "lines of the last chunk are left");
        self.chunk = chunk;
    }

    /// Writes the next line into `line` in place of what it held, its end taken off; false when the
    /// chunk holds no further whole line.
    ///
    /// # Errors
    ///
    /// - [`TooLong`] as soon as a line is known to exceed the limit, finished or not.
    pub fn next_line(&mut self, line: &mut Vec<u8>) -> Result<bool, TooLong> {
        if self.chunk.is_empty() {
            self.chunk = Bytes::new(); // gives hyper's buffer back, or it would take a new one each time
            return Ok(false);
        }
        if mem::take(&mut self.after_cr) && self.chunk[0] == b'\n' {
            self.chunk.advance(1);
        }
        let end = memchr2(b'\n', b'\r', &self.chunk);
        if self.unfinished.len() + end.unwrap_or(self.chunk.len()) > self.limit {
            return Err(TooLong);
        }
        let Some(end) = end else {
            self.unfinished.extend_from_slice(&self.chunk);
            self.chunk = Bytes::new();
            return Ok(false);
        };
        self.after_cr = self.chunk[end] == b'\r';
        line.clear();
        if self.unfinished.is_empty() {
            let whole = &self.chunk[..end];
            line.extend_from_slice(without_bom(whole, &mut self.at_start));
        } else {
            self.unfinished.extend_from_slice(&self.chunk[..end]);
            line.extend_from_slice(without_bom(&self.unfinished, &mut self.at_start));
            self.unfinished.clear();
            self.unfinished.shrink_to(KEPT_CAPACITY);
        }
        self.chunk.advance(end + 1);
        Ok(true)
    }

    /// The bytes of the last line, when the body ended before the line did.
    pub fn unfinished(&self) -> &[u8] {
        &self.unfinished
    }
}

fn without_bom<'a>(line: &'a [u8], at_start: &mut bool) -> &'a [u8] {
    match mem::take(at_start) {
        true => line.strip_prefix(BOM).unwrap_or(line),
        false => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(limit: usize, chunks: &[&[u8]]) -> Result<Vec<String>, TooLong> {
        let mut guard = Guard::new(limit);
        let (mut out, mut line) = (Vec::new(), Vec::new());
        for chunk in chunks {
            guard.push(Bytes::copy_from_slice(chunk));
            while guard.next_line(&mut line)? {
                out.push(String::from_utf8_lossy(&line).into_owned());
            }
        }
        Ok(out)
    }

    #[test]
    fn every_line_end_of_the_standard_ends_one_line() {
        let all = lines(9, &[b"a\nb\rc\r\nd\r\r\n\n"]).expect("short");
        assert_eq!(all, ["a", "b", "c", "d", "", ""]);
    }

    #[test]
    fn a_crlf_cut_in_two_is_one_line_end() {
        assert_eq!(
            lines(9, &[b"a\r", b"", b"\nb\n"]).expect("short"),
            ["a", "b"]
        );
    }

    #[test]
    fn only_the_first_byte_order_mark_of_the_stream_is_dropped() {
        let all = lines(9, &[b"\xEF", b"\xBB\xBF\xEF\xBB\xBFa\n\xEF\xBB\xBFb\n"]).expect("short");
        assert_eq!(all, ["\u{feff}a", "\u{feff}b"]);
    }

    #[test]
    fn a_line_of_exactly_the_limit_passes_and_one_byte_more_does_not() {
        assert_eq!(lines(3, &[b"ab", b"c\n"]).expect("fits"), ["abc"]);
        assert_eq!(lines(3, &[b"ab", b"cd\n"]), Err(TooLong));
        assert_eq!(
            lines(3, &[b"ab", b"cd"]),
            Err(TooLong),
            "told before its end"
        );
    }

    proptest! {
        #[test]
        fn any_split_gives_the_lines_of_the_whole(
            body in proptest::collection::vec(
                prop_oneof![Just(b'\r'), Just(b'\n'), Just(0xEF), Just(0xBB), Just(0xBF), any::<u8>()],
                0..200,
            ),
            cuts in proptest::collection::vec(0usize..200, 0..20),
        ) {
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(body.len())).collect();
            cuts.extend([0, body.len()]);
            cuts.sort_unstable();
            let chunks: Vec<_> = cuts.windows(2).map(|pair| &body[pair[0]..pair[1]]).collect();
            prop_assert_eq!(lines(1000, &chunks), lines(1000, &[&body]));
        }
    }
}
