//! The mapping table from failures to gRPC codes, reasons, texts and pushbacks.
//!
//! It is the only place that assigns codes and reasons. Its matches on failures are exhaustive, without a wildcard arm, so a
//! new failure does not compile until it has a mapping. The pushback says whether a retry policy can retry the call (gRPC A6).
//! If the upstream may have run the call, it can't.

use std::time::Duration;

use tonic::Code;

use super::{Credentials, Failure, Protocol, text::clean};
use crate::{
    admission::Rejected,
    call::{Invalid, deadline::TimeoutKind, reason::Reason},
    upstream::{
        Error,
        error::{Malformed, Part, Rejection},
    },
};

/// The instruction to the caller's retry policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushback {
    /// Do not retry: the upstream may have run the call.
    Never,
    /// Do not retry before this time has passed.
    After(Duration),
    /// None: the caller's own policy decides.
    Unset,
}

/// The caller's view of a failure.
pub(crate) struct Mapping {
    pub(crate) code: Code,
    pub(crate) reason: Reason,
    pub(crate) text: String,
    pub(crate) pushback: Pushback,
}

impl Failure {
    /// Maps the failure. `credentials` decides who is responsible for a key that the upstream rejects.
    pub(crate) fn mapping(&self, credentials: Credentials) -> Mapping {
        let (code, reason, text, pushback) = match self {
            Self::Upstream(error) => return map_upstream(error, credentials),
            Self::DeadlineExceeded(kind) => return map_timeout(*kind),
            Self::Protocol(broken, text) => return map_protocol(*broken, text),
            Self::Invalid(invalid) => (
                Code::InvalidArgument,
                Reason::InvalidRequest,
                invalid_text(invalid),
                Pushback::Unset,
            ),
            Self::CredentialsMissing => (
                Code::Unauthenticated,
                Reason::CallerCredentialsMissing,
                "no credentials: send authorization: Bearer <key>, or x-api-key where the bridge passes keys on".into(),
                Pushback::Unset,
            ),
            Self::CredentialsRejected => (
                Code::Unauthenticated,
                Reason::CallerCredentialsRejected,
                "the bridge does not know this caller, by its key, its certificate or a trusted proxy's header".into(),
                Pushback::Unset,
            ),
            Self::FieldNotAllowed(field) => (
                Code::PermissionDenied,
                Reason::FieldNotAllowed,
                format!("this caller may not set {field}; nothing was sent"),
                Pushback::Unset,
            ),
            Self::Rejected(rejected @ Rejected::CallerSaturated { .. }) => (
                Code::ResourceExhausted,
                Reason::CallerSaturated,
                format!("{rejected}; nothing was sent"),
                Pushback::Unset,
            ),
            Self::Rejected(rejected @ Rejected::CallerRateLimited { wait }) => (
                Code::ResourceExhausted,
                Reason::CallerRateLimited,
                format!("{rejected}; nothing was sent"),
                Pushback::After(*wait),
            ),
            Self::Rejected(Rejected::Saturated { limit }) => (
                Code::Unavailable,
                Reason::BridgeSaturated,
                format!("the bridge has {limit} calls open, which is its limit; nothing was sent"),
                Pushback::Unset,
            ),
            Self::Rejected(
                rejected @ (Rejected::Watches { .. }
                | Rejected::Probes { .. }
                | Rejected::Memory(_)),
            ) => (
                Code::Unavailable,
                Reason::BridgeSaturated,
                format!("{rejected}; nothing was sent"),
                Pushback::Unset,
            ),
            Self::Exhausted(exhausted) => (
                Code::ResourceExhausted,
                Reason::QuotaExhausted,
                format!("{exhausted}; nothing was sent"),
                Pushback::After(exhausted.wait),
            ),
            Self::MessageTimeout(timeout) => (
                Code::DeadlineExceeded,
                Reason::MessageTimeout,
                format!("the request's message was not complete within the bridge's MESSAGE_TIMEOUT of {timeout:?}; nothing was sent"),
                Pushback::Unset,
            ),
            Self::Rejected(Rejected::Draining) => (
                Code::Unavailable,
                Reason::BridgeDraining,
                "the bridge is shutting down; nothing was sent".into(),
                Pushback::Unset,
            ),
            Self::CallerStalled => (
                Code::ResourceExhausted,
                Reason::CallerStalled,
                "the bridge was short of memory, and the caller neither sent nor read anything for a while".into(),
                Pushback::Never,
            ),
            Self::OperatorCancelled => (
                Code::Cancelled,
                Reason::OperatorCancelled,
                "an operator of the bridge cancelled the call; if it was sent, the upstream may have run it".into(),
                Pushback::Never,
            ),
            Self::Panicked => (
                Code::Internal,
                Reason::BridgeFailed,
                "the bridge itself failed; the upstream may have run the call".into(),
                Pushback::Never,
            ),
            Self::DrainTimeout => (
                Code::Unavailable,
                Reason::BridgeDraining,
                "the bridge shut down before the answer was complete; the upstream may have run the call".into(),
                Pushback::Never,
            ),
        };
        Mapping {
            code,
            reason,
            text,
            pushback,
        }
    }
}

fn invalid_text(invalid: &Invalid) -> String {
    let violations = invalid.violations.iter();
    let violations: Vec<_> = violations
        .map(|v| format!("{} {}", v.field, v.description))
        .collect();
    format!("invalid request: {}", violations.join("; "))
}

fn map_timeout(kind: TimeoutKind) -> Mapping {
    let (reason, text) = match kind {
        TimeoutKind::Caller => (
            Reason::CallerDeadline,
            "the caller's deadline passed before the answer was complete",
        ),
        TimeoutKind::Invoke => (
            Reason::InvokeTimeout,
            "no complete reply within the bridge's INVOKE_TIMEOUT",
        ),
        TimeoutKind::Initial => (
            Reason::InitialTimeout,
            "no event within the bridge's STREAM_INITIAL_TIMEOUT",
        ),
        TimeoutKind::Idle => (
            Reason::IdleTimeout,
            "the upstream was silent for longer than the bridge's STREAM_IDLE_TIMEOUT",
        ),
        TimeoutKind::Lifetime => (
            Reason::LifetimeExceeded,
            "the stream outlasted the bridge's STREAM_LIFETIME",
        ),
    };
    Mapping {
        code: Code::DeadlineExceeded,
        reason,
        text: text.into(),
        pushback: Pushback::Never,
    }
}

fn map_protocol(broken: Protocol, text: &str) -> Mapping {
    let (code, reason) = match broken {
        Protocol::TooLarge => (Code::ResourceExhausted, Reason::RequestTooLarge),
        Protocol::MethodUnknown => (Code::Unimplemented, Reason::MethodUnknown),
        Protocol::Malformed | Protocol::ContentType | Protocol::HttpMethod => {
            (Code::InvalidArgument, Reason::MalformedRequest)
        }
        // Both codes are gRPC's own (statuscodes.md; compression.md, test case 3).
        Protocol::Cardinality => (Code::Unimplemented, Reason::MalformedRequest),
        Protocol::CompressedFlag => (Code::Internal, Reason::MalformedRequest),
        Protocol::Encoding => (Code::Unimplemented, Reason::EncodingUnsupported),
        Protocol::Origin => (Code::PermissionDenied, Reason::OriginRejected),
    };
    Mapping {
        code,
        reason,
        text: text.into(),
        pushback: Pushback::Unset,
    }
}

fn map_upstream(error: &Error, credentials: Credentials) -> Mapping {
    let (code, reason, text, pushback) = match error {
        Error::Rejected(rejection) => return map_rejection(rejection, credentials),
        Error::Unreachable(_) => (
            Code::Unavailable,
            Reason::UpstreamUnreachable,
            "the upstream can't be reached; nothing was sent".into(),
            Pushback::Unset,
        ),
        Error::NoDescriptors(_) => (
            Code::Unavailable,
            Reason::BridgeSaturated,
            "the bridge has no free file descriptor for a connection to the upstream; nothing was sent".into(),
            Pushback::Unset,
        ),
        Error::NoMemory(full) => (
            Code::Unavailable,
            Reason::BridgeSaturated,
            format!("{full}; nothing was sent"),
            Pushback::Unset,
        ),
        Error::Interrupted(_) => (
            Code::Unavailable,
            Reason::UpstreamInterrupted,
            "the connection to the upstream broke before the answer was complete; it may have run the call".into(),
            Pushback::Never,
        ),
        Error::Redirected { status } => (
            Code::Internal,
            Reason::UpstreamRedirected,
            format!("the upstream redirected the call ({}), which the bridge never follows: check UPSTREAM_URL", status.as_u16()),
            Pushback::Unset,
        ),
        Error::Malformed { why } => (
            Code::Internal,
            Reason::UpstreamMalformedReply,
            malformed_text(*why),
            Pushback::Never,
        ),
        Error::TooLarge { what, limit } => (
            Code::ResourceExhausted,
            Reason::UpstreamReplyTooLarge,
            match what {
                Part::Reply => format!("the upstream's reply is larger than the bridge's MAX_REPLY_BYTES of {limit}"),
                Part::Event => format!("an event of the upstream is larger than the bridge's MAX_EVENT_BYTES of {limit}"),
            },
            Pushback::Never,
        ),
        Error::StreamFailed { detail } => (
            Code::Internal,
            Reason::UpstreamStreamFailed,
            with_detail("the upstream failed while answering", detail.as_deref()),
            Pushback::Never,
        ),
        Error::Truncated => (
            Code::Unavailable,
            Reason::UpstreamStreamTruncated,
            "the upstream's stream ended without its done event: the answer is not complete".into(),
            Pushback::Never,
        ),
    };
    Mapping {
        code,
        reason,
        text,
        pushback,
    }
}

fn malformed_text(why: Malformed) -> String {
    format!("the upstream's answer can't be read: {why}")
}

/// The mappings of 4xx and 5xx.
fn map_rejection(rejection: &Rejection, credentials: Credentials) -> Mapping {
    let status = rejection.status.as_u16();
    let (code, reason, text) = match status {
        401 | 403 => map_key(status, credentials),
        404 if rejection.is_route_missing => {
            (Code::Unimplemented, Reason::UpstreamRouteMissing, NO_ROUTE)
        }
        ..500 => map_request(status),
        _ => map_failure(status),
    };
    let pushback = pushback(status, rejection.retry_after);
    let text = with_detail(&format!("{text} ({status})"), rejection.detail.as_deref());
    Mapping {
        code,
        reason,
        text,
        pushback,
    }
}

/// A proxy can return 408 or 503 after it has forwarded the call (Envoy: "reset before headers"). So those are retried only
/// with a Retry-After. Any other 5xx can come after the upstream has done the work, so its Retry-After is ignored.
fn pushback(status: u16, retry_after: Option<Duration>) -> Pushback {
    let is_retry_after_valid = status < 500 || matches!(status, 501 | 503);
    let has_not_run = status < 500 && !matches!(status, 408 | 425);
    match retry_after {
        Some(wait) if is_retry_after_valid => Pushback::After(wait),
        None if has_not_run => Pushback::Unset,
        _ => Pushback::Never,
    }
}

type Mapped = (Code, Reason, &'static str);

const NO_ROUTE: &str = "the upstream does not offer this: check UPSTREAM_URL";

/// A rejected key is the fault of the caller or of the bridge's operator, depending on whose key it is.
fn map_key(status: u16, credentials: Credentials) -> Mapped {
    const CALLERS: &str = "the upstream does not accept the caller's key";
    const OURS: &str = "the upstream does not accept the bridge's own key";
    match (credentials, status) {
        (Credentials::Service, _) => (Code::Internal, Reason::UpstreamCredentialsRejected, OURS),
        (Credentials::Caller, 401) => (
            Code::Unauthenticated,
            Reason::CallerCredentialsRejected,
            CALLERS,
        ),
        (Credentials::Caller, _) => (
            Code::PermissionDenied,
            Reason::CallerCredentialsRejected,
            CALLERS,
        ),
    }
}

#[rustfmt::skip] // one line per mapping
fn map_request(status: u16) -> Mapped {
    const REJECTED: &str = "the upstream rejected the request";
    match status {
        400 | 422 => (Code::InvalidArgument, Reason::UpstreamRejectedRequest, REJECTED),
        404 | 410 => (Code::NotFound, Reason::UpstreamNotFound, "the upstream does not know what was asked for"),
        405 => (Code::Unimplemented, Reason::UpstreamRouteMissing, NO_ROUTE),
        408 | 425 => (Code::Unavailable, Reason::UpstreamUnavailable, "the upstream is not available now"),
        409 => (Code::Aborted, Reason::UpstreamConflict, "the upstream found a conflict"),
        412 => (Code::FailedPrecondition, Reason::UpstreamPrecondition, "a precondition of the upstream does not hold"),
        413 => (Code::ResourceExhausted, Reason::UpstreamRequestTooLarge, "the request is too large for the upstream"),
        429 => (Code::ResourceExhausted, Reason::UpstreamRateLimited, "the upstream's rate limit is used up"),
        _ => (Code::FailedPrecondition, Reason::UpstreamRejectedRequest, REJECTED),
    }
}

#[rustfmt::skip] // one line per mapping
fn map_failure(status: u16) -> Mapped {
    match status {
        501 => (Code::Unimplemented, Reason::UpstreamRouteMissing, NO_ROUTE),
        502 | 503 => (Code::Unavailable, Reason::UpstreamUnavailable, "the upstream is not available now"),
        504 => (Code::DeadlineExceeded, Reason::UpstreamTimeout, "a gateway before the upstream gave up waiting"),
        _ => (Code::Internal, Reason::UpstreamFailed, "the upstream failed"),
    }
}

fn with_detail(ours: &str, detail: Option<&str>) -> String {
    match detail.map(clean) {
        Some(detail) if !detail.is_empty() => format!("{ours}: {detail}"),
        _ => ours.to_owned(),
    }
}
