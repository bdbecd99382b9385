//! A path whose answer has DATA, for the cases of h2spec that need it. It answers only when the whole request has come, so a
//! faulty frame after the head is never too late.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tonic::{Status, body::Body};

pub(crate) const PATH: &str = "/h2spec";

pub(crate) async fn answer(request: Request<Body>) -> Response<Body> {
    let read = request.into_body().collect().await;
    if read.is_err() {
        return Status::unknown("the request broke off").into_http();
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let message = Bytes::from_static(b"\0\0\0\0\x03\x0a\x01x");
    let frames = [
        Ok(Frame::data(message)),
        Ok::<_, Status>(Frame::trailers(trailers)),
    ];
    let mut response = Response::new(Body::new(StreamBody::new(tokio_stream::iter(frames))));
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(CONTENT_TYPE, grpc);
    response
}
