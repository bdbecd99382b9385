//! The writing half of the limit: a tonic server that makes the tokens itself and asks nobody. What a bridge
//! on tonic can't go below; the reading half is `load --over http`. Envoy's pass-through stands before it too.

use std::{pin::Pin, time::Duration};

use alim_bridge_compare::{
    AnyError,
    ask::{Ask, WORD, stall_text},
    clock::{Ticks, stamped},
    listen::listen,
    pb::{
        Done, InvokeRequest, InvokeResponse, Node, StreamRequest, StreamResponse, Token,
        graph_service_server::{GraphService, GraphServiceServer},
        stream_response::Event,
    },
};
use futures_util::{Stream, StreamExt, stream};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

type Events = Pin<Box<dyn Stream<Item = Result<StreamResponse, Status>> + Send>>;

struct Limit;

#[tonic::async_trait]
impl GraphService for Limit {
    type StreamStream = Events;

    async fn invoke(&self, _: Request<InvokeRequest>) -> Result<Response<InvokeResponse>, Status> {
        Ok(Response::new(InvokeResponse {
            response: "Torpağın nəmliyi azdır, ona görə bu gün axşam suvarın. Sabah yağış gözlənilir, bir gün ara verin.".into(),
            thread_id: "4c13b087-ffe8-49de-8772-026386d86267".into(),
            model: "llama-3.3-70b-versatile".into(),
            metadata: None,
        }))
    }

    async fn stream(&self, request: Request<StreamRequest>) -> Result<Response<Events>, Status> {
        let events: Events = match Ask::parse(&request.get_ref().message) {
            Ask::Paced {
                period_us,
                phase_us,
                tokens,
            } => {
                let count = if tokens == 0 {
                    usize::MAX
                } else {
                    tokens as usize
                };
                let ticks = stream::unfold(Ticks::new(period_us, phase_us), |mut ticks| async {
                    ticks.tick().await;
                    Some((token(stamped(WORD)), ticks))
                });
                Box::pin(
                    stream::iter([node()])
                        .chain(ticks.take(count))
                        .chain(stream::iter([done(tokens)])),
                )
            }
            Ask::Burst { tokens } => {
                let many = (0..tokens).map(|_| token(WORD.into()));
                Box::pin(stream::iter(many.chain([done(tokens)])))
            }
            Ask::Idle => Box::pin(stream::iter([node()]).chain(stream::pending())),
            Ask::Stall => Box::pin(stream::repeat_with(|| token(stall_text()))),
        };
        Ok(Response::new(events))
    }
}

#[expect(clippy::unnecessary_wraps, reason = "what a stream of tonic's holds")]
fn event(event: Event) -> Result<StreamResponse, Status> {
    Ok(StreamResponse { event: Some(event) })
}

fn token(text: String) -> Result<StreamResponse, Status> {
    event(Event::Token(Token { text }))
}

fn node() -> Result<StreamResponse, Status> {
    event(Event::Node(Node {
        name: "agent".into(),
    }))
}

fn done(token_count: u64) -> Result<StreamResponse, Status> {
    event(Event::Done(Done {
        token_count,
        ..Done::default()
    }))
}

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let incoming = TcpIncoming::from(listen("limit")?)
        .with_nodelay(Some(true))
        .with_keepalive(Some(Duration::from_secs(60)));
    let service = GraphServiceServer::new(Limit);
    Server::builder()
        .add_service(service)
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}
