//! A bare HTTP/1.1 caller: the direct way to the upstream, and the reading half of the limit.
//!
//! It knows the stub's answers: lines are never cut by a chunk's end, so lines that are no SSE field are the
//! chunks' own and are passed over.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Poll, ready},
};

use memchr::memchr;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};

thread_local! {
    /// One buffer for all connections: an idle one then costs nothing but its socket. A read that does not fill it is
    /// known to have emptied the socket, so no second one is tried.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; 64 * 1024]);
}

/// What a line of the answer was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A token's text.
    Token(&'a [u8]),
    /// A node's name.
    Node,
    /// The last chunk has come.
    End,
}

/// A kept connection.
pub struct Connection {
    stream: TcpStream,
    /// A line that has begun.
    rest: Vec<u8>,
    event: Event,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Event {
    Token,
    Node,
    Done,
}

impl Connection {
    /// Connects without delay of small writes.
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            rest: Vec::new(),
            event: Event::Node,
        })
    }

    /// Sends a request to `/api/v1/graph/{method}`.
    pub async fn ask(&mut self, method: &str, message: &str) -> io::Result<()> {
        let body = format!(r#"{{"message":"{message}"}}"#);
        let request = format!(
            "POST /api/v1/graph/{method} HTTP/1.1\r\nhost: stub\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.write_all(request.as_bytes()).await
    }

    /// Waits for bytes and gives each line that they end; `false` when the upstream has closed.
    pub async fn read(&mut self, mut each: impl FnMut(Line<'_>)) -> io::Result<bool> {
        poll_fn(|cx| {
            BUFFER.with_borrow_mut(|buffer| {
                let mut read = ReadBuf::new(buffer);
                ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
                self.lines(read.filled(), &mut each);
                Poll::Ready(Ok(!read.filled().is_empty()))
            })
        })
        .await
    }

    /// Waits for the whole of a JSON answer.
    pub async fn read_reply(&mut self) -> io::Result<()> {
        let mut reply = Vec::with_capacity(1024);
        while !is_whole(&reply) {
            if self.stream.read_buf(&mut reply).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    fn lines(&mut self, mut bytes: &[u8], each: &mut impl FnMut(Line<'_>)) {
        while let Some(end) = memchr(b'\n', bytes) {
            let (line, after) = (&bytes[..end], &bytes[end + 1..]);
            if self.rest.is_empty() {
                self.event = line_of(line, self.event, each);
            } else {
                self.rest.extend_from_slice(line);
                self.event = line_of(&self.rest, self.event, each);
                self.rest = Vec::new();
            }
            bytes = after;
        }
        self.rest.extend_from_slice(bytes);
    }
}

fn line_of(line: &[u8], event: Event, each: &mut impl FnMut(Line<'_>)) -> Event {
    match line {
        b"event: token" => return Event::Token,
        b"event: node" => return Event::Node,
        b"event: done" => return Event::Done,
        b"0\r" => each(Line::End),
        _ => {
            if let Some(text) = line.strip_prefix(b"data: ") {
                match event {
                    Event::Token => each(Line::Token(text)),
                    Event::Node => each(Line::Node),
                    Event::Done => {}
                }
            }
        }
    }
    event
}

/// Whether an answer with a content-length is all there.
fn is_whole(reply: &[u8]) -> bool {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut response = httparse::Response::new(&mut headers);
    let Ok(httparse::Status::Complete(head)) = response.parse(reply) else {
        return false;
    };
    let length = response
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .and_then(|header| str::from_utf8(header.value).ok()?.parse::<usize>().ok());
    reply.len() >= head + length.unwrap_or(0)
}
