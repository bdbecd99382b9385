//! Splits a text into tokens as a language model would, but deterministically.
//!
//! A token is a word with the space before it, a piece of a long word, or a punctuation mark. The line
//! ends produce every shape that breaks unescaped event data:
//!
//! - An empty line is a token `\n\n`. The line end after a colon is a token `\n`.
//! - Any other line end begins a token, with the list mark after it (`\n- maddə`).
//! - The last token is empty, as it often is in ALİM's streams.
//!
//! The concatenated tokens are the text.

/// The most letters in one token.
const MAX_LETTERS: usize = 5;

/// Splits `text` into its tokens, with the empty one at the end.
pub(super) fn split(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let after_colon = tokens.last() == Some(&":");
        let (token, tail) = rest.split_at(first_len(rest, after_colon));
        tokens.push(token);
        rest = tail;
    }
    tokens.push("");
    tokens
}

/// The length of the first token of `text`, in bytes. Above 0 if `text` is not empty.
fn first_len(text: &str, after_colon: bool) -> usize {
    let line_ends = count(text, |letter| letter == '\n');
    if line_ends > 1 || (line_ends == 1 && after_colon) {
        return line_ends;
    }
    let mut end = line_ends + count(&text[line_ends..], |letter| letter == ' ');
    if line_ends == 1 && text[end..].starts_with("- ") {
        end += "- ".len();
    }
    let letters = text[end..]
        .chars()
        .take_while(|letter| letter.is_alphanumeric())
        .count();
    let taken = match letters {
        0 => 1,
        letters => letters.div_ceil(letters.div_ceil(MAX_LETTERS)),
    };
    end + text[end..]
        .chars()
        .take(taken)
        .map(char::len_utf8)
        .sum::<usize>()
}

/// How many characters at the beginning of `text` match. They must be one byte each.
fn count(text: &str, is_match: impl Fn(char) -> bool) -> usize {
    text.chars().take_while(|letter| is_match(*letter)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_spaces_marks_and_line_ends_are_split_as_a_model_does() {
        assert_eq!(
            split("Suvarmalısınız, ha:\n- bir\n- iki:\n  - üç.\n\nSon"),
            [
                "Suvar", "malıs", "ınız", ",", " ha", ":", "\n", "-", " bir", "\n- iki", ":", "\n",
                "  -", " üç", ".", "\n\n", "Son", ""
            ]
        );
    }

    #[test]
    fn an_empty_text_is_one_empty_token() {
        assert_eq!(split(""), [""]);
    }

    proptest::proptest! {
        #[test]
        fn concatenated_tokens_are_the_text(text in "[a-zə0-9 \n:.-]{0,80}") {
            proptest::prop_assert_eq!(split(&text).concat(), text);
        }
    }
}
