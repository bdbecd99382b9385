//! ALİM's rate limit: a sliding log for each key, which keeps what it then rejects too.
//!
//! So callers who go on asking above the limit are never answered, and neither is anybody else with their key. ALİM knows a key by its
//! first 16 characters. What it means as a 429 leaves it as a 500 today, without the headers that its other answers have.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::RETRY_AFTER;
use http::{HeaderName, HeaderValue};
use tokio::time::Instant;

use super::refusal::Refusal;
use super::url;
use crate::quota::Rate;

/// How much of a key ALİM looks at.
const PREFIX: usize = 16;
/// Keys that are remembered; ALİM's Redis forgets those that have not asked for a window.
const MAX_KEYS: usize = 1024;
/// These need no key and are not counted.
const EXEMPT: [&str; 2] = ["/health", "/live"];

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// How many requests a key may send, and what it gets beyond.
#[derive(Clone, Copy, Debug)]
pub struct RateLimit {
    /// The limit.
    pub rate: Rate,
    /// What is beyond gets.
    pub beyond: Beyond,
}

/// What a request beyond the limit gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beyond {
    /// A 500, as ALİM answers today.
    Crash,
    /// A 429 with `Retry-After`, as its code means.
    TooManyRequests,
}

/// The logs of all keys.
pub(super) struct Limiter {
    limit: RateLimit,
    logs: Mutex<HashMap<Vec<u8>, VecDeque<Instant>>>,
}

/// What the log says of a request.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// How many are left.
    In(u32),
    /// Until the oldest is forgotten.
    Beyond(Duration),
}

impl Limiter {
    pub(super) fn new(limit: RateLimit) -> Self {
        Self {
            limit,
            logs: Mutex::default(),
        }
    }

    fn count(&self, key: &[u8], now: Instant) -> Verdict {
        let rate = self.limit.rate;
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        if logs.len() >= MAX_KEYS {
            logs.retain(|_, log| log.back().is_some_and(|at| now - *at < rate.window()));
        }
        let log = logs.entry(key[..key.len().min(PREFIX)].to_vec());
        let log = log.or_default();
        while log.front().is_some_and(|at| now - *at >= rate.window()) {
            log.pop_front();
        }
        log.push_back(now);
        let used = u32::try_from(log.len()).unwrap_or(u32::MAX);
        match rate.requests().checked_sub(used) {
            Some(left) => Verdict::In(left),
            None => {
                log.drain(..log.len() - rate.requests() as usize - 1); // older ones change nothing
                Verdict::Beyond(rate.window() - (now - log[0]))
            }
        }
    }
}

/// The layer that counts requests, and lets those within the limit through.
pub(super) async fn limit(
    State(limiter): State<Arc<Limiter>>,
    asked: Request,
    next: Next,
) -> Response {
    if EXEMPT.contains(&asked.uri().path()) {
        return next.run(asked).await;
    }
    let headers = asked.headers();
    let key = headers
        .get("x-api-key")
        .map_or(&[][..], |key| key.as_bytes());
    let rate = limiter.limit.rate;
    let (remaining, mut answer) = match limiter.count(key, Instant::now()) {
        Verdict::In(left) => (left, next.run(asked).await),
        Verdict::Beyond(wait) => {
            let detail = format!("Rate limit exceeded: {rate}");
            if limiter.limit.beyond == Beyond::Crash {
                let url = url::with_path(headers, asked.uri(), asked.uri().path());
                return Refusal::Uncaught(format!("429: {detail}"), url).into_response();
            }
            let mut answer = Refusal::OverLimit(detail).into_response();
            let wait = wait.as_secs_f64().ceil() as u64;
            answer.headers_mut().insert(RETRY_AFTER, wait.into());
            (0, answer)
        }
    };
    let reset = SystemTime::now() + rate.window();
    let reset = reset.duration_since(SystemTime::UNIX_EPOCH);
    let reset = reset.map_or(0, |time| time.as_secs());
    let fields = [
        (LIMIT, HeaderValue::from(rate.requests())),
        (REMAINING, remaining.into()),
        (RESET, reset.into()),
    ];
    answer.headers_mut().extend(fields);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_rejected_counts_too_and_keys_are_known_by_their_beginning() {
        let limiter = Limiter::new(RateLimit {
            rate: "3/10s".parse().expect("a rate"),
            beyond: Beyond::Crash,
        });
        let start = Instant::now();
        let key = b"sixteen-letters!-and-more";
        let count = |at, key| limiter.count(key, start + Duration::from_secs(at));
        assert_eq!(count(0, &key[..]), Verdict::In(2));
        assert_eq!(count(1, &key[..16]), Verdict::In(1));
        assert_eq!(count(2, b"another"), Verdict::In(2));
        assert_eq!(count(2, &key[..]), Verdict::In(0));
        for at in 3..40 {
            assert!(matches!(count(at, &key[..]), Verdict::Beyond(_)), "{at}");
        }
        let wait = Verdict::Beyond(Duration::from_secs(7));
        assert_eq!(count(40, &key[..]), wait);
        assert_eq!(count(50, &key[..]), Verdict::In(2), "quiet for a window");
    }
}
