//! The plan of each call: what its caller does, the upstream's answer and the fault. Each is a function of the
//! seed and the call's number, so a failed call can be reproduced.

use std::time::Duration;

use fastrand::Rng;

use crate::support::faults::Fault;

/// What a caller does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Read,
    /// Cancels after this time.
    Cancel(Duration),
    /// Stops reading for this time after the response head.
    Pause(Duration),
    /// Sends a deadline.
    Deadline(Duration),
}

/// The plan of one call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) is_stream: bool,
    pub(super) act: Act,
    pub(super) fault: Fault,
}

impl Plan {
    pub(super) fn of(seed: u64, number: u64) -> Self {
        let mut rng = rng(seed, number);
        let millis = |rng: &mut Rng, most| Duration::from_millis(rng.u64(1..most));
        Self {
            is_stream: rng.bool(),
            act: match rng.u8(..10) {
                0 => Act::Cancel(millis(&mut rng, 100)),
                1 => Act::Pause(millis(&mut rng, 300)),
                2 => Act::Deadline(millis(&mut rng, 200)),
                _ => Act::Read,
            },
            fault: fault(&mut rng),
        }
    }
}

/// With their heads, answers have a few hundred bytes to a few KiB. The offsets cover both.
fn fault(rng: &mut Rng) -> Fault {
    let most = *rng.choice(&[30, 300, 3000]).expect("some");
    let at = rng.usize(..most);
    let by_reset = rng.bool();
    let by = 1 << rng.u8(..8);
    match rng.u8(..12) {
        0 => Fault::Delay(Duration::from_millis(rng.u64(1..30))),
        1 => Fault::Dribble,
        2 | 3 => Fault::Close { at, by_reset },
        4 | 5 => Fault::Corrupt { at, by },
        6 => Fault::Stall { at },
        _ => Fault::None,
    }
}

/// The tokens of the answer, different for every call.
pub(super) fn tokens(number: u64) -> Vec<String> {
    let mut rng = rng(0, number);
    let words = [
        "Suvarma",
        " ",
        "\n",
        "\n\n",
        "səhər",
        "ə",
        "{\"a\": 1}",
        "  iki",
        "",
    ];
    let mut tokens = vec![format!("{number}: ")];
    for _ in 0..rng.usize(..60) {
        tokens.push(rng.choice(words).expect("some").to_owned());
    }
    tokens.push(format!(" :{number}"));
    tokens
}

fn rng(seed: u64, number: u64) -> Rng {
    Rng::with_seed(seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}
