//! What the programs of the comparison share. The message of a call is an order to the upstream ([`ask`]), so
//! every subject passes it on and none has to know it; each paced token bears the time at which it was
//! written ([`clock`]), so a delay is one subtraction.

pub mod ask;
pub mod clock;
pub mod grpc;
pub mod http;
pub mod listen;
pub mod process;
pub mod tally;

/// The bridge's contract.
pub mod pb {
    tonic::include_proto!("alim.v1");
}

/// What every program may fail with.
pub type AnyError = Box<dyn std::error::Error + Send + Sync>;
