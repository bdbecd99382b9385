//! A page's gRPC-Web call over HTTP/1.1, byte by byte, because a test can't pause a browser between two bytes.

use std::{net::SocketAddr, time::Duration};

use alim_bridge::pb::{StreamResponse, stream_response::Event};
use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tonic::Status;

/// The timeout of every wait.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The flag of the trailers' frame (gRPC-Web, Protocol differences).
const TRAILERS: u8 = 0x80;

/// The origin that these bridges allow.
pub(super) const ORIGIN: &str = "https://app.example.az";

/// A page's connection.
pub(super) struct Page {
    socket: TcpStream,
    unread: BytesMut,
}

/// The head of an answer.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
}

/// A complete answer: its messages, and the fields of its status.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) head: Head,
    pub(super) messages: Vec<Bytes>,
    pub(super) trailers: HeaderMap,
}

impl Page {
    pub(super) async fn at(bridge: SocketAddr) -> Self {
        Self {
            socket: TcpStream::connect(bridge).await.expect("a port"),
            unread: BytesMut::new(),
        }
    }

    /// Sends these bytes and no others.
    pub(super) async fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.expect("open");
    }

    /// Calls a method from the allowed origin, with these additional headers.
    pub(super) async fn call(
        &mut self,
        method: &str,
        headers: &[(&str, &str)],
        message: impl Message,
    ) {
        let all = [
            &[
                ("content-type", "application/grpc-web+proto"),
                ("origin", ORIGIN),
            ],
            headers,
        ];
        let path = format!("/alim.v1.GraphService/{method}");
        let request = request("POST", &path, &all.concat(), &frame(&message));
        self.send(&request).await;
    }

    /// The head of the next answer.
    pub(super) async fn head(&mut self) -> Head {
        let end = loop {
            match memchr::memmem::find(&self.unread, b"\r\n\r\n") {
                Some(end) => break end,
                None => assert!(self.read().await, "closed before a head"),
            }
        };
        let head = self.unread.split_to(end + 4);
        let head = std::str::from_utf8(&head[..end]).expect("ASCII").to_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        Head {
            status: status.expect("a status line").parse().expect("a number"),
            headers: lines.map(|line| field(line, ": ")).collect(),
        }
    }

    /// The next chunk of a chunked body. `None` after the last one.
    pub(super) async fn chunk(&mut self) -> Option<Bytes> {
        let line = loop {
            match memchr::memmem::find(&self.unread, b"\r\n") {
                Some(end) => break self.unread.split_to(end + 2),
                None => assert!(self.read().await, "closed inside a body"),
            }
        };
        let size = std::str::from_utf8(&line).expect("ASCII").trim();
        let size = usize::from_str_radix(size, 16).expect("a chunk's size");
        while self.unread.len() < size + 2 {
            assert!(self.read().await, "closed inside a chunk");
        }
        let chunk = self.unread.split_to(size).freeze();
        self.unread.advance(2);
        (size > 0).then_some(chunk)
    }

    /// The chunks up to the last.
    pub(super) async fn rest(&mut self) -> Bytes {
        let mut body = BytesMut::new();
        while let Some(chunk) = self.chunk().await {
            body.extend_from_slice(&chunk);
        }
        body.freeze()
    }

    /// The next complete answer. Its status is in the body or in the head.
    pub(super) async fn answer(&mut self) -> Answer {
        let head = self.head().await;
        let body = match head.headers.get("transfer-encoding") {
            Some(_) => self.rest().await,
            None => Bytes::new(),
        };
        let (messages, trailers) = frames(body);
        let trailers = trailers.unwrap_or_else(|| head.headers.clone());
        Answer {
            head,
            messages,
            trailers,
        }
    }

    /// Waits until the bridge has closed the connection, and checks that it sent nothing.
    pub(super) async fn expect_closed(&mut self) {
        assert!(!self.read().await, "{:?}", self.unread);
    }

    /// Waits until the bridge has closed the connection, and checks that the answer is incomplete.
    pub(super) async fn expect_truncated(&mut self) {
        while self.read().await {}
        assert!(!self.unread.ends_with(b"0\r\n\r\n"), "a whole body");
    }

    /// Waits until the bridge has closed the connection, and checks that it sent no HTTP/1.1.
    pub(super) async fn expect_no_http1(&mut self) {
        while self.read().await {}
        assert!(!self.unread.starts_with(b"HTTP/1"), "{:?}", self.unread);
    }

    /// Reads available bytes. False if the bridge has closed or reset the connection.
    async fn read(&mut self) -> bool {
        let read = timeout(TIMEOUT, self.socket.read_buf(&mut self.unread)).await;
        read.expect("bytes or an end in time").unwrap_or(0) > 0
    }
}

impl Answer {
    /// The events of a Stream.
    pub(super) fn events(&self) -> Vec<Event> {
        let messages = self.messages.iter().cloned();
        messages.map(event).collect()
    }

    pub(super) fn status(&self) -> Status {
        Status::from_header_map(&self.trailers)
            .unwrap_or_else(|| panic!("no grpc-status in {self:?}"))
    }
}

/// The event of this message.
pub(super) fn event(message: Bytes) -> Event {
    let message = StreamResponse::decode(message).expect("a message");
    message.event.expect("an event")
}

/// The messages of a body, and its trailers if it has them.
pub(super) fn frames(mut body: Bytes) -> (Vec<Bytes>, Option<HeaderMap>) {
    let mut messages = Vec::new();
    while body.has_remaining() {
        let (flag, length) = (body.get_u8(), body.get_u32());
        let content = body.split_to(length as usize);
        match flag {
            0 => messages.push(content),
            TRAILERS => {
                assert!(body.is_empty(), "nothing comes after the trailers");
                let text = String::from_utf8(content.to_vec()).expect("ASCII");
                let lines = text.split_terminator("\r\n");
                return (messages, Some(lines.map(|line| field(line, ":")).collect()));
            }
            _ => panic!("a frame with the flag {flag}"),
        }
    }
    (messages, None)
}

/// An HTTP/1.1 request as bytes.
pub(super) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nhost: bridge\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

/// A message in its frame.
pub(super) fn frame(message: &impl Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).expect("short").to_be_bytes();
    [&[0][..], &length, &message].concat()
}

fn field(line: &str, between: &str) -> (HeaderName, HeaderValue) {
    let (name, value) = line.split_once(between).expect("a field");
    (
        name.parse().expect("a name"),
        value.parse().expect("a value"),
    )
}
