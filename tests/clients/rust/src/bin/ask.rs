//! Asks ALİM and prints the answer while it is made: `cargo run --bin ask 127.0.0.1:50051 "Nə vaxt suvarım?"`

use std::{
    env,
    io::{Write, stdout},
    process::ExitCode,
    time::Duration,
};

use caller::{
    Failure,
    pb::{StreamRequest, graph_service_client::GraphServiceClient, stream_response::Event},
};
use tonic::{Request, transport::Endpoint};

async fn ask(address: &str, message: String) -> Result<(), Box<dyn std::error::Error>> {
    let channel = Endpoint::new(format!("http://{address}"))?
        .connect()
        .await?;
    let mut request = Request::new(StreamRequest {
        message,
        ..Default::default()
    });
    request.set_timeout(Duration::from_secs(60));
    let mut events = GraphServiceClient::new(channel)
        .stream(request)
        .await?
        .into_inner();
    while let Some(next) = events.message().await? {
        if let Some(Event::Token(token)) = next.event {
            print!("{}", token.text);
            stdout().flush()?;
        }
    }
    println!();
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    let words: Vec<_> = env::args().skip(1).collect();
    let [address, message] = &words[..] else {
        eprintln!("ask ADDRESS MESSAGE");
        return ExitCode::from(64);
    };
    match ask(address, message.clone()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            match error.downcast::<tonic::Status>() {
                Ok(status) => eprintln!("{:?}", Failure::from(*status)),
                Err(error) => eprintln!("{error}"),
            }
            ExitCode::FAILURE
        }
    }
}
