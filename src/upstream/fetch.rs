//! Reads a page of a server, for commands that need more than whether it answers.

use std::time::Duration;

use reqwest::{Client, Url, redirect};
use secrecy::{ExposeSecret, SecretString};

/// From the request to the end of the page.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum size of a page in bytes: several times that of `/status` with a thousand open calls.
const MAX_BYTES: usize = 4 << 20;

/// A page, whatever its status.
#[derive(Clone, Debug)]
pub struct Page {
    /// Its HTTP status.
    pub status: u16,
    /// Its content.
    pub body: Vec<u8>,
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The server does not answer.
    #[error("it does not answer")]
    Http(#[from] reqwest::Error),
    /// The page is too large.
    #[error("its answer is larger than {MAX_BYTES} bytes")]
    TooLarge,
}

/// GETs `url`, with `token` as `authorization: Bearer`. Follows no redirect, which would take the token along.
///
/// # Errors
///
/// - [`FetchError`] if there is no complete answer within five seconds.
pub async fn fetch(url: Url, token: Option<&SecretString>) -> Result<Page, FetchError> {
    let client = Client::builder().no_proxy().timeout(TIMEOUT);
    let client = client.redirect(redirect::Policy::none()).build()?;
    let request = client.get(url);
    let request = match token {
        Some(token) => request.bearer_auth(token.expose_secret()),
        None => request,
    };
    let mut answer = request.send().await.map_err(reqwest::Error::without_url)?;
    let status = answer.status().as_u16();
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await? {
        if body.len() + part.len() > MAX_BYTES {
            return Err(FetchError::TooLarge);
        }
        body.extend_from_slice(&part);
    }
    Ok(Page { status, body })
}
