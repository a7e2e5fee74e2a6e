//! Seeing through the loop: every step goes past one hook, and is counted.

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
#[derive(Debug)]
#[non_exhaustive]
pub enum Step<'a> {
    /// The poller returned: a turn begins.
    Turn {
        /// When it woke; the turn's only look at the clock.
        now: Instant,
        /// Events it brought.
        events: usize,
    },
    /// The loop waited awake, polling without sleep; see [`Config::spin`](crate::Config::spin).
    Spun {
        /// Calls of the poller that took.
        polls: u32,
        /// Whether there was something to do in the end, so that no sleep followed.
        hit: bool,
    },
    /// The poller reported a connection ready.
    Event {
        /// Whose.
        id: ConnectionId,
        /// For reading.
        readable: bool,
        /// For writing.
        writable: bool,
    },
    /// An event, a command or a deadline came for a connection that is gone, and was ignored.
    Stale,
    /// A connection came in and was registered.
    Accepted {
        /// Its name from here on.
        id: ConnectionId,
        /// Where it comes from.
        peer: &'a Address,
        /// The number of the listener it came through.
        listener: usize,
    },
    /// A connection could not be accepted, or not be registered.
    AcceptFailed {
        /// The number of the listener.
        listener: usize,
        /// What the system said.
        error: &'a io::Error,
    },
    /// A socket began to connect and was registered; with several addresses there may be several, one after the other.
    Dialed {
        /// Whose.
        id: ConnectionId,
        /// Where it goes.
        peer: &'a Address,
    },
    /// An attempt to connect has failed, and its socket is closed.
    DialFailed {
        /// Whose.
        id: ConnectionId,
        /// Where it went.
        peer: &'a Address,
        /// What became of it.
        failure: &'a ConnectFailure,
    },
    /// One read call.
    Read {
        /// On whose socket.
        id: ConnectionId,
        /// What came of it.
        fill: &'a Fill,
    },
    /// A whole frame was cut out of what was read.
    Frame {
        /// Whose.
        id: ConnectionId,
        /// Its length on the wire.
        bytes: usize,
    },
    /// The handler answered a callback with something else than [`Verdict::Continue`].
    Verdict {
        /// For which connection.
        id: ConnectionId,
        /// What it wants.
        verdict: Verdict,
    },
    /// A message was encoded into a connection's write buffer.
    Queued {
        /// Whose.
        id: ConnectionId,
        /// Its length on the wire.
        bytes: usize,
    },
    /// One write call.
    Write {
        /// On whose socket.
        id: ConnectionId,
        /// What came of it.
        flush: &'a Flush,
    },
    /// A connection went from one state to another.
    State {
        /// Which.
        id: ConnectionId,
        /// The state it left, by the name that [`guide::states`](crate::guide::states) gives it.
        from: &'static str,
        /// Where it stands now.
        to: &'static str,
    },
    /// Bytes that a peer had sent were dropped unhandled, since the connection was ending.
    Discarded {
        /// Whose.
        id: ConnectionId,
        /// How many.
        bytes: usize,
    },
    /// Replies were dropped, since their connection is over.
    Dropped {
        /// Whose.
        id: ConnectionId,
        /// How many bytes of them.
        bytes: usize,
    },
    /// A budget ran out: the connection goes on in the next turn.
    Deferred {
        /// Which.
        id: ConnectionId,
    },
    /// A connection's time for something is over.
    Deadline {
        /// Whose.
        id: ConnectionId,
        /// For what.
        expiry: Expiry,
    },
    /// A timer has come.
    Timer {
        /// Which.
        timer: TimerId,
    },
    /// A letter from another thread was read.
    Post,
    /// User code panicked; the connection closes, the loop goes on.
    Panicked {
        /// In a callback for which connection; `None` if it was for none.
        id: Option<ConnectionId>,
    },
    /// Code of this crate itself panicked in the work for a connection: a bug in glassloop. The
    /// connection closes with [`CloseReason::Internal`], the loop goes on.
    InternalError {
        /// Which connection.
        id: ConnectionId,
        /// The panic's message. The panic hook knows the place as well.
        message: &'a str,
    },
    /// A connection's slot was freed.
    Closed {
        /// Its name until here.
        id: ConnectionId,
        /// Why it ended.
        reason: &'a CloseReason,
    },
}

/// Sees every step of the loop, in order.
///
/// It runs inside the loop: what it does costs every connection time. If it panics it is taken
/// off, and the loop goes on without it.
pub trait Observer {
    /// Is told of one step.
    fn step(&mut self, step: &Step<'_>);
}

impl<F: FnMut(&Step<'_>)> Observer for F {
    fn step(&mut self, step: &Step<'_>) {
        self(step);
    }
}

/// How often each step was taken since the loop was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Turns.
    pub turns: u64,
    /// Calls of the poller: one in each turn, and those that found nothing while the loop waited awake.
    pub polls: u64,
    /// Times the loop waited awake before it slept ([`Config::spin`](crate::Config::spin)).
    pub spins: u64,
    /// How often there was something to do before it slept.
    pub spin_hits: u64,
    /// How often it slept all the same.
    pub spin_misses: u64,
    /// Events for living connections.
    pub events: u64,
    /// Events, commands and deadlines for connections that were gone.
    pub stale: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Failed accepts.
    pub accept_errors: u64,
    /// Attempts to connect begun.
    pub dialed: u64,
    /// Attempts to connect that failed once they were begun.
    pub dial_errors: u64,
    /// Connections closed, and their slots freed.
    pub closed: u64,
    /// Read calls, whatever came of them.
    pub reads: u64,
    /// Read calls that found nothing.
    pub reads_blocked: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes read and dropped, since their connection was ending.
    pub bytes_discarded: u64,
    /// Frames handed to the handler.
    pub frames: u64,
    /// Messages encoded.
    pub queued: u64,
    /// Write calls, whatever came of them.
    pub writes: u64,
    /// Write calls that found no room.
    pub writes_blocked: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Bytes of replies that no socket took before their connection was over.
    pub bytes_dropped: u64,
    /// Times a connection's budget for a turn ran out.
    pub deferred: u64,
    /// Deadlines that passed.
    pub deadlines: u64,
    /// Timers that came.
    pub timers: u64,
    /// Letters read that other threads had written.
    pub posts: u64,
    /// Panics in callbacks.
    pub panics: u64,
    /// Panics in this crate's own code, each of which ended one connection. Anything but 0 is a bug
    /// in glassloop.
    pub internal_errors: u64,
    /// Registrations of connections' sockets with the poller made or ended, which is calls of `epoll_ctl` on Linux; for a dial that fails it counts one more.
    pub registrations: u64,
}

impl Counters {
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
                self.polls += u64::from(*polls) - u64::from(*hit); // the last one that hits is the turn's
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

/// The one place that all steps go past: the counters, and the observer if there is one.
#[derive(Default)]
pub struct Observe {
    counters: Counters,
    observer: Option<Box<dyn Observer>>,
}

impl Observe {
    /// Counts a step and shows it. Without an observer, all but the counting is one predicted branch.
    // Inlined always: the step is known at each place, so what is left of `count` is an addition. It
    // is made anew to be shown; made once, it would be stored for that even where nobody watches.
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
            log::error!("the observer panicked and is taken off");
            let observer = self.observer.take();
            catch_panic(|| drop(observer));
        }
    }

    /// Lets `observer` see every step from here on, instead of the one before.
    pub fn set_observer(&mut self, observer: impl Observer + 'static) {
        self.observer = Some(Box::new(observer));
    }

    /// The counts so far.
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
