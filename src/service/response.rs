//! Converts the upstream's replies and events into the messages of the contract.

use std::{sync::Once, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message;
use prost_types::Struct;
use serde_json::{Map, Value};
use tokio::time::Instant;
use tonic::{Response, metadata::MetadataMap};

use crate::{
    call::{
        ThreadId, json,
        reply::{Event, Reply, Thread, report_left_out},
    },
    pb::{self, stream_response},
    upstream::{Error, error::Part},
};

/// Initial metadata of a stream with a known thread.
pub(super) const THREAD_ID: HeaderName = HeaderName::from_static("x-thread-id");

/// The reply to Invoke.
pub(super) fn invoke(reply: Reply) -> pb::InvokeResponse {
    pb::InvokeResponse {
        response: reply.response,
        thread_id: reply.thread_id,
        model: reply.model.unwrap_or_default(),
        metadata: metadata(reply.metadata),
    }
}

/// A thread.
pub(super) fn thread(thread: Thread) -> pb::Thread {
    pb::Thread {
        thread_id: thread.thread_id,
        metadata: metadata(thread.metadata),
    }
}

/// If the object is nested deeper than callers' decoders allow, it is left out. The reply is already paid for, so it does not fail.
fn metadata(object: Option<Map<String, Value>>) -> Option<Struct> {
    static REPORTED: Once = Once::new();
    match object.map(json::to_struct).transpose() {
        Ok(fields) => fields,
        Err(json::TooDeep) => {
            report_left_out("metadata", "nested too deep", &REPORTED);
            None
        }
    }
}

/// Checks the encoded size of the message against `limit`, inclusive. The JSON's size is not enough, because numbers grow when
/// they become protobuf.
///
/// # Errors
///
/// - [`Error::TooLarge`] when it is larger than `limit`.
pub(super) fn bounded<M: Message>(message: M, limit: usize) -> Result<M, Error> {
    match message.encoded_len() > limit {
        true => Err(Error::TooLarge {
            what: Part::Reply,
            limit,
        }),
        false => Ok(message),
    }
}

/// A response with `headers` as its initial metadata.
pub(super) fn with_headers<T>(message: T, headers: HeaderMap) -> Response<T> {
    let mut response = Response::new(message);
    *response.metadata_mut() = MetadataMap::from_headers(headers);
    response
}

/// Adds the stream's thread id to its head.
pub(super) fn add_thread_id(headers: &mut HeaderMap, id: Option<ThreadId>) {
    if let Some(id) = id {
        let id = HeaderValue::from_str(&id.to_string()).expect("a UUID's text is visible ASCII");
        headers.insert(THREAD_ID, id);
    }
}

/// The totals of a stream so far, for its `Done`.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) tokens: u64,
    pub(super) characters: u64,
    pub(super) first_token: Option<Duration>,
    pub(super) thread_id: Option<ThreadId>,
}

/// The message for one event. `Done` also has the totals and the time since `started`.
pub(super) fn event(event: Event, totals: &Totals, started: Instant) -> pb::StreamResponse {
    use stream_response::Event as Out;
    let event = match event {
        Event::Token(text) => Out::Token(pb::Token { text }),
        Event::Node(name) => Out::Node(pb::Node { name }),
        Event::Other { kind, data } => Out::Other(pb::Other { r#type: kind, data }),
        Event::Done => Out::Done(pb::Done {
            token_count: totals.tokens,
            character_count: totals.characters,
            time_to_first_token: totals.first_token.map(duration),
            duration: Some(duration(started.elapsed())),
            thread_id: totals
                .thread_id
                .map(|id| id.to_string())
                .unwrap_or_default(),
        }),
    };
    pb::StreamResponse { event: Some(event) }
}

fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).expect("under a second"),
    }
}
