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
        let context = fields.object("scenario_context");
        let fault = fields.fault(&context);
        fields.end()?;
        Ok(Self {
            message,
            thread_id: thread_id.filter(|id| !id.is_empty()),
            fault,
        })
    }
}

/// Parses the body of `POST /threads`: its metadata.
///
/// # Errors
/// - [`Refusal::Invalid`]: the body or its metadata is no object.
pub(super) fn metadata(body: Value) -> Result<Map<String, Value>, Refusal> {
    let mut fields = Fields::of(body)?;
    let metadata = fields.object("metadata");
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

    fn object(&mut self, name: &'static str) -> Map<String, Value> {
        match self.body.remove(name) {
            Some(Value::Object(object)) => object,
            None | Some(Value::Null) => Map::new(),
            Some(other) => {
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
