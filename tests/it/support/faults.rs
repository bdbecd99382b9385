//! A wire between the bridge and its upstream that delays, cuts, corrupts and stalls answers.
//!
//! Which fault a call meets is asked of the test, by the call's `x-request-id`; a corrupted byte taints the
//! call, and whatever else goes over its connection, before it is sent: so a test knows which answers
//! must be exact.

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

/// What becomes of an answer; places are counted in bytes from its head's first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Each piece waits this long.
    Delay(Duration),
    /// One to seven bytes at a time.
    Dribble,
    /// The connection ends here, by RST or by FIN.
    Cut {
        at: usize,
        by_reset: bool,
    },
    /// This byte is another.
    Corrupt {
        at: usize,
        by: u8,
    },
    /// Silence from here on, until the bridge leaves.
    Stall {
        at: usize,
    },
}

/// The faulty way to an upstream; dropping it cuts all connections.
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

    /// The base URL of the upstream by this way.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/api/v1", self.address)
    }

    /// Whether a corrupted byte may have reached this call; it is forgotten then.
    pub(crate) fn was_tainted(&self, id: &str) -> bool {
        self.shared.tainted.lock().expect("no panic").remove(id)
    }

    /// How many connections of the bridge are open.
    pub(crate) fn open(&self) -> usize {
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
                    let _ = Carrier::new(bridge, upstream, &shared).carry().await;
                    shared.open.fetch_sub(1, Ordering::Relaxed);
                });
            }
            Some(carried) = connections.join_next() => carried.expect("no panic"),
        }
    }
}

/// One connection, with the call that is on it.
struct Carrier<'a> {
    bridge: TcpStream,
    upstream: TcpStream,
    shared: &'a Shared,
    head: Vec<u8>,
    call: String,
    fault: Fault,
    passed: usize,
    is_tainted: bool,
}

/// The connection is over.
struct Over;

impl<'a> Carrier<'a> {
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

    async fn carry(mut self) -> Result<(), Over> {
        let (mut asked, mut answered) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
        loop {
            tokio::select! {
                read = self.bridge.read(&mut asked) => {
                    let count = some(read)?;
                    self.asks(&asked[..count]);
                    self.upstream.write_all(&asked[..count]).await.map_err(|_| Over)?;
                }
                read = self.upstream.read(&mut answered) => {
                    let count = some(read)?;
                    self.answer(&mut answered[..count]).await?;
                }
            }
        }
    }

    /// Looks for the id of the next call; what was answered before belongs to the last.
    fn asks(&mut self, bytes: &[u8]) {
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

    fn taint_if(&mut self, is_so: bool) {
        if is_so {
            self.is_tainted = true;
            let mut tainted = self.shared.tainted.lock().expect("no panic");
            tainted.insert(self.call.clone());
        }
    }

    async fn answer(&mut self, bytes: &mut [u8]) -> Result<(), Over> {
        let here = self.passed..self.passed + bytes.len();
        self.passed = here.end;
        match self.fault {
            Fault::Delay(time) => tokio::time::sleep(time).await,
            Fault::Dribble => return self.dribble(bytes).await,
            Fault::Corrupt { at, by } if here.contains(&at) => {
                self.taint_if(true);
                bytes[at - here.start] ^= by;
            }
            Fault::Cut { at, by_reset } if here.contains(&at) => {
                self.send(&bytes[..at - here.start]).await?;
                if by_reset {
                    self.bridge.set_zero_linger().expect("an open socket");
                }
                return Err(Over);
            }
            Fault::Stall { at } if here.contains(&at) => {
                self.send(&bytes[..at - here.start]).await?;
                while some(self.bridge.read(&mut [0; 64]).await).is_ok() {}
                return Err(Over);
            }
            Fault::None | Fault::Corrupt { .. } | Fault::Cut { .. } | Fault::Stall { .. } => {}
        }
        self.send(bytes).await
    }

    async fn dribble(&mut self, bytes: &[u8]) -> Result<(), Over> {
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

    async fn send(&mut self, bytes: &[u8]) -> Result<(), Over> {
        self.bridge.write_all(bytes).await.map_err(|_| Over)
    }
}

fn some(read: std::io::Result<usize>) -> Result<usize, Over> {
    match read {
        Ok(0) | Err(_) => Err(Over),
        Ok(count) => Ok(count),
    }
}
