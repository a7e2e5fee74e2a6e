//! The log: lines go through a bounded queue to a thread that writes them, so no loop waits for
//! stderr.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::panic;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anstream::{AutoStream, ColorChoice};
use env_logger::{Target, WriteStyle};
use log::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

/// Lines that may wait for stderr. Further ones are dropped and counted.
const LINES: usize = 8192;
/// Time limit for writing the queued lines when the program ends.
const FLUSH_TIME: Duration = Duration::from_secs(1);
/// Time after which the log's thread tries a non-blocking stderr again.
const RETRY: Duration = Duration::from_millis(5);

/// The log of this process. [`finish`](Self::finish) writes the queued lines.
#[derive(Debug)]
pub(crate) struct Log {
    queue: Queue,
    guard: WorkerGuard,
}

/// The sending end of the queue: counts the lines that go in.
#[derive(Clone, Debug)]
struct Queue {
    lines: NonBlocking,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Lines sent to the queue, including dropped ones.
    queued: AtomicUsize,
    /// Lines taken out of the queue, written to stderr or not.
    taken: AtomicUsize,
    /// Lines dropped because the queue was full.
    dropped: OnceLock<ErrorCounter>,
}

impl Counts {
    fn dropped(&self) -> usize {
        self.dropped.get().map_or(0, ErrorCounter::dropped_lines)
    }

    /// Whether the queue is empty and its last line is written.
    fn is_drained(&self) -> bool {
        let done = self
            .taken
            .load(Ordering::Acquire)
            .saturating_add(self.dropped());
        done >= self.queued.load(Ordering::Acquire)
    }
}

impl Log {
    /// Starts the log: writes records that pass `filter`, and panic messages, to stderr.
    pub(crate) fn start(filter: &str) -> Self {
        let counts = Arc::new(Counts::default());
        let stderr = Reporter {
            stderr: io::stderr(),
            counts: counts.clone(),
            failed: 0,
            reported: 0,
            since: 0,
        };
        let (lines, guard) = NonBlockingBuilder::default()
            .buffered_lines_limit(LINES)
            .thread_name("log")
            .finish(stderr);
        let _ = counts.dropped.set(lines.error_counter());
        let queue = Queue { lines, counts };
        // Decided here: after the queue it is unknown whether stderr is a terminal.
        let style = match AutoStream::choice(&io::stderr()) {
            ColorChoice::Never => WriteStyle::Never,
            _ => WriteStyle::Always,
        };
        let target = Target::Pipe(Box::new(queue.clone()));
        let mut logger = env_logger::Builder::new();
        if filter.split(',').all(|part| part.contains('=')) {
            // The filter has modules only. Keep the server's own lines, which report why it fails.
            logger.filter_module("server", LevelFilter::Info);
        }
        logger
            .parse_filters(filter)
            .write_style(style)
            .target(target)
            .init();
        // In place of std's hook, which writes to stderr in the thread that panics.
        panic::set_hook(Box::new(|info| log::error!("{info}")));
        Self { queue, guard }
    }

    /// Queues a line that is not a log record, for example the error that ends the program.
    pub(crate) fn line(&mut self, line: impl Display) {
        let _ = self.queue.write(format!("{line}\n").as_bytes());
    }

    /// Writes the queued lines, as many as stderr accepts within about two seconds.
    pub(crate) fn finish(self) {
        let end = Instant::now() + FLUSH_TIME;
        while !self.queue.counts.is_drained() {
            if Instant::now() >= end {
                // stderr is not read. Dropped, the guard would report that on stdout, and panic if
                // that fails too.
                std::mem::forget(self.guard);
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
        drop(self.guard); // waits for the last report, up to a second
    }
}

impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.counts.queued.fetch_add(1, Ordering::AcqRel);
        self.lines.write(line)
    }

    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        self.write(line).map(drop)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The receiving end of the queue, in the log's thread: writes the lines, and reports how many were
/// dropped.
struct Reporter<W> {
    stderr: W,
    counts: Arc<Counts>,
    /// Lines that could not be written to stderr.
    failed: usize,
    /// Dropped lines reported so far.
    reported: usize,
    /// Lines written since the last report.
    since: usize,
}

impl<W: Write> Reporter<W> {
    /// Writes all of `line`, even if another process has made stderr non-blocking.
    fn put(&mut self, mut line: &[u8]) -> io::Result<()> {
        while !line.is_empty() {
            match self.stderr.write(line) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => line = &line[n..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn report(&mut self) {
        self.since = 0;
        let dropped = self.counts.dropped() + self.failed;
        let lines = dropped - self.reported;
        let report = format!("server: {lines} log lines dropped: stderr did not accept them\n");
        if lines > 0 && self.put(report.as_bytes()).is_ok() {
            self.reported = dropped;
        }
    }
}

impl<W: Write> Write for Reporter<W> {
    /// Writes one whole line. Counts an error instead of returning it, since the caller could not
    /// handle it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.put(line).is_err() {
            self.failed += 1;
        }
        self.counts.taken.fetch_add(1, Ordering::AcqRel);
        self.since += 1;
        if self.since >= LINES {
            self.report(); // `flush` is not called while the queue is never empty
        }
        Ok(line.len())
    }

    /// Called when the queue is empty, and at the end.
    fn flush(&mut self) -> io::Result<()> {
        self.report();
        Ok(())
    }
}
