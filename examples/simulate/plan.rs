//! The scenario that a seed draws: workload, limits, clients and what each client does; and what
//! shrinking leaves out.

use std::time::Duration;

use glassloop::sim::{Fault, Faults, Rng};
use glassloop::{Config, Stop};

/// What to run. The same plan gives the same run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub seed: u64,
    /// The clients that take part; `None`: all.
    pub clients: Option<Vec<usize>>,
    /// The most requests that each client makes.
    pub requests: Option<usize>,
    /// Faults that do not happen.
    pub without: Vec<Fault>,
}

/// The protocol and the handler of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workload {
    /// The submit protocol, with [`TestHandler`](crate::handler::TestHandler).
    Submit,
    /// Lines with long answers, with the same handler.
    Lines,
    /// Length-prefixed frames, with [`Relay`](crate::relay::Relay).
    Relay,
}

/// What a request asks of the handler, besides its ack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Ack,
    /// This many more replies of about the request's size (lines only).
    Replies(u16),
    /// Pause for this many milliseconds.
    Pause(u16),
    /// Send a message to another client.
    MessageOther(u16),
    /// Close another client.
    CloseOther(u16),
    Close,
    Abort,
    Panic,
    /// Panic in `Handler::close`.
    PanicAtClose,
    Timer(u16),
    /// A read deadline, which the handler clears when it expires.
    ReadDeadline(u16),
    /// A write deadline, cleared in the same way.
    WriteDeadline(u16),
    Stop,
}

/// The behavior of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behavior {
    /// Sends, reads, and closes when it has all its answers.
    Waits,
    /// Sends everything, shuts down its sending side, and reads to the end.
    HalfCloses,
    /// Sends bytes that are no frame, after its requests.
    SendsGarbage,
    /// Shuts down its sending side within a frame.
    Truncates,
    /// Resets the connection after its requests.
    Resets,
    /// Closes after its requests, without reading everything.
    ClosesEarly,
    /// Sends nothing until the faults end.
    Silent,
    /// Does not read until the faults end.
    StopsReading,
    /// Sends the start of a frame and waits until the faults end; then shuts down its sending side.
    Stalls,
}

/// What one client does.
#[derive(Clone, Debug)]
pub(crate) struct ClientPlan {
    pub number: usize,
    pub rng: Rng,
    pub behavior: Behavior,
    pub connects_at: Duration,
    pub requests: usize,
    /// Requests made at once, and the most that are unanswered.
    pub burst: usize,
    pub window: usize,
    /// The longest time between two bursts.
    pub think_time: Duration,
    pub payload: usize,
    /// The rate, per million requests, of those that ask for more than an ack.
    pub special_rate: u32,
}

/// Everything that a seed draws.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub workload: Workload,
    /// True if a short read means that the socket is empty; see [`SimNet`](glassloop::sim::SimNet).
    pub short_read_is_empty: bool,
    pub faults: Faults,
    pub config: Config,
    pub clients: Vec<ClientPlan>,
    /// How long faults happen.
    pub fault_time: Duration,
    /// When and how the loop is told to stop, if it is.
    pub stop: Option<(Duration, Stop)>,
    /// True if requests may ask for what ends connections.
    pub may_close: bool,
    /// True if no timeout may end a connection.
    pub no_timeouts: bool,
}

impl Scenario {
    /// True if the poller reports in order and completely, as [`glassloop::internals::Net::poll`]
    /// requires.
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

    /// True if the poller reports unread bytes without delay.
    pub(crate) fn reports_at_once(&self) -> bool {
        [Fault::EdgeWithheld, Fault::ReadBlocked]
            .iter()
            .all(|fault| self.faults.rate(*fault) == 0)
    }

    /// True if the loop always runs on time, so that nothing may be late.
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

    pub(crate) fn scenario(&self) -> Scenario {
        let whole = Rng::new(self.seed);
        let mut rng = whole.fork(10);
        let workload = rng.pick(&[
            Workload::Submit,
            Workload::Submit,
            Workload::Lines,
            Workload::Relay,
        ]);
        let mut faults = Faults::random(&mut whole.fork(1));
        for fault in &self.without {
            faults.set(*fault, 0);
        }
        let no_timeouts = rng.one_in(2);
        let mut config = config(&mut whole.fork(11), no_timeouts);
        if workload == Workload::Relay {
            config.drain_timeout = config.drain_timeout.min(Duration::from_secs(20));
        }
        let fault_time = Duration::from_millis(rng.magnitude(10, 60_000) as u64);
        let stop = rng
            .one_in(4)
            .then(|| (rng.duration(fault_time * 2), stop(&mut rng)));
        let may_close = rng.one_in(2);
        let count = rng.magnitude(1, 48);
        let total = rng.magnitude(2_000, 12_000);
        let hostile = rng.one_in(2);
        let mut clients: Vec<ClientPlan> = (0..count)
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
            client.connects_at = if rng.one_in(2) {
                Duration::ZERO
            } else {
                client.rng.duration(fault_time)
            };
            client.requests = client.requests.min(self.requests.unwrap_or(usize::MAX));
        }
        if let Some(kept) = &self.clients {
            clients.retain(|client| kept.contains(&client.number));
        }
        Scenario {
            workload,
            short_read_is_empty: self.seed % 2 == 0,
            faults,
            config,
            clients,
            fault_time,
            stop,
            may_close,
            no_timeouts,
        }
    }
}

fn client(number: usize, mut rng: Rng, hostile: bool, share: usize) -> ClientPlan {
    use Behavior::{
        ClosesEarly, HalfCloses, Resets, SendsGarbage, Silent, Stalls, StopsReading, Truncates,
        Waits,
    };
    let behavior = if hostile && rng.one_in(3) {
        rng.pick(&[
            SendsGarbage,
            Truncates,
            Stalls,
            Resets,
            ClosesEarly,
            Silent,
            StopsReading,
        ])
    } else {
        rng.pick(&[Waits, HalfCloses])
    };
    let payload = if rng.one_in(8) { 20_000 } else { 200 };
    let requests = rng.between(share / 2, share + share / 2).max(1);
    ClientPlan {
        number,
        behavior,
        connects_at: Duration::ZERO,
        requests: if behavior == Silent { 0 } else { requests },
        burst: rng.magnitude(1, 256),
        window: rng.magnitude(1, 1024),
        think_time: Duration::from_micros(rng.magnitude(1, 10_000_000) as u64),
        payload: rng.magnitude(1, payload),
        special_rate: rng.magnitude(1, 100_000) as u32,
        rng,
    }
}

fn stop(rng: &mut Rng) -> Stop {
    match rng.below(4) {
        0 => Stop::AtOnce,
        1 => Stop::Within(Duration::from_millis(rng.magnitude(1, 20_000) as u64)),
        _ => Stop::Gracefully,
    }
}

fn config(rng: &mut Rng, no_timeouts: bool) -> Config {
    let time = |rng: &mut Rng, low: usize, high: usize| {
        Duration::from_millis(rng.magnitude(low, high) as u64)
    };
    let guard = |rng: &mut Rng| (!no_timeouts && rng.one_in(2)).then(|| time(rng, 50, 60_000));
    let guards = [guard(rng), guard(rng), guard(rng), guard(rng)];
    let write_high = rng.magnitude(64, 65_536);
    let buffered_high = guard(rng).map_or(usize::MAX, |_| rng.magnitude(16_384, 4 << 20));
    Config {
        accept_backoff: time(rng, 1, 1_000),
        accepts_per_turn: rng.magnitude(1, 32),
        buffered_high,
        buffered_low: buffered_high / 2,
        calls_per_turn: rng.magnitude(1, 1024),
        command_high: rng.magnitude(64, 1 << 20),
        drain_timeout: if no_timeouts {
            Duration::from_secs(1_000_000)
        } else {
            time(rng, 100, 20_000)
        },
        events_per_turn: rng.magnitude(1, 1024),
        frame_timeout: guards[0],
        handshake_timeout: guards[3],
        idle_timeout: guards[1],
        linger_timeout: if no_timeouts {
            Duration::from_secs(1_000_000)
        } else {
            time(rng, 10, 5_000)
        },
        max_connections: rng.one_in(4).then(|| rng.magnitude(4, 64)),
        scratch: rng.magnitude(16, 262_144),
        write_cap: write_high + (1 << 20),
        write_high,
        write_low: rng.below(write_high),
        write_timeout: guards[2],
        retained_capacity: rng.magnitude(64, 65_536),
        mailbox_cap: 2048,
        ..Config::default()
    }
}

/// Draws what a request asks for. With `may_close` this includes what ends connections.
pub(crate) fn op(rng: &mut Rng, special_rate: u32, may_close: bool) -> Op {
    if !rng.chance(special_rate) {
        return Op::Ack;
    }
    let arg = rng.magnitude(1, 60_000) as u16;
    let harmless = [
        Op::Replies(arg % 512),
        Op::Pause(arg % 4096),
        Op::MessageOther(arg),
        Op::Timer(arg),
        Op::ReadDeadline(arg % 8192),
        Op::WriteDeadline(arg % 8192),
    ];
    let closing = [
        Op::CloseOther(arg),
        Op::Close,
        Op::Abort,
        Op::Panic,
        Op::PanicAtClose,
        Op::Stop,
    ];
    if !may_close || rng.one_in(2) {
        return rng.pick(&harmless);
    }
    let closing = rng.pick(&closing);
    if closing == Op::Stop && !rng.one_in(8) {
        Op::Close
    } else {
        closing
    }
}
