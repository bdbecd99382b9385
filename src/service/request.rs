//! Parses a gRPC request, message and metadata, into a [`Call`].

use std::sync::Arc;

use tonic::Request;

use crate::{
    call::{Call, Draft, Invalid, NewThread, Question, ThreadId, Violation, headers, json},
    middleware::{context::CallContext, identity::caller_key},
    pb,
    quota::Slots,
    status::{Credentials, Failure},
};

/// Parses a request of any method; `parse_message` parses its message.
///
/// # Errors
///
/// - [`Failure::CredentialsMissing`] when callers must send their own upstream key and this one did not.
/// - [`Failure::Invalid`] with every invalid field.
pub(super) fn parse<M, T>(
    request: Request<M>,
    parse_message: impl FnOnce(M) -> Result<T, Invalid>,
    credentials: Credentials,
    context: &CallContext,
) -> Result<Call<T>, Failure> {
    let (metadata, extensions, message) = request.into_parts();
    let memory = Arc::clone(&CallContext::of(&extensions).call.memory);
    let metadata = metadata.into_headers();
    let caller_key = match credentials {
        Credentials::Service => context.own_key(),
        Credentials::Caller => Some(caller_key(&metadata).ok_or(Failure::CredentialsMissing)?),
    };
    Ok(Call {
        request: parse_message(message)?,
        headers: headers::to_upstream(&metadata),
        caller_key,
        memory,
        slots: Slots::default(),
    })
}

/// The thread to create. An id from the caller is ignored (AIP-203, output only).
///
/// # Errors
///
/// - [`Invalid`] when the metadata has a number that JSON can't represent.
pub(super) fn new_thread(message: pb::CreateThreadRequest) -> Result<NewThread, Invalid> {
    let metadata = message.thread.and_then(|thread| thread.metadata);
    let metadata = metadata.map(json::to_json).transpose();
    let metadata = metadata.map_err(|error| invalid("thread.metadata", error.to_string()))?;
    Ok(NewThread {
        metadata: metadata.unwrap_or_default(),
    })
}

/// Parses the id of an existing thread.
///
/// # Errors
///
/// - [`Invalid`] when it is empty or not a UUID.
pub(super) fn thread_id(text: &str) -> Result<ThreadId, Invalid> {
    ThreadId::parse(text).ok_or_else(|| invalid("thread_id", ThreadId::RULE))
}

fn invalid(field: &str, description: impl Into<String>) -> Invalid {
    Invalid {
        violations: vec![Violation::new(field, description)],
    }
}

/// Checks all fields, and reports all errors together. That includes numbers that JSON can't represent.
///
/// # Errors
///
/// - [`Invalid`] with every invalid field.
pub(super) fn question(message: pb::InvokeRequest) -> Result<Question, Invalid> {
    check(message, None)
}

/// Checks all fields, like [`question`].
///
/// # Errors
///
/// - [`Invalid`] with every invalid field. A stream can't both start a thread and continue one.
pub(super) fn stream_question(message: pb::StreamRequest) -> Result<Question, Invalid> {
    let is_named = !message.thread_id().is_empty();
    let both = (message.start_thread && is_named)
        .then(|| Violation::new("start_thread", "must not be set together with thread_id"));
    check(message.into(), both)
}

fn check(message: pb::InvokeRequest, first: Option<Violation>) -> Result<Question, Invalid> {
    let context = message.scenario_context.map(json::to_json).transpose();
    let (scenario_context, not_finite) = match context {
        Ok(context) => (context, None),
        Err(error) => (
            None,
            Some(Violation::new("scenario_context", error.to_string())),
        ),
    };
    let parsed = Question::parse(Draft {
        message: message.message,
        user_id: message.user_id,
        thread_id: message.thread_id,
        farm_id: message.farm_id,
        language: message.language,
        system_prompt_override: message.system_prompt_override,
        scenario_context,
    });
    let others: Vec<_> = first.into_iter().chain(not_finite).collect();
    if others.is_empty() {
        return parsed;
    }
    let mut violations = parsed
        .err()
        .map_or_else(Vec::new, |invalid| invalid.violations);
    violations.extend(others);
    Err(Invalid { violations })
}
