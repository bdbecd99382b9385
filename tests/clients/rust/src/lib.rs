//! What a Rust program needs to ask ALİM. tonic reads no service config: a program retries by itself, and only
//! what says UNAVAILABLE without a `grpc-retry-pushback-ms` of -1.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// The stubs.
pub mod pb {
    tonic::include_proto!("alim.v1");
}

/// What a status says, in its details too.
#[derive(Debug)]
pub struct Failure {
    pub code: Code,
    pub message: String,
    /// Stable: docs/errors.md lists them.
    pub reason: String,
    /// Of the request, that break a rule.
    pub fields: Vec<String>,
    pub retry_after: Option<Duration>,
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let violations = details.bad_request().map(|bad| bad.field_violations.iter());
        Self {
            code: status.code(),
            message: status.message().to_owned(),
            reason: details
                .error_info()
                .map(|info| info.reason.clone())
                .unwrap_or_default(),
            fields: violations
                .into_iter()
                .flatten()
                .map(|it| it.field.clone())
                .collect(),
            retry_after: details.retry_info().and_then(|retry| retry.retry_delay),
        }
    }
}
