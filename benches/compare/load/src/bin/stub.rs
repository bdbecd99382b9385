//! The upstream of the comparison: ALİM's wire, hand-made and on one thread, so that it costs little beside
//! what it feeds. Each event is its own chunk, as ALİM sends it.

use std::{collections::HashMap, io, rc::Rc};

use alim_bridge_compare::{
    AnyError,
    ask::{Ask, WORD, stall_text},
    clock::{Ticks, stamped},
    listen::listen,
};
use serde::Deserialize;
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::RwLock,
    task::LocalSet,
};

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n\
                    x-accel-buffering: no\r\ntransfer-encoding: chunked\r\n\r\n";
const REPLY: &str = r#"{"response":"Torpağın nəmliyi azdır, ona görə bu gün axşam suvarın. Sabah yağış gözlənilir, bir gün ara verin.","thread_id":"4c13b087-ffe8-49de-8772-026386d86267","model":"llama-3.3-70b-versatile"}"#;
/// Tokens that a stalled stream is sent in one write.
const STALL_TOKENS: usize = 100;
/// Bytes that the kernel may keep for one: it would keep megabytes, and 10,000 streams are to be stalled.
const STALL_BUFFER: usize = 16 * 1024;

/// Bursts that were made before, by their count of tokens.
type Bursts = Rc<RwLock<HashMap<u64, Rc<[u8]>>>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), AnyError> {
    LocalSet::new().run_until(serve()).await
}

async fn serve() -> Result<(), AnyError> {
    let listener = listen("stub")?;
    let bursts = Bursts::default();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let bursts = Rc::clone(&bursts);
        tokio::task::spawn_local(async move {
            let _ = answer(stream, bursts).await; // a caller who leaves is no fault
        });
    }
}

/// Answers until the caller closes.
async fn answer(mut stream: TcpStream, bursts: Bursts) -> io::Result<()> {
    let mut read = Vec::new();
    while let Some(request) = next_request(&mut stream, &mut read).await? {
        if request.is_stream {
            stream_events(&mut stream, Ask::parse(&request.message), &bursts).await?;
        } else {
            let reply = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{REPLY}",
                REPLY.len()
            );
            stream.write_all(reply.as_bytes()).await?;
        }
    }
    Ok(())
}

async fn stream_events(stream: &mut TcpStream, ask: Ask, bursts: &Bursts) -> io::Result<()> {
    match ask {
        Ask::Paced {
            period_us,
            phase_us,
            tokens,
        } => {
            let head = [HEAD.into(), chunk("node", "agent")].concat();
            stream.write_all(head.as_bytes()).await?;
            let mut ticks = Ticks::new(period_us, phase_us);
            let mut sent = 0;
            while tokens == 0 || sent < tokens {
                ticks.tick().await;
                stream
                    .write_all(chunk("token", &stamped(WORD)).as_bytes())
                    .await?;
                sent += 1;
            }
            stream.write_all(end().as_bytes()).await
        }
        Ask::Burst { tokens } => {
            let body = burst(tokens, bursts).await;
            stream.write_all(&body).await
        }
        Ask::Idle => {
            let head = [HEAD.into(), chunk("node", "agent")].concat();
            stream.write_all(head.as_bytes()).await?;
            match stream.read(&mut [0]).await? {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                _ => Err(io::ErrorKind::InvalidData.into()), // nobody may speak before the answer's end
            }
        }
        Ask::Stall => {
            SockRef::from(&*stream).set_send_buffer_size(STALL_BUFFER)?;
            stream.write_all(HEAD.as_bytes()).await?;
            let many = chunk("token", &stall_text()).repeat(STALL_TOKENS);
            loop {
                stream.write_all(many.as_bytes()).await?;
            }
        }
    }
}

/// A whole answer.
async fn burst(tokens: u64, bursts: &Bursts) -> Rc<[u8]> {
    if let Some(made) = bursts.read().await.get(&tokens) {
        return Rc::clone(made);
    }
    let body = [
        HEAD.into(),
        chunk("token", WORD).repeat(tokens as usize),
        end(),
    ]
    .concat();
    let body: Rc<[u8]> = body.into_bytes().into();
    bursts.write().await.insert(tokens, Rc::clone(&body));
    body
}

/// One event in one chunk.
fn chunk(event: &str, data: &str) -> String {
    let event = format!("event: {event}\ndata: {data}\n\n");
    format!("{:x}\r\n{event}\r\n", event.len())
}

fn end() -> String {
    format!("{}0\r\n\r\n", chunk("done", "[DONE]"))
}

struct Request {
    is_stream: bool,
    message: String,
}

#[derive(Deserialize)]
struct Body {
    message: String,
}

/// Reads one request; `None` when the caller closed between two.
async fn next_request(stream: &mut TcpStream, read: &mut Vec<u8>) -> io::Result<Option<Request>> {
    loop {
        if let Some((request, length)) = parse(read)? {
            read.drain(..length);
            return Ok(Some(request));
        }
        if stream.read_buf(read).await? == 0 {
            return Ok(None);
        }
    }
}

fn parse(read: &[u8]) -> io::Result<Option<(Request, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Request::new(&mut headers);
    let status = head.parse(read).map_err(|_| io::ErrorKind::InvalidData)?;
    let httparse::Status::Complete(start) = status else {
        return Ok(None);
    };
    let header = |name: &str| {
        let mut headers = head.headers.iter();
        headers
            .find(|header| header.name.eq_ignore_ascii_case(name))
            .map(|header| header.value)
    };
    let rest = &read[start..];
    let (body, length) =
        match header("content-length").and_then(|value| str::from_utf8(value).ok()?.parse().ok()) {
            Some(length) if rest.len() < length => return Ok(None),
            Some(length) => (rest[..length].to_vec(), length),
            None if header("transfer-encoding").is_some() => match unchunked(rest) {
                Some(whole) => whole,
                None => return Ok(None),
            },
            None => (Vec::new(), 0),
        };
    let is_stream = head.path.is_some_and(|path| path.ends_with("/stream"));
    let message =
        serde_json::from_slice(&body).map_or_else(|_| String::new(), |body: Body| body.message);
    Ok(Some((Request { is_stream, message }, start + length)))
}

/// A chunked body without its chunks, and its length with them; `None` while it is not whole.
fn unchunked(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let (head, size) = match httparse::parse_chunk_size(&bytes[at..]).ok()? {
            httparse::Status::Complete(found) => found,
            httparse::Status::Partial => return None,
        };
        let (start, size) = (at + head, size as usize);
        body.extend_from_slice(bytes.get(start..start + size)?);
        at = start + size + 2;
        bytes.get(..at)?;
        if size == 0 {
            return Some((body, at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_with_either_framing_and_only_when_whole() {
        let plain = "POST /api/v1/graph/stream HTTP/1.1\r\nContent-Length: 18\r\n\r\n{\"message\":\"idle\"}";
        let chunked = "POST /graph/stream HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n\
                       9\r\n{\"message\r\n9\r\n\":\"idle\"}\r\n0\r\n\r\n";
        for request in [plain, chunked] {
            for cut in 0..request.len() {
                assert!(parse(&request.as_bytes()[..cut]).expect("valid").is_none());
            }
            let (read, length) = parse(request.as_bytes()).expect("valid").expect("whole");
            assert!(read.is_stream && read.message == "idle" && length == request.len());
        }
    }
}
