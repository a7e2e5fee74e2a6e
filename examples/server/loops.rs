//! The server's loops: one thread each. If one fails, the others stop gracefully.

use std::fmt::Display;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use glassloop::internals::Net;
use glassloop::{Counters, Handle, Handler, Reactor, Stop};

/// All loops of the process, each in a thread of its own.
pub(crate) struct Loops<M> {
    reports: Receiver<Report<M>>,
    handles: Vec<Handle<M>>,
    running: usize,
    total: Total,
}

/// Totals of all loops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Total {
    pub(crate) accepted: u64,
    pub(crate) frames: u64,
    pub(crate) bytes_dropped: u64,
    /// Loops that ended because of an error or a panic.
    pub(crate) failed: usize,
}

/// A report of a loop's thread: `Ready` unless its start fails, and `Ended` once in any case.
enum Report<M> {
    Ready {
        handle: Handle<M>,
    },
    Ended {
        number: usize,
        counters: Option<Box<Counters>>,
        failure: Option<String>,
    },
}

impl<M: Send + 'static> Loops<M> {
    /// Starts a loop with each of `starts`, which run in the loops' threads, and waits until all
    /// loops are ready.
    ///
    /// # Errors
    /// The error of a loop that did not start. The loops that did start are stopped.
    pub(crate) fn start<H, N, E, S>(starts: impl IntoIterator<Item = S>) -> Result<Self, String>
    where
        H: Handler<Mail = M>,
        N: Net,
        E: Display,
        S: FnOnce() -> Result<Reactor<H, N>, E> + Send + 'static,
    {
        let (report, reports) = mpsc::channel();
        let mut loops = Self {
            reports,
            handles: Vec::new(),
            running: 0,
            total: Total::default(),
        };
        for (number, start) in starts.into_iter().enumerate() {
            spawn(number, start, report.clone())
                .map_err(|error| format!("cannot start the thread of loop {number}: {error}"))?;
            loops.running += 1;
        }
        drop(report);
        loops.wait_until_ready()?;
        Ok(loops)
    }

    fn wait_until_ready(&mut self) -> Result<(), String> {
        let mut problem = None;
        while self.handles.len() < self.running {
            match self.reports.recv() {
                Ok(Report::Ready { handle }) => self.handles.push(handle),
                Ok(Report::Ended {
                    number, failure, ..
                }) => {
                    self.running -= 1;
                    problem.get_or_insert(failure.unwrap_or_else(|| {
                        format!("loop {number} stopped before the others were ready")
                    }));
                }
                Err(_) => break, // every thread has ended
            }
        }
        problem.map_or(Ok(()), |problem| {
            self.handles
                .iter()
                .for_each(|handle| handle.stop(Stop::AtOnce));
            Err(problem)
        })
    }

    /// A handle for each loop.
    pub(crate) fn handles(&self) -> &[Handle<M>] {
        &self.handles
    }

    /// Waits until every loop has ended. If one fails, logs that at once and stops the others
    /// gracefully.
    pub(crate) fn wait(mut self) -> Total {
        while self.running > 0 {
            let Ok(report) = self.reports.recv() else {
                break;
            };
            let Report::Ended {
                number,
                counters,
                failure,
            } = report
            else {
                continue;
            };
            self.running -= 1;
            let counters = counters.unwrap_or_default();
            self.total.accepted += counters.accepted;
            self.total.frames += counters.frames;
            self.total.bytes_dropped += counters.bytes_dropped;
            if let Some(failure) = failure {
                self.total.failed += 1;
                let next = if self.running > 0 {
                    "the other loops stop gracefully"
                } else {
                    "no loop is left"
                };
                log::error!("loop {number} failed: {failure}; its connections are lost, {next}");
                self.handles
                    .iter()
                    .for_each(|handle| handle.stop(Stop::Gracefully));
            }
        }
        self.total
    }
}

/// Starts a loop's thread. Its last report is sent however the loop ends.
fn spawn<H, N, E, S>(number: usize, start: S, reports: Sender<Report<H::Mail>>) -> io::Result<()>
where
    H: Handler<Mail: Send + 'static>,
    N: Net,
    E: Display,
    S: FnOnce() -> Result<Reactor<H, N>, E> + Send + 'static,
{
    let run = move || {
        // After a panic the loop is dropped and not used any more.
        let ended = panic::catch_unwind(AssertUnwindSafe(|| match start() {
            Ok(mut reactor) => {
                let _ = reports.send(Report::Ready {
                    handle: reactor.handle(),
                });
                let failure = reactor.run().err().map(|error| error.to_string());
                (Some(Box::new(reactor.counters())), failure)
            }
            Err(error) => (None, Some(error.to_string())),
        }));
        let (counters, failure) = ended.unwrap_or_else(|_| (None, Some("it panicked".to_string())));
        let _ = reports.send(Report::Ended {
            number,
            counters,
            failure,
        });
    };
    thread::Builder::new()
        .name(format!("loop {number}"))
        .spawn(run)
        .map(drop)
}
