//! The failure of a call, with all that the bridge says about it.

use std::{error::Error, fmt, iter, ops::Deref, time::Duration};

use tonic::{Code, ConnectError, Status, metadata::MetadataMap};
use tonic_types::StatusExt;

pub(crate) const REQUEST_ID: &str = "x-request-id";

/// A call that did not end with OK; reads as a [`Failure`]. Its source is tonic's own [`Status`].
#[derive(Debug)]
pub struct AlimError(Box<Failure>);

#[derive(Debug)]
pub struct Failure {
    pub code: Code,
    pub message: String,
    /// Stable, such as UPSTREAM_RATE_LIMITED. Empty if this side ended the call.
    pub reason: String,
    /// The fields of the request that are not valid.
    pub fields: Vec<FieldFault>,
    /// If it is set, ask again after this time.
    pub retry_after: Option<Duration>,
    /// Whether ALİM may have seen the question. `None` if unknown: treat it as true.
    pub sent: Option<bool>,
    /// How many events a stream had delivered.
    pub events_delivered: Option<u64>,
    /// Look for it in the bridge's log.
    pub request_id: Option<String>,
    status: Status,
}

/// What is wrong with one field.
#[derive(Clone, Debug)]
pub struct FieldFault {
    pub name: String,
    pub description: String,
}

impl AlimError {
    /// Reads a status. A stream that had begun says its request id in its headers, any other call in its status.
    pub(crate) fn new(status: Status, headers: Option<&MetadataMap>) -> Self {
        let details = status.get_error_details();
        let info = details
            .error_info()
            .filter(|info| info.domain == "alim-bridge");
        let fact = |name: &str| info.and_then(|info| info.metadata.get(name));
        let id_in =
            |metadata: &MetadataMap| Some(metadata.get(REQUEST_ID)?.to_str().ok()?.to_owned());
        let violations = details.bad_request().map(|bad| &bad.field_violations[..]);
        let violations = violations.unwrap_or_default().iter();
        let failure = Failure {
            code: status.code(),
            message: status.message().to_owned(),
            reason: info.map(|info| info.reason.clone()).unwrap_or_default(),
            fields: violations
                .map(|it| FieldFault {
                    name: it.field.clone(),
                    description: it.description.clone(),
                })
                .collect(),
            retry_after: details.retry_info().and_then(|retry| retry.retry_delay),
            sent: match is_caused_by::<ConnectError>(&status) {
                true => Some(false), // the bridge was not reached
                false => fact("sent").map(|sent| sent == "true"),
            },
            events_delivered: fact("eventsDelivered").and_then(|events| events.parse().ok()),
            request_id: id_in(status.metadata()).or_else(|| headers.and_then(id_in)),
            status,
        };
        Self(Box::new(failure))
    }

    /// This side's clock ended the call.
    pub(crate) fn deadline() -> Self {
        Self::new(Status::deadline_exceeded("the deadline has passed"), None)
    }

    /// The bridge's word to retry policies: `None` where it says nothing, an error where it forbids another try.
    pub(crate) fn pushback(&self) -> Option<Result<Duration, ()>> {
        let said = self.0.status.metadata().get("grpc-retry-pushback-ms")?;
        let said = said.to_str().ok().and_then(|said| said.parse().ok());
        Some(said.map(Duration::from_millis).ok_or(()))
    }
}

/// Whether tonic made the status of such an error.
pub(crate) fn is_caused_by<E: Error + 'static>(status: &Status) -> bool {
    let mut causes = iter::successors(status.source(), |cause| (**cause).source());
    causes.any(|cause| cause.is::<E>())
}

impl Deref for AlimError {
    type Target = Failure;

    fn deref(&self) -> &Failure {
        &self.0
    }
}

impl fmt::Display for AlimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}: {}", self.code, self.reason, self.message)
    }
}

impl Error for AlimError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0.status)
    }
}
