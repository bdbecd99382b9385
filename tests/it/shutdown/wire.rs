//! A connection between one caller and the bridge that a test can hold. What the bridge sends then waits, while what the
//! caller sends passes. So a call and a GOAWAY reliably cross each other.
//!
//! The server sends only frames (RFC 9113, 3.4 and 4.1), so the wire identifies them by their type.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use crate::support::extra::channel_to;
use alim_bridge::pb::graph_service_client::GraphServiceClient;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Channel;

/// Types of frames (RFC 9113, 6).
pub(super) const HEADERS: u8 = 1;
pub(super) const GOAWAY: u8 = 7;

const HEAD_BYTES: usize = 9;
/// How long a test waits for an expected event.
const TIMEOUT: Duration = Duration::from_secs(10);

/// One caller's connection to the bridge. Dropping it closes the connection.
pub(super) struct Wire {
    address: SocketAddr,
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Shared {
    is_held: watch::Sender<bool>,
    /// The types of the frames that the bridge has sent since the hold.
    sent: watch::Sender<Vec<u8>>,
}

impl Wire {
    pub(super) async fn to(bridge: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::<Shared>::default();
        let task = tokio::spawn(carry(listener, bridge, Arc::clone(&shared)));
        Self {
            address,
            shared,
            _task: AbortOnDropHandle::new(task),
        }
    }

    pub(super) fn client(&self) -> GraphServiceClient<Channel> {
        GraphServiceClient::new(channel_to(self.address))
    }

    /// Holds all that the bridge sends from now on.
    pub(super) fn hold(&self) {
        self.shared.sent.send_replace(Vec::new());
        self.shared.is_held.send_replace(true);
    }

    /// Delivers what was held, in order.
    pub(super) fn release(&self) {
        self.shared.is_held.send_replace(false);
    }

    /// Waits until the bridge has sent a frame of this type since the hold.
    pub(super) async fn holds(&self, kind: u8) {
        let mut sent = self.shared.sent.subscribe();
        let waiting = timeout(TIMEOUT, sent.wait_for(|sent| sent.contains(&kind)));
        let found = waiting.await.map(|sent| sent.is_ok());
        assert_eq!(found, Ok(true), "the bridge sent no frame of type {kind}");
    }
}

async fn carry(listener: TcpListener, bridge: SocketAddr, shared: Arc<Shared>) {
    let (caller, _) = listener.accept().await.expect("a caller");
    let bridge = TcpStream::connect(bridge).await.expect("the bridge");
    let (mut from_caller, to_caller) = caller.into_split();
    let (from_bridge, mut to_bridge) = bridge.into_split();
    let (frames, waiting) = mpsc::unbounded_channel();
    let _ = tokio::join!(
        tokio::io::copy(&mut from_caller, &mut to_bridge),
        read_frames(from_bridge, frames, &shared),
        deliver(waiting, to_caller, &shared),
    );
}

async fn read_frames(
    mut bridge: OwnedReadHalf,
    frames: mpsc::UnboundedSender<Vec<u8>>,
    shared: &Shared,
) -> io::Result<()> {
    loop {
        let mut frame = vec![0; HEAD_BYTES];
        bridge.read_exact(&mut frame).await?;
        let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]);
        let kind = frame[3];
        frame.resize(HEAD_BYTES + length as usize, 0);
        bridge.read_exact(&mut frame[HEAD_BYTES..]).await?;
        let _ = frames.send(frame);
        shared.sent.send_modify(|sent| sent.push(kind));
    }
}

async fn deliver(
    mut frames: mpsc::UnboundedReceiver<Vec<u8>>,
    mut caller: OwnedWriteHalf,
    shared: &Shared,
) -> io::Result<()> {
    let mut is_held = shared.is_held.subscribe();
    while let Some(frame) = frames.recv().await {
        let _ = is_held.wait_for(|is_held| !is_held).await;
        caller.write_all(&frame).await?;
    }
    Ok(())
}
