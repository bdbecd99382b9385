//! JSON to what an endpoint takes, with every fault of it in pydantic's words, in the order in which
//! the fields are declared.
//!
//! `user_id` and `language` have defaults and so may be left out, but may not be `null`; the other
//! optional fields may be both. Fields that are not named here are ignored.

use serde_json::{Map, Value, json};

use super::fault::Fault;
use super::refusal::{FieldFault, Refusal};

/// A valid question to the graph; what the embedded ALİM does not use is checked and let go.
#[derive(Debug, PartialEq)]
pub(super) struct Ask {
    /// What the caller says; at least one character.
    pub(super) message: String,
    /// The thread to go on with, not yet looked up; an empty one counts as none.
    pub(super) thread_id: Option<String>,
    /// The fault that the caller ordered.
    pub(super) fault: Option<Fault>,
    /// The model's tokens that the caller ordered.
    pub(super) tokens: Option<Vec<String>>,
}

impl Ask {
    /// Parses the body of `invoke` and `stream`.
    ///
    /// # Errors
    /// - [`Refusal::Invalid`]: with each field that is missing or not what it has to be.
    pub(super) fn parse(body: Value) -> Result<Self, Refusal> {
        let mut fields = Fields::of(body)?;
        let message = fields.message();
        fields.text("user_id", Null::Refused);
        let thread_id = fields.text("thread_id", Null::Accepted);
        fields.text("farm_id", Null::Accepted);
        fields.text("language", Null::Refused);
        fields.text("system_prompt_override", Null::Accepted);
        let context = fields.object("scenario_context", Null::Accepted);
        let fault = fields.fault(&context);
        let tokens = fields.tokens(&context);
        fields.end()?;
        Ok(Self {
            message,
            thread_id: thread_id.filter(|id| !id.is_empty()),
            fault,
            tokens,
        })
    }
}

/// Parses the body of `POST /threads`: its metadata.
///
/// # Errors
/// - [`Refusal::Invalid`]: the body or its metadata is no object.
pub(super) fn metadata(body: Value) -> Result<Map<String, Value>, Refusal> {
    let mut fields = Fields::of(body)?;
    let metadata = fields.object("metadata", Null::Refused);
    fields.end()?;
    Ok(metadata)
}

/// What a field says to `null`.
enum Null {
    Accepted,
    Refused,
}

/// A body that is an object, and what was wrong with its fields so far.
struct Fields {
    body: Map<String, Value>,
    faults: Vec<FieldFault>,
}

impl Fields {
    fn of(body: Value) -> Result<Self, Refusal> {
        let (rule, msg) = match body {
            Value::Object(body) => {
                let faults = Vec::new();
                return Ok(Self { body, faults });
            }
            Value::Null => ("missing", "Field required"),
            _ => (
                "model_attributes_type",
                "Input should be a valid dictionary or object to extract fields from",
            ),
        };
        Err(Refusal::Invalid(vec![FieldFault {
            rule,
            loc: vec![json!("body")],
            msg: msg.into(),
            input: body,
            ctx: None,
        }]))
    }

    /// The one field that is required; empty text in its place is never seen, since `end` fails.
    fn message(&mut self) -> String {
        if !self.body.contains_key("message") {
            let whole = Value::Object(self.body.clone());
            self.refuse(&["message"], "missing", "Field required", whole, None);
            return String::new();
        }
        let message = self.text("message", Null::Refused);
        if message.as_deref() == Some("") {
            self.refuse(
                &["message"],
                "string_too_short",
                "String should have at least 1 character",
                json!(""),
                Some(json!({ "min_length": 1 })),
            );
        }
        message.unwrap_or_default()
    }

    fn text(&mut self, name: &'static str, null: Null) -> Option<String> {
        match (self.body.remove(name)?, null) {
            (Value::String(text), _) => Some(text),
            (Value::Null, Null::Accepted) => None,
            (other, _) => {
                let words = "Input should be a valid string";
                self.refuse(&[name], "string_type", words, other, None);
                None
            }
        }
    }

    fn object(&mut self, name: &'static str, null: Null) -> Map<String, Value> {
        match (self.body.remove(name), null) {
            (Some(Value::Object(object)), _) => object,
            (None, _) | (Some(Value::Null), Null::Accepted) => Map::new(),
            (Some(other), _) => {
                let words = "Input should be a valid dictionary";
                self.refuse(&[name], "dict_type", words, other, None);
                Map::new()
            }
        }
    }

    fn fault(&mut self, context: &Map<String, Value>) -> Option<Fault> {
        let ordered = context.get("emulator_fault").filter(|it| !it.is_null())?;
        let fault = ordered.as_str().and_then(Fault::parse);
        if fault.is_none() {
            let expected = Fault::expected();
            self.refuse(
                &["scenario_context", "emulator_fault"],
                "literal_error",
                &format!("Input should be {expected}"),
                ordered.clone(),
                Some(json!({ "expected": expected })),
            );
        }
        fault
    }

    fn tokens(&mut self, context: &Map<String, Value>) -> Option<Vec<String>> {
        let ordered = context.get("emulator_tokens").filter(|it| !it.is_null())?;
        let texts = ordered.as_array().and_then(|texts| {
            let texts = texts.iter().map(|text| text.as_str().map(str::to_owned));
            texts.collect()
        });
        if texts.is_none() {
            let words = "Input should be a valid list of strings";
            let path = ["scenario_context", "emulator_tokens"];
            self.refuse(&path, "list_type", words, ordered.clone(), None);
        }
        texts
    }

    fn refuse(
        &mut self,
        path: &[&str],
        rule: &'static str,
        words: &str,
        input: Value,
        ctx: Option<Value>,
    ) {
        let loc = std::iter::once(&"body").chain(path);
        self.faults.push(FieldFault {
            rule,
            loc: loc.map(|step| json!(step)).collect(),
            msg: words.into(),
            input,
            ctx,
        });
    }

    fn end(self) -> Result<(), Refusal> {
        match self.faults.is_empty() {
            true => Ok(()),
            false => Err(Refusal::Invalid(self.faults)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bodies, and what FastAPI says of them; the last two are our own, in its manner.
    #[rustfmt::skip]
    const WRONG: [(&str, &str); 11] = [
        ("null", r#"{"type":"missing","loc":["body"],"msg":"Field required","input":null}"#),
        ("[]", r#"{"type":"model_attributes_type","loc":["body"],"msg":"Input should be a valid dictionary or object to extract fields from","input":[]}"#),
        (r#"{"user_id":"u"}"#, r#"{"type":"missing","loc":["body","message"],"msg":"Field required","input":{"user_id":"u"}}"#),
        (r#"{"message":""}"#, r#"{"type":"string_too_short","loc":["body","message"],"msg":"String should have at least 1 character","input":"","ctx":{"min_length":1}}"#),
        (r#"{"message":5}"#, r#"{"type":"string_type","loc":["body","message"],"msg":"Input should be a valid string","input":5}"#),
        (r#"{"message":"a","user_id":null}"#, r#"{"type":"string_type","loc":["body","user_id"],"msg":"Input should be a valid string","input":null}"#),
        (r#"{"message":"a","language":null}"#, r#"{"type":"string_type","loc":["body","language"],"msg":"Input should be a valid string","input":null}"#),
        (r#"{"message":"a","scenario_context":"x"}"#, r#"{"type":"dict_type","loc":["body","scenario_context"],"msg":"Input should be a valid dictionary","input":"x"}"#),
        (r#"{"thread_id":false,"user_id":7}"#, r#"{"type":"missing","loc":["body","message"],"msg":"Field required","input":{"thread_id":false,"user_id":7}},{"type":"string_type","loc":["body","user_id"],"msg":"Input should be a valid string","input":7},{"type":"string_type","loc":["body","thread_id"],"msg":"Input should be a valid string","input":false}"#),
        (r#"{"message":"a","scenario_context":{"emulator_fault":"typo"}}"#, r#"{"type":"literal_error","loc":["body","scenario_context","emulator_fault"],"msg":"Input should be 'rate_limited', 'unavailable', 'bad_value', 'crashed', 'agent_failed', 'truncated', 'silent', 'slow', 'unknown_event' or 'empty'","input":"typo","ctx":{"expected":"'rate_limited', 'unavailable', 'bad_value', 'crashed', 'agent_failed', 'truncated', 'silent', 'slow', 'unknown_event' or 'empty'"}}"#),
        (r#"{"message":"a","scenario_context":{"emulator_tokens":["a",1]}}"#, r#"{"type":"list_type","loc":["body","scenario_context","emulator_tokens"],"msg":"Input should be a valid list of strings","input":["a",1]}"#),
    ];

    #[test]
    fn wrong_fields_are_told_as_pydantic_tells_them() {
        for (body, told) in WRONG {
            let body = serde_json::from_str(body).expect("the rows are JSON");
            let Err(Refusal::Invalid(faults)) = Ask::parse(body) else {
                panic!("accepted, though {told}");
            };
            let faults = serde_json::to_string(&faults).expect("keys are text");
            assert_eq!(faults, format!("[{told}]"));
        }
    }

    #[test]
    fn what_is_optional_may_be_null_or_left_out_and_what_is_unknown_is_ignored() {
        let full = json!({ "message": " ", "user_id": "u", "thread_id": "", "farm_id": null,
            "language": "az", "system_prompt_override": null, "scenario_context": null, "x": 1 });
        for body in [full, json!({ "message": " " })] {
            let ask = Ask::parse(body).expect("the body is valid");
            assert_eq!(
                (ask.message.as_str(), ask.thread_id, ask.fault),
                (" ", None, None)
            );
        }
    }
}
