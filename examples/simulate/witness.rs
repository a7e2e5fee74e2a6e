//! What the loop says of its connections, step by step, and what must hold after each: no byte unaccounted for, no state out of the blue,
//! no memory beyond what is held, no deadline too early or too late.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use glassloop::sim::Unread;
use glassloop::{Address, Config, ConnectionId, Expiry, Fill, Flush, Step, Verdict};

/// Shared by the loop's observer and the scene.
pub(crate) type Witnessed = Rc<RefCell<Witness>>;

/// Wake-ups and ticks are in milliseconds; and deadlines that are near each other come together, at most a 64th late.
fn slack(time: Duration) -> Duration {
    Duration::from_millis(5) + time / 32
}

/// A connection of the loop, by its steps.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Whether it was let in; else it was dialed.
    pub accepted: Option<Address>,
    pub ended: Option<&'static str>,
    /// Whether its last replies, or its lingering, had their time.
    pub gave_up: bool,
    /// Until when it was open.
    pub left: Duration,
    state: &'static str,
    since: Duration,
    opened: Duration,
    shook: bool,
    /// What the handler has asked for, until something has come of it.
    verdict: Option<Verdict>,
    /// Bytes that were read and not handled yet, and bytes that are queued.
    held: usize,
    unsent: usize,
    read_at: Duration,
    /// When a read was last told that nothing is there.
    blocked_at: Duration,
    /// When the loop put it off to its next turn, with bytes in its socket.
    deferred_at: Option<Duration>,
    /// When the frame at the front can have begun.
    begun_at: Duration,
    /// When something was last written, or first queued.
    moved_at: Duration,
    wrote_at: Duration,
}

/// All connections.
#[derive(Debug)]
pub(crate) struct Witness {
    config: Config,
    /// Whether time passes evenly, so that nothing can be late.
    punctual: bool,
    living: BTreeMap<ConnectionId, Seen>,
    /// Those that are over.
    pub over: BTreeMap<ConnectionId, Seen>,
    pub wrong: Vec<String>,
    drain_time: Duration,
}

impl Witness {
    pub(crate) fn new(config: Config, punctual: bool) -> Self {
        let drain_time = config.drain_timeout;
        Self {
            config,
            punctual,
            living: BTreeMap::new(),
            over: BTreeMap::new(),
            wrong: Vec::new(),
            drain_time,
        }
    }

    /// A stop may give them longer.
    pub(crate) fn drains_within(&mut self, grace: Duration) {
        self.drain_time = self.drain_time.max(grace);
    }

    /// A client's connection, if it was let in.
    pub(crate) fn of(&self, client: &Address) -> Option<&Seen> {
        self.over
            .values()
            .chain(self.living.values())
            .find(|seen| seen.accepted.as_ref() == Some(client))
    }

    pub(crate) fn step(&mut self, now: Duration, step: &Step<'_>) {
        let (Step::Accepted { id, .. }
        | Step::Dialed { id, .. }
        | Step::Read { id, .. }
        | Step::Frame { id, .. }
        | Step::Verdict { id, .. }
        | Step::Queued { id, .. }
        | Step::Write { id, .. }
        | Step::State { id, .. }
        | Step::Discarded { id, .. }
        | Step::Dropped { id, .. }
        | Step::Deadline { id, .. }
        | Step::Deferred { id, .. }
        | Step::Closed { id, .. }) = step
        else {
            return;
        };
        if self.over.contains_key(id) {
            return self.wrong.push(format!("{step:?} after its end"));
        }
        let seen = self.living.entry(*id).or_insert_with(|| Seen {
            state: "connecting",
            ..Seen::default()
        });
        if let Some(wrong) = seen.step(now, step, &self.config, self.drain_time) {
            self.wrong.push(format!("{id}: {wrong}"));
        }
        if let Step::Closed { .. } = step {
            let seen = self.living.remove(id).expect("just seen");
            self.over.insert(*id, seen);
        }
    }

    /// The formula of `Reactor::shared_memory`, with what may wait after a turn: commands up to
    /// their mark, since the callbacks that come after the turn's commands add no message here; as
    /// many letters as the mailbox takes; and all connections on each list.
    fn bound_on_shared_memory(&self) -> usize {
        let Config {
            scratch,
            events_per_turn,
            retained_capacity,
            command_high,
            mailbox_cap,
            ..
        } = self.config;
        let connections = self.living.len() + self.over.len();
        let waiting = 2 * command_high + 4 * mailbox_cap + 48 * connections;
        scratch + 16 * events_per_turn + 8 * retained_capacity + 16 * 1024 + waiting
    }

    /// A guard has expired, and so much waits in the connection's socket.
    pub(crate) fn expired_with(
        &mut self,
        id: ConnectionId,
        expiry: Expiry,
        unread: Unread,
        reports_at_once: bool,
    ) {
        let Some(seen) = self
            .living
            .get(&id)
            .filter(|seen| seen.state == "open" && seen.verdict.is_none())
        else {
            return;
        };
        let blames_the_peer = matches!(expiry, Expiry::Idle | Expiry::Frame | Expiry::Handshake);
        let over = seen
            .deadlines(&self.config, self.drain_time)
            .into_iter()
            .find(|(what, ..)| *what == expiry);
        // What arrived while the handler had paused it was not to be read before it was resumed,
        // and what a read did not get came after it.
        let readable_since = unread.since.max(seen.since).max(seen.blocked_at);
        let in_time = over.is_some_and(|(_, since, time)| {
            unread.bytes > 0 && readable_since < since.saturating_add(time)
        });
        if blames_the_peer && in_time && (unread.unreported || reports_at_once) {
            self.wrong.push(format!("{id}: its time for {expiry:?} is over, and what it has sent was not read: {unread:?}"));
        }
    }

    /// A turn is over: so many bytes of memory are held by the loop's connections, and so many by
    /// what they share.
    pub(crate) fn turn(&mut self, now: Duration, buffered: usize, shared: usize) {
        let bound = self.bound_on_shared_memory();
        if shared > bound {
            self.wrong.push(format!(
                "{shared} bytes of shared memory, and {bound} is the most"
            ));
        }
        // A buffer may be half empty after it has grown, and a quarter full after it has shrunk; empty ones cost nothing.
        let most = |bytes: usize| if bytes > 0 { 5 * bytes + 4096 } else { 0 };
        let allowed: usize = self
            .living
            .values()
            .map(|seen| most(seen.held) + most(seen.unsent))
            .sum();
        if buffered > allowed {
            self.wrong.push(format!(
                "{buffered} bytes of memory for what may take {allowed}"
            ));
        }
        if buffered > self.config.buffered_high {
            self.wrong.push(format!(
                "{buffered} bytes of memory, and {} is the most",
                self.config.buffered_high
            ));
        }
        for (id, seen) in &self.living {
            if seen.unsent > self.config.write_cap || seen.held > 65_540 + self.config.scratch {
                self.wrong.push(format!(
                    "{id} has {} bytes to send and {} to handle",
                    seen.unsent, seen.held
                ));
            }
            if !self.punctual {
                continue;
            }
            for (expiry, since, time) in seen.deadlines(&self.config, self.drain_time) {
                if now > since.saturating_add(time).saturating_add(slack(time)) {
                    self.wrong.push(format!(
                        "{id}: {expiry:?} is overdue, {time:?} after {since:?} it is {now:?}"
                    ));
                }
            }
        }
    }
}

impl Seen {
    /// What is wrong with a step, if anything is.
    fn step(
        &mut self,
        now: Duration,
        step: &Step<'_>,
        config: &Config,
        drain_time: Duration,
    ) -> Option<String> {
        if let Some(at) = self.deferred_at.take_if(|at| *at < now) {
            self.begun_at += now.saturating_sub(at);
        }
        match step {
            Step::Accepted { peer, .. } => {
                self.accepted = Some((*peer).clone());
                (self.state, self.opened) = ("open", now);
            }
            Step::Read {
                fill: Fill::Bytes(bytes),
                ..
            } => {
                if self.held == 0 {
                    self.begun_at = now;
                }
                self.held += bytes;
                self.read_at = now;
            }
            Step::Read {
                fill: Fill::Blocked,
                ..
            } => self.blocked_at = now,
            Step::Frame { bytes, .. } => {
                (self.shook, self.begun_at) = (true, now);
                if self.state != "open" || self.verdict.is_some() {
                    return Some(format!(
                        "a frame is handled while it is {}, and {:?} was the last word",
                        self.state, self.verdict
                    ));
                }
                return self.take(*bytes);
            }
            // More waits in its socket than a turn reads: that is the loop's time.
            Step::Deferred { .. } => self.deferred_at = Some(now),
            Step::Discarded { bytes, .. } => return self.take(*bytes),
            Step::Queued { bytes, .. } => {
                if self.unsent == 0 {
                    self.moved_at = now;
                }
                self.unsent += bytes;
            }
            Step::Write {
                flush: Flush::Bytes(bytes),
                ..
            } => {
                (self.moved_at, self.wrote_at) = (now, now);
                return self.send(*bytes);
            }
            Step::Dropped { bytes, .. } => return self.send(*bytes),
            // A stop is the loop's affair; the connection goes on.
            Step::Verdict {
                verdict: Verdict::Stop,
                ..
            } => {}
            Step::Verdict { verdict, .. } => self.verdict = Some(*verdict),
            Step::State { from, to, .. } => {
                let to = *to;
                let carried_out = self.verdict.take().is_none_or(|_| to != "open");
                let legal = *from == self.state && is_legal(from, to) && carried_out;
                if self.state == "connecting" {
                    self.opened = now;
                }
                if self.state.starts_with("open") {
                    self.left = now;
                }
                if self.state != to {
                    (self.state, self.since) = (to, now);
                }
                return (!legal).then(|| format!("went from {from} to {to}"));
            }
            Step::Deadline { expiry, .. } => return self.is_up(now, *expiry, config, drain_time),
            Step::Closed { reason, .. } => {
                self.ended = Some(reason.name());
                let unfinished = self.state != "closed" || self.held + self.unsent > 0;
                return unfinished.then(|| {
                    format!(
                        "over while {}, {} bytes held and {} unsent",
                        self.state, self.held, self.unsent
                    )
                });
            }
            _ => {}
        }
        None
    }

    fn take(&mut self, bytes: usize) -> Option<String> {
        let too_many = bytes > self.held;
        self.held = self.held.saturating_sub(bytes);
        too_many.then(|| format!("{bytes} bytes more were handled than read"))
    }

    fn send(&mut self, bytes: usize) -> Option<String> {
        let too_many = bytes > self.unsent;
        self.unsent = self.unsent.saturating_sub(bytes);
        too_many.then(|| format!("{bytes} bytes more were sent than queued"))
    }

    /// What its time may be up for, since when, and how long that is.
    fn deadlines(
        &self,
        config: &Config,
        drain_time: Duration,
    ) -> Vec<(Expiry, Duration, Duration)> {
        let (active, moved) = (
            self.read_at.max(self.wrote_at).max(self.opened),
            self.moved_at.max(self.opened),
        );
        let guard = |applies: bool, expiry, since, time: Option<Duration>| {
            time.filter(|_| applies).map(|time| (expiry, since, time))
        };
        match self.state {
            "draining" => vec![(Expiry::Drain, self.since.max(self.moved_at), drain_time)],
            "lingering" => {
                let (heard, begun) = (self.since.max(self.read_at), self.since.max(self.moved_at));
                vec![
                    (Expiry::Linger, heard, config.linger_timeout),
                    (Expiry::Linger, begun, drain_time),
                ]
            }
            state if state.starts_with("open") => {
                let unfinished = state == "open" && self.held > 0;
                [
                    guard(true, Expiry::Idle, active, config.idle_timeout),
                    guard(self.unsent > 0, Expiry::Write, moved, config.write_timeout),
                    guard(
                        unfinished,
                        Expiry::Frame,
                        self.begun_at.max(self.since),
                        config.frame_timeout,
                    ),
                    guard(
                        !self.shook && self.accepted.is_some(),
                        Expiry::Handshake,
                        self.opened,
                        config.handshake_timeout,
                    ),
                ]
                .into_iter()
                .flatten()
                .collect()
            }
            _ => Vec::new(),
        }
    }

    /// The loop says that its time for something is up.
    fn is_up(
        &mut self,
        now: Duration,
        expiry: Expiry,
        config: &Config,
        drain_time: Duration,
    ) -> Option<String> {
        if let Expiry::Drain | Expiry::Linger = expiry {
            self.gave_up = true;
            return None;
        }
        if let Expiry::Deadline(_) | Expiry::Connect = expiry {
            return None; // the handler looks at its own
        }
        let up = self
            .deadlines(config, drain_time)
            .into_iter()
            .any(|(what, since, time)| what == expiry && now >= since.saturating_add(time));
        (!up).then(|| format!("its time for {expiry:?} was not over"))
    }
}

/// Whether a connection may go from one state to another: README's picture, written down once more.
fn is_legal(from: &str, to: &str) -> bool {
    match (from, to) {
        _ if from == to => true,
        ("connecting", to) => matches!(to, "open" | "closed"),
        ("open, input ended", to) => matches!(to, "draining" | "closed"),
        ("open", to) => matches!(
            to,
            "open, write-blocked"
                | "open, yielded"
                | "open, paused"
                | "open, input ended"
                | "draining"
                | "closed"
        ),
        ("open, write-blocked" | "open, yielded" | "open, paused", to) => {
            matches!(to, "open" | "open, paused" | "draining" | "closed")
        }
        ("draining", to) => matches!(to, "lingering" | "closed"),
        ("lingering", to) => to == "closed",
        _ => false,
    }
}
