//! Threads: made, looked up and deleted, under `{base}/threads`.
//!
//! What [`Upstream::invoke`] promises holds here too; a path never bears anything but a [`ThreadId`].

use reqwest::{Method, Url};
use tokio::time::Instant;

use super::{
    Error, Upstream,
    error::Malformed,
    request::{Ask, Expected, JSON},
};
use crate::call::{
    Call, NewThread, ThreadId,
    reply::{Deleted, ReplyHead, Thread},
};

/// What the answer to a thread's deletion must say.
const GONE: &str = "deleted: true";

impl Upstream {
    /// Makes a thread; otherwise as [`Upstream::invoke`].
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
        let ask = Ask::post(self.threads_url.clone(), &call.asked, expected);
        self.reply(ask, call, until, "thread_id").await
    }

    /// Looks a thread up; otherwise as [`Upstream::invoke`].
    ///
    /// # Errors
    ///
    /// - As [`Upstream::invoke`].
    pub async fn get_thread(
        &self,
        call: Call<ThreadId>,
        until: Instant,
    ) -> Result<(Thread, ReplyHead), Error> {
        let ask = Ask::of_thread(Method::GET, self.thread_url(call.asked));
        self.reply(ask, call, until, "thread_id").await
    }

    /// Deletes a thread; otherwise as [`Upstream::invoke`].
    ///
    /// # Errors
    ///
    /// - As [`Upstream::invoke`]; [`Error::Malformed`] too when the upstream does not say that the
    ///   thread is gone.
    pub async fn delete_thread(
        &self,
        call: Call<ThreadId>,
        until: Instant,
    ) -> Result<((), ReplyHead), Error> {
        let ask = Ask::of_thread(Method::DELETE, self.thread_url(call.asked));
        let (reply, head): (Deleted, _) = self.reply(ask, call, until, GONE).await?;
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
