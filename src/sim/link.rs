//! What a connection is made of in the simulated world: two ends, and a pipe in each direction.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::time::Duration;

use super::{Blame, Dice, Fate, Truth};
use crate::net::{Address, Event};

/// What a connection's way through the network is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// How long a byte is under way.
    pub latency: Duration,
    /// How much longer it may take, drawn anew each time.
    pub jitter: Duration,
    /// How long a byte keeps the line busy: the reciprocal of the bandwidth. Zero is a line without end.
    pub byte_time: Duration,
    /// The most bytes that arrive at once.
    pub segment: usize,
    /// Bytes that each side's system keeps of what was written and has not arrived.
    pub send_buffer: usize,
    /// Bytes that each side's system keeps of what has arrived and was not read.
    pub receive_buffer: usize,
}

impl Path {
    /// A short way with room for much, as on one machine.
    pub fn local() -> Self {
        Self {
            latency: Duration::from_micros(20),
            jitter: Duration::ZERO,
            byte_time: Duration::ZERO,
            segment: 65_536,
            send_buffer: 1 << 20,
            receive_buffer: 1 << 20,
        }
    }

    /// Any way at all: from a cable in the room to a line to the moon, with buffers of a few bytes or of a megabyte.
    pub fn drawn(dice: &mut Dice) -> Self {
        let micros = |dice: &mut Dice, most| Duration::from_micros(dice.magnitude(1, most) as u64);
        Self {
            latency: micros(dice, 300_000),
            jitter: if dice.one_in(2) {
                micros(dice, 100_000)
            } else {
                Duration::ZERO
            },
            byte_time: Duration::from_nanos(dice.magnitude(1, 20_000) as u64 - 1),
            segment: dice.magnitude(1, 65_536),
            send_buffer: dice.magnitude(64, 1 << 20),
            receive_buffer: dice.magnitude(64, 1 << 20),
        }
    }
}

/// One end of a link, by its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EndId {
    pub(super) link: usize,
    pub(super) side: usize,
}

impl EndId {
    pub(super) fn other(self) -> Self {
        Self {
            side: 1 - self.side,
            ..self
        }
    }
}

/// A connection, or what is left of it. They are kept, so that their numbers stay true.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) path: Path,
    pub(super) ends: [End; 2],
    /// Each carries what the end of the same number sends.
    pub(super) pipes: [Pipe; 2],
    /// Until then nothing moves.
    pub(super) clogged_until: Duration,
    /// Who broke it.
    pub(super) blame: Option<Blame>,
}

impl Link {
    /// One end, what it sends, and what it receives.
    pub(super) fn at(&mut self, side: usize) -> (&mut End, &mut Pipe, &mut Pipe) {
        let [one, other] = &mut self.pipes;
        let (outgoing, incoming) = if side == 0 {
            (one, other)
        } else {
            (other, one)
        };
        (&mut self.ends[side], outgoing, incoming)
    }
}

/// One direction: written ─► under way ─► arrived ─► read.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    /// What was written and not read; the first `arrived` of it can be.
    pub(super) bytes: VecDeque<u8>,
    pub(super) arrived: usize,
    /// When the first byte of what has arrived came.
    pub(super) since: Duration,
    pub(super) tail: Tail,
    /// Whether something is under way, and will arrive by itself.
    pub(super) moving: bool,
    /// How many bytes of what was not read lie before a byte of urgent data.
    pub(super) mark: Option<usize>,
}

/// What comes behind the last byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tail {
    /// More bytes, perhaps.
    #[default]
    Open,
    /// The end, not arrived yet.
    Fin,
    /// A reset, not arrived yet.
    Reset,
    /// Nothing more: the end has arrived.
    Over,
}

impl Pipe {
    /// Bytes that were written and have not arrived: they fill the sender's buffer.
    pub(super) fn pending(&self) -> usize {
        self.bytes.len() - self.arrived
    }

    /// Whether anything could arrive, where the receiver keeps up to `buffer` bytes.
    pub(super) fn can_move(&self, buffer: usize) -> bool {
        let full = self.arrived >= buffer;
        match self.tail {
            Tail::Open | Tail::Over => self.pending() > 0 && !full,
            Tail::Fin => self.pending() == 0 || !full,
            Tail::Reset => true,
        }
    }

    /// Forgets what is in it.
    pub(super) fn clear(&mut self) {
        self.bytes = VecDeque::new();
        self.arrived = 0;
        self.mark = None;
    }
}

/// One end of a connection: a socket, and who holds it.
#[derive(Debug)]
pub(super) struct End {
    pub(super) addr: Address,
    pub(super) holder: Holder,
    /// Whether the socket is not closed.
    pub(super) open: bool,
    /// What the next read, once nothing is left to be read, or the next write comes to. Said once.
    pub(super) error: Option<ErrorKind>,
    /// Whether the connection is broken, for this end.
    pub(super) broken: bool,
    /// Whether it has shut its sending side.
    pub(super) shut: bool,
    /// Whether the other one's end has arrived here.
    pub(super) ended: bool,
}

/// Who holds a socket.
#[derive(Debug)]
pub(super) enum Holder {
    /// The loop.
    Loop(Watch),
    /// A peer.
    Peer(Mind),
}

/// What the poller knows of a socket of the loop.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Under which it is registered.
    pub(super) token: Option<usize>,
    /// What is to be reported. The token in it has no meaning.
    pub(super) news: Event,
    /// Whether it stands on the list of those with news.
    pub(super) listed: bool,
    /// Whether an event is owed for the next thing that happens.
    pub(super) owes_read: bool,
    pub(super) owes_write: bool,
    /// Whether the peer's end was reported, or urgent data: a short read proves nothing from then on.
    pub(super) told: bool,
    pub(super) dial: Dial,
    /// What really happened, for an oracle.
    pub(super) truth: Truth,
}

/// How an outgoing connection stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Dial {
    /// Established, or an incoming one.
    #[default]
    Done,
    Undecided,
    MetItself,
}

/// What a peer has in mind, and what it has got.
#[derive(Debug, Default)]
pub(super) struct Mind {
    /// What it wants to send and its system had no room for.
    pub(super) outgoing: VecDeque<u8>,
    /// Whether it wants to end its sending after that.
    pub(super) shut: bool,
    /// What it has read and nobody has looked at.
    pub(super) received: Vec<u8>,
    pub(super) reads: bool,
    pub(super) fate: Fate,
}

impl End {
    pub(super) fn new(addr: Address, holder: Holder) -> Self {
        Self {
            addr,
            holder,
            open: true,
            error: None,
            broken: false,
            shut: false,
            ended: false,
        }
    }

    pub(super) fn watch(&mut self) -> Option<&mut Watch> {
        match &mut self.holder {
            Holder::Loop(watch) => Some(watch),
            Holder::Peer(_) => None,
        }
    }

    pub(super) fn mind(&mut self) -> Option<&mut Mind> {
        match &mut self.holder {
            Holder::Peer(mind) => Some(mind),
            Holder::Loop(_) => None,
        }
    }
}
