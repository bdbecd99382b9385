//! The commands that call a bridge: for a person at a terminal, for scripts, for health checks.
//!
//! They use nothing that a caller in another language has not: the generated stubs and a channel. The
//! exit code is 0 or, as grpcurl has it, 64 + the status code.

pub mod ask;
pub mod chat;
mod connect;
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
};

/// Where the bridge is, and how to get in.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// `host`, `host:port`, or a URL with http or https. A host alone has the port 50051; without a scheme it is
    /// https where one of the three after it is set.
    pub address: String,
    /// PEM authorities that may vouch for the bridge, in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM certificate chain and private key that are shown to the bridge, for mutual TLS.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Takes any certificate of the bridge's.
    pub is_insecure: bool,
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
    /// A failure, and what to change.
    #[error("{0}\n  {1}")]
    Explained(#[source] Box<Error>, &'static str),
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
    /// One JSON object on a line, for scripts.
    pub fn to_json(&self) -> String {
        show::error_json(self).to_string()
    }

    /// What the process exits with: 64 for bad usage, 64 + the status code, else 1.
    pub fn exit_code(&self) -> u8 {
        const USAGE: u8 = 64;
        match self {
            Self::Usage(_) => USAGE,
            Self::Explained(error, _) => error.exit_code(),
            Self::Status(status) => USAGE + u8::try_from(i32::from(status.code())).unwrap_or(0),
            Self::Connect { .. } => USAGE + u8::try_from(i32::from(Code::Unavailable)).unwrap_or(0),
            Self::Interrupted => USAGE + u8::try_from(i32::from(Code::Cancelled)).unwrap_or(0),
            Self::Io(_) | Self::Unhealthy(_) | Self::Demo(_) => 1,
        }
    }
}

impl Target {
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
