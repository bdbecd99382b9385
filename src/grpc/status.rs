//! A failure into a status, within what callers accept.
//!
//! Rich errors follow AIP-193: every status bears an ErrorInfo whose metadata says whether the upstream
//! may have acted (`sent`); `grpc-retry-pushback-ms` (gRPC A6) tells a retry policy what to do.

use std::{collections::HashMap, time::Duration};

use http::{HeaderMap, HeaderValue};
use tonic::{Status, metadata::MetadataMap};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use super::{
    failure::{Credentials, Failure},
    rows::{Pushback, Row},
    text::{MAX_MESSAGE_BYTES, clean, cut_encoded, cut_utf8},
};
use crate::{
    call::{Invalid, Violation},
    reason::Reason,
    telemetry::Record,
    upstream::{Error, error::Rejection},
};

/// `google.rpc.ErrorInfo.domain` of every status.
const DOMAIN: &str = "alim-bridge";

const MAX_VIOLATIONS: usize = 16;
const MAX_VIOLATION_BYTES: usize = 200;
/// All trailers together, by HTTP/2's count of 32 bytes a field; half of what callers accept.
const MAX_TRAILER_BYTES: usize = 4096;
const PUSHBACK: &str = "grpc-retry-pushback-ms";

impl Failure {
    /// Why, in the one word that callers, logs and metrics share.
    pub(super) fn reason(&self, credentials: Credentials) -> Reason {
        self.row(credentials).reason
    }

    /// Notes the failure in the call's record, and makes the status that the caller gets of it;
    /// `events_delivered` is how many events went before it, for a stream whose head has left.
    pub(super) fn tell(
        self,
        record: &Record,
        credentials: Credentials,
        events_delivered: Option<u64>,
    ) -> Status {
        let row = self.row(credentials);
        record.failed(row.reason);
        let mut info = HashMap::from([("sent".to_owned(), self.was_sent().to_string())]);
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
                    headers,
                    violations,
                    retry_after,
                    ..
                } = *rejection;
                row.into_status(info, headers, &violations, retry_after)
            }
            Self::Invalid(Invalid { violations }) => {
                row.into_status(info, HeaderMap::new(), &violations, None)
            }
            Self::Upstream(_)
            | Self::CredentialsMissing
            | Self::CredentialsRejected
            | Self::Refused(_)
            | Self::Clock(_)
            | Self::Cut
            | Self::Panicked
            | Self::Protocol(..) => row.into_status(info, HeaderMap::new(), &[], None),
        }
    }
}

impl Row {
    fn into_status(
        self,
        info: HashMap<String, String>,
        mut metadata: HeaderMap,
        violations: &[Violation],
        retry_after: Option<Duration>,
    ) -> Status {
        match self.pushback {
            Pushback::Never => drop(metadata.insert(PUSHBACK, HeaderValue::from_static("-1"))),
            Pushback::After(wait) => {
                let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                metadata.insert(PUSHBACK, HeaderValue::from(millis));
            }
            Pushback::Unsaid => {}
        }
        let mut details = ErrorDetails::with_error_info(self.reason.name(), DOMAIN, info);
        if let Some(wait) = retry_after {
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
            let metadata = MetadataMap::from_headers(metadata.clone());
            let status = Status::with_error_details_and_metadata(
                self.code,
                &message,
                details.clone(),
                metadata,
            );
            if trailer_bytes(&status) <= MAX_TRAILER_BYTES || violations.pop().is_none() {
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

fn trailer_bytes(status: &Status) -> usize {
    let sent = status.clone().into_http::<()>();
    let fields = sent.headers().iter();
    fields
        .map(|(name, value)| name.as_str().len() + value.len() + 32)
        .sum()
}
