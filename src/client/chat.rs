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
use crate::pb::{StreamRequest, graph_service_client::GraphServiceClient};

const FORGETFUL: &str =
    "alim-bridge: this ALİM keeps no threads, so each question is answered without the ones before";

/// Asks what is typed, and goes on until the input ends; `asking` is all of each question but its
/// message. Without a thread in it, the first question starts one.
///
/// Gives the code to exit with: for a script that of the last answer that failed, else 0.
///
/// # Errors
///
/// - Those of [`Target::connect`] and [`Target::request`], [`Error::Io`], and for a script
///   [`Error::Interrupted`].
pub async fn run(target: &Target, asking: StreamRequest) -> Result<u8, Error> {
    let client = ask::client(target.connect().await?);
    let mut prompt = Prompt::open()?;
    let mut conversation = Conversation {
        target,
        client,
        thread: asking.thread_id.clone(),
        has_threads: true,
        asking,
    };
    let mut code = 0;
    while let Some(message) = prompt.next().await? {
        match conversation.ask(message).await {
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

struct Conversation<'a> {
    target: &'a Target,
    client: GraphServiceClient<Channel>,
    asking: StreamRequest,
    thread: Option<String>,
    has_threads: bool,
}

impl Conversation<'_> {
    /// Asks in the thread; where the upstream has none, without one, and says so once.
    async fn ask(&mut self, message: String) -> Result<(), Error> {
        let starts_thread = self.has_threads && self.thread.is_none();
        match self.ask_once(message.clone(), starts_thread).await {
            Err(Error::Status(status)) if starts_thread && status.code() == Code::Unimplemented => {
                aside(FORGETFUL)?;
                self.has_threads = false;
                self.ask_once(message, false).await
            }
            answered => answered,
        }
    }

    async fn ask_once(&mut self, message: String, start_thread: bool) -> Result<(), Error> {
        let question = self.target.request(StreamRequest {
            message,
            thread_id: self.thread.clone(),
            start_thread,
            ..self.asking.clone()
        })?;
        ask::answer(&mut self.client, question, Output::Chat, &mut self.thread).await
    }
}
