//! Opens the connection to a bridge: plain, TLS or mutual TLS. If nothing listens, the two sides do not agree about TLS
//! or the port is not the bridge's, it finds a hint for the user.

use std::{
    error::Error as StdError, io::ErrorKind, net::Ipv6Addr, path::Path, sync::Arc, time::Duration,
};

use http::{Uri, uri::Authority};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use url::Url;

use super::{Error, Target, has_userinfo, screen, show};
use crate::config::is_cleartext;

/// To connect to the bridge, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// While a call is open, the bridge is asked this often whether it is still there, and has this long to answer.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The port of a bridge, if the address has none.
const DEFAULT_PORT: u16 = 50051;

type BoxError = Box<dyn StdError + Send + Sync>;

impl Target {
    /// Opens a connection.
    ///
    /// # Errors
    ///
    /// - [`Error::Usage`] if the address or a file can't be used, [`Error::Connect`] if the bridge does not
    ///   answer.
    pub async fn connect(&self) -> Result<Channel, Error> {
        if has_userinfo(&self.address) {
            let why = "--address must not have a user or a password".into();
            return Err(Error::Usage(why));
        }
        let address = self.url();
        let has_key = self.caller_key.is_some() || self.api_key.is_some();
        if has_key && Url::parse(&address).is_ok_and(|url| is_cleartext(&url)) {
            screen::print_note(&format!(
                "alim-bridge: warning: the key is sent to {address} in clear text: use an --address with https://"
            ))?;
        }
        let usage = |why: String| Error::Usage(format!("{address}: {why}"));
        let endpoint = Endpoint::from_shared(address.clone());
        let mut endpoint = endpoint
            .map(with_keep_alive)
            .map_err(|error| usage(error.to_string()))?;
        let is_tls = address.starts_with("https://");
        if is_tls && !self.is_insecure {
            let tls = self.tls().map_err(Error::Usage)?;
            endpoint = endpoint
                .tls_config(tls)
                .map_err(|error| usage(error.to_string()))?;
        }
        let connect = async {
            match is_tls && self.is_insecure {
                true => self.connect_unverified(endpoint).await,
                false => Ok(endpoint.connect().await),
            }
        };
        let failed = |source: BoxError| Error::Connect { address, source };
        match timeout(CONNECT_TIMEOUT, connect).await {
            Ok(connected) => connected?.map_err(|error| failed(error.into())),
            Err(_) => Err(failed("it does not answer".into())),
        }
    }

    /// The bridge's URL. If the address has no scheme, the TLS flags decide between https and http.
    fn url(&self) -> String {
        if self.address.contains("://") {
            return self.address.clone();
        }
        let scheme = match self.ca_file.is_some() || self.identity.is_some() || self.is_insecure {
            true => "https",
            false => "http",
        };
        let host = match self.address.parse::<Ipv6Addr>() {
            Ok(ip) => format!("[{ip}]"),
            Err(_) => self.address.clone(),
        };
        let has_port = host
            .parse::<Authority>()
            .is_ok_and(|it| it.port().is_some());
        match has_port {
            true => format!("{scheme}://{host}"),
            false => format!("{scheme}://{host}:{DEFAULT_PORT}"),
        }
    }

    fn tls(&self) -> Result<ClientTlsConfig, String> {
        let tls = match &self.ca_file {
            Some(path) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(path)?)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        Ok(match &self.identity {
            Some((cert, key)) => tls.identity(Identity::from_pem(read(cert)?, read(key)?)),
            None => tls,
        })
    }

    /// Connects without verifying the certificate, which tonic itself always does.
    async fn connect_unverified(
        &self,
        endpoint: Endpoint,
    ) -> Result<Result<Channel, tonic::transport::Error>, Error> {
        let tls = self.unverified_tls().map_err(Error::Usage)?;
        let origin = endpoint.uri().clone();
        let connector = tower::service_fn(move |uri: Uri| {
            let tls = Arc::clone(&tls);
            async move {
                let host = uri.host().unwrap_or_default();
                let tls = handshake(tls, host, uri.port_u16().unwrap_or(443));
                Ok::<_, BoxError>(TokioIo::new(tls.await?))
            }
        });
        // tonic requires its own TLS configuration for a URL with https.
        let plain = origin.to_string().replacen("https://", "http://", 1);
        let endpoint = Endpoint::from_shared(plain)
            .map_err(|error| Error::Usage(error.to_string()))?
            .origin(origin);
        let endpoint = with_keep_alive(endpoint);
        Ok(endpoint.connect_with_connector(connector).await)
    }

    fn unverified_tls(&self) -> Result<Arc<ClientConfig>, String> {
        let builder = ClientConfig::builder();
        let provider = Arc::clone(builder.crypto_provider());
        let builder = builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AcceptAny(provider)));
        let mut config = match &self.identity {
            Some((cert, key)) => {
                let chain = CertificateDer::pem_slice_iter(&read(cert)?).collect::<Result<_, _>>();
                let chain = chain.map_err(|error| format!("{}: {error}", cert.display()))?;
                let key = PrivateKeyDer::from_pem_slice(&read(key)?)
                    .map_err(|error| format!("{}: {error}", key.display()))?;
                builder.with_client_auth_cert(chain, key)
            }
            None => Ok(builder.with_no_client_auth()),
        }
        .map_err(|error| format!("client certificate: {error}"))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }

    /// Adds a hint to an error of the connection, if a probe finds what is wrong.
    pub async fn explain(&self, error: Error) -> Error {
        let is_unrelated = match &error {
            Error::Connect { .. } => false,
            Error::Status(status) => status.source().is_none(),
            _ => true,
        };
        if is_unrelated {
            return error;
        }
        let text = show::with_causes(&error);
        if ["UnknownIssuer", "BadSignature"]
            .iter()
            .any(|it| text.contains(it))
        {
            let hint =
                "the bridge's certificate is of another authority: pass --ca-file with that one";
            return Error::Explained(Box::new(error), hint);
        }
        let hint = timeout(CONNECT_TIMEOUT, self.hint()).await;
        match hint.ok().flatten() {
            Some(hint) => Error::Explained(Box::new(error), hint),
            None => error,
        }
    }

    /// Probes what listens there, because tonic's errors do not say. Reads one byte after the TLS handshake: with TLS 1.3,
    /// the server reports a missing client certificate only then.
    async fn hint(&self) -> Option<&'static str> {
        let (uri, tls) = (self.url().parse::<Uri>().ok()?, self.unverified_tls().ok()?);
        let is_tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let host = uri.host()?;
        let failure = match handshake(tls, host, port).await {
            Ok(_) if !is_tls => {
                return Some(
                    "the bridge may speak TLS: pass --ca-file with its authority, or an address with https://",
                );
            }
            Ok(mut stream) => stream.read(&mut [0]).await.err()?.to_string(),
            Err(error) if is_refused(&*error) => {
                return Some(
                    "nothing listens there: start a bridge, or name another with --address or ALIM_ADDRESS",
                );
            }
            Err(error) => error.to_string(),
        };
        if failure.contains("CertificateRequired") {
            return Some(
                "the bridge requires a client certificate: pass --cert-file and --key-file",
            );
        }
        if !answers_http2(host, port).await? {
            return Some(
                "what listens there does not speak gRPC: pass the bridge's LISTEN address, not ADMIN_LISTEN",
            );
        }
        let is_plain = is_tls && failure.contains("InvalidContentType");
        is_plain.then_some("the bridge may not speak TLS: pass an address with http://")
    }
}

/// Notices a bridge that is gone or hangs while a call is open.
fn with_keep_alive(endpoint: Endpoint) -> Endpoint {
    endpoint
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn is_refused(error: &(dyn StdError + 'static)) -> bool {
    let error = error.downcast_ref::<std::io::Error>();
    error.is_some_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// Whether the peer begins with an HTTP/2 SETTINGS frame (RFC 9113, 3.4), as every gRPC server does. `None` if there is
/// no connection.
async fn answers_http2(host: &str, port: u16) -> Option<bool> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    const SETTINGS: u8 = 4;
    let mut socket = TcpStream::connect((bare(host), port)).await.ok()?;
    let mut head = [0; 9];
    let sent = socket.write_all(PREFACE).await;
    Some(sent.is_ok() && socket.read_exact(&mut head).await.is_ok() && head[3] == SETTINGS)
}

/// A host without the brackets that an IPv6 address has in a URL.
fn bare(host: &str) -> &str {
    host.trim_matches(['[', ']'])
}

async fn handshake(
    tls: Arc<ClientConfig>,
    host: &str,
    port: u16,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, BoxError> {
    let socket = TcpStream::connect((bare(host), port)).await?;
    let name = ServerName::try_from(bare(host).to_owned())?;
    Ok(TlsConnector::from(tls).connect(name, socket).await?)
}

/// Accepts any certificate.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_port_or_scheme_is_filled_in() {
        let url = |address: &str, is_insecure| {
            let target = Target {
                address: address.into(),
                is_insecure,
                ..Target::default()
            };
            target.url()
        };
        for (address, expected) in [
            ("bridge", "http://bridge:50051"),
            ("bridge:1", "http://bridge:1"),
            ("10.0.0.1", "http://10.0.0.1:50051"),
            ("::1", "http://[::1]:50051"),
            ("[::1]", "http://[::1]:50051"),
            ("[::1]:1", "http://[::1]:1"),
            ("https://bridge", "https://bridge"),
        ] {
            assert_eq!(url(address, false), expected);
        }
        assert_eq!(url("bridge", true), "https://bridge:50051");
        assert_eq!(url("http://bridge", true), "http://bridge");
    }
}
