//! The entry point for `fuzz/`, compiled only with `--cfg fuzzing`. Responses made in memory take the same path as
//! those from the wire.

use http::HeaderMap;
use reqwest::Response;
use secrecy::SecretString;

use super::{
    Expected, JSON, SSE,
    error::Error,
    response::check,
    sse::{self, Events},
};
use crate::{
    call::{
        Call,
        reply::{Reply, ReplyHead},
    },
    memory::Account,
    quota::Slots,
};

/// The result of [`Upstream::invoke`](super::Upstream::invoke) for this response.
///
/// # Errors
///
/// - [`Error`], as there.
pub async fn invoke(
    answer: Response,
    key: Option<SecretString>,
    limit: usize,
) -> Result<(Reply, ReplyHead), Error> {
    let head = check(answer, expected(JSON), call(), key).await?;
    let fields = head.fields();
    Ok((
        head.into_reply(limit, "response and thread_id").await?,
        fields,
    ))
}

/// The result of [`Upstream::stream`](super::Upstream::stream) for this response.
///
/// # Errors
///
/// - [`Error`], as there.
pub async fn stream(
    answer: Response,
    key: Option<SecretString>,
    settings: sse::Settings,
) -> Result<(Events, ReplyHead), Error> {
    let head = check(answer, expected(SSE), call(), key).await?;
    let fields = head.fields();
    Ok((head.into_events(settings), fields))
}

fn call() -> Call<()> {
    Call {
        request: (),
        headers: HeaderMap::new(),
        caller_key: None,
        memory: Account::unlimited(),
        slots: Slots::default(),
    }
}

fn expected(accept: &'static str) -> Expected {
    Expected {
        accept,
        names_thread: true,
    }
}
