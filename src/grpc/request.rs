//! A gRPC request, message and metadata, into a [`Call`].

use http::HeaderMap;
use secrecy::SecretString;
use std::time::Duration;
use tokio::time::Instant;
use tonic::{Extensions, Request};

use super::failure::{Credentials, Failure};
use crate::{
    call::{Call, Draft, Invalid, Question, Violation},
    deadline::{Clock, Deadline},
    headers, json, pb,
    telemetry::Record,
};

/// tonic's own grpc-timeout can't be taken off and says CANCELLED: ours ends this much before it.
const MARGIN: Duration = Duration::from_millis(5);
const TIMEOUT: &str = "grpc-timeout";
const API_KEY: &str = "x-api-key";

/// What a caller asked, and how long it will wait.
pub(super) struct Asked {
    pub(super) call: Call,
    pub(super) deadline: Option<Deadline>,
    pub(super) started: Instant,
}

/// Reads a request of either method.
///
/// # Errors
///
/// - [`Failure::CredentialsMissing`] when callers must bring their key and this one did not.
/// - [`Failure::Invalid`] with every field at fault.
pub(super) fn parse(
    message: pb::InvokeRequest,
    metadata: HeaderMap,
    record: &Record,
    credentials: Credentials,
) -> Result<Asked, Failure> {
    let caller_key = match credentials {
        Credentials::Service => None,
        Credentials::Caller => Some(caller_key(&metadata).ok_or(Failure::CredentialsMissing)?),
    };
    let question = Question::parse(draft(message)?)?;
    let started = record.started();
    let timeout = metadata
        .get(TIMEOUT)
        .and_then(|value| parse_timeout(value.to_str().ok()?));
    let deadline = timeout.map(|timeout| {
        let ours = timeout.saturating_sub(MARGIN.min(timeout / 2));
        Deadline::after(started, ours, Clock::Caller)
    });
    let headers = headers::to_upstream(&metadata);
    let call = Call {
        question,
        headers,
        caller_key,
    };
    Ok(Asked {
        call,
        deadline,
        started,
    })
}

/// Splits a request into what [`parse`] reads.
pub(super) fn split<M: Into<pb::InvokeRequest>>(
    request: Request<M>,
) -> (pb::InvokeRequest, HeaderMap, Extensions) {
    let (metadata, extensions, message) = request.into_parts();
    (message.into(), metadata.into_headers(), extensions)
}

fn draft(message: pb::InvokeRequest) -> Result<Draft, Invalid> {
    let scenario_context = message.scenario_context.map(json::to_json).transpose();
    let scenario_context = scenario_context.map_err(|error| Invalid {
        violations: vec![Violation::new("scenario_context", error.to_string())],
    })?;
    Ok(Draft {
        message: message.message,
        user_id: message.user_id,
        thread_id: message.thread_id,
        farm_id: message.farm_id,
        language: message.language,
        system_prompt_override: message.system_prompt_override,
        scenario_context,
    })
}

fn caller_key(metadata: &HeaderMap) -> Option<SecretString> {
    let key = metadata.get(API_KEY)?.to_str().ok()?;
    (!key.is_empty()).then(|| SecretString::from(key))
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
