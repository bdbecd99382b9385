//! Sanitizes text from outside for a terminal and for a text log.
//!
//! Callers, the upstream, the model and certificates supply text that a person reads. Code that prints such text calls one
//! of these functions first. They remove control characters (C0, DEL and C1, ECMA-48), so no escape sequence is left. They
//! also remove bidirectional controls (UAX 9), which can make text look like different text.

/// Sanitizes text for a terminal; line ends and tabs stay.
pub fn text(text: &str) -> String {
    let is_plain = |char: &char| !is_control(*char) || matches!(char, '\n' | '\t');
    text.chars().filter(is_plain).collect()
}

/// Sanitizes text for one line of a log or a status. A space replaces each control character.
pub fn line(text: &str) -> String {
    let spaced = |char| if is_control(char) { ' ' } else { char };
    text.chars().map(spaced).collect()
}

fn is_control(char: char) -> bool {
    char.is_control()
        || matches!(
            char,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_text_keeps_only_line_ends_and_tabs() {
        let colored = "\x1b[31mqırmızı\x1b[0m\r\n\tə\u{7}\u{8}\u{7f}\u{9b}2J\u{85}\0";
        assert_eq!(text(colored), "[31mqırmızı[0m\n\tə2J");
        let plain = "Şəki, Gəncə, Iğdır: çığırtı, öküz — 25 °C 🌾👩‍🌾\n";
        assert_eq!(text(plain), plain);
    }

    #[test]
    fn a_log_line_stays_one_line() {
        assert_eq!(line("a\r\nb\tc\x1b[2J"), "a  b c [2J");
    }

    #[test]
    fn bidirectional_controls_are_removed() {
        for char in "\u{61c}\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}".chars() {
            assert_eq!(text(&format!("a{char}b")), "ab", "{char:?}");
            assert_eq!(line(&format!("a{char}b")), "a b", "{char:?}");
        }
    }
}
