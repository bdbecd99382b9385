//! Detects the end of what a connection must send first: HTTP/2's preface (RFC 9113, 3.4), or the head of the first
//! request if HTTP/1.1 is served too (RFC 9112, 2). Here both are called the preface.
//!
//! hyper waits for HTTP/2's preface forever and for any head 30 s. Later heads of a connection are left to hyper.
//! This file does not validate the bytes. It only detects whether they are complete.

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The preface of one connection, as far as it has arrived.
#[derive(Debug)]
pub(super) enum Preface {
    /// Number of bytes of HTTP/2's preface so far, valid or not.
    Http2(usize),
    /// Number of bytes of HTTP/2's preface so far. The first byte that differs begins a head of HTTP/1.1.
    Either(usize),
    /// A head of HTTP/1.1.
    Http1(Line),
}

/// The position of a head's last byte. Empty lines before the first word are ignored.
#[derive(Clone, Copy, Debug)]
pub(super) enum Line {
    BeforeAny,
    Within,
    Ended,
    EndedAndReturned,
}

impl Preface {
    pub(super) fn new(serves_http1: bool) -> Self {
        match serves_http1 {
            true => Self::Either(0),
            false => Self::Http2(0),
        }
    }

    /// Reads `bytes`. Returns true if the preface is complete with them.
    pub(super) fn is_complete_after(&mut self, bytes: &[u8]) -> bool {
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

    /// The number of bytes, read one by one, with which the preface is complete.
    fn complete_after(mut preface: Preface, bytes: &[u8]) -> Option<usize> {
        let position = bytes.iter().position(|byte| preface.take(*byte));
        position.map(|position| position + 1)
    }

    #[test]
    fn a_preface_is_complete_with_its_last_byte_whether_or_not_http1_is_served() {
        for serves_http1 in [false, true] {
            let preface = || Preface::new(serves_http1);
            assert_eq!(complete_after(preface(), PREFACE), Some(PREFACE.len()));
            assert_eq!(complete_after(preface(), &PREFACE[..23]), None);
        }
    }

    #[test]
    fn a_head_is_complete_with_the_empty_line_that_ends_it() {
        for head in [
            "POST / HTTP/1.1\r\nhost: a\r\n\r\n",
            "PRI / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\nhost: a\n\n",
            "\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        ] {
            let complete =
                complete_after(Preface::new(true), format!("{head}body\r\n\r\n").as_bytes());
            assert_eq!(complete, Some(head.len()), "{head}");
        }
        for part in ["\r\n\r\n\r\n", "GET / HTTP/1.1\r\nx: \r\rz\r\n", ""] {
            assert_eq!(complete_after(Preface::new(true), part.as_bytes()), None);
        }
    }

    #[test]
    fn bytes_that_arrive_together_are_read_together() {
        let mut preface = Preface::new(true);
        assert!(!preface.is_complete_after(b"POST / HTTP/1.1\r\nho"));
        assert!(preface.is_complete_after(b"st: a\r\n\r\n\0\0\0\0\0"));
    }
}
