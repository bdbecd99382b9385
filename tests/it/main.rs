//! One test binary: stories over real sockets, each against a bridge as it is deployed.

mod calls;

mod sse;
mod sse_cases;
mod support;
mod support_upstream;
