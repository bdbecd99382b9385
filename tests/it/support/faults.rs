//! A proxy between the bridge and its upstream that delays, closes, corrupts and stalls answers.
//!
//! The test chooses the fault of each call by its `x-request-id`. Before a corrupted byte is sent, its call
//! and all later ones on the connection are marked as tainted, so a test knows which answers must be exact.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

/// What happens to an answer. Offsets are in bytes from the start of its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Delays each read by this time.
    Delay(Duration),
    /// Sends one to seven bytes at a time.
    Dribble,
    /// Closes the connection at this offset, with RST or FIN.
    Close {
        at: usize,
        by_reset: bool,
    },
    /// Changes the byte at this offset.
    Corrupt {
        at: usize,
        by: u8,
    },
    /// Sends nothing from this offset on, until the bridge closes the connection.
    Stall {
        at: usize,
    },
}

/// A faulty proxy in front of an upstream. Its drop closes all connections.
pub(crate) struct Wire {
    address: SocketAddr,
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

struct Shared {
    upstream: SocketAddr,
    plan: Box<dyn Fn(&str) -> Fault + Send + Sync>,
    tainted: Mutex<HashSet<String>>,
    open: AtomicUsize,
}

impl Wire {
    pub(crate) async fn to(
        upstream: SocketAddr,
        plan: impl Fn(&str) -> Fault + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            upstream,
            plan: Box::new(plan),
            tainted: Mutex::default(),
            open: AtomicUsize::new(0),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self {
            address,
            shared,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// The base URL of the upstream, through this proxy.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/api/v1", self.address)
    }

    /// Whether a corrupted byte can have reached this call. Each call can be read once.
    pub(crate) fn was_tainted(&self, id: &str) -> bool {
        self.shared.tainted.lock().expect("no panic").remove(id)
    }

    /// How many connections of the bridge are open.
    pub(crate) fn open_connections(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (bridge, _) = accepted.expect("a connection to accept");
                shared.open.fetch_add(1, Ordering::Relaxed);
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    let upstream = TcpStream::connect(shared.upstream).await.expect("an upstream");
                    let _ = Relay::new(bridge, upstream, &shared).relay().await;
                    shared.open.fetch_sub(1, Ordering::Relaxed);
                });
            }
            Some(relayed) = connections.join_next() => relayed.expect("no panic"),
        }
    }
}

/// One connection, with its current call.
struct Relay<'a> {
    bridge: TcpStream,
    upstream: TcpStream,
    shared: &'a Shared,
    head: Vec<u8>,
    call: String,
    fault: Fault,
    passed: usize,
    is_tainted: bool,
}

/// The connection has ended.
struct Closed;

impl<'a> Relay<'a> {
    fn new(bridge: TcpStream, upstream: TcpStream, shared: &'a Shared) -> Self {
        bridge.set_nodelay(true).expect("an open socket");
        upstream.set_nodelay(true).expect("an open socket");
        Self {
            bridge,
            upstream,
            shared,
            head: Vec::new(),
            call: String::new(),
            fault: Fault::None,
            passed: 0,
            is_tainted: false,
        }
    }

    async fn relay(mut self) -> Result<(), Closed> {
        let (mut request, mut answer) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
        loop {
            tokio::select! {
                read = self.bridge.read(&mut request) => {
                    let count = bytes_or_closed(read)?;
                    self.on_request(&request[..count]);
                    self.upstream.write_all(&request[..count]).await.map_err(|_| Closed)?;
                }
                read = self.upstream.read(&mut answer) => {
                    let count = bytes_or_closed(read)?;
                    self.on_answer(&mut answer[..count]).await?;
                }
            }
        }
    }

    /// Finds the id of the next call. Answer bytes before it belong to the call before.
    fn on_request(&mut self, bytes: &[u8]) {
        if self.passed > 0 {
            self.head.clear();
            self.passed = 0;
        }
        self.head.extend_from_slice(bytes);
        let head = String::from_utf8_lossy(&self.head);
        let mut lines = head.lines();
        let id = lines.find_map(|line| line.strip_prefix("x-request-id: "));
        if let Some(id) = id.filter(|id| *id != self.call) {
            self.call = id.to_owned();
            self.fault = (self.shared.plan)(&self.call);
            self.taint_if(self.is_tainted);
        }
    }

    fn taint_if(&mut self, is_tainted: bool) {
        if is_tainted {
            self.is_tainted = true;
            let mut tainted = self.shared.tainted.lock().expect("no panic");
            tainted.insert(self.call.clone());
        }
    }

    async fn on_answer(&mut self, bytes: &mut [u8]) -> Result<(), Closed> {
        let here = self.passed..self.passed + bytes.len();
        self.passed = here.end;
        match self.fault {
            Fault::Delay(time) => tokio::time::sleep(time).await,
            Fault::Dribble => return self.dribble(bytes).await,
            Fault::Corrupt { at, by } if here.contains(&at) => {
                self.taint_if(true);
                bytes[at - here.start] ^= by;
            }
            Fault::Close { at, by_reset } if here.contains(&at) => {
                self.send(&bytes[..at - here.start]).await?;
                if by_reset {
                    self.bridge.set_zero_linger().expect("an open socket");
                }
                return Err(Closed);
            }
            Fault::Stall { at } if here.contains(&at) => {
                self.send(&bytes[..at - here.start]).await?;
                while bytes_or_closed(self.bridge.read(&mut [0; 64]).await).is_ok() {}
                return Err(Closed);
            }
            Fault::None | Fault::Corrupt { .. } | Fault::Close { .. } | Fault::Stall { .. } => {}
        }
        self.send(bytes).await
    }

    async fn dribble(&mut self, bytes: &[u8]) -> Result<(), Closed> {
        for (piece, length) in (1..=7).cycle().scan(0, |at, length| {
            *at += length;
            Some((*at - length, length))
        }) {
            let end = (piece + length).min(bytes.len());
            self.send(&bytes[piece..end]).await?;
            if end == bytes.len() {
                break;
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), Closed> {
        self.bridge.write_all(bytes).await.map_err(|_| Closed)
    }
}

fn bytes_or_closed(read: std::io::Result<usize>) -> Result<usize, Closed> {
    match read {
        Ok(0) | Err(_) => Err(Closed),
        Ok(count) => Ok(count),
    }
}
