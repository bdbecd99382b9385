//! The command `chat`: a conversation at the terminal, or with the lines of a script, in one thread.
//!
//! If an answer fails, the error is printed and the conversation continues. At a terminal, Ctrl-C stops only
//! the current answer. In a script it ends the command, as in `stream`.

use tonic::{Code, transport::Channel};

use super::{
    Error, Target, ask,
    prompt::Prompt,
    screen::{Output, print_note},
};
use crate::pb::{StreamRequest, graph_service_client::GraphServiceClient};

const NO_THREADS: &str =
    "alim-bridge: this ALİM has no threads: each question is answered without the earlier ones";

/// Sends each line as a question until the input ends. `template` has the other fields of each question. If
/// it has no thread, the first question starts one.
///
/// Returns the exit code. For a script, that is the code of the last answer that failed, or 0.
///
/// # Errors
///
/// - The errors of [`Target::connect`] and [`Target::request`], [`Error::Io`], and [`Error::Interrupted`]
///   in a script.
pub async fn run(target: &Target, template: StreamRequest) -> Result<u8, Error> {
    let client = ask::client(target.connect().await?);
    let mut prompt = Prompt::open()?;
    let mut conversation = Conversation {
        target,
        client,
        thread: template.thread_id.clone(),
        has_threads: true,
        template,
    };
    let mut code = 0;
    while let Some(message) = prompt.next().await? {
        match conversation.ask(message).await {
            Ok(()) => {}
            Err(Error::Interrupted) if prompt.is_interactive() => print_note("(stopped)")?,
            Err(error @ Error::Status(_)) => {
                let error = target.explain(error).await;
                print_note(&format!("alim-bridge: {error}"))?;
                code = error.exit_code();
            }
            Err(error) => return Err(error),
        }
    }
    Ok(if prompt.is_interactive() { 0 } else { code })
}

struct Conversation<'a> {
    target: &'a Target,
    client: GraphServiceClient<Channel>,
    template: StreamRequest,
    thread: Option<String>,
    has_threads: bool,
}

impl Conversation<'_> {
    /// Asks in the thread. If the upstream has no threads, asks without one and prints that once.
    async fn ask(&mut self, message: String) -> Result<(), Error> {
        let starts_thread = self.has_threads && self.thread.is_none();
        match self.ask_once(message.clone(), starts_thread).await {
            Err(Error::Status(status)) if starts_thread && status.code() == Code::Unimplemented => {
                print_note(NO_THREADS)?;
                self.has_threads = false;
                self.ask_once(message, false).await
            }
            result => result,
        }
    }

    async fn ask_once(&mut self, message: String, start_thread: bool) -> Result<(), Error> {
        let question = self.target.request(StreamRequest {
            message,
            thread_id: self.thread.clone(),
            start_thread,
            ..self.template.clone()
        })?;
        ask::print_answer(&mut self.client, question, Output::Chat, &mut self.thread).await
    }
}
