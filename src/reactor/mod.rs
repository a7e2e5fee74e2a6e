//! The event loop. [`Reactor::turn`] is one iteration of it, and [`Reactor::run`] repeats turns
//! until a stop is requested.
//!
//! ```text
//!   poll ─► events ─► resume queue ─► posts, commands
//!        ─► deadlines, timers ─► flush ─► reap
//! ```
//!
//! A turn collects the connections that need work in three lists:
//!
//! - `resume`: connections with work that no socket event reports, served in the next turn.
//! - `pending_flush`: connections that got output, or were closed, outside of their own batch.
//! - `closed`: connections to remove in `reap`. A slot is never freed inside a batch.
//!
//! A *batch* is the frames that one call of `handle_frames` handles (`connection/callbacks.rs`):
//! as a rule, all that one read has completed.

mod accept;
mod commands;
mod deadlines;
mod dial;
mod embed;
mod limit;
mod memory;
mod panics;
mod poll;
mod scratch;
mod serve;
mod slots;
mod sockets;
mod spin;
mod stop;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use self::accept::Listener;
use self::dial::Attempt;
use self::poll::PartialPolls;
use self::scratch::Scratch;
use self::serve::Resumable;
use self::slots::Slots;
use self::spin::Spin;
use self::stop::Phase;
use crate::config::Config;
use crate::error::Error;
use crate::handler::{Handler, Shared};
use crate::id::{ConnectionId, Token};
use crate::net::{Event, MioNet, Net};
use crate::observe::Step;
use crate::state::Stop;
use crate::threads::{MailboxReceiver, Permits, Post};

/// The largest number of connections for which the tables reserve memory at the start. This takes
/// some megabytes of address space. The system provides real memory only when a connection is
/// stored.
const MAX_RESERVED: usize = 65_536;

/// An event loop: one thread, one poller, all connections, one handler.
///
/// ```no_run
/// # use glassloop::{Context, Handler, Origin, Reactor, Verdict, codec::Line};
/// # struct Echo;
/// # impl Handler for Echo {
/// #     type Codec = Line;
/// #     type State = ();
/// #     type Mail = ();
/// #     fn connection(&mut self, _: &Origin) -> (Line, ()) { (Line::default(), ()) }
/// #     fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Verdict {
/// #         cx.send(line);
/// #         Verdict::Continue
/// #     }
/// # }
/// let mut reactor = Reactor::bind("127.0.0.1:7000", Echo)?;
/// println!("listening on {}", reactor.local_addrs()[0]);
/// reactor.run()?;
/// # Ok::<(), glassloop::Error>(())
/// ```
///
/// Write `Reactor<MyHandler>`. The second parameter is the operating system's interface; only tests
/// use another one than the default.
pub struct Reactor<H: Handler, N: Net = MioNet> {
    net: N,
    handler: H,
    listeners: Vec<Listener<N>>,
    /// True if a listener may have connections to accept, or is backing off after an error.
    accept_pending: bool,
    /// If set, no listener accepts before this time: the system was out of descriptors or memory.
    accept_paused_until: Option<Instant>,
    slots: Slots<H, N>,
    /// Outgoing connections that are not established yet.
    dials: BTreeMap<ConnectionId, Attempt>,
    shared: Shared,
    /// The resume queue: connections with work that no event will report, because a budget was
    /// spent or back-pressure ended.
    resume: VecDeque<Resumable>,
    /// Connections that got output, or were closed, outside of their own batch.
    pending_flush: Vec<ConnectionId>,
    /// Closed connections. Their slots are freed when the turn ends, never inside a batch.
    closed: VecDeque<ConnectionId>,
    events: Vec<Event>,
    scratch: Scratch,
    /// Bytes of memory that the buffers of all connections hold.
    buffered: usize,
    spin: Spin,
    max_connections: usize,
    /// This loop's share of a connection limit that several loops share.
    permits: Option<Permits>,
    mailbox: MailboxReceiver<H::Mail>,
    /// Messages taken out of the mailbox and not handled yet.
    posts: VecDeque<Post<H::Mail>>,
    /// Weight of `posts` when they were taken out, as counted by their senders.
    posts_weight: usize,
    /// A stop that was requested and that waits until the messages sent before it are handled.
    requested_stop: Option<Stop>,
    /// True if the last poll filled the event list: there may be more, and edge-triggered polling
    /// does not report them again by itself.
    poll_again: bool,
    /// Set while polls are incomplete: how much they have reported so far.
    partial_polls: Option<PartialPolls>,
    phase: Phase,
}

/// The result of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Turn {
    /// The loop is running.
    Running,
    /// The loop has stopped on request, and every connection is closed.
    Stopped,
}

impl<H: Handler, N: Net> Reactor<H, N> {
    /// Makes a loop over any [`Net`].
    ///
    /// # Errors
    /// [`Error::Config`] if the limits contradict each other.
    pub fn with_net(net: N, handler: H, config: Config) -> Result<Self, Error> {
        config.check()?;
        let max_connections = limit::max_connections(&config, net.descriptor_limit());
        let now = net.now();
        let mut reactor = Self {
            mailbox: MailboxReceiver::new(net.waker(), config.mailbox_cap),
            posts: VecDeque::new(),
            posts_weight: 0,
            requested_stop: None,
            net,
            handler,
            listeners: Vec::new(),
            accept_pending: false,
            accept_paused_until: None,
            slots: Slots::default(),
            dials: BTreeMap::new(),
            resume: VecDeque::new(),
            pending_flush: Vec::new(),
            closed: VecDeque::new(),
            events: Vec::with_capacity(config.events_per_turn),
            scratch: Scratch::new(config.scratch),
            buffered: 0,
            spin: Spin::new(config.spin),
            max_connections,
            permits: None,
            poll_again: false,
            partial_polls: None,
            phase: Phase::Running,
            shared: Shared::new(config, now),
        };
        reactor.reserve();
        Ok(reactor)
    }

    /// Reserves table space for all connections, so that accepting one never waits for a table to
    /// be moved.
    fn reserve(&mut self) {
        let room = self.max_connections.min(MAX_RESERVED);
        self.slots.reserve(room);
        self.shared.timers.reserve(room);
        self.mailbox.with(|state| state.reserve(room));
    }

    /// Runs turns until a stop is requested.
    ///
    /// # Errors
    /// [`Error::Poll`] if the poller fails. Nothing that a peer does ends the loop.
    ///
    /// # Panics
    /// As [`turn`](Self::turn).
    pub fn run(&mut self) -> Result<(), Error> {
        let turns = |reactor: &mut Self| {
            while reactor.take_turn(None)? == Turn::Running {}
            Ok(Turn::Stopped)
        };
        self.catching_panics(turns).map(|_| ())
    }

    /// Runs one iteration of the loop: waits for events, then does all work that is due.
    ///
    /// It waits at most `timeout`; with `None`, until an event or a deadline.
    /// `Some(Duration::ZERO)` does not wait. It may return early, with nothing done. The clock is
    /// read when the poller returns, and that time is used for the whole turn.
    ///
    /// **Trap:** the loop computes the length of the wait from the time of the *last* turn. If the
    /// program works for long between two turns, the wait is too long by that time. In that case,
    /// begin with a turn of `Duration::ZERO`.
    ///
    /// # Errors
    /// [`Error::Poll`] if the poller fails.
    ///
    /// # Panics
    /// If this crate has a bug that cannot be attributed to one connection. Otherwise only that
    /// connection closes, with [`CloseReason::Internal`](crate::CloseReason::Internal).
    pub fn turn(&mut self, timeout: Option<Duration>) -> Result<Turn, Error> {
        self.catching_panics(|reactor| reactor.take_turn(timeout))
    }

    /// The steps of a turn, in order. A panic in one of them is caught around it.
    fn take_turn(&mut self, timeout: Option<Duration>) -> Result<Turn, Error> {
        if let (Phase::Stopped, true) = (self.phase, self.closed.is_empty()) {
            return Ok(Turn::Stopped);
        }
        let resumable = self.resume.len();
        // Events are left only by a turn that has panicked; they are dispatched first.
        if self.events.is_empty() {
            self.wait(timeout).map_err(Error::Poll)?; // poll: sleep until an event or a deadline
        }
        self.shared.observe.note(|| Step::Turn {
            now: self.shared.clock.now(),
            events: self.events.len(),
        });

        self.dispatch(); //        events: accept new connections, serve ready ones
        self.resume(resumable); // resume queue: connections with work left from the last turn
        self.deliver(); //         posts from other threads, commands from callbacks
        self.expire(); //          deadlines and timers
        self.flush(); //           output that was queued outside of a batch
        self.reap(); //            remove closed connections
        self.note_work_time();
        Ok(self.status_after_turn())
    }

    /// Returns the tick at which the next turn has work, as seen from this turn; `None` if only an
    /// event can bring work.
    fn due(&self) -> Option<u64> {
        let clock = &self.shared.clock;
        if self.has_work() || self.poll_again || self.can_accept() {
            return Some(clock.tick());
        }
        let end = self.phase.deadline().map(|until| clock.tick_of(until));
        let accept = self.next_accept().map(|at| clock.tick_at(at));
        sooner(self.shared.timers.next(), sooner(end, accept))
    }

    /// True if there is work left that no event will report.
    fn has_work(&self) -> bool {
        !(self.resume.is_empty()
            && self.pending_flush.is_empty()
            && self.closed.is_empty()
            && self.posts.is_empty()
            && !self.mailbox.is_notified()
            && self.shared.commands.is_empty())
    }

    /// Dispatches each event to its listener or connection, then accepts.
    fn dispatch(&mut self) {
        for number in 0..self.events.len() {
            let event = self.events[number];
            match Token::unpack(event.token) {
                Token::Listener(number) => match self.listeners.get_mut(number) {
                    Some(listener) => {
                        listener.on_event();
                        self.accept_pending = true;
                    }
                    None => self.shared.observe.note(|| Step::Stale),
                },
                Token::Waker => {} // every turn checks the mailbox
                token @ Token::Connection { .. } => self.on_event(token, &event),
            }
        }
        self.events.clear();
        self.accept();
    }

    /// Serves the connections that were queued before this turn began. Connections queued during
    /// the turn wait for the next one, so none is served twice in a turn.
    fn resume(&mut self, resumable: usize) {
        if resumable == 0 {
            return;
        }
        for _ in 0..resumable {
            let next = self.resume.pop_front();
            self.resume_connection(next.expect("only this function shortens the queue"));
        }
        self.shrink_resume();
    }
}

/// Returns the earlier of two times, where `None` is never.
#[inline]
fn sooner<T: Ord + Copy>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        _ => one.or(other),
    }
}

impl<H: Handler, N: Net> fmt::Debug for Reactor<H, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor")
            .field("listening", &self.local_addrs())
            .field("connections", &self.slots.len())
            .field("phase", &self.phase)
            .field("counters", &self.counters())
            .finish_non_exhaustive()
    }
}
