//! What a connection must send first, and soon: HTTP/2's preface (RFC 9113, 3.4) or, where HTTP/1.1 is served
//! too, the head of its first request (RFC 9112, 2).
//!
//! hyper itself waits for a preface without end, and for any head 30 s: the later ones of a connection are left
//! to that. What was sent is not judged here, only whether it is whole.

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The opening of one connection, as far as it has come.
#[derive(Debug)]
pub(super) enum Opening {
    /// The preface's bytes so far, whatever they are.
    Http2(usize),
    /// The preface's bytes so far; the first that differs begins a head.
    Either(usize),
    /// A head of HTTP/1.1, and where its last byte stands.
    Http1(Line),
}

/// Where the last byte of a head stands; empty lines before the first word count for nothing.
#[derive(Clone, Copy, Debug)]
pub(super) enum Line {
    BeforeAny,
    Within,
    Ended,
    EndedAndReturned,
}

impl Opening {
    pub(super) fn new(serves_http1: bool) -> Self {
        match serves_http1 {
            true => Self::Either(0),
            false => Self::Http2(0),
        }
    }

    /// Takes these bytes in; true once all is there.
    pub(super) fn is_whole_after(&mut self, bytes: &[u8]) -> bool {
        bytes.iter().any(|byte| self.take(*byte))
    }

    fn take(&mut self, byte: u8) -> bool {
        match self {
            Self::Either(seen) if PREFACE[*seen] != byte => {
                let line = match seen {
                    0 => Line::BeforeAny,
                    _ => Line::Within,
                };
                *self = Self::Http1(line);
                self.take(byte)
            }
            Self::Http2(seen) | Self::Either(seen) => {
                *seen += 1;
                *seen == PREFACE.len()
            }
            Self::Http1(line) => line.take(byte),
        }
    }
}

impl Line {
    fn take(&mut self, byte: u8) -> bool {
        *self = match (*self, byte) {
            (Self::Ended | Self::EndedAndReturned, b'\n') => return true,
            (Self::BeforeAny, b'\r' | b'\n') => Self::BeforeAny,
            (Self::Ended, b'\r') => Self::EndedAndReturned,
            (_, b'\n') => Self::Ended,
            _ => Self::Within,
        };
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how many bytes, one by one, it is whole.
    fn whole_after(mut opening: Opening, bytes: &[u8]) -> Option<usize> {
        let place = bytes.iter().position(|byte| opening.take(*byte));
        place.map(|place| place + 1)
    }

    #[test]
    fn a_preface_is_whole_with_its_last_byte_whether_or_not_http1_is_served() {
        for serves_http1 in [false, true] {
            let opening = || Opening::new(serves_http1);
            assert_eq!(whole_after(opening(), PREFACE), Some(PREFACE.len()));
            assert_eq!(whole_after(opening(), &PREFACE[..23]), None);
        }
    }

    #[test]
    fn a_head_is_whole_with_the_empty_line_that_ends_it() {
        for head in [
            "POST / HTTP/1.1\r\nhost: a\r\n\r\n",
            "PRI / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\nhost: a\n\n",
            "\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        ] {
            let whole = whole_after(Opening::new(true), format!("{head}body\r\n\r\n").as_bytes());
            assert_eq!(whole, Some(head.len()), "{head}");
        }
        for part in ["\r\n\r\n\r\n", "GET / HTTP/1.1\r\nx: \r\rz\r\n", ""] {
            assert_eq!(whole_after(Opening::new(true), part.as_bytes()), None);
        }
    }

    #[test]
    fn bytes_that_come_together_are_taken_together() {
        let mut opening = Opening::new(true);
        assert!(!opening.is_whole_after(b"POST / HTTP/1.1\r\nho"));
        assert!(opening.is_whole_after(b"st: a\r\n\r\n\0\0\0\0\0"));
    }
}
