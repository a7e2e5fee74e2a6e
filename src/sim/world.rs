//! The simulated world: its clock, what will happen when, and the poller that looks into it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::link::{Dial, EndId, Holder, Link, Tail};
use super::{Dice, Fault, Faults, Path, Tally, Unread};
use crate::id::Token;
use crate::net::{Address, Event};

/// Everything outside of the loop.
#[derive(Debug)]
pub(super) struct World {
    begun: Instant,
    pub(super) now: Duration,
    pub(super) dice: Dice,
    pub(super) faults: Faults,
    pub(super) tally: Tally,
    /// What all connections' ways are like; `None`: each is drawn.
    pub(super) path: Option<Path>,
    pub(super) links: Vec<Link>,
    pub(super) doors: Vec<Door>,
    /// Who answers elsewhere, and whom they have met.
    pub(super) hosts: BTreeMap<Address, VecDeque<EndId>>,
    agenda: BinaryHeap<Reverse<(Duration, u64, Happening)>>,
    serial: u64,
    /// Who has news for the poller, in the order in which they got them.
    ready: VecDeque<Source>,
    /// Tokens whose registrations have ended, as far as they are remembered.
    former: VecDeque<usize>,
    pub(super) bell: Arc<AtomicBool>,
    /// The poller returns then, whatever the loop has asked for.
    pub(super) alarm: Option<Duration>,
    /// Whether a peer has read something, or learned how its connection stands: then the poller returns, so that the peer can answer.
    pub(super) stirred: bool,
    /// Whether the last poll would have slept for ever.
    pub(super) asleep: bool,
    /// The step of the clock in late wake-ups.
    coarse: Duration,
    /// How many sockets of the loop are open, and which are registered.
    pub(super) sockets: usize,
    pub(super) registered: Vec<EndId>,
    /// The time that all sockets of the loop were open, together.
    pub(super) lived: Duration,
    /// Bytes and ends that have come to sockets of the loop.
    pub(super) arrived: u64,
    /// Until then no descriptor is free.
    pub(super) exhausted_until: Duration,
    pub(super) events_cap: usize,
    pub(super) short_read_is_empty: bool,
}

/// A listener of the loop, and who waits there.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) addr: Address,
    /// Under which it is registered; `None` before that, and when it is closed.
    pub(super) token: Option<usize>,
    pub(super) queue: VecDeque<EndId>,
    pub(super) listed: bool,
    /// Whether an event is owed for the next one who comes.
    pub(super) owes: bool,
}

/// What comes by itself when its time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Happening {
    /// Bytes or an end of this end's arrive at the other one.
    Arrive(EndId),
    /// A newcomer knocks at a door.
    Knock(EndId, usize),
    /// A dial is decided.
    Decide(EndId),
    /// An event that is owed for a read or write that found nothing against the truth.
    Remind(EndId),
}

/// Who may have news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Door(usize),
    End(EndId),
}

/// Tokens of former registrations that are remembered, to be named in stale events.
const FORMER: usize = 64;
/// What a poll that does not wait takes.
const POLL: Duration = Duration::from_nanos(250);

impl World {
    pub(super) fn new(
        mut dice: Dice,
        faults: Faults,
        events_cap: usize,
        short_read_is_empty: bool,
    ) -> Self {
        let coarse = Duration::from_millis(dice.magnitude(1, 200) as u64);
        Self {
            begun: Instant::now(),
            now: Duration::ZERO,
            dice,
            faults,
            tally: Tally::default(),
            path: None,
            links: Vec::new(),
            doors: Vec::new(),
            hosts: BTreeMap::new(),
            agenda: BinaryHeap::new(),
            serial: 0,
            ready: VecDeque::new(),
            former: VecDeque::new(),
            bell: Arc::new(AtomicBool::new(false)),
            alarm: None,
            stirred: false,
            asleep: false,
            coarse,
            sockets: 0,
            registered: Vec::new(),
            lived: Duration::ZERO,
            arrived: 0,
            exhausted_until: Duration::ZERO,
            events_cap,
            short_read_is_empty,
        }
    }

    /// The time as the loop sees it.
    pub(super) fn instant(&self) -> Instant {
        self.begun + self.now
    }

    /// How far the clock has gone at `at`.
    pub(super) fn elapsed(&self, at: Instant) -> Duration {
        at.duration_since(self.begun)
    }

    /// Whether a fault happens now, if there is an occasion for it. Who says yes counts it himself, if there was.
    #[inline]
    pub(super) fn may_strike(&mut self, fault: Fault) -> bool {
        self.dice.happens(self.faults.rate(fault))
    }

    /// Whether a fault happens now; it is counted if it does.
    #[inline]
    pub(super) fn strikes(&mut self, fault: Fault) -> bool {
        let strikes = self.may_strike(fault);
        self.tally[fault] += u64::from(strikes);
        strikes
    }

    /// Lets something happen after `delay`.
    pub(super) fn plan(&mut self, delay: Duration, what: Happening) {
        self.serial += 1;
        self.agenda
            .push(Reverse((self.now.saturating_add(delay), self.serial, what)));
    }

    /// A short time, after which what was held back comes.
    pub(super) fn a_while(&mut self) -> Duration {
        Duration::from_micros(self.dice.magnitude(1, 20_000) as u64)
    }

    /// A socket of the loop has news.
    pub(super) fn list(&mut self, end: EndId) {
        let Some(watch) = self
            .end(end)
            .watch()
            .filter(|watch| watch.token.is_some() && !watch.listed)
        else {
            return;
        };
        watch.listed = true;
        self.ready.push_back(Source::End(end));
    }

    /// A listener has news.
    pub(super) fn list_door(&mut self, number: usize) {
        let door = &mut self.doors[number];
        if door.token.is_some() && !door.listed {
            door.listed = true;
            self.ready.push_back(Source::Door(number));
        }
    }

    /// What waits in the socket that is registered under `token`.
    pub(super) fn unread(&mut self, token: usize) -> Unread {
        let mut registered = self.registered.iter().copied();
        let Some(id) =
            registered.find(|id| matches!(&self.links[id.link].ends[id.side].holder, Holder::Loop(watch) if watch.token == Some(token)))
        else {
            return Unread::default();
        };
        let incoming = self.pipes(id).1;
        let (bytes, since) = (incoming.arrived, incoming.since);
        Unread {
            bytes,
            since,
            unreported: self
                .end(id)
                .watch()
                .is_some_and(|watch| watch.listed && watch.news.readable),
        }
    }

    /// What `epoll_ctl` does, to add a socket: what is ready is told at once.
    pub(super) fn register(&mut self, id: EndId, token: usize) -> io::Result<()> {
        if self.strikes(Fault::RegisterFailed) {
            return Err(self
                .dice
                .pick(&[io::ErrorKind::OutOfMemory, io::ErrorKind::StorageFull])
                .into());
        }
        self.registered.push(id);
        let incoming = self.pipes(id).1;
        let ripe = incoming.arrived > 0 || incoming.tail == Tail::Over;
        let watch = self.end(id).watch().expect("a socket of the loop");
        let done = watch.dial == Dial::Done;
        watch.token = Some(token);
        (watch.owes_read, watch.owes_write) = (!ripe, !done);
        if ripe || done {
            self.tell(id, ripe, done);
        }
        Ok(())
    }

    /// The same, to take it away. Where that fails the socket is not registered either.
    pub(super) fn deregister(&mut self, id: EndId) -> io::Result<()> {
        self.registered.retain(|registered| *registered != id);
        let token = self.end(id).watch().and_then(|watch| watch.token.take());
        if let Some(token) = token {
            self.forget(token);
        }
        if self.strikes(Fault::DeregisterFailed) {
            Err(io::ErrorKind::NotFound.into())
        } else {
            Ok(())
        }
    }

    /// A registration has ended.
    pub(super) fn forget(&mut self, token: usize) {
        self.former.push_back(token);
        if self.former.len() > FORMER {
            self.former.pop_front();
        }
    }

    /// Waits as the loop has asked, while the world goes on, and reports what there is.
    pub(super) fn poll(
        &mut self,
        events: &mut Vec<Event>,
        timeout: Option<Duration>,
    ) -> io::Result<Instant> {
        let before = self.now;
        // As mio does, and epoll_wait(2): in milliseconds, rounded up.
        let until = timeout.map(|timeout| {
            self.now.saturating_add(Duration::from_millis(
                timeout.as_nanos().div_ceil(1_000_000) as u64,
            ))
        });
        self.asleep = false;
        let waits = self.ready.is_empty()
            && !self.bell.load(Ordering::Relaxed)
            && timeout != Some(Duration::ZERO);
        let mut interrupted = false;
        if waits && self.strikes(Fault::PollInterrupted) {
            interrupted = true;
            let end = until
                .unwrap_or(self.now + Duration::from_secs(1))
                .min(self.alarm.unwrap_or(Duration::MAX));
            let early = self.dice.time(end.saturating_sub(self.now));
            self.go_on_to(self.now + early);
        } else if waits && self.strikes(Fault::Stopped) {
            interrupted = true;
            let stopped = Duration::from_millis(self.dice.magnitude(100, 200_000) as u64);
            self.go_on_to(self.now + stopped);
        } else {
            self.sleep(until);
        }
        if timeout == Some(Duration::ZERO) {
            self.go_on_to(self.now.saturating_add(POLL)); // who polls again and again is not outside of time
        } else {
            // Kept over the polls before: a loop that has waited awake, and sleeps only now, would else sleep over what a peer has to answer.
            self.stirred = false;
        }
        if !interrupted {
            self.oversleep();
            self.report(events);
        }
        self.lived += self.now.saturating_sub(before) * self.sockets as u32;
        if interrupted {
            Err(io::ErrorKind::Interrupted.into())
        } else {
            Ok(self.instant())
        }
    }

    /// Lets time pass until there is news, the time is up, or nothing will happen any more.
    fn sleep(&mut self, until: Option<Duration>) {
        let until = [until, self.alarm].into_iter().flatten().min();
        while self.ready.is_empty() && !self.stirred && !self.bell.load(Ordering::Relaxed) {
            match (self.agenda.peek(), until) {
                (Some(Reverse((at, _, _))), until) if until.is_none_or(|until| *at <= until) => {
                    self.next_happens();
                }
                (_, Some(until)) => return self.now = self.now.max(until),
                (_, None) => return self.asleep = true,
            }
        }
    }

    /// Lets what is on the agenda until then happen.
    pub(super) fn go_on_to(&mut self, until: Duration) {
        while self
            .agenda
            .peek()
            .is_some_and(|Reverse((at, _, _))| *at <= until)
        {
            self.next_happens();
        }
        if until != Duration::MAX {
            self.now = self.now.max(until);
        }
    }

    fn next_happens(&mut self) {
        let Some(Reverse((at, _, what))) = self.agenda.pop() else {
            return;
        };
        self.now = self.now.max(at);
        match what {
            Happening::Arrive(from) => self.arrive(from),
            Happening::Knock(end, door) => self.knock(end, door),
            Happening::Decide(end) => self.decide(end),
            Happening::Remind(end) => self.remind(end),
        }
    }

    /// The loop wakes later than it might have.
    fn oversleep(&mut self) {
        if self.may_strike(Fault::LateWake) {
            let steps = self.now.as_nanos().div_ceil(self.coarse.as_nanos()) as u32;
            self.tally[Fault::LateWake] += u64::from(self.coarse * steps > self.now);
            self.go_on_to(self.coarse * steps);
        }
        if self.strikes(Fault::TimeJump) {
            let jump = Duration::from_millis(self.dice.magnitude(100, 200_000) as u64);
            self.go_on_to(self.now + jump);
        }
    }

    /// Puts together what the poller says.
    fn report(&mut self, events: &mut Vec<Event>) {
        let cap = self.events_cap;
        if self.bell.swap(false, Ordering::Relaxed) || self.strikes(Fault::SpuriousWake) {
            events.push(Event {
                token: Token::Waker.pack(),
                readable: true,
                ..Event::default()
            });
        }
        let mut count = self.ready.len().min(cap - events.len());
        if count > 1 && self.strikes(Fault::BatchOfOne) {
            count = 1;
        }
        let shuffled = count > 1 && self.strikes(Fault::BatchShuffled);
        for _ in 0..count {
            let place = if shuffled {
                self.dice.below(self.ready.len())
            } else {
                0
            };
            let source = self.ready.remove(place).expect("as many as were counted");
            events.extend(self.event_of(source));
        }
        if events.len() < cap && !self.former.is_empty() && self.strikes(Fault::StaleEvent) {
            let token = self.former[self.dice.below(self.former.len())];
            let (closed, broken) = (self.dice.one_in(2), self.dice.one_in(2));
            events.push(Event {
                token,
                readable: true,
                writable: true,
                read_closed: closed,
                write_closed: broken,
                broken,
                ..Event::default()
            });
        }
        if events.len() < cap && !self.registered.is_empty() && self.strikes(Fault::SpuriousEvent) {
            let end = self.registered[self.dice.below(self.registered.len())];
            let (readable, writable) = (self.dice.one_in(2), self.dice.one_in(2));
            let token = self.end(end).watch().and_then(|watch| watch.token);
            events.extend(token.map(|token| Event {
                token,
                readable,
                writable,
                ..Event::default()
            }));
        }
    }

    /// The event that a source's news come to; none if it is not registered any more.
    fn event_of(&mut self, source: Source) -> Option<Event> {
        let id = match source {
            Source::Door(number) => {
                let door = &mut self.doors[number];
                door.listed = false;
                return door.token.map(|token| Event {
                    token,
                    readable: true,
                    ..Event::default()
                });
            }
            Source::End(id) => id,
        };
        let (full, shy) = (
            self.may_strike(Fault::FullEvent),
            self.may_strike(Fault::HintWithheld),
        );
        let buffer = self.links[id.link].path.send_buffer;
        let (outgoing, incoming) = self.pipes(id);
        let (room, waiting, over) = (
            outgoing.pending() * 3 <= buffer * 2,
            incoming.arrived > 0,
            incoming.tail == Tail::Over,
        );
        let strict = self.short_read_is_empty;
        let end = self.end(id);
        let (broken, shut) = (end.broken, end.shut);
        let watch = end.watch()?;
        watch.listed = false;
        let mut event = mem::take(&mut watch.news);
        event.token = watch.token?;
        let new = event;
        if full && watch.dial == Dial::Done {
            event.readable |= waiting || over || broken;
            event.writable |= room || broken || shut; // a write would not wait, but fail
        }
        // Where a short read is to prove the socket empty, the end must have been told by then.
        event.read_closed = (over || broken) && (!shy || strict);
        // Ended from both sides it is closed as well (EPOLLHUP).
        (event.write_closed, event.broken) = ((broken || (over && shut)) && !shy, broken && !shy);
        watch.told |= event.read_closed || event.urgent;
        self.tally[Fault::FullEvent] +=
            u64::from((event.readable, event.writable) != (new.readable, new.writable));
        self.tally[Fault::HintWithheld] += u64::from(shy && (broken || (over && !strict)));
        Some(event)
    }
}
