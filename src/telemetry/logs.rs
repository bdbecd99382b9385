//! The application log, and the queue that it shares with the [access log](super::access).
//!
//! Text for a terminal, JSON for a collector, on standard error. Lines are written by a thread of their own, so a reader
//! who is slow or gone never stalls a call; what its queue can't hold is dropped, and counted.

use std::{
    io::{self, BufWriter, IsTerminal, Write},
    sync::OnceLock,
    thread,
    time::Duration,
};

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

use super::{
    access::{self, AccessLog},
    fields,
};

/// How log lines look: the setting `LOG_FORMAT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text when standard error is a terminal, JSON else.
    Auto,
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How lines look.
    pub format: Format,
    /// Which lines of the application log are written.
    pub filter: EnvFilter,
    /// Which calls are recorded, whatever the filter.
    pub access_log: AccessLog,
}

/// How long lines gather after others were written: to wake the thread costs more than to write a line, so a call
/// every few microseconds must not wake it each time. A line that comes alone is written at once. A process that is
/// killed loses what has gathered.
const GATHERING: Duration = Duration::from_millis(5);
/// Bytes that are written at once, at most: PIPE_BUF, so that a pipe takes whole lines, whoever else writes to it.
const MAX_WRITE_BYTES: usize = 4096;

/// Where the thread writes to. tracing-appender flushes it whenever the queue is empty, and would miss that it
/// shall stop if that failed: what can't be written now is tried again with the next line.
struct Gathered<W: Write>(BufWriter<W>);

impl<W: Write> Gathered<W> {
    fn to(writer: W) -> Self {
        Self(BufWriter::with_capacity(MAX_WRITE_BYTES, writer))
    }
}

impl<W: Write> Write for Gathered<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
        thread::sleep(GATHERING);
        Ok(())
    }
}

/// Lines that may wait for their reader: some 2 MB.
const MAX_WAITING_LINES: usize = 8192;

static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// How many lines were dropped because their reader was too slow.
pub fn dropped_lines() -> u64 {
    DROPPED
        .get()
        .map_or(0, |lines| lines.dropped_lines() as u64)
}

/// How long the last lines are waited for.
const PATIENCE: Duration = Duration::from_millis(1200);

/// Dropping it waits about a second for lines that are still to be written, whatever their reader does.
#[derive(Debug)]
pub struct Written(Option<WorkerGuard>);

impl Drop for Written {
    fn drop(&mut self) {
        let guard = self.0.take();
        let (over, told) = std::sync::mpsc::channel();
        // It may print to a standard output that has stalled too.
        thread::spawn(move || {
            drop(guard);
            let _ = over.send(());
        });
        let _ = told.recv_timeout(PATIENCE);
    }
}

/// Sends log lines, and what a panic says, to standard error, until what it gives is dropped. Later calls
/// in the same process change nothing.
pub fn init(settings: Settings) -> Written {
    let is_json = match settings.format {
        Format::Auto => !io::stderr().is_terminal(),
        Format::Text => false,
        Format::Json => true,
    };
    let queue = NonBlockingBuilder::default().buffered_lines_limit(MAX_WAITING_LINES);
    let (writer, guard) = queue.finish(Gathered::to(io::stderr()));
    let _ = DROPPED.set(writer.error_counter());
    access::init(writer.clone(), is_json, settings.access_log);
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let registry = tracing_subscriber::registry().with(settings.filter);
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
    Written(Some(guard))
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Instant};

    use super::*;

    /// Tells how many bytes each write has.
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
    fn a_line_that_comes_alone_is_written_at_once_and_close_ones_together() {
        let (send, sizes) = mpsc::channel();
        let queue = NonBlockingBuilder::default();
        let (mut lines, written) = queue.finish(Gathered::to(Writes(send)));
        let start = Instant::now();
        lines.write_all(b"alone\n").expect("queued");
        let patience = Duration::from_secs(10);
        assert_eq!(sizes.recv_timeout(patience), Ok(6));
        for _ in 0..200 {
            lines.write_all(b"close\n").expect("queued");
            thread::sleep(Duration::from_micros(100)); // else the queue alone would gather them
        }
        drop(written);
        let pauses = start.elapsed().as_millis() / GATHERING.as_millis();
        let sizes: Vec<_> = sizes.iter().collect();
        assert_eq!(sizes.iter().sum::<usize>(), 200 * 6, "{sizes:?}");
        assert!(sizes.len() as u128 <= pauses + 1, "{pauses}: {sizes:?}");
    }

    #[test]
    fn a_write_has_whole_lines_and_no_more_than_a_pipe_takes_at_once() {
        let (send, sizes) = mpsc::channel();
        let queue = NonBlockingBuilder::default();
        let (mut lines, written) = queue.finish(Gathered::to(Writes(send)));
        for _ in 0..200 {
            lines.write_all(&[b'x'; 100]).expect("queued");
        }
        drop(written);
        let sizes: Vec<_> = sizes.iter().collect();
        assert_eq!(sizes.iter().sum::<usize>(), 200 * 100, "{sizes:?}");
        let is_fit = |size: &usize| size.is_multiple_of(100) && *size <= 4096; // PIPE_BUF, pipe(7)
        assert!(sizes.iter().all(is_fit), "{sizes:?}");
    }

    /// Fails as a pipe does whose reader is gone.
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
    fn a_writer_that_fails_is_not_waited_for_at_the_end() {
        let queue = NonBlockingBuilder::default();
        let (mut lines, written) = queue.finish(Gathered::to(Broken));
        lines.write_all(b"lost\n").expect("queued");
        let start = Instant::now();
        drop(written); // after a second tracing-appender gives up
        assert!(start.elapsed() < Duration::from_millis(900));
    }
}
