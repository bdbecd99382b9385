//! The callers' bank: the two methods of the contract.
//!
//! With [`pb`](crate::pb), `server/` and `client/` the only place that names tonic. A method reads as
//! the life of a call: request, admission, upstream under the deadline, response; every failure goes
//! through [`status`].

pub mod edge;
pub mod failure;
mod pack;
mod relay;
mod request;
mod response;
mod rows;
mod status;
mod text;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use http::HeaderMap;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use self::{
    failure::{Credentials, Failure},
    pack::Packed,
    relay::Relay,
};
use crate::{
    admission::Admission,
    deadline::{Clock, Deadline},
    pb::{self, graph_service_server::GraphService},
    telemetry::Record,
    upstream::Upstream,
};

/// How long calls may take.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    /// From an Invoke's start to its whole reply.
    pub invoke: Duration,
    /// From a Stream's start to its first event.
    pub initial: Duration,
    /// Between bytes of a Stream, from its first event on.
    pub idle: Duration,
    /// From a Stream's start to its end.
    pub lifetime: Duration,
}

/// The service: everything that a call passes on its way.
#[derive(Clone, Debug)]
pub struct Bridge {
    /// Where calls go.
    pub upstream: Upstream,
    /// Who may begin one.
    pub admission: Admission,
    /// How long they may take.
    pub clocks: Clocks,
    /// Whose key the upstream is shown.
    pub credentials: Credentials,
    /// Bytes of an encoded InvokeResponse; exactly as many pass.
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
        let (message, metadata, extensions) = request::split(request);
        let record = edge::record(&extensions);
        let answer = self.answer(message, metadata, &record).await;
        answer.map_err(|failure| self.status(failure, &record))
    }

    async fn stream(
        &self,
        request: Request<pb::StreamRequest>,
    ) -> Result<Response<Events>, Status> {
        let (message, metadata, extensions) = request::split(request);
        let record = edge::record(&extensions);
        let events = self.relay(message, metadata, &record).await;
        events.map_err(|failure| self.status(failure, &record))
    }
}

impl Bridge {
    async fn answer(
        &self,
        message: pb::InvokeRequest,
        metadata: HeaderMap,
        record: &Record,
    ) -> Result<Response<pb::InvokeResponse>, Failure> {
        let asked = request::parse(message, metadata, record, self.credentials)?;
        let permit = self.admission.enter()?;
        let deadline = Deadline::after(asked.started, self.clocks.invoke, Clock::Invoke);
        let deadline = deadline.or_sooner(asked.deadline);
        let reply = self.upstream.invoke(&asked.call, deadline.at);
        let (reply, headers) = self.within(deadline, reply).await??;
        note_head(record, &headers);
        let message = response::invoke(reply, self.max_reply_bytes)?;
        record.message_sent();
        let mut response = response::with_headers(message, headers);
        response.extensions_mut().insert(Arc::new(permit)); // the edge holds it to the body's end
        Ok(response)
    }

    async fn relay(
        &self,
        message: pb::InvokeRequest,
        metadata: HeaderMap,
        record: &Record,
    ) -> Result<Response<Events>, Failure> {
        let asked = request::parse(message, metadata, record, self.credentials)?;
        let permit = self.admission.enter()?;
        let end = Deadline::after(asked.started, self.clocks.lifetime, Clock::Lifetime);
        let end = end.or_sooner(asked.deadline);
        let initial = Deadline::after(asked.started, self.clocks.initial, Clock::Initial);
        let initial = initial.or_sooner(Some(end));
        let begun = async {
            let (events, headers) = self.upstream.stream(&asked.call, initial.at).await?;
            note_head(record, &headers);
            let mut relay = Relay::new(events, permit, self.clocks.idle, record.clone());
            let first = relay.first().await?;
            Ok::<_, Failure>((relay, first, headers))
        };
        let (mut relay, first, headers) = self.within(initial, begun).await??;
        relay.watch(end, self.cut.clone());
        let rest = stream::unfold((relay, self.credentials), next_message);
        let events = stream::iter([Ok(first)]).chain(rest);
        Ok(response::with_headers(
            Box::pin(Packed::new(events)),
            headers,
        ))
    }

    /// Waits for `work` until the deadline, or until the drain's time is up.
    async fn within<T>(
        &self,
        deadline: Deadline,
        work: impl Future<Output = T>,
    ) -> Result<T, Failure> {
        tokio::select! {
            biased;
            done = deadline.bound(work) => done.map_err(Failure::Clock),
            () = self.cut.cancelled() => Err(Failure::Cut),
        }
    }

    fn status(&self, failure: Failure, record: &Record) -> Status {
        record.failed(failure.reason(self.credentials));
        if let Failure::Upstream(error) = &failure {
            if let Some(status) = error.http_status() {
                record.upstream_status(status.as_u16());
            }
            tracing::debug!(error = %Causes(error), "the upstream failed");
        }
        failure.into_status(self.credentials, None)
    }
}

type Unfolded = (Relay, Credentials);

async fn next_message(
    (mut relay, credentials): Unfolded,
) -> Option<(Result<pb::StreamResponse, Status>, Unfolded)> {
    let outcome = relay.next().await?;
    let outcome = outcome.map_err(|failure| relay.status(failure, credentials));
    Some((outcome, (relay, credentials)))
}

fn note_head(record: &Record, headers: &HeaderMap) {
    record.upstream_status(200);
    let left = headers.get("x-ratelimit-remaining");
    if let Some(left) = left.and_then(|left| left.to_str().ok()?.parse().ok()) {
        record.ratelimit_remaining(left);
    }
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
