//! One connection's machine: buffers and a state, no socket and no clock.
//!
//! ```text
//!            receive                                    unsent, sent
//!   bytes ───────────► decode ─► Handler::frame ─► encode ───────────► bytes
//!                        └────────── repeated: a batch ──┘
//! ```
//!
//! The reactor lends it the bytes that it has read, and takes the bytes that it has to write.
//! Whoever has bytes from elsewhere can drive it as well, a test or a fuzzer for instance. Only what
//! the handler asks of *other* connections or of the loop needs a reactor to carry it out.
//!
//! ```
//! use glassloop::internals::{Connection, Shared};
//! use glassloop::{Config, Context, Handler, Origin, Verdict, codec::Line};
//!
//! struct Shout;
//!
//! impl Handler for Shout {
//!     type Codec = Line;
//!     type State = ();
//!     type Mail = ();
//!
//!     fn connection(&mut self, _: &Origin) -> (Line, ()) {
//!         (Line::default(), ())
//!     }
//!
//!     fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Verdict {
//!         cx.send(&*line.to_ascii_uppercase());
//!         Verdict::Continue
//!     }
//! }
//!
//! let shared = &mut Shared::new(Config::default(), std::time::Instant::now());
//! let handler = &mut Shout;
//! let mut connection = Connection::unconnected(handler);
//! connection.receive(b"hel", handler, shared);
//! connection.receive(b"lo\nwor", handler, shared);
//! assert_eq!(connection.unsent(), b"HELLO\n");
//! ```

mod callbacks;
mod deadlines;
mod input;
mod write;

use std::mem;

use crate::buffer::{Inbox, Queue};
use crate::codec::Codec;
use crate::error::panics::catch_panic;
use crate::error::{CloseReason, StoredReason};
use crate::handler::{Context, Handler, Origin, SendState, Shared};
use crate::id::ConnectionId;
use crate::net::{Address, PackedAddress};
use crate::observe::Step;
use crate::state::{Direction, Reading, State, Trigger, Verdict};
use crate::time::{Deadlines, Timestamp};

/// One connection, as a machine that takes bytes and gives bytes.
///
/// Generic over the codec and the handler's per-connection state only. Its methods are of three kinds: what happened
/// (`established`, `receive`, `end_of_input`, `sent`), what it has to say (`unsent`), and what it waits for (`is_reading`, `has_backlog`).
#[derive(Debug)]
pub struct Connection<C, S> {
    id: ConnectionId,
    peer: PackedAddress,
    state: State,
    /// What was read and not handled yet: an unfinished frame, or more if the batch was cut.
    inbox: Inbox,
    /// Encoded, and not yet taken by the socket.
    out: Queue,
    /// Whether `out` was at the high mark since the handler was last told that it has drained.
    drained_pending: bool,
    /// Whether it was the frames' own replies that took `out` to the high mark; until the low mark no frame is handled.
    write_blocked: bool,
    codec: C,
    user: S,
    /// Those that the handler has set or asked for.
    deadlines: Deadlines,
    /// When bytes last moved, in whichever direction. For a closing connection: when the peer was last heard.
    last_activity: Timestamp,
    /// When the peer last took some of `out`, or it was empty. For a closing connection: or when the closing began.
    last_progress: Timestamp,
}

impl<C: Codec, S> Connection<C, S> {
    /// A connection with what `handler` wants for one that comes from `origin`: open if it was accepted, else connecting.
    ///
    /// # Panics
    /// If [`Handler::connection`] does.
    pub fn new<H: Handler<Codec = C, State = S>>(
        id: ConnectionId,
        origin: &Origin,
        handler: &mut H,
    ) -> Self {
        let (codec, user) = handler.connection(origin);
        let state = match origin {
            Origin::Accepted { .. } => State::Open(Reading::Flowing),
            Origin::Dialed { .. } => State::Connecting,
        };
        Self {
            id,
            peer: origin.peer().into(),
            state,
            inbox: Inbox::default(),
            out: Queue::default(),
            drained_pending: false,
            write_blocked: false,
            codec,
            user,
            deadlines: Deadlines::default(),
            last_activity: 0,
            last_progress: 0,
        }
    }

    /// An open connection with an id and an address of no meaning, to be driven by hand.
    #[cfg(feature = "sim")]
    pub fn unconnected<H: Handler<Codec = C, State = S>>(handler: &mut H) -> Self {
        let peer = Address::Tcp((core::net::Ipv4Addr::LOCALHOST, 0).into());
        let id = ConnectionId::new(0, std::num::NonZeroU32::MIN);
        Self::new(id, &Origin::Accepted { peer, listener: 0 }, handler)
    }

    /// Its name.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// The other side's address.
    #[cfg(feature = "sim")]
    pub fn peer_addr(&self) -> Address {
        self.peer.unpack()
    }

    /// Takes note that it is this one of several addresses that answers.
    pub(crate) fn set_peer_addr(&mut self, peer: &Address) {
        self.peer = peer.into();
    }

    /// Where it stands.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Bytes of heap that its two buffers hold: none while nothing is unfinished or unsent.
    pub fn heap(&self) -> usize {
        self.inbox.heap() + self.out.heap()
    }

    /// Whether bytes from the socket are wanted now.
    #[inline]
    pub fn is_reading(&self) -> bool {
        match self.state {
            State::Open(Reading::Flowing) => !self.deadlines.has_passed(Direction::Read),
            State::Lingering(_) => true,
            _ => false,
        }
    }

    /// Whether whole frames may be waiting inside, left from a batch that was cut: [`proceed`](Self::proceed) before reading more.
    #[inline]
    pub fn has_backlog(&self) -> bool {
        self.inbox.has_frame() && matches!(self.state, State::Open(_)) && self.is_reading()
    }

    /// Whether all whole frames that were received are handled, or will not be. What is held beyond them is the start of one.
    pub fn is_caught_up(&self) -> bool {
        !self.inbox.has_frame() || self.deadlines.has_passed(Direction::Read)
    }

    /// Whether it is open and read, with nothing begun, nothing queued, no deadline of its own and no [`Handler::drained`] owed: the common case, told by a few loads.
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.has_nothing_to_write()
            && self.inbox.is_empty()
            && !self.drained_pending
            && self.deadlines.is_empty()
    }

    /// Moves to the next state, and lets go of what that state has no use for.
    ///
    /// # Panics
    /// If the state's table has no such transition; see [`State::next`].
    pub(crate) fn apply(&mut self, cause: Trigger, shared: &mut Shared) {
        let from = self.state.name();
        // Whatever panics in between, a connection without a state must not go on.
        let state = mem::replace(&mut self.state, State::Closed(StoredReason::ABORTED));
        self.state = state.next(cause);
        shared.observe.note(|| Step::State {
            id: self.id,
            from,
            to: self.state.name(),
        });
        if from != self.state.name() {
            self.reset_timers(shared);
        }
        self.drop_unwanted(shared);
    }

    /// Drops what the state has no use for.
    fn drop_unwanted(&mut self, shared: &mut Shared) {
        if !matches!(self.state, State::Open(_) | State::Connecting) {
            let dropped = mem::take(&mut self.inbox).held().len();
            self.count_discarded(dropped, shared);
        }
        if let (State::Closed(_), bytes @ 1..) = (&self.state, self.out.len()) {
            self.out.clear(); // and not more: it may be the borrowed one
            shared.observe.note(|| Step::Dropped { id: self.id, bytes });
        }
    }

    /// Closes the connection whatever its state, after a panic of the crate's own code: what it
    /// holds is dropped.
    pub(crate) fn fail_internally(&mut self, shared: &mut Shared) {
        let from = self.state.name();
        self.state = State::Closed(CloseReason::Internal.into());
        shared.observe.note(|| Step::State {
            id: self.id,
            from,
            to: self.state.name(),
        });
        self.drop_unwanted(shared);
    }

    /// Ends a pause, if there is one. Replies that had reached the high mark before it still hold the frames back.
    pub fn resume(&mut self, shared: &mut Shared) {
        self.apply(Trigger::Resume, shared);
        if let (true, State::Open(Reading::Flowing)) = (self.write_blocked, &self.state) {
            self.apply(Trigger::WriteBlocked, shared);
        }
    }

    /// Tells the handler that the connection is open.
    pub fn established<H: Handler<Codec = C, State = S>>(
        &mut self,
        handler: &mut H,
        shared: &mut Shared,
    ) {
        (self.last_activity, self.last_progress) =
            (shared.clock.timestamp(), shared.clock.timestamp());
        if let State::Connecting = self.state {
            self.apply(Trigger::Established, shared);
        }
        self.call(handler, shared, H::open);
    }

    /// Runs one callback of the handler on this connection, and carries out its verdict. A panic in it closes the connection.
    pub fn call<H, F>(&mut self, handler: &mut H, shared: &mut Shared, callback: F)
    where
        H: Handler<Codec = C, State = S>,
        F: FnOnce(&mut H, &mut Context<'_, H>) -> Verdict,
    {
        self.run(shared, |cx| callback(handler, cx));
    }

    /// The same for a callback that has the handler already.
    pub(crate) fn run<H>(
        &mut self,
        shared: &mut Shared,
        callback: impl FnOnce(&mut Context<'_, H>) -> Verdict,
    ) where
        H: Handler<Codec = C, State = S>,
    {
        if let Some(cause) = self.run_callback(shared, callback) {
            self.apply(cause, shared);
        }
    }

    /// Tells the handler that the connection is over, and why; then drops what belonged to it.
    ///
    /// # Panics
    /// If it is not over.
    pub fn finish_close<H: Handler<Codec = C, State = S>>(
        mut self,
        handler: &mut H,
        shared: &mut Shared,
    ) -> CloseReason {
        let id = self.id;
        let State::Closed(reason) =
            mem::replace(&mut self.state, State::Closed(StoredReason::ABORTED))
        else {
            panic!("farewell to {id}, which is not closed");
        };
        let reason = reason.into_inner();
        // The codec's error prints itself: that is user code too.
        catch_panic(|| {
            log::debug!(
                "connection {id} from {} ended: {reason}",
                self.peer.unpack()
            );
        });
        let borrowed = self.borrow_write_buffer(shared);
        let _ = self.catching_panic(shared, |connection, shared| {
            let mut cx = Context {
                send_state: SendState::Closed,
                ..connection.context(shared)
            };
            handler.close(&mut cx, &reason);
            None
        });
        if borrowed {
            self.return_write_buffer(shared);
        }
        if catch_panic(|| drop(self)).is_none() {
            shared.observe.note(|| Step::Panicked { id: Some(id) });
        }
        shared.timers.cancel_all(id);
        reason
    }
}
