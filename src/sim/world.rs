//! The state of the simulated world: its clock, its scheduled events, its sockets and listeners.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::link::{Dial, EndId, Link, Owner, Tail};
use super::{Fault, FaultCounts, Faults, Path, Rng, Unread};
use crate::net::Address;

/// Everything outside of the loop.
#[derive(Debug)]
pub(super) struct World {
    begun: Instant,
    pub(super) now: Duration,
    pub(super) rng: Rng,
    pub(super) faults: Faults,
    pub(super) fault_counts: FaultCounts,
    /// The path of new connections. `None`: each connection draws its own.
    pub(super) path: Option<Path>,
    pub(super) links: Vec<Link>,
    pub(super) listeners: Vec<Listener>,
    /// Addresses that the loop can dial, each with the established connections not yet taken by
    /// [`Sim::accept_at`](super::Sim::accept_at).
    pub(super) hosts: BTreeMap<Address, VecDeque<EndId>>,
    pub(super) scheduled: BinaryHeap<Reverse<(Duration, u64, ScheduledEvent)>>,
    sequence: u64,
    /// Sockets and listeners with an event that the poller has not reported, oldest first.
    pub(super) ready: VecDeque<Source>,
    /// Tokens of the last registrations that ended, for stale events.
    pub(super) former_tokens: VecDeque<usize>,
    pub(super) wake_flag: Arc<AtomicBool>,
    /// A poll returns at this time, whatever timeout the loop asked for.
    pub(super) poll_deadline: Option<Duration>,
    /// True if a peer read something, or its connection changed state. The poll then returns, so
    /// that the test can let the peer answer.
    pub(super) peer_changed: bool,
    /// True if the last poll would have blocked forever.
    pub(super) blocked_forever: bool,
    /// The step of the clock that late wake-ups are rounded up to.
    pub(super) clock_step: Duration,
    /// Open sockets of the loop, and those that are registered.
    pub(super) sockets: usize,
    pub(super) registered: Vec<EndId>,
    /// How long the loop's sockets were open, added up over all sockets.
    pub(super) connection_time: Duration,
    /// Bytes and FINs that have arrived at the loop's sockets.
    pub(super) arrived: u64,
    /// No file descriptor is free before this time.
    pub(super) exhausted_until: Duration,
    pub(super) events_cap: usize,
    pub(super) short_read_is_empty: bool,
}

/// A listener of the loop, with its backlog.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) addr: Address,
    /// The token of its registration. `None` before it is registered and after it is closed.
    pub(super) token: Option<usize>,
    pub(super) backlog: VecDeque<EndId>,
    pub(super) queued: bool,
    /// True if the next connection must be reported: an accept found the backlog empty.
    pub(super) armed: bool,
}

/// An event that happens at its scheduled time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ScheduledEvent {
    /// Bytes, a FIN or a reset that this end sent arrive at the other end.
    Delivery(EndId),
    /// A connection request arrives at a listener.
    Syn(EndId, usize),
    /// A dial to a host succeeds or fails.
    DialResult(EndId),
    /// Readiness is reported that an earlier read or write withheld.
    LateReadiness(EndId),
}

/// What an event of the poller is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Listener(usize),
    End(EndId),
}

/// How many tokens of ended registrations are remembered for stale events.
const MAX_FORMER_TOKENS: usize = 64;

impl World {
    pub(super) fn new(
        mut rng: Rng,
        faults: Faults,
        events_cap: usize,
        short_read_is_empty: bool,
    ) -> Self {
        let clock_step = Duration::from_millis(rng.magnitude(1, 200) as u64);
        Self {
            begun: Instant::now(),
            now: Duration::ZERO,
            rng,
            faults,
            fault_counts: FaultCounts::default(),
            path: None,
            links: Vec::new(),
            listeners: Vec::new(),
            hosts: BTreeMap::new(),
            scheduled: BinaryHeap::new(),
            sequence: 0,
            ready: VecDeque::new(),
            former_tokens: VecDeque::new(),
            wake_flag: Arc::new(AtomicBool::new(false)),
            poll_deadline: None,
            peer_changed: false,
            blocked_forever: false,
            clock_step,
            sockets: 0,
            registered: Vec::new(),
            connection_time: Duration::ZERO,
            arrived: 0,
            exhausted_until: Duration::ZERO,
            events_cap,
            short_read_is_empty,
        }
    }

    /// The virtual time as an [`Instant`].
    pub(super) fn instant(&self) -> Instant {
        self.begun + self.now
    }

    /// The virtual time of `at`.
    pub(super) fn elapsed(&self, at: Instant) -> Duration {
        at.duration_since(self.begun)
    }

    /// Draws whether to inject `fault`. The caller counts it if it had an effect.
    #[inline]
    pub(super) fn would_inject(&mut self, fault: Fault) -> bool {
        self.rng.chance(self.faults.rate(fault))
    }

    /// Draws whether to inject `fault`, and counts it if so.
    #[inline]
    pub(super) fn inject(&mut self, fault: Fault) -> bool {
        let inject = self.would_inject(fault);
        self.fault_counts[fault] += u64::from(inject);
        inject
    }

    /// Schedules an event after `delay`.
    pub(super) fn schedule(&mut self, delay: Duration, what: ScheduledEvent) {
        self.sequence += 1;
        self.scheduled.push(Reverse((
            self.now.saturating_add(delay),
            self.sequence,
            what,
        )));
    }

    /// Draws a delay of up to 20 ms, after which withheld readiness is reported.
    pub(super) fn short_delay(&mut self) -> Duration {
        Duration::from_micros(self.rng.magnitude(1, 20_000) as u64)
    }

    /// Puts a socket of the loop on the ready queue.
    pub(super) fn queue_socket(&mut self, end: EndId) {
        let Some(socket) = self
            .end(end)
            .loop_socket()
            .filter(|socket| socket.token.is_some() && !socket.queued)
        else {
            return;
        };
        socket.queued = true;
        self.ready.push_back(Source::End(end));
    }

    /// Puts a listener on the ready queue.
    pub(super) fn queue_listener(&mut self, number: usize) {
        let listener = &mut self.listeners[number];
        if listener.token.is_some() && !listener.queued {
            listener.queued = true;
            self.ready.push_back(Source::Listener(number));
        }
    }

    /// The unread bytes of the socket that is registered under `token`.
    pub(super) fn unread(&mut self, token: usize) -> Unread {
        let mut registered = self.registered.iter().copied();
        let owns_token = |id: &EndId| match &self.links[id.link].ends[id.side].owner {
            Owner::Loop(socket) => socket.token == Some(token),
            Owner::Peer(_) => false,
        };
        let Some(id) = registered.find(owns_token) else {
            return Unread::default();
        };
        let incoming = self.pipes(id).1;
        let (bytes, since) = (incoming.arrived, incoming.since);
        Unread {
            bytes,
            since,
            unreported: self
                .end(id)
                .loop_socket()
                .is_some_and(|socket| socket.queued && socket.pending_event.readable),
        }
    }

    /// `EPOLL_CTL_ADD`. What is ready at registration is reported by the next poll.
    pub(super) fn register(&mut self, id: EndId, token: usize) -> io::Result<()> {
        if self.inject(Fault::RegisterFailed) {
            return Err(self
                .rng
                .pick(&[io::ErrorKind::OutOfMemory, io::ErrorKind::StorageFull])
                .into());
        }
        self.registered.push(id);
        let incoming = self.pipes(id).1;
        let readable = incoming.arrived > 0 || incoming.tail == Tail::Delivered;
        let socket = self.end(id).loop_socket().expect("a socket of the loop");
        let done = socket.dial == Dial::Done;
        socket.token = Some(token);
        (socket.read_armed, socket.write_armed) = (!readable, !done);
        if readable || done {
            self.add_readiness(id, readable, done);
        }
        Ok(())
    }

    /// `EPOLL_CTL_DEL`. If it fails, the socket is not registered either.
    pub(super) fn deregister(&mut self, id: EndId) -> io::Result<()> {
        self.registered.retain(|registered| *registered != id);
        let token = self
            .end(id)
            .loop_socket()
            .and_then(|socket| socket.token.take());
        if let Some(token) = token {
            self.add_former_token(token);
        }
        if self.inject(Fault::DeregisterFailed) {
            Err(io::ErrorKind::NotFound.into())
        } else {
            Ok(())
        }
    }

    /// Remembers the token of a registration that has ended.
    pub(super) fn add_former_token(&mut self, token: usize) {
        self.former_tokens.push_back(token);
        if self.former_tokens.len() > MAX_FORMER_TOKENS {
            self.former_tokens.pop_front();
        }
    }

    /// Runs the scheduled events up to `until`, and moves the clock there.
    pub(super) fn advance_to(&mut self, until: Duration) {
        while self
            .scheduled
            .peek()
            .is_some_and(|Reverse((at, _, _))| *at <= until)
        {
            self.run_next_event();
        }
        if until != Duration::MAX {
            self.now = self.now.max(until);
        }
    }

    pub(super) fn run_next_event(&mut self) {
        let Some(Reverse((at, _, what))) = self.scheduled.pop() else {
            return;
        };
        self.now = self.now.max(at);
        match what {
            ScheduledEvent::Delivery(from) => self.deliver(from),
            ScheduledEvent::Syn(end, listener) => self.handle_syn(end, listener),
            ScheduledEvent::DialResult(end) => self.finish_dial(end),
            ScheduledEvent::LateReadiness(end) => self.report_late(end),
        }
    }
}
