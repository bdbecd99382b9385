//! A door for `fuzz/`, which is there only with `--cfg fuzzing`: the bank's pure parts, as its own files
//! use them.

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

/// The status that a caller gets of `failure`.
pub fn tell(
    failure: Failure,
    record: &Record,
    credentials: Credentials,
    events_delivered: Option<u64>,
) -> Status {
    failure.into_status(record, credentials, events_delivered)
}

/// The message that a caller gets of `reply`.
///
/// # Errors
///
/// - [`Error`] when no caller could read it.
pub fn invoke(reply: Reply, limit: usize) -> Result<pb::InvokeResponse, Error> {
    response::bounded(response::invoke(reply), limit)
}

/// When the head of a call is due, and when its end.
pub fn due(
    clocks: &Timeouts,
    method: Method,
    metadata: &HeaderMap,
    started: Instant,
) -> [Deadline; 2] {
    let due = clocks.deadlines(method, metadata, started);
    [due.head, due.end]
}
