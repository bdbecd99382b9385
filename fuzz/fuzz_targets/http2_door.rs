//! Sends any bytes after the HTTP/2 preface to a bridge over a real socket. The bridge never panics, every connection ends,
//! and memory stays bounded.
//!
//! An input follows the preface and an empty SETTINGS frame.

#![no_main]

use std::{net::SocketAddr, sync::LazyLock, time::Duration};

use alim_bridge::{
    config::{Config, RawSettings},
    server,
    shutdown::Shutdown,
};
use libfuzzer_sys::fuzz_target;
use peak_alloc::PeakAlloc;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    time::timeout,
};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// RFC 9113, 3.4, and an empty SETTINGS frame.
const OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Four whole messages, and the memory of serving.
const MAX_MEMORY: usize = 64 << 20;
/// Timeout for a connection's end after its peer closed: far longer than it takes.
const TIMEOUT: Duration = Duration::from_secs(5);

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));
static BRIDGE: LazyLock<SocketAddr> = LazyLock::new(|| RUNTIME.block_on(start()));

async fn start() -> SocketAddr {
    let installed = rustls::crypto::ring::default_provider().install_default();
    installed.expect("no provider was installed before");
    let settings = [
        ("ALIM_BRIDGE_UPSTREAM_URL", "http://127.0.0.1:9"), // nothing listens there
        ("ALIM_BRIDGE_UPSTREAM_API_KEY", "key"),
        ("ALIM_BRIDGE_MAX_CALLS", "4"),
        ("ALIM_BRIDGE_RETRIES", "0"),
    ];
    let mut raw = RawSettings::default();
    raw.add_environment(settings.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let config = Config::parse(&raw).expect("settings");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (settings, upstream) = (config.server, config.upstream);
    tokio::spawn(async move {
        let served = server::run(settings, upstream, listener, None, Shutdown::default());
        panic!("the bridge stopped: {:?}", served.await);
    });
    address
}

/// Sends the input, closes this side, and waits for the connection's end.
async fn attack(bridge: SocketAddr, input: &[u8]) {
    let mut connection = TcpStream::connect(bridge).await.expect("a connection");
    let _ = connection.write_all(&[OPENING, input].concat()).await; // the bridge can close it before
    let _ = connection.shutdown().await;
    let mut answer = Vec::new();
    let ended = timeout(TIMEOUT, connection.read_to_end(&mut answer)).await;
    let _ = ended.expect("the connection ends");
}

fuzz_target!(|input: &[u8]| {
    let bridge = *BRIDGE;
    RUNTIME.block_on(attack(bridge, input));
    let memory = MEMORY.current_usage();
    assert!(memory < MAX_MEMORY, "{memory} bytes");
});
