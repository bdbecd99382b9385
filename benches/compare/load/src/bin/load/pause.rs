//! A caller as tonic makes it by default, who pauses in the middle of a burst and then reads on.

use std::time::Duration;

use alim_bridge_compare::{
    AnyError,
    ask::Ask,
    pb::{StreamRequest, graph_service_client::GraphServiceClient, stream_response::Event},
};
use serde_json::json;
use tokio::time::{sleep, timeout};
use tonic::Status;

use crate::flags::Flags;

/// Asks for `--tokens`, pauses `--seconds` after the first.
pub async fn run(flags: &Flags) -> Result<(), AnyError> {
    let (mut tokens, mut is_done) = (0u64, false);
    let read = timeout(
        Duration::from_secs(60),
        read(flags, &mut tokens, &mut is_done),
    )
    .await?;
    let report = json!({
        "tokens": tokens,
        "survived": read.is_ok() && is_done && tokens == flags.tokens,
        "error": read.err().map(|status| format!("{:?} {}", status.code(), status.message())),
    });
    println!("{report}");
    Ok(())
}

async fn read(flags: &Flags, tokens: &mut u64, is_done: &mut bool) -> Result<(), Status> {
    let unavailable = |error: tonic::transport::Error| Status::unavailable(error.to_string());
    let mut client = GraphServiceClient::connect(format!("http://{}", flags.to))
        .await
        .map_err(unavailable)?;
    let message = Ask::Burst {
        tokens: flags.tokens,
    }
    .to_string();
    let request = StreamRequest {
        message,
        ..Default::default()
    };
    let mut events = client.stream(request).await?.into_inner();
    while let Some(event) = events.message().await? {
        match event.event {
            Some(Event::Token(_)) => *tokens += 1,
            Some(Event::Done(_)) => *is_done = true,
            _ => {}
        }
        if *tokens == 1 && !*is_done {
            sleep(Duration::from_secs_f64(flags.seconds)).await;
        }
    }
    Ok(())
}
