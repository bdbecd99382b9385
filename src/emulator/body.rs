//! Parses a request body to JSON as FastAPI does: before the key is checked. So a caller without a key
//! learns that its body is unreadable.
//!
//! FastAPI reports the offset and the message of Python's parser. This module translates those of
//! serde_json. For a truncated body, the offset can differ a little from Python's.

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use mime::Mime;
use serde_json::{Value, json};

use super::rejection::{FieldError, Rejection};

/// Prefixes of serde_json's messages, and Python's message for the same error.
const PYTHON_MESSAGES: [(&str, &str); 13] = [
    (
        "EOF while parsing a string",
        "Unterminated string starting at",
    ),
    ("EOF while parsing an object", "Expecting ',' delimiter"),
    ("EOF while parsing a list", "Expecting ',' delimiter"),
    ("expected `:`", "Expecting ':' delimiter"),
    ("expected `,`", "Expecting ',' delimiter"),
    (
        "key must be a string",
        "Expecting property name enclosed in double quotes",
    ),
    (
        "trailing comma",
        "Expecting property name enclosed in double quotes",
    ),
    ("trailing characters", "Extra data"),
    ("invalid number", "Expecting ',' delimiter"),
    ("control character", "Invalid control character at"),
    ("invalid escape", "Invalid \\escape"),
    ("unexpected end of hex escape", "Invalid \\uXXXX escape"),
    ("", "Expecting value"),
];

/// Parses a body to JSON. An empty body is `null`. A body whose content type is not JSON is a string.
///
/// # Errors
/// - [`Rejection::Unreadable`]: the body is not UTF-8, or is nested deeper than serde_json allows.
/// - [`Rejection::Invalid`]: the body is not JSON.
pub(super) fn parse(headers: &HeaderMap, body: &[u8]) -> Result<Value, Rejection> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    let text = std::str::from_utf8(body).map_err(|_| Rejection::Unreadable)?;
    if !is_json(headers) {
        return Ok(Value::from(text));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    serde_json::from_str(text).map_err(|error| to_rejection(text, &error))
}

/// Whether FastAPI parses the body as JSON. It does so too if there is no content type.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(content_type) = headers.get(CONTENT_TYPE) else {
        return true;
    };
    let parsed: Option<Mime> = content_type
        .to_str()
        .ok()
        .and_then(|text| text.parse().ok());
    parsed.is_some_and(|mime| {
        mime.type_() == mime::APPLICATION
            && (mime.subtype() == mime::JSON || mime.suffix() == Some(mime::JSON))
    })
}

fn to_rejection(text: &str, error: &serde_json::Error) -> Rejection {
    let message = error.to_string();
    if message.starts_with("recursion limit") {
        return Rejection::Unreadable;
    }
    let python = match error.is_eof() && text.trim_end().ends_with(['{', ',']) {
        true => "Expecting property name enclosed in double quotes",
        false => to_python(&message),
    };
    Rejection::Invalid(vec![FieldError {
        rule: "json_invalid",
        loc: vec![json!("body"), json!(python_offset(text, error, python))],
        msg: "JSON decode error".into(),
        input: json!({}),
        ctx: Some(json!({ "error": python })),
    }])
}

fn to_python(message: &str) -> &'static str {
    let python = PYTHON_MESSAGES
        .iter()
        .find_map(|(prefix, python)| message.starts_with(prefix).then_some(*python));
    python.expect("the last prefix is empty and matches every text")
}

/// Where Python's parser would stop, in characters from the beginning. It stops before a word that is
/// not a value, and at the backslash of an escape.
fn python_offset(text: &str, error: &serde_json::Error, message: &str) -> usize {
    let line: usize = text
        .split_inclusive('\n')
        .take(error.line().saturating_sub(1))
        .map(str::len)
        .sum();
    let stopped = match error.is_eof() {
        true => text.len(),
        false => (line + error.column()).saturating_sub(1),
    };
    let stopped = match message {
        "Expecting value" => text[..stopped]
            .trim_end_matches(|letter: char| letter.is_ascii_alphanumeric())
            .len(),
        "Invalid \\escape" => stopped.saturating_sub(1),
        _ => stopped,
    };
    let is_char_start = |byte: &&u8| **byte & 0b1100_0000 != 0b1000_0000;
    text.bytes()
        .take(stopped)
        .filter(|b| is_char_start(&b))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bodies that are not JSON, with the offset and the message that Python reports.
    const BROKEN: [(&str, usize, &str); 13] = [
        ("salam", 0, "Expecting value"),
        (" ", 1, "Expecting value"),
        ("nul", 0, "Expecting value"),
        ("{", 1, "Expecting property name enclosed in double quotes"),
        (r#"{"a":01}"#, 6, "Expecting ',' delimiter"),
        (r#"{"a":"\x"}"#, 6, "Invalid \\escape"),
        (r#"{"message":"#, 11, "Expecting value"),
        (r#"{"message" "a"}"#, 11, "Expecting ':' delimiter"),
        (r#"{"message":"əə" x}"#, 16, "Expecting ',' delimiter"),
        ("{\"a\":1\n,\n\"b\":x}", 13, "Expecting value"),
        (r#"{"message":"a"}x"#, 15, "Extra data"),
        (
            "{'message':1}",
            1,
            "Expecting property name enclosed in double quotes",
        ),
        ("{\"message\":\"a\nb\"}", 13, "Invalid control character at"),
    ];

    #[test]
    fn a_body_that_is_not_json_gets_pythons_error() {
        for (body, offset, message) in BROKEN {
            let Err(Rejection::Invalid(errors)) = parse(&HeaderMap::new(), body.as_bytes()) else {
                panic!("{body} was accepted");
            };
            assert_eq!(errors[0].loc, [json!("body"), json!(offset)], "{body}");
            assert_eq!(errors[0].ctx, Some(json!({ "error": message })), "{body}");
        }
    }

    #[test]
    fn a_body_with_another_content_type_is_a_string() {
        let mut headers = HeaderMap::new();
        for (content_type, body) in [
            ("application/json; charset=utf-8", json!({})),
            ("application/problem+json", json!({})),
            ("text/plain", json!("{}")),
            ("json", json!("{}")),
        ] {
            headers.insert(CONTENT_TYPE, content_type.parse().expect("it is ASCII"));
            assert_eq!(parse(&headers, b"{}").ok(), Some(body), "{content_type}");
        }
    }
}
