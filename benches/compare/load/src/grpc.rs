//! A bare gRPC caller on h2, which shows the DATA frames and costs little.
//!
//! Its windows are those of a tonic caller, except that a caller who stalls gives each stream gRPC's 64 KiB
//! and the connection no bound, so that every stream comes to its own halt.

use std::net::SocketAddr;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::{RecvStream, client::SendRequest};
use http::{HeaderMap, Request};
use prost::Message;
use tokio::net::TcpStream;

use crate::{AnyError, pb};

/// What hyper, and so tonic, gives a stream and a connection.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 5 << 20;
const STALLED_STREAM_WINDOW: u32 = 65_535;
const STALLED_CONNECTION_WINDOW: u32 = (1 << 31) - 1;
const MAX_STREAMS: usize = 20_000;

/// Whether callers read what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// They do.
    Always,
    /// Not after the first event.
    Stalls,
}

/// A connection to a subject.
#[derive(Clone)]
pub struct Connection {
    sender: SendRequest<Bytes>,
    authority: String,
}

impl Connection {
    /// Connects; the connection lives on in a task.
    pub async fn open(address: SocketAddr, reading: Reading) -> Result<Self, AnyError> {
        let (stream, connection) = match reading {
            Reading::Always => (STREAM_WINDOW, CONNECTION_WINDOW),
            Reading::Stalls => (STALLED_STREAM_WINDOW, STALLED_CONNECTION_WINDOW),
        };
        let io = TcpStream::connect(address).await?;
        io.set_nodelay(true)?;
        let (sender, driver) = h2::client::Builder::new()
            .initial_window_size(stream)
            .initial_connection_window_size(connection)
            .initial_max_send_streams(MAX_STREAMS)
            .data_frame_budget(usize::MAX) // the load must outlive what a tonic caller would not
            .handshake(io)
            .await?;
        tokio::task::spawn_local(driver);
        Ok(Self {
            sender,
            authority: address.to_string(),
        })
    }

    /// Calls a method and waits for the answer's head.
    pub async fn call(&self, method: &str, message: &str) -> Result<RecvStream, AnyError> {
        let request = Request::post(format!(
            "http://{}/alim.v1.GraphService/{method}",
            self.authority
        ))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
        let mut sender = self.sender.clone().ready().await?;
        let (response, mut body) = sender.send_request(request, false)?;
        body.send_data(framed(message), true)?;
        let response = response.await?;
        judge(response.headers())?;
        Ok(response.into_body())
    }
}

/// Waits for the end of an answer, and says whether it is OK.
///
/// # Errors
///
/// - Any, when the status is not OK.
pub async fn end(body: &mut RecvStream) -> Result<(), AnyError> {
    match body.trailers().await? {
        Some(trailers) => judge(&trailers),
        None => Err("no trailers".into()),
    }
}

fn judge(headers: &HeaderMap) -> Result<(), AnyError> {
    match headers.get("grpc-status").map(|status| status.as_bytes()) {
        None | Some(b"0") => Ok(()),
        Some(_) => {
            let text = |name| headers.get(name).map(|value| format!("{value:?}"));
            Err(format!("{:?} {:?}", text("grpc-status"), text("grpc-message")).into())
        }
    }
}

/// Both requests are alike on the wire.
fn framed(message: &str) -> Bytes {
    let request = pb::StreamRequest {
        message: message.into(),
        ..Default::default()
    };
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(request.encoded_len() as u32);
    request
        .encode(&mut frame)
        .expect("a BytesMut grows as needed");
    frame.freeze()
}

/// What a message of a stream was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A token's text.
    Token(&'a [u8]),
    /// A node, done, or other.
    Else,
}

/// Puts messages together from DATA frames.
#[derive(Default)]
pub struct Messages {
    rest: BytesMut,
}

impl Messages {
    /// Gives each message that `piece` completes.
    pub fn each(&mut self, piece: Bytes, mut take: impl FnMut(Event<'_>)) {
        if self.rest.is_empty() {
            let left = split(&piece, &mut take);
            self.rest.extend_from_slice(&piece[left..]);
            return;
        }
        self.rest.extend_from_slice(&piece);
        let left = split(&self.rest, &mut take);
        self.rest.advance(left);
        if self.rest.is_empty() {
            self.rest = BytesMut::new();
        }
    }
}

/// Where the first message begins that is not whole.
fn split(bytes: &[u8], take: &mut impl FnMut(Event<'_>)) -> usize {
    let mut at = 0;
    while let Some([_, length @ ..]) = bytes.get(at..at + 5) {
        let length = u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
        let Some(message) = bytes.get(at + 5..at + 5 + length) else {
            break;
        };
        take(event(message));
        at += 5 + length;
    }
    at
}

/// Reads `StreamResponse.token.text` where it stands; all lengths of this load's tokens take one byte.
fn event(message: &[u8]) -> Event<'_> {
    const FIELD_1: u8 = 0x0a;
    match message {
        [FIELD_1, _, FIELD_1, length, text @ ..] if text.len() >= usize::from(*length) => {
            Event::Token(&text[..usize::from(*length)])
        }
        [FIELD_1, 0] => Event::Token(b""),
        _ => Event::Else,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Vec<u8> {
        let token = pb::Token { text: text.into() };
        let event = Some(pb::stream_response::Event::Token(token));
        let message = pb::StreamResponse { event }.encode_to_vec();
        [&[0, 0, 0, 0, message.len() as u8], &message[..]].concat()
    }

    #[test]
    fn messages_are_whole_wherever_frames_are_cut() {
        let bytes = [message("abc"), message(""), message(" sahə")].concat();
        for size in 1..=bytes.len() {
            let (mut messages, mut texts) = (Messages::default(), Vec::new());
            for piece in bytes.chunks(size) {
                messages.each(Bytes::copy_from_slice(piece), |event| match event {
                    Event::Token(text) => texts.push(text.to_vec()),
                    Event::Else => panic!("only tokens were sent"),
                });
            }
            assert_eq!(
                texts,
                [b"abc".to_vec(), Vec::new(), " sahə".as_bytes().to_vec()]
            );
        }
    }
}
