//! The commands that call a bridge: for a person at a terminal, for scripts, for health checks.
//!
//! They use nothing that a caller in another language has not: the generated stubs and a channel. The
//! exit code is 0 or, as grpcurl has it, 64 + the status code.

pub mod ask;
pub mod chat;
pub mod demo;
pub mod health;
mod prompt;
pub mod screen;
mod show;

use std::{path::PathBuf, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use tonic::{
    Code, Request, Status, TimeoutExpired,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};
use url::Url;

use crate::config::is_clear;

/// Where the bridge is, and how to get in.
#[derive(Clone, Debug)]
pub struct Target {
    /// `host:port`, or a URL with http or https.
    pub address: String,
    /// PEM authorities that may vouch for the bridge, in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// Shown to the bridge as `authorization: Bearer`.
    pub caller_key: Option<SecretString>,
    /// Passed on to ALİM as `x-api-key`, where the bridge wants the caller's.
    pub api_key: Option<SecretString>,
    /// The deadline that is sent along.
    pub timeout: Option<Duration>,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command can't be carried out as it was given.
    #[error("{0}")]
    Usage(String),
    /// The bridge can't be reached.
    #[error("{address} can't be reached")]
    Connect {
        /// Where it was looked for.
        address: String,
        /// What went wrong.
        #[source]
        source: tonic::transport::Error,
    },
    /// The call ended with a status other than OK.
    #[error("{}", show::status_text(.0))]
    Status(Box<Status>),
    /// Ctrl-C came before the answer was complete.
    #[error("interrupted")]
    Interrupted,
    /// Standard input or output failed.
    #[error("input or output failed")]
    Io(#[from] std::io::Error),
    /// What was asked about is not healthy.
    #[error("{0}")]
    Unhealthy(String),
    /// The demonstration could not start.
    #[error("{0}")]
    Demo(String),
}

impl From<Status> for Error {
    /// tonic's own clock says Cancelled; the deadline that it stands for says otherwise.
    fn from(status: Status) -> Self {
        let source = std::error::Error::source(&status);
        let mut causes = std::iter::successors(source, |cause| cause.source());
        let is_late = causes.any(|cause| cause.is::<TimeoutExpired>());
        Self::Status(Box::new(match is_late {
            true => Status::deadline_exceeded("no answer within --timeout"),
            false => status,
        }))
    }
}

impl Error {
    /// What the process exits with: 64 for bad usage, 64 + the status code, else 1.
    pub fn exit_code(&self) -> u8 {
        const USAGE: u8 = 64;
        match self {
            Self::Usage(_) => USAGE,
            Self::Status(status) => USAGE + u8::try_from(i32::from(status.code())).unwrap_or(0),
            Self::Connect { .. } => USAGE + u8::try_from(i32::from(Code::Unavailable)).unwrap_or(0),
            Self::Interrupted => USAGE + u8::try_from(i32::from(Code::Cancelled)).unwrap_or(0),
            Self::Io(_) | Self::Unhealthy(_) | Self::Demo(_) => 1,
        }
    }
}

impl Target {
    /// Opens a connection.
    ///
    /// # Errors
    ///
    /// - [`Error::Usage`] when the address or a file can't be used, [`Error::Connect`] when nothing
    ///   answers there.
    pub async fn connect(&self) -> Result<Channel, Error> {
        if has_user(&self.address) {
            let why = "--address must hold no user and no password".into();
            return Err(Error::Usage(why));
        }
        let address = match self.address.contains("://") {
            true => self.address.clone(),
            false => format!("http://{}", self.address),
        };
        let has_key = self.caller_key.is_some() || self.api_key.is_some();
        if has_key && Url::parse(&address).is_ok_and(|url| is_clear(&url)) {
            screen::aside(&format!(
                "alim-bridge: warning: the key goes to {address} in clear: give --address a URL with https"
            ))?;
        }
        let usage = |why: String| Error::Usage(format!("{address}: {why}"));
        let mut endpoint = Endpoint::from_shared(address.clone())
            .map_err(|error| usage(error.to_string()))?
            .connect_timeout(Duration::from_secs(5));
        if address.starts_with("https://") {
            let tls = self.tls().map_err(Error::Usage)?;
            endpoint = endpoint
                .tls_config(tls)
                .map_err(|error| usage(error.to_string()))?;
        }
        let connected = endpoint.connect().await;
        connected.map_err(|source| Error::Connect { address, source })
    }

    fn tls(&self) -> Result<ClientTlsConfig, String> {
        let tls = ClientTlsConfig::new();
        let Some(path) = &self.ca_file else {
            return Ok(tls.with_native_roots());
        };
        let pem = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(tls.ca_certificate(Certificate::from_pem(pem)))
    }

    /// A request with the credentials and the deadline.
    ///
    /// # Errors
    ///
    /// - [`Error::Usage`] when a key is not fit for metadata.
    pub fn request<T>(&self, message: T) -> Result<Request<T>, Error> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        if let Some(key) = &self.caller_key {
            metadata.insert(
                "authorization",
                secret(&format!("Bearer {}", key.expose_secret()))?,
            );
        }
        if let Some(key) = &self.api_key {
            metadata.insert("x-api-key", secret(key.expose_secret())?);
        }
        if let Some(timeout) = self.timeout {
            request.set_timeout(timeout);
        }
        Ok(request)
    }
}

/// Whether this address or URL may hold a user or a password (RFC 3986, 3.2.1); none is ever repeated.
pub fn has_user(address: &str) -> bool {
    address.contains('@')
}

fn secret(text: &str) -> Result<MetadataValue<Ascii>, Error> {
    let value = text.parse::<MetadataValue<Ascii>>();
    let mut value = value.map_err(|_| Error::Usage("a key must be visible ASCII".into()))?;
    value.set_sensitive(true);
    Ok(value)
}
