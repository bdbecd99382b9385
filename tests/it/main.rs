//! One test binary: stories over real sockets, each against a bridge as it is deployed.

mod bursts;
mod calls;
mod cli;
mod clocks;
mod emulator;
mod failures;
mod house;
mod protocol;
mod retries;
mod settings;
mod sse;
mod sse_cases;
mod statuses;
mod support;
mod support_upstream;
