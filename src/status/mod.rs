//! Everything that can keep a call from its answer, in one type, and the gRPC status that the caller gets of it.
//!
//! `mapping` is the table of codes and reasons, `encode` writes a status within what callers accept, `text` cuts and cleans what
//! others wrote.

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

/// Everything that can keep a call from its answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The bridge's own validation.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The caller showed no credentials to the bridge.
    #[error("the caller showed no credentials")]
    CredentialsMissing,
    /// The caller's credentials are not known to the bridge.
    #[error("the caller's credentials are not known")]
    CredentialsRejected,
    /// The caller may not set this field.
    #[error("the caller may not set {0}")]
    FieldNotAllowed(&'static str),
    /// Admission.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// The upstream key's quota has no room; nothing was sent.
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
    /// The upstream.
    #[error(transparent)]
    Upstream(#[from] Error),
    /// The request's message was not whole in time; nothing was sent.
    #[error("the request's message was not whole within {0:?}")]
    MessageTimeout(Duration),
    /// A clock ran out.
    #[error("{0} ran out")]
    DeadlineExceeded(TimeoutKind),
    /// The call was still open when the drain's time was up.
    #[error("the bridge shut down before the answer was complete")]
    DrainTimeout,
    /// The caller did nothing while the bridge was short of memory.
    #[error("the caller neither sent nor read anything")]
    CallerStalled,
    /// The bridge itself broke while it answered.
    #[error("a panic of the bridge")]
    Panicked,
    /// The request breaks gRPC's own rules, as tonic found.
    #[error("{1}")]
    Protocol(Protocol, String),
}

/// How a request can break gRPC's own rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Larger than `MAX_REQUEST_BYTES`, after decompression too.
    TooLarge,
    /// No such method or service.
    MethodUnknown,
    /// The bytes are no message of this method.
    Malformed,
    /// No gRPC at all, by its content type.
    ContentType,
    /// No gRPC at all, by its HTTP method.
    HttpMethod,
    /// A compression that the bridge does not have.
    Encoding,
    /// A page of an origin that may not call.
    Origin,
}

/// Whose key the upstream was shown: it decides whose fault a 401 is.
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
    /// Whether the call may have left the bridge; where that can't be known, it may have.
    pub(crate) fn was_sent(&self) -> bool {
        match self {
            Self::Upstream(error) => error.was_sent(),
            Self::DeadlineExceeded(_)
            | Self::DrainTimeout
            | Self::CallerStalled
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

    /// The status of the upstream's head, where there was one.
    pub(crate) fn http_status(&self) -> Option<StatusCode> {
        match self {
            Self::Upstream(error) => error.http_status(),
            Self::DeadlineExceeded(_)
            | Self::DrainTimeout
            | Self::CallerStalled
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
