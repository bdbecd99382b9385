//! Acts on the memory that the process really uses, as Envoy's overload manager does.
//!
//! The budget of [`memory`](crate::memory) counts what calls hold. This file reads the memory of the whole process. Near
//! the limit it resets calls whose callers do nothing. Nearer still, no call is admitted.

use std::{fs::File, io, os::unix::fs::FileExt, sync::Arc, time::Duration};

use tokio::{
    task::spawn_blocking,
    time::{Instant, interval},
};

use crate::{
    memory::{Budget, Level, PROCESS_BYTES},
    middleware::open_calls::OpenCalls,
    telemetry::{metrics::Metrics, state::OverloadAction},
};

/// Between two readings of the process's memory.
const READ_INTERVAL: Duration = Duration::from_millis(100);
/// The share of the limit from which stalled calls are reset, and from which calls are rejected.
const RESET_FROM: f64 = 0.85;
const SHED_FROM: f64 = 0.95;

/// Free memory that the allocator can keep for later calls. If it keeps more, it is asked to release it.
const MAX_FREE: usize = 16 * 1024 * 1024;
/// Between two releases of free memory. The pause is the long one if a release gave back less than `MIN_TRIMMED`, unless calls
/// are rejected until there is memory.
const TRIM_PAUSE: Duration = Duration::from_secs(1);
const LONG_TRIM_PAUSE: Duration = Duration::from_secs(10);
const MIN_TRIMMED: usize = 1024 * 1024;

/// Watches the process's memory.
#[derive(Debug)]
pub(super) struct Overload {
    /// Maximum memory of the process in bytes.
    pub(super) memory_limit: usize,
    pub(super) budget: Budget,
    pub(super) open_calls: OpenCalls,
    pub(super) metrics: Arc<Metrics>,
}

impl Overload {
    /// Reads the process's memory until the future is dropped.
    pub(super) async fn watch(self) {
        let memory = match ResidentMemory::open() {
            Ok(memory) => Some(memory),
            Err(error) => {
                tracing::warn!(%error, "the process's memory can't be read: only what calls hold is bounded");
                None
            }
        };
        let mut ticks = interval(READ_INTERVAL);
        let mut trimmed = Instant::now();
        let mut pause = TRIM_PAUSE;
        loop {
            let now = ticks.tick().await;
            let read = || {
                memory
                    .as_ref()
                    .and_then(|memory| memory.read().ok())
                    .unwrap_or(0)
            };
            let resident = read();
            if self.process_pressure(resident) >= SHED_FROM {
                pause = TRIM_PAUSE;
            }
            if resident > self.expected() + MAX_FREE && trimmed + pause <= now {
                let _ = spawn_blocking(release_free_memory).await;
                let was_effective = read() + MIN_TRIMMED < resident;
                pause = if was_effective {
                    TRIM_PAUSE
                } else {
                    LONG_TRIM_PAUSE
                };
                trimmed = now;
            }
            self.act(resident);
        }
    }

    /// The memory that the process is expected to use, given what calls hold.
    fn expected(&self) -> usize {
        PROCESS_BYTES + self.budget.used() / 3 * 4
    }

    /// The part of its limit that the process uses.
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    fn process_pressure(&self, resident: usize) -> f64 {
        resident as f64 / self.memory_limit as f64
    }

    #[expect(clippy::cast_precision_loss, reason = "ratios")]
    fn act(&self, resident: usize) {
        let process = self.process_pressure(resident);
        let pressure = process.max(self.budget.pressure());
        let level = match process >= SHED_FROM {
            true => Level::Full,
            false if pressure >= RESET_FROM => Level::Short,
            false => Level::Normal,
        };
        self.budget.set_level(level);
        if level == Level::Normal {
            return;
        }
        let excess = (pressure - RESET_FROM) * self.budget.limit() as f64;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "bytes, above zero"
        )]
        let reset = self.open_calls.abort_stalled(excess as usize + 1);
        for _ in 0..reset {
            self.metrics
                .state
                .overloaded(OverloadAction::ResetStalledCall);
        }
        if reset > 0 {
            tracing::debug!(reset, resident, "calls whose callers do nothing were reset");
        }
    }
}

/// Returns free memory to the system. Otherwise glibc keeps the memory of the largest load.
#[cfg(target_env = "gnu")]
fn release_free_memory() {
    #[expect(
        unsafe_code,
        reason = "a call of the C library without pointers, safe in any thread"
    )]
    // SAFETY: malloc_trim(3) takes a number, and locks what it changes.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other allocators return memory by themselves.
#[cfg(not(target_env = "gnu"))]
fn release_free_memory() {}

/// Resident memory of this process (proc(5), VmRSS). The file stays open, so that it can be read when the process has no free
/// descriptors.
struct ResidentMemory(File);

impl ResidentMemory {
    fn open() -> io::Result<Self> {
        let memory = Self(File::open("/proc/self/status")?);
        memory.read()?;
        Ok(memory)
    }

    /// Resident memory in bytes.
    fn read(&self) -> io::Result<usize> {
        let mut text = [0; 4096];
        let length = self.0.read_at(&mut text, 0)?;
        let text = str::from_utf8(&text[..length]).map_err(|_| io::ErrorKind::InvalidData)?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<usize>().ok());
        Ok(kib.ok_or(io::ErrorKind::InvalidData)? * 1024)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_grows_with_what_is_written() {
        let memory = ResidentMemory::open().expect("procfs");
        let before = memory.read().expect("a figure");
        let block = vec![1_u8; 64 << 20];
        let after = memory.read().expect("a figure");
        assert!(
            after > before + (48 << 20),
            "{before} {after} {}",
            block.len()
        );
    }
}
