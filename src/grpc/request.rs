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
    let question = Question::parse(draft(message)?)?;
    Ok(Call {
        question,
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
