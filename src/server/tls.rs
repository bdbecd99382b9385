//! Server-side TLS: built from PEM files, and rebuilt when they change.

use std::{
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use crate::reload::{self, Reload};

/// The paths of the PEM files.
#[derive(Clone, Debug)]
pub struct Files {
    /// The certificate chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authorities that must have signed callers' certificates. If set, TLS is mutual.
    pub client_ca: Option<PathBuf>,
}

/// The TLS configuration towards callers.
pub struct Tls {
    pub(super) config: Arc<ServerConfig>,
    /// The earliest expiry in the certificate chain, in Unix time. `None` if it can't be read.
    pub(super) expires: Option<i64>,
    /// The contents of the client authorities' PEM file, if TLS is mutual.
    pub(crate) client_ca: Option<Vec<u8>>,
}

impl fmt::Debug for Tls {
    /// Omits the private key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Tls");
        debug
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// If the chain expires within this time, the bridge warns.
const EXPIRY_WARNING: Duration = Duration::from_secs(24 * 3600);

impl Tls {
    /// Logs a warning if the certificate chain has expired or expires within a day. It is used nonetheless.
    pub fn warn_about_expiry(&self) {
        let seconds = self.expires.map(|at| u64::try_from(at).unwrap_or(0));
        let Some(expires) = seconds.map(|at| SystemTime::UNIX_EPOCH + Duration::from_secs(at))
        else {
            return;
        };
        let at = humantime::format_rfc3339_seconds(expires);
        match expires.duration_since(SystemTime::now()) {
            Err(_) => {
                tracing::warn!(expired = %at, "the certificate of TLS_CERT_FILE has expired: callers that check it can't connect");
            }
            Ok(left) if left < EXPIRY_WARNING => {
                tracing::warn!(expires = %at, "the certificate of TLS_CERT_FILE expires within a day");
            }
            Ok(_) => {}
        }
    }
}

/// The protocols offered by ALPN (RFC 7301), in order of preference.
const HTTP2: &[&[u8]] = &[b"h2"];
const HTTP2_OR_1: &[&[u8]] = &[b"h2", b"http/1.1"];

/// Reads the files, and reloads them when they change. If `serves_http1`, HTTP/1.1 is offered in addition to HTTP/2.
///
/// # Errors
///
/// - [`reload::Error`] if a file can't be read or has no usable PEM.
pub fn load(files: Files, serves_http1: bool) -> Result<Reload<Tls>, reload::Error> {
    let mut paths = vec![files.cert, files.key];
    paths.extend(files.client_ca);
    match serves_http1 {
        true => Reload::files(paths, |contents| parse(contents, HTTP2_OR_1)),
        false => Reload::files(paths, |contents| parse(contents, HTTP2)),
    }
}

fn parse(contents: &[Vec<u8>], protocols: &[&[u8]]) -> Result<Tls, String> {
    let [cert, key, rest @ ..] = contents else {
        return Err("a certificate and a key are needed".into());
    };
    let chain = certificates(cert)?;
    let expires: Option<Vec<_>> = chain.iter().map(not_after).collect();
    let expires = expires.and_then(|all| all.into_iter().min());
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|error| format!("TLS_KEY_FILE holds no usable private key: {error}"))?;
    let builder = ServerConfig::builder();
    let builder = match rest.first() {
        None => builder.with_no_client_auth(),
        Some(authorities) => {
            let roots = Arc::new(self::authorities(authorities)?);
            let verifier = WebPkiClientVerifier::builder(roots).build();
            builder
                .with_client_cert_verifier(verifier.map_err(|error| format!("client CA: {error}"))?)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| format!("certificate: {error}"))?;
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Ok(Tls {
        config: Arc::new(config),
        expires,
        client_ca: rest.first().cloned(),
    })
}

/// The URIs and DNS names of a certificate (RFC 5280, 4.2.1.6).
pub(super) fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let known = names.filter_map(|name| match name {
        GeneralName::URI(name) | GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    });
    known.collect()
}

/// `notAfter` (RFC 5280, 4.1.2.5).
fn not_after(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

/// Parses the authorities of a PEM file.
///
/// # Errors
///
/// - A sentence that says what is wrong. A file without any certificate is an error.
pub(crate) fn authorities(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(pem)? {
        let added = roots.add(authority);
        added.map_err(|error| format!("authority: {error}"))?;
    }
    Ok(roots)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| format!("certificate: {error}"))?;
    match chain.is_empty() {
        true => Err("no certificate in PEM".into()),
        false => Ok(chain),
    }
}
