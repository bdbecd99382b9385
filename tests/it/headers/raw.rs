//! A handwritten call, because no correct HTTP/2 library sends what an attacker would.
//!
//! It uses one connection and one stream (RFC 9113, 3.4 and 6). Header fields are literals without indexing and
//! without Huffman codes, whose lengths fit seven bits (RFC 7541, 5.2 and 6.2.2).

use std::{net::SocketAddr, time::Duration};

use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::ask;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// How the bridge reacted to a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It began a response.
    Answered,
    /// It reset the stream, or closed the connection.
    Refused,
}

/// Invokes with these fields in addition to those that gRPC requires.
pub(super) async fn invoke(bridge: SocketAddr, fields: &[(&str, &[u8])]) -> Outcome {
    let mut head = Vec::new();
    for (name, value) in [
        (":method", &b"POST"[..]),
        (":scheme", b"http"),
        (":path", b"/alim.v1.GraphService/Invoke"),
        (":authority", b"bridge"),
        ("content-type", b"application/grpc"),
        ("te", b"trailers"),
    ]
    .iter()
    .chain(fields)
    {
        head.push(0);
        head.extend(text(name.as_bytes()));
        head.extend(text(value));
    }
    let question = ask("Salam").encode_to_vec();
    let mut message = vec![0, 0, 0, 0, u8::try_from(question.len()).expect("short")];
    message.extend(question);
    let call = [
        PREFACE.to_vec(),
        frame(SETTINGS, 0, 0, &[]),
        frame(HEADERS, END_HEADERS, 1, &head),
        frame(DATA, END_STREAM, 1, &message),
    ];
    let mut socket = TcpStream::connect(bridge).await.expect("a port");
    socket.write_all(&call.concat()).await.expect("open");
    let outcome = timeout(Duration::from_secs(10), outcome(&mut socket)).await;
    outcome.expect("in time")
}

async fn outcome(socket: &mut TcpStream) -> Outcome {
    loop {
        let mut head = [0; 9];
        if socket.read_exact(&mut head).await.is_err() {
            return Outcome::Refused;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        let _ = socket.read_exact(&mut payload).await;
        match head[3] {
            HEADERS => return Outcome::Answered,
            RESET | GOAWAY => return Outcome::Refused,
            _ => {}
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

fn text(bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len())
        .ok()
        .filter(|length| *length < 127);
    let mut text = vec![length.expect("short")];
    text.extend(bytes);
    text
}
