//! alim-bridge: typed gRPC in front of ALİM's REST and Server-Sent Events. This page is the map.
//!
//! # A call's way
//!
//! ```text
//!  caller                                                                                       ALİM
//!    │ HTTP/2                                                                          HTTP/1.1, SSE │
//!    ▼                                                                                               ▲
//!  ┌─ server ─────────┐  ┌─ middleware ────────────┐  ┌─ service ──────┐  ┌─ upstream ───────────────┐│
//!  │ accept loop, TLS │  │ gRPC-Web, identity,     │  │ GraphService,  │  │ key, quota, retries,     ││
//!  │ connections, age │─▶│ permit, memory, message │─▶│ ThreadService: │─▶│ HTTP client, judged head ├┘
//!  │ idleness, drain  │  │ deadlines, record       │  │ request → Call │  │ sse: bytes → events      │
//!  └──────────────────┘  └─────────────────────────┘  └────────────────┘  └──────────────────────────┘
//!           ▲ bytes            ▲ response body               ▲ messages            │ Reply, Event
//!           └──────────────────┴─────────────────────────────┴─────────────────────┘
//! ```
//!
//! - **[`server`]** owns the accept loop and its connections. Each HTTP/2 stream runs in a task that [`inbound::Abort`] can end. Health,
//!   reflection and the admin port are here.
//! - **[`middleware`]** is the layer round every call. In this order: identity, one of the connection's slots for incomplete messages, a permit ([`admission`]), memory from
//!   the budget ([`memory`]), the caller's limits ([`callers`]), the whole message in time. It keeps the call's [record](telemetry::Ongoing) to
//!   the end of the response's body. [`middleware::open_calls`] has all open calls; its watchdog aborts those whose callers
//!   have stopped reading.
//! - **[`service`]** implements the contract: a protobuf message becomes a [`call::Call`], and what comes back becomes messages. A stream's
//!   head is sent once ALİM has accepted the question. All that fails before it is a trailers-only status that a retry policy can act on.
//! - **[`upstream`]** alone names the HTTP client and eventsource-stream. It takes its turn ([`quota`]), sends a call once, and reads no answer
//!   without a limit. [`upstream::sse`] turns bytes into [`call::reply::Event`]s: [`guard`](upstream::sse::guard) →
//!   [`framing`](upstream::sse::framing) → eventsource-stream.
//! - **[`status`]** maps every failure to a gRPC code, a [`reason`](call::reason), and what a retry policy may do.
//! - **[`call`]** has the words that both sides share: request, reply, event, deadline, reason. It knows no protocol.
//! - **[`telemetry`]** has metrics, traces, the access log and the application log. [`config`] reads all settings. [`sanitize`] cleans text
//!   from outside before a terminal, a log or a status shows it.
//!
//! # In the same binary
//!
//! [`emulator`] is an embedded ALİM and [`client`] the terminal client ([`cli`] has the commands). They stay in the production binary, without a cargo
//! feature: the image's HEALTHCHECK is `alim-bridge health`, people on call ask with `alim-bridge invoke` from inside the container, and
//! the demo must run from the same build that was tested.
//!
//! # What is promised
//!
//! - A stream ends with exactly one `Done` and OK, or with a status that says why: never both, never neither.
//! - A call that may have reached the upstream is never sent twice.
//! - If a caller stops reading, the bridge stops reading from the upstream. The deadline, the lifetime and the drain still end the call.
//! - Nothing grows without a bound, and no key leaves by any way but the upstream's request.
//!
//! # The order of modules
//!
//! A file uses only modules that are declared above its own here. `tests/it/layout.rs` enforces that, and which libraries each module may name.

pub mod pb;

pub mod memory;
pub mod quota;
pub mod reload;
pub mod sanitize;

pub mod call;

pub mod upstream;

pub mod admission;
pub mod callers;
pub mod inbound;
pub mod telemetry;

pub mod shutdown;

pub mod status;

pub mod middleware;
pub mod service;

pub mod server;

pub mod emulator;

pub mod config;

pub mod client;

pub mod cli;
