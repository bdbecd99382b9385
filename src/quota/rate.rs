//! A number of requests per window: `30/min`, `5/s`, `10/10s`. Quotas and the limits of callers are rates, each within its bounds.

use std::{fmt, ops::RangeInclusive, str::FromStr, time::Duration};

const UNITS: [(&str, u64); 4] = [("s", 1), ("min", 60), ("h", 3600), ("d", 24 * 3600)];

/// At most `requests` in any window of this length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    requests: u32,
    window: Duration,
}

/// Which rates are valid for a purpose.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Valid numbers of requests.
    pub requests: RangeInclusive<u32>,
    /// Valid lengths of the window.
    pub window: RangeInclusive<Duration>,
}

/// The text is not a valid rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", Rate::RULE)]
pub struct Invalid;

impl Rate {
    /// The form that [`Rate::from_str`] accepts.
    pub const RULE: &str =
        "2 to 10000 requests and a window of 1s to 1d, such as 30/min, 5/s or 10/10s";

    /// The bounds of [`Rate::from_str`]. A call that starts a thread sends two requests, and acquires both at once. Each request is
    /// counted separately, so there is a maximum.
    const QUOTA: Bounds = Bounds {
        requests: 2..=10_000,
        window: Duration::from_secs(1)..=Duration::from_secs(24 * 3600),
    };

    /// The number of requests.
    pub fn requests(self) -> u32 {
        self.requests
    }

    /// The length of the window.
    pub fn window(self) -> Duration {
        self.window
    }

    /// Parses `REQUESTS/WINDOW`. A unit without a number means one of it.
    ///
    /// # Errors
    ///
    /// - [`Invalid`] for another form, or numbers outside `bounds`.
    pub fn parse(text: &str, bounds: &Bounds) -> Result<Self, Invalid> {
        let (requests, window) = text.split_once('/').ok_or(Invalid)?;
        if !requests.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Invalid); // `parse` accepts a plus sign
        }
        let requests = requests.parse().map_err(|_| Invalid)?;
        let window = match window.bytes().next() {
            Some(b'0'..=b'9') => humantime::parse_duration(window),
            Some(b'a'..=b'z') => humantime::parse_duration(&format!("1{window}")),
            _ => return Err(Invalid),
        };
        let window = window.map_err(|_| Invalid)?;
        let is_valid = bounds.requests.contains(&requests) && bounds.window.contains(&window);
        match is_valid {
            true => Ok(Self { requests, window }),
            false => Err(Invalid),
        }
    }
}

impl FromStr for Rate {
    type Err = Invalid;

    /// # Errors
    ///
    /// - [`Invalid`] for another form, or numbers outside [`Rate::RULE`].
    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::parse(text, &Self::QUOTA)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut units = UNITS.iter();
        match units.find(|(_, seconds)| Duration::from_secs(*seconds) == self.window) {
            Some((unit, _)) => write!(f, "{}/{unit}", self.requests),
            None => {
                let window = humantime::format_duration(self.window).to_string();
                write!(f, "{}/{}", self.requests, window.replace(' ', ""))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_count_and_a_window_with_its_unit() {
        for (text, requests, seconds, shown) in [
            ("30/min", 30, 60, "30/min"),
            ("5/s", 5, 1, "5/s"),
            ("10/10s", 10, 10, "10/10s"),
            ("100/h", 100, 3600, "100/h"),
            ("30/1m", 30, 60, "30/min"),
            ("2/1m30s", 2, 90, "2/1m30s"),
            ("10000/d", 10_000, 24 * 3600, "10000/d"),
        ] {
            let rate: Rate = text.parse().expect(text);
            let window = Duration::from_secs(seconds);
            assert_eq!(rate, Rate { requests, window }, "{text}");
            assert_eq!(rate.to_string(), shown);
        }
    }

    #[test]
    fn invalid_rates_are_rejected() {
        for text in [
            "",
            "30",
            "/min",
            "30/",
            "x/min",
            "-1/s",
            "+5/s",
            "30/min/s",
            "30 /min",
            "30/minute?",
            "30/ min",
            "0/s",
            "1/min",
            "10001/s",
            "5/500ms",
            "5/25h",
            "5/0s",
            "5/10",
        ] {
            assert_eq!(text.parse::<Rate>(), Err(Invalid), "{text}");
        }
    }
}
