//! A request that is already valid: what the rest of the bridge works with.
//!
//! What was typed ([`Draft`]) and what is meant ([`Question`]) are two types, and only
//! [`Question::parse`] leads from one to the other, so nothing unchecked can reach the upstream. That matters most for
//! the [`ThreadId`]: the bridge puts it into a path, and the upstream into an inner URL, unescaped.

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
    /// What the farmer says.
    pub message: String,
    /// Who asks; empty counts as unset.
    pub user_id: String,
    /// The conversation to go on with; empty counts as unset.
    pub thread_id: Option<String>,
    /// The farm that the question is about.
    pub farm_id: Option<String>,
    /// The language of the answer.
    pub language: Option<String>,
    /// Takes the place of the assistant's system prompt.
    pub system_prompt_override: Option<String>,
    /// Facts about the farmer's situation.
    pub scenario_context: Option<Map<String, Value>>,
}

/// The question in the upstream's own terms: it serializes to the JSON body, unset fields left out,
/// because the upstream refuses `null`.
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

/// A conversation of the upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ThreadId(Uuid);

/// A conversation to be made, in the upstream's own terms. Metadata that is not set is sent as an empty
/// object: that is good for an upstream that requires the field, and for one that does not.
#[derive(Debug, Default, Serialize)]
pub struct NewThread {
    /// What the upstream keeps with it.
    pub metadata: Map<String, Value>,
}

/// A valid request: what is asked ([`Question`], [`NewThread`] or [`ThreadId`]), the headers that cross
/// with it, and the caller's own key if the bridge passes that on.
#[derive(Debug)]
pub struct Call<T> {
    /// What is asked.
    pub asked: T,
    /// Headers for the upstream, already chosen by [`crate::call::headers`].
    pub headers: HeaderMap,
    /// The caller's key, to show to the upstream in place of the bridge's own: it came with the call, or belongs to the caller.
    pub caller_key: Option<SecretString>,
    /// What the call holds of the bridge's memory.
    pub memory: Arc<Account>,
    /// The right to send it, and the further requests of the same call.
    pub slots: Slots,
}

impl<T> Call<T> {
    /// Another question of the same caller's, within the same call; it is sent first, in a slot of the call's.
    pub fn with<U>(&mut self, asked: U) -> Call<U> {
        Call {
            asked,
            headers: self.headers.clone(),
            caller_key: self.caller_key.clone(),
            memory: Arc::clone(&self.memory),
            slots: self.slots.split_off(),
        }
    }

    /// The call without its question, which need not be kept once it is written down.
    pub fn written(self) -> Call<()> {
        Call {
            asked: (),
            headers: self.headers,
            caller_key: self.caller_key,
            memory: self.memory,
            slots: self.slots,
        }
    }
}

/// One field that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field's name in the contract.
    pub field: String,
    /// What is wrong with it, and what would be right.
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
    /// Every field at fault, not only the first.
    pub violations: Vec<Violation>,
}

impl Question {
    /// Whether it goes on in a thread that the upstream may not know.
    pub fn names_thread(&self) -> bool {
        self.thread_id.is_some()
    }

    /// The conversation to go on with.
    pub fn thread_id(&self) -> Option<ThreadId> {
        self.thread_id
    }

    /// Asks in this conversation.
    pub fn ask_in(&mut self, thread: ThreadId) {
        self.thread_id = Some(thread);
    }

    /// Checks all fields at once.
    ///
    /// # Errors
    ///
    /// - [`Invalid`] when `message` is empty or `thread_id` is no UUID in its 8-4-4-4-12 form
    ///   (RFC 9562, 4); it names every field at fault.
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
    /// What [`ThreadId::parse`] takes, for a [`Violation`].
    pub const RULE: &str = "must be a UUID such as 6f1c2d3e-4b5a-4978-8a6b-0c1d2e3f4a5b";

    /// The hyphenated form alone (RFC 9562, 4): the uuid crate also reads URNs, braces and bare hex.
    pub fn parse(text: &str) -> Option<Self> {
        let id = Uuid::try_parse(text).ok().filter(|_| text.len() == 36);
        id.map(Self)
    }
}

/// The hyphenated form in lower case: hex digits and hyphens, fit for a path as they are.
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
    fn unset_fields_and_an_empty_user_id_are_left_out_of_the_json() {
        assert_eq!(json(draft("Salam", None)), r#"{"message":"Salam"}"#);
        assert_eq!(json(draft("Salam", Some(""))), r#"{"message":"Salam"}"#);
    }

    #[test]
    fn every_field_that_is_set_is_sent_even_when_empty() {
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
    fn all_violations_are_told_at_once() {
        let invalid = Question::parse(draft("", Some("../runs/stream?a="))).expect_err("invalid");
        let fields: Vec<_> = invalid
            .violations
            .iter()
            .map(|v| v.field.as_str())
            .collect();
        assert_eq!(fields, ["message", "thread_id"]);
    }

    #[test]
    fn only_the_hyphenated_form_of_a_uuid_passes() {
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
