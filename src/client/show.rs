//! Formats replies, events and errors, as text for people and as JSON for scripts.
//!
//! The JSON is protobuf's mapping, one object per line, as grpcurl prints it.

use serde_json::{Value as Json, json};
use tonic::Status;
use tonic_types::StatusExt;

use super::Error;
use crate::{
    call::json,
    pb::{self, stream_response::Event},
    sanitize,
};

/// A status as text: code and reason, message, details and request id. It is always sanitized, because it
/// can come from any server.
pub(super) fn status_text(status: &Status) -> String {
    let details = status.get_error_details();
    let reason = details
        .error_info()
        .map_or("no reason given", |info| info.reason.as_str());
    let mut text = format!("{:?} ({reason}): {}", status.code(), status.message());
    let violations = details
        .bad_request()
        .map(|bad| bad.field_violations.as_slice());
    for violation in violations.unwrap_or_default() {
        if !status.message().contains(&violation.description) {
            text += &format!("\n  {}: {}", violation.field, violation.description);
        }
    }
    if let Some(delay) = details.retry_info().and_then(|info| info.retry_delay) {
        text += &format!("\n  try again in {} s", delay.as_secs_f64());
    }
    if let Some(id) = request_id(status) {
        text += &format!("\n  request id {id}");
    }
    sanitize::text(&text)
}

fn request_id(status: &Status) -> Option<&str> {
    status.metadata().get("x-request-id")?.to_str().ok()
}

/// An error as JSON. A status has all its details.
pub(super) fn error_json(error: &Error) -> Json {
    match error {
        Error::Status(status) => json!({ "error": status_json(status) }),
        Error::Explained(error, hint) => {
            let mut object = error_json(error);
            object["error"]["hint"] = (*hint).into();
            object
        }
        other => json!({ "error": { "message": with_causes(other) } }),
    }
}

/// An error and its causes on one line.
pub(super) fn with_causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let why = error.to_string();
        if !text.ends_with(&why) {
            text += &format!(": {why}"); // many errors already contain their source
        }
        cause = error.source();
    }
    text
}

fn status_json(status: &Status) -> Json {
    let details = status.get_error_details();
    let mut object = json!({
        "code": format!("{:?}", status.code()),
        "message": status.message(),
    });
    if let Some(info) = details.error_info() {
        object["reason"] = info.reason.clone().into();
        object["metadata"] = json!(info.metadata);
    }
    let violations = details.bad_request().map(|bad| {
        let violations = bad.field_violations.iter();
        let violations =
            violations.map(|it| json!({"field": it.field, "description": it.description}));
        violations.collect::<Vec<_>>()
    });
    if let Some(violations) = violations {
        object["fieldViolations"] = violations.into();
    }
    if let Some(delay) = details.retry_info().and_then(|info| info.retry_delay) {
        object["retryDelay"] = format!("{}s", delay.as_secs_f64()).into();
    }
    if let Some(id) = request_id(status) {
        object["requestId"] = id.into();
    }
    object
}

pub(super) fn reply_json(reply: pb::InvokeResponse) -> Json {
    let mut object = json!({"response": reply.response, "threadId": reply.thread_id});
    if !reply.model.is_empty() {
        object["model"] = reply.model.into();
    }
    if let Some(metadata) = reply.metadata {
        object["metadata"] = json::to_json(metadata).map_or(Json::Null, Json::Object);
    }
    object
}

pub(super) fn event_json(event: Event) -> Json {
    match event {
        Event::Token(token) => json!({"token": {"text": token.text}}),
        Event::Node(node) => json!({"node": {"name": node.name}}),
        Event::Other(other) => json!({"other": {"type": other.r#type, "data": other.data}}),
        Event::Done(done) => {
            let mut object = json!({
                "tokenCount": done.token_count.to_string(),
                "characterCount": done.character_count.to_string(),
            });
            for (name, duration) in [
                ("timeToFirstToken", done.time_to_first_token),
                ("duration", done.duration),
            ] {
                if let Some(duration) = duration {
                    object[name] = duration.to_string().into();
                }
            }
            if !done.thread_id.is_empty() {
                object["threadId"] = done.thread_id.into();
            }
            json!({ "done": object })
        }
    }
}

/// A stream's statistics as text.
pub(super) fn done_text(done: &pb::Done) -> String {
    let time = |duration: Option<prost_types::Duration>| {
        let duration = duration.and_then(|duration| std::time::Duration::try_from(duration).ok());
        duration.map_or("none".into(), |duration| match duration.as_millis() {
            millis @ ..1000 => format!("{millis} ms"),
            _ => format!("{:.1} s", duration.as_secs_f64()),
        })
    };
    format!(
        "{} tokens, {} characters, first token after {}, all after {}",
        done.token_count,
        done.character_count,
        time(done.time_to_first_token),
        time(done.duration)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_a_second_and_more_are_in_seconds() {
        let duration = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
        let done = pb::Done {
            time_to_first_token: duration(0, 157_208_561),
            duration: duration(4, 602_413_330),
            ..pb::Done::default()
        };
        let expected = "0 tokens, 0 characters, first token after 157 ms, all after 4.6 s";
        assert_eq!(done_text(&done), expected);
    }
}
