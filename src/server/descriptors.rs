//! Room for open files: each call holds a connection to the upstream, each caller one to the bridge.
//!
//! The soft limit is raised as far as the hard one allows, as Go's runtime does; where that is not
//! enough, calls would fail late and obscurely, so it is told at the start.

use std::io;

/// Standard streams, listeners, watched files, the runtime's own.
const SPARE: u64 = 64;

/// A limit on open files that `MAX_CALLS` and `MAX_CONNECTIONS` go beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Files that may be open.
    pub limit: u64,
    /// Files that the settings allow to be open.
    pub needed: u64,
}

/// Files that may be open now; without end where the system does not say.
pub(super) fn limit() -> u64 {
    rlimit::Resource::NOFILE
        .get()
        .map_or(u64::MAX, |(soft, _)| soft)
}

/// Makes room for so many calls and connections; `None` when there is.
///
/// # Errors
///
/// - [`io::Error`] when the system does not tell or change the limit.
pub fn make_room(calls: usize, connections: usize) -> io::Result<Option<Shortage>> {
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
