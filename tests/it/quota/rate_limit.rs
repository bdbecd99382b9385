//! A rate limit service on a real socket. It admits a number of requests and then none.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use alim_bridge::pb::rate_limit::{
    RateLimitRequest, RateLimitResponse,
    rate_limit_response::{Code, DescriptorStatus, RateLimit},
    rate_limit_service_server::{RateLimitService, RateLimitServiceServer},
};
use http::HeaderMap;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{
    Request, Response, Status,
    transport::{Identity, Server, ServerTlsConfig},
};

use crate::tls::authority;

/// Until its window ends, whenever it is asked.
pub(super) const RESET: Duration = Duration::from_secs(7);

#[derive(Debug)]
struct State {
    limit: u32,
    count: u32,
    metadata: Vec<HeaderMap>,
    descriptors: Vec<usize>,
    peers: HashSet<SocketAddr>,
}

#[derive(Clone, Debug)]
struct Counter(Arc<Mutex<State>>);

/// The running service.
pub(super) struct Limiter {
    pub(super) url: String,
    counter: Counter,
    _task: AbortOnDropHandle<Result<(), tonic::transport::Error>>,
}

impl Limiter {
    pub(super) async fn start(limit: u32) -> Self {
        Self::with("http", "127.0.0.1", Server::builder(), limit).await
    }

    /// A service with TLS and this certificate for localhost.
    pub(super) async fn with_tls(identity: &authority::Identity, limit: u32) -> Self {
        let identity = Identity::from_pem(&identity.cert, &identity.key);
        let tls = ServerTlsConfig::new().identity(identity);
        let server = Server::builder().tls_config(tls).expect("a pair");
        Self::with("https", "localhost", server, limit).await
    }

    async fn with(scheme: &str, host: &str, mut server: Server, limit: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let counter = Counter(Arc::new(Mutex::new(State {
            limit,
            count: 0,
            metadata: Vec::new(),
            descriptors: Vec::new(),
            peers: HashSet::new(),
        })));
        let server = server.add_service(RateLimitServiceServer::new(counter.clone()));
        let serving = server.serve_with_incoming(TcpListenerStream::new(listener));
        Self {
            url: format!("{scheme}://{host}:{port}"),
            counter,
            _task: AbortOnDropHandle::new(tokio::spawn(serving)),
        }
    }

    /// The metadata of each question.
    pub(super) fn metadata(&self) -> Vec<HeaderMap> {
        self.counter.0.lock().expect("no panic").metadata.clone()
    }

    /// The number of descriptors of each question.
    pub(super) fn descriptors(&self) -> Vec<usize> {
        self.counter.0.lock().expect("no panic").descriptors.clone()
    }

    /// The connections that questions came over.
    pub(super) fn connections(&self) -> usize {
        self.counter.0.lock().expect("no panic").peers.len()
    }
}

#[tonic::async_trait]
impl RateLimitService for Counter {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let mut state = self.0.lock().expect("no panic");
        state.peers.extend(request.remote_addr());
        state
            .metadata
            .push(request.metadata().clone().into_headers());
        let asked = request.into_inner();
        state.descriptors.push(asked.descriptors.len());
        state.count += asked.hits_addend;
        let code = match state.count > state.limit {
            true => Code::OverLimit,
            false => Code::Ok,
        };
        let status = DescriptorStatus {
            code: code.into(),
            current_limit: Some(RateLimit {
                requests_per_unit: state.limit,
            }),
            limit_remaining: state.limit.saturating_sub(state.count),
            duration_until_reset: RESET.try_into().ok(),
        };
        Ok(Response::new(RateLimitResponse {
            overall_code: code.into(),
            statuses: vec![status],
        }))
    }
}
