//! Validates JSON bodies. Reports every error with pydantic's text, in the order in which the fields are
//! declared.
//!
//! `user_id` and `language` have defaults: they can be absent but not `null`. The other optional fields
//! can be absent or `null`. Unknown fields are ignored.

use serde_json::{Map, Value, json};

use super::fault::Fault;
use super::rejection::{FieldError, Rejection};

/// A valid request to the graph. Fields that the embedded ALİM does not use are validated and dropped.
#[derive(Debug, PartialEq)]
pub(super) struct GraphRequest {
    /// The caller's message, at least one character.
    pub(super) message: String,
    /// The thread to continue, not yet looked up. An empty id is `None`.
    pub(super) thread_id: Option<String>,
    /// The fault that the caller requested.
    pub(super) fault: Option<Fault>,
    /// The model's tokens that the caller requested.
    pub(super) tokens: Option<Vec<String>>,
}

impl GraphRequest {
    /// Parses the body of `invoke` and `stream`.
    ///
    /// # Errors
    /// - [`Rejection::Invalid`]: fields are missing or invalid. Contains all of them.
    pub(super) fn parse(body: Value) -> Result<Self, Rejection> {
        let mut fields = Fields::parse(body)?;
        let message = fields.message();
        fields.text("user_id", Null::Rejected);
        let thread_id = fields.text("thread_id", Null::Accepted);
        fields.text("farm_id", Null::Accepted);
        fields.text("language", Null::Rejected);
        fields.text("system_prompt_override", Null::Accepted);
        let context = fields.object("scenario_context", Null::Accepted);
        let fault = fields.fault(&context);
        let tokens = fields.tokens(&context);
        fields.finish()?;
        Ok(Self {
            message,
            thread_id: thread_id.filter(|id| !id.is_empty()),
            fault,
            tokens,
        })
    }
}

/// Parses the body of `POST /threads` and returns its metadata.
///
/// # Errors
/// - [`Rejection::Invalid`]: the body or its metadata is not an object.
pub(super) fn metadata(body: Value) -> Result<Map<String, Value>, Rejection> {
    let mut fields = Fields::parse(body)?;
    let metadata = fields.object("metadata", Null::Rejected);
    fields.finish()?;
    Ok(metadata)
}

/// Whether a field can be `null`.
enum Null {
    Accepted,
    Rejected,
}

/// The fields that are still to be read, and the errors found so far.
struct Fields {
    body: Map<String, Value>,
    errors: Vec<FieldError>,
}

impl Fields {
    fn parse(body: Value) -> Result<Self, Rejection> {
        let (rule, msg) = match body {
            Value::Object(body) => {
                let errors = Vec::new();
                return Ok(Self { body, errors });
            }
            Value::Null => ("missing", "Field required"),
            _ => (
                "model_attributes_type",
                "Input should be a valid dictionary or object to extract fields from",
            ),
        };
        Err(Rejection::Invalid(vec![FieldError {
            rule,
            loc: vec![json!("body")],
            msg: msg.into(),
            input: body,
            ctx: None,
        }]))
    }

    /// The only required field. If it is invalid, the returned stand-in is never used, since `finish` fails.
    fn message(&mut self) -> String {
        if !self.body.contains_key("message") {
            let whole = Value::Object(self.body.clone());
            self.reject(&["message"], "missing", "Field required", whole, None);
            return String::new();
        }
        let message = self.text("message", Null::Rejected);
        if message.as_deref() == Some("") {
            self.reject(
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
                let message = "Input should be a valid string";
                self.reject(&[name], "string_type", message, other, None);
                None
            }
        }
    }

    fn object(&mut self, name: &'static str, null: Null) -> Map<String, Value> {
        match (self.body.remove(name), null) {
            (Some(Value::Object(object)), _) => object,
            (None, _) | (Some(Value::Null), Null::Accepted) => Map::new(),
            (Some(other), _) => {
                let message = "Input should be a valid dictionary";
                self.reject(&[name], "dict_type", message, other, None);
                Map::new()
            }
        }
    }

    fn fault(&mut self, context: &Map<String, Value>) -> Option<Fault> {
        let requested = context.get("emulator_fault").filter(|it| !it.is_null())?;
        let fault = requested.as_str().and_then(Fault::parse);
        if fault.is_none() {
            let expected = Fault::expected();
            self.reject(
                &["scenario_context", "emulator_fault"],
                "literal_error",
                &format!("Input should be {expected}"),
                requested.clone(),
                Some(json!({ "expected": expected })),
            );
        }
        fault
    }

    fn tokens(&mut self, context: &Map<String, Value>) -> Option<Vec<String>> {
        let requested = context.get("emulator_tokens").filter(|it| !it.is_null())?;
        let texts = requested.as_array().and_then(|texts| {
            let texts = texts.iter().map(|text| text.as_str().map(str::to_owned));
            texts.collect()
        });
        if texts.is_none() {
            let message = "Input should be a valid list of strings";
            let path = ["scenario_context", "emulator_tokens"];
            self.reject(&path, "list_type", message, requested.clone(), None);
        }
        texts
    }

    fn reject(
        &mut self,
        path: &[&str],
        rule: &'static str,
        message: &str,
        input: Value,
        ctx: Option<Value>,
    ) {
        let loc = std::iter::once(&"body").chain(path);
        self.errors.push(FieldError {
            rule,
            loc: loc.map(|name| json!(name)).collect(),
            msg: message.into(),
            input,
            ctx,
        });
    }

    fn finish(self) -> Result<(), Rejection> {
        match self.errors.is_empty() {
            true => Ok(()),
            false => Err(Rejection::Invalid(self.errors)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bodies, and FastAPI's errors for them. The last two are of the emulator's own fields.
    #[rustfmt::skip]
    const INVALID: [(&str, &str); 11] = [
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
    fn invalid_fields_get_pydantics_errors() {
        for (body, expected) in INVALID {
            let body = serde_json::from_str(body).expect("the bodies are JSON");
            let Err(Rejection::Invalid(errors)) = GraphRequest::parse(body) else {
                panic!("accepted, expected {expected}");
            };
            let errors = serde_json::to_string(&errors).expect("keys are text");
            assert_eq!(errors, format!("[{expected}]"));
        }
    }

    #[test]
    fn optional_fields_can_be_null_or_absent_and_unknown_ones_are_ignored() {
        let full = json!({ "message": " ", "user_id": "u", "thread_id": "", "farm_id": null,
            "language": "az", "system_prompt_override": null, "scenario_context": null, "x": 1 });
        for body in [full, json!({ "message": " " })] {
            let request = GraphRequest::parse(body).expect("the body is valid");
            assert_eq!(
                (request.message.as_str(), request.thread_id, request.fault),
                (" ", None, None)
            );
        }
    }
}
