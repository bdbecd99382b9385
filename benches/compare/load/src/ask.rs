//! The order that travels as a call's message: `paced period_us=50000 phase_us=1000 tokens=0`.

use std::fmt;

/// The word that every answer's tokens hold: two-byte letters are common in Azerbaijani.
pub const WORD: &str = " sahə";

/// Words of a token for a stream that stalls: with one, 10,000 windows of 64 KiB would take minutes to fill.
const STALL_WORDS: usize = 32;

/// The text of a token for a stream that stalls.
pub fn stall_text() -> String {
    WORD.repeat(STALL_WORDS)
}

/// What the upstream is to do with a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// One token each period, in step with the clock; `tokens` of them, or endlessly when 0.
    Paced {
        period_us: u64,
        phase_us: u64,
        tokens: u64,
    },
    /// So many tokens at once, then done.
    Burst { tokens: u64 },
    /// A node, then silence.
    Idle,
    /// Tokens without end, as fast as they are taken.
    Stall,
}

impl Ask {
    /// Reads a message; what is not understood is one token.
    pub fn parse(message: &str) -> Self {
        let number = |name: &str| {
            let mut words = message.split_ascii_whitespace();
            let found = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            found.and_then(|digits| digits.parse().ok()).unwrap_or(0)
        };
        match message.split_ascii_whitespace().next() {
            Some("paced") => Self::Paced {
                period_us: number("period_us").max(1),
                phase_us: number("phase_us"),
                tokens: number("tokens"),
            },
            Some("burst") => Self::Burst {
                tokens: number("tokens"),
            },
            Some("idle") => Self::Idle,
            Some("stall") => Self::Stall,
            _ => Self::Burst { tokens: 1 },
        }
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Paced {
                period_us,
                phase_us,
                tokens,
            } => write!(
                f,
                "paced period_us={period_us} phase_us={phase_us} tokens={tokens}"
            ),
            Self::Burst { tokens } => write!(f, "burst tokens={tokens}"),
            Self::Idle => f.write_str("idle"),
            Self::Stall => f.write_str("stall"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Ask;

    #[test]
    fn an_order_is_read_as_it_was_written() {
        let paced = Ask::Paced {
            period_us: 50_000,
            phase_us: 7,
            tokens: 3,
        };
        for ask in [paced, Ask::Burst { tokens: 9 }, Ask::Idle, Ask::Stall] {
            assert_eq!(Ask::parse(&ask.to_string()), ask);
        }
    }
}
