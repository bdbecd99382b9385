//! Up to four attempts, as the service config has it for other libraries, but never one that could be paid for twice: an attempt
//! follows only if the bridge says when, or if nothing was sent to ALİM.
//!
//! tonic reports a broken connection as UNAVAILABLE too. Such a call may have run, so it is not repeated.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tonic::Code;

use crate::error::AlimError;

const ATTEMPTS: u32 = 4;
const FIRST_BACKOFF: Duration = Duration::from_millis(300);
const MAX_BACKOFF: Duration = Duration::from_secs(3);

/// Makes attempts until one succeeds, none may follow, or the next would begin past the deadline.
pub(crate) async fn retrying<T>(
    deadline: Instant,
    mut attempt: impl AsyncFnMut() -> Result<T, AlimError>,
) -> Result<T, AlimError> {
    for number in 1.. {
        let failure = match attempt().await {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        let next = wait(&failure, number).map(|wait| Instant::now() + wait);
        match next {
            Some(next) if next < deadline => sleep_until(next).await,
            _ => return Err(failure),
        }
    }
    unreachable!("the last attempt returns")
}

/// How long to wait before the next attempt; `None` where there must be none.
fn wait(failure: &AlimError, attempts: u32) -> Option<Duration> {
    if attempts >= ATTEMPTS || failure.code != Code::Unavailable {
        return None;
    }
    match failure.pushback() {
        Some(pushback) => pushback.ok(),
        None if failure.sent != Some(false) => None,
        None => {
            let backoff = FIRST_BACKOFF * 3_u32.pow(attempts - 1);
            Some(
                backoff
                    .min(MAX_BACKOFF)
                    .mul_f64(0.8 + 0.4 * fastrand::f64()),
            )
        }
    }
}
