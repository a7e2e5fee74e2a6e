//! One connection: its state, its buffers and its codec, without socket or clock.
//!
//! ```text
//!            receive                                    unsent, sent
//!   bytes ───────────► decode ─► Handler::frame ─► encode ───────────► bytes
//!                        └────────── repeated: a batch ──┘
//! ```
//!
//! The reactor passes in the bytes that it has read, and takes the bytes that it has to write. A
//! test or a fuzzer can drive a connection in the same way, with bytes from anywhere. Only commands
//! that the handler queues for *other* connections, or for the loop, need a reactor to carry them
//! out.
//!
//! - `input.rs`: bytes that arrive, and the frames in them.
//! - `callbacks.rs`: the batch, and every call into user code.
//! - `write.rs`: output and back-pressure. **Start here for a peer that stops reading.**
//! - `deadlines.rs`: all deadlines of a connection.
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

/// One connection, as a machine that takes bytes and returns bytes.
///
/// It is generic over the codec and the handler's per-connection state only. Its methods are of
/// three kinds: what has happened (`established`, `receive`, `end_of_input`, `sent`), what to write
/// (`unsent`), and what it is ready for (`is_reading`, `has_backlog`).
#[derive(Debug)]
pub struct Connection<C, S> {
    id: ConnectionId,
    peer: PackedAddress,
    state: State,
    /// Bytes that were read and not handled yet: a partial frame, or more if the batch was cut.
    inbox: Inbox,
    /// The write buffer: encoded bytes that the socket has not taken yet.
    out: Queue,
    /// True if `out` has reached [`Config::write_high`](crate::Config::write_high) since the last
    /// call of [`Handler::drained`].
    drained_pending: bool,
    /// Back-pressure: true if replies to its own frames took `out` to the high mark. No frame is
    /// handled until `out` is down to [`Config::write_low`](crate::Config::write_low).
    write_blocked: bool,
    codec: C,
    user: S,
    /// Deadlines that the handler has set or requested.
    deadlines: Deadlines,
    /// When bytes last moved, in either direction. In a closing connection it is never earlier than
    /// the start of the closing state.
    last_activity: Timestamp,
    /// The last time at which the peer took bytes of `out`, or `out` was empty. In a closing
    /// connection it is never earlier than the start of the closing state.
    last_progress: Timestamp,
}

impl<C: Codec, S> Connection<C, S> {
    /// Makes a connection with the codec and state that `handler` returns for `origin`: open if it
    /// was accepted, else connecting.
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

    /// Makes an open connection with a dummy id and address, to be driven without a reactor.
    #[cfg(feature = "sim")]
    pub fn unconnected<H: Handler<Codec = C, State = S>>(handler: &mut H) -> Self {
        let peer = Address::Tcp((core::net::Ipv4Addr::LOCALHOST, 0).into());
        let id = ConnectionId::new(0, std::num::NonZeroU32::MIN);
        Self::new(id, &Origin::Accepted { peer, listener: 0 }, handler)
    }

    /// Returns the id.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// Returns the peer's address.
    #[cfg(feature = "sim")]
    pub fn peer_addr(&self) -> Address {
        self.peer.unpack()
    }

    /// Sets the peer's address: the one of several that has answered.
    pub(crate) fn set_peer_addr(&mut self, peer: &Address) {
        self.peer = peer.into();
    }

    /// Returns the state.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Returns the bytes of heap that its two buffers hold: none if no frame is partial and no byte
    /// unsent.
    pub fn heap(&self) -> usize {
        self.inbox.heap() + self.out.heap()
    }

    /// True if the socket should be read. This is so in two cases: the connection is flowing and
    /// its read deadline has not passed, or it is lingering. A lingering connection drops the bytes
    /// that it reads.
    #[inline]
    pub fn is_reading(&self) -> bool {
        match self.state {
            State::Open(Reading::Flowing) => !self.deadlines.has_passed(Direction::Read),
            State::Lingering(_) => true,
            _ => false,
        }
    }

    /// True if a batch was cut and complete frames may be left: call [`proceed`](Self::proceed)
    /// before reading more.
    #[inline]
    pub fn has_backlog(&self) -> bool {
        self.inbox.has_frame() && matches!(self.state, State::Open(_)) && self.is_reading()
    }

    /// True if no complete frame is left to handle, or if the read deadline has passed, so that no
    /// frame is handled now. If no complete frame is left, the bytes in the inbox are the start of
    /// a frame.
    pub fn is_caught_up(&self) -> bool {
        !self.inbox.has_frame() || self.deadlines.has_passed(Direction::Read)
    }

    /// True if it is open and flowing, with no partial frame, no unsent byte, no deadline of its
    /// own and no [`Handler::drained`] due. This is the common case, decided by a few loads.
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.needs_no_flush()
            && self.inbox.is_empty()
            && !self.drained_pending
            && self.deadlines.is_empty()
    }

    /// Moves to the next state, and drops what that state does not use.
    ///
    /// # Panics
    /// If the state's table has no such transition; see [`State::next`].
    pub(crate) fn apply(&mut self, cause: Trigger, shared: &mut Shared) {
        let from = self.state.name();
        // If `next` panics, the connection is left closed, not without a state.
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

    /// Drops what the state does not use: input unless open, output once closed.
    fn drop_unwanted(&mut self, shared: &mut Shared) {
        if !matches!(self.state, State::Open(_) | State::Connecting) {
            let dropped = mem::take(&mut self.inbox).held().len();
            self.count_discarded(dropped, shared);
        }
        if let (State::Closed(_), bytes @ 1..) = (&self.state, self.out.len()) {
            self.out.clear(); // keep the memory: it may be borrowed
            shared.observe.note(|| Step::Dropped { id: self.id, bytes });
        }
    }

    /// Closes the connection in any state, after a panic of the crate's own code, and drops what it
    /// holds.
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

    /// Ends a pause, if there is one. If its replies had reached the high mark before,
    /// back-pressure continues.
    pub fn resume(&mut self, shared: &mut Shared) {
        self.apply(Trigger::Resume, shared);
        if let (true, State::Open(Reading::Flowing)) = (self.write_blocked, &self.state) {
            self.apply(Trigger::WriteBlocked, shared);
        }
    }

    /// Marks the connection as established, and calls [`Handler::open`].
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

    /// Runs one callback of the handler on this connection, and applies its verdict. A panic in it
    /// closes the connection.
    pub fn call<H, F>(&mut self, handler: &mut H, shared: &mut Shared, callback: F)
    where
        H: Handler<Codec = C, State = S>,
        F: FnOnce(&mut H, &mut Context<'_, H>) -> Verdict,
    {
        self.run(shared, |cx| callback(handler, cx));
    }

    /// The same for a callback that has captured the handler.
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

    /// Calls [`Handler::close`] with the reason, then drops the connection.
    ///
    /// # Panics
    /// If it is not closed.
    pub fn finish_close<H: Handler<Codec = C, State = S>>(
        mut self,
        handler: &mut H,
        shared: &mut Shared,
    ) -> CloseReason {
        let id = self.id;
        let State::Closed(reason) =
            mem::replace(&mut self.state, State::Closed(StoredReason::ABORTED))
        else {
            panic!("finish_close for {id}, which is not closed");
        };
        let reason = reason.into_inner();
        // Printing the codec's error is user code too.
        catch_panic(|| {
            log::debug!(
                "connection {id} from {} closed: {reason}",
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
