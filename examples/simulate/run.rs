//! One run of a scenario: a reactor and its clients, first with faults, then without until all are
//! done.

use std::any::Any;
use std::cell::RefCell;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use glassloop::sim::{FaultCounts, Peer, PeerState, Rng, Sim};
use glassloop::{Address, Handle, Handler, Step, Stop, Turn};

use crate::client::{Client, echo};
use crate::delivery::DeliveryErrors;
use crate::handler::TestHandler;
use crate::invariants::{InvariantChecker, SharedChecker};
use crate::plan::{Behavior, Plan, Scenario, Workload};
use crate::record::SharedRecord;
use crate::relay::Relay;
use crate::verify::Verifier;
use crate::wire::{Frames, Lines, Submit, Wire};

/// The result of one seed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub trace: u64,
    pub turns: u64,
    /// Turns that the loop needed after the faults ended.
    pub healed_turns: u32,
    pub frames: u64,
    pub errors: DeliveryErrors,
    pub stuck: u64,
    /// Panics that the test did not cause.
    pub panics: u64,
    pub fault_counts: FaultCounts,
    /// How long all connections were open, added up; and the virtual time at the end.
    pub connection_time: Duration,
    pub clock: Duration,
    /// The violations found, as text.
    pub violations: Vec<String>,
}

/// The most turns with faults. Turns in which no time passes do not count: ending the faults would
/// hide a loop that spins.
const MAX_FAULTY_TURNS: u32 = 20_000;
/// Turns without progress and with hardly any time passing that count as spinning.
const SPIN_LIMIT: u64 = 10_000;
/// Turns without progress that each byte or FIN from a peer may cost.
const TURNS_PER_BYTE: u64 = 4;
/// The most turns after the faults ended.
const MAX_HEALED_TURNS: u32 = 10_000_000;

/// The most virtual time after the faults ended. It is longer than all timeouts one after the
/// other.
const MAX_HEALED_TIME: Duration = Duration::from_secs(600);

/// Runs the scenario of `plan`. `show` gets every step. A panic of the loop is part of the outcome.
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
    let scenario = plan.scenario();
    let (record, grace) = (SharedRecord::default(), scenario.config.drain_timeout);
    match scenario.workload {
        Workload::Submit => run_workload::<_, Submit>(plan, scenario, record.clone(), show, |_| {
            TestHandler::<Submit>::new(record, grace)
        }),
        Workload::Lines => run_workload::<_, Lines>(plan, scenario, record.clone(), show, |_| {
            TestHandler::<Lines>::new(record, grace)
        }),
        Workload::Relay => {
            run_workload::<_, Frames>(plan, scenario, record.clone(), show, |backends| {
                Relay::new(record, backends)
            })
        }
    }
}

fn run_workload<H: Handler<Mail = u16> + 'static, W: Wire>(
    plan: &Plan,
    scenario: Scenario,
    record: SharedRecord,
    show: impl FnMut(Duration, &Step<'_>) + 'static,
    make: impl FnOnce(Vec<Address>) -> H,
) -> Outcome {
    if scenario.short_read_is_empty {
        Run::<H, W, true>::new(plan, scenario, record, show, make).run()
    } else {
        Run::<H, W, false>::new(plan, scenario, record, show, make).run()
    }
}

struct Run<H: Handler<Mail = u16>, W: Wire, const SHORT_READ_IS_EMPTY: bool> {
    sim: Sim<H, SHORT_READ_IS_EMPTY>,
    handle: Handle<u16>,
    scenario: Scenario,
    rng: Rng,
    record: SharedRecord,
    checker: SharedChecker,
    listen_addr: Address,
    hosts: Vec<Address>,
    backends: Vec<(Peer, Vec<u8>)>,
    clients: Vec<Client>,
    /// Turns since the faults ended; `None` while there are faults.
    healed_turns: Option<u32>,
    healed_at: Duration,
    violations: Vec<String>,
    stuck: u64,
    wire: std::marker::PhantomData<W>,
}

impl<H: Handler<Mail = u16> + 'static, W: Wire, const SHORT_READ_IS_EMPTY: bool>
    Run<H, W, SHORT_READ_IS_EMPTY>
{
    fn new(
        plan: &Plan,
        scenario: Scenario,
        record: SharedRecord,
        mut show: impl FnMut(Duration, &Step<'_>) + 'static,
        make: impl FnOnce(Vec<Address>) -> H,
    ) -> Self {
        // The addresses of hosts and listeners are known beforehand.
        let at = |last: u8, port: u16| {
            Address::from(std::net::SocketAddr::from(([127, 0, last, 1], port)))
        };
        let mut backends = vec![at(1, 1), at(0, 2), at(9, 9), at(1, 2)];
        if scenario.config.max_connections.is_some() {
            backends.remove(1); // a loop at its connection limit that dials itself deadlocks
        }
        let handler = make(backends);
        let mut sim = Sim::<H, SHORT_READ_IS_EMPTY>::with_faults(
            plan.seed,
            scenario.faults.clone(),
            handler,
            scenario.config.clone(),
        );
        let listen_addr = sim.listen();
        if scenario.workload == Workload::Relay {
            sim.listen();
        }
        let hosts = vec![sim.host(), sim.host()];
        let checker = Rc::new(RefCell::new(InvariantChecker::new(
            scenario.config.clone(),
            scenario.is_punctual(),
        )));
        let (observer_checker, sockets) = (checker.clone(), sim.sockets());
        let (in_order, at_once) = (scenario.reports_in_order(), scenario.reports_at_once());
        sim.observe(move |now, step| {
            show(now, step);
            if let (Step::Deadline { id, expiry }, true) = (step, in_order) {
                observer_checker.borrow_mut().check_unread(
                    *id,
                    *expiry,
                    sockets.unread(*id),
                    at_once,
                );
            }
            observer_checker.borrow_mut().step(now, step);
        });
        Self {
            handle: sim.reactor().handle(),
            clients: scenario.clients.iter().cloned().map(Client::new).collect(),
            sim,
            rng: Rng::new(plan.seed).fork(12),
            scenario,
            record,
            checker,
            listen_addr,
            hosts,
            backends: Vec::new(),
            healed_turns: None,
            healed_at: Duration::ZERO,
            violations: Vec::new(),
            stuck: 0,
            wire: std::marker::PhantomData,
        }
    }

    /// A sum of the counters that grow when the loop makes progress.
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
        let (mut idle_turns, mut faulty_turns, mut moved, mut arrived) = (0_u64, 0, 0, 0);
        let mut no_time_passed = false;
        let stopped = loop {
            let now = self.sim.now();
            faulty_turns += u32::from(!no_time_passed);
            if self.healed_turns.is_none()
                && (now >= self.scenario.fault_time || faulty_turns > MAX_FAULTY_TURNS)
            {
                self.heal();
            }
            self.act_from_other_threads();
            self.act_for_peers();
            if self.healed_turns.is_some() && self.is_done() {
                break false;
            }
            let until = self.next_action();
            match self.sim.turn(until) {
                Ok(Turn::Stopped) => break true,
                Ok(Turn::Running) => {}
                Err(error) => {
                    self.violations.push(format!("the poller failed: {error}"));
                    break true;
                }
            }
            let (buffered, shared) = (
                self.sim.reactor().buffered(),
                self.sim.reactor().shared_memory(),
            );
            self.checker
                .borrow_mut()
                .turn(self.sim.now(), buffered, shared);
            if let Some(turns) = &mut self.healed_turns {
                *turns += 1;
            }
            // A poll with a zero timeout takes some time, too. A loop that makes any progress does
            // not spin. Neither does a loop whose peers send single bytes to connections that it
            // does not read: each byte may cost a few turns, and no more.
            no_time_passed = self.sim.now().saturating_sub(now) < Duration::from_micros(1);
            let (moved_before, arrived_before) = (
                mem::replace(&mut moved, self.moved()),
                mem::replace(&mut arrived, self.sim.arrived()),
            );
            idle_turns = if no_time_passed && moved == moved_before {
                idle_turns + 1
            } else {
                0
            };
            idle_turns = idle_turns.saturating_sub(TURNS_PER_BYTE * (arrived - arrived_before));
            let blocked_forever = self.sim.is_blocked_forever()
                && until.is_none()
                && self.sim.reactor().next_deadline().is_none();
            let healed_time = self.sim.now().saturating_sub(self.healed_at);
            let what = match self.healed_turns {
                _ if idle_turns > SPIN_LIMIT => "spins",
                Some(_) if blocked_forever => "blocks forever",
                Some(MAX_HEALED_TURNS..) => "does not finish",
                Some(_) if healed_time > MAX_HEALED_TIME => "takes too long",
                _ => continue,
            };
            self.report_stuck(what);
            break false;
        };
        if stopped {
            self.check_time_of_stop();
            self.heal();
            self.sim.deliver_in_flight();
        }
        self.verify(stopped);
        self.outcome()
    }

    /// Ends the faults, and makes the clients cooperate.
    fn heal(&mut self) {
        if self.healed_turns.is_none() {
            (self.healed_turns, self.healed_at) = (Some(0), self.sim.now());
        }
        self.sim.heal();
        for client in &mut self.clients {
            client.next = self.sim.now();
            if let Some(peer) = &client.peer {
                peer.set_reading(true);
            }
        }
    }

    fn is_done(&mut self) -> bool {
        let (posted, read) = self.record.borrow().posts;
        self.clients.iter().all(|client| client.done)
            && self.sim.reactor().connections() == 0
            && posted == read
    }

    /// The time of the next action of a client or of another thread.
    fn next_action(&self) -> Option<Duration> {
        let clients = self
            .clients
            .iter()
            .filter(|client| !client.sending_done && client.next < Duration::MAX)
            .map(|client| client.next);
        let stop = self.scenario.stop.map(|(at, _)| at);
        clients
            .chain(stop)
            .chain(
                self.healed_turns
                    .is_none()
                    .then_some(self.scenario.fault_time),
            )
            .min()
    }

    /// Does what other threads do: stops the loop, posts messages.
    fn act_from_other_threads(&mut self) {
        if let Some((_, how)) = self.scenario.stop.take_if(|(at, _)| *at <= self.sim.now()) {
            let grace = match how {
                Stop::AtOnce => Duration::ZERO,
                Stop::Within(grace) => grace,
                Stop::Gracefully => self.scenario.config.drain_timeout,
            };
            self.record
                .borrow_mut()
                .stop(how, self.sim.instant(), grace);
            self.checker.borrow_mut().allow_drain_time(grace);
            self.handle.stop(how);
        }
        if self.scenario.workload != Workload::Relay
            && self.healed_turns.is_none()
            && self.rng.one_in(200)
        {
            for _ in 0..self.rng.magnitude(1, 64) {
                let taken = self.handle.post(self.rng.below(1000) as u16).is_ok();
                self.record.borrow_mut().posts.0 += u64::from(taken);
            }
        }
    }

    fn act_for_peers(&mut self) {
        for host in &self.hosts {
            while let Some(peer) = self.sim.accept_at(host) {
                self.backends.push((peer, Vec::new()));
            }
        }
        for (peer, unparsed) in &mut self.backends {
            echo(peer, unparsed);
        }
        self.backends
            .retain(|(peer, _)| peer.state() == PeerState::Open);
        let (now, healed) = (self.sim.now(), self.healed_turns.is_some());
        for client in &mut self.clients {
            if client.peer.is_none() && client.next <= now {
                let peer = self.sim.connect(&self.listen_addr);
                client.addr = Some(peer.addr());
                self.record
                    .borrow_mut()
                    .receiving
                    .insert(client.plan.number as u32);
                peer.set_reading(healed || client.plan.behavior != Behavior::StopsReading);
                client.peer = Some(peer);
            }
            if client.peer.is_some() && !client.done {
                client.read_answers::<W>(&self.record);
                client.act::<W>(&self.record, now, healed, &self.scenario);
            }
        }
    }

    fn report_stuck(&mut self, what: &str) {
        let left: Vec<String> = self
            .clients
            .iter()
            .filter(|client| !client.done)
            .map(ToString::to_string)
            .collect();
        let (now, connections) = (self.sim.now(), self.sim.reactor().connections());
        self.violations.push(format!(
            "stuck: the loop {what} at {now:?} with {connections} connections; not done: {}",
            left.join(", ")
        ));
        self.stuck += 1;
    }

    fn verify(&mut self, stopped: bool) {
        for client in &mut self.clients {
            client.read_answers::<W>(&self.record);
        }
        let mut record = self.record.borrow_mut();
        let mut checker = self.checker.borrow_mut();
        self.violations.append(&mut checker.violations);
        if self.stuck == 0 {
            let findings = Verifier {
                scenario: &self.scenario,
                record: &record,
                checker: &checker,
                stopped,
            }
            .verify(&self.clients);
            self.violations.extend(findings.violations);
            self.stuck += findings.stuck;
            record.delivery.errors.lost += findings.lost;
        }
        let (posted, read) = record.posts;
        if posted != read && !stopped && self.stuck == 0 {
            self.violations
                .push(format!("{posted} messages posted, {read} received"));
            record.delivery.errors.lost += posted.abs_diff(read);
        }
        for (id, at, fired_at) in &record.mistimed {
            let at = self.sim.elapsed(*at);
            let fired_at = fired_at.map(|fired_at| self.sim.elapsed(fired_at));
            // A timer that never fired is late if its connection outlived it.
            let until = fired_at
                .or(checker.closed.get(id).map(|tracked| tracked.open_until))
                .unwrap_or_default();
            let late = self.scenario.is_punctual() && until > at + Duration::from_millis(5);
            if late || fired_at.is_some_and(|fired_at| fired_at < at) {
                self.violations.push(format!(
                    "{id}: a timer or deadline set for {at:?} fired at {fired_at:?}"
                ));
                self.stuck += u64::from(late);
            }
        }
    }

    fn check_time_of_stop(&mut self) {
        let Some(by) = self.record.borrow().stop_by else {
            return self
                .violations
                .push("the loop stopped without being told to".into());
        };
        let late = self.sim.instant().saturating_duration_since(by);
        if self.scenario.is_punctual() && late > Duration::from_millis(5) {
            self.violations
                .push(format!("stopped {late:?} after its deadline"));
            self.stuck += 1;
        }
    }

    fn outcome(mut self) -> Outcome {
        let counters = self.sim.reactor().counters();
        let record = self.record.borrow();
        let errors = record.delivery.errors;
        let mut violations = self.violations;
        if errors.duplicated + errors.reordered + errors.altered > 0 {
            violations.push(format!("{errors:?}"));
        }
        let panics = counters.panics.abs_diff(record.deliberate_panics);
        if panics > 0 {
            violations.push(format!(
                "{} panics counted, {} deliberate",
                counters.panics, record.deliberate_panics
            ));
        }
        Outcome {
            trace: self.sim.trace(),
            turns: counters.turns,
            healed_turns: self.healed_turns.unwrap_or(0),
            frames: record.delivery.frames,
            errors,
            stuck: self.stuck,
            panics,
            fault_counts: self.sim.fault_counts(),
            connection_time: self.sim.connection_time(),
            clock: self.sim.now(),
            violations,
        }
    }
}
