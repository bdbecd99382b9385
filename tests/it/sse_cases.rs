//! The meaning of an event stream's bytes: a table written from the WHATWG HTML standard, 9.2.6
//! (interpreting an event stream), and in [`FRAMING`] the meaning of ALİM's unescaped newlines.
//!
//! No event in [`CASES`] is named `token`, `node`, `done` or `error`, so each case holds in `recover` and in `strict`, and
//! the caller gets each event as `Other`. Each case holds for the body in one piece and for every way to split it.
//! The standard's last event id and reconnection time are not visible to a caller. Their lines are here because they
//! must not disturb the rest.

mod framing;

pub(crate) use framing::FRAMING;

/// A body and the events that the standard dispatches from it.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// The deciding sentence of the standard, in our words.
    pub(crate) rule: &'static str,
    pub(crate) body: &'static [u8],
    /// The type and data of each event.
    pub(crate) events: &'static [(&'static str, &'static str)],
}

/// The table, grouped by subject.
pub(crate) const CASES: &[Case] = &[
    // Byte order marks.
    Case {
        name: "BOM at the start",
        rule: "one leading BOM is ignored",
        body: b"\xef\xbb\xbfdata: a\n\n",
        events: &[("message", "a")],
    },
    Case {
        name: "BOM before a blank line",
        rule: "one leading BOM is ignored",
        body: b"\xef\xbb\xbf\ndata: a\n\n",
        events: &[("message", "a")],
    },
    Case {
        name: "second BOM is part of the field name",
        rule: "one leading BOM is ignored",
        body: b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n",
        events: &[("message", "b")],
    },
    Case {
        name: "BOM at a later line",
        rule: "one leading BOM is ignored",
        body: b"data: a\n\xef\xbb\xbfdata: b\n\n",
        events: &[("message", "a")],
    },
    Case {
        name: "BOM inside data",
        rule: "one leading BOM is ignored",
        body: b"data:\xef\xbb\xbfa\xef\xbb\xbf\n\n",
        events: &[("message", "\u{feff}a\u{feff}")],
    },
    Case {
        name: "two thirds of a BOM",
        rule: "the stream is decoded as UTF-8, errors become U+FFFD",
        body: b"\xef\xbbdata: a\n\ndata: b\n\n",
        events: &[("message", "b")],
    },
    Case {
        name: "body of nothing but a BOM",
        rule: "one leading BOM is ignored",
        body: b"\xef\xbb\xbf",
        events: &[],
    },
    // Line ends.
    Case {
        name: "CR",
        rule: "CRLF, LF and CR each end a line",
        body: b"event: x\rdata: a\rdata: b\r\rdata: c\r\r",
        events: &[("x", "a\nb"), ("message", "c")],
    },
    Case {
        name: "CRLF",
        rule: "CRLF, LF and CR each end a line",
        body: b"event: x\r\ndata: a\r\ndata: b\r\n\r\n",
        events: &[("x", "a\nb")],
    },
    Case {
        name: "CRLF is one line end, LF CR are two",
        rule: "CRLF, LF and CR each end a line",
        body: b"data: a\r\ndata: b\n\rdata: c\n\n",
        events: &[("message", "a\nb"), ("message", "c")],
    },
    Case {
        name: "blank line made of CR and CRLF",
        rule: "CRLF, LF and CR each end a line",
        body: b"data: a\r\r\ndata: b\n\r\n",
        events: &[("message", "a"), ("message", "b")],
    },
    Case {
        name: "CR CR at the very end",
        rule: "CRLF, LF and CR each end a line",
        body: b"data: a\r\r",
        events: &[("message", "a")],
    },
    Case {
        name: "CRLF CR at the very end",
        rule: "CRLF, LF and CR each end a line",
        body: b"data: a\r\n\r",
        events: &[("message", "a")],
    },
    Case {
        name: "other characters that end lines elsewhere",
        rule: "CRLF, LF and CR each end a line",
        body: b"data: a\x0b\x0c\x1e\xc2\x85\xe2\x80\xa8b\n\n",
        events: &[("message", "a\u{b}\u{c}\u{1e}\u{85}\u{2028}b")],
    },
    // Field names and values.
    Case {
        name: "first space is removed",
        rule: "one space after the colon is removed, no more",
        body: b"data:a\ndata: b\ndata:  c\n\n",
        events: &[("message", "a\nb\n c")],
    },
    Case {
        name: "other spaces stay",
        rule: "one space after the colon is removed, no more",
        body: b"data:\ta \ndata:\xc2\xa0b\n\n",
        events: &[("message", "\ta \n\u{a0}b")],
    },
    Case {
        name: "first space of the event name is removed",
        rule: "one space after the colon is removed, no more",
        body: b"event:x\ndata: a\n\nevent:  x\ndata: b\n\n",
        events: &[("x", "a"), (" x", "b")],
    },
    Case {
        name: "data without a colon",
        rule: "a line without a colon is a field name with an empty value",
        body: b"data\n\ndata\ndata\n\n",
        events: &[("message", ""), ("message", "\n")],
    },
    Case {
        name: "event without a colon clears the name",
        rule: "a line without a colon is a field name with an empty value",
        body: b"event: x\nevent\ndata: a\n\n",
        events: &[("message", "a")],
    },
    Case {
        name: "unknown fields",
        rule: "any other field is ignored",
        body: b"foo: x\ndata: a\nbar\n: \ndatax: b\n\n",
        events: &[("message", "a")],
    },
    Case {
        name: "names are case-sensitive",
        rule: "any other field is ignored",
        body: b"Data: a\nDATA: b\nEvent: x\ndata: c\n\n",
        events: &[("message", "c")],
    },
    Case {
        name: "spaces around a name",
        rule: "any other field is ignored",
        body: b" data: a\ndata : b\n\tdata: c\ndata: d\n\n",
        events: &[("message", "d")],
    },
    Case {
        name: "NUL in a name",
        rule: "any other field is ignored",
        body: b"da\0ta: a\n\0data: b\ndata: c\n\n",
        events: &[("message", "c")],
    },
    Case {
        name: "letters beyond ASCII in names and values",
        rule: "the stream is decoded as UTF-8, errors become U+FFFD",
        body: b"event: m\xc9\x99s\ndata: s\xc9\x99s \xf0\x9f\x8c\xbe\n\n",
        events: &[("məs", "səs 🌾")],
    },
    // Comments.
    Case {
        name: "comment lines",
        rule: "a line that begins with a colon is ignored",
        body: b": a\n:\n:data: b\ndata: c\n:d\ndata: e\n\n",
        events: &[("message", "c\ne")],
    },
    Case {
        name: "comment and blank line between events",
        rule: "a line that begins with a colon is ignored",
        body: b"data: a\n\n: ping\n\ndata: b\n\n",
        events: &[("message", "a"), ("message", "b")],
    },
    Case {
        name: "invalid UTF-8 and NUL in a comment",
        rule: "a line that begins with a colon is ignored",
        body: b":\xff\0\ndata: a\n\n",
        events: &[("message", "a")],
    },
    // Data.
    Case {
        name: "empty lines inside the data",
        rule: "data appends the value and LF; dispatch drops the last LF",
        body: b"data: a\ndata:\ndata: \ndata: b\n\n",
        events: &[("message", "a\n\n\nb")],
    },
    Case {
        name: "last data line is empty",
        rule: "data appends the value and LF; dispatch drops the last LF",
        body: b"data: a\ndata:\n\n",
        events: &[("message", "a\n")],
    },
    Case {
        name: "one empty data line is an event",
        rule: "data appends the value and LF; dispatch drops the last LF",
        body: b"data:\n\ndata: \n\n",
        events: &[("message", ""), ("message", "")],
    },
    Case {
        name: "NUL in data",
        rule: "NUL means something in id only",
        body: b"data: a\0b\n\n",
        events: &[("message", "a\0b")],
    },
    Case {
        name: "value holds colons and fields",
        rule: "the name ends at the first colon",
        body: b"data: data: a\ndata:event: x\ndata::b\n\n",
        events: &[("message", "data: a\nevent: x\n:b")],
    },
    // Types and dispatch.
    Case {
        name: "event name before and after the data, and none",
        rule: "the event field sets the type, each blank line clears it",
        body: b"event: x\ndata: a\n\ndata: b\nevent: y\n\ndata: c\n\n",
        events: &[("x", "a"), ("y", "b"), ("message", "c")],
    },
    Case {
        name: "last event name counts",
        rule: "the event field sets the type, each blank line clears it",
        body: b"event: x\nevent: y\ndata: a\n\n",
        events: &[("y", "a")],
    },
    Case {
        name: "empty event name is message",
        rule: "the event field sets the type, each blank line clears it",
        body: b"event: x\nevent:\ndata: a\n\nevent: \ndata: b\n\n",
        events: &[("message", "a"), ("message", "b")],
    },
    Case {
        name: "event without data",
        rule: "with an empty data buffer nothing is dispatched",
        body: b"event: x\n\n",
        events: &[],
    },
    Case {
        name: "type is cleared although nothing was dispatched",
        rule: "with an empty data buffer nothing is dispatched",
        body: b"event: x\n\ndata: a\n\n",
        events: &[("message", "a")],
    },
    Case {
        name: "blank lines alone",
        rule: "with an empty data buffer nothing is dispatched",
        body: b"\n\n\r\n\r\rdata: a\n\n\n\n",
        events: &[("message", "a")],
    },
    Case {
        name: "id and retry alone are no event",
        rule: "with an empty data buffer nothing is dispatched",
        body: b"id: 1\nretry: 2\n\ndata: a\n\n",
        events: &[("message", "a")],
    },
    // Ids and reconnection times.
    Case {
        name: "ids",
        rule: "id is kept for later, with NUL it is ignored",
        body: b"id: 1\ndata: a\n\nid\ndata: b\n\nid:\ndata: c\n\n",
        events: &[("message", "a"), ("message", "b"), ("message", "c")],
    },
    Case {
        name: "id with NUL",
        rule: "id is kept for later, with NUL it is ignored",
        body: b"id: 1\0\ndata: a\n\nid:\0\ndata: b\n\n",
        events: &[("message", "a"), ("message", "b")],
    },
    Case {
        name: "retry, in digits and not",
        rule: "retry takes ASCII digits only and else is ignored",
        body: b"retry: 999999999999\nretry: -1\nretry: x\nretry\nretry: \xd9\xa1\ndata: a\n\n",
        events: &[("message", "a")],
    },
    // Invalid UTF-8: one U+FFFD for each maximal part of a sequence, as the Encoding standard decodes.
    Case {
        name: "lone byte",
        rule: "the stream is decoded as UTF-8, errors become U+FFFD",
        body: b"data: a\xffb\n\n",
        events: &[("message", "a\u{fffd}b")],
    },
    Case {
        name: "lone continuation bytes",
        rule: "the stream is decoded as UTF-8, errors become U+FFFD",
        body: b"data: \x80\xbf\n\n",
        events: &[("message", "\u{fffd}\u{fffd}")],
    },
    Case {
        name: "sequence truncated by a letter",
        rule: "the stream is decoded as UTF-8, errors become U+FFFD",
        body: b"data: \xe2\x82a\xf0\x9f\x98b\n\n",
        events: &[("message", "\u{fffd}a\u{fffd}b")],
    },
    Case {
        name: "sequence truncated by LF",
        rule: "the stream is decoded as UTF-8, errors become U+FFFD",
        body: b"data: a\xf0\x9f\x98\ndata: b\xc9\n\n",
        events: &[("message", "a\u{fffd}\nb\u{fffd}")],
    },
    Case {
        name: "sequence truncated by CR",
        rule: "the stream is decoded as UTF-8, errors become U+FFFD",
        body: b"data: a\xe2\x82\r\rdata: b\xe2\r\n\r\n",
        events: &[("message", "a\u{fffd}"), ("message", "b\u{fffd}")],
    },
    Case {
        name: "sequence truncated by the next one",
        rule: "the stream is decoded as UTF-8, errors become U+FFFD",
        body: b"data: \xe2\x82\xc9\x99\xc9\xe2\x82\xac\n\n",
        events: &[("message", "\u{fffd}ə\u{fffd}€")],
    },
    Case {
        name: "overlong forms",
        rule: "the stream is decoded as UTF-8, errors become U+FFFD",
        body: b"data: \xc0\x8a|\xe0\x80\x8a|\xf0\x80\x80\x8a\n\n",
        events: &[(
            "message",
            "\u{fffd}\u{fffd}|\u{fffd}\u{fffd}\u{fffd}|\u{fffd}\u{fffd}\u{fffd}\u{fffd}",
        )],
    },
    Case {
        name: "surrogates",
        rule: "the stream is decoded as UTF-8, errors become U+FFFD",
        body: b"data: \xed\xa0\x80\xed\xb0\x80\n\n",
        events: &[(
            "message",
            "\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}",
        )],
    },
    Case {
        name: "above U+10FFFF",
        rule: "the stream is decoded as UTF-8, errors become U+FFFD",
        body: b"data: \xf4\x8f\xbf\xbf|\xf4\x90\x80\x80|\xf5\x80\n\n",
        events: &[(
            "message",
            "\u{10ffff}|\u{fffd}\u{fffd}\u{fffd}\u{fffd}|\u{fffd}\u{fffd}",
        )],
    },
    Case {
        name: "invalid bytes in a field name and an event name",
        rule: "the stream is decoded as UTF-8, errors become U+FFFD",
        body: b"event: x\xff\ndat\xe1: a\n\xc9data: b\ndata: c\n\n",
        events: &[("x\u{fffd}", "c")],
    },
    // The end of the stream.
    Case {
        name: "empty body",
        rule: "what no blank line has ended is discarded at the end",
        body: b"",
        events: &[],
    },
    Case {
        name: "last event without its blank line",
        rule: "what no blank line has ended is discarded at the end",
        body: b"data: a\n\nevent: x\ndata: b\n",
        events: &[("message", "a")],
    },
    Case {
        name: "last line without its end",
        rule: "what no blank line has ended is discarded at the end",
        body: b"data: a\n\ndata: b\n\ndata: c",
        events: &[("message", "a"), ("message", "b")],
    },
    Case {
        name: "CRLF at the end is no blank line",
        rule: "what no blank line has ended is discarded at the end",
        body: b"data: a\n\ndata: b\r\n",
        events: &[("message", "a")],
    },
    Case {
        name: "sequence truncated by the end",
        rule: "what no blank line has ended is discarded at the end",
        body: b"data: a\n\ndata: b\xe2\x82",
        events: &[("message", "a")],
    },
];
