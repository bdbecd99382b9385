//! Bytes of a call's body to JSON, as FastAPI reads them: before it looks at the key, so that an
//! unreadable body is told to whoever sent it.
//!
//! FastAPI says where Python's parser stopped, and in Python's words. Here serde_json's place and
//! words are put that way; inside a body that breaks off they can be a little beside Python's.

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use mime::Mime;
use serde_json::{Value, json};

use super::refusal::{FieldFault, Refusal};

/// The beginnings of serde_json's words, and what Python says in their place.
const PYTHON_WORDS: [(&str, &str); 13] = [
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

/// Reads a body into JSON; an empty one is `null`, and one that says it is no JSON is its text.
///
/// # Errors
/// - [`Refusal::Unreadable`]: it is not UTF-8, or nested deeper than serde_json goes.
/// - [`Refusal::Invalid`]: it is not JSON.
pub(super) fn read(headers: &HeaderMap, body: &[u8]) -> Result<Value, Refusal> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    let text = std::str::from_utf8(body).map_err(|_| Refusal::Unreadable)?;
    if !is_json(headers) {
        return Ok(Value::from(text));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    serde_json::from_str(text).map_err(|error| refuse(text, &error))
}

/// Whether the body is to be read as JSON; without a content type FastAPI takes it for that.
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

fn refuse(text: &str, error: &serde_json::Error) -> Refusal {
    let said = error.to_string();
    if said.starts_with("recursion limit") {
        return Refusal::Unreadable;
    }
    let words = match error.is_eof() && text.trim_end().ends_with(['{', ',']) {
        true => "Expecting property name enclosed in double quotes",
        false => python_words(&said),
    };
    Refusal::Invalid(vec![FieldFault {
        rule: "json_invalid",
        loc: vec![json!("body"), json!(place(text, error, words))],
        msg: "JSON decode error".into(),
        input: json!({}),
        ctx: Some(json!({ "error": words })),
    }])
}

fn python_words(said: &str) -> &'static str {
    let begins = |(ours, python): &(&str, &'static str)| said.starts_with(ours).then_some(*python);
    let words = PYTHON_WORDS.iter().find_map(begins);
    words.expect("the last row's beginning is that of every text")
}

/// Where the parser stopped, in characters from the beginning, as Python counts: before a word that
/// is no value, and at an escape's backslash.
fn place(text: &str, error: &serde_json::Error, words: &str) -> usize {
    let line: usize = text
        .split_inclusive('\n')
        .take(error.line().saturating_sub(1))
        .map(str::len)
        .sum();
    let stopped = match error.is_eof() {
        true => text.len(),
        false => (line + error.column()).saturating_sub(1),
    };
    let stopped = match words {
        "Expecting value" => text[..stopped]
            .trim_end_matches(|letter: char| letter.is_ascii_alphanumeric())
            .len(),
        "Invalid \\escape" => stopped.saturating_sub(1),
        _ => stopped,
    };
    let begins_letter = |byte: &&u8| **byte & 0b1100_0000 != 0b1000_0000;
    text.bytes()
        .take(stopped)
        .filter(|b| begins_letter(&b))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bodies that are no JSON, and where and in which words Python says so.
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
    fn what_is_no_json_is_told_as_python_tells_it() {
        for (body, place, words) in BROKEN {
            let Err(Refusal::Invalid(faults)) = read(&HeaderMap::new(), body.as_bytes()) else {
                panic!("{body} was read");
            };
            assert_eq!(faults[0].loc, [json!("body"), json!(place)], "{body}");
            assert_eq!(faults[0].ctx, Some(json!({ "error": words })), "{body}");
        }
    }

    #[test]
    fn a_body_that_says_it_is_something_else_is_its_text() {
        let mut headers = HeaderMap::new();
        for (content_type, body) in [
            ("application/json; charset=utf-8", json!({})),
            ("application/problem+json", json!({})),
            ("text/plain", json!("{}")),
            ("json", json!("{}")),
        ] {
            headers.insert(CONTENT_TYPE, content_type.parse().expect("it is ASCII"));
            assert_eq!(read(&headers, b"{}").ok(), Some(body), "{content_type}");
        }
    }
}
