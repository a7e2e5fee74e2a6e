//! The one seam to the operating system: sockets, readiness and the clock.
//!
//! The reactor is generic over [`Net`], so that it can run unchanged over a simulated one. Users
//! never see the parameter: it defaults to [`MioNet`].

mod address;
mod mio_net;
mod socket;
mod transport;

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

pub use self::address::Address;
pub(crate) use self::address::PackedAddress;
pub use self::mio_net::MioNet;
pub use self::socket::{Listener, Socket};
pub use self::transport::{Fill, Flush, Readiness, fill, flush};

/// One report of the poller: what a source may be ready for.
///
/// Readiness is a hint; only the system call's own result is the truth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The word under which the source was registered; see [`Token`](crate::id::Token).
    pub token: usize,
    /// A read may find something: bytes, the end, an error, or a connection to accept.
    pub readable: bool,
    /// A write may find room, or a connection under way may be decided.
    pub writable: bool,
    /// The peer has closed its sending side; bytes may still be waiting before that end. Never wrong when set, not always set.
    pub read_closed: bool,
    /// Nothing that is written can arrive any more. Never wrong when set, not always set.
    pub write_closed: bool,
    /// Urgent data has come: a read stops short at its mark, so that a short one proves nothing any more. Reported on Linux only.
    pub urgent: bool,
    /// The connection is broken, by a reset for instance. Never wrong when set, not always set.
    pub broken: bool,
}

/// What the loop asks of a connected socket besides reading and writing.
///
/// `read` and `write` must not block, and say so with [`WouldBlock`](io::ErrorKind::WouldBlock).
pub trait Stream: Read + Write {
    /// How an outgoing connection stands.
    ///
    /// # Errors
    /// What kept it from being established.
    fn established(&mut self) -> io::Result<Established>;

    /// Shuts the sending side: the peer reads all that was written, then the end.
    ///
    /// # Errors
    /// What the system says; `NotConnected` if the peer is gone.
    fn shut_write(&mut self) -> io::Result<()>;
}

/// How an outgoing connection stands, as far as nothing has gone wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Established {
    /// Not decided. An event will tell.
    NotYet,
    /// It is there.
    Yes,
    /// It is there, and its other end is its own: the port was free, and the system happened to choose it for this side.
    WithItself,
}

/// Something that makes a sleeping [`Net::poll`] return. Cheap, and safe from any thread.
pub trait Wake: Send + Sync {
    /// Makes the current or the next poll return. Several wake-ups may come out as one.
    fn wake(&self);
}

/// Sockets, readiness and the clock, as the loop sees them.
///
/// Readiness is edge-triggered: an event is owed only for what happened after an operation
/// said `WouldBlock`. A source is registered once, for both directions, and never again.
pub trait Net {
    /// A socket that accepts.
    type Listener;
    /// A socket that is connected, or about to be.
    type Stream: Stream;

    /// Whether a read of fewer bytes than asked for proves that the socket is empty.
    ///
    /// So it is with epoll and kqueue, as long as the peer's end has not been announced (that end
    /// would never be announced again). It saves one read call in two; mio does not promise it in general.
    /// A read also stops short at TCP's urgent mark (RFC 6093); where the poller tells of that ([`Event::urgent`]) it is taken into account,
    /// elsewhere a peer that sends urgent data may wait for its own next bytes.
    const SHORT_READ_IS_EMPTY: bool;

    /// Waits for events, at most for `timeout` (`None`: for ever), and puts them into `events`, which is empty.
    ///
    /// Returns the time at which it woke: clock and readiness come from one call. It may return early and with nothing.
    ///
    /// Fewer events than it may bring mean that there were no more. Sources are reported in the order in which they became
    /// ready: the loop relies on both before it closes a connection for having been silent.
    ///
    /// # Errors
    /// [`Interrupted`](io::ErrorKind::Interrupted), without any event, if a signal ended the wait: the loop polls again. Any other
    /// error means that the poller is broken.
    fn poll(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<Instant>;

    /// Takes the next connection that waits, with its peer's address; it is not registered yet.
    ///
    /// # Errors
    /// `WouldBlock` when none waits; else what the system says.
    fn accept(&mut self, listener: &mut Self::Listener) -> io::Result<(Self::Stream, Address)>;

    /// Begins a connection to `addr`. It is decided when a writable event comes; see [`Stream::established`].
    ///
    /// # Errors
    /// What the system says at once.
    fn connect(&mut self, addr: &Address) -> io::Result<Self::Stream>;

    /// Registers a stream for both directions under `token`.
    ///
    /// # Errors
    /// What the system says, out of memory or of watches for instance.
    fn register(&mut self, stream: &mut Self::Stream, token: usize) -> io::Result<()>;

    /// Ends a stream's registration. Events already taken may still name it.
    ///
    /// # Errors
    /// What the system says.
    fn deregister(&mut self, stream: &mut Self::Stream) -> io::Result<()>;

    /// Registers a listener under `token`.
    ///
    /// # Errors
    /// What the system says.
    fn listen(&mut self, listener: &mut Self::Listener, token: usize) -> io::Result<()>;

    /// Ends a listener's registration and closes it: newcomers are refused from here on.
    ///
    /// # Errors
    /// What the system says; the listener is closed all the same.
    fn unlisten(&mut self, listener: Self::Listener) -> io::Result<()>;

    /// The time, for what is asked of the loop between its turns. In a turn it is what [`poll`](Self::poll) says.
    fn now(&self) -> Instant;

    /// A waker for this poller. All of them are the same one.
    fn waker(&self) -> std::sync::Arc<dyn Wake>;

    /// How many descriptors the process may have, as far as the system tells.
    fn descriptor_limit(&self) -> Option<usize>;
}
