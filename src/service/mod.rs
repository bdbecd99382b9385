//! Implements GraphService here, and ThreadService in `threads`.
//!
//! Each method parses the request, asks the upstream, and builds the response. The [`middleware`](crate::middleware) enforces
//! the deadline for the head; [`status`](crate::status) maps each failure.

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

/// The implementation of both services.
#[derive(Clone, Debug)]
pub struct Bridge {
    /// Sends calls to ALİM.
    pub upstream: Upstream,
    /// The longest silence of a stream, from its first event on.
    pub idle: Duration,
    /// Whose key the upstream gets.
    pub credentials: Credentials,
    /// The maximum size of an encoded unary reply, inclusive.
    pub max_reply_bytes: usize,
    /// Cancelled when a drain ends the calls that have not reached ALİM yet.
    pub draining: CancellationToken,
}

type Messages = Pin<Box<dyn Stream<Item = Result<pb::StreamResponse, Status>> + Send>>;

#[tonic::async_trait]
impl GraphService for Bridge {
    type StreamStream = Messages;

    async fn invoke(
        &self,
        request: Request<pb::InvokeRequest>,
    ) -> Result<Response<pb::InvokeResponse>, Status> {
        let context = context_of(&request);
        let response = async {
            context.check_permissions(request.get_ref().system_prompt_override.as_deref())?;
            let call = request::parse(request, request::question, self.credentials, &context)?;
            self.unary(&context, call, Upstream::invoke, response::invoke)
                .await
        };
        self.or_status(response.await, &context)
    }

    async fn stream(
        &self,
        request: Request<pb::StreamRequest>,
    ) -> Result<Response<Messages>, Status> {
        let context = context_of(&request);
        let response = self.start_stream(request, &context).await;
        self.or_status(response, &context)
    }
}

impl Bridge {
    /// Serves a unary call: `ask` sends it, and `into_message` turns the reply into the contract's message. If the deadline has
    /// passed, nothing is sent, because each call costs money.
    async fn unary<Q, T, M: Message>(
        &self,
        context: &CallContext,
        mut call: Call<Q>,
        ask: impl AsyncFnOnce(&Upstream, Call<Q>, Instant) -> Result<(T, ReplyHead), Error>,
        into_message: impl FnOnce(T) -> M,
    ) -> Result<Response<M>, Failure> {
        let record = context.record();
        context.deadlines.head.check()?;
        self.acquire_quota(context, &mut call, 1).await?;
        record.upstream_asked(&mut call.headers);
        context.hold_question().await?;
        let (reply, head) = ask(&self.upstream, call, context.deadlines.head.at).await?;
        record.upstream_status(200);
        self.record_head(context, &head);
        record.upstream_over();
        let message = response::bounded(into_message(reply), self.max_reply_bytes)?;
        context.call.memory.release_to(message.encoded_len());
        record.message_sent();
        Ok(response::with_headers(message, head.headers))
    }

    /// Asks the upstream for a stream, and returns the response when the upstream has accepted the question. By then the call may be
    /// running. A gRPC library that has the response's head does not send the call again, even if the connection breaks.
    async fn start_stream(
        &self,
        request: Request<pb::StreamRequest>,
        context: &CallContext,
    ) -> Result<Response<Messages>, Failure> {
        let starts_thread = request.get_ref().start_thread;
        context.check_permissions(request.get_ref().system_prompt_override.as_deref())?;
        let mut call =
            request::parse(request, request::stream_question, self.credentials, context)?;
        let record = context.record();
        record.thread(call.request.thread_id());
        context.deadlines.head.check()?;
        let requests = if starts_thread { 2 } else { 1 };
        self.acquire_quota(context, &mut call, requests).await?;
        record.upstream_asked(&mut call.headers);
        if starts_thread {
            self.start_thread(context, &mut call).await?;
        }
        context.hold_question().await?;
        let thread_id = call.request.thread_id();
        let reply = self.upstream.stream(call, context.deadlines.head.at);
        let (events, mut head) = reply.await?;
        record.upstream_status(200);
        self.record_head(context, &head);
        response::add_thread_id(&mut head.headers, thread_id);
        let stream = EventStream::new(events, self.idle, context, self.credentials);
        let messages = Coalesced::new(PollOnWake::new(stream));
        Ok(response::with_headers(
            Box::pin(messages) as Messages,
            head.headers,
        ))
    }

    /// Waits until the upstream key's quota admits `requests`, and gives the call its slots. If the caller leaves, the deadline passes
    /// or a drain begins, the call leaves the queue.
    async fn acquire_quota<Q>(
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
        let deadline = context.deadlines.head;
        let trace = context.record().trace_context(&call.headers);
        call.slots = tokio::select! {
            biased;
            slots = quota.acquire(&key, &caller, requests, deadline.at, &trace) => slots?,
            () = self.draining.cancelled() => return Err(Rejected::Draining.into()),
        };
        Ok(deadline.check()?)
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
                self.record_head(context, &rejection.head);
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

    /// Records the upstream's request id and remaining limit. Callers' own keys have a limit each, so one figure for all of
    /// them would mislead.
    fn record_head(&self, context: &CallContext, head: &ReplyHead) {
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

/// The caller for fair queueing. Without a callers file, all calls count as one caller.
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

/// The request's call context, updated with the size of the message.
fn context_of<M: Message>(request: &Request<M>) -> CallContext {
    let mut context = CallContext::of(request.extensions());
    context.message_bytes = request.get_ref().encoded_len();
    context.record().message_received(context.message_bytes);
    context
}

/// An error with its causes, for the log. The causes contain addresses, so callers never get them.
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
