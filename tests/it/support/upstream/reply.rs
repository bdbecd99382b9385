//! One scripted answer: steps in their order, then exactly one ending.
//!
//! This file says what is sent; `upstream.rs` plays it. Nothing is checked, because a
//! wrong answer is as good a script as a right one: lengths that lie and chunks that stop halfway
//! are made with [`Reply::head`] and [`Reply::send`].

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use tokio_util::sync::CancellationToken;

/// What one request is answered: steps in their order, then one ending.
#[derive(Clone)]
pub(crate) struct Reply {
    pub(super) steps: Vec<Step>,
    pub(super) ending: Ending,
}

/// One step of a script, passed once it is done.
#[derive(Clone)]
pub(super) enum Step {
    Head(u16, HeaderMap),
    Send(Bytes),
    Flood(Bytes),
    Wait(Gate),
}

/// What becomes of the connection after the last step.
#[derive(Clone, Copy)]
pub(super) enum Ending {
    /// The reply is whole: the next request may come.
    Complete,
    /// As `Complete`, after the chunk that ends a chunked body.
    LastChunk,
    /// Open and silent until the peer leaves.
    Hold,
    /// FIN.
    Close,
    /// RST.
    Cut,
}

/// A point in a script that is passed once the test opens it; clones are the same gate.
#[derive(Clone, Default)]
pub(crate) struct Gate(pub(super) CancellationToken);

impl Reply {
    /// No byte at all, then a close, unless `then_hold` or `then_cut` says otherwise.
    pub(crate) fn nothing() -> Self {
        Self {
            steps: Vec::new(),
            ending: Ending::Close,
        }
    }

    /// A head with no headers but those that `header` adds; the body comes from `send`.
    pub(crate) fn head(status: u16) -> Self {
        Self {
            steps: vec![Step::Head(status, HeaderMap::new())],
            ending: Ending::Complete,
        }
    }

    /// A whole JSON answer with its length; text that is no JSON is sent as it is.
    pub(crate) fn json(status: u16, body: impl ToString) -> Self {
        let body = body.to_string();
        Self::head(status)
            .header("content-type", "application/json")
            .header("content-length", &body.len().to_string())
            .send(body)
    }

    /// A whole 200 event stream whose body is one chunk; no chunk at all if it is empty.
    pub(crate) fn sse(body: impl AsRef<[u8]>) -> Self {
        Self::sse_chunks([body])
    }

    /// A whole 200 event stream, each item its own chunk and its own write.
    pub(crate) fn sse_chunks(chunks: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        let mut head = Self::head(200)
            .header("content-type", "text/event-stream; charset=utf-8")
            .header("transfer-encoding", "chunked");
        head.ending = Ending::LastChunk;
        chunks.into_iter().fold(head, Self::chunk)
    }

    /// Sets a header of the head, in place of one of the same name.
    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        let headers = self.steps.iter_mut().find_map(|step| match step {
            Step::Head(_, headers) => Some(headers),
            Step::Send(_) | Step::Flood(_) | Step::Wait(_) => None,
        });
        let value = HeaderValue::from_str(value).expect("a header value");
        headers.expect("a reply with a head").insert(name, value);
        self
    }

    /// Bytes as they are.
    pub(crate) fn send(mut self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = Bytes::copy_from_slice(bytes.as_ref());
        self.steps.push(Step::Send(bytes));
        self
    }

    /// One more chunk; nothing if it is empty, for an empty chunk would be the last.
    pub(crate) fn chunk(self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        if bytes.is_empty() {
            return self;
        }
        let size = format!("{:x}\r\n", bytes.len());
        self.send([size.as_bytes(), bytes, b"\r\n"].concat())
    }

    /// These bytes again and again, until the peer leaves.
    pub(crate) fn flood(mut self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = Bytes::copy_from_slice(bytes.as_ref());
        self.steps.push(Step::Flood(bytes));
        self
    }

    /// Goes on only when the test opens the gate.
    pub(crate) fn wait(mut self, gate: &Gate) -> Self {
        self.steps.push(Step::Wait(gate.clone()));
        self
    }

    /// EndConditions in silence: the connection stays open, without the last chunk, until the peer closes it.
    pub(crate) fn then_hold(self) -> Self {
        self.ending(Ending::Hold)
    }

    /// EndConditions with a plain close (FIN), without the last chunk.
    pub(crate) fn then_close(self) -> Self {
        self.ending(Ending::Close)
    }

    /// EndConditions with a reset (RST), without the last chunk. What fits into the peer's window still arrives.
    pub(crate) fn then_cut(self) -> Self {
        self.ending(Ending::Cut)
    }

    fn ending(self, ending: Ending) -> Self {
        Self { ending, ..self }
    }
}

impl Gate {
    /// Lets the scripts that wait here go on, now and later.
    pub(crate) fn open(&self) {
        self.0.cancel();
    }
}

/// The head as bytes, up to and with its empty line.
pub(super) fn wire_head(status: u16, headers: &HeaderMap) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} Scripted\r\n").into_bytes();
    for (name, value) in headers {
        head.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    head.extend(b"\r\n");
    head
}
