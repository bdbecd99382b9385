//! The meaning of ALİM's unescaped newlines: the forms that UPSTREAM lists, mixtures of them, and ambiguous text.
//!
//! A token is sent as `event: token`, `data: <text>` and a blank line, with its own newlines unescaped. Each case is one
//! whole stream. Only the text of `Token` events is compared, up to the first `done`. If a case has no `done`, the missing
//! end is not an error of the framing.

/// The model's text, its bytes on the wire, and the result of each framing.
pub(crate) struct Framing {
    pub(crate) name: &'static str,
    /// The tokens of the model.
    pub(crate) tokens: &'static [&'static str],
    pub(crate) wire: &'static [u8],
    /// The text of each `Token`, in `recover`.
    pub(crate) arrives: &'static [&'static str],
    /// `arrives`, joined.
    pub(crate) joined: &'static str,
    /// The joined text in `strict`, as the standard reads the wire.
    pub(crate) strict_joined: &'static str,
}

/// The table. Up to the limits at its end, `joined` is the model's text.
pub(crate) const FRAMING: &[Framing] = &[
    // Forms that were observed.
    Framing {
        name: "one newline",
        tokens: &["\n"],
        wire: b"event: token\ndata: \n\n\n",
        arrives: &["", "\n"],
        joined: "\n",
        strict_joined: "",
    },
    Framing {
        name: "two newlines",
        tokens: &["\n\n"],
        wire: b"event: token\ndata: \n\n\n\n",
        arrives: &["", "\n", "\n"],
        joined: "\n\n",
        strict_joined: "",
    },
    Framing {
        name: "newline at the end",
        tokens: &["abc\n"],
        wire: b"event: token\ndata: abc\n\n\n",
        arrives: &["abc", "\n"],
        joined: "abc\n",
        strict_joined: "abc",
    },
    Framing {
        name: "newline at the start",
        tokens: &["\n- maddə"],
        wire: b"event: token\ndata: \n- madd\xc9\x99\n\n",
        arrives: &["\n- maddə"],
        joined: "\n- maddə",
        strict_joined: "",
    },
    Framing {
        name: "newline in the middle",
        tokens: &["a\nb"],
        wire: b"event: token\ndata: a\nb\n\n",
        arrives: &["a\nb"],
        joined: "a\nb",
        strict_joined: "a",
    },
    Framing {
        name: "blank line in the middle",
        tokens: &["a\n\nb"],
        wire: b"event: token\ndata: a\n\nb\n\n",
        arrives: &["a", "\n\nb"],
        joined: "a\n\nb",
        strict_joined: "a",
    },
    Framing {
        name: "leading spaces",
        tokens: &["  iki"],
        wire: b"event: token\ndata:   iki\n\n",
        arrives: &["  iki"],
        joined: "  iki",
        strict_joined: "  iki",
    },
    // Mixtures.
    Framing {
        name: "blank line in the middle, newline at the end",
        tokens: &["a\n\nb\n"],
        wire: b"event: token\ndata: a\n\nb\n\n\n",
        arrives: &["a", "\n\nb", "\n"],
        joined: "a\n\nb\n",
        strict_joined: "a",
    },
    Framing {
        name: "blank lines at both ends",
        tokens: &["\n\na\n\n"],
        wire: b"event: token\ndata: \n\na\n\n\n\n",
        arrives: &["", "\n\na", "\n", "\n"],
        joined: "\n\na\n\n",
        strict_joined: "",
    },
    Framing {
        name: "several paragraphs",
        tokens: &["a\nb\n\nc\nd\n\n\ne"],
        wire: b"event: token\ndata: a\nb\n\nc\nd\n\n\ne\n\n",
        arrives: &["a\nb", "\n\nc\nd", "\n", "\n\ne"],
        joined: "a\nb\n\nc\nd\n\n\ne",
        strict_joined: "a",
    },
    Framing {
        name: "newline tokens in a row",
        tokens: &["a", "\n", "\n\n", "b"],
        wire: b"event: token\ndata: a\n\nevent: token\ndata: \n\n\n\
              event: token\ndata: \n\n\n\nevent: token\ndata: b\n\n",
        arrives: &["a", "", "\n", "", "\n", "\n", "b"],
        joined: "a\n\n\nb",
        strict_joined: "ab",
    },
    Framing {
        name: "newline and text apart",
        tokens: &["a\n", "b", "\nc"],
        wire: b"event: token\ndata: a\n\n\nevent: token\ndata: b\n\n\
              event: token\ndata: \nc\n\n",
        arrives: &["a", "\n", "b", "\nc"],
        joined: "a\nb\nc",
        strict_joined: "ab",
    },
    Framing {
        name: "indented lines and lines of spaces",
        tokens: &["\n  a\n \n\n  b"],
        wire: b"event: token\ndata: \n  a\n \n\n  b\n\n",
        arrives: &["\n  a\n ", "\n\n  b"],
        joined: "\n  a\n \n\n  b",
        strict_joined: "",
    },
    Framing {
        name: "empty token",
        tokens: &["", "a", ""],
        wire: b"event: token\ndata: \n\nevent: token\ndata: a\n\n\
              event: token\ndata: \n\n",
        arrives: &["", "a", ""],
        joined: "a",
        strict_joined: "a",
    },
    Framing {
        name: "letters beyond ASCII and U+2028",
        tokens: &["ə\n\u{2028}🌾"],
        wire: b"event: token\ndata: \xc9\x99\n\xe2\x80\xa8\xf0\x9f\x8c\xbe\n\n",
        arrives: &["ə\n\u{2028}🌾"],
        joined: "ə\n\u{2028}🌾",
        strict_joined: "ə",
    },
    // Text lines that resemble fields.
    Framing {
        name: "name and colon that are no field",
        tokens: &["a\nfoo: bar", "b\n\nfoo: bar"],
        wire: b"event: token\ndata: a\nfoo: bar\n\nevent: token\ndata: b\n\nfoo: bar\n\n",
        arrives: &["a\nfoo: bar", "b", "\n\nfoo: bar"],
        joined: "a\nfoo: barb\n\nfoo: bar",
        strict_joined: "ab",
    },
    Framing {
        name: "bare data",
        tokens: &["a\ndata", "b\n\ndata"],
        wire: b"event: token\ndata: a\ndata\n\nevent: token\ndata: b\n\ndata\n\n",
        arrives: &["a\ndata", "b", "\n\ndata"],
        joined: "a\ndatab\n\ndata",
        strict_joined: "a\nb",
    },
    Framing {
        name: "bare event, id and retry",
        tokens: &["a\nid\nretry", "b\n\nevent", "c\nevent"],
        wire: b"event: token\ndata: a\nid\nretry\n\nevent: token\ndata: b\n\nevent\n\n\
              event: token\ndata: c\nevent\n\n",
        arrives: &["a\nid\nretry", "b", "\n\nevent", "c\nevent"],
        joined: "a\nid\nretryb\n\neventc\nevent",
        strict_joined: "ab",
    },
    Framing {
        name: "field name in a sentence",
        tokens: &["a\nevent without colon\ndata here: x"],
        wire: b"event: token\ndata: a\nevent without colon\ndata here: x\n\n",
        arrives: &["a\nevent without colon\ndata here: x"],
        joined: "a\nevent without colon\ndata here: x",
        strict_joined: "a",
    },
    Framing {
        name: "field in other letters or indented",
        tokens: &["a\nData: x\n data: y\n\n\tdata: z"],
        wire: b"event: token\ndata: a\nData: x\n data: y\n\n\tdata: z\n\n",
        arrives: &["a\nData: x\n data: y", "\n\n\tdata: z"],
        joined: "a\nData: x\n data: y\n\n\tdata: z",
        strict_joined: "a",
    },
    Framing {
        name: "space before the colon",
        tokens: &["a\ndata : x\n\nevent : y"],
        wire: b"event: token\ndata: a\ndata : x\n\nevent : y\n\n",
        arrives: &["a\ndata : x", "\n\nevent : y"],
        joined: "a\ndata : x\n\nevent : y",
        strict_joined: "a",
    },
    // Lines between tokens.
    Framing {
        name: "newline token before done",
        tokens: &["a", "\n"],
        wire: b"event: token\ndata: a\n\nevent: token\ndata: \n\n\n\
              event: done\ndata: [DONE]\n\n",
        arrives: &["a", "", "\n"],
        joined: "a\n",
        strict_joined: "a",
    },
    Framing {
        name: "nothing counts after done",
        tokens: &["a"],
        wire: b"event: token\ndata: a\n\nevent: done\ndata: [DONE]\n\n\n\
              event: token\ndata: b\n\n",
        arrives: &["a"],
        joined: "a",
        strict_joined: "a",
    },
    Framing {
        name: "heartbeat between tokens",
        tokens: &["a", "b\n", "c"],
        wire: b"event: token\ndata: a\n\n: ping\n\n\
              event: token\ndata: b\n\n\n:\n\n: ping\n\nevent: token\ndata: c\n\n",
        arrives: &["a", "b", "\n", "c"],
        joined: "ab\nc",
        strict_joined: "abc",
    },
    Framing {
        name: "heartbeat without a blank line",
        tokens: &["a\n", "b"],
        wire: b"event: token\ndata: a\n\n\n: ping\nevent: token\ndata: b\n\n",
        arrives: &["a", "\n", "b"],
        joined: "a\nb",
        strict_joined: "ab",
    },
    Framing {
        name: "node between tokens",
        tokens: &["a\n", "b"],
        wire: b"event: token\ndata: a\n\n\nevent: node\ndata: x\n\n\
              event: token\ndata: b\n\n",
        arrives: &["a", "\n", "b"],
        joined: "a\nb",
        strict_joined: "ab",
    },
    Framing {
        name: "events with other names are unchanged",
        tokens: &["a"],
        wire: b"event: node\ndata: x\ny\n\n\n\nz\n\nevent: tokens\ndata: x\ny\n\n\n\
              event:  token\ndata: x\n\n\nevent: token\ndata: a\n\n",
        arrives: &["a"],
        joined: "a",
        strict_joined: "a",
    },
    Framing {
        name: "event name without data is forgotten",
        tokens: &["a"],
        wire: b"event: token\n\ndata: x\n\n\nevent: token\ndata: a\n\n",
        arrives: &["a"],
        joined: "a",
        strict_joined: "a",
    },
    Framing {
        name: "last event name decides",
        tokens: &["a\nb"],
        wire: b"event: token\nevent: node\ndata: x\ny\n\n\nevent: node\n\
              event: token\ndata: a\nb\n\n",
        arrives: &["a\nb"],
        joined: "a\nb",
        strict_joined: "a",
    },
    Framing {
        name: "other fields of a token",
        tokens: &["a\nb", "c"],
        wire: b"event: token\nid: 7\nretry: 9\n: ping\ndata: a\nb\n\nid: 8\n\
              event: token\ndata: c\n\n",
        arrives: &["a\nb", "c"],
        joined: "a\nbc",
        strict_joined: "ac",
    },
    Framing {
        name: "no space after the colons",
        tokens: &["a\n\nb"],
        wire: b"event:token\ndata:a\n\nb\n\n",
        arrives: &["a", "\n\nb"],
        joined: "a\n\nb",
        strict_joined: "a",
    },
    Framing {
        name: "token that the server escapes",
        tokens: &["a\nb\n"],
        wire: b"event: token\ndata: a\ndata: b\ndata:\n\n",
        arrives: &["a\nb\n"],
        joined: "a\nb\n",
        strict_joined: "a\nb\n",
    },
    // Other line ends.
    Framing {
        name: "CRLF server",
        tokens: &["a\nb", "\n", "c\n\nd"],
        wire: b"event: token\r\ndata: a\nb\r\n\r\nevent: token\r\ndata: \n\r\n\r\n\
              event: token\r\ndata: c\n\nd\r\n\r\n",
        arrives: &["a\nb", "", "\n", "c", "\n\nd"],
        joined: "a\nb\nc\n\nd",
        strict_joined: "ac",
    },
    Framing {
        name: "CR server",
        tokens: &["a\nb\n"],
        wire: b"event: token\rdata: a\nb\n\r\r",
        arrives: &["a\nb", "\n"],
        joined: "a\nb\n",
        strict_joined: "a",
    },
    // Limits: ambiguous text. From here on `joined` is not the model's text.
    Framing {
        name: "content data line, in an event",
        tokens: &["a\ndata: b\nc"],
        wire: b"event: token\ndata: a\ndata: b\nc\n\n",
        arrives: &["a\nb\nc"],
        joined: "a\nb\nc",
        strict_joined: "a\nb",
    },
    Framing {
        name: "content data line, after a blank line",
        tokens: &["a\n\ndata: b\nc"],
        wire: b"event: token\ndata: a\n\ndata: b\nc\n\n",
        arrives: &["a"],
        joined: "a",
        strict_joined: "a",
    },
    Framing {
        name: "content event line names the event",
        tokens: &["a\nevent: x", "b"],
        wire: b"event: token\ndata: a\nevent: x\n\nevent: token\ndata: b\n\n",
        arrives: &["b"],
        joined: "b",
        strict_joined: "b",
    },
    Framing {
        name: "content event line, after a blank line",
        tokens: &["a\n\nevent: x\ndata: y", "b"],
        wire: b"event: token\ndata: a\n\nevent: x\ndata: y\n\nevent: token\ndata: b\n\n",
        arrives: &["a", "b"],
        joined: "ab",
        strict_joined: "ab",
    },
    Framing {
        name: "content id and retry lines",
        tokens: &["a\nid: b\nretry: 1\nc"],
        wire: b"event: token\ndata: a\nid: b\nretry: 1\nc\n\n",
        arrives: &["a\nc"],
        joined: "a\nc",
        strict_joined: "a",
    },
    Framing {
        name: "content comment line",
        tokens: &["a\n: b\nc", "d\n\n:e\nf"],
        wire: b"event: token\ndata: a\n: b\nc\n\nevent: token\ndata: d\n\n:e\nf\n\n",
        arrives: &["a\nc", "d"],
        joined: "a\ncd",
        strict_joined: "ad",
    },
    Framing {
        name: "content that forges a token",
        tokens: &["a\n\nevent: token\ndata: b"],
        wire: b"event: token\ndata: a\n\nevent: token\ndata: b\n\n",
        arrives: &["a", "b"],
        joined: "ab",
        strict_joined: "ab",
    },
    Framing {
        name: "content that forges the end",
        tokens: &["a\n\nevent: done\ndata: [DONE]", "b"],
        wire: b"event: token\ndata: a\n\nevent: done\ndata: [DONE]\n\n\
              event: token\ndata: b\n\n",
        arrives: &["a"],
        joined: "a",
        strict_joined: "a",
    },
    Framing {
        name: "content CR",
        tokens: &["a\rb", "c\r", "d\r\ne"],
        wire: b"event: token\ndata: a\rb\n\nevent: token\ndata: c\r\n\n\
              event: token\ndata: d\r\ne\n\n",
        arrives: &["a\nb", "c", "d\ne"],
        joined: "a\nbcd\ne",
        strict_joined: "acd",
    },
    Framing {
        name: "server that sends extra blank lines",
        tokens: &["a", "b"],
        wire: b"event: token\ndata: a\n\n\nevent: token\ndata: b\n\n",
        arrives: &["a", "\n", "b"],
        joined: "a\nb",
        strict_joined: "ab",
    },
];
