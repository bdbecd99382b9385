//! Text from outside, made fit for a terminal and for a text log.
//!
//! Callers, the upstream, the model and certificates choose text that a person reads. Whatever prints it
//! calls one of these functions first. They take out control characters (C0, DEL and C1, ECMA-48), so no
//! escape sequence is left, and bidirectional controls (UAX 9), which make text read as what it is not.

/// The text with its line ends and tabs, for a terminal.
pub fn text(text: &str) -> String {
    let is_plain = |char: &char| !is_control(*char) || matches!(char, '\n' | '\t');
    text.chars().filter(is_plain).collect()
}

/// The text on one line, for a log or a status: a space stands for each control.
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
    fn a_terminal_gets_no_control_but_line_end_and_tab() {
        let dressed = "\x1b[31mqırmızı\x1b[0m\r\n\tə\u{7}\u{8}\u{7f}\u{9b}2J\u{85}\0";
        assert_eq!(text(dressed), "[31mqırmızı[0m\n\tə2J");
        let plain = "Şəki, Gəncə, Iğdır: çığırtı, öküz — 25 °C 🌾👩‍🌾\n";
        assert_eq!(text(plain), plain);
    }

    #[test]
    fn a_log_line_stays_one_line() {
        assert_eq!(line("a\r\nb\tc\x1b[2J"), "a  b c [2J");
    }

    #[test]
    fn text_can_not_be_turned_round() {
        for char in "\u{61c}\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}".chars() {
            assert_eq!(text(&format!("a{char}b")), "ab", "{char:?}");
            assert_eq!(line(&format!("a{char}b")), "a b", "{char:?}");
        }
    }
}
