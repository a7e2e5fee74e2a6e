//! Observability: every step of the loop passes one hook, and is counted.

use std::fmt;
use std::io;
use std::time::Instant;

use crate::error::panics::catch_panic;
use crate::error::{CloseReason, ConnectFailure};
use crate::id::ConnectionId;
use crate::net::{Address, Fill, Flush};
use crate::state::Verdict;
use crate::time::{Expiry, TimerId};

/// One step of the loop, as it happens.
///
/// An [`Observer`] gets each step; [`Counters`] counts them.
#[derive(Debug)]
#[non_exhaustive]
pub enum Step<'a> {
    /// The poller returned, and a turn begins.
    Turn {
        /// The time at which the poller returned. It is the time of the whole turn.
        now: Instant,
        /// The number of events that the poller returned.
        events: usize,
    },
    /// The loop busy-polled before it would block; see [`Config::spin`](crate::Config::spin).
    Spun {
        /// The number of poller calls that this took.
        polls: u32,
        /// True if there was work in the end, so that the loop did not block.
        hit: bool,
    },
    /// The poller reported that a connection may be ready.
    Event {
        /// The connection.
        id: ConnectionId,
        /// True if a read may find something.
        readable: bool,
        /// True if a write may find room.
        writable: bool,
    },
    /// An event, a command or a deadline came for a connection that is gone. It was ignored.
    Stale,
    /// A connection was accepted and registered.
    Accepted {
        /// The id of the new connection.
        id: ConnectionId,
        /// The peer's address.
        peer: &'a Address,
        /// The number of the listener that accepted it.
        listener: usize,
    },
    /// An accept failed, or the accepted connection could not be registered.
    AcceptFailed {
        /// The number of the listener.
        listener: usize,
        /// The system's error.
        error: &'a io::Error,
    },
    /// A socket began to connect, and was registered. An outgoing connection with several addresses
    /// may take this step several times, once for each address tried.
    Dialed {
        /// The connection.
        id: ConnectionId,
        /// The address that the socket connects to.
        peer: &'a Address,
    },
    /// An attempt to connect failed, and its socket is closed.
    DialFailed {
        /// The connection.
        id: ConnectionId,
        /// The address that was tried.
        peer: &'a Address,
        /// Why it failed.
        failure: &'a ConnectFailure,
    },
    /// A socket was read once.
    Read {
        /// The connection.
        id: ConnectionId,
        /// The result of the read.
        fill: &'a Fill,
    },
    /// The codec decoded a whole frame.
    Frame {
        /// The connection.
        id: ConnectionId,
        /// The length of the frame on the wire, in bytes.
        bytes: usize,
    },
    /// A callback returned a verdict other than [`Verdict::Continue`].
    Verdict {
        /// The connection.
        id: ConnectionId,
        /// The verdict.
        verdict: Verdict,
    },
    /// A message was encoded into a connection's write buffer.
    Queued {
        /// The connection.
        id: ConnectionId,
        /// The length of the message on the wire, in bytes.
        bytes: usize,
    },
    /// A socket was written to once.
    Write {
        /// The connection.
        id: ConnectionId,
        /// The result of the write.
        flush: &'a Flush,
    },
    /// A connection changed its state.
    State {
        /// The connection.
        id: ConnectionId,
        /// The old state, by its name in [`guide::states`](crate::guide::states).
        from: &'static str,
        /// The new state.
        to: &'static str,
    },
    /// Bytes from a peer were dropped unhandled, because the connection was closing.
    Discarded {
        /// The connection.
        id: ConnectionId,
        /// The number of bytes.
        bytes: usize,
    },
    /// Replies were dropped, because their connection was closed.
    Dropped {
        /// The connection.
        id: ConnectionId,
        /// The number of bytes.
        bytes: usize,
    },
    /// A connection has work left that no event reports, for instance because it spent its budget.
    /// It goes on in the next turn.
    Deferred {
        /// The connection.
        id: ConnectionId,
    },
    /// A deadline of a connection expired.
    Deadline {
        /// The connection.
        id: ConnectionId,
        /// Which deadline it was.
        expiry: Expiry,
    },
    /// A timer fired.
    Timer {
        /// The timer.
        timer: TimerId,
    },
    /// A message from another thread is handled.
    Post,
    /// User code panicked. The connection closes, and the loop goes on.
    Panicked {
        /// The connection whose callback panicked; `None` for a callback of the loop.
        id: Option<ConnectionId>,
    },
    /// Code of this crate panicked while it handled a connection: a bug in glassloop. The
    /// connection closes with [`CloseReason::Internal`], and the loop goes on.
    InternalError {
        /// The connection.
        id: ConnectionId,
        /// The message of the panic. The panic hook gets the source location too.
        message: &'a str,
    },
    /// A connection was closed, and its slot was freed.
    Closed {
        /// The id that the connection had.
        id: ConnectionId,
        /// Why the connection closed.
        reason: &'a CloseReason,
    },
}

/// Receives every step of the loop, in order.
///
/// Closures of the form `FnMut(&Step<'_>)` are observers.
/// [`Reactor::set_observer`](crate::Reactor::set_observer) installs one.
///
/// **Trap:** an observer runs inside the loop. The time that it takes delays every connection. If
/// it panics it is removed, and the loop goes on without it.
pub trait Observer {
    /// Called with each step, when the step has been taken.
    fn step(&mut self, step: &Step<'_>);
}

impl<F: FnMut(&Step<'_>)> Observer for F {
    fn step(&mut self, step: &Step<'_>) {
        self(step);
    }
}

/// How often each step was taken since the loop was made.
///
/// Every counter only grows. All of them start at 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Turns of the loop.
    pub turns: u64,
    /// Calls of the poller: one in each turn, and the calls that found nothing while the loop was
    /// spinning.
    pub polls: u64,
    /// Times the loop busy-polled before it would block ([`Config::spin`](crate::Config::spin)).
    pub spins: u64,
    /// Spins that found work, so that the loop did not block.
    pub spin_hits: u64,
    /// Spins that found no work, so that the loop blocked.
    pub spin_misses: u64,
    /// Events for connections that exist.
    pub events: u64,
    /// Events, commands and deadlines for connections that are gone.
    pub stale: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Failed accepts.
    pub accept_errors: u64,
    /// Attempts to connect that began.
    pub dialed: u64,
    /// Attempts to connect that began and failed.
    pub dial_errors: u64,
    /// Connections that were closed, and whose slots were freed.
    pub closed: u64,
    /// Read calls, whatever their result.
    pub reads: u64,
    /// Read calls that found nothing to read.
    pub reads_blocked: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes read and dropped unhandled, because their connection was closing.
    pub bytes_discarded: u64,
    /// Frames decoded and given to the handler.
    pub frames: u64,
    /// Messages encoded.
    pub queued: u64,
    /// Write calls, whatever their result.
    pub writes: u64,
    /// Write calls that found no room in the socket.
    pub writes_blocked: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Bytes of replies that were still queued when their connection closed.
    pub bytes_dropped: u64,
    /// Times a connection had work left that no event reports.
    pub deferred: u64,
    /// Deadlines that expired.
    pub deadlines: u64,
    /// Timers that fired.
    pub timers: u64,
    /// Messages from other threads that were handled.
    pub posts: u64,
    /// Panics in callbacks.
    pub panics: u64,
    /// Panics in this crate's own code, each of which closed one connection. Any value but 0 is a
    /// bug in glassloop.
    pub internal_errors: u64,
    /// Registrations and deregistrations of connections' sockets with the poller (`epoll_ctl` calls
    /// on Linux). A dial that fails counts one more.
    pub registrations: u64,
}

impl Counters {
    /// Adds one step to the counters.
    #[inline(always)]
    fn count(&mut self, step: &Step<'_>) {
        match step {
            Step::Turn { .. } => {
                self.turns += 1;
                self.polls += 1;
            }
            Step::Spun { polls, hit } => {
                self.spins += 1;
                self.spin_hits += u64::from(*hit);
                self.spin_misses += u64::from(!*hit);
                self.polls += u64::from(*polls) - u64::from(*hit); // a hit is the turn's poll
            }
            Step::Event { .. } => self.events += 1,
            Step::Stale => self.stale += 1,
            Step::Accepted { .. } => {
                self.accepted += 1;
                self.registrations += 1;
            }
            Step::AcceptFailed { .. } => self.accept_errors += 1,
            Step::Dialed { .. } => {
                self.dialed += 1;
                self.registrations += 1;
            }
            Step::DialFailed { .. } => {
                self.dial_errors += 1;
                self.registrations += 1;
            }
            Step::Read { fill, .. } => {
                self.reads += 1;
                match fill {
                    Fill::Bytes(n) => self.bytes_read += *n as u64,
                    Fill::Blocked => self.reads_blocked += 1,
                    Fill::End | Fill::Failed(_) => {}
                }
            }
            Step::Frame { .. } => self.frames += 1,
            Step::Queued { .. } => self.queued += 1,
            Step::Write { flush, .. } => {
                self.writes += 1;
                match flush {
                    Flush::Bytes(n) => self.bytes_written += *n as u64,
                    Flush::Blocked => self.writes_blocked += 1,
                    Flush::Failed(_) => {}
                }
            }
            Step::Discarded { bytes, .. } => self.bytes_discarded += *bytes as u64,
            Step::Dropped { bytes, .. } => self.bytes_dropped += *bytes as u64,
            Step::Deferred { .. } => self.deferred += 1,
            Step::Deadline { .. } => self.deadlines += 1,
            Step::Timer { .. } => self.timers += 1,
            Step::Post => self.posts += 1,
            Step::Panicked { .. } => self.panics += 1,
            Step::InternalError { .. } => self.internal_errors += 1,
            Step::Closed { .. } => {
                self.closed += 1;
                self.registrations += 1;
            }
            Step::Verdict { .. } | Step::State { .. } => {}
        }
    }
}

/// The place that all steps pass: the counters, and the observer if there is one.
#[derive(Default)]
pub struct Observe {
    counters: Counters,
    observer: Option<Box<dyn Observer>>,
}

impl Observe {
    /// Counts a step and shows it to the observer. Without an observer, this costs the counting and
    /// one predicted branch.
    // Always inlined: each caller's step is known at compile time, so `count` becomes one addition.
    // `step` is called again for the observer. A step that is made once would be stored in memory
    // even without an observer.
    #[inline(always)]
    pub(crate) fn note<'a>(&mut self, step: impl Fn() -> Step<'a>) {
        self.counters.count(&step());
        if self.observer.is_some() {
            self.show(step);
        }
    }

    #[cold]
    #[inline(never)]
    fn show<'a>(&mut self, step: impl Fn() -> Step<'a>) {
        let Some(observer) = &mut self.observer else {
            return;
        };
        if catch_panic(|| observer.step(&step())).is_none() {
            log::error!("the observer panicked and was removed");
            let observer = self.observer.take();
            catch_panic(|| drop(observer));
        }
    }

    /// Shows every step from now on to `observer`, which replaces the one before.
    pub fn set_observer(&mut self, observer: impl Observer + 'static) {
        self.observer = Some(Box::new(observer));
    }

    /// Returns the counts so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }
}

impl fmt::Debug for Observe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observe")
            .field("counters", &self.counters)
            .field("observed", &self.observer.is_some())
            .finish()
    }
}
