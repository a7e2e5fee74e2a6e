//! The log: lines go through a bounded queue to a thread of their own, so no loop waits for stderr.

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
/// How long the end of the program waits for stderr to take what is queued.
const FLUSH_TIME: Duration = Duration::from_secs(1);
/// How long the log's thread waits before it asks a non-blocking stderr again.
const RETRY: Duration = Duration::from_millis(5);

/// The log of this process. [`finish`](Self::finish) writes what is queued.
#[derive(Debug)]
pub(crate) struct Log {
    queue: Queue,
    guard: WorkerGuard,
}

/// The queue's front end: counts the lines that go in.
#[derive(Clone, Debug)]
struct Queue {
    lines: NonBlocking,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Lines that were given to the queue, dropped ones included.
    queued: AtomicUsize,
    /// Lines that were taken out of the queue, whether or not stderr took them.
    taken: AtomicUsize,
    /// Lines that the queue had no room for.
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
    /// Sends the records that `filter` lets pass to stderr, and the messages of panics too.
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
        // Decided here: behind the queue nothing can tell whether stderr is a terminal.
        let style = match AutoStream::choice(&io::stderr()) {
            ColorChoice::Never => WriteStyle::Never,
            _ => WriteStyle::Always,
        };
        let target = Target::Pipe(Box::new(queue.clone()));
        let mut logger = env_logger::Builder::new();
        if filter.split(',').all(|part| part.contains('=')) {
            // It names modules only. The server's own lines say why it fails.
            logger.filter_module("server", LevelFilter::Info);
        }
        logger
            .parse_filters(filter)
            .write_style(style)
            .target(target)
            .init();
        // The hook that std installs writes to stderr in the thread that panics.
        panic::set_hook(Box::new(|info| log::error!("{info}")));
        Self { queue, guard }
    }

    /// Queues a line that is no log record: why the program ends, for instance.
    pub(crate) fn line(&mut self, line: impl Display) {
        let _ = self.queue.write(format!("{line}\n").as_bytes());
    }

    /// Writes what is queued, as far as stderr takes it within about two seconds.
    pub(crate) fn finish(self) {
        let end = Instant::now() + FLUSH_TIME;
        while !self.queue.counts.is_drained() {
            if Instant::now() >= end {
                // Nothing reads stderr. The guard would report that on stdout, and panic if that
                // fails too.
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

/// The queue's back end, in the log's thread: writes the lines, and says how many were dropped.
struct Reporter<W> {
    stderr: W,
    counts: Arc<Counts>,
    /// Lines that stderr refused.
    failed: usize,
    /// Dropped lines that were reported.
    reported: usize,
    /// Lines written since the last report.
    since: usize,
}

impl<W: Write> Reporter<W> {
    /// Writes all of `line`, also to a stderr that another process has made non-blocking.
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
        let report = format!("server: {lines} log lines were dropped: stderr did not take them\n");
        if lines > 0 && self.put(report.as_bytes()).is_ok() {
            self.reported = dropped;
        }
    }
}

impl<W: Write> Write for Reporter<W> {
    /// Takes one line, always whole. The caller could do nothing about an error, so it is counted
    /// instead.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.put(line).is_err() {
            self.failed += 1;
        }
        self.counts.taken.fetch_add(1, Ordering::AcqRel);
        self.since += 1;
        if self.since >= LINES {
            self.report(); // the queue may never be empty
        }
        Ok(line.len())
    }

    /// Called when the queue is empty, and at the end.
    fn flush(&mut self) -> io::Result<()> {
        self.report();
        Ok(())
    }
}
