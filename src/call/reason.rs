//! Reasons: the stable words for why a call failed, which callers, logs, metrics and traces share.
//!
//! A closed set, so that a reason may be a metric's label. What leads to each, and with which code, is
//! the table of `status::mapping`; whose fault it is and what to do, `docs/runbook.md` says.

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No connection to the upstream; nothing was sent.
    UpstreamUnreachable,
    /// The upstream, or a proxy before it, has no room: 408, 425, 502, 503.
    UpstreamUnavailable,
    /// A proxy before the upstream stopped waiting: 504.
    UpstreamTimeout,
    /// 500 or another 5xx.
    UpstreamFailed,
    /// The connection broke after the call was sent.
    UpstreamInterrupted,
    /// An `error` event.
    UpstreamStreamFailed,
    /// A stream without `done`.
    UpstreamStreamTruncated,
    /// An answer that can't be read.
    UpstreamMalformedReply,
    /// An answer or an event above its limit.
    UpstreamReplyTooLarge,
    /// No event within `STREAM_INITIAL_TIMEOUT`.
    InitialTimeout,
    /// Silence for `STREAM_IDLE_TIMEOUT`.
    IdleTimeout,
    /// A stream that outlasted `STREAM_LIFETIME`.
    LifetimeExceeded,
    /// No whole reply within `INVOKE_TIMEOUT`.
    InvokeTimeout,
    /// The upstream refuses the bridge's key.
    UpstreamCredentialsRejected,
    /// A redirect, which is never followed.
    UpstreamRedirected,
    /// The upstream has no such route.
    UpstreamRouteMissing,
    /// The key's share of the upstream is used up.
    UpstreamRateLimited,
    /// `UPSTREAM_QUOTA` has no room; nothing was sent.
    QuotaExhausted,
    /// `MAX_CALLS` are open.
    BridgeSaturated,
    /// The bridge shuts down.
    BridgeDraining,
    /// A field is invalid.
    InvalidRequest,
    /// The bytes are no message.
    MalformedRequest,
    /// A message or metadata above its limit.
    RequestTooLarge,
    /// A request whose message was not whole within `MESSAGE_TIMEOUT`.
    MessageTimeout,
    /// No such method.
    MethodUnknown,
    /// A compression other than gzip.
    EncodingUnsupported,
    /// The caller showed no key.
    CallerCredentialsMissing,
    /// The caller's key is not known.
    CallerCredentialsRejected,
    /// The caller has as many calls open as it may.
    CallerSaturated,
    /// The caller has used up its rate.
    CallerRateLimited,
    /// The caller set a field that it may not.
    FieldNotAllowed,
    /// A page of an origin that may not call.
    OriginRejected,
    /// The caller's own deadline passed.
    CallerDeadline,
    /// The caller neither sent nor read anything while the bridge was short of memory.
    CallerStalled,
    /// The upstream refuses the request: 400, 422 or another 4xx.
    UpstreamRejectedRequest,
    /// The upstream does not know what was asked for.
    UpstreamNotFound,
    /// 409.
    UpstreamConflict,
    /// 412.
    UpstreamPrecondition,
    /// 413.
    UpstreamRequestTooLarge,
    /// A panic of the bridge.
    BridgeFailed,
}

impl Reason {
    /// Each once, at the index that it has as a number.
    pub const ALL: [Self; 40] = [
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
        Self::UpstreamRejectedRequest,
        Self::UpstreamNotFound,
        Self::UpstreamConflict,
        Self::UpstreamPrecondition,
        Self::UpstreamRequestTooLarge,
        Self::BridgeFailed,
    ];

    /// Its word: `ErrorInfo.reason`, a log field, a metric's label, a span's `error.type`.
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
    fn each_reason_stands_at_its_own_number() {
        for (number, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number, "{}", reason.name());
        }
    }
}
