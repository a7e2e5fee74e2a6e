//! The interface to the operating system: sockets, readiness and the clock.
//!
//! The reactor is generic over [`Net`], so that it runs unchanged on a simulated network. Users do
//! not see the parameter: it defaults to [`MioNet`].

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

/// One event of the poller: what a source may be ready for.
///
/// Readiness is a hint. Only the result of the system call is certain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The token under which the source was registered; see [`Token`](crate::id::Token).
    pub token: usize,
    /// A read may find something: bytes, the end of the stream, an error, or a connection to
    /// accept.
    pub readable: bool,
    /// A write may find room, or an outgoing connection may be established or have failed.
    pub writable: bool,
    /// The peer has closed its sending side. Bytes before that end may still be unread. `true` is
    /// always correct; `false` proves nothing, because the poller does not always report this.
    pub read_closed: bool,
    /// Nothing that is written can reach the peer any more. `true` is always correct; `false`
    /// proves nothing, because the poller does not always report this.
    pub write_closed: bool,
    /// Urgent data has arrived. A read stops short at its mark, so a short read no longer proves
    /// that the socket is empty. Reported on Linux only.
    pub urgent: bool,
    /// The connection is broken, for instance by a reset. `true` is always correct; `false` proves
    /// nothing, because the poller does not always report this.
    pub broken: bool,
}

/// What the loop needs from a connected socket besides reading and writing.
///
/// `read` and `write` must not block. They return [`WouldBlock`](io::ErrorKind::WouldBlock)
/// instead.
pub trait Stream: Read + Write {
    /// Returns whether an outgoing connection is established.
    ///
    /// # Errors
    ///
    /// Why the connection failed.
    fn established(&mut self) -> io::Result<Established>;

    /// Shuts the sending side. The peer reads all that was written, then the end of the stream.
    ///
    /// # Errors
    ///
    /// The system's error; `NotConnected` if the peer is gone.
    fn shut_write(&mut self) -> io::Result<()>;
}

/// The progress of an outgoing connection that has not failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Established {
    /// Not established yet. An event follows.
    NotYet,
    /// Established.
    Yes,
    /// Established with itself. The port had no listener, and the system happened to choose it as
    /// the local port.
    WithItself,
}

/// Makes a blocking [`Net::poll`] return. Cheap, and safe from any thread.
pub trait Wake: Send + Sync {
    /// Makes the current or the next poll return. Several wake-ups may be merged into one.
    fn wake(&self);
}

/// Sockets, readiness and the clock, as the loop uses them.
///
/// Readiness is edge-triggered: an event is only certain to follow after an operation has returned
/// `WouldBlock`. A source is registered once, for both directions, and never again.
pub trait Net {
    /// A listening socket.
    type Listener;
    /// A socket that is connected or connecting.
    type Stream: Stream;

    /// True if a read of fewer bytes than requested proves that the socket is empty.
    ///
    /// This is true with epoll and kqueue, except after the end of the peer's stream was announced:
    /// no later event announces that end again. Because of this rule, a request needs one read
    /// instead of two. mio does not guarantee the rule in general.
    ///
    /// A read also stops short at TCP's urgent mark (RFC 6093). If the poller reports it
    /// ([`Event::urgent`]), the loop takes it into account. On other systems, bytes after the mark
    /// may stay unread until the peer sends more.
    const SHORT_READ_IS_EMPTY: bool;

    /// Waits for events, at most for `timeout` (`None`: without limit), and puts them into
    /// `events`, which is empty.
    ///
    /// Returns the time at which it woke up, so that clock and readiness come from one call. It may
    /// return early, and without events.
    ///
    /// Two guarantees are required, because the loop relies on both before it closes a connection
    /// as idle. Fewer events than the maximum mean that there were no more. Sources are reported in
    /// the order in which they became ready.
    ///
    /// # Errors
    ///
    /// [`Interrupted`](io::ErrorKind::Interrupted), without any event, if a signal ended the wait.
    /// The loop polls again. Any other error means that the poller is broken.
    fn poll(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<Instant>;

    /// Accepts the next connection of the backlog. Returns it with its peer's address. It is not
    /// registered yet.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if the backlog is empty; otherwise the system's error.
    fn accept(&mut self, listener: &mut Self::Listener) -> io::Result<(Self::Stream, Address)>;

    /// Begins a connection to `addr`. A writable event follows when it is established or has
    /// failed; see [`Stream::established`].
    ///
    /// # Errors
    ///
    /// The system's error, if the attempt fails at once.
    fn connect(&mut self, addr: &Address) -> io::Result<Self::Stream>;

    /// Registers a stream for both directions under `token`.
    ///
    /// # Errors
    ///
    /// The system's error, for instance if memory or watches are exhausted.
    fn register(&mut self, stream: &mut Self::Stream, token: usize) -> io::Result<()>;

    /// Ends the registration of a stream. Events that were returned already may still name it.
    ///
    /// # Errors
    ///
    /// The system's error.
    fn deregister(&mut self, stream: &mut Self::Stream) -> io::Result<()>;

    /// Registers a listener under `token`.
    ///
    /// # Errors
    ///
    /// The system's error.
    fn listen(&mut self, listener: &mut Self::Listener, token: usize) -> io::Result<()>;

    /// Ends the registration of a listener and closes it. New connections are refused from then on.
    ///
    /// # Errors
    ///
    /// The system's error. The listener is closed even then.
    fn unlisten(&mut self, listener: Self::Listener) -> io::Result<()>;

    /// Returns the time, for work between turns. During a turn the time is what
    /// [`poll`](Self::poll) returned.
    fn now(&self) -> Instant;

    /// Returns a waker for this poller. All calls return the same waker.
    fn waker(&self) -> std::sync::Arc<dyn Wake>;

    /// Returns the largest number of descriptors that the process may have, if the system reports
    /// it.
    fn descriptor_limit(&self) -> Option<usize>;
}
