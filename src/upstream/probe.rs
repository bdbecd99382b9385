//! Probes: whether the upstream would accept a call now.
//!
//! Without a health URL, the probe opens a connection as a call does, TLS included, and closes it. With one, a GET must
//! return 200. If the health URL is below the base URL, where ALİM requires a key, the probe sends the bridge's own key. It sends
//! the key to no other URL.

use std::sync::Arc;

use http::{StatusCode, header};
use http_body_util::{BodyExt, Limited};
use reqwest::Url;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use rustls_platform_verifier::BuilderVerifierExt;
use secrecy::SecretString;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{
    Settings, Upstream, descriptors,
    health::{explained, root_cause},
    request::{JSON, MarkSentOnDrop, USER_AGENT, key_header},
    response,
};
use crate::quota::{Slots, UpstreamKey};

/// Maximum size of a health page in bytes. For a larger page only the status counts.
const MAX_PAGE_BYTES: usize = 16 * 1024;

impl Settings {
    /// The key that is sent to the health URL: the bridge's own, and only below the base URL. ALİM counts such a
    /// probe against the key's rate limit.
    pub fn health_key(&self) -> Option<SecretString> {
        let health = self.health_url.as_ref()?;
        let base = format!("{}/", self.url.path().trim_end_matches('/'));
        let is_below_base =
            health.origin() == self.url.origin() && health.path().starts_with(&base);
        let key = self.key.as_ref().filter(|_| is_below_base)?;
        Some(key.load().as_ref().clone())
    }
}

impl Upstream {
    /// Probes the upstream within the connect timeout, and records the result in [`Upstream::health`]. With a health URL, success is a
    /// 200 that is not `{"healthy": false}`. Without one, success is an accepted connection.
    ///
    /// If the bridge has no free file descriptor, nothing is recorded.
    ///
    /// A probe with the key counts against the key's quota. If the quota is used up, nothing is sent and nothing recorded.
    pub async fn probe(&self) {
        let (url, failed) = match &self.settings.health_url {
            Some(url) => {
                let key = self.settings.health_key();
                let slots = match &key {
                    Some(_) => self.quota.try_acquire(&UpstreamKey::Service).await,
                    None => Ok(Slots::default()),
                };
                let Ok(slots) = slots else { return };
                (url, self.bounded(self.get_page(url, key, &slots)).await)
            }
            None => (
                &self.settings.url,
                self.bounded(self.connect(&self.settings.url)).await,
            ),
        };
        if failed.is_err() && descriptors::are_exhausted(None) {
            return; // this says nothing about the upstream
        }
        self.health.record_probe(url, failed.err());
    }

    async fn bounded(&self, work: impl Future<Output = Result<(), String>>) -> Result<(), String> {
        let limit = self.settings.connect_timeout;
        let bounded = tokio::time::timeout(limit, work).await;
        bounded.unwrap_or_else(|_| Err(format!("no answer within {limit:?}")))
    }

    async fn get_page(
        &self,
        url: &Url,
        key: Option<SecretString>,
        slots: &Slots,
    ) -> Result<(), String> {
        let mut request = self.client.get(url.clone());
        request = request.header(header::USER_AGENT, USER_AGENT);
        if let Some(key) = &key {
            request = request.header("x-api-key", key_header(key));
        }
        let mark = MarkSentOnDrop::new(slots.current());
        let answer = request.send().await;
        if answer.as_ref().is_err_and(reqwest::Error::is_connect) {
            mark.disarm();
        }
        let answer = answer.map_err(|error| root_cause(&error))?;
        if let Some(slot) = slots.current() {
            slot.reconcile(response::limits(&answer));
        }
        if answer.status() != StatusCode::OK {
            return Err(format!("answered {}", answer.status().as_u16()));
        }
        let is_json = answer
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(JSON.as_bytes()));
        match is_json && reports_unhealthy(answer).await {
            true => Err("answered that it is not healthy".into()),
            false => Ok(()),
        }
    }

    async fn connect(&self, url: &Url) -> Result<(), String> {
        let host = url.host_str().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = url.port_or_known_default().unwrap_or(80);
        let socket = TcpStream::connect((host, port)).await;
        let socket = socket.map_err(|error| error.to_string())?;
        let Some(tls) = &self.tls else { return Ok(()) };
        let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
        let tls = TlsConnector::from(Arc::clone(tls));
        let handshake = tls.connect(name, socket).await;
        handshake
            .map(drop)
            .map_err(|error| explained(error.to_string()))
    }
}

async fn reports_unhealthy(answer: reqwest::Response) -> bool {
    let body = http::Response::from(answer).into_body();
    let Ok(page) = Limited::new(body, MAX_PAGE_BYTES).collect().await else {
        return false;
    };
    let page = serde_json::from_slice::<serde_json::Value>(&page.to_bytes());
    page.is_ok_and(|page| page.get("healthy") == Some(&false.into()))
}

/// TLS as calls use it, for a probe that only connects. `None` if the base URL is plain HTTP. Also `None` if the roots can't be
/// used; the client for calls reports that.
pub(super) fn tls(settings: &Settings) -> Option<Arc<ClientConfig>> {
    if settings.url.scheme() != "https" {
        return None;
    }
    let builder = ClientConfig::builder();
    let builder = match &settings.ca_pem {
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            let authorities = CertificateDer::pem_slice_iter(pem).flatten();
            roots.add_parsable_certificates(authorities);
            builder.with_root_certificates(roots)
        }
        None => builder.with_platform_verifier().ok()?,
    };
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Some(Arc::new(config))
}
