//! The limit on open files: each call holds a connection to the upstream, each caller one to the bridge.
//!
//! The bridge raises the soft limit as far as the hard limit allows, as Go's runtime does. If that is not enough,
//! it warns at startup, because calls would fail late and for obscure reasons.

use std::io;

/// Standard streams, listeners, watched files, and the runtime's own files.
const SPARE: u64 = 64;

/// The limit on open files is too low for `MAX_CALLS` and `MAX_CONNECTIONS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Maximum of open files.
    pub limit: u64,
    /// Files that the settings allow to be open.
    pub needed: u64,
}

/// The current limit on open files, or `u64::MAX` if the system does not report one.
pub(super) fn limit() -> u64 {
    rlimit::Resource::NOFILE
        .get()
        .map_or(u64::MAX, |(soft, _)| soft)
}

/// Raises the limit on open files for this many calls and connections. Returns `None` if it is high enough.
///
/// # Errors
///
/// - [`io::Error`] if the system does not report or change the limit.
pub fn raise_limit(calls: usize, connections: usize) -> io::Result<Option<Shortage>> {
    let needed = (calls as u64)
        .saturating_add(connections as u64)
        .saturating_add(SPARE);
    let (soft, _) = rlimit::Resource::NOFILE.get()?;
    let limit = match soft < needed {
        true => rlimit::increase_nofile_limit(needed)?,
        false => soft,
    };
    Ok((limit < needed).then_some(Shortage { limit, needed }))
}
