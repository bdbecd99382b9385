//! The layer round every call, whoever answers it: health, reflection and unknown methods too.
//!
//! It begins the record and holds it, with the permit of a unary answer, to the body's end; checks the
//! caller's key; waits for the head until it is due, while the request's message is still on its way
//! too; gives the answer its request id; and gives a reason to the statuses that tonic
//! itself makes. It forwards `is_end_stream`, without which trailers-only answers would get a body.

use std::{
    convert::Infallible,
    future::Future,
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::FutureExt;
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use super::{
    body::{self, EdgeBody, GRPC_STATUS},
    clocks::{Clocks, Due},
    failure::{Credentials, Failure, Protocol},
    hold::Hold,
    origins::Origins,
};
use crate::{
    callers::CallerKeys,
    headers::{REQUEST_ID, request_id},
    reload::Reload,
    telemetry::{
        Method, Ongoing, Record,
        metrics::Metrics,
        traces::{Trace, Traces},
    },
};

const GRPC_DETAILS: &str = "grpc-status-details-bin";
/// Bytes of a call's metadata, by HTTP/2's count of 32 bytes a field, pseudo-headers apart; exactly as many pass. The server lets
/// more come in, because the transport's own refusal is an HTTP 431 without a gRPC status.
pub const MAX_METADATA_BYTES: usize = 16 * 1024;

/// What the edge needs to know.
#[derive(Clone, Debug)]
pub struct Edge {
    /// Where calls are counted.
    pub metrics: Arc<Metrics>,
    /// Where spans go; `None` is nowhere.
    pub traces: Option<Traces>,
    /// The keys of those who may call; `None` when everyone may.
    pub callers: Option<Reload<CallerKeys>>,
    /// Whose pages may call; `None` where none can.
    pub origins: Option<Origins>,
    /// How long calls may take.
    pub clocks: Clocks,
    /// Ends what is no call to ALİM, such as a health watch, so that its connection can close.
    pub goaway: CancellationToken,
}

impl<S> Layer<S> for Edge {
    type Service = EdgeService<S>;

    fn layer(&self, inner: S) -> EdgeService<S> {
        let edge = self.clone();
        EdgeService { edge, inner }
    }
}

/// A service with the edge round it.
#[derive(Clone, Debug)]
pub struct EdgeService<S> {
    edge: Edge,
    inner: S,
}

impl<S> Service<Request<Body>> for EdgeService<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<EdgeBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let method = Method::of(request.uri().path());
        let id = request_id(request.headers());
        let ongoing = self.edge.begin(method, &id, request.headers());
        let record = ongoing.record().clone();
        let due = self
            .edge
            .clocks
            .due(method, request.headers(), record.started());
        let goaway = (!method.is_ours()).then(|| self.edge.goaway.clone());
        let refused = self.edge.judge(method, request.headers(), &record).err();
        if refused.is_none() {
            record.identified();
        }
        request.headers_mut().insert(REQUEST_ID, id.clone());
        let begun = Begun {
            record: record.clone(),
            due,
        };
        request.extensions_mut().insert(begun);
        // What a panic leaves behind is dropped with the call: nothing of it is seen again.
        let mut inner = self.inner.clone();
        std::mem::swap(&mut inner, &mut self.inner); // the one that is ready
        Box::pin(async move {
            let answer = match refused {
                Some(failure) => refuse(failure, &record),
                None => {
                    let answer = async move { inner.call(request).await };
                    let answer = pin!(AssertUnwindSafe(answer).catch_unwind());
                    match due.head.bound(answer).await {
                        Ok(Ok(answer)) => with_reason(answer?, &record),
                        Ok(Err(_panic)) => refuse(Failure::Panicked, &record),
                        Err(clock) => refuse(Failure::Clock(clock), &record),
                    }
                }
            };
            Ok(finish(answer, id, ongoing, goaway))
        })
    }
}

impl Edge {
    fn begin(&self, method: Method, id: &HeaderValue, metadata: &HeaderMap) -> Ongoing {
        let id = id.to_str().expect("a fit request id").to_owned();
        let trace = Trace::begin(self.traces.as_ref(), method, metadata);
        Ongoing::begin(Arc::clone(&self.metrics), method, id, trace)
    }

    /// Whether a call may go on, by its head alone.
    fn judge(&self, method: Method, metadata: &HeaderMap, record: &Record) -> Result<(), Failure> {
        let origins = self.origins.as_ref();
        if origins.is_some_and(|origins| !origins.admit(metadata)) {
            let text = "pages of this origin may not call: GRPC_WEB does not list it";
            return Err(Failure::Protocol(Protocol::Origin, text.into()));
        }
        if !is_grpc(metadata) {
            let text = "content-type must be application/grpc";
            return Err(Failure::Protocol(Protocol::ContentType, text.into()));
        }
        let found = field_bytes(metadata);
        if found > MAX_METADATA_BYTES {
            let text = format!(
                "the request is too large: {found} bytes of metadata, the limit is {MAX_METADATA_BYTES}"
            );
            return Err(Failure::Protocol(Protocol::TooLarge, text));
        }
        self.admit(method, metadata, record)
    }

    /// Health is exempt, because probes have no keys; reflection is not.
    fn admit(&self, method: Method, metadata: &HeaderMap, record: &Record) -> Result<(), Failure> {
        let is_health = matches!(method, Method::HealthCheck | Method::HealthWatch);
        let Some(callers) = self.callers.as_ref().filter(|_| !is_health) else {
            return Ok(());
        };
        let shown = metadata
            .get(AUTHORIZATION)
            .ok_or(Failure::CredentialsMissing)?;
        let shown = shown.to_str().map_err(|_| Failure::CredentialsRejected)?;
        let (scheme, key) = shown.split_once(' ').ok_or(Failure::CredentialsRejected)?;
        let callers = callers.load();
        let known = callers.identify(key.trim_start());
        match known.filter(|_| scheme.eq_ignore_ascii_case("bearer")) {
            Some(name) => record.caller(name),
            None => return Err(Failure::CredentialsRejected),
        }
        Ok(())
    }
}

/// What the edge began, beside the request.
#[derive(Clone, Debug)]
pub(super) struct Begun {
    pub(super) record: Record,
    pub(super) due: Due,
}

/// What the edge put beside the request.
pub(super) fn begun(extensions: &tonic::Extensions) -> Begun {
    let begun = extensions.get::<Begun>();
    begun.expect("the edge is round every call").clone()
}

fn finish(
    mut answer: Response<Body>,
    id: HeaderValue,
    ongoing: Ongoing,
    goaway: Option<CancellationToken>,
) -> Response<EdgeBody> {
    answer.headers_mut().entry(REQUEST_ID).or_insert(id);
    body::note_status(ongoing.record(), answer.headers());
    let hold = answer.extensions_mut().remove::<Arc<Hold>>();
    answer.map(|inner| EdgeBody::new(inner, ongoing, hold, goaway))
}

/// Anything else SHOULD be told with HTTP's 415 (gRPC over HTTP/2, Content-Type); a browser could
/// send it across origins without asking.
fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let suffix = kind.and_then(|kind| kind.strip_prefix("application/grpc"));
    suffix.is_some_and(|suffix| suffix.is_empty() || suffix.starts_with(['+', ';']))
}

/// RFC 9113, 6.5.2, `SETTINGS_MAX_HEADER_LIST_SIZE`.
fn field_bytes(fields: &HeaderMap) -> usize {
    let sizes = fields
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 32);
    sizes.sum()
}

fn refuse(failure: Failure, record: &Record) -> Response<Body> {
    let status = match failure {
        Failure::Protocol(Protocol::ContentType, _) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Failure::Protocol(Protocol::Origin, _) => StatusCode::FORBIDDEN,
        _ => StatusCode::OK,
    };
    let mut refusal = failure.tell(record, Credentials::Service, None).into_http();
    *refusal.status_mut() = status;
    refusal
}

/// Puts the table's row in place of a status that tonic made of the request itself.
fn with_reason(answer: Response<Body>, record: &Record) -> Response<Body> {
    let headers = answer.headers();
    if !headers.contains_key(GRPC_STATUS) || headers.contains_key(GRPC_DETAILS) {
        return answer;
    }
    let Some(found) = Status::from_header_map(headers) else {
        return answer;
    };
    let Some(broken) = broken_rule(&found) else {
        return answer;
    };
    let failure = Failure::Protocol(broken, protocol_text(broken, &found));
    let mut replaced = refuse(failure, record);
    if let Some(accepted) = headers.get("grpc-accept-encoding") {
        replaced
            .headers_mut()
            .insert("grpc-accept-encoding", accepted.clone());
    }
    replaced
}

/// tonic tells these apart by code and text alone; `tests/it/protocol.rs` holds it to that.
fn broken_rule(found: &Status) -> Option<Protocol> {
    match found.code() {
        Code::OutOfRange => Some(Protocol::TooLarge),
        Code::ResourceExhausted => Some(Protocol::TooLarge),
        Code::Unimplemented if found.message().is_empty() => Some(Protocol::MethodUnknown),
        Code::Unimplemented => Some(Protocol::Encoding),
        Code::Internal => Some(Protocol::Malformed),
        _ => None,
    }
}

fn protocol_text(broken: Protocol, found: &Status) -> String {
    match broken {
        Protocol::MethodUnknown => {
            "no such method; the bridge serves alim.v1.GraphService and alim.v1.ThreadService"
                .into()
        }
        Protocol::TooLarge => format!("the request is too large: {}", found.message()),
        Protocol::Malformed => format!("the request can't be decoded: {}", found.message()),
        Protocol::Encoding | Protocol::ContentType | Protocol::Origin => found.message().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic_types::StatusExt;

    use super::*;

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
    async fn a_panic_is_told_with_a_status_and_not_with_a_reset() {
        let second = Duration::from_secs(1);
        let edge = Edge {
            metrics: Arc::new(Metrics::new().expect("metrics")),
            traces: None,
            callers: None,
            origins: None,
            clocks: Clocks {
                invoke: second,
                initial: second,
                idle: second,
                lifetime: second,
            },
            goaway: CancellationToken::new(),
        };
        let request = Request::post("/alim.v1.GraphService/Invoke")
            .header(CONTENT_TYPE, "application/grpc")
            .body(Body::empty());
        let answer = edge.layer(Panics).call(request.expect("a request")).await;
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
