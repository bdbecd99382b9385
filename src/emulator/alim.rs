//! State that all endpoints share: the key, the token delay and the threads. Checks the caller's key.

use std::time::Duration;

use http::HeaderMap;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

use super::rejection::Rejection;
use super::threads::Threads;

/// The state of the embedded ALİM.
#[derive(Debug)]
pub(super) struct Alim {
    /// The only key that is accepted.
    pub(super) api_key: SecretString,
    /// Time between two tokens.
    pub(super) token_delay: Duration,
    /// The threads made so far.
    pub(super) threads: Threads,
}

impl Alim {
    /// Checks the `X-API-Key` header, in constant time.
    ///
    /// # Errors
    /// - [`Rejection::KeyMissing`]: the header is missing or empty.
    /// - [`Rejection::KeyWrong`]: it has another key.
    pub(super) fn authenticate(&self, headers: &HeaderMap) -> Result<(), Rejection> {
        let key = headers.get("x-api-key").map_or(&[][..], |it| it.as_bytes());
        if key.is_empty() {
            return Err(Rejection::KeyMissing);
        }
        match key.ct_eq(self.api_key.expose_secret().as_bytes()).into() {
            true => Ok(()),
            false => Err(Rejection::KeyWrong),
        }
    }
}
