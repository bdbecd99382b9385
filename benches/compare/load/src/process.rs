//! The CPU time of processes, as the kernel counts it.

use std::fs;

/// Nanoseconds of user and system time of the process and of its children that have ended.
///
/// The kernel keeps them in ticks of 10 ms here, so windows must be seconds long.
pub fn cpu_ns(pid: u32) -> u64 {
    const TICK_NS: u64 = 10_000_000;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let Some((_, fields)) = stat.rsplit_once(')') else {
        return 0; // it has ended
    };
    let times = fields.split_ascii_whitespace().skip(11).take(4);
    let ticks: u64 = times.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    ticks * TICK_NS
}

/// The same for a set.
pub fn all_cpu_ns(pids: &[u32]) -> Vec<u64> {
    pids.iter().map(|pid| cpu_ns(*pid)).collect()
}
