//! HTTP/2 written by hand, because no decent library sends what an attacker would.
//!
//! Frames are as RFC 9113, 4.1 has them; header fields are literals without indexing and without Huffman
//! codes, whose lengths fit seven bits (RFC 7541, 5.2 and 6.2.2).

use std::{io, net::SocketAddr, time::Duration};

use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::ask_stream;

/// RFC 9113, 3.4.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Types of frames (RFC 9113, 6).
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RESET: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const CONTINUATION: u8 = 9;
/// Flags of frames.
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// RFC 9113, 7.
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;
pub(crate) const CANCEL: u32 = 8;

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection to the bridge on which anything can be sent.
pub(crate) struct Raw(pub(crate) TcpStream);

/// A frame that the bridge sent.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) payload: Vec<u8>,
}

impl Raw {
    /// Connects, and sends the preface with these settings.
    pub(crate) async fn open(bridge: SocketAddr, settings: &[u8]) -> Self {
        let mut raw = Self(TcpStream::connect(bridge).await.expect("a port"));
        let hello = [PREFACE, &frame(SETTINGS, 0, 0, settings)].concat();
        raw.send(&hello).await.expect("open");
        raw
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await
    }

    /// The next frame of this type, or `None` when the connection has ended.
    ///
    /// # Panics
    /// After 20 s without either.
    pub(crate) async fn next(&mut self, kind: u8) -> Option<Frame> {
        let next = async {
            loop {
                let frame = self.any().await.ok()?;
                if frame.kind == kind {
                    return Some(frame);
                }
            }
        };
        let next = timeout(PATIENCE, next).await;
        next.unwrap_or_else(|_| panic!("after {PATIENCE:?} no frame of type {kind}, and no end"))
    }

    async fn any(&mut self) -> io::Result<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload).await?;
        Ok(Frame {
            kind: head[3],
            payload,
        })
    }

    /// Why the bridge says goodbye: the code of its GOAWAY, or `None` when it just closes.
    pub(crate) async fn goodbye(&mut self) -> Option<u32> {
        let goaway = self.next(GOAWAY).await?;
        let code = goaway.payload.get(4..8)?;
        Some(u32::from_be_bytes(code.try_into().expect("four bytes")))
    }
}

/// One frame as bytes.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A block of header fields: those that gRPC needs for this method of ours, and more.
pub(crate) fn head(method: &str, fields: &[(&str, &[u8])]) -> Vec<u8> {
    head_of(&format!("/alim.v1.GraphService/{method}"), fields)
}

/// A block of header fields: those that gRPC needs for this path, and more.
pub(crate) fn head_of(path: &str, fields: &[(&str, &[u8])]) -> Vec<u8> {
    let usual: [(&str, &[u8]); 6] = [
        (":method", b"POST"),
        (":scheme", b"http"),
        (":path", path.as_bytes()),
        (":authority", b"bridge"),
        ("content-type", b"application/grpc"),
        ("te", b"trailers"),
    ];
    let fields = usual.iter().chain(fields);
    fields
        .flat_map(|(name, value)| field(name, value))
        .collect()
}

/// One header field.
pub(crate) fn field(name: &str, value: &[u8]) -> Vec<u8> {
    let mut field = vec![0];
    for text in [name.as_bytes(), value] {
        let length = u8::try_from(text.len()).ok();
        field.push(length.filter(|length| *length < 127).expect("short"));
        field.extend(text);
    }
    field
}

/// A call of either method, whole: its head and its message.
pub(crate) fn call(method: &str, stream: u32, fields: &[(&str, &[u8])]) -> Vec<u8> {
    let question = ask_stream("Salam").encode_to_vec();
    let mut message = vec![0, 0, 0, 0, u8::try_from(question.len()).expect("short")];
    message.extend(question);
    let head = frame(HEADERS, END_HEADERS, stream, &head(method, fields));
    [head, frame(DATA, END_STREAM, stream, &message)].concat()
}
