//! gRPC-Web and CORS for pages in browsers.
//!
//! This is the outermost layer, so the [middleware](super) sees every call as gRPC. tonic-web turns requests into gRPC, and
//! trailers into the response's last frame. This module answers preflights and adds the CORS headers (Fetch, 3.2).
//!
//! An origin that is not listed gets no CORS header, so its page can read nothing, and the middleware rejects its call.
//! Without origins, this layer changes nothing.

use std::{
    convert::Infallible,
    future::{Future, ready},
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::future::Either;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
        CONTENT_TYPE, ORIGIN, VARY,
    },
};
use tonic::body::Body;
use tonic_web::GrpcWebLayer;
use tower::{Layer as _, Service};

use super::{origins::Origins, protocol::is_grpc, response_body::ResponseBody, unread::Unread};

/// The headers that a page can send: those of gRPC-Web, credentials, and those that cross to the upstream.
const REQUEST_HEADERS: HeaderValue = HeaderValue::from_static(
    "content-type, x-grpc-web, x-user-agent, grpc-timeout, authorization, x-api-key, \
     x-request-id, traceparent, tracestate, baggage, accept-language",
);
/// The content types that tonic-web serves.
const WEB_TYPES: [&str; 4] = [
    "application/grpc-web",
    "application/grpc-web+proto",
    "application/grpc-web-text",
    "application/grpc-web-text+proto",
];
/// The response headers that a page can read, in addition to the rate limits.
const RESPONSE_HEADERS: &str = "grpc-status, grpc-message, grpc-status-details-bin, x-request-id, \
                                x-thread-id, retry-after, grpc-retry-pushback-ms";
/// Seconds for which a browser can cache a preflight; Chromium's maximum.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");

/// A service with or without gRPC-Web.
#[derive(Clone, Debug)]
pub enum WebService<S> {
    /// Without gRPC-Web.
    Off(S),
    /// With gRPC-Web, for the pages of these origins.
    On(Origins, S),
}

impl<S> WebService<S> {
    /// Wraps `inner` in gRPC-Web for the pages of `origins`, if there are any.
    pub fn new(origins: Option<&Origins>, inner: S) -> Self {
        match origins {
            None => Self::Off(inner),
            Some(origins) => Self::On(origins.clone(), inner),
        }
    }
}

impl<S> Service<Request<Body>> for WebService<S>
where
    S: Service<Request<Body>, Response = Response<ResponseBody>, Error = Infallible> + Clone,
    S::Future: Send + 'static,
{
    type Response = Response<http_body_util::Either<ResponseBody, Body>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        match self {
            Self::Off(inner) => inner.poll_ready(cx),
            Self::On(_, inner) => inner.poll_ready(cx),
        }
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self {
            Self::Off(inner) => {
                let response = inner.call(request);
                Box::pin(async { Ok(response.await?.map(http_body_util::Either::Left)) })
            }
            Self::On(origins, _) if is_preflight(&request) => {
                let response = answer_preflight(origins, request.headers());
                Box::pin(ready(Ok(response.map(http_body_util::Either::Right))))
            }
            Self::On(origins, inner) => {
                let allow_origin = origins.allow_origin(request.headers());
                let (unread, request) = Unread::follow(request);
                // tonic-web answers HTTP/1.1 of any other content type with 400, without a record and a reason.
                let response = if is_foreign(&request) {
                    let response = inner.call(request);
                    Either::Left(async { Ok(response.await?.map(Body::new)) })
                } else {
                    Either::Right(GrpcWebLayer::new().layer(inner.clone()).call(request))
                };
                Box::pin(async move {
                    let mut response: Response<Body> = response.await?;
                    add_cors_headers(response.headers_mut(), allow_origin);
                    unread.announce(response.headers_mut()).await;
                    Ok(response.map(http_body_util::Either::Right))
                })
            }
        }
    }
}

/// Whether this is a request of HTTP/1.1 that is neither gRPC-Web nor gRPC.
fn is_foreign(request: &Request<Body>) -> bool {
    let content_type = request.headers().get(CONTENT_TYPE);
    let is_web = content_type.is_some_and(|found| WEB_TYPES.iter().any(|web| found == web));
    request.version() < Version::HTTP_2 && !is_web && !is_grpc(request.headers())
}

/// Whether this is a CORS preflight (Fetch, 3.2.2). Browsers send one before every gRPC-Web call, because a plain form
/// cannot send its content type.
fn is_preflight(request: &Request<Body>) -> bool {
    let headers = request.headers();
    request.method() == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

fn answer_preflight(origins: &Origins, request: &HeaderMap) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::FORBIDDEN;
    let headers = response.headers_mut();
    headers.insert(VARY, ORIGIN.into());
    if let Some(origin) = origins.allow_origin(request) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let method = HeaderValue::from_static("POST");
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, method);
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS);
        headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        *response.status_mut() = StatusCode::NO_CONTENT;
    }
    response
}

/// If the origin is allowed, lets its page read the response.
fn add_cors_headers(headers: &mut HeaderMap, allow_origin: Option<HeaderValue>) {
    let Some(origin) = allow_origin else { return };
    let limits = headers.keys().map(HeaderName::as_str);
    let limits = limits.filter(|name| name.starts_with("x-ratelimit-"));
    let exposed = limits.fold(RESPONSE_HEADERS.to_owned(), |all, name| all + ", " + name);
    let exposed = HeaderValue::from_str(&exposed).expect("header names are visible ASCII");
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    headers.insert(VARY, ORIGIN.into());
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
}
