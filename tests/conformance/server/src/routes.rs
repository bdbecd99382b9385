//! Which service a path belongs to, and as which method of the bridge it passes the layers.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderMap, HeaderValue, Request, Response, Uri, header::CONTENT_TYPE};
use http_body_util::BodyExt;
use tonic::{body::Body, codec::CompressionEncoding};
use tower::Service;

use crate::{
    conformance::{Conformance, Trailers},
    h2spec,
    pb::conformance_service_server::ConformanceServiceServer,
};

/// The path as the caller sent it.
#[derive(Clone)]
struct SentPath(Uri);

/// Prepares a request for the layers: it gets the path of the bridge's method that it stands for. h2spec sends GETs alone, which
/// the layers reject at once, so one path of it becomes a gRPC call.
pub(crate) fn prepare(mut request: Request<Body>) -> Request<Body> {
    let stands_for = match request.uri().path() {
        "/connectrpc.conformance.v1.ConformanceService/Unary" => "/alim.v1.GraphService/Invoke",
        "/connectrpc.conformance.v1.ConformanceService/ServerStream" => {
            "/alim.v1.GraphService/Stream"
        }
        h2spec::PATH => {
            *request.method_mut() = http::Method::POST;
            let grpc = HeaderValue::from_static("application/grpc");
            request.headers_mut().insert(CONTENT_TYPE, grpc);
            return request;
        }
        _ => return request,
    };
    let sent = std::mem::replace(request.uri_mut(), Uri::from_static(stands_for));
    request.extensions_mut().insert(SentPath(sent));
    request
}

/// The services under the layers.
#[derive(Clone)]
pub(crate) struct Routes(ConformanceServiceServer<Conformance>);

impl Routes {
    /// Compresses and limits messages as the bridge's own services do.
    pub(crate) fn new(max_request_bytes: usize) -> Self {
        Self(
            ConformanceServiceServer::new(Conformance)
                .accept_compressed(CompressionEncoding::Gzip)
                .max_decoding_message_size(max_request_bytes)
                .max_encoding_message_size(usize::MAX),
        )
    }
}

impl Service<Request<Body>> for Routes {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if request.uri().path() == h2spec::PATH {
            return Box::pin(async { Ok(h2spec::answer(request).await) });
        }
        if let Some(SentPath(sent)) = request.extensions_mut().remove() {
            *request.uri_mut() = sent;
        }
        let response = self.0.call(request);
        Box::pin(async { Ok(with_trailers(response.await?)) })
    }
}

/// Adds the service's own trailers to tonic's: tonic has no way to send any with OK.
fn with_trailers(mut response: Response<Body>) -> Response<Body> {
    let Some(Trailers(more)) = response.extensions_mut().remove() else {
        return response;
    };
    response.map(|body| {
        Body::new(body.map_frame(move |mut frame| {
            if let Some(trailers) = frame.trailers_mut() {
                append(trailers, &more);
            }
            frame
        }))
    })
}

/// Adds all values of `more`, beside those that are there.
fn append(map: &mut HeaderMap, more: &HeaderMap) {
    for (name, value) in more {
        map.append(name, value.clone());
    }
}
