//! Follows the steps of every connection, and checks invariants after each: every byte is accounted
//! for, every state change is legal, memory stays within its bounds, and no timeout fires early or
//! late.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use glassloop::sim::Unread;
use glassloop::{Address, Config, ConnectionId, Expiry, Fill, Flush, Step, Verdict};

/// Shared by the loop's observer and the run.
pub(crate) type SharedChecker = Rc<RefCell<InvariantChecker>>;

/// How late a timeout may fire. Polls and ticks count milliseconds, and nearby deadlines are
/// checked together, at most a 64th late.
fn slack(time: Duration) -> Duration {
    Duration::from_millis(5) + time / 32
}

/// What is known of a connection from its steps.
#[derive(Debug, Default)]
pub(crate) struct Tracked {
    /// The peer's address, if it was accepted; `None` if it was dialed.
    pub accepted: Option<Address>,
    pub close_reason: Option<&'static str>,
    /// True if its drain or linger timeout expired.
    pub timed_out: bool,
    /// When it left the open states.
    pub open_until: Duration,
    state: &'static str,
    since: Duration,
    opened: Duration,
    had_frame: bool,
    /// The handler's last verdict, until it is carried out.
    verdict: Option<Verdict>,
    /// Bytes read and not handled, and bytes queued and not written.
    unhandled: usize,
    unsent: usize,
    read_at: Duration,
    /// When a read last returned `WouldBlock`.
    blocked_at: Duration,
    /// When the loop deferred the connection to its next turn, with bytes in its socket.
    deferred_at: Option<Duration>,
    /// The earliest time that the frame at the front can have started.
    frame_started_at: Duration,
    /// When bytes were last written, or queued into an empty queue.
    progress_at: Duration,
    wrote_at: Duration,
}

/// Checks the steps of all connections.
#[derive(Debug)]
pub(crate) struct InvariantChecker {
    config: Config,
    /// True if the loop always runs on time, so that nothing may be late.
    is_punctual: bool,
    open: BTreeMap<ConnectionId, Tracked>,
    /// Closed connections.
    pub closed: BTreeMap<ConnectionId, Tracked>,
    pub violations: Vec<String>,
    drain_time: Duration,
    /// When an accept last failed because no descriptor was free.
    no_descriptor_at: Option<Duration>,
}

/// EMFILE and ENFILE.
const NO_DESCRIPTOR: [i32; 2] = [24, 23];

impl InvariantChecker {
    pub(crate) fn new(config: Config, is_punctual: bool) -> Self {
        let drain_time = config.drain_timeout;
        Self {
            config,
            is_punctual,
            open: BTreeMap::new(),
            closed: BTreeMap::new(),
            violations: Vec::new(),
            drain_time,
            no_descriptor_at: None,
        }
    }

    /// An accept has failed. Without a free descriptor all listeners back off.
    fn accept_failed(&mut self, now: Duration, error: &io::Error) {
        let number = error.raw_os_error().unwrap_or_default();
        if NO_DESCRIPTOR.contains(&number) {
            let last = self.no_descriptor_at.replace(now);
            if let Some(last) = last.filter(|last| now < *last + self.config.accept_backoff) {
                self.violations.push(format!(
                    "accept failed with {error} at {last:?}, and was retried at {now:?}"
                ));
            }
        }
    }

    /// Allows a stop to give connections longer to drain.
    pub(crate) fn allow_drain_time(&mut self, grace: Duration) {
        self.drain_time = self.drain_time.max(grace);
    }

    /// The connection of a client, if it was accepted.
    pub(crate) fn of(&self, client: &Address) -> Option<&Tracked> {
        self.closed
            .values()
            .chain(self.open.values())
            .find(|tracked| tracked.accepted.as_ref() == Some(client))
    }

    pub(crate) fn step(&mut self, now: Duration, step: &Step<'_>) {
        if let Step::AcceptFailed { error, .. } = step {
            self.accept_failed(now, error);
        }
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
        if self.closed.contains_key(id) {
            return self
                .violations
                .push(format!("{step:?} after it was closed"));
        }
        let tracked = self.open.entry(*id).or_insert_with(|| Tracked {
            state: "connecting",
            ..Tracked::default()
        });
        if let Some(violation) = tracked.step(now, step, &self.config, self.drain_time) {
            self.violations.push(format!("{id}: {violation}"));
        }
        if let Step::Closed { .. } = step {
            let tracked = self.open.remove(id).expect("just seen");
            self.closed.insert(*id, tracked);
        }
    }

    /// The bound of `Reactor::shared_memory`, plus what may be queued after a turn: commands up to
    /// their mark, since callbacks after the turn's commands add no message here; as many messages
    /// as the mailbox takes; and all connections on each list.
    fn max_shared_memory(&self) -> usize {
        let Config {
            scratch,
            events_per_turn,
            retained_capacity,
            command_high,
            mailbox_cap,
            ..
        } = self.config;
        let connections = self.open.len() + self.closed.len();
        let waiting = 2 * command_high + 4 * mailbox_cap + 48 * connections;
        scratch + 16 * events_per_turn + 8 * retained_capacity + 16 * 1024 + waiting
    }

    /// Checks a timeout that expired while the socket had `unread` bytes.
    pub(crate) fn check_unread(
        &mut self,
        id: ConnectionId,
        expiry: Expiry,
        unread: Unread,
        reports_at_once: bool,
    ) {
        let Some(tracked) = self
            .open
            .get(&id)
            .filter(|tracked| tracked.state == "open" && tracked.verdict.is_none())
        else {
            return;
        };
        let blames_peer = matches!(expiry, Expiry::Idle | Expiry::Frame | Expiry::Handshake);
        let timeout = tracked
            .deadlines(&self.config, self.drain_time)
            .into_iter()
            .find(|(what, ..)| *what == expiry);
        // Bytes that arrive during a pause are not read before the resume. Bytes that a read did
        // not get arrived after it.
        let readable_since = unread.since.max(tracked.since).max(tracked.blocked_at);
        let in_time = timeout.is_some_and(|(_, since, time)| {
            unread.bytes > 0 && readable_since < since.saturating_add(time)
        });
        if blames_peer && in_time && (unread.unreported || reports_at_once) {
            self.violations.push(format!(
                "{id}: closed by its {expiry:?} timeout with bytes unread: {unread:?}"
            ));
        }
    }

    /// Checks memory and timeouts after a turn: `buffered` bytes are held by the connections, and
    /// `shared` bytes by what they share.
    pub(crate) fn turn(&mut self, now: Duration, buffered: usize, shared: usize) {
        let bound = self.max_shared_memory();
        if shared > bound {
            self.violations.push(format!(
                "{shared} bytes of shared memory, over the bound of {bound}"
            ));
        }
        // A buffer may be half empty after growing, and a quarter full after shrinking. An empty
        // one uses no memory.
        let most = |bytes: usize| if bytes > 0 { 5 * bytes + 4096 } else { 0 };
        let allowed: usize = self
            .open
            .values()
            .map(|tracked| most(tracked.unhandled) + most(tracked.unsent))
            .sum();
        if buffered > allowed {
            self.violations.push(format!(
                "{buffered} bytes of memory, {allowed} expected at most"
            ));
        }
        if buffered > self.config.buffered_high {
            self.violations.push(format!(
                "{buffered} bytes of memory, over the limit of {}",
                self.config.buffered_high
            ));
        }
        for (id, tracked) in &self.open {
            if tracked.unsent > self.config.write_cap
                || tracked.unhandled > 65_540 + self.config.scratch
            {
                self.violations.push(format!(
                    "{id} holds {} bytes to send and {} to handle",
                    tracked.unsent, tracked.unhandled
                ));
            }
            if !self.is_punctual {
                continue;
            }
            for (expiry, since, time) in tracked.deadlines(&self.config, self.drain_time) {
                if now > since.saturating_add(time).saturating_add(slack(time)) {
                    self.violations.push(format!(
                        "{id}: its {expiry:?} timeout is overdue: {time:?} from {since:?}, \
                         now {now:?}"
                    ));
                }
            }
        }
    }
}

impl Tracked {
    /// Returns the invariant that a step violates, if any.
    fn step(
        &mut self,
        now: Duration,
        step: &Step<'_>,
        config: &Config,
        drain_time: Duration,
    ) -> Option<String> {
        if let Some(at) = self.deferred_at.take_if(|at| *at < now) {
            self.frame_started_at += now.saturating_sub(at);
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
                if self.unhandled == 0 {
                    self.frame_started_at = now;
                }
                self.unhandled += bytes;
                self.read_at = now;
            }
            Step::Read {
                fill: Fill::Blocked,
                ..
            } => self.blocked_at = now,
            Step::Frame { bytes, .. } => {
                (self.had_frame, self.frame_started_at) = (true, now);
                if self.state != "open" || self.verdict.is_some() {
                    return Some(format!(
                        "a frame is handled in state {}, after verdict {:?}",
                        self.state, self.verdict
                    ));
                }
                return self.handle(*bytes);
            }
            // The socket has more bytes than a turn reads. That delay is the loop's.
            Step::Deferred { .. } => self.deferred_at = Some(now),
            Step::Discarded { bytes, .. } => return self.handle(*bytes),
            Step::Queued { bytes, .. } => {
                if self.unsent == 0 {
                    self.progress_at = now;
                }
                self.unsent += bytes;
            }
            Step::Write {
                flush: Flush::Bytes(bytes),
                ..
            } => {
                (self.progress_at, self.wrote_at) = (now, now);
                return self.send(*bytes);
            }
            Step::Dropped { bytes, .. } => return self.send(*bytes),
            // A stop concerns the loop. The connection goes on.
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
                    self.open_until = now;
                }
                if self.state != to {
                    (self.state, self.since) = (to, now);
                }
                return (!legal).then(|| format!("changed state from {from} to {to}"));
            }
            Step::Deadline { expiry, .. } => {
                return self.check_expiry(now, *expiry, config, drain_time);
            }
            Step::Closed { reason, .. } => {
                self.close_reason = Some(reason.name());
                let unfinished = self.state != "closed" || self.unhandled + self.unsent > 0;
                return unfinished.then(|| {
                    format!(
                        "closed in state {}, with {} bytes unhandled and {} unsent",
                        self.state, self.unhandled, self.unsent
                    )
                });
            }
            _ => {}
        }
        None
    }

    fn handle(&mut self, bytes: usize) -> Option<String> {
        let too_many = bytes > self.unhandled;
        self.unhandled = self.unhandled.saturating_sub(bytes);
        too_many.then(|| format!("{bytes} bytes handled, more than were read"))
    }

    fn send(&mut self, bytes: usize) -> Option<String> {
        let too_many = bytes > self.unsent;
        self.unsent = self.unsent.saturating_sub(bytes);
        too_many.then(|| format!("{bytes} bytes sent, more than were queued"))
    }

    /// The timeouts that can end it: what, since when, and how long.
    fn deadlines(
        &self,
        config: &Config,
        drain_time: Duration,
    ) -> Vec<(Expiry, Duration, Duration)> {
        let (active, moved) = (
            self.read_at.max(self.wrote_at).max(self.opened),
            self.progress_at.max(self.opened),
        );
        let guard = |applies: bool, expiry, since, time: Option<Duration>| {
            time.filter(|_| applies).map(|time| (expiry, since, time))
        };
        match self.state {
            "draining" => vec![(Expiry::Drain, self.since.max(self.progress_at), drain_time)],
            "lingering" => {
                let (heard, begun) = (
                    self.since.max(self.read_at),
                    self.since.max(self.progress_at),
                );
                vec![
                    (Expiry::Linger, heard, config.linger_timeout),
                    (Expiry::Linger, begun, drain_time),
                ]
            }
            state if state.starts_with("open") => {
                let unfinished = state == "open" && self.unhandled > 0;
                [
                    guard(true, Expiry::Idle, active, config.idle_timeout),
                    guard(self.unsent > 0, Expiry::Write, moved, config.write_timeout),
                    guard(
                        unfinished,
                        Expiry::Frame,
                        self.frame_started_at.max(self.since),
                        config.frame_timeout,
                    ),
                    guard(
                        !self.had_frame && self.accepted.is_some(),
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

    /// Checks a timeout that the loop says has expired.
    fn check_expiry(
        &mut self,
        now: Duration,
        expiry: Expiry,
        config: &Config,
        drain_time: Duration,
    ) -> Option<String> {
        if let Expiry::Drain | Expiry::Linger = expiry {
            self.timed_out = true;
            return None;
        }
        if let Expiry::Deadline(_) | Expiry::Connect = expiry {
            return None; // checked by the handler
        }
        let expired = self
            .deadlines(config, drain_time)
            .into_iter()
            .any(|(what, since, time)| what == expiry && now >= since.saturating_add(time));
        (!expired).then(|| format!("its {expiry:?} timeout fired early"))
    }
}

/// True if a connection may go from one state to the other: the arrows of README's picture.
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
