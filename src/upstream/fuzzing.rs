//! A door for `fuzz/`, which is there only with `--cfg fuzzing`: answers that were made in memory go
//! the way of those from the wire.

use http::HeaderMap;
use reqwest::Response;
use secrecy::SecretString;

use super::{
    Expected, JSON, SSE,
    error::Error,
    response::judge,
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

/// What [`Upstream::invoke`](super::Upstream::invoke) makes of this answer.
///
/// # Errors
///
/// - [`Error`] as there.
pub async fn invoke(
    answer: Response,
    key: Option<SecretString>,
    limit: usize,
) -> Result<(Reply, ReplyHead), Error> {
    let head = judge(answer, expected(JSON), call(), key).await?;
    let fields = head.fields();
    Ok((
        head.into_reply(limit, "response and thread_id").await?,
        fields,
    ))
}

/// What [`Upstream::stream`](super::Upstream::stream) makes of this answer.
///
/// # Errors
///
/// - [`Error`] as there.
pub async fn stream(
    answer: Response,
    key: Option<SecretString>,
    settings: sse::Settings,
) -> Result<(Events, ReplyHead), Error> {
    let head = judge(answer, expected(SSE), call(), key).await?;
    let fields = head.fields();
    Ok((head.into_events(settings), fields))
}

fn call() -> Call<()> {
    Call {
        asked: (),
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
