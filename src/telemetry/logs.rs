//! The application log, and the queue that it shares with the [access log](super::access).
//!
//! It writes text for a terminal and JSON for a collector, to standard error. A separate thread writes the lines, so a slow
//! or dead reader never stalls a call. Lines that exceed the queue or can't be written are dropped and counted.

use std::{
    io::{self, IsTerminal, Write},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

use super::{
    access::{self, AccessLog},
    fields, log_filter,
};

/// The format of log lines: the setting `LOG_FORMAT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text if standard error is a terminal, otherwise JSON.
    Auto,
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Format {
    /// Whether lines are JSON.
    pub fn is_json(self) -> bool {
        match self {
            Self::Auto => !io::stderr().is_terminal(),
            Self::Text => false,
            Self::Json => true,
        }
    }
}

/// What is logged, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The format of lines.
    pub format: Format,
    /// The lines of the application log that are written.
    pub filter: EnvFilter,
    /// The calls that are recorded, independent of the filter.
    pub access_log: AccessLog,
}

/// How long the writer collects lines after a write. Waking the thread costs more than writing a line, so frequent calls must
/// not wake it for each line. A line that arrives alone is written at once. A process that is killed loses the
/// collected lines.
const BATCH_DELAY: Duration = Duration::from_millis(5);
/// Maximum size of one write in bytes: PIPE_BUF, so that lines in a pipe stay whole even if others write to it.
const MAX_WRITE_BYTES: usize = 4096;

/// Collects lines before it writes them. tracing-appender flushes it whenever the queue is empty, and would miss its stop
/// signal if a flush failed. So a failed write is no error: its lines are counted as dropped.
struct BatchWriter<W: Write> {
    writer: W,
    lines: Vec<u8>,
    /// Whether the last write ended within a line.
    is_torn: bool,
    dropped: Arc<AtomicU64>,
}

impl<W: Write> BatchWriter<W> {
    fn new(writer: W, dropped: Arc<AtomicU64>) -> Self {
        Self {
            writer,
            lines: Vec::with_capacity(MAX_WRITE_BYTES),
            is_torn: false,
            dropped,
        }
    }

    /// Writes the collected lines, and counts those that are not written whole.
    fn write_lines(&mut self) {
        if self.is_torn {
            self.is_torn = self.write_until_failure(b"\n") == 0;
        }
        let mut lines = std::mem::take(&mut self.lines);
        let written = match self.is_torn {
            true => 0,
            false => self.write_until_failure(&lines),
        };
        let (done, lost) = lines.split_at(written);
        let dropped = lost.iter().filter(|byte| **byte == b'\n').count();
        self.dropped.fetch_add(dropped as u64, Ordering::Relaxed);
        self.is_torn |= !lost.is_empty() && done.last().is_some_and(|byte| *byte != b'\n');
        lines.clear();
        self.lines = lines;
    }

    /// Returns how many bytes were written.
    fn write_until_failure(&mut self, bytes: &[u8]) -> usize {
        let mut written = 0;
        while written < bytes.len() {
            match self.writer.write(&bytes[written..]) {
                Ok(0) => break,
                Ok(more) => written += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        written
    }
}

impl<W: Write> Write for BatchWriter<W> {
    /// Takes a line. Lines that are longer than one write are written alone.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.lines.len() + line.len() > MAX_WRITE_BYTES && !self.lines.is_empty() {
            self.write_lines();
        }
        self.lines.extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.lines.is_empty() {
            self.write_lines();
        }
        thread::sleep(BATCH_DELAY);
        Ok(())
    }
}

/// Lines in the queue, about 200 KB. Behind a reader that has stalled for good, so many are lost without being counted.
const MAX_WAITING_LINES: usize = 900;

/// The counts of lost lines: those that exceeded the queue, and those that could not be written.
static DROPPED: OnceLock<(ErrorCounter, Arc<AtomicU64>)> = OnceLock::new();

/// The number of lines dropped because their reader was too slow, or because they could not be written.
pub fn dropped_lines() -> u64 {
    DROPPED.get().map_or(0, |(overflow, unwritten)| {
        overflow.dropped_lines() as u64 + unwritten.load(Ordering::Relaxed)
    })
}

/// How long the end of the process waits for the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(1200);

/// Flushes the log when it is dropped. It waits about a second at most, even if the reader has stalled.
#[derive(Debug)]
pub struct FlushOnDrop(Option<WorkerGuard>);

impl Drop for FlushOnDrop {
    fn drop(&mut self) {
        let guard = self.0.take();
        let (done, flushed) = std::sync::mpsc::channel();
        // The guard can print to a standard output that has stalled too.
        thread::spawn(move || {
            drop(guard);
            let _ = done.send(());
        });
        let _ = flushed.recv_timeout(FLUSH_TIMEOUT);
    }
}

/// Sends log lines and panic messages to standard error until the returned guard is dropped. Later calls in the same
/// process have no effect.
pub fn init(settings: Settings) -> FlushOnDrop {
    let is_json = settings.format.is_json();
    let queue = NonBlockingBuilder::default().buffered_lines_limit(MAX_WAITING_LINES);
    let unwritten = Arc::new(AtomicU64::new(0));
    let (writer, guard) = queue.finish(BatchWriter::new(io::stderr(), Arc::clone(&unwritten)));
    let _ = DROPPED.set((writer.error_counter(), unwritten));
    access::init(writer.clone(), is_json, settings.access_log);
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let registry = tracing_subscriber::registry().with(log_filter::layer(settings.filter));
    let _ = if is_json {
        let lines = lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false);
        registry.with(lines).try_init()
    } else {
        let lines = lines.fmt_fields(fields::plain());
        registry
            .with(lines.with_ansi(io::stderr().is_terminal()))
            .try_init()
    };
    std::panic::set_hook(Box::new(
        |panic| tracing::error!(%panic, "a defect of the bridge"),
    ));
    FlushOnDrop(Some(guard))
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Instant};

    use super::*;

    /// Reports the size of each write.
    struct Writes(mpsc::Sender<usize>);

    impl Write for Writes {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.send(bytes.len());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_single_line_is_written_at_once_and_frequent_ones_in_batches() {
        let (send, sizes) = mpsc::channel();
        let queue = NonBlockingBuilder::default();
        let (mut lines, written) = queue.finish(BatchWriter::new(Writes(send), Arc::default()));
        let start = Instant::now();
        lines.write_all(b"alone\n").expect("queued");
        let timeout = Duration::from_secs(10);
        assert_eq!(sizes.recv_timeout(timeout), Ok(6));
        for _ in 0..200 {
            lines.write_all(b"close\n").expect("queued");
            thread::sleep(Duration::from_micros(100)); // otherwise the queue alone would batch them
        }
        drop(written);
        let pauses = start.elapsed().as_millis() / BATCH_DELAY.as_millis();
        let sizes: Vec<_> = sizes.iter().collect();
        assert_eq!(sizes.iter().sum::<usize>(), 200 * 6, "{sizes:?}");
        assert!(sizes.len() as u128 <= pauses + 1, "{pauses}: {sizes:?}");
    }

    #[test]
    fn a_write_has_whole_lines_and_at_most_pipe_buf_bytes() {
        let (send, sizes) = mpsc::channel();
        let queue = NonBlockingBuilder::default();
        let (mut lines, written) = queue.finish(BatchWriter::new(Writes(send), Arc::default()));
        for _ in 0..200 {
            lines.write_all(&[b'x'; 100]).expect("queued");
        }
        drop(written);
        let sizes: Vec<_> = sizes.iter().collect();
        assert_eq!(sizes.iter().sum::<usize>(), 200 * 100, "{sizes:?}");
        let is_whole_and_small = |size: &usize| size.is_multiple_of(100) && *size <= 4096; // PIPE_BUF, pipe(7)
        assert!(sizes.iter().all(is_whole_and_small), "{sizes:?}");
    }

    /// Fails like a pipe whose reader is gone.
    struct Broken;

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_failed_writer_does_not_delay_the_end() {
        let queue = NonBlockingBuilder::default();
        let (mut lines, written) = queue.finish(BatchWriter::new(Broken, Arc::default()));
        lines.write_all(b"lost\n").expect("queued");
        let start = Instant::now();
        drop(written); // tracing-appender gives up after a second
        assert!(start.elapsed() < Duration::from_millis(900));
    }

    /// A disk with this much space left.
    struct Disk {
        left: usize,
        written: Vec<u8>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.left == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let bytes = &bytes[..bytes.len().min(self.left)];
            self.left -= bytes.len();
            self.written.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_a_full_disk_does_not_take_are_counted_and_none_is_glued_to_another() {
        let dropped = Arc::new(AtomicU64::new(0));
        let disk = Disk {
            left: 15,
            written: Vec::new(),
        };
        let mut lines = BatchWriter::new(disk, Arc::clone(&dropped));
        for _ in 0..1000 {
            lines.write_all(b"a line\n").expect("no error");
        }
        lines.flush().expect("no error");
        assert_eq!(dropped.load(Ordering::Relaxed), 998);
        lines.writer.left = 100;
        lines.write_all(b"again\n").expect("no error");
        lines.flush().expect("no error");
        let written = String::from_utf8(lines.writer.written).expect("text");
        assert_eq!(written, "a line\na line\na\nagain\n");
        assert_eq!(dropped.load(Ordering::Relaxed), 998);
    }
}
