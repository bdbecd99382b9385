//! Certificates made in the test: an authority and the certificates that it signs, as PEM files in a directory.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tempfile::TempDir;

/// An authority that nobody trusts by default.
pub(crate) struct Authority {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its private key.
pub(crate) struct Identity {
    pub(crate) cert: String,
    pub(crate) key: String,
    pub(crate) der: Vec<u8>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let cert = params.self_signed(&key).expect("a certificate");
        Self {
            pem: cert.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Signs a certificate for a name or an IP address.
    pub(crate) fn vouch_for(&self, name: &str) -> Identity {
        self.sign(CertificateParams::new([name.to_owned()]).expect("a name"))
    }

    /// Signs a certificate for a URI, as a mesh does.
    pub(crate) fn vouch_for_uri(&self, uri: &str) -> Identity {
        let mut params = CertificateParams::default();
        let uri = uri.try_into().expect("ASCII");
        params.subject_alt_names = vec![SanType::URI(uri)];
        self.sign(params)
    }

    /// Signs a certificate that expires at the start of this year, month and day.
    pub(crate) fn vouch_until(&self, name: &str, (year, month, day): (i32, u8, u8)) -> Identity {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        params.not_after = rcgen::date_time_ymd(year, month, day);
        self.sign(params)
    }

    /// Signs a certificate that expires after these hours.
    pub(crate) fn vouch_for_hours(&self, name: &str, hours: u32) -> Identity {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        let now = SystemTime::now() + Duration::from_secs(3600) * hours;
        params.not_after = now.into();
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("signed");
        Identity {
            cert: cert.pem(),
            key: key.serialize_pem(),
            der: cert.der().to_vec(),
        }
    }
}

/// A directory with the bridge's PEM files, named as in Kubernetes.
pub(crate) struct Files(TempDir);

impl Files {
    pub(crate) fn with(identity: &Identity) -> Self {
        let files = Self(TempDir::new().expect("a directory"));
        files.replace(identity);
        files
    }

    pub(crate) fn replace(&self, identity: &Identity) {
        self.put("tls.crt", &identity.cert);
        self.put("tls.key", &identity.key);
    }

    pub(crate) fn put(&self, name: &str, pem: &str) {
        fs::write(self.0.path().join(name), pem).expect("written");
    }

    pub(crate) fn path(&self, name: &str) -> String {
        let path: PathBuf = self.0.path().join(name);
        path.to_str().expect("UTF-8").into()
    }
}
