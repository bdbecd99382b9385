//! `health`: one question, answered by the exit code, for a container's health check.

use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use url::Url;

use super::{Error, Target, screen::print};
use crate::upstream;

/// Asks a bridge for the health of `service`; "" is the process.
///
/// # Errors
///
/// - [`Error::Unhealthy`] when it is anything but SERVING; those of [`Target::connect`] too.
pub async fn grpc(target: &Target, service: String) -> Result<(), Error> {
    let mut client = HealthClient::new(target.connect().await?);
    let request = target.request(HealthCheckRequest { service })?;
    let status = client.check(request).await?.into_inner().status();
    match status {
        ServingStatus::Serving => print("SERVING\n"),
        _ => Err(Error::Unhealthy(status.as_str_name().into())),
    }
}

/// Asks an HTTP address, such as the embedded ALİM's `/live`, for a 200.
///
/// # Errors
///
/// - [`Error::Unhealthy`] when it does not answer so.
pub async fn http(url: Url) -> Result<(), Error> {
    match upstream::answers(url).await {
        true => print("ok\n"),
        false => Err(Error::Unhealthy("no 200 from there".into())),
    }
}
