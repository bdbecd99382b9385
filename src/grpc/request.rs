//! A gRPC request, message and metadata, into a [`Call`].

use http::HeaderMap;
use secrecy::SecretString;
use tonic::{Extensions, Request};

use super::failure::{Credentials, Failure};
use crate::{
    call::{Call, Draft, Invalid, Question, Violation},
    headers, json, pb,
};

const API_KEY: &str = "x-api-key";

/// Reads a request of either method.
///
/// # Errors
///
/// - [`Failure::CredentialsMissing`] when callers must bring their key and this one did not.
/// - [`Failure::Invalid`] with every field at fault.
pub(super) fn parse(
    message: pb::InvokeRequest,
    metadata: HeaderMap,
    credentials: Credentials,
) -> Result<Call, Failure> {
    let caller_key = match credentials {
        Credentials::Service => None,
        Credentials::Caller => Some(caller_key(&metadata).ok_or(Failure::CredentialsMissing)?),
    };
    Ok(Call {
        question: question(message)?,
        headers: headers::to_upstream(&metadata),
        caller_key,
    })
}

/// Splits a request into what [`parse`] reads.
pub(super) fn split<M: Into<pb::InvokeRequest>>(
    request: Request<M>,
) -> (pb::InvokeRequest, HeaderMap, Extensions) {
    let (metadata, extensions, message) = request.into_parts();
    (message.into(), metadata.into_headers(), extensions)
}

/// Checks all fields at once, the number that JSON can't hold with the others.
fn question(message: pb::InvokeRequest) -> Result<Question, Invalid> {
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
    let Some(not_finite) = not_finite else {
        return parsed;
    };
    let mut violations = parsed
        .err()
        .map_or_else(Vec::new, |invalid| invalid.violations);
    violations.push(not_finite);
    Err(Invalid { violations })
}

fn caller_key(metadata: &HeaderMap) -> Option<SecretString> {
    let key = metadata.get(API_KEY)?.to_str().ok()?;
    (!key.is_empty()).then(|| SecretString::from(key))
}
