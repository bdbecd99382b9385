//! `invoke` and `stream`: one question from the command line.

use std::future::Future;

use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::Channel,
};
use tonic_types::StatusExt;

use super::{
    Error, Target,
    screen::{Output, Screen, print},
    show,
};
use crate::pb::{InvokeRequest, StreamRequest, graph_service_client::GraphServiceClient};

const REQUEST_ID: &str = "x-request-id";
const THREAD_ID: &str = "x-thread-id";
/// Answers are received whole whatever their size: the bridge has its own limit.
const MAX_MESSAGE_BYTES: usize = 1 << 30;

/// Asks for the whole answer and prints it.
///
/// # Errors
///
/// - [`Error::Status`] with what the bridge said, [`Error::Interrupted`], and those of
///   [`Target::connect`].
pub async fn invoke(target: &Target, question: InvokeRequest, output: Output) -> Result<(), Error> {
    let request = target.request(question)?;
    let mut client = client(target.connect().await?);
    let reply = until_interrupted(client.invoke(request)).await??;
    let reply = reply.into_inner();
    match output {
        Output::Text | Output::Chat | Output::Transcript => print(&format!("{}\n", reply.response)),
        Output::Json => print(&format!("{}\n", show::reply_json(reply))),
    }
}

/// Asks for the answer's events and prints each as it comes.
///
/// # Errors
///
/// - [`Error::Status`] with what the bridge said; what was printed before it is not the whole answer.
///   And [`Error::Interrupted`], and those of [`Target::connect`].
pub async fn stream(target: &Target, question: StreamRequest, output: Output) -> Result<(), Error> {
    let request = target.request(question)?;
    let mut client = client(target.connect().await?);
    answer(&mut client, request, output, &mut None).await
}

pub(super) fn client(channel: Channel) -> GraphServiceClient<Channel> {
    GraphServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

/// Prints the events of one answer as they come, until the last or Ctrl-C. A conversation that the question starts is
/// named before them, and given through `thread`, also where the answer fails.
///
/// # Errors
///
/// - [`Error::Status`] with what the bridge said, [`Error::Interrupted`].
pub(super) async fn answer(
    client: &mut GraphServiceClient<Channel>,
    request: Request<StreamRequest>,
    output: Output,
    thread: &mut Option<String>,
) -> Result<(), Error> {
    let starts_thread = request.get_ref().start_thread;
    let mut screen = Screen::new(output);
    let shown = async {
        let head = client.stream(request).await.inspect_err(|status| {
            let details = status.get_error_details();
            let info = details.error_info();
            let id = info.and_then(|info| info.metadata.get("threadId"));
            if let Some(id) = id.filter(|_| starts_thread) {
                *thread = Some(id.clone());
            }
        })?;
        let text = |name| Some(head.metadata().get(name)?.to_str().ok()?.to_owned());
        if let Some(id) = text(THREAD_ID).filter(|_| starts_thread) {
            screen.thread(&id)?;
            *thread = Some(id);
        }
        let id = head.metadata().get(REQUEST_ID).cloned();
        let mut events = head.into_inner();
        while let Some(message) = events
            .message()
            .await
            .map_err(|status| named(status, id.as_ref()))?
        {
            if let Some(event) = message.event {
                screen.show(event)?;
            }
        }
        Ok(())
    };
    let shown = until_interrupted(shown).await;
    screen.end()?;
    shown?
}

/// The status with the call's id, which came with the head.
fn named(mut status: Status, id: Option<&MetadataValue<Ascii>>) -> Status {
    if let Some(id) = id {
        status.metadata_mut().insert(REQUEST_ID, id.clone());
    }
    status
}

/// Ctrl-C ends the call, and dropping it tells the bridge.
async fn until_interrupted<T>(work: impl Future<Output = T>) -> Result<T, Error> {
    tokio::select! {
        done = work => Ok(done),
        _ = tokio::signal::ctrl_c() => Err(Error::Interrupted),
    }
}
