//! Calls the bridge. tonic reads no service config and stops its own clock at the head of an answer, so this crate brings both:
//! retries that obey the bridge's pushback, and a deadline to the end of a stream.

mod client;
mod error;
mod retry;

/// The stubs.
pub mod pb {
    tonic::include_proto!("alim.v1");
}

pub use client::{Alim, Answer, Call, ConnectError, Security};
pub use error::{AlimError, Failure, FieldFault};
