//! The commands `invoke` and `stream`, which send one question.

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
/// No limit in practice, because the bridge has its own.
const MAX_MESSAGE_BYTES: usize = 1 << 30;

/// Calls `Invoke` and prints the whole answer.
///
/// # Errors
///
/// - [`Error::Status`] with the bridge's status, [`Error::Interrupted`], and the errors of
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

/// Calls `Stream` and prints each event as it comes.
///
/// # Errors
///
/// - [`Error::Status`] with the bridge's status. The answer that was printed before it is incomplete.
/// - [`Error::Interrupted`], and the errors of [`Target::connect`].
pub async fn stream(target: &Target, question: StreamRequest, output: Output) -> Result<(), Error> {
    let request = target.request(question)?;
    let mut client = client(target.connect().await?);
    print_answer(&mut client, request, output, &mut None).await
}

pub(super) fn client(channel: Channel) -> GraphServiceClient<Channel> {
    GraphServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

/// Prints the events of one answer as they come, until the last one or Ctrl-C. If the question starts a thread, its id is
/// printed first and stored in `thread`, even if the answer fails.
///
/// # Errors
///
/// - [`Error::Status`] with the bridge's status, [`Error::Interrupted`].
pub(super) async fn print_answer(
    client: &mut GraphServiceClient<Channel>,
    request: Request<StreamRequest>,
    output: Output,
    thread: &mut Option<String>,
) -> Result<(), Error> {
    let starts_thread = request.get_ref().start_thread;
    let mut screen = Screen::new(output);
    let printed = async {
        let head = client.stream(request).await.inspect_err(|status| {
            let details = status.get_error_details();
            let info = details.error_info();
            let id = info.and_then(|info| info.metadata.get("threadId"));
            if let Some(id) = id.filter(|_| starts_thread) {
                *thread = Some(id.clone());
            }
        })?;
        let header = |name| Some(head.metadata().get(name)?.to_str().ok()?.to_owned());
        if let Some(id) = header(THREAD_ID).filter(|_| starts_thread) {
            screen.print_thread(&id)?;
            *thread = Some(id);
        }
        let id = head.metadata().get(REQUEST_ID).cloned();
        let mut events = head.into_inner();
        while let Some(message) = events
            .message()
            .await
            .map_err(|status| with_request_id(status, id.as_ref()))?
        {
            if let Some(event) = message.event {
                screen.print_event(event)?;
            }
        }
        Ok(())
    };
    let printed = until_interrupted(printed).await;
    screen.finish()?;
    printed?
}

/// Adds the call's id, from the response headers, to its status.
fn with_request_id(mut status: Status, id: Option<&MetadataValue<Ascii>>) -> Status {
    if let Some(id) = id {
        status.metadata_mut().insert(REQUEST_ID, id.clone());
    }
    status
}

/// Runs `work` until Ctrl-C. Dropping the call then resets its stream, so the bridge cancels it too.
async fn until_interrupted<T>(work: impl Future<Output = T>) -> Result<T, Error> {
    tokio::select! {
        done = work => Ok(done),
        _ = tokio::signal::ctrl_c() => Err(Error::Interrupted),
    }
}
