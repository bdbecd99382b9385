//! Encodes a failure as a gRPC status, within the sizes that callers accept.
//!
//! Rich errors follow AIP-193. Every status has an ErrorInfo, whose metadata `sent` says whether the upstream may have run
//! the call. `grpc-retry-pushback-ms` (gRPC A6) controls the caller's retry policy.

use std::{collections::HashMap, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};
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
/// What a BadRequest adds to the details, beside its violations: its type's URL, and tags and lengths.
const BAD_REQUEST_BYTES: usize = 64;
/// What a violation adds, beside its texts: tags and lengths.
const VIOLATION_BYTES: usize = 8;
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
        let encode = |details: ErrorDetails, metadata: HeaderMap| {
            let metadata = MetadataMap::from_headers(metadata);
            Status::with_error_details_and_metadata(self.code, &message, details, metadata)
        };
        let mut status = encode(details.clone(), metadata.clone());
        let bytes = trailer_bytes(&status);
        let fitting = match MAX_TRAILER_BYTES.checked_sub(bytes) {
            Some(free) => fitting_violations(violations, free),
            None => {
                drop_limits(&mut metadata, bytes - MAX_TRAILER_BYTES);
                *status.metadata_mut() = MetadataMap::from_headers(metadata);
                return status;
            }
        };
        if fitting.is_empty() {
            return status;
        }
        details.set_bad_request(fitting);
        encode(details, metadata)
    }
}

/// The first violations, as many as fit into `free` bytes of trailers.
fn fitting_violations(violations: &[Violation], free: usize) -> Vec<FieldViolation> {
    let violations = violations.iter().take(MAX_VIOLATIONS).map(field_violation);
    let mut left = (free / 4 * 3).saturating_sub(BAD_REQUEST_BYTES); // Base64 makes four bytes of three
    let fitting = violations.take_while(|violation| {
        let bytes = VIOLATION_BYTES + violation.field.len() + violation.description.len();
        let rest = left.checked_sub(bytes);
        left = rest.unwrap_or(left);
        rest.is_some()
    });
    fitting.collect()
}

fn field_violation(violation: &Violation) -> FieldViolation {
    let field = truncate_utf8(&clean(&violation.field), MAX_VIOLATION_BYTES / 2);
    let left = MAX_VIOLATION_BYTES - field.len();
    FieldViolation::new(field, truncate_utf8(&clean(&violation.description), left))
}

/// Removes `x-ratelimit-*` fields until `excess` bytes are gone, or all of them.
fn drop_limits(metadata: &mut HeaderMap, excess: usize) {
    let is_limit = |name: &&HeaderName| name.as_str().starts_with(RATE_LIMIT);
    let limits: Vec<_> = metadata.keys().filter(is_limit).cloned().collect();
    let mut dropped = 0;
    for name in limits {
        if dropped >= excess {
            return;
        }
        let value = metadata.remove(&name);
        dropped += value.map_or(0, |value| field_bytes(&name, &value));
    }
}

/// The size of a field as HTTP/2 counts it.
fn field_bytes(name: &HeaderName, value: &HeaderValue) -> usize {
    name.as_str().len() + value.len() + 32
}

fn trailer_bytes(status: &Status) -> usize {
    let response = status.clone().into_http::<()>();
    let fields = response.headers().iter();
    fields.map(|(name, value)| field_bytes(name, value)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    /// More than the bridge keeps free, because it knows sizes in the details only to within a few bytes.
    const SLACK: usize = 64;

    fn status_of(text: &str, violations: &[Violation], limits: usize) -> Status {
        let mapping = Mapping {
            code: Code::InvalidArgument,
            reason: Reason::InvalidRequest,
            text: text.into(),
            pushback: Pushback::After(Duration::from_secs(1)),
        };
        let mut metadata = HeaderMap::new();
        for name in ["limit", "remaining", "reset"] {
            let name = HeaderName::try_from(format!("{RATE_LIMIT}{name}")).expect("a name");
            let value = HeaderValue::try_from("1".repeat(limits)).expect("digits");
            metadata.insert(name, value);
        }
        let info = HashMap::from([("sent".into(), "true".into())]);
        mapping.into_status(info, metadata, violations, None)
    }

    proptest! {
        #[test]
        fn a_status_has_as_much_as_fits(
            text in "\\PC{0,400}", parts in vec(("\\PC{0,60}", "\\PC{0,250}"), 0..20), limits in 0usize..2000,
        ) {
            let violations: Vec<_> = parts.into_iter().map(|(field, rule)| Violation::new(field, rule)).collect();
            let status = status_of(&text, &violations, limits);
            let bytes = trailer_bytes(&status);
            prop_assert!(bytes <= MAX_TRAILER_BYTES, "{} bytes", bytes);

            let all: Vec<_> = violations.iter().take(MAX_VIOLATIONS).map(field_violation).collect();
            let details = status.get_error_details_vec();
            let sent = details.into_iter().find_map(|detail| match detail {
                tonic_types::ErrorDetail::BadRequest(request) => Some(request.field_violations),
                _ => None,
            }).unwrap_or_default();
            for (sent, wanted) in sent.iter().zip(&all) {
                prop_assert_eq!((&sent.field, &sent.description), (&wanted.field, &wanted.description));
            }
            if let Some(next) = all.get(sent.len()) {
                let next = (next.field.len() + next.description.len() + VIOLATION_BYTES) / 3 * 4;
                let first = if sent.is_empty() { BAD_REQUEST_BYTES / 3 * 4 } else { 0 };
                let dropped = status.metadata().len() < 4;
                prop_assert!(dropped || bytes + next + first + SLACK > MAX_TRAILER_BYTES, "{} bytes", bytes);
            }
            if !sent.is_empty() {
                prop_assert_eq!(status.metadata().len(), 4, "violations go before limits");
            }
        }
    }
}
