//! By when a call's head and its end are due.
//!
//! The edge waits for the head: a caller who never sends the message that it announced is bounded too.
//! The relay goes on to the end.

use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;

use crate::{
    call::deadline::{Deadline, TimeoutKind},
    telemetry::Method,
};

const TIMEOUT: &str = "grpc-timeout";

/// How long calls may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// From a unary call's start to its whole reply.
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
    /// When the head must be there, and with it the first event of a stream.
    pub(crate) head: Deadline,
    /// When all must be there.
    pub(crate) end: Deadline,
}

impl Timeouts {
    /// The deadlines of a call that started at `started`; health and reflection have only those that
    /// their callers sent.
    pub(crate) fn deadlines(
        &self,
        method: Method,
        metadata: &HeaderMap,
        started: Instant,
    ) -> Deadlines {
        let caller = caller_deadline(metadata, started);
        let sooner = |timeout, clock| Deadline::after(started, timeout, clock).or_sooner(caller);
        let (head, end) = match method {
            Method::Invoke | Method::CreateThread | Method::GetThread | Method::DeleteThread => {
                let whole = sooner(self.invoke, TimeoutKind::Invoke);
                (whole, whole)
            }
            Method::Stream => {
                let end = sooner(self.lifetime, TimeoutKind::Lifetime);
                (
                    sooner(self.initial, TimeoutKind::Initial).or_sooner(Some(end)),
                    end,
                )
            }
            Method::HealthCheck | Method::HealthWatch | Method::Reflection | Method::Unknown => {
                let never = sooner(Duration::MAX, TimeoutKind::Caller);
                (never, never)
            }
        };
        Deadlines { head, end }
    }
}

/// When the caller gives up, less the margin; none without a deadline of its own.
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
    fn grpc_timeouts_are_read_as_the_protocol_says() {
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
