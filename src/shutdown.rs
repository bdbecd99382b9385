//! Signals in, drain out.
//!
//! Two stages, each a token that anything may wait for: `drain` asks all to come to an end, `force` no
//! longer waits for them. The server moves from the first to the second when its time is up; a second
//! signal does so at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The stages of a shutdown; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// No new calls; open ones go on.
    pub drain: CancellationToken,
    /// Open calls end now, each with a status.
    pub force: CancellationToken,
}

impl Shutdown {
    /// Listens for SIGTERM and SIGINT from now on; the future turns them into the stages.
    ///
    /// # Errors
    ///
    /// - [`std::io::Error`] when the system refuses to tell of signals.
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
