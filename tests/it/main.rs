//! One test binary: stories over real sockets, each against a bridge as it is deployed.

mod admission;
mod bursts;
mod calls;
mod cli;
mod clocks;
mod corners;
mod credentials;
mod emulator;
mod failures;
mod headers;
mod house;
mod logs;
mod metrics;
mod protocol;
mod readme;
mod reflection_health;
mod retries;
mod settings;
mod shutdown;
mod sse;
mod sse_cases;
mod statuses;
mod support;
mod support_upstream;
mod tls;
mod traces;
