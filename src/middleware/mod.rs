//! The layer round every call, whoever answers it: health, reflection and unknown methods too.
//!
//! It begins the record, and holds it with the call's permit to the end of the answer's body; checks the
//! caller's key; admits the call before a byte of its message is read; waits for the head until it is deadlines;
//! gives the answer its request id; and gives a reason to the statuses that tonic
//! itself makes. It forwards `is_end_stream`, without which trailers-only answers would get a body.

pub mod context;
mod frames;
pub mod identity;
pub mod open_calls;
pub mod origins;
mod protocol;
pub mod request_body;
mod response_body;
pub mod timeouts;
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
    request_body::{Bounds, Kind, RequestBody},
    response_body::{EndConditions, ResponseBody},
    timeouts::{Timeouts, caller_deadline},
};
use crate::{
    admission::{Admission, Rejected},
    call::headers::{REQUEST_ID, request_id},
    callers::Caller,
    inbound::{Connection, MAX_WATCHES},
    memory::{Account, FREE_BYTES},
    status::{Failure, Protocol},
    telemetry::{
        Method, Ongoing, Record,
        metrics::Metrics,
        state::OverloadAction,
        traces::{Trace, Traces},
    },
};

/// Bytes of a call's metadata, by HTTP/2's count of 32 bytes a field, pseudo-headers apart; exactly as many pass. The server lets
/// more come in, because the transport's own refusal is an HTTP 431 without a gRPC status.
pub const MAX_METADATA_BYTES: usize = 16 * 1024;

/// What the layer needs to know.
#[derive(Clone, Debug)]
pub struct CallLayer {
    /// Where calls are counted.
    pub metrics: Arc<Metrics>,
    /// Where spans go; `None` is nowhere.
    pub traces: Option<Traces>,
    /// Who may call.
    pub identity: Identity,
    /// Whose pages may call; `None` where none can.
    pub origins: Option<Origins>,
    /// How long calls may take.
    pub timeouts: Timeouts,
    /// Who may begin a call to ALİM.
    pub admission: Admission,
    /// The calls that are open.
    pub open_calls: OpenCalls,
    /// What bounds request messages, and ends what has not left for ALİM.
    pub bounds: Bounds,
}

/// A service with the layer round it, for the calls of one connection.
#[derive(Clone, Debug)]
pub struct CallService<S> {
    layer: Arc<CallLayer>,
    connection: Arc<Connection>,
    inner: S,
}

impl<S> CallService<S> {
    /// Puts `layer` round `inner`, for the calls of `connection`.
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
        let ongoing = self.layer.begin(method, &id, request.headers());
        let record = ongoing.record().clone();
        record.peer(self.connection.peer());
        let deadlines = self
            .layer
            .timeouts
            .deadlines(method, request.headers(), record.started());
        if let Some(deadline) = caller_deadline(request.headers(), record.started()) {
            record.caller_deadline(deadline.at);
        }
        let judged = self
            .layer
            .judge(method, &request, &self.connection, &record);
        if judged.is_ok() {
            record.identified();
        }
        let mut guard = self.layer.open_calls.open(
            record.clone(),
            judged.as_ref().ok().cloned().flatten(),
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
            let mut ends = EndConditions {
                is_unary: !matches!(method, Method::Stream),
                goaway: (!method.is_ours()).then(|| layer.bounds.draining.clone()),
                answered: None,
            };
            let answer = match judged {
                Ok(_) => {
                    let work =
                        layer.answer(method, request, inner, &connection, &mut guard, &mut ends);
                    tokio::select! {
                        biased;
                        () = call.forced() => Err(Failure::DrainTimeout),
                        done = deadlines.head.bound(work) => done.unwrap_or_else(|clock| Err(clock.into())),
                    }
                }
                Err(failure) => Err(failure),
            };
            let answer = answer.unwrap_or_else(|failure| reject(failure, &record));
            Ok(finish(answer, id, ends, ongoing, guard))
        })
    }
}

impl CallLayer {
    fn begin(&self, method: Method, id: &HeaderValue, metadata: &HeaderMap) -> Ongoing {
        let id = id.to_str().expect("a fit request id").to_owned();
        let trace = Trace::begin(self.traces.as_ref(), method, metadata);
        Ongoing::begin(Arc::clone(&self.metrics), method, id, trace)
    }

    /// Admits the call, and hands it to the service.
    async fn answer<S>(
        &self,
        method: Method,
        request: Request<Body>,
        mut inner: S,
        connection: &Connection,
        guard: &mut CallGuard,
        ends: &mut EndConditions,
    ) -> Result<Response<Body>, Failure>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    {
        let started = guard.call().record.started();
        let head_bytes = field_bytes(request.headers());
        let kind = match method {
            Method::Unknown => None,
            Method::HealthCheck => Some(Kind::Health(Frames::default())),
            Method::HealthWatch => {
                guard.holds_watch(open_watch(connection)?);
                Some(Kind::Health(Frames::default()))
            }
            Method::Reflection => {
                guard.holds_watch(open_watch(connection)?);
                let answered = CancellationToken::new();
                ends.answered = Some(answered.clone().drop_guard());
                let answered = Box::pin(answered.cancelled_owned());
                Some(Kind::Reflection(Frames::default(), answered))
            }
            _ => {
                let memory = &guard.call().memory;
                let message = self.wait_for_turn(connection, memory, head_bytes, started);
                let message = message.await?;
                let permit = self.admission.admit()?;
                self.reserve(&guard.call().memory)?;
                let caller = guard.call().caller.as_ref();
                let slot = caller.map(|caller| caller.admit()).transpose()?;
                guard.holds(permit, slot);
                Some(Kind::Call(message, Frames::default()))
            }
        };
        let call = Arc::clone(guard.call());
        let request = match kind {
            None => request,
            Some(kind) => request.map(|body| {
                Body::new(RequestBody::new(
                    body,
                    kind,
                    call,
                    self.bounds.clone(),
                    started,
                ))
            }),
        };
        // What a panic leaves behind is dropped with the call: nothing of it is seen again.
        let answer = AssertUnwindSafe(async move { inner.call(request).await });
        let Ok(answer) = answer.catch_unwind().await else {
            return Err(Failure::Panicked);
        };
        let Ok(answer) = answer;
        Ok(with_reason(answer, &guard.call().record))
    }

    /// Takes the memory that a call needs at least.
    fn reserve(&self, memory: &Account) -> Result<(), Rejected> {
        memory.admit().map_err(|full| {
            self.metrics.state.overloaded(OverloadAction::ShedCall);
            Rejected::Memory(full)
        })
    }

    /// Waits until fewer calls of the connection wait for their message; nothing of this one is read before.
    async fn wait_for_turn(
        &self,
        connection: &Connection,
        memory: &Account,
        head_bytes: usize,
        started: Instant,
    ) -> Result<OwnedSemaphorePermit, Failure> {
        let partial_messages = connection.partial_messages();
        if let Ok(message) = Arc::clone(&partial_messages).try_acquire_owned() {
            return Ok(message);
        }
        memory
            .try_hold(FREE_BYTES + head_bytes)
            .map_err(Rejected::Memory)?;
        let timeout = self.bounds.timeout;
        tokio::select! {
            message = partial_messages.acquire_owned() => Ok(message.expect("nobody closes it")),
            () = self.bounds.draining.cancelled() => Err(Rejected::Draining.into()),
            () = tokio::time::sleep_until(started + timeout) => Err(Failure::MessageTimeout(timeout)),
        }
    }

    /// Whether a call may go on, by its head alone, and who makes it.
    fn judge<B>(
        &self,
        method: Method,
        request: &Request<B>,
        connection: &Connection,
        record: &Record,
    ) -> Result<Option<Arc<Caller>>, Failure> {
        let metadata = request.headers();
        let origins = self.origins.as_ref();
        if origins.is_some_and(|origins| !origins.admit(metadata)) {
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
    mut answer: Response<Body>,
    id: HeaderValue,
    ends: EndConditions,
    ongoing: Ongoing,
    guard: CallGuard,
) -> Response<ResponseBody> {
    answer.headers_mut().entry(REQUEST_ID).or_insert(id);
    response_body::note_status(ongoing.record(), answer.headers());
    answer.map(|inner| ResponseBody::new(inner, ends, ongoing, guard))
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
            panic!("as a defect would")
        }
    }

    #[tokio::test]
    async fn a_panic_becomes_a_status_and_not_a_reset() {
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
            bounds: Bounds::new(second, 1, CancellationToken::new()),
        };
        let connection = Connection::new(([127, 0, 0, 1], 1).into(), &Budget::unlimited());
        let request = Request::post("/alim.v1.GraphService/Invoke")
            .header(CONTENT_TYPE, "application/grpc")
            .body(Body::empty());
        let mut service = CallService::new(Arc::new(layer), connection, Panics);
        let answer = service.call(request.expect("a request")).await;
        let status = Status::from_header_map(answer.expect("an answer").headers());
        let status = status.expect("a status");
        let details = status.get_error_details();
        let reason = details.error_info().map(|info| info.reason.as_str());
        assert_eq!(
            (status.code(), reason),
            (Code::Internal, Some("BRIDGE_FAILED"))
        );
    }
}
