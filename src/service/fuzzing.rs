//! Entry points for `fuzz/` into the server side's pure functions. They exist only with `--cfg fuzzing`.

use http::HeaderMap;
use tokio::time::Instant;
use tonic::Status;

use super::response;
use crate::{
    call::{deadline::Deadline, reply::Reply},
    middleware::timeouts::Timeouts,
    pb,
    status::{Credentials, Failure},
    telemetry::{Method, Record},
    upstream::Error,
};

/// The caller's status for `failure`.
pub fn status(
    failure: Failure,
    record: &Record,
    credentials: Credentials,
    events_delivered: Option<u64>,
) -> Status {
    failure.into_status(record, credentials, events_delivered)
}

/// The caller's message for `reply`.
///
/// # Errors
///
/// - [`Error::TooLarge`] when the message is larger than `limit`.
pub fn invoke(reply: Reply, limit: usize) -> Result<pb::InvokeResponse, Error> {
    response::bounded(response::invoke(reply), limit)
}

/// The deadlines for a call's head and for its end.
pub fn deadlines(
    timeouts: &Timeouts,
    method: Method,
    metadata: &HeaderMap,
    started: Instant,
) -> [Deadline; 2] {
    let deadlines = timeouts.deadlines(method, metadata, started);
    [deadlines.head, deadlines.end]
}
