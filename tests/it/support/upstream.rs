//! A scripted upstream on raw TCP, because an HTTP framework can't misbehave.
//!
//! It reads each HTTP/1.1 request completely, records it and plays a [`Reply`]: a head, bytes, gates that
//! the test opens, and one ending. A connection serves another request only after a complete reply.
//! Nothing sleeps: tests wait with [`Upstream::wait_for_requests`], [`Upstream::wait_for_close`] and
//! [`Gate`].
//!
//! All connections run in one task. If it panics, the drop of the [`Upstream`] fails the test.

mod reply;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream::FuturesUnordered};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::Instant,
};

use reply::{Ending, Step, wire_head};
pub(crate) use reply::{Gate, Reply};

/// The timeout of every wait: far longer than a busy machine needs.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A small send buffer, so that a flood stays small.
const SEND_BUFFER: u32 = 64 * 1024;

/// Port 0: the system chooses a free one.
const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A listening upstream. Its drop closes the connections, and fails the test if there were more requests than replies.
pub(crate) struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// Shared by the test and the connections.
struct Shared {
    script: Script,
    requests: watch::Sender<Vec<Request>>,
    /// One permit for each peer that closed its connection before the end of its reply.
    left: Semaphore,
}

enum Script {
    Always(Reply),
    Each(Vec<Reply>),
}

/// A request with its whole body.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// The number of its connection.
    pub(crate) connection: usize,
    /// When it was complete.
    pub(crate) at: Instant,
}

/// The peer closed the connection, or reset it.
struct PeerLeft;

/// A base URL that refuses connections. Its port stays bound until the process exits, so no other test
/// can get it.
pub(crate) fn refused_url() -> String {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(ANY_PORT).expect("a free port");
    let address = socket.local_addr().expect("a bound socket");
    std::mem::forget(socket);
    base_url(address)
}

impl Upstream {
    /// Answers each request with the same reply.
    pub(crate) fn answering(reply: Reply) -> Self {
        Self::start(Script::Always(reply))
    }

    /// Answers each request with the next reply. A request after the last one is answered 500, and the drop
    /// fails the test.
    pub(crate) fn scripted(replies: impl IntoIterator<Item = Reply>) -> Self {
        Self::start(Script::Each(replies.into_iter().collect()))
    }

    fn start(script: Script) -> Self {
        let listener = listener().expect("a free port and a runtime");
        let shared = Arc::new(Shared {
            script,
            requests: watch::Sender::default(),
            left: Semaphore::new(0),
        });
        Self {
            address: listener.local_addr().expect("a bound listener"),
            task: tokio::spawn(serve(listener, Arc::clone(&shared))),
            shared,
        }
    }

    /// The base URL, `http://127.0.0.1:PORT/api/v1`.
    pub(crate) fn url(&self) -> String {
        base_url(self.address)
    }

    /// The requests so far. A connection without a complete request, such as a probe's, does not count.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.requests.borrow().clone()
    }

    /// Waits for at least `count` requests, and returns all of them.
    ///
    /// # Panics
    /// After 10 s, with the number of requests.
    pub(crate) async fn wait_for_requests(&self, count: usize) -> Vec<Request> {
        let mut requests = self.shared.requests.subscribe();
        let enough = requests.wait_for(|requests| requests.len() >= count);
        match tokio::time::timeout(TIMEOUT, enough).await {
            Ok(all) => all
                .expect("the sender lives as long as the upstream")
                .clone(),
            Err(_) => panic!(
                "after {TIMEOUT:?} the upstream has {} of {count} requests",
                self.requests().len(),
            ),
        }
    }

    /// Waits until a peer has closed a connection whose reply was not complete. Each close ends one wait.
    ///
    /// # Panics
    /// After 10 s.
    pub(crate) async fn wait_for_close(&self) {
        match tokio::time::timeout(TIMEOUT, self.shared.left.acquire()).await {
            Ok(permit) => permit.expect("the semaphore is never closed").forget(),
            Err(_) => {
                panic!("after {TIMEOUT:?} no connection with an incomplete reply was closed")
            }
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        assert!(
            !self.task.is_finished(),
            "the scripted upstream panicked: see its message above"
        );
        self.task.abort();
        if let Script::Each(replies) = &self.shared.script {
            let (received, known) = (self.shared.requests.borrow().len(), replies.len());
            assert!(
                received <= known,
                "{received} requests for {known} scripted replies"
            );
        }
    }
}

impl Request {
    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }
}

impl Shared {
    /// Records the request and returns its reply.
    fn record(&self, request: Request) -> Reply {
        let index = self.requests.borrow().len();
        self.requests.send_modify(|requests| requests.push(request));
        match &self.script {
            Script::Always(reply) => reply.clone(),
            Script::Each(replies) => match replies.get(index) {
                Some(reply) => reply.clone(),
                None => Reply::json(500, r#"{"detail":"the script has no reply left"}"#),
            },
        }
    }
}

/// Accepts and serves in one task, until a panic or the drop of the [`Upstream`].
async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = FuturesUnordered::new();
    let mut numbers = 0..;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (socket, _) = accepted.expect("a connection to accept");
                let number = numbers.next().expect("an endless range");
                connections.push(Connection::new(socket, number).serve(&shared));
            }
            Some(()) = connections.next() => {}
        }
    }
}

struct Connection {
    socket: TcpStream,
    unread: BytesMut,
    number: usize,
}

impl Connection {
    fn new(socket: TcpStream, number: usize) -> Self {
        // Without it a step can wait for the ACK of the one before.
        socket.set_nodelay(true).expect("an open socket");
        Self {
            socket,
            unread: BytesMut::new(),
            number,
        }
    }

    async fn serve(mut self, shared: &Shared) {
        while let Ok(request) = self.read_request().await {
            match self.play(shared.record(request)).await {
                Ok(Ending::Complete | Ending::LastChunk) => {}
                Ok(Ending::Hold | Ending::Close | Ending::Reset) => return,
                Err(PeerLeft) => return shared.left.add_permits(1),
            }
        }
    }

    async fn read_request(&mut self) -> Result<Request, PeerLeft> {
        let end = loop {
            match memchr::memmem::find(&self.unread, b"\r\n\r\n") {
                Some(end) => break end,
                None => self.read_more().await?,
            }
        };
        let head = self.unread.split_to(end + b"\r\n\r\n".len());
        let (method, path, headers) = parse_head(&head[..end]);
        let length = body_length(&headers);
        while self.unread.len() < length {
            self.read_more().await?;
        }
        let body = self.unread.split_to(length).freeze();
        Ok(Request {
            method,
            path,
            headers,
            body,
            connection: self.number,
            at: Instant::now(),
        })
    }

    /// Plays all steps and the ending. The drop of the socket completes a close or a reset.
    async fn play(&mut self, reply: Reply) -> Result<Ending, PeerLeft> {
        for step in reply.steps {
            match step {
                Step::Head(status, headers) => self.send(&wire_head(status, &headers)).await?,
                Step::Send(bytes) => self.send(&bytes).await?,
                Step::Flood(bytes) => loop {
                    self.send(&bytes).await?;
                },
                Step::Wait(gate) => tokio::select! {
                    biased;
                    () = gate.0.cancelled() => {}
                    left = self.peer_left() => return Err(left),
                },
            }
        }
        match reply.ending {
            Ending::Complete | Ending::Close => {}
            Ending::LastChunk => self.send(b"0\r\n\r\n").await?,
            Ending::Hold => return Err(self.peer_left().await),
            Ending::Reset => self.socket.set_zero_linger().expect("an open socket"),
        }
        Ok(reply.ending)
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), PeerLeft> {
        self.socket.write_all(bytes).await.map_err(|_| PeerLeft)
    }

    async fn read_more(&mut self) -> Result<(), PeerLeft> {
        match self.socket.read_buf(&mut self.unread).await {
            Ok(0) | Err(_) => Err(PeerLeft),
            Ok(_) => Ok(()),
        }
    }

    async fn peer_left(&mut self) -> PeerLeft {
        loop {
            if let Err(left) = self.read_more().await {
                return left;
            }
        }
    }
}

fn parse_head(head: &[u8]) -> (String, String, HeaderMap) {
    let head = str::from_utf8(head).expect("a request head in UTF-8");
    let mut lines = head.split("\r\n");
    let start: Vec<_> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, path, "HTTP/1.1"] = start[..] else {
        panic!("{start:?} is not the start line of an HTTP/1.1 request");
    };
    let headers: HeaderMap = lines.map(parse_header).collect();
    assert!(
        !headers.contains_key(header::TRANSFER_ENCODING),
        "the scripted upstream reads bodies by their content-length only"
    );
    (method.to_owned(), path.to_owned(), headers)
}

fn body_length(headers: &HeaderMap) -> usize {
    let length = headers.get(header::CONTENT_LENGTH).map(HeaderValue::to_str);
    length.map_or(0, |length| {
        let digits = length.expect("a length in ASCII");
        digits.parse().expect("a length in digits")
    })
}

fn parse_header(line: &str) -> (HeaderName, HeaderValue) {
    let (name, value) = line.split_once(':').expect("a header line with a colon");
    (
        name.parse().expect("a header name"),
        value.trim().parse().expect("a header value"),
    )
}

/// Binds without an `await`, so that `Upstream::answering(…)` needs none.
fn listener() -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(ANY_PORT)?;
    socket.listen(1024)
}

fn base_url(address: SocketAddr) -> String {
    format!("http://{address}/api/v1")
}
