//! The methods of GraphService, and in `threads` those of ThreadService.
//!
//! A method reads as the life of a call: request, upstream, response. The [`middleware`](crate::middleware) round it
//! enforces the deadline; [`status`](crate::status) maps each failure.

mod coalesce;
mod event_stream;
#[cfg(fuzzing)]
pub mod fuzzing;
mod poll_on_wake;
mod request;
mod response;
mod threads;

use std::{pin::Pin, sync::Arc, time::Duration};

use prost::Message;
use secrecy::ExposeSecret;
use tokio::time::Instant;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use self::{coalesce::Coalesced, event_stream::EventStream, poll_on_wake::PollOnWake};
use crate::{
    admission::Rejected,
    call::{Call, reply::ReplyHead},
    middleware::context::CallContext,
    pb::{self, graph_service_server::GraphService},
    quota::{self, UpstreamKey},
    status::{Credentials, Failure},
    upstream::{Error, Upstream},
};

/// Both services: everything that a call passes on its way.
#[derive(Clone, Debug)]
pub struct Bridge {
    /// Where calls go.
    pub upstream: Upstream,
    /// How long a stream may be silent, from its first event on.
    pub idle: Duration,
    /// Whose key the upstream is shown.
    pub credentials: Credentials,
    /// Bytes of an encoded unary answer; exactly as many pass.
    pub max_reply_bytes: usize,
    /// Cancelled when what has not left for ALİM must end.
    pub draining: CancellationToken,
}

type Events = Pin<Box<dyn Stream<Item = Result<pb::StreamResponse, Status>> + Send>>;

#[tonic::async_trait]
impl GraphService for Bridge {
    type StreamStream = Events;

    async fn invoke(
        &self,
        request: Request<pb::InvokeRequest>,
    ) -> Result<Response<pb::InvokeResponse>, Status> {
        let context = received(&request);
        let answer = async {
            context.check_permissions(request.get_ref().system_prompt_override.as_deref())?;
            let call = request::parse(request, request::question, self.credentials, &context)?;
            self.unary(&context, call, Upstream::invoke, response::invoke)
                .await
        };
        self.or_status(answer.await, &context)
    }

    async fn stream(
        &self,
        request: Request<pb::StreamRequest>,
    ) -> Result<Response<Events>, Status> {
        let context = received(&request);
        let events = self.relay(request, &context).await;
        self.or_status(events, &context)
    }
}

impl Bridge {
    /// One reply of the upstream for one call: `ask` sends it, and `into_message` puts what it gives into the contract's
    /// words. A call that comes too late is not sent, for it costs money.
    async fn unary<Q, T, M: Message>(
        &self,
        context: &CallContext,
        mut call: Call<Q>,
        ask: impl AsyncFnOnce(&Upstream, Call<Q>, Instant) -> Result<(T, ReplyHead), Error>,
        into_message: impl FnOnce(T) -> M,
    ) -> Result<Response<M>, Failure> {
        let record = context.record();
        context.deadlines.head.check()?;
        self.wait_for_turn(context, &mut call, 1).await?;
        record.upstream_asked(&mut call.headers);
        context.hold_question().await?;
        let (reply, head) = ask(&self.upstream, call, context.deadlines.head.at).await?;
        record.upstream_status(200);
        self.note_head(context, &head);
        record.upstream_over();
        let message = response::bounded(into_message(reply), self.max_reply_bytes)?;
        context.call.memory.release_to(message.encoded_len());
        record.message_sent();
        Ok(response::with_headers(message, head.headers))
    }

    async fn relay(
        &self,
        request: Request<pb::StreamRequest>,
        context: &CallContext,
    ) -> Result<Response<Events>, Failure> {
        let starts_thread = request.get_ref().start_thread;
        context.check_permissions(request.get_ref().system_prompt_override.as_deref())?;
        let mut call = request::parse(request, request::streamed, self.credentials, context)?;
        let record = context.record();
        record.thread(call.asked.thread_id());
        context.deadlines.head.check()?;
        let requests = if starts_thread { 2 } else { 1 };
        self.wait_for_turn(context, &mut call, requests).await?;
        record.upstream_asked(&mut call.headers);
        if starts_thread {
            self.start_thread(context, &mut call).await?;
        }
        context.hold_question().await?;
        let thread_id = call.asked.thread_id();
        let asked = self.upstream.stream(call, context.deadlines.head.at);
        let (events, mut head) = asked.await?;
        record.upstream_status(200);
        self.note_head(context, &head);
        response::name_thread(&mut head.headers, thread_id);
        let mut relay = EventStream::new(events, self.idle, context, self.credentials);
        let first = relay.first().await?;
        let events = Coalesced::new(Ok(first), PollOnWake::new(relay));
        Ok(response::with_headers(
            Box::pin(events) as Events,
            head.headers,
        ))
    }

    /// Waits until the upstream key may send so many requests, and gives the call its slots for them. What ends the call meanwhile
    /// takes it out of the queue: its caller, its deadline or the drain.
    async fn wait_for_turn<Q>(
        &self,
        context: &CallContext,
        call: &mut Call<Q>,
        requests: u32,
    ) -> Result<(), Failure> {
        let quota = self.upstream.quota();
        if !quota.is_on() {
            return Ok(());
        }
        let caller = quota_caller(context);
        let key = match &call.caller_key {
            Some(key) if self.credentials == Credentials::Caller => {
                UpstreamKey::brought(key.expose_secret())
            }
            Some(_) => UpstreamKey::OfCaller(caller.name.clone()),
            None => UpstreamKey::Service,
        };
        let due = context.deadlines.head;
        call.slots = tokio::select! {
            biased;
            slots = quota.acquire(&key, &caller, requests, due.at) => slots?,
            () = self.draining.cancelled() => return Err(Rejected::Draining.into()),
        };
        Ok(due.check()?)
    }

    fn or_status<T>(
        &self,
        outcome: Result<T, Failure>,
        context: &CallContext,
    ) -> Result<T, Status> {
        outcome.map_err(|failure| self.status(failure, context))
    }

    fn status(&self, failure: Failure, context: &CallContext) -> Status {
        let record = context.record();
        if let Failure::Upstream(error) = &failure {
            if let Some(status) = error.http_status() {
                record.upstream_status(status.as_u16());
            }
            if let Error::Rejected(rejection) = error {
                self.note_head(context, &rejection.head);
            }
            tracing::debug!(
                request_id = record.request_id(),
                trace_id = record.trace_id(),
                error = %Causes(error),
                "the upstream failed"
            );
        }
        failure.into_status(record, self.credentials, None)
    }

    /// Callers' own keys have a limit each, so one figure would mislead.
    fn note_head(&self, context: &CallContext, head: &ReplyHead) {
        let record = context.record();
        if let Some(id) = &head.request_id {
            record.upstream_request_id(id);
        }
        if self.credentials == Credentials::Caller || context.own_key().is_some() {
            return;
        }
        if let Some(left) = head.remaining {
            record.ratelimit_remaining(left);
        }
    }
}

/// Who takes a turn; with no callers file, all are one.
fn quota_caller(context: &CallContext) -> quota::Caller {
    match &context.call.caller {
        Some(caller) => quota::Caller {
            name: Arc::clone(caller.name()),
            weight: caller.weight(),
        },
        None => quota::Caller {
            name: "".into(),
            weight: 1,
        },
    }
}

/// What the edge attached to a request whose message is here.
fn received<M: Message>(request: &Request<M>) -> CallContext {
    let mut context = CallContext::of(request.extensions());
    context.message_bytes = request.get_ref().encoded_len();
    context.record().message_received(context.message_bytes);
    context
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
