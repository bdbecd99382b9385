//! Cuts a text into tokens as a language model would, always in the same places.
//!
//! A word takes the space before it along, a long one comes in pieces, a mark stands alone. Line
//! ends are cut so that all the shapes occur that break unescaped event data: an empty line is a
//! token `\n\n`, the line end after a colon is a token `\n`, and another one begins a token with
//! the list mark and the word behind it (`\n- maddə`). The last token is empty, as it often is on
//! ALİM's wire. Joined, the tokens are the text.

/// The most letters in one piece of a word.
const PIECE: usize = 5;

/// Cuts `text` into its tokens, the empty one at the end included.
pub(super) fn cut(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let after_colon = tokens.last() == Some(&":");
        let (token, tail) = rest.split_at(first_end(rest, after_colon));
        tokens.push(token);
        rest = tail;
    }
    tokens.push("");
    tokens
}

/// Where the first token of `text` ends, in bytes; past 0 for a text that is not empty.
fn first_end(text: &str, after_colon: bool) -> usize {
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
        letters => letters.div_ceil(letters.div_ceil(PIECE)),
    };
    end + text[end..]
        .chars()
        .take(taken)
        .map(char::len_utf8)
        .sum::<usize>()
}

/// How many letters at the beginning of `text` are so; for letters of one byte each.
fn count(text: &str, so: impl Fn(char) -> bool) -> usize {
    text.chars().take_while(|letter| so(*letter)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_spaces_marks_and_line_ends_are_cut_like_a_model_does() {
        assert_eq!(
            cut("Suvarmalısınız, ha:\n- bir\n- iki:\n  - üç.\n\nSon"),
            [
                "Suvar", "malıs", "ınız", ",", " ha", ":", "\n", "-", " bir", "\n- iki", ":", "\n",
                "  -", " üç", ".", "\n\n", "Son", ""
            ]
        );
    }

    #[test]
    fn an_empty_text_is_one_empty_token() {
        assert_eq!(cut(""), [""]);
    }

    proptest::proptest! {
        #[test]
        fn joined_tokens_are_the_text(text in "[a-zə0-9 \n:.-]{0,80}") {
            proptest::prop_assert_eq!(cut(&text).concat(), text);
        }
    }
}
