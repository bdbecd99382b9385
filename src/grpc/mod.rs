//! The callers' bank: the methods of the contract, those for threads in `threads`.
//!
//! With `pb`, `server/` and `client/` the only place that names tonic. A method reads as the life of a
//! call: request, admission, upstream, response, under the deadline that the [`edge`] keeps; every
//! failure goes through `rows` and `status`.

mod alarm;
mod body;
pub mod clocks;
pub mod edge;
pub mod failure;
#[cfg(fuzzing)]
pub mod fuzzing;
mod hold;
pub mod origins;
mod pack;
mod relay;
mod request;
mod response;
mod rows;
mod status;
mod text;
mod threads;
pub mod web;
mod woken;

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use http::HeaderMap;
use prost::Message;
use tokio::time::Instant;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use self::{
    edge::Begun,
    failure::{Credentials, Failure},
    hold::Hold,
    pack::Packed,
    relay::Relay,
    woken::Woken,
};
use crate::{
    admission::Admission,
    call::Call,
    pb::{self, graph_service_server::GraphService},
    telemetry::Record,
    upstream::{Error, Upstream},
};

/// Both services: everything that a call passes on its way.
#[derive(Clone, Debug)]
pub struct Bridge {
    /// Where calls go.
    pub upstream: Upstream,
    /// Who may begin one.
    pub admission: Admission,
    /// How long a stream may be silent, from its first event on.
    pub idle: Duration,
    /// Whose key the upstream is shown.
    pub credentials: Credentials,
    /// Bytes of an encoded unary answer; exactly as many pass.
    pub max_reply_bytes: usize,
    /// Ends open calls with a status when the drain's time is up.
    pub cut: CancellationToken,
}

type Events = Pin<Box<dyn Stream<Item = Result<pb::StreamResponse, Status>> + Send>>;

#[tonic::async_trait]
impl GraphService for Bridge {
    type StreamStream = Events;

    async fn invoke(
        &self,
        request: Request<pb::InvokeRequest>,
    ) -> Result<Response<pb::InvokeResponse>, Status> {
        let begun = received(&request);
        let answer = async {
            let call = request::parse(request, request::question, self.credentials)?;
            self.unary(&begun, call, Upstream::invoke, response::invoke)
                .await
        };
        self.told(answer.await, &begun)
    }

    async fn stream(
        &self,
        request: Request<pb::StreamRequest>,
    ) -> Result<Response<Events>, Status> {
        let begun = received(&request);
        let events = self.relay(request, &begun).await;
        self.told(events, &begun)
    }
}

impl Bridge {
    /// One reply of the upstream for one call: `ask` is begun once there is a permit, and
    /// `into_message` puts what it gives into the contract's words.
    async fn unary<Q, T, M: Message>(
        &self,
        begun: &Begun,
        mut call: Call<Q>,
        ask: impl AsyncFnOnce(&Upstream, &Call<Q>, Instant) -> Result<(T, HeaderMap), Error>,
        into_message: impl FnOnce(T) -> Result<M, Error>,
    ) -> Result<Response<M>, Failure> {
        let permit = self.admission.enter()?;
        begun.record.upstream_asked(&mut call.headers);
        let asked = pin!(ask(&self.upstream, &call, begun.due.head.at));
        let (reply, headers) = self.within(begun, asked).await??;
        self.note_head(&begun.record, &headers);
        begun.record.upstream_over();
        let message = response::bounded(into_message(reply)?, self.max_reply_bytes)?;
        begun.record.message_sent();
        let hold = Hold::until(
            begun.due.end,
            self.cut.clone(),
            permit,
            begun.record.clone(),
            drop,
        );
        Ok(held(message, headers, hold))
    }

    async fn relay(
        &self,
        request: Request<pb::StreamRequest>,
        begun: &Begun,
    ) -> Result<Response<Events>, Failure> {
        let starts_thread = request.get_ref().start_thread;
        let mut call = request::parse(request, request::streamed, self.credentials)?;
        begun.record.thread(call.asked.thread_id());
        let permit = self.admission.enter()?;
        begun.record.upstream_asked(&mut call.headers);
        if starts_thread {
            self.start_thread(begun, &mut call).await?;
        }
        let asked = pin!(self.upstream.stream(&call, begun.due.head.at));
        let (events, mut headers) = self.within(begun, asked).await??;
        self.note_head(&begun.record, &headers);
        response::name_thread(&mut headers, call.asked.thread_id());
        let record = begun.record.clone();
        let mut relay = Relay::new(events, self.idle, record, self.credentials);
        let first = self.within(begun, pin!(relay.first())).await??;
        let hold = Hold::until(
            begun.due.end,
            self.cut.clone(),
            permit,
            begun.record.clone(),
            relay.let_go(),
        );
        let events = Packed::new(Ok(first), Woken::new(relay));
        Ok(held(Box::pin(events) as Events, headers, hold))
    }

    /// Does `work` until the head is due or the drain's time is up; work that comes too late is not
    /// begun, for it costs money.
    ///
    /// `work` is pinned where it is begun: each layer that took it by value would copy it and keep room for it.
    async fn within<T>(
        &self,
        begun: &Begun,
        work: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            biased;
            done = begun.due.head.bound(work) => done.map_err(Failure::Clock),
            () = self.cut.cancelled() => Err(Failure::Cut),
        }
    }

    fn told<T>(&self, outcome: Result<T, Failure>, begun: &Begun) -> Result<T, Status> {
        outcome.map_err(|failure| self.status(failure, &begun.record))
    }

    fn status(&self, failure: Failure, record: &Record) -> Status {
        if let Failure::Upstream(error) = &failure {
            if let Some(status) = error.http_status() {
                record.upstream_status(status.as_u16());
            }
            if let Error::Rejected(rejection) = error {
                self.note_limit(record, &rejection.headers);
            }
            tracing::debug!(
                request_id = record.request_id(),
                trace_id = record.trace_id(),
                error = %Causes(error),
                "the upstream failed"
            );
        }
        failure.tell(record, self.credentials, None)
    }

    fn note_head(&self, record: &Record, headers: &HeaderMap) {
        record.upstream_status(200);
        self.note_limit(record, headers);
    }

    /// Callers' own keys have a limit each, so one figure would mislead.
    fn note_limit(&self, record: &Record, headers: &HeaderMap) {
        if self.credentials == Credentials::Caller {
            return;
        }
        let left = headers.get("x-ratelimit-remaining");
        if let Some(left) = left.and_then(|left| left.to_str().ok()?.parse::<u32>().ok()) {
            record.ratelimit_remaining(left);
        }
    }
}

/// What the edge put beside a request whose message is here.
fn received<M: Message>(request: &Request<M>) -> Begun {
    let begun = edge::begun(request.extensions());
    let bytes = request.get_ref().encoded_len();
    begun.record.message_received(bytes);
    begun
}

/// The edge holds what is put beside an answer to the end of its body.
fn held<T>(message: T, headers: HeaderMap, hold: Arc<Hold>) -> Response<T> {
    let mut response = response::with_headers(message, headers);
    response.extensions_mut().insert(hold);
    response
}

/// An error with its causes, for the log: the causes hold addresses, so callers never see them.
struct Causes<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
