//! The commands that call a bridge: from a terminal, from scripts and as health checks.
//!
//! They use only what callers in other languages have: the generated stubs and a channel. The exit code
//! is 0 or, as in grpcurl, 64 + the status code.

pub mod ask;
pub mod chat;
mod connect;
pub mod demo;
pub mod health;
mod prompt;
pub mod screen;
mod show;
pub mod top;

use std::{path::PathBuf, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use tonic::{
    Code, Request, Status, TimeoutExpired,
    metadata::{Ascii, MetadataValue},
};

/// The address of a bridge, and the credentials for it.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// `host`, `host:port`, or a URL with http or https. The default port is 50051. The default scheme is https if
    /// one of the next three fields is set, else http.
    pub address: String,
    /// PEM file of certificate authorities to trust, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM files of the client certificate chain and its private key, for mutual TLS.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Accepts any certificate.
    pub is_insecure: bool,
    /// Sent as `authorization: Bearer`.
    pub caller_key: Option<SecretString>,
    /// Sent as `x-api-key`, for bridges that send each caller's own key to ALİM.
    pub api_key: Option<SecretString>,
    /// The call's deadline, sent as `grpc-timeout`.
    pub timeout: Option<Duration>,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command's arguments are invalid.
    #[error("{0}")]
    Usage(String),
    /// No connection to the bridge.
    #[error("{address} can't be reached")]
    Connect {
        /// The bridge's URL.
        address: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The call ended with a status other than OK.
    #[error("{}", show::status_text(.0))]
    Status(Box<Status>),
    /// An error, with a hint about what to change.
    #[error("{error}\n  {1}", error = show::with_causes(.0))]
    Explained(Box<Error>, &'static str),
    /// Ctrl-C came before the answer was complete.
    #[error("interrupted")]
    Interrupted,
    /// Standard input or output failed.
    #[error("input or output failed")]
    Io(#[from] std::io::Error),
    /// The health check failed.
    #[error("{0}")]
    Unhealthy(String),
    /// The admin port could not be read.
    #[error("{0}")]
    Admin(String),
    /// The demonstration could not start.
    #[error("{0}")]
    Demo(String),
}

impl From<Status> for Error {
    /// tonic reports its own timeout as Cancelled, so this maps it to DEADLINE_EXCEEDED.
    fn from(status: Status) -> Self {
        let source = std::error::Error::source(&status);
        let mut causes = std::iter::successors(source, |cause| cause.source());
        let is_timeout = causes.any(|cause| cause.is::<TimeoutExpired>());
        Self::Status(Box::new(match is_timeout {
            true => Status::deadline_exceeded("no answer within --timeout"),
            false => status,
        }))
    }
}

impl Error {
    /// The error as one line of JSON, for scripts.
    pub fn to_json(&self) -> String {
        show::error_json(self).to_string()
    }

    /// The exit code: 64 for bad usage, 64 + the status code of a call, else 1.
    pub fn exit_code(&self) -> u8 {
        const USAGE: u8 = 64;
        match self {
            Self::Usage(_) => USAGE,
            Self::Explained(error, _) => error.exit_code(),
            Self::Status(status) => USAGE + u8::try_from(i32::from(status.code())).unwrap_or(0),
            Self::Connect { .. } => USAGE + u8::try_from(i32::from(Code::Unavailable)).unwrap_or(0),
            Self::Interrupted => USAGE + u8::try_from(i32::from(Code::Cancelled)).unwrap_or(0),
            Self::Io(_) | Self::Unhealthy(_) | Self::Admin(_) | Self::Demo(_) => 1,
        }
    }
}

impl Target {
    /// Wraps `message` in a request with the credentials and the deadline.
    ///
    /// # Errors
    ///
    /// - [`Error::Usage`] if a key is not valid in metadata.
    pub fn request<T>(&self, message: T) -> Result<Request<T>, Error> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        if let Some(key) = &self.caller_key {
            metadata.insert(
                "authorization",
                to_metadata(&format!("Bearer {}", key.expose_secret()))?,
            );
        }
        if let Some(key) = &self.api_key {
            metadata.insert("x-api-key", to_metadata(key.expose_secret())?);
        }
        if let Some(timeout) = self.timeout {
            request.set_timeout(timeout);
        }
        Ok(request)
    }
}

/// Whether this address or URL can have a user or a password (RFC 3986, 3.2.1). Errors never repeat it.
pub fn has_userinfo(address: &str) -> bool {
    address.contains('@')
}

fn to_metadata(text: &str) -> Result<MetadataValue<Ascii>, Error> {
    let value = text.parse::<MetadataValue<Ascii>>();
    let mut value = value.map_err(|_| Error::Usage("a key must be visible ASCII".into()))?;
    value.set_sensitive(true);
    Ok(value)
}
