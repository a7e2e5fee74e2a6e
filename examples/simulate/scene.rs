//! One run: a loop in a rough world with its clients, until the world is kind again and all are done. And what was wrong.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use glassloop::sim::{Blame, Dice, Fate, Fault, Peer, Sim, Tally};
use glassloop::{Address, Config, ConnectionId, Expiry, Handler, Step, Stop, Turn};

use crate::hub::Hub;
use crate::ledger::{Book, Ledger};
use crate::oracle::{HUB, Wrongs};
use crate::plan::{Client, Drawn, Manner, Op, Plan, Workload, op};
use crate::relay::Relay;
use crate::wire::{Frames, Lines, Name, Submit, Wire, compose};

/// What one seed came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub trace: u64,
    pub turns: u64,
    pub frames: u64,
    pub wrongs: Wrongs,
    pub stuck: u64,
    pub panics: u64,
    pub tally: Tally,
    /// The time that all connections were open, together; and the clock's.
    pub lived: Duration,
    pub clock: Duration,
    /// What was wrong, in words.
    pub violations: Vec<String>,
}

/// The most turns in a rough world.
const ROUGH_TURNS: u32 = 20_000;
/// Turns in which no time passes before that counts as spinning.
const SPIN: u32 = 100_000;
/// Turns that a kind world may need.
const PATIENCE: u32 = 3_000_000;

/// Runs what `plan` draws; `show` sees every step. A panic of the loop is an outcome too.
pub(crate) fn run(plan: &Plan, show: impl FnMut(Duration, &Step<'_>) + 'static) -> Outcome {
    let run = std::panic::AssertUnwindSafe(|| run_uncaught(plan, show));
    std::panic::catch_unwind(run).unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<String>().cloned().or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string));
        let violations = vec![format!("panicked: {}", text.unwrap_or_default())];
        Outcome { panics: 1, violations, ..Outcome::default() }
    })
}

fn run_uncaught(plan: &Plan, show: impl FnMut(Duration, &Step<'_>) + 'static) -> Outcome {
    let drawn = plan.draw();
    let book = Book::default();
    match (drawn.workload, drawn.strict) {
        (Workload::Submit, true) => Scene::<_, Submit, true>::new(plan, drawn, book.clone(), show, |_| Hub::<Submit>::new(book)).run(),
        (Workload::Submit, false) => Scene::<_, Submit, false>::new(plan, drawn, book.clone(), show, |_| Hub::<Submit>::new(book)).run(),
        (Workload::Lines, true) => Scene::<_, Lines, true>::new(plan, drawn, book.clone(), show, |_| Hub::<Lines>::new(book)).run(),
        (Workload::Lines, false) => Scene::<_, Lines, false>::new(plan, drawn, book.clone(), show, |_| Hub::<Lines>::new(book)).run(),
        (Workload::Relay, true) => Scene::<_, Frames, true>::new(plan, drawn, book.clone(), show, |to| Relay::new(book, to)).run(),
        (Workload::Relay, false) => Scene::<_, Frames, false>::new(plan, drawn, book.clone(), show, |to| Relay::new(book, to)).run(),
    }
}

/// What the loop said of a client's connection.
#[derive(Debug, Default)]
struct Said {
    peer: Option<Peer>,
    accepted: Option<Duration>,
    closed: Option<&'static str>,
    /// A guard that has struck before its time.
    early: Option<Expiry>,
    /// Whether its last replies, or its lingering, had their time.
    gave_up: bool,
}

type Log = Rc<RefCell<BTreeMap<Address, Said>>>;

/// A client at work.
struct Guest {
    plan: Client,
    peer: Option<Peer>,
    addr: Option<Address>,
    next: Duration,
    sent: usize,
    answered: usize,
    got: Vec<u8>,
    /// It will send no more.
    over: bool,
    /// It has closed its socket, or will not read on.
    gone: bool,
}

struct Scene<H: Handler<Mail = u16>, W: Wire, const STRICT: bool> {
    sim: Sim<H, STRICT>,
    drawn: Drawn,
    dice: Dice,
    book: Book,
    log: Log,
    door: Address,
    hosts: Vec<Address>,
    visitors: Vec<(Peer, Vec<u8>)>,
    guests: Vec<Guest>,
    healed: bool,
    violations: Vec<String>,
    stuck: u64,
    wire: std::marker::PhantomData<W>,
}

impl<H: Handler<Mail = u16> + 'static, W: Wire, const STRICT: bool> Scene<H, W, STRICT> {
    fn new(
        plan: &Plan,
        drawn: Drawn,
        book: Book,
        mut show: impl FnMut(Duration, &Step<'_>) + 'static,
        make: impl FnOnce(Vec<Address>) -> H,
    ) -> Self {
        // The places where hosts and doors will be are known beforehand.
        let at = |last: u8, port: u16| Address::from(std::net::SocketAddr::from(([127, 0, last, 1], port)));
        let handler = make(vec![at(1, 1), at(0, 2), at(9, 9), at(1, 2)]);
        let mut sim = Sim::<H, STRICT>::with_faults(plan.seed, drawn.faults.clone(), handler, drawn.config.clone());
        let door = sim.listen();
        if drawn.workload == Workload::Relay {
            sim.listen();
        }
        let hosts = vec![sim.host(), sim.host()];
        let log = Log::default();
        let (noted, config) = (log.clone(), drawn.config.clone());
        let mut ids: BTreeMap<ConnectionId, Address> = BTreeMap::new();
        sim.observe(move |now, step| {
            note(&mut noted.borrow_mut(), &mut ids, &config, now, step);
            show(now, step);
        });
        let guests = drawn.clients.iter().map(|client| Guest {
            next: client.comes,
            plan: client.clone(),
            peer: None,
            addr: None,
            sent: 0,
            answered: 0,
            got: Vec::new(),
            over: false,
            gone: false,
        });
        Self {
            guests: guests.collect(),
            sim,
            dice: Dice::new(plan.seed).fork(12),
            drawn,
            book,
            log,
            door,
            hosts,
            visitors: Vec::new(),
            healed: false,
            violations: Vec::new(),
            stuck: 0,
            wire: std::marker::PhantomData,
        }
    }

    fn run(mut self) -> Outcome {
        let (mut idle, mut last, mut turns, mut rough_turns) = (0, self.sim.now(), 0, 0);
        let handle = self.sim.reactor().handle();
        let mut stop = self.drawn.stop;
        let stopped = loop {
            let now = self.sim.now();
            rough_turns += 1;
            if !self.healed && (now >= self.drawn.rough || rough_turns > ROUGH_TURNS) {
                self.heal();
            }
            if stop.is_some_and(|at| at <= now) {
                stop = None;
                self.book.borrow_mut().stopped = true;
                handle.stop(Stop::Gracefully);
            }
            if self.drawn.workload != Workload::Relay && !self.healed && self.dice.one_in(200) {
                let _ = handle.post(self.dice.below(1000) as u16);
            }
            self.everybody_acts();
            if self.healed && self.is_done() {
                break false;
            }
            let until = self.guests.iter().filter(|guest| !guest.over && guest.next < Duration::MAX).map(|guest| guest.next).chain(stop);
            let until = until.chain((!self.healed).then_some(self.drawn.rough)).min();
            match self.sim.turn(until) {
                Ok(Turn::Stopped) => break true,
                Ok(Turn::Running) => {}
                Err(error) => {
                    self.violations.push(format!("the poller is broken: {error}"));
                    break true;
                }
            }
            turns += u32::from(self.healed);
            idle = if self.sim.now() == last { idle + 1 } else { 0 };
            last = self.sim.now();
            let asleep = self.sim.is_asleep() && until.is_none() && self.sim.reactor().next_deadline().is_none();
            if idle > SPIN || turns > PATIENCE || (self.healed && asleep) {
                let what = if idle > SPIN {
                    "spins"
                } else if asleep {
                    "sleeps for ever"
                } else {
                    "does not finish"
                };
                let left: Vec<String> = self.guests.iter().filter(|guest| !guest.gone).map(ToString::to_string).collect();
                let connections = self.sim.reactor().connections();
                let what =
                    format!("stuck: the loop {what} at {:?} with {connections} connections; not done: {}", self.sim.now(), left.join(", "));
                self.violations.push(what);
                self.stuck += 1;
                break false;
            }
        };
        if stopped {
            self.heal();
            self.sim.go_on_without_loop();
        }
        self.judge(stopped);
        self.outcome()
    }

    /// The world becomes kind, and so do those in it.
    fn heal(&mut self) {
        self.healed = true;
        self.sim.heal();
        for guest in &mut self.guests {
            guest.next = self.sim.now();
            if let Some(peer) = &guest.peer {
                peer.set_reading(true);
            }
        }
    }

    fn is_done(&mut self) -> bool {
        self.guests.iter().all(|guest| guest.gone) && self.sim.reactor().connections() == 0
    }

    fn everybody_acts(&mut self) {
        for host in &self.hosts {
            while let Some(peer) = self.sim.visitor(host) {
                self.visitors.push((peer, Vec::new()));
            }
        }
        for (peer, got) in &mut self.visitors {
            echo(peer, got);
        }
        self.visitors.retain(|(peer, _)| peer.fate() == Fate::Open);
        let now = self.sim.now();
        for guest in &mut self.guests {
            if guest.peer.is_none() && guest.next <= now {
                let peer = self.sim.connect(&self.door);
                guest.addr = Some(peer.addr());
                self.log.borrow_mut().insert(peer.addr(), Said { peer: Some(peer.clone()), ..Said::default() });
                self.book.borrow_mut().attentive.insert(guest.plan.number as u32);
                peer.set_reading(self.healed || guest.plan.manner != Manner::Deaf);
                guest.peer = Some(peer);
            }
            if guest.peer.is_some() && !guest.gone {
                guest.hear::<W>(&self.book);
                guest.act::<W>(&self.book, now, self.healed, &self.drawn);
            }
        }
    }

    /// Looks at how it ended: for each client by itself, whether what was promised has come, and whether its end was lawful.
    fn judge(&mut self, stopped: bool) {
        for guest in &mut self.guests {
            guest.hear::<W>(&self.book);
        }
        let mut book = self.book.borrow_mut();
        let mut lost = 0;
        for guest in &self.guests {
            let (Some(peer), Some(addr)) = (&guest.peer, &guest.addr) else { continue };
            let client = guest.plan.number as u32;
            let log = self.log.borrow();
            let Some(said) = log.get(addr).filter(|said| said.accepted.is_some()) else { continue };
            let mut complain = |what: String| self.violations.push(format!("client {client} ({:?}): {what}", guest.plan.manner));
            let Some(reason) = said.closed else {
                if !stopped && self.stuck == 0 {
                    self.stuck += 1;
                    complain(format!("stuck: it never ended, {:?}", peer.fate()));
                }
                continue;
            };
            if let Some(expiry) = said.early {
                complain(format!("its time for {expiry:?} was not over"));
            }
            if let Some(why) = unlawful(reason, &book, &self.drawn, guest, peer) {
                complain(format!("ended as {reason}, but {why}"));
            }
            let broken = match peer.blame() {
                Some(Blame::Loop) if !may_reset(reason) && !said.gave_up && !book.stopped => {
                    complain(format!("reset by the loop after {reason}"));
                    true
                }
                blame => blame.is_some(),
            };
            let promised = !broken && !is_abrupt(reason) && !guest.stopped_reading();
            let is_relay = self.drawn.workload == Workload::Relay;
            if promised && (!is_relay || book.done.contains(&client)) {
                let missing = book.oracle.missing(client, client);
                if missing > 0 {
                    lost += u64::from(missing);
                    complain(format!("{missing} of its answers are lost; it ended as {reason}"));
                }
            }
            if promised && reason == "peer_closed" {
                let missing = book.oracle.missing(HUB, client);
                if missing > 0 {
                    lost += u64::from(missing);
                    complain(format!("{missing} of its requests are lost"));
                }
                for (_, from) in book.promised.iter().filter(|(to, _)| *to == client) {
                    let missing = book.oracle.missing(client, *from);
                    if missing > 0 {
                        lost += u64::from(missing);
                        complain(format!("{missing} messages of {from} are lost"));
                    }
                }
            }
        }
        book.oracle.wrongs.lost += lost;
        let punctual = [Fault::LateWake, Fault::TimeJump].iter().all(|fault| self.drawn.faults.rate(*fault) == 0);
        for (early, late) in &book.untimely {
            if !early.is_zero() || (punctual && *late > Duration::from_millis(3)) {
                self.violations.push(format!("a timer came {early:?} early, {late:?} late"));
                self.stuck += 1;
            }
        }
    }

    fn outcome(mut self) -> Outcome {
        let counters = self.sim.reactor().counters();
        let book = self.book.borrow();
        let wrongs = book.oracle.wrongs;
        let mut violations = self.violations;
        if wrongs.duplicated + wrongs.reordered + wrongs.altered > 0 {
            violations.push(format!("{wrongs:?}"));
        }
        let panics = counters.panics.abs_diff(book.panics);
        if panics > 0 {
            violations.push(format!("{} panics counted, {} meant", counters.panics, book.panics));
        }
        Outcome {
            trace: self.sim.trace(),
            turns: counters.turns,
            frames: book.oracle.frames,
            wrongs,
            stuck: self.stuck,
            panics,
            tally: self.sim.tally(),
            lived: self.sim.lived(),
            clock: self.sim.now(),
            violations,
        }
    }
}

/// Writes down what the loop says of the connections that it has accepted.
fn note(log: &mut BTreeMap<Address, Said>, ids: &mut BTreeMap<ConnectionId, Address>, config: &Config, now: Duration, step: &Step<'_>) {
    match step {
        Step::Accepted { id, peer, .. } => {
            ids.insert(*id, (*peer).clone());
            log.entry((*peer).clone()).or_default().accepted = Some(now);
        }
        Step::Deadline { id, expiry } => {
            let Some(said) = ids.get(id).and_then(|addr| log.get_mut(addr)) else { return };
            let truth = said.peer.as_ref().map(Peer::truth).unwrap_or_default();
            let (since, time) = match expiry {
                Expiry::Drain | Expiry::Linger => return said.gave_up = true,
                Expiry::Idle => (truth.last_read.max(truth.last_write), config.idle_timeout),
                Expiry::Write => (truth.last_write, config.write_timeout),
                Expiry::Frame => (Duration::ZERO, config.frame_timeout),
                _ => return,
            };
            if time.is_none_or(|time| now.saturating_sub(since.max(said.accepted.unwrap_or_default())) < time) {
                said.early = Some(*expiry);
            }
        }
        Step::Closed { id, reason } => {
            if let Some(said) = ids.remove(id).and_then(|addr| log.get_mut(&addr)) {
                said.closed = Some(reason.name());
            }
        }
        _ => {}
    }
}

/// Why an end is not lawful, if it is not: the loop names a reason that does not exist.
fn unlawful(reason: &str, book: &Ledger, drawn: &Drawn, guest: &Guest, peer: &Peer) -> Option<String> {
    let manner = guest.plan.manner;
    let client = guest.plan.number as u32;
    let lawful = match reason {
        "peer_closed" => guest.over,
        "truncated" => matches!(manner, Manner::Truncates | Manner::Garbage | Manner::Leaves) || peer.blame().is_some(),
        "reset" => matches!(peer.blame(), Some(Blame::Peer | Blame::Net)),
        "io" => peer.blame() == Some(Blame::Net),
        "protocol" => manner == Manner::Garbage,
        "shutdown" => book.stopped,
        "drain_timeout" => !drawn.unguarded,
        "idle_timeout" => drawn.config.idle_timeout.is_some(),
        "frame_timeout" => drawn.config.frame_timeout.is_some(),
        "write_timeout" => drawn.config.write_timeout.is_some(),
        "outbox_full" => true,
        "handler" => book.doomed.contains(&(client, "handler")) || book.done.contains(&client) || drawn.workload == Workload::Relay,
        other => book.doomed.iter().any(|(doomed, reason)| *doomed == client && *reason == other),
    };
    (!lawful).then(|| format!("nothing was there to end it so (blame {:?}, over {})", peer.blame(), guest.over))
}

/// Whether a connection that ends so may be reset by the loop, since nobody is waited for.
fn may_reset(reason: &str) -> bool {
    is_abrupt(reason) || matches!(reason, "frame_timeout" | "idle_timeout" | "handshake_timeout" | "read_deadline")
}

/// Whether what is queued is dropped when a connection ends so.
fn is_abrupt(reason: &str) -> bool {
    matches!(reason, "aborted" | "reset" | "io" | "overload" | "write_timeout" | "write_deadline" | "drain_timeout")
}

/// Somebody else's server: it sends everything back, frame by frame.
fn echo(peer: &Peer, got: &mut Vec<u8>) {
    got.extend(peer.received());
    let mut used = 0;
    while let Some((length, ..)) = Frames::first(&got[used..]) {
        peer.send(&got[used..][..length]);
        used += length;
    }
    got.drain(..used);
    if peer.fate() == Fate::Ended {
        peer.shut_write();
    }
}

impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Client { number, manner, requests, .. } = self.plan;
        let fate = self.peer.as_ref().map(Peer::fate);
        write!(f, "client {number} ({manner:?}, {fate:?}, {} of {requests} sent, {} answered)", self.sent, self.answered)
    }
}

impl Guest {
    /// It reads what has come.
    fn hear<W: Wire>(&mut self, book: &Book) {
        let Some(peer) = &self.peer else { return };
        let fresh = peer.received();
        if fresh.is_empty() {
            return;
        }
        self.got.extend(fresh);
        let (mut used, me) = (0, self.plan.number as u32);
        while let Some((length, name, intact)) = W::first(&self.got[used..]) {
            book.borrow_mut().oracle.see(me, name.from, name.number, intact);
            self.answered += usize::from(name.from == me);
            used += length;
        }
        self.got.drain(..used);
        if self.next == Duration::MAX {
            self.next = Duration::ZERO;
        }
    }

    /// Whether it does not want to know how it ends.
    fn stopped_reading(&self) -> bool {
        matches!(self.plan.manner, Manner::Resets | Manner::Leaves)
    }

    fn act<W: Wire>(&mut self, book: &Book, now: Duration, healed: bool, drawn: &Drawn) {
        let Some(peer) = self.peer.clone() else { return };
        match peer.fate() {
            Fate::Ended => {
                self.stop_sending(book);
                peer.shut_write();
                peer.close();
                self.gone = true;
            }
            Fate::Reset | Fate::Refused => {
                self.stop_sending(book);
                self.gone = true;
            }
            Fate::Connecting | Fate::Open => {
                while self.next <= now && !self.over {
                    let made = self.make_requests::<W>(&peer, book, drawn);
                    let thinks = if healed { Duration::from_millis(1) } else { self.plan.dice.time(self.plan.thinks) };
                    // Who waits for answers acts when one comes.
                    self.next = if made > 0 { now + thinks } else { Duration::MAX };
                    if self.sent >= self.plan.requests {
                        self.leave(&peer, book);
                    }
                }
            }
        }
    }

    fn make_requests<W: Wire>(&mut self, peer: &Peer, book: &Book, drawn: &Drawn) -> usize {
        let me = self.plan.number as u32;
        let (mut text, mut out) = (Vec::new(), Vec::new());
        let free = self.plan.window.saturating_sub(self.sent.saturating_sub(self.answered));
        let count = self.plan.burst.min(free).min(self.plan.requests - self.sent);
        for _ in 0..count {
            let number = book.borrow_mut().oracle.owe(HUB, me);
            let name = Name { from: me, number };
            let size = self.plan.dice.below(self.plan.payload);
            let what = if drawn.workload == Workload::Relay { Op::Ack } else { op(&mut self.plan.dice, self.plan.special, drawn.violent) };
            let what = match what {
                Op::Much(times) if drawn.workload == Workload::Submit || size * usize::from(times) > 20_000 => Op::Ack,
                what => what,
            };
            compose(name, what, size, &mut text);
            W::request(name, &text, &mut out);
            self.sent += 1;
        }
        peer.send(&out);
        count
    }

    /// It has made all its requests.
    fn leave(&mut self, peer: &Peer, book: &Book) {
        match self.plan.manner {
            // In good order, when all is answered.
            Manner::Waits if self.answered < self.sent => return,
            Manner::Waits | Manner::HalfCloses | Manner::Mute | Manner::Deaf => peer.shut_write(),
            Manner::Garbage => {
                peer.send(&[b'x'; 70_000]);
                peer.shut_write();
            }
            Manner::Truncates => {
                peer.send(&[0, 0]);
                peer.shut_write();
            }
            Manner::Resets => peer.reset(),
            Manner::Leaves => peer.close(),
        }
        self.gone = matches!(self.plan.manner, Manner::Resets | Manner::Leaves);
        self.stop_sending(book);
    }

    fn stop_sending(&mut self, book: &Book) {
        self.over = true;
        book.borrow_mut().attentive.remove(&(self.plan.number as u32));
    }
}
