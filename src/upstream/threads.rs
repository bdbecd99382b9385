//! Threads: created, read and deleted under `{base}/threads`.
//!
//! The guarantees of [`Upstream::invoke`] hold here too. The only variable part of a path is a [`ThreadId`].

use reqwest::{Method, Url};
use tokio::time::Instant;

use super::{
    Error, Upstream,
    error::Malformed,
    request::{Expected, JSON, Outgoing},
};
use crate::call::{
    Call, NewThread, ThreadId,
    reply::{Deleted, ReplyHead, Thread},
};

/// What the response to a thread's deletion must contain.
const GONE: &str = "deleted: true";

impl Upstream {
    /// Creates a thread; otherwise as [`Upstream::invoke`].
    ///
    /// # Errors
    ///
    /// - As [`Upstream::invoke`].
    pub async fn create_thread(
        &self,
        call: Call<NewThread>,
        until: Instant,
    ) -> Result<(Thread, ReplyHead), Error> {
        let expected = Expected {
            accept: JSON,
            names_thread: false,
        };
        let outgoing = Outgoing::post(self.threads_url.clone(), &call.request, expected);
        self.reply(outgoing, call, until, "thread_id").await
    }

    /// Reads a thread; otherwise as [`Upstream::invoke`].
    ///
    /// # Errors
    ///
    /// - As [`Upstream::invoke`].
    pub async fn get_thread(
        &self,
        call: Call<ThreadId>,
        until: Instant,
    ) -> Result<(Thread, ReplyHead), Error> {
        let outgoing = Outgoing::of_thread(Method::GET, self.thread_url(call.request));
        self.reply(outgoing, call, until, "thread_id").await
    }

    /// Deletes a thread; otherwise as [`Upstream::invoke`].
    ///
    /// # Errors
    ///
    /// - As [`Upstream::invoke`]. Also [`Error::Malformed`] if the upstream does not confirm the deletion.
    pub async fn delete_thread(
        &self,
        call: Call<ThreadId>,
        until: Instant,
    ) -> Result<((), ReplyHead), Error> {
        let outgoing = Outgoing::of_thread(Method::DELETE, self.thread_url(call.request));
        let (reply, head): (Deleted, _) = self.reply(outgoing, call, until, GONE).await?;
        match reply.deleted {
            true => Ok(((), head)),
            false => Err(Error::Malformed {
                why: Malformed::Json(GONE),
            }),
        }
    }

    fn thread_url(&self, id: ThreadId) -> Url {
        let mut url = self.threads_url.clone();
        url.set_path(&format!("{}/{id}", self.threads_url.path()));
        url
    }
}
