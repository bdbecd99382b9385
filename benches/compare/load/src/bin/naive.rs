//! What a team writes in a day: tonic, reqwest and eventsource-stream, a channel and a task for each stream. It
//! has none of the bridge's deadlines, limits, statuses, records or metrics.

use std::env;

use alim_bridge_compare::{
    AnyError,
    listen::listen,
    pb::{
        Done, InvokeRequest, InvokeResponse, Node, Other, StreamRequest, StreamResponse, Token,
        graph_service_server::{GraphService, GraphServiceServer},
        stream_response::Event,
    },
};
use eventsource_stream::Eventsource;
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

/// What tonic's own examples give a channel of this kind is 4 to 128.
const CHANNEL: usize = 128;
const KEY: &str = "dev-api-key-change-in-production";

struct Naive {
    client: reqwest::Client,
    base: String,
}

#[derive(Deserialize)]
struct Reply {
    response: String,
    thread_id: String,
    model: Option<String>,
}

#[tonic::async_trait]
impl GraphService for Naive {
    type StreamStream = ReceiverStream<Result<StreamResponse, Status>>;

    async fn invoke(
        &self,
        request: Request<InvokeRequest>,
    ) -> Result<Response<InvokeResponse>, Status> {
        let message = request.into_inner().message;
        let response = self.ask("invoke", &message).await?;
        let reply: Reply = response.json().await.map_err(unavailable)?;
        Ok(Response::new(InvokeResponse {
            response: reply.response,
            thread_id: reply.thread_id,
            model: reply.model.unwrap_or_default(),
            metadata: None,
        }))
    }

    async fn stream(
        &self,
        request: Request<StreamRequest>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let message = request.into_inner().message;
        let response = self.ask("stream", &message).await?;
        let (sender, receiver) = mpsc::channel(CHANNEL);
        tokio::spawn(relay(response, sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

impl Naive {
    async fn ask(&self, method: &str, message: &str) -> Result<reqwest::Response, Status> {
        let request = self.client.post(format!("{}/graph/{method}", self.base));
        let request = request
            .header("x-api-key", KEY)
            .json(&json!({ "message": message }));
        let response = request.send().await.map_err(unavailable)?;
        response.error_for_status().map_err(unavailable)
    }
}

async fn relay(response: reqwest::Response, sender: mpsc::Sender<Result<StreamResponse, Status>>) {
    let mut events = response.bytes_stream().eventsource();
    let mut token_count = 0;
    while let Some(event) = events.next().await {
        let message = match event {
            Err(error) => Err(Status::unavailable(error.to_string())),
            Ok(event) => {
                let event = match event.event.as_str() {
                    "token" => {
                        token_count += 1;
                        Event::Token(Token { text: event.data })
                    }
                    "node" => Event::Node(Node { name: event.data }),
                    "done" => Event::Done(Done {
                        token_count,
                        ..Done::default()
                    }),
                    _ => Event::Other(Other {
                        r#type: event.event,
                        data: event.data,
                    }),
                };
                Ok(StreamResponse { event: Some(event) })
            }
        };
        if sender.send(message).await.is_err() {
            return; // the caller has left
        }
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the shape that map_err takes"
)]
fn unavailable(error: reqwest::Error) -> Status {
    Status::unavailable(error.to_string())
}

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let base = env::args().nth(1).ok_or("usage: naive UPSTREAM_URL")?;
    let naive = Naive {
        client: reqwest::Client::new(),
        base,
    };
    // As with `serve`, tonic's default: TCP_NODELAY.
    let incoming = TcpIncoming::from(listen("naive")?).with_nodelay(Some(true));
    let service = GraphServiceServer::new(naive);
    Server::builder()
        .add_service(service)
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}
