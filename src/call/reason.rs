//! Reasons: stable names for why a call failed, which callers, logs, metrics and traces share.
//!
//! The set is closed, so a reason can be a metric label. `status::mapping` maps each failure to a reason and a code.
//! `docs/runbook.md` says who is responsible for each reason, and what to do.

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The bridge can't connect to the upstream; nothing was sent.
    UpstreamUnreachable,
    /// The upstream, or a proxy in front of it, is not available: 408, 425, 502, 503.
    UpstreamUnavailable,
    /// A proxy in front of the upstream timed out: 504.
    UpstreamTimeout,
    /// The upstream returned 500 or another 5xx.
    UpstreamFailed,
    /// The connection broke after the call was sent.
    UpstreamInterrupted,
    /// The upstream sent an `error` event.
    UpstreamStreamFailed,
    /// The stream ended without `done`.
    UpstreamStreamTruncated,
    /// The reply can't be parsed.
    UpstreamMalformedReply,
    /// A reply or an event is larger than its limit.
    UpstreamReplyTooLarge,
    /// No event came within `STREAM_INITIAL_TIMEOUT`.
    InitialTimeout,
    /// The stream was silent for `STREAM_IDLE_TIMEOUT`.
    IdleTimeout,
    /// The stream lasted longer than `STREAM_LIFETIME`.
    LifetimeExceeded,
    /// No complete reply came within `INVOKE_TIMEOUT`.
    InvokeTimeout,
    /// The upstream rejects the bridge's key.
    UpstreamCredentialsRejected,
    /// The upstream redirected, which the bridge never follows.
    UpstreamRedirected,
    /// The upstream has no such route.
    UpstreamRouteMissing,
    /// The upstream's rate limit for the key is used up.
    UpstreamRateLimited,
    /// `UPSTREAM_QUOTA` is used up; nothing was sent.
    QuotaExhausted,
    /// The bridge's limit on calls or memory is reached.
    BridgeSaturated,
    /// The bridge is shutting down.
    BridgeDraining,
    /// A field is invalid.
    InvalidRequest,
    /// The request is not gRPC, or its bytes can't be decoded.
    MalformedRequest,
    /// The message or the metadata is larger than its limit.
    RequestTooLarge,
    /// The request message was not complete within `MESSAGE_TIMEOUT`.
    MessageTimeout,
    /// The method does not exist.
    MethodUnknown,
    /// The compression is not gzip.
    EncodingUnsupported,
    /// The caller sent no credentials.
    CallerCredentialsMissing,
    /// The caller's credentials are not known.
    CallerCredentialsRejected,
    /// The caller's limit on open calls is reached.
    CallerSaturated,
    /// The caller has used up its rate limit.
    CallerRateLimited,
    /// The caller set a field that it is not allowed to set.
    FieldNotAllowed,
    /// The page's origin is not allowed to call.
    OriginRejected,
    /// The caller's own deadline passed.
    CallerDeadline,
    /// The caller neither sent nor read anything while the bridge was short of memory.
    CallerStalled,
    /// An operator cancelled the call on the admin port.
    OperatorCancelled,
    /// The upstream rejects the request: 400, 422 or another 4xx.
    UpstreamRejectedRequest,
    /// The upstream does not have the requested resource: 404 or 410.
    UpstreamNotFound,
    /// The upstream found a conflict: 409.
    UpstreamConflict,
    /// A precondition of the upstream does not hold: 412.
    UpstreamPrecondition,
    /// The request is too large for the upstream: 413.
    UpstreamRequestTooLarge,
    /// The bridge panicked.
    BridgeFailed,
}

impl Reason {
    /// All reasons, each at the index of its discriminant.
    pub const ALL: [Self; 41] = [
        Self::UpstreamUnreachable,
        Self::UpstreamUnavailable,
        Self::UpstreamTimeout,
        Self::UpstreamFailed,
        Self::UpstreamInterrupted,
        Self::UpstreamStreamFailed,
        Self::UpstreamStreamTruncated,
        Self::UpstreamMalformedReply,
        Self::UpstreamReplyTooLarge,
        Self::InitialTimeout,
        Self::IdleTimeout,
        Self::LifetimeExceeded,
        Self::InvokeTimeout,
        Self::UpstreamCredentialsRejected,
        Self::UpstreamRedirected,
        Self::UpstreamRouteMissing,
        Self::UpstreamRateLimited,
        Self::QuotaExhausted,
        Self::BridgeSaturated,
        Self::BridgeDraining,
        Self::InvalidRequest,
        Self::MalformedRequest,
        Self::RequestTooLarge,
        Self::MessageTimeout,
        Self::MethodUnknown,
        Self::EncodingUnsupported,
        Self::CallerCredentialsMissing,
        Self::CallerCredentialsRejected,
        Self::CallerSaturated,
        Self::CallerRateLimited,
        Self::FieldNotAllowed,
        Self::OriginRejected,
        Self::CallerDeadline,
        Self::CallerStalled,
        Self::OperatorCancelled,
        Self::UpstreamRejectedRequest,
        Self::UpstreamNotFound,
        Self::UpstreamConflict,
        Self::UpstreamPrecondition,
        Self::UpstreamRequestTooLarge,
        Self::BridgeFailed,
    ];

    /// The name in `ErrorInfo.reason`, in logs, in metric labels and in a span's `error.type`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UpstreamUnreachable => "UPSTREAM_UNREACHABLE",
            Self::UpstreamUnavailable => "UPSTREAM_UNAVAILABLE",
            Self::UpstreamTimeout => "UPSTREAM_TIMEOUT",
            Self::UpstreamFailed => "UPSTREAM_FAILED",
            Self::UpstreamInterrupted => "UPSTREAM_INTERRUPTED",
            Self::UpstreamStreamFailed => "UPSTREAM_STREAM_FAILED",
            Self::UpstreamStreamTruncated => "UPSTREAM_STREAM_TRUNCATED",
            Self::UpstreamMalformedReply => "UPSTREAM_MALFORMED_REPLY",
            Self::UpstreamReplyTooLarge => "UPSTREAM_REPLY_TOO_LARGE",
            Self::InitialTimeout => "INITIAL_TIMEOUT",
            Self::IdleTimeout => "IDLE_TIMEOUT",
            Self::LifetimeExceeded => "LIFETIME_EXCEEDED",
            Self::InvokeTimeout => "INVOKE_TIMEOUT",
            Self::UpstreamCredentialsRejected => "UPSTREAM_CREDENTIALS_REJECTED",
            Self::UpstreamRedirected => "UPSTREAM_REDIRECTED",
            Self::UpstreamRouteMissing => "UPSTREAM_ROUTE_MISSING",
            Self::UpstreamRateLimited => "UPSTREAM_RATE_LIMITED",
            Self::QuotaExhausted => "QUOTA_EXHAUSTED",
            Self::BridgeSaturated => "BRIDGE_SATURATED",
            Self::BridgeDraining => "BRIDGE_DRAINING",
            Self::InvalidRequest => "INVALID_REQUEST",
            Self::MalformedRequest => "MALFORMED_REQUEST",
            Self::RequestTooLarge => "REQUEST_TOO_LARGE",
            Self::MessageTimeout => "MESSAGE_TIMEOUT",
            Self::MethodUnknown => "METHOD_UNKNOWN",
            Self::EncodingUnsupported => "ENCODING_UNSUPPORTED",
            Self::CallerCredentialsMissing => "CALLER_CREDENTIALS_MISSING",
            Self::CallerCredentialsRejected => "CALLER_CREDENTIALS_REJECTED",
            Self::CallerSaturated => "CALLER_SATURATED",
            Self::CallerRateLimited => "CALLER_RATE_LIMITED",
            Self::FieldNotAllowed => "FIELD_NOT_ALLOWED",
            Self::OriginRejected => "ORIGIN_REJECTED",
            Self::CallerDeadline => "CALLER_DEADLINE",
            Self::CallerStalled => "CALLER_STALLED",
            Self::OperatorCancelled => "OPERATOR_CANCELLED",
            Self::UpstreamRejectedRequest => "UPSTREAM_REJECTED_REQUEST",
            Self::UpstreamNotFound => "UPSTREAM_NOT_FOUND",
            Self::UpstreamConflict => "UPSTREAM_CONFLICT",
            Self::UpstreamPrecondition => "UPSTREAM_PRECONDITION",
            Self::UpstreamRequestTooLarge => "UPSTREAM_REQUEST_TOO_LARGE",
            Self::BridgeFailed => "BRIDGE_FAILED",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_at_its_own_index() {
        for (number, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number, "{}", reason.name());
        }
    }
}
