//! The services, and the choice of the one that a call belongs to.
//!
//! Calls to ALİM go directly to their service. Health and reflection go through tonic's router.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use tonic::{
    body::Body,
    codec::CompressionEncoding,
    server::NamedService,
    service::{Routes, RoutesBuilder},
};
use tonic_health::pb::health_server::{Health, HealthServer};
use tower::Service;

use super::reflection::Reflection;
use crate::{
    pb::{graph_service_server::GraphServiceServer, thread_service_server::ThreadServiceServer},
    service::Bridge,
};

/// Maximum size of a health or reflection message in bytes. It has names of services and symbols only.
const MAX_PROBE_BYTES: usize = 16 * 1024;

/// What can be served under the layers.
pub trait CallServices:
    Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> CallServices for S where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

type Graph = GraphServiceServer<Bridge>;
type Threads = ThreadServiceServer<Bridge>;

/// All services of the bridge.
#[derive(Clone, Debug)]
pub(super) struct Services {
    graph: Graph,
    threads: Threads,
    others: Routes,
}

impl Services {
    /// `bridge` serves the calls to ALİM, whose messages have at most `max_request_bytes`. Health and reflection are added.
    pub(super) fn new(
        bridge: Bridge,
        max_request_bytes: usize,
        health: HealthServer<impl Health>,
    ) -> Self {
        let (mut others, reflection) = (RoutesBuilder::default(), Reflection::new());
        let (v1, v1alpha) = (reflection.v1(), reflection.v1alpha());
        others
            .add_service(health.max_decoding_message_size(MAX_PROBE_BYTES))
            .add_service(v1.max_decoding_message_size(MAX_PROBE_BYTES))
            .add_service(v1alpha.max_decoding_message_size(MAX_PROBE_BYTES));
        Self {
            graph: Graph::new(bridge.clone())
                .accept_compressed(CompressionEncoding::Gzip)
                .max_decoding_message_size(max_request_bytes)
                .max_encoding_message_size(usize::MAX),
            threads: Threads::new(bridge)
                .accept_compressed(CompressionEncoding::Gzip)
                .max_decoding_message_size(max_request_bytes)
                .max_encoding_message_size(usize::MAX),
            others: others.routes().prepare(),
        }
    }
}

impl Service<Request<Body>> for Services {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let service = request.uri().path().strip_prefix('/');
        let service = service.and_then(|path| Some(path.split_once('/')?.0));
        match service {
            Some(Graph::NAME) => self.graph.call(request),
            Some(Threads::NAME) => self.threads.call(request),
            _ => Box::pin(self.others.call(request)),
        }
    }
}
