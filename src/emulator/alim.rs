//! What all the endpoints share: the key, the pace and the threads; and who gets in.

use std::time::Duration;

use http::HeaderMap;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

use super::refusal::Refusal;
use super::threads::Threads;

/// The embedded ALİM behind its endpoints.
#[derive(Debug)]
pub(super) struct Alim {
    /// The one key that gets in.
    pub(super) api_key: SecretString,
    /// From one token to the next.
    pub(super) token_delay: Duration,
    /// The threads made so far.
    pub(super) threads: Threads,
}

impl Alim {
    /// Lets in whoever brings the key, compared in constant time.
    ///
    /// # Errors
    /// - [`Refusal::KeyMissing`]: no `X-API-Key`, or an empty one.
    /// - [`Refusal::KeyWrong`]: another one.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let brought = headers.get("x-api-key").map_or(&[][..], |it| it.as_bytes());
        if brought.is_empty() {
            return Err(Refusal::KeyMissing);
        }
        match brought
            .ct_eq(self.api_key.expose_secret().as_bytes())
            .into()
        {
            true => Ok(()),
            false => Err(Refusal::KeyWrong),
        }
    }
}
