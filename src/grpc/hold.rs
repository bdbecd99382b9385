//! What a call holds until its body has ended: its permit, and a watchdog that lets go of it earlier.
//!
//! hyper does not poll an answer whose caller has stopped reading, so nothing inside the answer can end
//! such a call. The watchdog acts from outside: when the call is due, or when the drain's time is up, it
//! frees the permit, lets its owner drop the upstream call, and sees that there is a record of it.

use std::{sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::failure::Failure;
use crate::{admission::Permit, deadline::Deadline, telemetry::Record};

/// What a caller who reads has for its status, before the record says that it did not; a drain that cuts
/// waits longer than this.
const GRACE: Duration = Duration::from_millis(200);

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
        record: Record,
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
            tokio::time::sleep(GRACE).await;
            record.end();
        };
        Arc::new(Self {
            _permit: permit,
            _watchdog: AbortOnDropHandle::new(tokio::spawn(watchdog)),
        })
    }
}
