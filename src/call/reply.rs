//! The upstream's replies and events, in types that both sides share.

use std::sync::Once;

use http::HeaderMap;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// The parts of the upstream's response head that the bridge uses, apart from the status.
#[derive(Debug, Default)]
pub struct ReplyHead {
    /// The headers that cross to the caller.
    pub headers: HeaderMap,
    /// The upstream's own request id. It goes to the log, never to the caller, who has the bridge's.
    pub request_id: Option<String>,
    /// The number of requests that the key has left (`x-ratelimit-remaining`).
    pub remaining: Option<u32>,
}

/// The reply to Invoke. `response` and `thread_id` are required. Unknown fields are ignored, because the upstream can add some.
/// Optional fields of another type are ignored too, because the reply is already paid for.
#[derive(Debug, Deserialize, PartialEq)]
pub struct Reply {
    /// The assistant's answer.
    pub response: String,
    /// The thread of the answer.
    pub thread_id: String,
    /// The language model that wrote the answer.
    #[serde(default, deserialize_with = "model")]
    pub model: Option<String>,
    /// Further information from the upstream, such as `nodes_visited`.
    #[serde(default, deserialize_with = "metadata")]
    pub metadata: Option<Map<String, Value>>,
}

/// A thread. Its id is required; metadata may be absent.
#[derive(Debug, Deserialize, PartialEq)]
pub struct Thread {
    /// The thread's id.
    pub thread_id: String,
    /// Metadata that was stored when the thread was created.
    #[serde(default, deserialize_with = "metadata")]
    pub metadata: Option<Map<String, Value>>,
}

/// The reply to DeleteThread.
#[derive(Debug, Deserialize, PartialEq)]
pub struct Deleted {
    /// Whether the thread was deleted.
    pub deleted: bool,
}

/// One event of a stream. An `error` event is not an `Event`; it makes the stream fail.
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
        /// Its SSE type; "message" if it has none.
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
            report_left_out("model", "not a string", &REPORTED);
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
            report_left_out("metadata", "not an object", &REPORTED);
            None
        }
    })
}

/// Warns once per process that a field of the upstream's replies can't be passed on.
pub fn report_left_out(field: &'static str, why: &'static str, reported: &Once) {
    reported.call_once(|| {
        tracing::warn!(field, why, "a field of the upstream's replies is left out");
    });
}
