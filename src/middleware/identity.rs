//! Identifies the caller from the request head and the connection, before the call is admitted or its message is read.
//!
//! The order is: bearer key, the connection's client certificate, a trusted proxy's header. The first that is present
//! decides. A wrong one never falls through to the next.

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

/// The rules that identify a caller.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The known callers; `None` admits everyone.
    pub callers: Option<Reload<Callers>>,
    /// The proxies that can name a caller in a header.
    pub trusted_proxies: TrustedProxies,
    /// Whose key the bridge sends to the upstream.
    pub credentials: Credentials,
}

impl Identity {
    /// Finds the caller and records its name. Health is exempt because probes have no keys; reflection is not exempt.
    ///
    /// # Errors
    ///
    /// - [`Failure::CredentialsMissing`] when credentials are required and absent, or the caller's upstream key is absent.
    /// - [`Failure::CredentialsRejected`] when the credentials match no caller.
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
        let needs_upstream_key = self.credentials == Credentials::Caller && method.is_ours();
        match needs_upstream_key && caller_key(metadata).is_none() {
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
            return Err(Failure::CredentialsMissing); // no caller is identified by a certificate
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
        let is_same = |other: Option<&Arc<Caller>>| other.is_some_and(|it| Arc::ptr_eq(it, first));
        match found.all(is_same) {
            true => Ok(Arc::clone(first)),
            false => Err(Failure::CredentialsRejected),
        }
    }
}

/// Reads the bearer token (RFC 6750, 2.1); `None` if there is no `authorization` at all.
fn bearer_key(metadata: &HeaderMap) -> Result<Option<&str>, Failure> {
    let mut values = metadata.get_all(AUTHORIZATION).iter();
    let Some(first) = values.next() else {
        return Ok(None);
    };
    let first = first.to_str().ok().filter(|_| values.next().is_none());
    let (scheme, key) = first
        .and_then(|text| text.split_once(' '))
        .ok_or(Failure::CredentialsRejected)?;
    match scheme.eq_ignore_ascii_case("bearer") {
        true => Ok(Some(key.trim_start())),
        false => Err(Failure::CredentialsRejected),
    }
}

/// The caller's own upstream key, from `x-api-key`.
pub(crate) fn caller_key(metadata: &HeaderMap) -> Option<SecretString> {
    let key = metadata.get(API_KEY)?.to_str().ok()?;
    (!key.is_empty()).then(|| SecretString::from(key))
}
