//! A rate limit service for tests, over memory instead of sockets, so that the paused clock advances only while all wait.
//!
//! It counts in fixed windows, as `envoyproxy/ratelimit` does: each question counts against each of its limits, even if it
//! is over one of them.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::{
    io::duplex,
    time::{Instant, sleep},
};
use tonic::{
    Request, Response, Status,
    transport::{Endpoint, Server, Uri},
};
use tower::service_fn;

use super::Service;
use crate::pb::rate_limit::{
    RateLimitRequest, RateLimitResponse,
    rate_limit_response::{Code, DescriptorStatus, RateLimit},
    rate_limit_service_server::{RateLimitService, RateLimitServiceServer},
};

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::quota) enum Mode {
    Counts,
    /// It counts, but answers late.
    Slow(Duration),
    Fails,
    /// Its answer has no decision.
    Babbles,
    /// It is over every limit, and does not say which or for how long.
    Full,
    /// Nobody listens.
    Gone,
}

/// A question that it got.
#[derive(Clone, Debug)]
pub(in crate::quota) struct Asked {
    pub(in crate::quota) at: Instant,
    /// Such as `upstream_key=service/caller=orders`.
    pub(in crate::quota) descriptors: Vec<String>,
    pub(in crate::quota) hits: u32,
    pub(in crate::quota) is_admitted: bool,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    start: Instant,
    window: Duration,
    /// By descriptor. Others are unlimited.
    limits: HashMap<String, u32>,
    counts: HashMap<(String, u128), u32>,
    asked: Vec<Asked>,
}

/// The service. Clones share it.
#[derive(Clone, Debug)]
pub(in crate::quota) struct Fake(Arc<Mutex<State>>);

impl Fake {
    pub(in crate::quota) fn new(window: Duration, limits: &[(&str, u32)]) -> Self {
        let limits = limits
            .iter()
            .map(|(name, limit)| ((*name).to_owned(), *limit));
        Self(Arc::new(Mutex::new(State {
            mode: Mode::Counts,
            start: Instant::now(),
            window,
            limits: limits.collect(),
            counts: HashMap::new(),
            asked: Vec::new(),
        })))
    }

    pub(in crate::quota) fn set(&self, mode: Mode) {
        self.state().mode = mode;
    }

    pub(in crate::quota) fn asked(&self) -> Vec<Asked> {
        self.state().asked.clone()
    }

    /// The client of one bridge. Each of its connections has a server of its own.
    #[cfg(test)]
    pub(in crate::quota) fn client(&self) -> Service {
        let fake = self.clone();
        let connect = service_fn(move |_: Uri| {
            let fake = fake.clone();
            async move {
                if fake.state().mode == Mode::Gone {
                    return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
                }
                let (ours, theirs) = duplex(64 * 1024);
                let served = RateLimitServiceServer::new(fake);
                let incoming = tokio_stream::once(Ok::<_, io::Error>(theirs));
                let server = Server::builder().add_service(served);
                tokio::spawn(server.serve_with_incoming(incoming));
                Ok(TokioIo::new(ours))
            }
        });
        let endpoint = Endpoint::from_static("http://ratelimit");
        Service::over(endpoint.connect_with_connector_lazy(connect), "fake".into())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic")
    }
}

impl State {
    fn answer(&mut self, request: &RateLimitRequest) -> RateLimitResponse {
        let now = Instant::now();
        let since = now.duration_since(self.start);
        let number = since.as_nanos() / self.window.as_nanos();
        let end = self.window * u32::try_from(number + 1).expect("few");
        let descriptors: Vec<String> = request.descriptors.iter().map(name).collect();
        let status = |name: &String| {
            let Some(limit) = self.limits.get(name) else {
                return DescriptorStatus {
                    code: Code::Ok.into(),
                    ..DescriptorStatus::default()
                };
            };
            let count = self.counts.entry((name.clone(), number)).or_default();
            *count += request.hits_addend;
            let code = if *count > *limit {
                Code::OverLimit
            } else {
                Code::Ok
            };
            DescriptorStatus {
                code: code.into(),
                current_limit: Some(RateLimit {
                    requests_per_unit: *limit,
                }),
                limit_remaining: limit.saturating_sub(*count),
                duration_until_reset: (end - since).try_into().ok(),
            }
        };
        let statuses: Vec<_> = descriptors.iter().map(status).collect();
        let is_admitted = statuses.iter().all(|status| status.code() == Code::Ok);
        self.asked.push(Asked {
            at: now,
            descriptors,
            hits: request.hits_addend,
            is_admitted,
        });
        let code = if is_admitted {
            Code::Ok
        } else {
            Code::OverLimit
        };
        RateLimitResponse {
            overall_code: code.into(),
            statuses,
        }
    }
}

fn name(descriptor: &crate::pb::rate_limit::RateLimitDescriptor) -> String {
    let entries = descriptor.entries.iter();
    let entries = entries.map(|entry| format!("{}={}", entry.key, entry.value));
    entries.collect::<Vec<_>>().join("/")
}

#[tonic::async_trait]
impl RateLimitService for Fake {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        assert_eq!(request.get_ref().domain, "alim-bridge");
        let mode = self.state().mode;
        match mode {
            Mode::Counts => Ok(Response::new(self.state().answer(request.get_ref()))),
            Mode::Slow(time) => {
                let answer = self.state().answer(request.get_ref());
                sleep(time).await;
                Ok(Response::new(answer))
            }
            Mode::Babbles => Ok(Response::new(RateLimitResponse::default())),
            Mode::Full => Ok(Response::new(RateLimitResponse {
                overall_code: Code::OverLimit.into(),
                statuses: Vec::new(),
            })),
            Mode::Fails | Mode::Gone => Err(Status::unknown("no Redis")),
        }
    }
}
