//! Cleans and truncates the upstream's text for a status.
//!
//! Callers reject heads over 8 KiB, and `grpc-message` is percent-encoded (gRPC over HTTP/2, Status-Message). So the lengths
//! here are those after encoding: an Azerbaijani letter counts as six bytes. All functions are pure.

use crate::sanitize;

/// The maximum size of `grpc-message` after percent-encoding, inclusive.
pub(crate) const MAX_MESSAGE_BYTES: usize = 1024;
const ELLIPSIS: &str = "…";

/// Replaces control characters and URLs, because the upstream's errors quote internal addresses.
pub(crate) fn clean(text: &str) -> String {
    let spaced = sanitize::line(text);
    let mut out = String::with_capacity(spaced.len());
    let mut rest = spaced.trim();
    while let Some(at) = rest.find("://") {
        let is_scheme = |char: char| char.is_ascii_alphanumeric() || "+-.".contains(char);
        let head = rest[..at].trim_end_matches(is_scheme);
        out.push_str(head);
        out.push_str("<url>");
        let is_end = |char: char| char.is_whitespace() || "'\"<>`)]},".contains(char);
        let tail = &rest[at..];
        rest = &tail[tail.find(is_end).unwrap_or(tail.len())..];
    }
    out + rest
}

/// Truncates `text` to `limit` bytes of percent-encoded text, and marks it with an ellipsis.
pub(crate) fn truncate_encoded(text: &str, limit: usize) -> String {
    truncate(text, limit, |char| {
        let is_unencoded = matches!(char, '!'..='~') && !"\"#%<>`?{}".contains(char);
        if is_unencoded { 1 } else { 3 * char.len_utf8() }
    })
}

/// Truncates `text` to `limit` bytes of UTF-8, and marks it with an ellipsis.
pub(crate) fn truncate_utf8(text: &str, limit: usize) -> String {
    truncate(text, limit, char::len_utf8)
}

fn truncate(text: &str, limit: usize, cost: impl Fn(char) -> usize) -> String {
    let ellipsis_cost: usize = ELLIPSIS.chars().map(&cost).sum();
    let (mut used, mut end) = (0, 0);
    for (at, char) in text.char_indices() {
        if used + ellipsis_cost <= limit {
            end = at;
        }
        used += cost(char);
        if used > limit {
            return format!("{}{ELLIPSIS}", &text[..end]);
        }
    }
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn control_characters_and_urls_are_replaced() {
        assert_eq!(clean("a\r\nb\u{0}c\u{85}"), "a  b c");
        assert_eq!(
            clean("Client error '404' for url 'http://graph:8000/t/1?k=v' (see https://x.y/z)"),
            "Client error '404' for url '<url>' (see <url>)"
        );
        assert_eq!(clean("://"), "<url>");
    }

    #[test]
    fn text_of_exactly_the_limit_is_not_truncated() {
        assert_eq!(truncate_utf8("abcde", 5), "abcde");
        assert_eq!(truncate_utf8("abcdef", 5), "ab…");
        assert_eq!(truncate_encoded("əə", 12), "əə");
        assert_eq!(truncate_encoded("əəə", 17), "ə…");
    }

    proptest! {
        #[test]
        fn truncated_text_is_never_longer_than_its_limit(text in "\\PC{0,80}", limit in 9usize..60) {
            prop_assert!(truncate_utf8(&text, limit).len() <= limit);
            let encoded = tonic::Status::unknown(truncate_encoded(&text, limit)).into_http::<()>();
            let length = encoded.headers().get("grpc-message").map_or(0, http::HeaderValue::len);
            prop_assert!(length <= limit);
        }
    }
}
