//! The layer that wraps every call, including health, reflection and unknown methods.
//!
//! It starts the call's record, identifies the caller, and admits the call before it reads a byte of the message.
//! It enforces the deadline for the response head. It adds the request id to the response, and a reason to each
//! status that tonic itself makes. The record and the permit live until the response body ends.
//!
//! It forwards `is_end_stream`. Without that, a trailers-only response would get a body.

mod busiest;
pub mod context;
mod frames;
pub mod identity;
pub mod open_calls;
pub mod origins;
mod protocol;
pub mod request_body;
mod response_body;
pub mod timeouts;
mod unread;
pub mod web;

use std::{
    convert::Infallible,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::Service;

use self::{
    context::CallContext,
    frames::Frames,
    identity::Identity,
    open_calls::{CallGuard, OpenCalls},
    origins::Origins,
    protocol::{field_bytes, is_grpc, reject, with_reason},
    request_body::{MessageLimits, RequestBody, RequestKind},
    response_body::{EndConditions, ResponseBody},
    timeouts::{Timeouts, caller_deadline},
};
use crate::{
    admission::{Admission, Rejected},
    call::headers::{REQUEST_ID, request_id},
    callers::Caller,
    inbound::{Connection, MAX_WATCHES},
    memory::{Account, INCLUDED_BYTES},
    status::{Failure, Protocol},
    telemetry::{
        Method, Ongoing, Record,
        metrics::Metrics,
        state::OverloadAction,
        traces::{Trace, Traces},
    },
};

/// The maximum size of a call's metadata, inclusive. HTTP/2 adds 32 bytes to each field; pseudo-headers do not count. The server
/// accepts more, because the transport rejects with HTTP 431 and no gRPC status.
pub const MAX_METADATA_BYTES: usize = 16 * 1024;

/// The configuration and shared state of the layer.
#[derive(Clone, Debug)]
pub struct CallLayer {
    /// Counts the calls.
    pub metrics: Arc<Metrics>,
    /// Receives the spans; `None` disables tracing.
    pub traces: Option<Traces>,
    /// Identifies callers.
    pub identity: Identity,
    /// The web origins that can call; `None` disables gRPC-Web.
    pub origins: Option<Origins>,
    /// How long calls can take.
    pub timeouts: Timeouts,
    /// Limits the open calls to ALİM.
    pub admission: Admission,
    /// All open calls.
    pub open_calls: OpenCalls,
    /// The limits on request messages. A drain ends calls that have not reached ALİM yet.
    pub message_limits: MessageLimits,
}

/// A service wrapped in the layer, for the calls of one connection.
#[derive(Clone, Debug)]
pub struct CallService<S> {
    layer: Arc<CallLayer>,
    connection: Arc<Connection>,
    inner: S,
}

impl<S> CallService<S> {
    /// Wraps `inner` in `layer`, for the calls of `connection`.
    pub fn new(layer: Arc<CallLayer>, connection: Arc<Connection>, inner: S) -> Self {
        Self {
            layer,
            connection,
            inner,
        }
    }
}

impl<S> Service<Request<Body>> for CallService<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let method = Method::of(request.uri().path());
        let id = request_id(request.headers());
        let ongoing = self.layer.start_record(method, &id, request.headers());
        let record = ongoing.record().clone();
        record.peer(self.connection.peer());
        let deadlines = self
            .layer
            .timeouts
            .deadlines(method, request.headers(), record.started());
        if let Some(deadline) = caller_deadline(request.headers(), record.started()) {
            record.caller_deadline(deadline.at);
        }
        let checked = self
            .layer
            .check_head(method, &request, &self.connection, &record);
        if checked.is_ok() {
            record.identified();
        }
        let mut guard = self.layer.open_calls.open(
            record.clone(),
            checked.as_ref().ok().cloned().flatten(),
            deadlines.end,
            &self.connection,
            method.is_ours(),
        );
        request.headers_mut().insert(REQUEST_ID, id.clone());
        let call = Arc::clone(guard.call());
        request.extensions_mut().insert(CallContext {
            call: Arc::clone(&call),
            deadlines,
            message_bytes: 0,
        });
        let (layer, inner) = (Arc::clone(&self.layer), self.inner.clone());
        let connection = Arc::clone(&self.connection);
        Box::pin(async move {
            let mut ending = EndConditions {
                is_unary: !matches!(method, Method::Stream),
                draining: (!method.is_ours()).then(|| layer.message_limits.draining.clone()),
                on_drop: None,
            };
            let response = match checked {
                Ok(_) => {
                    let work =
                        layer.serve(method, request, inner, &connection, &mut guard, &mut ending);
                    tokio::select! {
                        biased;
                        failure = call.forced() => Err(failure),
                        served = deadlines.head.bound(work) => served.unwrap_or_else(|kind| Err(kind.into())),
                    }
                }
                Err(failure) => Err(failure),
            };
            let response = response.unwrap_or_else(|failure| reject(failure, &record));
            Ok(finish(response, id, ending, ongoing, guard))
        })
    }
}

impl CallLayer {
    fn start_record(&self, method: Method, id: &HeaderValue, metadata: &HeaderMap) -> Ongoing {
        let id = id.to_str().expect("a valid request id").to_owned();
        let trace = Trace::begin(self.traces.as_ref(), method, metadata);
        Ongoing::begin(Arc::clone(&self.metrics), method, id, trace)
    }

    /// Admits the call and passes it to the service.
    async fn serve<S>(
        &self,
        method: Method,
        request: Request<Body>,
        mut inner: S,
        connection: &Connection,
        guard: &mut CallGuard,
        ending: &mut EndConditions,
    ) -> Result<Response<Body>, Failure>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    {
        let started = guard.call().record.started();
        let head_bytes = field_bytes(request.headers());
        let kind = match method {
            Method::Unknown => None, // the service rejects it without its messages
            Method::HealthCheck => Some(RequestKind::Health(Frames::default())),
            Method::HealthWatch => {
                guard.attach_watch(open_watch(connection)?);
                Some(RequestKind::Health(Frames::default()))
            }
            Method::Reflection => {
                guard.attach_watch(open_watch(connection)?);
                let response_over = CancellationToken::new();
                ending.on_drop = Some(response_over.clone().drop_guard());
                let response_over = Box::pin(response_over.cancelled_owned());
                Some(RequestKind::Reflection(Frames::default(), response_over))
            }
            _ => {
                let memory = &guard.call().memory;
                let message_slot =
                    self.acquire_message_slot(connection, memory, head_bytes, started);
                let message_slot = message_slot.await?;
                let permit = self.admission.admit();
                let permit = permit.inspect_err(|full| self.open_calls.warn_if_full(full))?;
                self.admit_to_memory(&guard.call().memory)?;
                let caller = guard.call().caller.as_ref();
                let slot = caller.map(|caller| caller.admit()).transpose()?;
                guard.attach_permit(permit, slot);
                Some(RequestKind::Call(message_slot, Frames::default()))
            }
        };
        let call = Arc::clone(guard.call());
        let limits = self.message_limits.clone();
        let request = match kind {
            None => request,
            Some(kind) => {
                request.map(|body| Body::new(RequestBody::new(body, kind, call, limits, started)))
            }
        };
        // Unwind safe: after a panic, the future and its state are dropped and never used again.
        let response = AssertUnwindSafe(async move { inner.call(request).await });
        let Ok(response) = response.catch_unwind().await else {
            return Err(Failure::Panicked);
        };
        let Ok(response) = response;
        Ok(with_reason(response, method, &guard.call().record))
    }

    /// Takes the minimum of memory that a call needs.
    fn admit_to_memory(&self, memory: &Account) -> Result<(), Rejected> {
        memory.admit().map_err(|full| {
            self.metrics.state.overloaded(OverloadAction::ShedCall);
            Rejected::Memory(full)
        })
    }

    /// Waits for one of the connection's slots for incomplete request messages. Until then, nothing of the message is read.
    async fn acquire_message_slot(
        &self,
        connection: &Connection,
        memory: &Account,
        head_bytes: usize,
        started: Instant,
    ) -> Result<OwnedSemaphorePermit, Failure> {
        let partial_messages = connection.partial_messages();
        if let Ok(slot) = Arc::clone(&partial_messages).try_acquire_owned() {
            return Ok(slot);
        }
        memory
            .try_hold(INCLUDED_BYTES + head_bytes)
            .map_err(Rejected::Memory)?;
        let timeout = self.message_limits.timeout;
        tokio::select! {
            slot = partial_messages.acquire_owned() => Ok(slot.expect("the semaphore is never closed")),
            () = self.message_limits.draining.cancelled() => Err(Rejected::Draining.into()),
            () = tokio::time::sleep_until(started + timeout) => Err(Failure::MessageTimeout(timeout)),
        }
    }

    /// Checks the request's head and identifies the caller, before anything else of the request is read.
    fn check_head<B>(
        &self,
        method: Method,
        request: &Request<B>,
        connection: &Connection,
        record: &Record,
    ) -> Result<Option<Arc<Caller>>, Failure> {
        let metadata = request.headers();
        let origins = self.origins.as_ref();
        if origins.is_some_and(|origins| !origins.allow(metadata)) {
            let text = "pages of this origin may not call: GRPC_WEB does not list it";
            return Err(Failure::Protocol(Protocol::Origin, text.into()));
        }
        if !is_grpc(metadata) {
            let text = "content-type must be application/grpc";
            return Err(Failure::Protocol(Protocol::ContentType, text.into()));
        }
        if request.method() != http::Method::POST {
            let text = "gRPC calls are POST requests";
            return Err(Failure::Protocol(Protocol::HttpMethod, text.into()));
        }
        let found = field_bytes(metadata);
        if found > MAX_METADATA_BYTES {
            let text = format!(
                "the request is too large: {found} bytes of metadata, the limit is {MAX_METADATA_BYTES}"
            );
            return Err(Failure::Protocol(Protocol::TooLarge, text));
        }
        self.identity.identify(method, metadata, connection, record)
    }
}

fn open_watch(connection: &Connection) -> Result<OwnedSemaphorePermit, Rejected> {
    connection
        .open_watch()
        .ok_or(Rejected::Watches { limit: MAX_WATCHES })
}

fn finish(
    mut response: Response<Body>,
    id: HeaderValue,
    ending: EndConditions,
    ongoing: Ongoing,
    guard: CallGuard,
) -> Response<ResponseBody> {
    response.headers_mut().entry(REQUEST_ID).or_insert(id);
    response_body::record_status(ongoing.record(), response.headers());
    response.map(|inner| ResponseBody::new(inner, ending, ongoing, guard))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::header::CONTENT_TYPE;
    use tonic::{Code, Status};
    use tonic_types::StatusExt;

    use super::*;
    use crate::{memory::Budget, status::Credentials};

    #[derive(Clone)]
    struct Panics;

    impl Service<Request<Body>> for Panics {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            panic!("a bug in a service")
        }
    }

    #[tokio::test]
    async fn a_panic_becomes_a_status_instead_of_a_reset() {
        let second = Duration::from_secs(1);
        let layer = CallLayer {
            metrics: Arc::new(Metrics::new().expect("metrics")),
            traces: None,
            identity: Identity {
                callers: None,
                trusted_proxies: Default::default(),
                credentials: Credentials::Service,
            },
            origins: None,
            timeouts: Timeouts {
                invoke: second,
                initial: second,
                idle: second,
                lifetime: second,
            },
            admission: Admission::new(1),
            open_calls: OpenCalls::default(),
            message_limits: MessageLimits::new(second, 1, CancellationToken::new()),
        };
        let connection = Connection::new(([127, 0, 0, 1], 1).into(), &Budget::unlimited());
        let request = Request::post("/alim.v1.GraphService/Invoke")
            .header(CONTENT_TYPE, "application/grpc")
            .body(Body::empty());
        let mut service = CallService::new(Arc::new(layer), connection, Panics);
        let response = service.call(request.expect("a request")).await;
        let status = Status::from_header_map(response.expect("a response").headers());
        let status = status.expect("a status");
        let details = status.get_error_details();
        let reason = details.error_info().map(|info| info.reason.as_str());
        assert_eq!(
            (status.code(), reason),
            (Code::Internal, Some("BRIDGE_FAILED"))
        );
    }
}
