//! Converts `google.protobuf.Struct` to JSON and back. Neither direction panics, callers can decode the result,
//! and the round trip is lossless except for numbers that doubles can't represent.
//!
//! An input that begins with `{` is JSON. Any other is an encoded Struct.

#![no_main]

use alim_bridge::{
    call::json::{NotFinite, to_json, to_struct},
    pb::InvokeResponse,
};
use libfuzzer_sys::fuzz_target;
use prost::Message;
use prost_types::{Struct, Value as Proto, value::Kind};
use serde_json::{Map, Value};

fuzz_target!(|input: &[u8]| {
    match serde_json::from_slice::<Map<String, Value>>(input) {
        Ok(object) => from_json(object),
        Err(_) => {
            if let Ok(fields) = Struct::decode(input) {
                from_proto(fields);
            }
        }
    }
});

/// The direction of the upstream's `metadata` to a caller.
fn from_json(object: Map<String, Value>) {
    let Ok(fields) = to_struct(object.clone()) else {
        return;
    };
    let reply = InvokeResponse {
        metadata: Some(fields),
        ..InvokeResponse::default()
    };
    let decoded = InvokeResponse::decode(&*reply.encode_to_vec()).expect("callers decode it");
    let back = to_json(decoded.metadata.expect("metadata")).expect("JSON numbers are finite");
    assert!(is_same_object(&object, &back), "{object:?} {back:?}");
    from_proto(to_struct(back).expect("as deep as before"));
}

/// The direction of a caller's `scenario_context` to the upstream.
fn from_proto(fields: Struct) {
    let is_finite = fields.fields.values().all(is_finite);
    let json = match to_json(fields) {
        Ok(json) => json,
        Err(NotFinite) => return assert!(!is_finite),
    };
    assert!(is_finite, "JSON has no such number");
    let text = serde_json::to_vec(&json).expect("only string keys");
    if let Ok(read) = serde_json::from_slice::<Map<String, Value>>(&text) {
        assert!(is_same_object(&json, &read), "the upstream reads the same");
    }
    if let Ok(again) = to_struct(json.clone()) {
        assert_eq!(to_json(again).as_ref(), Ok(&json), "nothing more is lost");
    }
}

fn is_finite(value: &Proto) -> bool {
    match &value.kind {
        Some(Kind::NumberValue(number)) => number.is_finite(),
        Some(Kind::StructValue(fields)) => fields.fields.values().all(is_finite),
        Some(Kind::ListValue(list)) => list.values.iter().all(is_finite),
        _ => true,
    }
}

/// Whether they are equal, with numbers compared as doubles.
fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .zip(other)
                    .all(|(one, other)| is_same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => is_same_object(one, other),
        _ => one == other,
    }
}

fn is_same_object(one: &Map<String, Value>, other: &Map<String, Value>) -> bool {
    let same = |(name, value)| other.get(name).is_some_and(|found| is_same(value, found));
    one.len() == other.len() && one.iter().all(same)
}
