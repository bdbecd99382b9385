//! Encodes a failure as a gRPC status, within the sizes that callers accept.
//!
//! Rich errors follow AIP-193. Every status has an ErrorInfo, whose metadata `sent` says whether the upstream may have run
//! the call. `grpc-retry-pushback-ms` (gRPC A6) controls the caller's retry policy.

use std::{collections::HashMap, time::Duration};

use http::{HeaderMap, HeaderValue};
use tonic::{Code, Status, metadata::MetadataMap};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use super::{
    Credentials, Failure,
    mapping::{Mapping, Pushback},
    text::{MAX_MESSAGE_BYTES, clean, truncate_encoded, truncate_utf8},
};
use crate::{
    call::{
        Invalid, Violation,
        headers::{RATE_LIMIT, set_limits},
        reason::Reason,
    },
    telemetry::Record,
    upstream::{Error, error::Rejection},
};

/// `google.rpc.ErrorInfo.domain` of every status.
const DOMAIN: &str = "alim-bridge";

const MAX_VIOLATIONS: usize = 16;
const MAX_VIOLATION_BYTES: usize = 200;
/// The maximum size of all trailers; HTTP/2 adds 32 bytes to each field. It is half of what callers accept, less the request id
/// that the middleware adds.
const MAX_TRAILER_BYTES: usize = 4096 - 172;
const PUSHBACK: &str = "grpc-retry-pushback-ms";

impl Failure {
    /// The caller's status code.
    pub(crate) fn code(&self) -> Code {
        self.mapping(Credentials::Service).code
    }

    /// The reason, which callers, logs and metrics share.
    pub(crate) fn reason(&self, credentials: Credentials) -> Reason {
        self.mapping(credentials).reason
    }

    /// Records the failure, and returns the caller's status. For a stream whose head was sent, `events_delivered` is the
    /// number of events before the failure.
    pub(crate) fn into_status(
        self,
        record: &Record,
        credentials: Credentials,
        events_delivered: Option<u64>,
    ) -> Status {
        let mapping = self.mapping(credentials);
        record.failed(mapping.reason);
        let left = record.time_left();
        let was_sent = self.was_sent() && record.was_upstream_asked();
        let mut info = HashMap::from([("sent".to_owned(), was_sent.to_string())]);
        if let Some(delivered) = events_delivered {
            info.insert("eventsDelivered".to_owned(), delivered.to_string());
        }
        if let Some(thread) = record.thread_id() {
            info.insert("threadId".to_owned(), thread.to_string());
        }
        if let Some(status) = self.http_status() {
            info.insert("httpStatus".to_owned(), status.as_u16().to_string());
        }
        match self {
            Self::Upstream(Error::Rejected(rejection)) => {
                let Rejection {
                    head, violations, ..
                } = *rejection;
                mapping.into_status(info, head.headers, &violations, left)
            }
            Self::Invalid(Invalid { violations }) => {
                mapping.into_status(info, HeaderMap::new(), &violations, left)
            }
            Self::FieldNotAllowed(field) => {
                let violation =
                    Violation::new(field, "must be left out: this caller may not set it");
                mapping.into_status(info, HeaderMap::new(), &[violation], left)
            }
            Self::Exhausted(exhausted) => {
                let mut limits = HeaderMap::new();
                set_limits(&mut limits, exhausted.limits);
                mapping.into_status(info, limits, &[], left)
            }
            Self::Upstream(_)
            | Self::CredentialsMissing
            | Self::CredentialsRejected
            | Self::Rejected(_)
            | Self::MessageTimeout(_)
            | Self::DeadlineExceeded(_)
            | Self::DrainTimeout
            | Self::CallerStalled
            | Self::OperatorCancelled
            | Self::Panicked
            | Self::Protocol(..) => mapping.into_status(info, HeaderMap::new(), &[], left),
        }
    }
}

impl Pushback {
    /// The value of the header. `left` is the rest of the caller's deadline.
    ///
    /// If the pushback is longer than that, the value is -1. Otherwise gRPC libraries would wait until their deadline, and then
    /// report DEADLINE_EXCEEDED without a reason. The value is never 0: grpcio up to 1.85 hangs or dies on it, and others
    /// retry at once.
    fn to_millis(self, left: Option<Duration>) -> Option<i64> {
        match self {
            Self::Unset => None,
            Self::After(wait) if left.is_none_or(|left| wait < left) => {
                let millis = wait.as_micros().div_ceil(1000).max(1);
                Some(i64::try_from(millis).unwrap_or(i64::MAX))
            }
            Self::Never | Self::After(_) => Some(-1),
        }
    }
}

impl Mapping {
    fn into_status(
        self,
        info: HashMap<String, String>,
        mut metadata: HeaderMap,
        violations: &[Violation],
        left: Option<Duration>,
    ) -> Status {
        if let Some(millis) = self.pushback.to_millis(left) {
            metadata.insert(PUSHBACK, HeaderValue::from(millis));
        }
        let mut details = ErrorDetails::with_error_info(self.reason.name(), DOMAIN, info);
        if let Pushback::After(wait) = self.pushback {
            details.set_retry_info(Some(wait));
        }
        let message = truncate_encoded(&self.text, MAX_MESSAGE_BYTES);
        let mut violations: Vec<_> = violations
            .iter()
            .take(MAX_VIOLATIONS)
            .map(field_violation)
            .collect();
        loop {
            if !violations.is_empty() {
                details.set_bad_request(violations.clone());
            }
            let fields = MetadataMap::from_headers(metadata.clone());
            let status = Status::with_error_details_and_metadata(
                self.code,
                &message,
                details.clone(),
                fields,
            );
            let is_small = trailer_bytes(&status) <= MAX_TRAILER_BYTES;
            if is_small || (violations.pop().is_none() && !drop_limit(&mut metadata)) {
                return status;
            }
        }
    }
}

fn field_violation(violation: &Violation) -> FieldViolation {
    let field = truncate_utf8(&clean(&violation.field), MAX_VIOLATION_BYTES / 2);
    let left = MAX_VIOLATION_BYTES - field.len();
    FieldViolation::new(field, truncate_utf8(&clean(&violation.description), left))
}

/// Removes one `x-ratelimit-*` field; false if there is none.
fn drop_limit(metadata: &mut HeaderMap) -> bool {
    let mut names = metadata.keys();
    let limit = names.find(|name| name.as_str().starts_with(RATE_LIMIT));
    let limit = limit.cloned();
    limit.is_some_and(|limit| metadata.remove(limit).is_some())
}

fn trailer_bytes(status: &Status) -> usize {
    let response = status.clone().into_http::<()>();
    let fields = response.headers().iter();
    fields
        .map(|(name, value)| name.as_str().len() + value.len() + 32)
        .sum()
}
