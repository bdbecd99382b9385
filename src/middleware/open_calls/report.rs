//! The open calls as the admin page lists them, and their cancelling by an operator.
//!
//! Only calls to ALİM are listed. The registry is locked while it is copied, not while the list is made, so the page
//! delays no call.

use std::{net::SocketAddr, sync::Arc, sync::atomic::Ordering};

use serde::Serialize;
use tokio::time::Instant;

use super::{ForcedBy, OpenCall, OpenCalls};
use crate::{sanitize, telemetry::Record};

/// The open calls at one moment.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The number of open calls, listed or not.
    pub total: usize,
    /// The oldest of them, up to the limit.
    pub calls: Vec<OpenCallView>,
}

/// One open call.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenCallView {
    /// Its number since the start of the bridge, by which it can be cancelled.
    pub id: u64,
    /// Its id in logs and at ALİM.
    pub request_id: String,
    /// The name of its method.
    pub method: &'static str,
    /// Its caller's name in the callers file.
    pub caller: Option<String>,
    /// The peer of its connection.
    pub peer: Option<SocketAddr>,
    /// From its start until now.
    pub age_seconds: f64,
    /// The tokens sent so far.
    pub tokens: u64,
    /// The bytes of memory that it holds.
    pub held_bytes: usize,
    /// What it does now.
    pub state: State,
}

/// What an open call does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its request message is not complete.
    ReadsMessage,
    /// It waits for its turn under `UPSTREAM_QUOTA`; nothing was sent to ALİM.
    Queued,
    /// It waits for ALİM's reply or first token.
    WaitsForUpstream,
    /// Tokens arrive and are read.
    Streams,
    /// Its caller does not read.
    WaitsForCaller,
    /// It was cancelled, or the drain timeout has passed, and it ends.
    Ends,
}

impl OpenCalls {
    /// Lists the open calls to ALİM, the oldest first, at most `limit` of them.
    pub fn report(&self, limit: usize) -> Report {
        let now = Instant::now();
        let mut calls = self.calls_to_upstream();
        calls.sort_unstable_by_key(|call| call.id);
        let views = calls.iter().take(limit).map(|call| call.view(now));
        Report {
            total: calls.len(),
            calls: views.collect(),
        }
    }

    /// Ends an open call to ALİM with CANCELLED. If its caller does not read that status, the watchdog aborts the call.
    /// `None` if no call with this number is open.
    pub fn cancel(&self, id: u64) -> Option<OpenCallView> {
        let calls = self.calls_to_upstream();
        let call = calls.iter().find(|call| call.id == id)?;
        let view = call.view(Instant::now());
        call.force(ForcedBy::Operator);
        Some(view)
    }

    fn calls_to_upstream(&self) -> Vec<Arc<OpenCall>> {
        let open = self.lock();
        let calls = open.iter().map(|(_, call)| call);
        let ours = calls.filter(|call| call.record.method().is_ours());
        ours.cloned().collect()
    }
}

impl OpenCall {
    fn view(&self, now: Instant) -> OpenCallView {
        let record = &self.record;
        OpenCallView {
            id: self.id,
            request_id: sanitize::line(record.request_id()),
            method: record.method().labels()[2],
            caller: self.caller.as_ref().map(|caller| caller.name().to_string()),
            peer: record.peer_address(),
            age_seconds: now
                .saturating_duration_since(record.started())
                .as_secs_f64(),
            tokens: record.tokens(),
            held_bytes: self.memory.held(),
            state: self.state(record),
        }
    }

    fn state(&self, record: &Record) -> State {
        let waits_for_caller = self.waits_for_caller.load(Ordering::Relaxed);
        match (record.was_upstream_asked(), waits_for_caller) {
            _ if self.forced.get().is_some() => State::Ends,
            (false, true) => State::ReadsMessage,
            (false, false) => State::Queued,
            (true, true) => State::WaitsForCaller,
            (true, false) if record.tokens() > 0 => State::Streams,
            (true, false) => State::WaitsForUpstream,
        }
    }
}
