//! The two stages of a shutdown, and the signals that start them.
//!
//! Each stage is a cancellation token. `drain` stops new calls and lets open calls finish. `force` ends open calls. The server
//! moves from the first stage to the second after the drain timeout; a second signal does so at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The stages of a shutdown; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Cancelled when no new calls are accepted; open ones continue.
    pub drain: CancellationToken,
    /// Cancelled when open calls end, each with a status.
    pub force: CancellationToken,
}

impl Shutdown {
    /// Listens for SIGTERM and SIGINT. The future starts one stage for each signal.
    ///
    /// # Errors
    ///
    /// - [`std::io::Error`] when the system can't register the signal handlers.
    pub fn follow_signals(self) -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        Ok(async move {
            for stage in [&self.drain, &self.force] {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                stage.cancel();
            }
        })
    }
}
