//! Hand-written HTTP/2, because libraries do not send what an attacker would.
//!
//! Frames follow RFC 9113, 4.1. Header fields are literals without indexing and Huffman codes, and their
//! lengths fit seven bits (RFC 7541, 5.2 and 6.2.2).

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

/// The timeout of every wait.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A connection to the bridge that sends any bytes.
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

    /// The next frame of this type, or `None` if the connection has ended.
    ///
    /// # Panics
    /// After 20 s.
    pub(crate) async fn next(&mut self, kind: u8) -> Option<Frame> {
        let next = async {
            loop {
                let frame = self.any().await.ok()?;
                if frame.kind == kind {
                    return Some(frame);
                }
            }
        };
        let next = timeout(TIMEOUT, next).await;
        next.unwrap_or_else(|_| panic!("after {TIMEOUT:?} no frame of type {kind}, and no end"))
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

    /// The error code of the bridge's GOAWAY, or `None` if it only closes the connection.
    pub(crate) async fn goaway_code(&mut self) -> Option<u32> {
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

/// A header block: the fields that gRPC needs for this method of GraphService, and these.
pub(crate) fn head(method: &str, fields: &[(&str, &[u8])]) -> Vec<u8> {
    head_of(&format!("/alim.v1.GraphService/{method}"), fields)
}

/// A header block: the fields that gRPC needs for this path, and these.
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

/// A complete call of either method: HEADERS and DATA frames.
pub(crate) fn call(method: &str, stream: u32, fields: &[(&str, &[u8])]) -> Vec<u8> {
    let question = ask_stream("Salam").encode_to_vec();
    let mut message = vec![0, 0, 0, 0, u8::try_from(question.len()).expect("short")];
    message.extend(question);
    let head = frame(HEADERS, END_HEADERS, stream, &head(method, fields));
    [head, frame(DATA, END_STREAM, stream, &message)].concat()
}
