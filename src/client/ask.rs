//! `invoke` and `stream`: one question from the command line.

use std::{
    future::Future,
    io::{self, Write},
};

use super::{Error, Target, show};
use crate::pb::{
    InvokeRequest, StreamRequest, graph_service_client::GraphServiceClient, stream_response::Event,
};

/// How an answer is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// The answer alone on standard output as it comes; steps and figures on standard error.
    Text,
    /// All of it on standard output.
    Transcript,
    /// Protobuf's JSON mapping, one object a line.
    Json,
}

/// Answers are received whole whatever their size: the bridge has its own limit.
const MAX_MESSAGE_BYTES: usize = 1 << 30;

/// Asks for the whole answer and prints it.
///
/// # Errors
///
/// - [`Error::Status`] with what the bridge said, and those of [`Target::connect`].
pub async fn invoke(target: &Target, question: InvokeRequest, output: Output) -> Result<(), Error> {
    let request = target.request(question)?;
    let channel = target.connect().await?;
    let mut client = GraphServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let reply = until_interrupted(client.invoke(request)).await??;
    let reply = reply.into_inner();
    match output {
        Output::Text | Output::Transcript => print(&format!("{}\n", reply.response)),
        Output::Json => print(&format!("{}\n", show::reply_json(reply))),
    }
}

/// Asks for the answer's events and prints each as it comes.
///
/// # Errors
///
/// - [`Error::Status`] with what the bridge said; what was printed before it is not the whole answer.
///   And those of [`Target::connect`].
pub async fn stream(target: &Target, question: StreamRequest, output: Output) -> Result<(), Error> {
    let request = target.request(question)?;
    let channel = target.connect().await?;
    let mut client = GraphServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let printed = async {
        let mut events = client.stream(request).await?.into_inner();
        let mut is_mid_line = false;
        while let Some(message) = events
            .message()
            .await
            .inspect_err(|_| end_line(is_mid_line))?
        {
            let Some(event) = message.event else { continue };
            match output {
                Output::Json => print(&format!("{}\n", show::event_json(event)))?,
                Output::Text | Output::Transcript => print_event(&event, output, &mut is_mid_line)?,
            }
        }
        Ok(())
    };
    until_interrupted(printed).await?
}

/// Ctrl-C ends the call, and dropping it tells the bridge.
async fn until_interrupted<T>(work: impl Future<Output = T>) -> Result<T, Error> {
    tokio::select! {
        done = work => Ok(done),
        _ = tokio::signal::ctrl_c() => Err(tonic::Status::cancelled("interrupted").into()),
    }
}

/// The text as it comes; steps and figures on lines of their own.
fn print_event(event: &Event, output: Output, is_mid_line: &mut bool) -> Result<(), Error> {
    let aside = match event {
        Event::Token(token) => {
            *is_mid_line = token
                .text
                .chars()
                .next_back()
                .map_or(*is_mid_line, |last| last != '\n');
            return print(&token.text);
        }
        Event::Node(node) => format!("· {}", node.name),
        Event::Other(other) => format!("· {}: {}", other.r#type, other.data),
        Event::Done(done) => show::done_text(done),
    };
    end_line(std::mem::take(is_mid_line));
    match output {
        Output::Transcript => print(&format!("{aside}\n"))?,
        Output::Text | Output::Json => writeln!(io::stderr(), "{aside}")?,
    }
    Ok(())
}

fn end_line(is_mid_line: bool) {
    if is_mid_line {
        let _ = print("\n");
    }
}

/// Flushed at once: that is what makes it typing.
pub(super) fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}
