//! The health service, with a `Watch` that stays open for unknown services.
//!
//! grpc.health.v1 requires SERVICE_UNKNOWN and an open stream. tonic-health's own `Watch` ends with NOT_FOUND. No
//! service becomes known after startup, so the first message about an unknown one is also the last.

use std::pin::Pin;

use tokio_stream::{Stream, StreamExt, once, pending};
use tonic::{Code, Request, Response, Status};
use tonic_health::{
    pb::{
        HealthCheckRequest, HealthCheckResponse,
        health_check_response::ServingStatus,
        health_server::{Health, HealthServer},
    },
    server::{HealthReporter, HealthService},
};

/// The service that reports the statuses set on `reporter`.
pub(super) fn service(reporter: &HealthReporter) -> HealthServer<impl Health> {
    HealthServer::new(Watched(HealthService::from_health_reporter(
        reporter.clone(),
    )))
}

struct Watched(HealthService);

#[tonic::async_trait]
impl Health for Watched {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        self.0.check(request).await
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        match self.0.watch(request).await {
            Ok(news) => Ok(news.map(|news| Box::pin(news) as Self::WatchStream)),
            Err(status) if status.code() == Code::NotFound => {
                let unknown = HealthCheckResponse {
                    status: ServingStatus::ServiceUnknown.into(),
                };
                Ok(Response::new(Box::pin(once(Ok(unknown)).chain(pending()))))
            }
            Err(status) => Err(status),
        }
    }
}
