//! Splits bytes into lines that are safe to parse: complete, bounded, without a byte order mark.
//!
//! It runs before [`framing`](super::framing) and eventsource-stream, which panics on a BOM and is quadratic in long
//! lines. Each byte is examined once, however the chunks are split. At most `limit` bytes of an unfinished line are
//! buffered.
//!
//! The rules are those of WHATWG HTML 9.2.5. One leading BOM of the stream is dropped. A line ends at CR LF, LF or CR.
//! Lines are decoded later, one event at a time. That equals decoding the whole stream, because CR and LF never occur
//! inside a UTF-8 sequence.

use std::mem;

use bytes::{Buf, Bytes};
use memchr::memchr2;

/// U+FEFF in UTF-8.
pub(super) const BOM: &[u8] = b"\xEF\xBB\xBF";
/// Buffer capacity kept between lines. More is released, so that idle streams stay small.
const KEPT_CAPACITY: usize = 4096;

/// A line is longer than the limit. It was discarded.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong;

/// Splits chunks into lines.
#[derive(Debug)]
pub struct Guard {
    chunk: Bytes,
    unfinished: Vec<u8>,
    limit: usize,
    at_start: bool,
    after_cr: bool,
}

impl Guard {
    /// A guard that accepts lines of at most `limit` bytes, without their line end.
    pub fn new(limit: usize) -> Self {
        Self {
            chunk: Bytes::new(),
            unfinished: Vec::new(),
            limit,
            at_start: true,
            after_cr: false,
        }
    }

    /// Adds the next chunk. Read all lines of the last chunk first.
    pub fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty(), "lines of the last chunk are left");
        self.chunk = chunk;
    }

    /// Replaces the contents of `line` by the next line, without its end. Returns false if the chunk has no further complete
    /// line.
    ///
    /// # Errors
    ///
    /// - [`TooLong`] as soon as a line is known to exceed the limit, complete or not.
    pub fn next_line(&mut self, line: &mut Vec<u8>) -> Result<bool, TooLong> {
        if self.chunk.is_empty() {
            self.chunk = Bytes::new(); // releases hyper's buffer; otherwise hyper allocates a new one each time
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

    /// The bytes of the last line, if the body ended before the line did.
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
    fn a_split_crlf_is_one_line_end() {
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
            "reported before its end"
        );
    }

    proptest! {
        #[test]
        fn any_split_gives_the_lines_of_the_whole(
            body in proptest::collection::vec(
                prop_oneof![Just(b'\r'), Just(b'\n'), Just(0xEF), Just(0xBB), Just(0xBF), any::<u8>()],
                0..200,
            ),
            splits in proptest::collection::vec(0usize..200, 0..20),
        ) {
            let mut splits: Vec<_> = splits.into_iter().map(|split| split.min(body.len())).collect();
            splits.extend([0, body.len()]);
            splits.sort_unstable();
            let chunks: Vec<_> = splits.windows(2).map(|pair| &body[pair[0]..pair[1]]).collect();
            prop_assert_eq!(lines(1000, &chunks), lines(1000, &[&body]));
        }
    }
}
