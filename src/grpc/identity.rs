//! Who calls, by a call's head alone: before anything is admitted or read.

use http::{HeaderMap, header::AUTHORIZATION};

use super::{
    failure::{Credentials, Failure},
    request::caller_key,
};
use crate::{
    callers::CallerKeys,
    reload::Reload,
    telemetry::{Method, Record},
};

/// Who may call.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The keys of those who may; `None` when everyone may.
    pub callers: Option<Reload<CallerKeys>>,
    /// Whose key the upstream is shown.
    pub credentials: Credentials,
}

impl Identity {
    /// Names the caller in the record. Health is exempt, because probes have no keys; reflection is not.
    ///
    /// # Errors
    ///
    /// - [`Failure::CredentialsMissing`] when a key is needed and none was sent, the caller's own for the upstream too.
    /// - [`Failure::CredentialsRejected`] when the key is not known.
    pub(super) fn identify(
        &self,
        method: Method,
        metadata: &HeaderMap,
        record: &Record,
    ) -> Result<(), Failure> {
        let is_health = matches!(method, Method::HealthCheck | Method::HealthWatch);
        if let Some(callers) = self.callers.as_ref().filter(|_| !is_health) {
            let callers = callers.load();
            let name = callers.identify(bearer_key(metadata)?);
            record.caller(name.ok_or(Failure::CredentialsRejected)?);
        }
        let brings_key = self.credentials == Credentials::Caller && method.is_ours();
        match brings_key && caller_key(metadata).is_none() {
            true => Err(Failure::CredentialsMissing),
            false => Ok(()),
        }
    }
}

/// RFC 6750, 2.1.
fn bearer_key(metadata: &HeaderMap) -> Result<&str, Failure> {
    let shown = metadata.get(AUTHORIZATION);
    let shown = shown.ok_or(Failure::CredentialsMissing)?.to_str();
    let shown = shown.map_err(|_| Failure::CredentialsRejected)?;
    let (scheme, key) = shown.split_once(' ').ok_or(Failure::CredentialsRejected)?;
    match scheme.eq_ignore_ascii_case("bearer") {
        true => Ok(key.trim_start()),
        false => Err(Failure::CredentialsRejected),
    }
}
