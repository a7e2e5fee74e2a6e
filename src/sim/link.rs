//! A simulated connection: two ends, and a pipe in each direction.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::time::Duration;

use super::{ActualIo, Blame, PeerState, Rng};
use crate::net::{Address, Event};

/// The path of a connection through the network: latency, bandwidth and buffers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// How long a byte is in flight.
    pub latency: Duration,
    /// The most that is added to the latency, drawn anew for each arrival.
    pub jitter: Duration,
    /// The time to send one byte, the reciprocal of the bandwidth. Zero means unlimited bandwidth.
    pub byte_time: Duration,
    /// The most bytes that arrive in one step.
    pub segment: usize,
    /// Send buffer of each side, in bytes: written and not arrived.
    pub send_buffer: usize,
    /// Receive buffer of each side, in bytes: arrived and not read.
    pub receive_buffer: usize,
}

impl Path {
    /// A path as on one machine: 20 µs of latency, and buffers of 1 MiB.
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

    /// Draws a path: latency from 1 µs to 300 ms, buffers from 64 bytes to 1 MiB.
    pub fn random(rng: &mut Rng) -> Self {
        let micros = |rng: &mut Rng, most| Duration::from_micros(rng.magnitude(1, most) as u64);
        Self {
            latency: micros(rng, 300_000),
            jitter: if rng.one_in(2) {
                micros(rng, 100_000)
            } else {
                Duration::ZERO
            },
            byte_time: Duration::from_nanos(rng.magnitude(1, 20_000) as u64 - 1),
            segment: rng.magnitude(1, 65_536),
            send_buffer: rng.magnitude(64, 1 << 20),
            receive_buffer: rng.magnitude(64, 1 << 20),
        }
    }
}

/// The index of a link, and which of its two ends.
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

/// A connection, open or closed. Links are never removed, so that their indices stay valid.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) path: Path,
    pub(super) ends: [End; 2],
    /// `pipes[n]` carries what `ends[n]` sends.
    pub(super) pipes: [Pipe; 2],
    /// Nothing arrives before this time.
    pub(super) clogged_until: Duration,
    /// The side that broke it.
    pub(super) blame: Option<Blame>,
}

impl Link {
    /// One end, its outgoing pipe and its incoming pipe.
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

/// One direction: written ─► in flight ─► arrived ─► read.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    /// Written and not read. The first `arrived` bytes can be read.
    pub(super) bytes: VecDeque<u8>,
    pub(super) arrived: usize,
    /// When the first unread byte arrived.
    pub(super) since: Duration,
    pub(super) tail: Tail,
    /// True if an arrival is scheduled.
    pub(super) moving: bool,
    /// The number of unread bytes before the urgent mark.
    pub(super) mark: Option<usize>,
}

/// What follows the last byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tail {
    /// Perhaps more bytes.
    #[default]
    Open,
    /// A FIN that has not arrived yet.
    Fin,
    /// A reset that has not arrived yet.
    Reset,
    /// Nothing: the FIN or reset has arrived.
    Delivered,
}

impl Pipe {
    /// Bytes written and not arrived. They fill the sender's buffer.
    pub(super) fn in_flight(&self) -> usize {
        self.bytes.len() - self.arrived
    }

    /// True if something can arrive at a receive buffer of `buffer` bytes.
    pub(super) fn can_move(&self, buffer: usize) -> bool {
        let full = self.arrived >= buffer;
        match self.tail {
            Tail::Open | Tail::Delivered => self.in_flight() > 0 && !full,
            Tail::Fin => self.in_flight() == 0 || !full,
            Tail::Reset => true,
        }
    }

    /// Drops all bytes.
    pub(super) fn clear(&mut self) {
        self.bytes = VecDeque::new();
        self.arrived = 0;
        self.mark = None;
    }
}

/// One end of a connection: a socket and its owner.
#[derive(Debug)]
pub(super) struct End {
    pub(super) addr: Address,
    pub(super) owner: Owner,
    /// False once the socket is closed.
    pub(super) open: bool,
    /// The error of the next write, or of the next read after the unread bytes. It is reported once
    /// (`SO_ERROR`).
    pub(super) error: Option<ErrorKind>,
    /// True once a reset or an error has arrived at this end.
    pub(super) broken: bool,
    /// True once this end has shut down its sending side.
    pub(super) shut: bool,
    /// True once the FIN of the other end has arrived.
    pub(super) ended: bool,
}

/// The owner of a socket.
#[derive(Debug)]
pub(super) enum Owner {
    /// The loop.
    Loop(LoopSocket),
    /// A peer.
    Peer(PeerSocket),
}

/// A socket of the loop, and its state in the poller.
#[derive(Debug, Default)]
pub(super) struct LoopSocket {
    /// The token of its registration.
    pub(super) token: Option<usize>,
    /// The next event to report. Its token is not used.
    pub(super) pending_event: Event,
    /// True if it is on the ready queue.
    pub(super) queued: bool,
    /// True if the next arrival, or the next room in the send buffer, must be reported: a call
    /// returned `WouldBlock`, or read less than asked.
    pub(super) read_armed: bool,
    pub(super) write_armed: bool,
    /// True once the peer's FIN or urgent data was reported. From then on a short read does not
    /// mean that the socket is empty.
    pub(super) hint_reported: bool,
    pub(super) dial: Dial,
    /// Counts of what the loop read and wrote, for a test to compare with.
    pub(super) actual: ActualIo,
}

/// The state of an outgoing connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Dial {
    /// Decided, or an incoming connection.
    #[default]
    Done,
    Pending,
    SelfConnected,
}

/// A peer's socket: what the test wants sent, and what was received.
#[derive(Debug, Default)]
pub(super) struct PeerSocket {
    /// Bytes to send that the send buffer had no room for.
    pub(super) outgoing: VecDeque<u8>,
    /// True if a FIN follows them.
    pub(super) shut: bool,
    /// Bytes read that the test has not taken.
    pub(super) received: Vec<u8>,
    pub(super) reads: bool,
    pub(super) state: PeerState,
}

impl End {
    pub(super) fn new(addr: Address, owner: Owner) -> Self {
        Self {
            addr,
            owner,
            open: true,
            error: None,
            broken: false,
            shut: false,
            ended: false,
        }
    }

    pub(super) fn loop_socket(&mut self) -> Option<&mut LoopSocket> {
        match &mut self.owner {
            Owner::Loop(socket) => Some(socket),
            Owner::Peer(_) => None,
        }
    }

    pub(super) fn peer_socket(&mut self) -> Option<&mut PeerSocket> {
        match &mut self.owner {
            Owner::Peer(peer_socket) => Some(peer_socket),
            Owner::Loop(_) => None,
        }
    }
}
