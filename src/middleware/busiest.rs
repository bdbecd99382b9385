//! Names the callers with the most open calls when the bridge is full: their calls have no record yet.

use std::{cmp::Reverse, collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::open_calls::OpenCalls;
use crate::admission::Rejected;

/// Between two warnings.
const WARNING_PAUSE: Duration = Duration::from_secs(60);
/// Callers in a warning.
const MAX_NAMES: usize = 5;

impl OpenCalls {
    /// If a call was rejected because `MAX_CALLS` are open, warns with the busiest callers, at most once a minute.
    pub(super) fn warn_if_full(&self, rejected: &Rejected) {
        if let Rejected::Saturated { limit } = rejected
            && self.is_warning_due(Instant::now(), WARNING_PAUSE)
        {
            let busiest = self.busiest();
            tracing::warn!(max_calls = limit, busiest, "MAX_CALLS calls are open");
        }
    }

    /// `name calls, name calls`: callers by name, those without a name by their address.
    fn busiest(&self) -> String {
        let mut counts = HashMap::new();
        self.count_calls(|name| *counts.entry(name).or_insert(0) += 1);
        let mut counts: Vec<(String, usize)> = counts.into_iter().collect();
        counts.sort_by_key(|(name, calls)| (Reverse(*calls), name.clone()));
        counts.truncate(MAX_NAMES);
        let counts: Vec<_> = counts
            .iter()
            .map(|(name, calls)| format!("{name} {calls}"))
            .collect();
        counts.join(", ")
    }
}
