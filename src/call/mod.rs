//! A valid request, in types that both sides share and that know no protocol.
//!
//! The caller's input ([`Draft`]) and a valid question ([`Question`]) are different types. Only [`Question::parse`] converts
//! one to the other, so nothing unchecked can reach the upstream. That matters most for the [`ThreadId`]: the bridge puts
//! it into a path, and the upstream into an internal URL, unescaped.

pub mod deadline;
pub mod headers;
pub mod json;
pub mod reason;
pub mod reply;

use std::{fmt, sync::Arc};

use http::HeaderMap;
use secrecy::SecretString;
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{memory::Account, quota::Slots};

/// The fields of a request as the caller sent them.
#[derive(Debug, Default)]
pub struct Draft {
    /// The farmer's question.
    pub message: String,
    /// The user's id; empty counts as unset.
    pub user_id: String,
    /// The thread to continue; empty counts as unset.
    pub thread_id: Option<String>,
    /// The farm that the question is about.
    pub farm_id: Option<String>,
    /// The language of the answer.
    pub language: Option<String>,
    /// Replaces the assistant's system prompt.
    pub system_prompt_override: Option<String>,
    /// Facts about the farmer's situation.
    pub scenario_context: Option<Map<String, Value>>,
}

/// The question as the upstream expects it. It serializes to the JSON body, without unset fields, because the upstream
/// rejects `null`.
#[derive(Debug, Serialize)]
pub struct Question {
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thread_id: Option<ThreadId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    farm_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    language: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_prompt_override: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scenario_context: Option<Map<String, Value>>,
}

/// The id of a thread, which is one conversation in the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ThreadId(Uuid);

/// A thread to create, as the upstream expects it. Unset metadata is sent as an empty object. That suits an upstream that
/// requires the field, and one that does not.
#[derive(Debug, Default, Serialize)]
pub struct NewThread {
    /// Metadata that the upstream stores with the thread.
    pub metadata: Map<String, Value>,
}

/// A valid call: its request ([`Question`], [`NewThread`] or [`ThreadId`]), its headers, and the caller's upstream key if it
/// has one.
#[derive(Debug)]
pub struct Call<T> {
    /// The request.
    pub request: T,
    /// Headers for the upstream, already filtered by [`crate::call::headers`].
    pub headers: HeaderMap,
    /// The caller's upstream key, which replaces the bridge's own. It came with the call, or from the callers file.
    pub caller_key: Option<SecretString>,
    /// The call's part of the memory budget.
    pub memory: Arc<Account>,
    /// The quota slots for the upstream requests of this call.
    pub slots: Slots,
}

impl<T> Call<T> {
    /// Another request of the same call, to be sent first. It takes one of the call's slots.
    pub fn with<U>(&mut self, request: U) -> Call<U> {
        Call {
            request,
            headers: self.headers.clone(),
            caller_key: self.caller_key.clone(),
            memory: Arc::clone(&self.memory),
            slots: self.slots.split_off(),
        }
    }

    /// The call without its request, which is no longer needed once it is serialized.
    pub fn without_request(self) -> Call<()> {
        Call {
            request: (),
            headers: self.headers,
            caller_key: self.caller_key,
            memory: self.memory,
            slots: self.slots,
        }
    }
}

/// One invalid field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field's name in the contract.
    pub field: String,
    /// What is required of the field.
    pub description: String,
}

impl Violation {
    /// A violation of `field`.
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        let (field, description) = (field.into(), description.into());
        Self { field, description }
    }
}

/// A request that must not reach the upstream.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} invalid field(s)", violations.len())]
pub struct Invalid {
    /// All invalid fields, not only the first.
    pub violations: Vec<Violation>,
}

impl Question {
    /// Whether the question continues a thread, which the upstream may not know.
    pub fn names_thread(&self) -> bool {
        self.thread_id.is_some()
    }

    /// The thread to continue.
    pub fn thread_id(&self) -> Option<ThreadId> {
        self.thread_id
    }

    /// Asks in this conversation.
    pub fn set_thread(&mut self, thread: ThreadId) {
        self.thread_id = Some(thread);
    }

    /// Checks all fields, and reports all errors together.
    ///
    /// # Errors
    ///
    /// - [`Invalid`] when `message` is empty, or when `thread_id` is not a UUID in its 8-4-4-4-12 form (RFC 9562, 4).
    pub fn parse(draft: Draft) -> Result<Self, Invalid> {
        let mut violations = Vec::new();
        if draft.message.is_empty() {
            violations.push(Violation::new(
                "message",
                "must hold at least one character",
            ));
        }
        let thread_id = match draft.thread_id.as_deref() {
            None | Some("") => None,
            Some(text) => ThreadId::parse(text).or_else(|| {
                let rule = format!("{}, or unset", ThreadId::RULE);
                violations.push(Violation::new("thread_id", rule));
                None
            }),
        };
        if !violations.is_empty() {
            return Err(Invalid { violations });
        }
        Ok(Self {
            message: draft.message,
            user_id: Some(draft.user_id).filter(|id| !id.is_empty()),
            thread_id,
            farm_id: draft.farm_id,
            language: draft.language,
            system_prompt_override: draft.system_prompt_override,
            scenario_context: draft.scenario_context,
        })
    }
}

impl ThreadId {
    /// The rule of [`ThreadId::parse`], for a [`Violation`].
    pub const RULE: &str = "must be a UUID such as 6f1c2d3e-4b5a-4978-8a6b-0c1d2e3f4a5b";

    /// Accepts only the hyphenated form (RFC 9562, 4). The uuid crate also accepts URNs, braces and bare hex.
    pub fn parse(text: &str) -> Option<Self> {
        let id = Uuid::try_parse(text).ok().filter(|_| text.len() == 36);
        id.map(Self)
    }
}

/// The hyphenated form in lower case, which needs no escaping in a path.
impl fmt::Display for ThreadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(message: &str, thread_id: Option<&str>) -> Draft {
        Draft {
            message: message.into(),
            thread_id: thread_id.map(Into::into),
            ..Draft::default()
        }
    }

    fn json(draft: Draft) -> String {
        serde_json::to_string(&Question::parse(draft).expect("valid")).expect("JSON")
    }

    #[test]
    fn unset_fields_and_an_empty_user_id_are_not_in_the_json() {
        assert_eq!(json(draft("Salam", None)), r#"{"message":"Salam"}"#);
        assert_eq!(json(draft("Salam", Some(""))), r#"{"message":"Salam"}"#);
    }

    #[test]
    fn every_set_field_is_in_the_json_even_when_empty() {
        let full = Draft {
            user_id: "u".into(),
            farm_id: Some(String::new()),
            language: Some("az".into()),
            system_prompt_override: Some("p".into()),
            scenario_context: Some(Map::new()),
            ..draft("m", Some("6F1C2D3E-4B5A-4978-8A6B-0C1D2E3F4A5B"))
        };
        assert_eq!(
            json(full),
            r#"{"message":"m","user_id":"u","thread_id":"6f1c2d3e-4b5a-4978-8a6b-0c1d2e3f4a5b","farm_id":"","language":"az","system_prompt_override":"p","scenario_context":{}}"#
        );
    }

    #[test]
    fn all_violations_are_reported_together() {
        let invalid = Question::parse(draft("", Some("../runs/stream?a="))).expect_err("invalid");
        let fields: Vec<_> = invalid
            .violations
            .iter()
            .map(|v| v.field.as_str())
            .collect();
        assert_eq!(fields, ["message", "thread_id"]);
    }

    #[test]
    fn only_the_hyphenated_form_of_a_uuid_is_accepted() {
        for text in [
            "6f1c2d3e4b5a49788a6b0c1d2e3f4a5b",
            "{6f1c2d3e-4b5a-4978-8a6b-0c1d2e3f4a5b}",
            "urn:uuid:6f1c2d3e-4b5a-4978-8a6b-0c1d2e3f4a5b",
            "6f1c2d3e-4b5a-4978-8a6b-0c1d2e3f4a5b/",
            "6f1c2d3e-4b5a-4978-8a6b-0c1d2e3f4a5g",
            " ",
        ] {
            assert!(Question::parse(draft("m", Some(text))).is_err(), "{text}");
        }
    }
}
