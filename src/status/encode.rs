//! A failure into a status, within what callers accept.
//!
//! Rich errors follow AIP-193: every status bears an ErrorInfo whose metadata says whether the upstream
//! may have acted (`sent`); `grpc-retry-pushback-ms` (gRPC A6) tells a retry policy what to do.

use std::{collections::HashMap, time::Duration};

use http::{HeaderMap, HeaderValue};
use tonic::{Code, Status, metadata::MetadataMap};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use super::{
    Credentials, Failure,
    mapping::{Mapping, Pushback},
    text::{MAX_MESSAGE_BYTES, clean, cut_encoded, cut_utf8},
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
/// All trailers together, by HTTP/2's count of 32 bytes a field: half of what callers accept, less the request id that
/// the edge adds.
const MAX_TRAILER_BYTES: usize = 4096 - 172;
const PUSHBACK: &str = "grpc-retry-pushback-ms";

impl Failure {
    /// The code that the caller gets of it.
    pub(crate) fn code(&self) -> Code {
        self.mapping(Credentials::Service).code
    }

    /// Why, in the one word that callers, logs and metrics share.
    pub(crate) fn reason(&self, credentials: Credentials) -> Reason {
        self.mapping(credentials).reason
    }

    /// Notes the failure in the call's record, and makes the status that the caller gets of it;
    /// `events_delivered` is how many events went before it, for a stream whose head has left.
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
            | Self::Panicked
            | Self::Protocol(..) => mapping.into_status(info, HeaderMap::new(), &[], left),
        }
    }
}

impl Pushback {
    /// As the header says it; `left` is what is left of the caller's deadline. gRPC libraries wait out a pushback
    /// beyond their deadline and then report DEADLINE_EXCEEDED without a reason, so it is -1 then. 0 is never
    /// sent: grpcio up to 1.85 hangs or dies on it, others repeat the call at once.
    fn millis(self, left: Option<Duration>) -> Option<i64> {
        match self {
            Self::Unsaid => None,
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
        if let Some(millis) = self.pushback.millis(left) {
            metadata.insert(PUSHBACK, HeaderValue::from(millis));
        }
        let mut details = ErrorDetails::with_error_info(self.reason.name(), DOMAIN, info);
        if let Pushback::After(wait) = self.pushback {
            details.set_retry_info(Some(wait));
        }
        let message = cut_encoded(&self.text, MAX_MESSAGE_BYTES);
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
    let field = cut_utf8(&clean(&violation.field), MAX_VIOLATION_BYTES / 2);
    let left = MAX_VIOLATION_BYTES - field.len();
    FieldViolation::new(field, cut_utf8(&clean(&violation.description), left))
}

/// Takes one `x-ratelimit-*` away; false if there is none.
fn drop_limit(metadata: &mut HeaderMap) -> bool {
    let mut names = metadata.keys();
    let limit = names.find(|name| name.as_str().starts_with(RATE_LIMIT));
    let limit = limit.cloned();
    limit.is_some_and(|limit| metadata.remove(limit).is_some())
}

fn trailer_bytes(status: &Status) -> usize {
    let sent = status.clone().into_http::<()>();
    let fields = sent.headers().iter();
    fields
        .map(|(name, value)| name.as_str().len() + value.len() + 32)
        .sum()
}
