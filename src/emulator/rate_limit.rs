//! ALİM's rate limit: a sliding log for each key that counts rejected requests too.
//!
//! So a caller that keeps sending above the limit is never answered, nor is anyone else with its key. ALİM identifies a key by its
//! first 16 characters. It intends a 429, but answers 500 today, without the headers of its other answers.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::RETRY_AFTER;
use http::{HeaderName, HeaderValue};
use tokio::time::Instant;

use super::rejection::Rejection;
use super::url;
use crate::quota::Rate;

/// The bytes of a key that ALİM compares.
const KEY_PREFIX: usize = 16;
/// Above this many keys, idle ones are removed. ALİM's Redis forgets a key that sent nothing for a window.
const MAX_KEYS: usize = 1024;
/// Paths that need no key and are not counted.
const EXEMPT: [&str; 2] = ["/health", "/live"];

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// How many requests a key may send, and the answer above that.
#[derive(Clone, Copy, Debug)]
pub struct RateLimit {
    /// The limit.
    pub rate: Rate,
    /// The answer to requests above it.
    pub over_limit: OverLimit,
}

/// The answer to a request above the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverLimit {
    /// A 500, as ALİM answers today.
    Crash,
    /// A 429 with `Retry-After`, as ALİM's code intends.
    TooManyRequests,
}

/// The request logs of all keys.
pub(super) struct Limiter {
    limit: RateLimit,
    logs: Mutex<HashMap<Vec<u8>, VecDeque<Instant>>>,
}

/// Whether a request is within the limit.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// It is, and this many requests are left.
    Within(u32),
    /// It is not. The oldest request leaves the window after this time.
    Exceeded(Duration),
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
        let log = logs.entry(key[..key.len().min(KEY_PREFIX)].to_vec());
        let log = log.or_default();
        while log.front().is_some_and(|at| now - *at >= rate.window()) {
            log.pop_front();
        }
        log.push_back(now);
        let used = u32::try_from(log.len()).unwrap_or(u32::MAX);
        match rate.requests().checked_sub(used) {
            Some(left) => Verdict::Within(left),
            None => {
                log.drain(..log.len() - rate.requests() as usize - 1); // older ones don't affect the result
                Verdict::Exceeded(rate.window() - (now - log[0]))
            }
        }
    }
}

/// The middleware that counts requests and rejects those above the limit.
pub(super) async fn limit(
    State(limiter): State<Arc<Limiter>>,
    request: Request,
    next: Next,
) -> Response {
    if EXEMPT.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let headers = request.headers();
    let key = headers
        .get("x-api-key")
        .map_or(&[][..], |key| key.as_bytes());
    let rate = limiter.limit.rate;
    let (remaining, mut answer) = match limiter.count(key, Instant::now()) {
        Verdict::Within(left) => (left, next.run(request).await),
        Verdict::Exceeded(wait) => {
            let detail = format!("Rate limit exceeded: {rate}");
            if limiter.limit.over_limit == OverLimit::Crash {
                let url = url::with_path(headers, request.uri(), request.uri().path());
                return Rejection::Uncaught(format!("429: {detail}"), url).into_response();
            }
            let mut answer = Rejection::OverLimit(detail).into_response();
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
    fn rejected_requests_count_too_and_keys_are_compared_by_their_prefix() {
        let limiter = Limiter::new(RateLimit {
            rate: "3/10s".parse().expect("a rate"),
            over_limit: OverLimit::Crash,
        });
        let start = Instant::now();
        let key = b"sixteen-letters!-and-more";
        let count = |at, key| limiter.count(key, start + Duration::from_secs(at));
        assert_eq!(count(0, &key[..]), Verdict::Within(2));
        assert_eq!(count(1, &key[..16]), Verdict::Within(1));
        assert_eq!(count(2, b"another"), Verdict::Within(2));
        assert_eq!(count(2, &key[..]), Verdict::Within(0));
        for at in 3..40 {
            assert!(matches!(count(at, &key[..]), Verdict::Exceeded(_)), "{at}");
        }
        let wait = Verdict::Exceeded(Duration::from_secs(7));
        assert_eq!(count(40, &key[..]), wait);
        assert_eq!(
            count(50, &key[..]),
            Verdict::Within(2),
            "quiet for a window"
        );
    }
}
