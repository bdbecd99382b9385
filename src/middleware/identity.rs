//! Who calls, by a call's head and its connection alone: before anything is admitted or read.
//!
//! In this order: the bearer key, the certificate of the connection, what a trusted proxy says. The first that is there
//! decides: one that is wrong never falls through to the next.

use std::sync::Arc;

use http::{HeaderMap, header::AUTHORIZATION};
use secrecy::SecretString;

use crate::{
    callers::{Caller, Callers, TrustedProxies},
    inbound::Connection,
    reload::Reload,
    status::{Credentials, Failure},
    telemetry::{Method, Record},
};

const API_KEY: &str = "x-api-key";

/// Who may call.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Those who may; `None` when everyone may.
    pub callers: Option<Reload<Callers>>,
    /// The proxies who may say which of them calls.
    pub trusted_proxies: TrustedProxies,
    /// Whose key the upstream is shown.
    pub credentials: Credentials,
}

impl Identity {
    /// Finds the caller, and names it in the record. Health is exempt, because probes have no keys; reflection is not.
    ///
    /// # Errors
    ///
    /// - [`Failure::CredentialsMissing`] when a caller must be known and showed nothing, or no key for the upstream.
    /// - [`Failure::CredentialsRejected`] when what it showed is nobody's.
    pub(crate) fn identify(
        &self,
        method: Method,
        metadata: &HeaderMap,
        connection: &Connection,
        record: &Record,
    ) -> Result<Option<Arc<Caller>>, Failure> {
        let is_health = matches!(method, Method::HealthCheck | Method::HealthWatch);
        let callers = self.callers.as_ref().filter(|_| !is_health);
        let caller = match callers {
            Some(callers) => Some(self.caller(&callers.load(), metadata, connection)?),
            None => None,
        };
        if let Some(caller) = &caller {
            record.caller(caller.name());
        }
        let brings_key = self.credentials == Credentials::Caller && method.is_ours();
        match brings_key && caller_key(metadata).is_none() {
            true => Err(Failure::CredentialsMissing),
            false => Ok(caller),
        }
    }

    fn caller(
        &self,
        callers: &Callers,
        metadata: &HeaderMap,
        connection: &Connection,
    ) -> Result<Arc<Caller>, Failure> {
        let known = |caller: Option<&Arc<Caller>>| caller.cloned();
        if let Some(key) = bearer_key(metadata)? {
            return known(callers.with_key(key)).ok_or(Failure::CredentialsRejected);
        }
        if !callers.know_certificates() {
            return Err(Failure::CredentialsMissing); // a certificate identifies nobody then
        }
        if let Some(names) = connection.certificate_names() {
            return known(callers.with_certificate(names)).ok_or(Failure::CredentialsRejected);
        }
        let peer = connection.peer().ip();
        let named = self.trusted_proxies.names(peer, metadata);
        let named = named.map_err(|_| Failure::CredentialsRejected)?;
        let mut found = named.iter().map(|names| callers.with_certificate(names));
        let first = found.next().ok_or(Failure::CredentialsMissing)?;
        let first = first.ok_or(Failure::CredentialsRejected)?;
        let agrees = |other: Option<&Arc<Caller>>| other.is_some_and(|it| Arc::ptr_eq(it, first));
        match found.all(agrees) {
            true => Ok(Arc::clone(first)),
            false => Err(Failure::CredentialsRejected),
        }
    }
}

/// RFC 6750, 2.1; `None` where there are no credentials at all.
fn bearer_key(metadata: &HeaderMap) -> Result<Option<&str>, Failure> {
    let mut shown = metadata.get_all(AUTHORIZATION).iter();
    let Some(first) = shown.next() else {
        return Ok(None);
    };
    let first = first.to_str().ok().filter(|_| shown.next().is_none());
    let (scheme, key) = first
        .and_then(|text| text.split_once(' '))
        .ok_or(Failure::CredentialsRejected)?;
    match scheme.eq_ignore_ascii_case("bearer") {
        true => Ok(Some(key.trim_start())),
        false => Err(Failure::CredentialsRejected),
    }
}

/// The caller's own key for the upstream.
pub(crate) fn caller_key(metadata: &HeaderMap) -> Option<SecretString> {
    let key = metadata.get(API_KEY)?.to_str().ok()?;
    (!key.is_empty()).then(|| SecretString::from(key))
}
