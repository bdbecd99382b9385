//! What a call holds until its body has ended: its permit, and a watchdog that lets go of it earlier.
//!
//! hyper does not poll an answer whose caller has stopped reading, so nothing inside the answer can end
//! such a call. The watchdog acts from outside: when the call is due, or when the drain's time is up, it
//! frees the permit and lets its owner drop the upstream call.

use std::sync::Arc;

use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::failure::Failure;
use crate::{admission::Permit, deadline::Deadline};

/// Held by the answer's body; dropping it frees the permit and stops the watchdog.
#[derive(Debug)]
pub(super) struct Hold {
    _permit: Arc<Permit>,
    _watchdog: AbortOnDropHandle<()>,
}

impl Hold {
    /// Holds `permit`, at `end` or `cut` no longer; `let_go` is then told why.
    pub(super) fn until(
        end: Deadline,
        cut: CancellationToken,
        permit: Permit,
        let_go: impl FnOnce(Failure) + Send + 'static,
    ) -> Arc<Self> {
        let permit = Arc::new(permit);
        let watched = Arc::clone(&permit);
        let watchdog = async move {
            let failure = tokio::select! {
                () = tokio::time::sleep_until(end.at) => Failure::Clock(end.clock),
                () = cut.cancelled() => Failure::Cut,
            };
            let_go(failure);
            watched.release();
        };
        Arc::new(Self {
            _permit: permit,
            _watchdog: AbortOnDropHandle::new(tokio::spawn(watchdog)),
        })
    }
}
