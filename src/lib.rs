//! alim-bridge: typed gRPC in front of ALİM's REST and Server-Sent Events. This page is the map.
//!
//! # Two sides
//!
//! - [`upstream`] is the client side, towards ALİM: it alone names the HTTP client and eventsource-stream.
//! - [`server`] and [`grpc`] are the server side, towards callers: with [`pb`] and [`client`] they alone name tonic.
//! - Between them stand plain words that know neither: [`call`], [`reply`], [`deadline`], [`headers`],
//!   [`reason`], [`quota`], [`admission`], [`inbound`].
//! - [`plain`] cleans all text from outside before a terminal, a text log or a status shows it.
//!
//! # The life of a call
//!
//! A call is a line of types; one arrow is one function.
//!
//! Connection: `server::accept` → `server::connections` (is there room?) → `server::connection` (TLS, HTTP, age, drain) → one
//! task for each HTTP/2 stream, which [`inbound::Abort`] can end.
//!
//! Head: [`grpc::web`] → [`grpc::edge`]: [`grpc::identity`], by the [`callers`] file → [`admission::Admission::admit`] →
//! [`callers::Caller::admit`] → [`grpc::message`], which reads the message in time → `server::services`.
//!
//! Invoke: `Bridge::invoke` → `grpc::request::parse` → [`call::Call`] → `Bridge::unary` → [`quota::Quota::acquire`], where the upstream key's quota is counted → [`upstream::Upstream::invoke`] → `request::build` → HTTP, under the [`deadline`] →
//! `response::judge` → `Head::into_reply` → [`reply::Reply`] → `grpc::response::invoke`.
//!
//! The methods of ThreadService go Invoke's way, with [`call::NewThread`] or [`call::ThreadId`] for the
//! question and [`reply::Thread`] or nothing for the reply.
//!
//! Stream: the same up to the head, then [`upstream::sse::Events`]: bytes →
//! [`guard`](upstream::sse::guard) → [`framing`](upstream::sse::framing) → eventsource-stream →
//! [`reply::Event`], turned into messages by a `grpc::relay::Relay`, which `grpc::woken` asks when it
//! has something to tell, and packed into frames by `grpc::pack`. The head of the answer is held back
//! until the first event, so all that fails before it is a trailers-only answer that a retry policy
//! can act on.
//!
//! Where pages may call, [`grpc::web`] stands outermost: it answers preflights and makes gRPC of
//! gRPC-Web, so that all below sees one protocol.
//!
//! Whatever fails is a [`grpc::failure::Failure`]; `grpc::rows` says what each means to the caller, with a [`reason`]
//! for it, and `grpc::status` writes it. Round every call stands [`grpc::edge`], which waits for the head until it
//! is due ([`grpc::clocks`]). Its answer's body keeps, to the end, the call's one [record](telemetry::Ongoing) and its
//! permit. All open calls are in [`grpc::open_calls`], whose watchdog aborts the call of a caller who has stopped reading.
//!
//! What a call's head was, [`upstream::Health`] takes into account as it does the probes; `server::health` publishes
//! and logs each change. A record becomes a line of the [access log](telemetry::access).
//!
//! # What is promised
//!
//! - A stream ends with exactly one `Done` and OK, or with a status that says why: never both, never
//!   neither.
//! - A call that may have reached the upstream is never sent twice.
//! - What is pulled is what is read: a caller who stops reading stops the reading from the upstream,
//!   and still the deadline, the lifetime and the drain end its upstream call.
//! - Nothing grows without a bound, and no key leaves by any way but the upstream's request.
//!
//! # The house
//!
//! The modules below stand in the order of use: a file uses only what stands above it.
//! `tests/it/house.rs` holds the code to that, and to the two sides.

pub mod pb;

pub mod quota;

pub mod deadline;
pub mod headers;
pub mod json;
pub mod memory;
pub mod plain;
pub mod reason;
pub mod reload;

pub mod call;
pub mod reply;

pub mod upstream;

pub mod admission;
pub mod callers;
pub mod inbound;
pub mod telemetry;

pub mod shutdown;

pub mod grpc;
pub mod server;

pub mod emulator;

pub mod config;

pub mod client;

pub mod cli;
