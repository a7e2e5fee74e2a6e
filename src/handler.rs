//! What a user of the loop writes: a [`Handler`], and what it is handed: a [`Context`].

use core::net::SocketAddr;
use std::time::Instant;
use std::{fmt, mem};

use bytes::BytesMut;

use crate::codec::Codec;
use crate::command::{Command, Commands, append_whole};
use crate::config::Config;
use crate::id::ConnectionId;
use crate::observe::{Observe, Step};
use crate::reason::CloseReason;
use crate::state::Cause;
use crate::verdict::{Stop, Verdict};

/// The frames that handler `H` is given.
pub type FrameOf<'a, H> = <<H as Handler>::Codec as Codec>::Frame<'a>;
/// The messages that handler `H` sends.
pub type MessageOf<'a, H> = <<H as Handler>::Codec as Codec>::Message<'a>;

/// The user's code: one object that serves all connections of a loop.
///
/// It is called by one thread, with `&mut self`, and never from within itself, so it needs no
/// lock and no `RefCell`; what belongs to one connection lives in `State`. For each connection
/// the calls are, in this order: [`connection`](Self::connection), [`open`](Self::open), any number of [`frame`](Self::frame), at
/// most one [`eof`](Self::eof), and exactly one [`close`](Self::close), which also comes if `open` never did, because
/// an outgoing connection failed.
///
/// A loop that is dropped closes its sockets and calls nobody: stop it first.
///
/// **Trap:** the loop stands still while a callback runs. One that takes 100 ms delays every connection by 100 ms.
///
/// **Trap:** a panic in a callback closes the connection that it was called for, and the loop goes on with the *same* handler: keep
/// `self` consistent where code can panic. Built with `panic = "abort"`, the process ends instead.
pub trait Handler: Sized {
    /// How bytes become frames, and messages bytes.
    type Codec: Codec;
    /// What is remembered for each connection.
    type State;

    /// Makes the codec and the state of a new connection.
    fn connection(&mut self, origin: &Origin) -> (Self::Codec, Self::State);

    /// The connection is established: the place for a greeting.
    fn open(&mut self, _cx: &mut Context<'_, Self>) -> Verdict {
        Verdict::Continue
    }

    /// A frame came in. It is borrowed from the read buffer, and gone after the call.
    fn frame(&mut self, frame: FrameOf<'_, Self>, cx: &mut Context<'_, Self>) -> Verdict;

    /// The peer has closed its sending side, after its last whole frame; it may still read.
    ///
    /// By default the connection closes once all replies are sent. [`Verdict::Continue`] keeps it open for more; then it
    /// is the handler's to close it ([`Context::close`] from another connection, or [`Reactor::with`](crate::Reactor::with)).
    fn eof(&mut self, _cx: &mut Context<'_, Self>) -> Verdict {
        Verdict::Close
    }

    /// The connection is over, and its socket about to be closed. What is sent to it from here is dropped.
    fn close(&mut self, _cx: &mut Context<'_, Self>, _reason: &CloseReason) {}
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// It came in.
    Accepted {
        /// The other side.
        peer: SocketAddr,
        /// The number of the listener, counted from 0 in the order in which they were added.
        listener: usize,
    },
    /// We went out.
    Dialed {
        /// The other side.
        peer: SocketAddr,
    },
}

impl Origin {
    /// The other side's address.
    pub fn peer(&self) -> SocketAddr {
        match *self {
            Origin::Accepted { peer, .. } | Origin::Dialed { peer } => peer,
        }
    }
}

/// What every callback may touch besides its own connection.
#[derive(Debug)]
pub struct Shared {
    /// The limits.
    pub config: Config,
    /// What is asked of others.
    pub commands: Commands,
    /// Who watches.
    pub observe: Observe,
    /// The time, as of this turn.
    pub now: Instant,
}

impl Shared {
    /// Without an observer, and with nothing asked for yet. The time is whatever the caller says it is.
    pub fn new(config: Config, now: Instant) -> Self {
        Self { config, commands: Commands::default(), observe: Observe::default(), now }
    }
}

/// A callback's view of its connection, and its way to all others.
///
/// It borrows the write buffer and the state, while the frame borrows the read buffer: so a reply
/// can be encoded straight from the frame, and nothing is copied or counted in between.
pub struct Context<'c, H: Handler> {
    pub(crate) id: ConnectionId,
    pub(crate) peer: SocketAddr,
    pub(crate) codec: &'c mut H::Codec,
    pub(crate) state: &'c mut H::State,
    pub(crate) out: &'c mut BytesMut,
    pub(crate) shared: &'c mut Shared,
    pub(crate) sends: Sends,
}

/// Whether messages for this connection are still taken.
pub(crate) enum Sends {
    /// They are.
    Open,
    /// A message could not be; the connection ends for this reason.
    Refused(CloseReason),
    /// The connection is over.
    Closed,
}

impl<H: Handler> Context<'_, H> {
    /// What a callback's verdict, and what it sent, mean for the connection.
    #[inline]
    pub(crate) fn conclude(&mut self, verdict: Verdict) -> Option<Cause> {
        match (verdict, &self.sends) {
            (Verdict::Continue, Sends::Open) => None,
            _ => self.conclude_otherwise(verdict),
        }
    }

    #[cold]
    fn conclude_otherwise(&mut self, verdict: Verdict) -> Option<Cause> {
        if verdict != Verdict::Continue {
            self.shared.observe.note(|| Step::Verdict { id: self.id, verdict });
        }
        if verdict == Verdict::Stop {
            self.shared.commands.stop(Stop::Gracefully);
        }
        match (verdict, mem::replace(&mut self.sends, Sends::Open)) {
            (Verdict::Abort, _) => Some(Cause::Fail(CloseReason::Aborted)),
            (_, Sends::Refused(reason)) => Some(Cause::Close(reason)),
            (Verdict::Pause, _) => Some(Cause::Pause),
            (Verdict::Close, _) => Some(Cause::Close(CloseReason::Handler)),
            (Verdict::Continue | Verdict::Stop, _) => None,
        }
    }

    /// The last message made the queue longer than it may be.
    #[cold]
    fn refuse_overflow(&mut self, before: usize) {
        let queued = self.out.len();
        self.out.truncate(before);
        self.refuse(CloseReason::OutboxFull { queued, cap: self.shared.config.write_cap });
    }

    #[cold]
    fn refuse_unencodable(&mut self, error: <H::Codec as Codec>::Error) {
        self.refuse(CloseReason::Unencodable(Box::new(error)));
    }

    /// Remembers the first message that could not be sent: it ends the connection.
    fn refuse(&mut self, reason: CloseReason) {
        match self.sends {
            Sends::Open => self.sends = Sends::Refused(reason),
            Sends::Refused(_) => {}
            Sends::Closed => log::error!("connection {} had a message at its end that is lost: {reason}", self.id),
        }
    }

    /// The connection's name.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// The other side's address, as it was when the connection was made.
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    /// The time: when this turn of the loop began. All callbacks of a turn see the same.
    pub fn now(&self) -> Instant {
        self.shared.now
    }

    /// What the handler remembers for this connection.
    pub fn state(&mut self) -> &mut H::State {
        self.state
    }

    /// Bytes queued for this connection and not yet taken by its socket.
    pub fn pending(&self) -> usize {
        self.out.len()
    }

    /// Encodes `message` into this connection's write buffer; it leaves when the batch is done.
    ///
    /// It never blocks, and never drops a message in silence: one that does not fit under
    /// [`Config::write_cap`], or that the codec refuses, ends the connection with
    /// [`CloseReason::OutboxFull`] or [`CloseReason::Unencodable`] as soon as the callback returns. Messages
    /// sent before it still go out; those after it do not, nor does anything sent in [`Handler::close`].
    // Inlined always, and the failures are not: so the codec's part folds into the handler's.
    #[inline(always)]
    pub fn send<'m>(&mut self, message: impl Into<MessageOf<'m, H>>) {
        let Sends::Open = self.sends else { return };
        let (codec, before) = (&mut *self.codec, self.out.len());
        match append_whole(self.out, |out| codec.encode(message.into(), out)) {
            Ok(bytes) if self.out.len() <= self.shared.config.write_cap => {
                let id = self.id;
                self.shared.observe.note(move || Step::Queued { id, bytes });
            }
            Ok(_) => self.refuse_overflow(before),
            Err(error) => self.refuse_unencodable(error),
        }
    }

    /// Sends `message` to another connection, or to this one: encoded now, by this connection's codec, and delivered after the batch.
    ///
    /// If `to` is gone or closing by then, nothing happens, and it is counted as stale. If its queue has no room
    /// for it ([`Config::write_cap`]) it closes with [`CloseReason::OutboxFull`]. A message that the codec refuses ends
    /// *this* connection with [`CloseReason::Unencodable`].
    pub fn send_to<'m>(&mut self, to: ConnectionId, message: impl Into<MessageOf<'m, H>>) {
        let codec = &mut *self.codec;
        if let Err(error) = self.shared.commands.push_send(to, |out| codec.encode(message.into(), out)) {
            self.refuse_unencodable(error);
        }
    }

    /// Closes another connection after the batch, as [`Verdict::Close`] does this one.
    pub fn close(&mut self, id: ConnectionId) {
        self.shared.commands.push(Command::Close(id));
    }

    /// Ends the pause that [`Verdict::Pause`] began, after the batch. Without one, nothing happens.
    pub fn resume(&mut self, id: ConnectionId) {
        self.shared.commands.push(Command::Resume(id));
    }
}

impl<H: Handler> fmt::Debug for Context<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("id", &self.id).field("peer", &self.peer).field("pending", &self.out.len()).finish_non_exhaustive()
    }
}
