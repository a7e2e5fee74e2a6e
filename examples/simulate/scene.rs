//! One run: a loop in a rough world with its clients, until the world is kind again and all are done. And what was wrong.

use std::any::Any;
use std::cell::RefCell;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use glassloop::sim::{Dice, Fate, Peer, Sim, Tally};
use glassloop::{Address, Handle, Handler, Step, Stop, Turn};

use crate::guest::{Guest, echo};
use crate::hub::Hub;
use crate::judge::Trial;
use crate::ledger::Book;
use crate::oracle::Wrongs;
use crate::plan::{Drawn, Manner, Plan, Workload};
use crate::relay::Relay;
use crate::wire::{Frames, Lines, Submit, Wire};
use crate::witness::{Witness, Witnessed};

/// What one seed came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub trace: u64,
    pub turns: u64,
    /// Turns that the loop needed once the world was kind.
    pub kind_turns: u32,
    pub frames: u64,
    pub wrongs: Wrongs,
    pub stuck: u64,
    /// Panics that nobody meant.
    pub panics: u64,
    pub tally: Tally,
    /// The time that all connections were open, together; and the clock's.
    pub lived: Duration,
    pub clock: Duration,
    /// What was wrong, in words.
    pub violations: Vec<String>,
}

/// The most turns in a rough world, of those in which time passes: else a loop that spins would be healed of it.
const ROUGH_TURNS: u32 = 20_000;
/// Turns in which hardly any time passes and nothing moves, before that counts as spinning.
const SPIN: u64 = 10_000;
/// Turns that a byte, or an end, from a peer may cost without anything moving.
const TURNS_OF_A_BYTE: u64 = 4;
/// Turns that a kind world may need.
const PATIENCE: u32 = 10_000_000;

/// The most time that it may need: more than all that is waited for in good order, one after the other.
const LONG: Duration = Duration::from_secs(600);

/// Runs what `plan` draws; `show` sees every step. A panic of the loop is an outcome too.
pub(crate) fn run(plan: &Plan, show: impl FnMut(Duration, &Step<'_>) + 'static) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| run_uncaught(plan, show))).unwrap_or_else(|payload| {
        let violations = vec![format!("panicked: {}", text_of(&*payload))];
        Outcome {
            panics: 1,
            violations,
            ..Outcome::default()
        }
    })
}

fn text_of(payload: &dyn Any) -> String {
    let text = payload.downcast_ref::<String>().cloned();
    text.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string))
        .unwrap_or_default()
}

fn run_uncaught(plan: &Plan, show: impl FnMut(Duration, &Step<'_>) + 'static) -> Outcome {
    let drawn = plan.draw();
    let (book, grace) = (Book::default(), drawn.config.drain_timeout);
    match drawn.workload {
        Workload::Submit => stage::<_, Submit>(plan, drawn, book.clone(), show, |_| {
            Hub::<Submit>::new(book, grace)
        }),
        Workload::Lines => stage::<_, Lines>(plan, drawn, book.clone(), show, |_| {
            Hub::<Lines>::new(book, grace)
        }),
        Workload::Relay => stage::<_, Frames>(plan, drawn, book.clone(), show, |backends| {
            Relay::new(book, backends)
        }),
    }
}

fn stage<H: Handler<Mail = u16> + 'static, W: Wire>(
    plan: &Plan,
    drawn: Drawn,
    book: Book,
    show: impl FnMut(Duration, &Step<'_>) + 'static,
    make: impl FnOnce(Vec<Address>) -> H,
) -> Outcome {
    if drawn.strict {
        Scene::<H, W, true>::new(plan, drawn, book, show, make).run()
    } else {
        Scene::<H, W, false>::new(plan, drawn, book, show, make).run()
    }
}

struct Scene<H: Handler<Mail = u16>, W: Wire, const STRICT: bool> {
    sim: Sim<H, STRICT>,
    handle: Handle<u16>,
    drawn: Drawn,
    dice: Dice,
    book: Book,
    witness: Witnessed,
    door: Address,
    hosts: Vec<Address>,
    visitors: Vec<(Peer, Vec<u8>)>,
    guests: Vec<Guest>,
    /// Turns since the world is kind; `None`: it is not.
    kind_turns: Option<u32>,
    kind_since: Duration,
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
        let at = |last: u8, port: u16| {
            Address::from(std::net::SocketAddr::from(([127, 0, last, 1], port)))
        };
        let mut backends = vec![at(1, 1), at(0, 2), at(9, 9), at(1, 2)];
        if drawn.config.max_connections.is_some() {
            backends.remove(1); // a full loop that serves itself would wait for itself
        }
        let handler = make(backends);
        let mut sim = Sim::<H, STRICT>::with_faults(
            plan.seed,
            drawn.faults.clone(),
            handler,
            drawn.config.clone(),
        );
        let door = sim.listen();
        if drawn.workload == Workload::Relay {
            sim.listen();
        }
        let hosts = vec![sim.host(), sim.host()];
        let witness = Rc::new(RefCell::new(Witness::new(
            drawn.config.clone(),
            drawn.is_punctual(),
        )));
        let (noted, sockets) = (witness.clone(), sim.sockets());
        let (in_order, at_once) = (drawn.reports_in_order(), drawn.reports_at_once());
        sim.observe(move |now, step| {
            show(now, step);
            if let (Step::Deadline { id, expiry }, true) = (step, in_order) {
                noted
                    .borrow_mut()
                    .expired_with(*id, *expiry, sockets.unread(*id), at_once);
            }
            noted.borrow_mut().step(now, step);
        });
        Self {
            handle: sim.reactor().handle(),
            guests: drawn.clients.iter().cloned().map(Guest::new).collect(),
            sim,
            dice: Dice::new(plan.seed).fork(12),
            drawn,
            book,
            witness,
            door,
            hosts,
            visitors: Vec::new(),
            kind_turns: None,
            kind_since: Duration::ZERO,
            violations: Vec::new(),
            stuck: 0,
            wire: std::marker::PhantomData,
        }
    }

    /// All that the loop has moved so far.
    fn moved(&mut self) -> u64 {
        let counters = self.sim.reactor().counters();
        counters.bytes_read
            + counters.bytes_written
            + counters.frames
            + counters.queued
            + counters.accepted
            + counters.dialed
            + counters.closed
            + counters.timers
            + counters.posts
    }

    fn run(mut self) -> Outcome {
        let (mut idle, mut rough_turns, mut moved, mut arrived) = (0_u64, 0, 0, 0);
        let mut in_a_moment = false;
        let stopped = loop {
            let now = self.sim.now();
            rough_turns += u32::from(!in_a_moment);
            if self.kind_turns.is_none() && (now >= self.drawn.rough || rough_turns > ROUGH_TURNS) {
                self.heal();
            }
            self.somebody_calls();
            self.everybody_acts();
            if self.kind_turns.is_some() && self.is_done() {
                break false;
            }
            let until = self.next_act();
            match self.sim.turn(until) {
                Ok(Turn::Stopped) => break true,
                Ok(Turn::Running) => {}
                Err(error) => {
                    self.violations
                        .push(format!("the poller is broken: {error}"));
                    break true;
                }
            }
            let (buffered, shared) = (
                self.sim.reactor().buffered(),
                self.sim.reactor().shared_memory(),
            );
            self.witness
                .borrow_mut()
                .turn(self.sim.now(), buffered, shared);
            if let Some(turns) = &mut self.kind_turns {
                *turns += 1;
            }
            // A poll that does not wait takes a moment, too. A loop that moves something meanwhile does not spin, however little that is. Nor does
            // one whose peers drip bytes into connections that it does not read: each byte accounts for a few turns, and no more.
            in_a_moment = self.sim.now().saturating_sub(now) < Duration::from_micros(1);
            let (moved_before, arrived_before) = (
                mem::replace(&mut moved, self.moved()),
                mem::replace(&mut arrived, self.sim.arrived()),
            );
            idle = if in_a_moment && moved == moved_before {
                idle + 1
            } else {
                0
            };
            idle = idle.saturating_sub(TURNS_OF_A_BYTE * (arrived - arrived_before));
            let asleep = self.sim.is_asleep()
                && until.is_none()
                && self.sim.reactor().next_deadline().is_none();
            let kind_time = self.sim.now().saturating_sub(self.kind_since);
            let what = match self.kind_turns {
                _ if idle > SPIN => "spins",
                Some(_) if asleep => "sleeps for ever",
                Some(PATIENCE..) => "does not finish",
                Some(_) if kind_time > LONG => "has waited for long",
                _ => continue,
            };
            self.is_stuck(what);
            break false;
        };
        if stopped {
            self.check_time_of_stop();
            self.heal();
            self.sim.go_on_without_loop();
        }
        self.judge(stopped);
        self.outcome()
    }

    /// The world becomes kind, and so do those in it.
    fn heal(&mut self) {
        if self.kind_turns.is_none() {
            (self.kind_turns, self.kind_since) = (Some(0), self.sim.now());
        }
        self.sim.heal();
        for guest in &mut self.guests {
            guest.next = self.sim.now();
            if let Some(peer) = &guest.peer {
                peer.set_reading(true);
            }
        }
    }

    fn is_done(&mut self) -> bool {
        let (posted, read) = self.book.borrow().letters;
        self.guests.iter().all(|guest| guest.gone)
            && self.sim.reactor().connections() == 0
            && posted == read
    }

    /// When somebody wants to do something by itself.
    fn next_act(&self) -> Option<Duration> {
        let guests = self
            .guests
            .iter()
            .filter(|guest| !guest.over && guest.next < Duration::MAX)
            .map(|guest| guest.next);
        let stop = self.drawn.stop.map(|(at, _)| at);
        guests
            .chain(stop)
            .chain(self.kind_turns.is_none().then_some(self.drawn.rough))
            .min()
    }

    /// Threads outside have something to say.
    fn somebody_calls(&mut self) {
        if let Some((_, how)) = self.drawn.stop.take_if(|(at, _)| *at <= self.sim.now()) {
            let grace = match how {
                Stop::AtOnce => Duration::ZERO,
                Stop::Within(grace) => grace,
                Stop::Gracefully => self.drawn.config.drain_timeout,
            };
            self.book.borrow_mut().stop(how, self.sim.instant(), grace);
            self.witness.borrow_mut().drains_within(grace);
            self.handle.stop(how);
        }
        if self.drawn.workload != Workload::Relay
            && self.kind_turns.is_none()
            && self.dice.one_in(200)
        {
            for _ in 0..self.dice.magnitude(1, 64) {
                let taken = self.handle.post(self.dice.below(1000) as u16).is_ok();
                self.book.borrow_mut().letters.0 += u64::from(taken);
            }
        }
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
        let (now, kind) = (self.sim.now(), self.kind_turns.is_some());
        for guest in &mut self.guests {
            if guest.peer.is_none() && guest.next <= now {
                let peer = self.sim.connect(&self.door);
                guest.addr = Some(peer.addr());
                self.book
                    .borrow_mut()
                    .attentive
                    .insert(guest.plan.number as u32);
                peer.set_reading(kind || guest.plan.manner != Manner::Deaf);
                guest.peer = Some(peer);
            }
            if guest.peer.is_some() && !guest.gone {
                guest.hear::<W>(&self.book);
                guest.act::<W>(&self.book, now, kind, &self.drawn);
            }
        }
    }

    fn is_stuck(&mut self, what: &str) {
        let left: Vec<String> = self
            .guests
            .iter()
            .filter(|guest| !guest.gone)
            .map(ToString::to_string)
            .collect();
        let (now, connections) = (self.sim.now(), self.sim.reactor().connections());
        self.violations.push(format!(
            "stuck: the loop {what} at {now:?} with {connections} connections; not done: {}",
            left.join(", ")
        ));
        self.stuck += 1;
    }

    fn judge(&mut self, stopped: bool) {
        for guest in &mut self.guests {
            guest.hear::<W>(&self.book);
        }
        let mut book = self.book.borrow_mut();
        let mut witness = self.witness.borrow_mut();
        self.violations.append(&mut witness.wrong);
        if self.stuck == 0 {
            let findings = Trial {
                drawn: &self.drawn,
                book: &book,
                witness: &witness,
                stopped,
            }
            .judge(&self.guests);
            self.violations.extend(findings.wrong);
            self.stuck += findings.stuck;
            book.oracle.wrongs.lost += findings.lost;
        }
        let (posted, read) = book.letters;
        if posted != read && !stopped && self.stuck == 0 {
            self.violations
                .push(format!("{posted} letters were taken on, {read} read"));
            book.oracle.wrongs.lost += posted.abs_diff(read);
        }
        for (id, at, came) in &book.untimely {
            let at = self.sim.elapsed(*at);
            let came = came.map(|came| self.sim.elapsed(came));
            // What has not come until the end should have come while the connection was open.
            let until = came
                .or(witness.over.get(id).map(|seen| seen.left))
                .unwrap_or_default();
            let late = self.drawn.is_punctual() && until > at + Duration::from_millis(5);
            if late || came.is_some_and(|came| came < at) {
                self.violations.push(format!(
                    "{id}: a timer or deadline was to come at {at:?}, and came at {came:?}"
                ));
                self.stuck += u64::from(late);
            }
        }
    }

    fn check_time_of_stop(&mut self) {
        let Some(by) = self.book.borrow().stop_by else {
            return self.violations.push("it stopped of its own accord".into());
        };
        let late = self.sim.instant().saturating_duration_since(by);
        if self.drawn.is_punctual() && late > Duration::from_millis(5) {
            self.violations
                .push(format!("stopped {late:?} after its time for that was over"));
            self.stuck += 1;
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
            violations.push(format!(
                "{} panics counted, {} meant",
                counters.panics, book.panics
            ));
        }
        Outcome {
            trace: self.sim.trace(),
            turns: counters.turns,
            kind_turns: self.kind_turns.unwrap_or(0),
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
