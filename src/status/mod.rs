//! Every way in which a call can fail, in one type, and the gRPC status of each.
//!
//! `mapping` is the table of codes and reasons, and `catalog` says what the reasons mean. `encode` writes the status within the
//! sizes that callers accept. `text` cleans and truncates the upstream's text.

pub mod catalog;
mod encode;
mod mapping;
mod text;

use std::time::Duration;

use http::StatusCode;

use crate::{
    admission::Rejected,
    call::{Invalid, deadline::TimeoutKind},
    quota::Exhausted,
    upstream::Error,
};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The bridge's own validation failed.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The caller sent no credentials.
    #[error("the caller sent no credentials")]
    CredentialsMissing,
    /// The caller's credentials are not known to the bridge.
    #[error("the caller's credentials are not known")]
    CredentialsRejected,
    /// The caller may not set this field.
    #[error("the caller may not set {0}")]
    FieldNotAllowed(&'static str),
    /// Admission control rejected the call.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// The upstream key's quota is used up; nothing was sent.
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
    /// The upstream failed.
    #[error(transparent)]
    Upstream(#[from] Error),
    /// The request's message was not complete in time; nothing was sent.
    #[error("the request's message was not complete within {0:?}")]
    MessageTimeout(Duration),
    /// A deadline passed.
    #[error("{0} ran out")]
    DeadlineExceeded(TimeoutKind),
    /// The call was still open after the drain timeout.
    #[error("the bridge shut down before the answer was complete")]
    DrainTimeout,
    /// The caller neither sent nor read anything while the bridge was short of memory.
    #[error("the caller neither sent nor read anything")]
    CallerStalled,
    /// An operator cancelled the call on the admin port.
    #[error("an operator cancelled the call")]
    OperatorCancelled,
    /// The bridge panicked.
    #[error("a panic of the bridge")]
    Panicked,
    /// The request violates gRPC's own rules. tonic or the middleware found it.
    #[error("{1}")]
    Protocol(Protocol, String),
}

/// How a request violates gRPC's own rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// A message larger than `MAX_REQUEST_BYTES`, also after decompression, or too much metadata.
    TooLarge,
    /// No such method or service.
    MethodUnknown,
    /// The bytes can't be decoded as a message of this method.
    Malformed,
    /// No request message, or more than the method's one.
    Cardinality,
    /// A message is compressed, and no compression was announced.
    CompressedFlag,
    /// The content type is not gRPC's.
    ContentType,
    /// The HTTP method is not POST.
    HttpMethod,
    /// The bridge does not support the compression.
    Encoding,
    /// The page's origin is not allowed to call.
    Origin,
}

/// Whose key the upstream got. It decides who is responsible for a 401.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// The bridge's.
    Service,
    /// The caller's own.
    Caller,
}

impl From<TimeoutKind> for Failure {
    fn from(kind: TimeoutKind) -> Self {
        Self::DeadlineExceeded(kind)
    }
}

impl Failure {
    /// Whether the call may have been sent. If that is unknown, true.
    pub(crate) fn was_sent(&self) -> bool {
        match self {
            Self::Upstream(error) => error.was_sent(),
            Self::DeadlineExceeded(_)
            | Self::DrainTimeout
            | Self::CallerStalled
            | Self::OperatorCancelled
            | Self::Panicked => true,
            Self::Invalid(_)
            | Self::CredentialsMissing
            | Self::CredentialsRejected
            | Self::FieldNotAllowed(_)
            | Self::Rejected(_)
            | Self::Exhausted(_)
            | Self::MessageTimeout(_)
            | Self::Protocol(..) => false,
        }
    }

    /// The upstream's HTTP status, if it sent one.
    pub(crate) fn http_status(&self) -> Option<StatusCode> {
        match self {
            Self::Upstream(error) => error.http_status(),
            Self::DeadlineExceeded(_)
            | Self::DrainTimeout
            | Self::CallerStalled
            | Self::OperatorCancelled
            | Self::Panicked
            | Self::Invalid(_)
            | Self::CredentialsMissing
            | Self::CredentialsRejected
            | Self::FieldNotAllowed(_)
            | Self::Rejected(_)
            | Self::Exhausted(_)
            | Self::MessageTimeout(_)
            | Self::Protocol(..) => None,
        }
    }
}
