//! The deadlines of a call: one for its reply or first event, one for the end.
//!
//! The middleware enforces the first until the response head, so it also applies to a caller who never completes its message. From
//! the head on, the event stream enforces both.

use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;

use crate::{
    call::deadline::{Deadline, TimeoutKind},
    telemetry::Method,
};

const TIMEOUT: &str = "grpc-timeout";

/// How long calls can take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// From a unary call's start to its complete reply.
    pub invoke: Duration,
    /// From a Stream's start to its first event.
    pub initial: Duration,
    /// Between bytes of a Stream, from its first event on.
    pub idle: Duration,
    /// From a Stream's start to its end.
    pub lifetime: Duration,
}

/// The deadlines of one call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadlines {
    /// For a unary reply, or a stream's first event.
    pub(crate) head: Deadline,
    /// For the end of the response.
    pub(crate) end: Deadline,
}

impl Timeouts {
    /// The deadlines of a call that started at `started`. Health and reflection have only the caller's own deadline.
    pub(crate) fn deadlines(
        &self,
        method: Method,
        metadata: &HeaderMap,
        started: Instant,
    ) -> Deadlines {
        let caller = caller_deadline(metadata, started);
        let sooner = |timeout, kind| Deadline::after(started, timeout, kind).or_sooner(caller);
        let (head, end) = match method {
            Method::Invoke | Method::CreateThread | Method::GetThread | Method::DeleteThread => {
                let end = sooner(self.invoke, TimeoutKind::Invoke);
                (end, end)
            }
            Method::Stream => {
                let end = sooner(self.lifetime, TimeoutKind::Lifetime);
                (
                    sooner(self.initial, TimeoutKind::Initial).or_sooner(Some(end)),
                    end,
                )
            }
            Method::HealthCheck | Method::HealthWatch | Method::Reflection | Method::Unknown => {
                let end = sooner(Duration::MAX, TimeoutKind::Caller);
                (end, end)
            }
        };
        Deadlines { head, end }
    }
}

/// The caller's own deadline; `None` if it sent none.
pub(crate) fn caller_deadline(metadata: &HeaderMap, started: Instant) -> Option<Deadline> {
    let timeout = parse_timeout(metadata.get(TIMEOUT)?.to_str().ok()?)?;
    Some(Deadline::after(started, timeout, TimeoutKind::Caller))
}

/// `grpc-timeout` (gRPC over HTTP/2, Timeout): at most eight digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeout_is_parsed_as_the_protocol_defines() {
        assert_eq!(parse_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(
            parse_timeout("99999999H"),
            Some(Duration::from_secs(359_999_996_400))
        );
        for wrong in ["", "m", "1", "1s", "123456789S", "-1S", "1.5S", "1ə", "+1S"] {
            assert_eq!(parse_timeout(wrong), None, "{wrong}");
        }
    }
}
