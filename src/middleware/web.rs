//! gRPC-Web and CORS, for pages in browsers: the outermost layer, so that the edge sees every call as gRPC.
//!
//! tonic-web turns requests into gRPC and trailers into the answer's last frame; here stands what browsers ask
//! before and after (Fetch, 3.2). A preflight is answered without a call. An origin that is not listed
//! gets no header that would let its page read anything, and the [middleware](super) rejects its call. Without
//! origins this layer passes everything on as it is.

use std::{
    convert::Infallible,
    future::{Future, ready},
    pin::Pin,
    task::{Context, Poll},
};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
        ORIGIN, VARY,
    },
};
use http_body_util::Either;
use tonic::body::Body;
use tonic_web::{GrpcWebLayer, GrpcWebService};
use tower::{Layer as _, Service};

use super::{origins::Origins, response_body::ResponseBody};

/// What a page may send: gRPC-Web's own, credentials, and what crosses to the upstream.
const REQUEST_HEADERS: HeaderValue = HeaderValue::from_static(
    "content-type, x-grpc-web, x-user-agent, grpc-timeout, authorization, x-api-key, \
     x-request-id, traceparent, tracestate, baggage, accept-language",
);
/// What a page may read of a head, beside the rate limits that are there.
const ANSWER_HEADERS: &str = "grpc-status, grpc-message, grpc-status-details-bin, x-request-id, \
                              x-thread-id, retry-after, grpc-retry-pushback-ms";
/// Seconds for which a browser need not ask again; Chromium takes no more.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");

/// A service that pages may call, or may not.
#[derive(Clone, Debug)]
pub enum WebService<S> {
    /// As it is.
    Off(S),
    /// For the pages of these origins.
    On(Origins, GrpcWebService<S>),
}

impl<S> WebService<S> {
    /// Puts gRPC-Web round `inner`, for the pages of `origins`.
    pub fn new(origins: Option<&Origins>, inner: S) -> Self {
        match origins {
            None => Self::Off(inner),
            Some(origins) => Self::On(origins.clone(), GrpcWebLayer::new().layer(inner)),
        }
    }
}

impl<S> Service<Request<Body>> for WebService<S>
where
    S: Service<Request<Body>, Response = Response<ResponseBody>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Either<ResponseBody, Body>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        match self {
            Self::Off(inner) => inner.poll_ready(cx),
            Self::On(_, inner) => Service::<Request<Body>>::poll_ready(inner, cx),
        }
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self {
            Self::Off(inner) => {
                let answer = inner.call(request);
                Box::pin(async { Ok(answer.await?.map(Either::Left)) })
            }
            Self::On(origins, _) if is_preflight(&request) => {
                let answer = preflight(origins, request.headers());
                Box::pin(ready(Ok(answer.map(Either::Right))))
            }
            Self::On(origins, inner) => {
                let shared_with = origins.shared_with(request.headers());
                let answer = inner.call(request);
                Box::pin(async {
                    let mut answer = answer.await?;
                    share(answer.headers_mut(), shared_with);
                    Ok(answer.map(Either::Right))
                })
            }
        }
    }
}

/// What a browser asks before a page's call (Fetch, 3.2.2); every gRPC-Web call is asked about, for no form
/// can send its content type.
fn is_preflight(request: &Request<Body>) -> bool {
    let headers = request.headers();
    request.method() == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

fn preflight(origins: &Origins, asked: &HeaderMap) -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::FORBIDDEN;
    let headers = answer.headers_mut();
    headers.insert(VARY, ORIGIN.into());
    if let Some(origin) = origins.shared_with(asked) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let method = HeaderValue::from_static("POST");
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, method);
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS);
        headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        *answer.status_mut() = StatusCode::NO_CONTENT;
    }
    answer
}

/// Lets the page read the answer, where it may.
fn share(headers: &mut HeaderMap, shared_with: Option<HeaderValue>) {
    let Some(origin) = shared_with else { return };
    let limits = headers.keys().map(HeaderName::as_str);
    let limits = limits.filter(|name| name.starts_with("x-ratelimit-"));
    let exposed = limits.fold(ANSWER_HEADERS.to_owned(), |all, name| all + ", " + name);
    let exposed = HeaderValue::from_str(&exposed).expect("names of headers are visible ASCII");
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    headers.insert(VARY, ORIGIN.into());
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
}
