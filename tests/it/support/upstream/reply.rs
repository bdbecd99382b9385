//! One scripted answer: steps in order, then one ending.
//!
//! This file builds the script, and `upstream.rs` plays it. Scripts are not validated, because tests need
//! invalid answers: build wrong lengths and truncated chunks with [`Reply::head`] and [`Reply::send`].

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use tokio_util::sync::CancellationToken;

/// The answer to one request.
#[derive(Clone)]
pub(crate) struct Reply {
    pub(super) steps: Vec<Step>,
    pub(super) ending: Ending,
}

/// One step of a script.
#[derive(Clone)]
pub(super) enum Step {
    Head(u16, HeaderMap),
    Send(Bytes),
    Flood(Bytes),
    Wait(Gate),
}

/// What happens to the connection after the last step.
#[derive(Clone, Copy)]
pub(super) enum Ending {
    /// The reply is complete, and the connection serves the next request.
    Complete,
    /// As `Complete`, but first sends the last chunk.
    LastChunk,
    /// Stays open and silent until the peer closes.
    Hold,
    /// FIN.
    Close,
    /// RST.
    Reset,
}

/// A step that waits until the test opens it. Clones are the same gate.
#[derive(Clone, Default)]
pub(crate) struct Gate(pub(super) CancellationToken);

impl Reply {
    /// No bytes, then a close. `then_hold` and `then_reset` change the ending.
    pub(crate) fn nothing() -> Self {
        Self {
            steps: Vec::new(),
            ending: Ending::Close,
        }
    }

    /// A head without headers. Add them with `header`, and the body with `send`.
    pub(crate) fn head(status: u16) -> Self {
        Self {
            steps: vec![Step::Head(status, HeaderMap::new())],
            ending: Ending::Complete,
        }
    }

    /// A complete JSON answer with its length. The text is not validated.
    pub(crate) fn json(status: u16, body: impl ToString) -> Self {
        let body = body.to_string();
        Self::head(status)
            .header("content-type", "application/json")
            .header("content-length", &body.len().to_string())
            .send(body)
    }

    /// A complete 200 event stream with one chunk, or none if the body is empty.
    pub(crate) fn sse(body: impl AsRef<[u8]>) -> Self {
        Self::sse_chunks([body])
    }

    /// A complete 200 event stream. Each item is one chunk and one write.
    pub(crate) fn sse_chunks(chunks: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        let mut head = Self::head(200)
            .header("content-type", "text/event-stream; charset=utf-8")
            .header("transfer-encoding", "chunked");
        head.ending = Ending::LastChunk;
        chunks.into_iter().fold(head, Self::chunk)
    }

    /// Sets a header, and replaces one with the same name.
    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        let headers = self.steps.iter_mut().find_map(|step| match step {
            Step::Head(_, headers) => Some(headers),
            Step::Send(_) | Step::Flood(_) | Step::Wait(_) => None,
        });
        let value = HeaderValue::from_str(value).expect("a header value");
        headers.expect("a reply with a head").insert(name, value);
        self
    }

    /// Sends these bytes.
    pub(crate) fn send(mut self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = Bytes::copy_from_slice(bytes.as_ref());
        self.steps.push(Step::Send(bytes));
        self
    }

    /// Sends a chunk. Sends nothing if it is empty, because an empty chunk is the last one.
    pub(crate) fn chunk(self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        if bytes.is_empty() {
            return self;
        }
        let size = format!("{:x}\r\n", bytes.len());
        self.send([size.as_bytes(), bytes, b"\r\n"].concat())
    }

    /// Repeats these bytes until the peer closes.
    pub(crate) fn flood(mut self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = Bytes::copy_from_slice(bytes.as_ref());
        self.steps.push(Step::Flood(bytes));
        self
    }

    /// Waits until the test opens the gate.
    pub(crate) fn wait(mut self, gate: &Gate) -> Self {
        self.steps.push(Step::Wait(gate.clone()));
        self
    }

    /// Ends silently: without the last chunk, and open until the peer closes.
    pub(crate) fn then_hold(self) -> Self {
        self.ending(Ending::Hold)
    }

    /// Ends with FIN, without the last chunk.
    pub(crate) fn then_close(self) -> Self {
        self.ending(Ending::Close)
    }

    /// Ends with RST, without the last chunk. Bytes that fit into the peer's window still arrive.
    pub(crate) fn then_reset(self) -> Self {
        self.ending(Ending::Reset)
    }

    fn ending(self, ending: Ending) -> Self {
        Self { ending, ..self }
    }
}

impl Gate {
    /// Opens the gate for current and later scripts.
    pub(crate) fn open(&self) {
        self.0.cancel();
    }
}

/// The head as bytes, with its empty line.
pub(super) fn wire_head(status: u16, headers: &HeaderMap) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} Scripted\r\n").into_bytes();
    for (name, value) in headers {
        head.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    head.extend(b"\r\n");
    head
}
