//! What one seed draws: which workload, which limits, which clients, and what each of them will do. And what is left out of it when a failure is made small.

use std::time::Duration;

use glassloop::sim::{Dice, Fault, Faults};
use glassloop::{Config, Stop};

/// One run, to be repeated at will.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub seed: u64,
    /// The clients that take part; `None`: all.
    pub clients: Option<Vec<usize>>,
    /// The most requests that each of them makes.
    pub requests: Option<usize>,
    /// Faults that do not happen.
    pub without: Vec<Fault>,
}

/// What is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workload {
    /// The submit server, and a handler that does everything a handler may.
    Submit,
    /// Lines with long answers.
    Lines,
    /// Clients who are passed on to somebody else.
    Relay,
}

/// What a request asks the handler for, besides its ack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Ack,
    /// So many replies more of about so many bytes (lines only).
    Much(u16),
    /// No further frame until a timer has come.
    Pause(u16),
    /// A message to another client.
    Tell(u16),
    /// The end of another client.
    CloseOther(u16),
    Close,
    Abort,
    Panic,
    /// A panic when the connection is told that it is over.
    PanicAtClose,
    Timer(u16),
    /// A read deadline, which the handler clears when it has passed.
    ReadDeadline(u16),
    /// The same for writing.
    WriteDeadline(u16),
    Stop,
}

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// It sends, reads, and leaves in good order when it has all its answers.
    Waits,
    /// It sends all it has, ends its sending, and reads until the end.
    HalfCloses,
    /// It sends something that is no frame, after its requests.
    Garbage,
    /// It ends its sending in the middle of a frame.
    Truncates,
    /// It resets the connection at some time.
    Resets,
    /// It closes at some time without having read everything.
    Leaves,
    /// It sends nothing, and waits until the world is kind again.
    Mute,
    /// It does not read until the world is kind again.
    Deaf,
    /// It begins a frame, and does not go on until the world is kind again; then it ends there.
    Stalls,
}

/// What one client will do.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub number: usize,
    pub dice: Dice,
    pub manner: Manner,
    pub comes: Duration,
    pub requests: usize,
    /// Requests that it makes at once, and the most that are unanswered.
    pub burst: usize,
    pub window: usize,
    /// The longest time between two bursts.
    pub thinks: Duration,
    pub payload: usize,
    /// Of a million requests, how many ask for more than an ack.
    pub special: u32,
}

/// All that a seed draws.
#[derive(Debug)]
pub(crate) struct Drawn {
    pub workload: Workload,
    /// Whether the poller makes a short read mean that the socket is empty.
    pub strict: bool,
    pub faults: Faults,
    pub config: Config,
    pub clients: Vec<Client>,
    /// How long the world is unkind.
    pub rough: Duration,
    /// When the loop is told to stop, if it is, and how.
    pub stop: Option<(Duration, Stop)>,
    /// Whether handlers may do what ends connections.
    pub violent: bool,
    /// Whether all deadlines that end connections are off, so that nobody may be left behind.
    pub unguarded: bool,
}

impl Drawn {
    /// Whether the poller reports in order and completely, as [`glassloop::internals::Net::poll`] asks.
    pub(crate) fn reports_in_order(&self) -> bool {
        let broken = [
            Fault::BatchOfOne,
            Fault::BatchShuffled,
            Fault::SpuriousEvent,
            Fault::StaleEvent,
            Fault::SpuriousWake,
        ];
        broken.iter().all(|fault| self.faults.rate(*fault) == 0)
    }

    /// Whether the poller reports at once what there is to read.
    pub(crate) fn reports_at_once(&self) -> bool {
        [Fault::EdgeWithheld, Fault::ReadBlocked]
            .iter()
            .all(|fault| self.faults.rate(*fault) == 0)
    }

    /// Whether the loop is never kept from running, so that nothing may come late.
    pub(crate) fn is_punctual(&self) -> bool {
        [Fault::LateWake, Fault::TimeJump, Fault::Stopped]
            .iter()
            .all(|fault| self.faults.rate(*fault) == 0)
    }
}

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        Self {
            seed,
            clients: None,
            requests: None,
            without: Vec::new(),
        }
    }

    pub(crate) fn draw(&self) -> Drawn {
        let whole = Dice::new(self.seed);
        let mut dice = whole.fork(10);
        let workload = dice.pick(&[
            Workload::Submit,
            Workload::Submit,
            Workload::Lines,
            Workload::Relay,
        ]);
        let mut faults = Faults::drawn(&mut whole.fork(1));
        for fault in &self.without {
            faults.set(*fault, 0);
        }
        let unguarded = dice.one_in(2);
        let mut config = config(&mut whole.fork(11), unguarded);
        if workload == Workload::Relay {
            config.drain_timeout = config.drain_timeout.min(Duration::from_secs(20));
        }
        let rough = Duration::from_millis(dice.magnitude(10, 60_000) as u64);
        let stop = dice
            .one_in(4)
            .then(|| (dice.time(rough * 2), stop(&mut dice)));
        let violent = dice.one_in(2);
        let count = dice.magnitude(1, 48);
        let total = dice.magnitude(2_000, 12_000);
        let hostile = dice.one_in(2);
        let mut clients: Vec<Client> = (0..count)
            .map(|number| {
                client(
                    number,
                    whole.fork(100 + number as u64),
                    hostile,
                    total / count,
                )
            })
            .collect();
        for client in &mut clients {
            client.comes = if dice.one_in(2) {
                Duration::ZERO
            } else {
                client.dice.time(rough)
            };
            client.requests = client.requests.min(self.requests.unwrap_or(usize::MAX));
        }
        if let Some(kept) = &self.clients {
            clients.retain(|client| kept.contains(&client.number));
        }
        Drawn {
            workload,
            strict: self.seed % 2 == 0,
            faults,
            config,
            clients,
            rough,
            stop,
            violent,
            unguarded,
        }
    }
}

fn client(number: usize, mut dice: Dice, hostile: bool, share: usize) -> Client {
    use Manner::{Deaf, Garbage, HalfCloses, Leaves, Mute, Resets, Stalls, Truncates, Waits};
    let manner = if hostile && dice.one_in(3) {
        dice.pick(&[Garbage, Truncates, Stalls, Resets, Leaves, Mute, Deaf])
    } else {
        dice.pick(&[Waits, HalfCloses])
    };
    let payload = if dice.one_in(8) { 20_000 } else { 200 };
    let requests = dice.between(share / 2, share + share / 2).max(1);
    Client {
        number,
        manner,
        comes: Duration::ZERO,
        requests: if manner == Mute { 0 } else { requests },
        burst: dice.magnitude(1, 256),
        window: dice.magnitude(1, 1024),
        thinks: Duration::from_micros(dice.magnitude(1, 10_000_000) as u64),
        payload: dice.magnitude(1, payload),
        special: dice.magnitude(1, 100_000) as u32,
        dice,
    }
}

fn stop(dice: &mut Dice) -> Stop {
    match dice.below(4) {
        0 => Stop::AtOnce,
        1 => Stop::Within(Duration::from_millis(dice.magnitude(1, 20_000) as u64)),
        _ => Stop::Gracefully,
    }
}

fn config(dice: &mut Dice, unguarded: bool) -> Config {
    let time = |dice: &mut Dice, low: usize, high: usize| {
        Duration::from_millis(dice.magnitude(low, high) as u64)
    };
    let guard = |dice: &mut Dice| (!unguarded && dice.one_in(2)).then(|| time(dice, 50, 60_000));
    let guards = [guard(dice), guard(dice), guard(dice), guard(dice)];
    let write_high = dice.magnitude(64, 65_536);
    let buffered_high = guard(dice).map_or(usize::MAX, |_| dice.magnitude(16_384, 4 << 20));
    Config {
        accept_backoff: time(dice, 1, 1_000),
        accepts_per_turn: dice.magnitude(1, 32),
        buffered_high,
        buffered_low: buffered_high / 2,
        calls_per_turn: dice.magnitude(1, 1024),
        command_high: dice.magnitude(64, 1 << 20),
        drain_timeout: if unguarded {
            Duration::from_secs(1_000_000)
        } else {
            time(dice, 100, 20_000)
        },
        events_per_turn: dice.magnitude(1, 1024),
        frame_timeout: guards[0],
        handshake_timeout: guards[3],
        idle_timeout: guards[1],
        linger_timeout: if unguarded {
            Duration::from_secs(1_000_000)
        } else {
            time(dice, 10, 5_000)
        },
        max_connections: dice.one_in(4).then(|| dice.magnitude(4, 64)),
        scratch: dice.magnitude(16, 262_144),
        write_cap: write_high + (1 << 20),
        write_high,
        write_low: dice.below(write_high),
        write_timeout: guards[2],
        retained_capacity: dice.magnitude(64, 65_536),
        mailbox_cap: 2048,
        ..Config::default()
    }
}

/// What a request asks for; `violent`: even what ends connections.
pub(crate) fn op(dice: &mut Dice, special: u32, violent: bool) -> Op {
    if !dice.happens(special) {
        return Op::Ack;
    }
    let arg = dice.magnitude(1, 60_000) as u16;
    let mild = [
        Op::Much(arg % 512),
        Op::Pause(arg % 4096),
        Op::Tell(arg),
        Op::Timer(arg),
        Op::ReadDeadline(arg % 8192),
        Op::WriteDeadline(arg % 8192),
    ];
    let wild = [
        Op::CloseOther(arg),
        Op::Close,
        Op::Abort,
        Op::Panic,
        Op::PanicAtClose,
        Op::Stop,
    ];
    if !violent || dice.one_in(2) {
        return dice.pick(&mild);
    }
    let wild = dice.pick(&wild);
    if wild == Op::Stop && !dice.one_in(8) {
        Op::Close
    } else {
        wild
    }
}
