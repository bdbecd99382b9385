//! Converts `google.protobuf.Struct` to JSON and back.
//!
//! A Struct has only doubles. A whole number becomes a JSON integer, because the upstream's Python distinguishes 5 from 5.0.
//! Integers above 2^53 lose digits on the way back. JSON has no NaN and no infinity. Nesting is limited to what decoders
//! accept (100 messages in most languages).

use prost_types::{ListValue, Struct, Value as Proto, value::Kind};
use serde_json::{Map, Number, Value};

/// A number that JSON can't represent.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("holds a number that is not finite")]
pub struct NotFinite;

/// JSON that is nested deeper than callers' decoders accept.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("nested too deep")]
pub struct TooDeep;

/// The default nesting limit of protobuf decoders, less two for the response and its `metadata`.
const MAX_DEPTH: usize = 100 - 2;
/// The largest whole number up to which a double is exact.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// Converts a Struct to a JSON object. prost limits the depth of a decoded Struct, so the recursion is bounded.
///
/// # Errors
///
/// - [`NotFinite`] when it has a number that JSON can't represent.
pub fn to_json(fields: Struct) -> Result<Map<String, Value>, NotFinite> {
    let pair = |(name, value)| Ok((name, value_to_json(value)?));
    fields.fields.into_iter().map(pair).collect()
}

fn value_to_json(value: Proto) -> Result<Value, NotFinite> {
    Ok(match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(truth)) => Value::Bool(truth),
        Some(Kind::StringValue(text)) => Value::String(text),
        Some(Kind::NumberValue(number)) => Value::Number(number_to_json(number)?),
        Some(Kind::StructValue(fields)) => Value::Object(to_json(fields)?),
        Some(Kind::ListValue(list)) => {
            let values = list.values.into_iter().map(value_to_json);
            Value::Array(values.collect::<Result<_, _>>()?)
        }
    })
}

#[allow(clippy::cast_possible_truncation, reason = "whole and within 2^53")]
fn number_to_json(number: f64) -> Result<Number, NotFinite> {
    if number.fract() == 0.0 && number.abs() <= MAX_EXACT {
        return Ok(Number::from(number as i64));
    }
    Number::from_f64(number).ok_or(NotFinite)
}

/// Converts a JSON object to a Struct.
///
/// # Errors
///
/// - [`TooDeep`] when a caller's decoder would reject the message.
pub fn to_struct(object: Map<String, Value>) -> Result<Struct, TooDeep> {
    object_to_struct(object, MAX_DEPTH)
}

/// Each level of objects nests three messages: the Struct's map entry, its Value, and the inner message.
fn object_to_struct(object: Map<String, Value>, left: usize) -> Result<Struct, TooDeep> {
    let left = left.checked_sub(3).ok_or(TooDeep)?;
    let pair = |(name, value)| Ok((name, value_to_proto(value, left)?));
    let fields = object.into_iter().map(pair).collect::<Result<_, _>>()?;
    Ok(Struct { fields })
}

fn value_to_proto(value: Value, left: usize) -> Result<Proto, TooDeep> {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(truth) => Kind::BoolValue(truth),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => Kind::StringValue(text),
        Value::Object(object) => Kind::StructValue(object_to_struct(object, left)?),
        Value::Array(values) => {
            let left = left.checked_sub(2).ok_or(TooDeep)?;
            let values = values.into_iter().map(|value| value_to_proto(value, left));
            let values = values.collect::<Result<_, _>>()?;
            Kind::ListValue(ListValue { values })
        }
    };
    Ok(Proto { kind: Some(kind) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use serde_json::json;

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(object) => object,
            other => panic!("{other} is not an object"),
        }
    }

    #[test]
    fn json_survives_a_round_trip_through_protobuf() {
        let original = object(json!({
            "null": null, "yes": true, "text": "sarı pas", "whole": 5, "negative": -3, "part": 0.5,
            "list": [1, "iki", [null]], "inner": {"a": {"b": []}}, "exact": 9_007_199_254_740_991_i64,
        }));
        let proto = to_struct(original.clone()).expect("shallow");
        assert_eq!(to_json(proto), Ok(original));
    }

    #[test]
    fn a_number_becomes_the_nearest_double() {
        let metadata = serde_json::from_str(r#"{"score": 0.9073038322028689}"#).expect("JSON");
        let proto = to_struct(metadata).expect("shallow");
        let exact = Kind::NumberValue(0.907_303_832_202_868_9);
        assert_eq!(proto.fields["score"].kind, Some(exact));
    }

    #[test]
    fn a_number_that_is_not_finite_is_rejected() {
        for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(number_to_json(number), Err(NotFinite));
        }
        assert_eq!(
            number_to_json(1e300).map(|n| n.to_string()),
            Ok("1e+300".into())
        );
        assert_eq!(number_to_json(-0.0).map(|n| n.to_string()), Ok("0".into()));
    }

    #[test]
    fn the_deepest_accepted_struct_can_be_decoded() {
        let nested = |levels: usize| {
            let wrap = |inner, _| json!({ "a": inner });
            object((0..levels).fold(json!({}), wrap))
        };
        let deepest = (1..)
            .take_while(|levels| to_struct(nested(*levels)).is_ok())
            .last();
        let deepest = deepest.expect("some depth passes");
        let metadata = to_struct(nested(deepest)).expect("passes");
        let reply = crate::pb::InvokeResponse {
            metadata: Some(metadata),
            ..Default::default()
        };
        assert!(crate::pb::InvokeResponse::decode(&*reply.encode_to_vec()).is_ok());
        assert!(deepest >= 30, "real metadata is far shallower");
    }
}
