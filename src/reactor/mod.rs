//! The loop. [`Reactor::turn`] is one round of it, and the whole of it in ten lines.

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
use self::poll::FullPolls;
use self::scratch::Scratch;
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

/// Connections that the tables have room for from the beginning, at most: some megabytes of addresses, and of memory only where somebody sits.
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
/// #     fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Verdict { cx.send(line); Verdict::Continue }
/// # }
/// let mut reactor = Reactor::bind("127.0.0.1:7000", Echo)?;
/// println!("listening on {}", reactor.local_addrs()[0]);
/// reactor.run()?;
/// # Ok::<(), glassloop::Error>(())
/// ```
///
/// Write `Reactor<MyHandler>`; the second parameter is the way to the operating system, and only tests name another one than the real one.
pub struct Reactor<H: Handler, N: Net = MioNet> {
    net: N,
    handler: H,
    listeners: Vec<Listener<N>>,
    /// Whether somebody may wait at a listener, or one rests: else none need be looked at.
    accept_pending: bool,
    /// Until then no listener is asked: the system has no room.
    accept_paused_until: Option<Instant>,
    slots: Slots<H, N>,
    /// Outgoing connections that are not established yet.
    dials: BTreeMap<ConnectionId, Attempt>,
    shared: Shared,
    /// Connections that have something to do without an event: a budget ran out, a pause ended.
    resume: VecDeque<ConnectionId>,
    /// Connections that were given something to write, or were closed, outside of their own batch.
    touched: Vec<ConnectionId>,
    /// Connections that are over; their slots are freed when the turn ends, and never inside a batch.
    closed: VecDeque<ConnectionId>,
    events: Vec<Event>,
    scratch: Scratch,
    /// Bytes of memory that the buffers of all connections hold.
    buffered: usize,
    spin: Spin,
    max_connections: usize,
    /// This loop's part of a limit that several loops share.
    permits: Option<Permits>,
    mailbox: MailboxReceiver<H::Mail>,
    /// Those taken out of the mailbox and not read yet.
    posts: VecDeque<Post<H::Mail>>,
    /// What all of them took when they were taken out, by their senders' account.
    posts_weight: usize,
    /// The end that another thread has asked for, and that waits for the letters before it.
    requested_stop: Option<Stop>,
    /// Whether the last poll brought as many events as it may: there may be more, and no new edge will tell.
    poll_again: bool,
    /// A row of such polls, while there is one.
    full_polls: Option<FullPolls>,
    phase: Phase,
}

/// What a turn leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Turn {
    /// There may be more to do.
    Running,
    /// The loop has stopped, as it was asked to: nothing is open any more.
    Stopped,
}

impl<H: Handler, N: Net> Reactor<H, N> {
    /// A loop over any [`Net`].
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
            touched: Vec::new(),
            closed: VecDeque::new(),
            events: Vec::with_capacity(config.events_per_turn),
            scratch: Scratch::new(config.scratch),
            buffered: 0,
            spin: Spin::new(config.spin),
            max_connections,
            permits: None,
            poll_again: false,
            full_polls: None,
            phase: Phase::Running,
            shared: Shared::new(config, now),
        };
        reactor.reserve();
        Ok(reactor)
    }

    /// Makes the tables large enough for all connections, so that no new one waits until the tables
    /// have been moved.
    fn reserve(&mut self) {
        let room = self.max_connections.min(MAX_RESERVED);
        self.slots.reserve(room);
        self.shared.timers.reserve(room);
        self.mailbox.with(|state| state.reserve(room));
    }

    /// Turns until it is told to stop.
    ///
    /// # Errors
    /// [`Error::Poll`] if the poller is broken. Nothing that a peer does ends the loop.
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

    /// One round of the loop: waits for events, at most for `timeout` (`None`: as long as it takes), and does all there is to do.
    ///
    /// `Some(Duration::ZERO)` does not wait. It may return early, with nothing done. The clock is
    /// read when the poller returns, and is the time for the whole turn.
    ///
    /// **Trap:** the wait is bounded by the nearest deadline as seen from the *last* turn's time. A
    /// program that does something else for long between turns does well to begin with a turn of zero.
    ///
    /// # Errors
    /// [`Error::Poll`] if the poller is broken.
    ///
    /// # Panics
    /// If this crate has a bug that no single connection can be blamed for. One that can be ends
    /// that connection, with [`CloseReason::Internal`](crate::CloseReason::Internal).
    pub fn turn(&mut self, timeout: Option<Duration>) -> Result<Turn, Error> {
        self.catching_panics(|reactor| reactor.take_turn(timeout))
    }

    fn take_turn(&mut self, timeout: Option<Duration>) -> Result<Turn, Error> {
        if let (Phase::Stopped, true) = (self.phase, self.closed.is_empty()) {
            return Ok(Turn::Stopped);
        }
        let resumable = self.resume.len();
        // Events that are still there are those of a turn that has panicked.
        if self.events.is_empty() {
            self.wait(timeout).map_err(Error::Poll)?; // poll
        }
        self.shared.observe.note(|| Step::Turn {
            now: self.shared.clock.now(),
            events: self.events.len(),
        });

        self.dispatch(); //        events: accept, and serve who is ready
        self.resume(resumable); // who was not finished in the last turn
        self.deliver(); //         commands and letters: what was asked of other connections and of the loop
        self.expire(); //          deadlines and timers
        self.flush(); //           replies that were queued outside of a batch
        self.reap(); //            who is over
        self.note_work_time();
        Ok(self.status_after_turn())
    }

    /// The tick at which the next turn has something to do, as seen from this one; `None`: an event has to come first.
    fn due(&self) -> Option<u64> {
        let clock = &self.shared.clock;
        if self.has_work() || self.poll_again || self.can_accept() {
            return Some(clock.tick());
        }
        let end = self.phase.deadline().map(|until| clock.tick_of(until));
        let accept = self.next_accept().map(|at| clock.tick_at(at));
        sooner(self.shared.timers.next(), sooner(end, accept))
    }

    /// Whether something was left undone that no event will tell of.
    fn has_work(&self) -> bool {
        !(self.resume.is_empty()
            && self.touched.is_empty()
            && self.closed.is_empty()
            && self.posts.is_empty()
            && !self.mailbox.is_notified()
            && self.shared.commands.is_empty())
    }

    /// Hands each event to whom it is for.
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
                Token::Waker => {} // the mailbox is looked into in every turn
                token @ Token::Connection { .. } => self.on_event(token, &event),
            }
        }
        self.events.clear();
        self.accept();
    }

    /// Goes on with those who were on the queue when the turn began, so that nobody is served twice in one turn.
    fn resume(&mut self, resumable: usize) {
        if resumable == 0 {
            return;
        }
        for _ in 0..resumable {
            let id = self
                .resume
                .pop_front()
                .expect("only this function shortens the queue");
            self.resume_connection(id);
        }
        self.shrink_resume();
    }
}

/// The sooner of two times, where `None` is never.
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
