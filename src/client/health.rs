//! The command `health`: reports a health check by its exit code, for a container's HEALTHCHECK.

use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use url::Url;

use super::{Error, Target, screen::print};
use crate::upstream;

/// Checks the health of `service` on a bridge. The name "" is the process.
///
/// # Errors
///
/// - [`Error::Unhealthy`] if it is not SERVING, and the errors of [`Target::connect`].
pub async fn grpc(target: &Target, service: String) -> Result<(), Error> {
    let mut client = HealthClient::new(target.connect().await?);
    let request = target.request(HealthCheckRequest { service })?;
    let status = client.check(request).await?.into_inner().status();
    match status {
        ServingStatus::Serving => print("SERVING\n"),
        _ => Err(Error::Unhealthy(status.as_str_name().into())),
    }
}

/// Checks that a URL, such as the embedded ALİM's `/live`, answers 200.
///
/// # Errors
///
/// - [`Error::Unhealthy`] if it does not.
pub async fn http(url: Url) -> Result<(), Error> {
    match upstream::answers(url).await {
        true => print("ok\n"),
        false => Err(Error::Unhealthy("the URL did not answer 200".into())),
    }
}
