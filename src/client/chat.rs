//! `chat`: a conversation at the terminal, or the lines of a script, in one thread.
//!
//! What fails, fails one answer: it is told, and the conversation goes on. So does Ctrl-C, which a
//! script has not: there it ends the command, as it does `stream`.

use tonic::{Code, transport::Channel};

use super::{
    Error, Target, ask,
    prompt::Prompt,
    screen::{Output, aside},
};
use crate::pb::{CreateThreadRequest, StreamRequest, thread_service_client::ThreadServiceClient};

const FORGETFUL: &str =
    "alim-bridge: this ALİM keeps no threads, so each question is answered without the ones before";

/// Asks what is typed, and goes on until the input ends; `asking` is all of each question but its
/// message. Without a thread in it, one is made first.
///
/// Gives the code to exit with: for a script that of the last answer that failed, else 0.
///
/// # Errors
///
/// - [`Error::Status`] when no thread could be made, those of [`Target::connect`] and
///   [`Target::request`], [`Error::Io`], and for a script [`Error::Interrupted`].
pub async fn run(target: &Target, asking: StreamRequest) -> Result<u8, Error> {
    let channel = target.connect().await?;
    let thread_id = match asking.thread_id.clone() {
        Some(id) => Some(id),
        None => new_thread(target, channel.clone()).await?,
    };
    let asking = StreamRequest {
        thread_id,
        ..asking
    };
    let mut client = ask::client(channel);
    let mut prompt = Prompt::open()?;
    let mut code = 0;
    while let Some(message) = prompt.next().await? {
        let question = target.request(StreamRequest {
            message,
            ..asking.clone()
        })?;
        match ask::answer(&mut client, question, Output::Chat).await {
            Ok(()) => {}
            Err(Error::Interrupted) if prompt.is_a_persons() => aside("(stopped)")?,
            Err(error @ Error::Status(_)) => {
                let error = target.explain(error).await;
                aside(&format!("alim-bridge: {error}"))?;
                code = error.exit_code();
            }
            Err(error) => return Err(error),
        }
    }
    Ok(if prompt.is_a_persons() { 0 } else { code })
}

/// A thread for this conversation; none, and a word on it, where the upstream has no threads.
async fn new_thread(target: &Target, channel: Channel) -> Result<Option<String>, Error> {
    let request = target.request(CreateThreadRequest::default())?;
    match ThreadServiceClient::new(channel)
        .create_thread(request)
        .await
    {
        Ok(thread) => {
            let id = thread.into_inner().thread_id;
            aside(&format!("· thread {id}"))?;
            Ok(Some(id))
        }
        Err(status) if status.code() == Code::Unimplemented => {
            aside(FORGETFUL)?;
            Ok(None)
        }
        Err(status) => Err(status.into()),
    }
}
