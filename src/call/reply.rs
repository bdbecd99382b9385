//! What the upstream says, in words that neither bank owns.

use std::sync::Once;

use http::HeaderMap;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// What the head of an answer says beside its status.
#[derive(Debug, Default)]
pub struct ReplyHead {
    /// The headers that cross to the caller.
    pub headers: HeaderMap,
    /// The upstream's own name for the call: for the log, never for the caller, who knows the bridge's.
    pub request_id: Option<String>,
    /// How many requests the upstream said its key may still send, in `x-ratelimit-remaining`.
    pub remaining: Option<u32>,
}

/// The unary answer. `response` and `thread_id` are required. Fields that the contract does not know are ignored,
/// because the upstream may add some, and so are optional ones of another type: the answer has been paid for.
#[derive(Debug, Deserialize, PartialEq)]
pub struct Reply {
    /// What the assistant says.
    pub response: String,
    /// The conversation that it belongs to.
    pub thread_id: String,
    /// The language model that made it.
    #[serde(default, deserialize_with = "model")]
    pub model: Option<String>,
    /// What else the upstream tells, such as `nodes_visited`.
    #[serde(default, deserialize_with = "metadata")]
    pub metadata: Option<Map<String, Value>>,
}

/// A thread. Its id is required; metadata may be absent.
#[derive(Debug, Deserialize, PartialEq)]
pub struct Thread {
    /// Which one it is.
    pub thread_id: String,
    /// What was kept with it when it was made.
    #[serde(default, deserialize_with = "metadata")]
    pub metadata: Option<Map<String, Value>>,
}

/// What the upstream says of a thread that was to be deleted.
#[derive(Debug, Deserialize, PartialEq)]
pub struct Deleted {
    /// Whether it is gone.
    pub deleted: bool,
}

/// One event of a stream. An `error` event is no `Event`: it is how a stream fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A piece of the answer's text.
    Token(String),
    /// A step of the assistant's graph.
    Node(String),
    /// The answer is complete.
    Done,
    /// An event that the contract does not know.
    Other {
        /// Its SSE type, "message" when it bore no name.
        kind: String,
        /// Its data.
        data: String,
    },
}

fn model<'de, D: Deserializer<'de>>(field: D) -> Result<Option<String>, D::Error> {
    static REPORTED: Once = Once::new();
    Ok(match Value::deserialize(field)? {
        Value::String(text) => Some(text),
        Value::Null => None,
        _ => {
            report_left_out("model", "no string", &REPORTED);
            None
        }
    })
}

fn metadata<'de, D: Deserializer<'de>>(field: D) -> Result<Option<Map<String, Value>>, D::Error> {
    static REPORTED: Once = Once::new();
    Ok(match Value::deserialize(field)? {
        Value::Object(fields) => Some(fields),
        Value::Null => None,
        _ => {
            report_left_out("metadata", "no object", &REPORTED);
            None
        }
    })
}

/// Warns that a field of the upstream's replies can't be passed on, once for the life of the process.
pub fn report_left_out(field: &'static str, why: &'static str, reported: &Once) {
    reported.call_once(|| {
        tracing::warn!(field, why, "a field of the upstream's replies is left out");
    });
}
