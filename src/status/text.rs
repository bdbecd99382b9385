//! Text of the upstream made fit for a status: cleaned, and cut to what callers accept.
//!
//! Pure. Callers reject heads over 8 KiB, and `grpc-message` travels percent-encoded (gRPC over
//! HTTP/2, Status-Message), so lengths here are those after encoding: an Azerbaijani letter counts
//! six bytes.

use crate::sanitize;

/// Bytes of `grpc-message` after percent-encoding; exactly as many pass.
pub(crate) const MAX_MESSAGE_BYTES: usize = 1024;
const ELLIPSIS: &str = "…";

/// Control characters out, URLs replaced: the upstream's errors quote inner addresses.
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

/// The longest beginning of `text` that takes at most `limit` bytes percent-encoded, marked as cut.
pub(crate) fn cut_encoded(text: &str, limit: usize) -> String {
    cut(text, limit, |char| {
        let travels_as_it_is = matches!(char, '!'..='~') && !"\"#%<>`?{}".contains(char);
        if travels_as_it_is {
            1
        } else {
            3 * char.len_utf8()
        }
    })
}

/// The longest beginning of `text` that takes at most `limit` bytes of UTF-8, marked as cut.
pub(crate) fn cut_utf8(text: &str, limit: usize) -> String {
    cut(text, limit, char::len_utf8)
}

fn cut(text: &str, limit: usize, cost: impl Fn(char) -> usize) -> String {
    let mark: usize = ELLIPSIS.chars().map(&cost).sum();
    let (mut used, mut fits) = (0, 0);
    for (at, char) in text.char_indices() {
        if used + mark <= limit {
            fits = at;
        }
        used += cost(char);
        if used > limit {
            return format!("{}{ELLIPSIS}", &text[..fits]);
        }
    }
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn control_characters_and_urls_are_taken_out() {
        assert_eq!(clean("a\r\nb\u{0}c\u{85}"), "a  b c");
        assert_eq!(
            clean("Client error '404' for url 'http://graph:8000/t/1?k=v' (see https://x.y/z)"),
            "Client error '404' for url '<url>' (see <url>)"
        );
        assert_eq!(clean("://"), "<url>");
    }

    #[test]
    fn text_of_exactly_the_limit_is_not_cut() {
        assert_eq!(cut_utf8("abcde", 5), "abcde");
        assert_eq!(cut_utf8("abcdef", 5), "ab…");
        assert_eq!(cut_encoded("əə", 12), "əə");
        assert_eq!(cut_encoded("əəə", 17), "ə…");
    }

    proptest! {
        #[test]
        fn no_text_is_ever_longer_than_its_limit(text in "\\PC{0,80}", limit in 9usize..60) {
            prop_assert!(cut_utf8(&text, limit).len() <= limit);
            let encoded = tonic::Status::unknown(cut_encoded(&text, limit)).into_http::<()>();
            let length = encoded.headers().get("grpc-message").map_or(0, http::HeaderValue::len);
            prop_assert!(length <= limit);
        }
    }
}
