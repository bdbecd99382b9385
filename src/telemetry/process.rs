//! Metrics of the process, under the names of Prometheus' client libraries.
//!
//! The files of procfs stay open, because a process without free descriptors can open none: that is when its figures are
//! needed most.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{Mutex, PoisonError},
};

use prometheus::{Counter, Gauge, IntGauge};
use rustix::{
    fs::Dir,
    param::{clock_ticks_per_second, page_size},
};

use super::register::Register;

/// The metrics of this process.
#[derive(Debug)]
pub(super) struct Process {
    sources: Option<Sources>,
    cpu: Counter,
    open_files: IntGauge,
    max_files: IntGauge,
    virtual_memory: IntGauge,
    resident_memory: IntGauge,
    started: Gauge,
    threads: IntGauge,
}

/// Where the figures come from (proc(5)).
#[derive(Debug)]
struct Sources {
    stat: File,
    descriptors: Mutex<Dir>,
    /// When the machine booted, in Unix time.
    boot: u64,
}

/// Figures of `/proc/self/stat`.
#[derive(Debug, PartialEq)]
struct Stat {
    /// Ticks of the clock in user and kernel mode.
    cpu: u64,
    threads: i64,
    /// Ticks from the boot to the start.
    started: u64,
    virtual_bytes: i64,
    resident_pages: i64,
}

impl Process {
    pub(super) fn new(new: &Register<'_>) -> prometheus::Result<Self> {
        let sources = Sources::open()
            .inspect_err(|error| tracing::warn!(%error, "procfs can't be read: there are no metrics of the process"))
            .ok();
        Ok(Self {
            sources,
            cpu: new.add(Counter::new(
                "process_cpu_seconds_total",
                "User and system CPU time in seconds.",
            ))?,
            open_files: new.gauge("process_open_fds", "Open file descriptors.")?,
            max_files: new.gauge("process_max_fds", "Maximum of open file descriptors.")?,
            virtual_memory: new.gauge(
                "process_virtual_memory_bytes",
                "Size of virtual memory in bytes.",
            )?,
            resident_memory: new.gauge(
                "process_resident_memory_bytes",
                "Size of resident memory in bytes.",
            )?,
            started: new.add(Gauge::new(
                "process_start_time_seconds",
                "When the process started, in Unix time.",
            ))?,
            threads: new.gauge("process_threads", "Threads of the process.")?,
        })
    }

    /// Reads all figures. It opens no file. What can't be read keeps its last figure.
    #[expect(clippy::cast_precision_loss, reason = "seconds, far below 2^52 ticks")]
    pub(super) fn update(&self) {
        if let Ok((limit, _)) = rlimit::Resource::NOFILE.get() {
            self.max_files.set(i64::try_from(limit).unwrap_or(i64::MAX));
        }
        let Some(sources) = &self.sources else { return };
        if let Ok(open) = sources.open_files() {
            self.open_files.set(open);
        }
        let Ok(stat) = sources.stat() else { return };
        let ticks = clock_ticks_per_second() as f64;
        let used = stat.cpu as f64 / ticks;
        self.cpu.inc_by((used - self.cpu.get()).max(0.0)); // two scrapes can overlap
        self.started
            .set(sources.boot as f64 + stat.started as f64 / ticks);
        self.threads.set(stat.threads);
        self.virtual_memory.set(stat.virtual_bytes);
        let page = i64::try_from(page_size()).unwrap_or(i64::MAX);
        self.resident_memory
            .set(stat.resident_pages.saturating_mul(page));
    }
}

impl Sources {
    fn open() -> io::Result<Self> {
        let boot = std::fs::read_to_string("/proc/stat")?;
        let boot = boot.lines().find_map(|line| line.strip_prefix("btime "));
        let sources = Self {
            stat: File::open("/proc/self/stat")?,
            descriptors: Mutex::new(Dir::new(File::open("/proc/self/fd")?)?),
            boot: boot.and_then(|text| text.parse().ok()).unwrap_or(0),
        };
        sources.stat()?;
        Ok(sources)
    }

    fn stat(&self) -> io::Result<Stat> {
        let mut text = [0; 1024];
        let length = self.stat.read_at(&mut text, 0)?;
        let text = String::from_utf8_lossy(&text[..length]);
        Stat::parse(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn open_files(&self) -> io::Result<i64> {
        let descriptors = self.descriptors.lock();
        let mut descriptors = descriptors.unwrap_or_else(PoisonError::into_inner);
        descriptors.rewind();
        let mut open = 0;
        while let Some(entry) = descriptors.read() {
            open += i64::from(!entry?.file_name().to_bytes().starts_with(b"."));
        }
        Ok(open)
    }
}

impl Stat {
    /// The command's name, in parentheses, can contain anything.
    fn parse(text: &str) -> Option<Self> {
        let (_, fields) = text.rsplit_once(')')?;
        let fields: Vec<_> = fields.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3); // the first field after the name is number 3
        let count = |number| field(number)?.parse::<u64>().ok();
        let figure = |number| field(number)?.parse::<i64>().ok();
        Some(Self {
            cpu: count(14)? + count(15)?,
            threads: figure(20)?,
            started: count(22)?,
            virtual_bytes: figure(23)?,
            resident_pages: figure(24)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let text = "7 (a) 1 b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22\n";
        let expected = Stat {
            cpu: 11 + 12,
            threads: 17,
            started: 19,
            virtual_bytes: 20,
            resident_pages: 21,
        };
        assert_eq!(Stat::parse(text), Some(expected));
        assert_eq!(Stat::parse("7 (a) S 1 2"), None);
    }

    #[test]
    fn files_that_are_opened_are_counted_and_reading_opens_none() {
        let sources = Sources::open().expect("procfs");
        let before = sources.open_files().expect("a count");
        let files = [(); 200].map(|()| File::open("/dev/null").expect("a file"));
        let after = sources.open_files().expect("a count");
        assert!(after >= before + 150, "{before} {after}"); // other tests close theirs
        drop(files);
    }
}
