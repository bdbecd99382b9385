//! Runs the load that the profile of `release/pgo` comes from: `alim-bridge-train BRIDGE`.
//!
//! It starts the bridge's own emulator and three bridges: plain, with TLS, and with gRPC-Web. [`mix`] has the loads and their
//! sizes. They are the shapes that callers send, and not the loads that `benches/` measures. `LLVM_PROFILE_FILE` is for the
//! bridges alone, so the profile has nothing of the emulator. Each bridge is stopped by SIGTERM, because it writes its profile
//! when it ends.

mod mix;
mod server;
mod web;

use std::{env, path::Path};

use server::Server;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// The stubs of the contract.
mod pb {
    tonic::include_proto!("alim.v1");
}

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let bridge = env::args()
        .nth(1)
        .ok_or("usage: alim-bridge-train BRIDGE")?;
    let bridge = Path::new(&bridge);
    let provider = rustls::crypto::ring::default_provider();
    provider
        .install_default()
        .map_err(|_| "a provider was installed before")?;

    let fast = Server::emulator(bridge, "0ms").await?;
    let paced = Server::emulator(bridge, "2ms").await?;

    let plain = Server::bridge(bridge, &fast.address, &[]).await?;
    let channels = mix::channels(&plain.address, 16).await?;
    mix::invokes(&channels[..1], 3_000, 1).await?;
    mix::invokes(&channels, 12_000, 64).await?;
    mix::streams(&channels, 600, 64).await?;
    mix::faults(&channels, 60).await?;
    mix::health(&channels, 1_000).await?;
    plain.stop().await?;

    let plain = Server::bridge(bridge, &paced.address, &[]).await?;
    let channels = mix::channels(&plain.address, 4).await?;
    mix::streams(&channels, 1_000, 250).await?;
    mix::deadlines(&channels, 100).await?;
    plain.stop().await?;

    let pages = Server::bridge(bridge, &fast.address, &[("GRPC_WEB", "*".into())]).await?;
    web::calls(&pages.address, 1_500).await?;
    pages.stop().await?;

    let files = tempfile::tempdir()?;
    let tls = server::certificate(files.path())?;
    let secure = Server::bridge(bridge, &fast.address, &tls.settings()).await?;
    for _ in 0..40 {
        let channel = mix::secure_channel(&secure.address, &tls).await?;
        mix::invokes(std::slice::from_ref(&channel), 40, 8).await?;
        mix::streams(&[channel], 4, 4).await?;
    }
    secure.stop().await?;

    fast.stop().await?;
    paced.stop().await
}
