//! A callback's view of one connection.

use std::error::Error;
use std::time::{Duration, Instant};
use std::{fmt, mem};

use bytes::{Bytes, BytesMut};

use super::{Handler, MessageOf, Shared};
use crate::codec::Codec;
use crate::error::CloseReason;
use crate::handler::{Command, Dial, append_whole};
use crate::id::ConnectionId;
use crate::net::{Address, PackedAddress};
use crate::observe::Step;
use crate::state::{Direction, Stop, Trigger, Verdict};
use crate::time::{Deadlines, TimerId};

/// A callback's view of its connection, and its way to all others.
///
/// It borrows the write buffer and the state, while the frame borrows the read buffer: so a reply
/// can be encoded straight from the frame, and nothing is copied or counted in between.
pub struct Context<'c, H: Handler> {
    pub(crate) id: ConnectionId,
    pub(crate) peer: &'c PackedAddress,
    pub(crate) codec: &'c mut H::Codec,
    pub(crate) state: &'c mut H::State,
    pub(crate) out: &'c mut BytesMut,
    pub(crate) shared: &'c mut Shared,
    pub(crate) send_state: SendState,
    /// Bytes queued from which on there is something to look at: [`Config::write_high`](crate::Config::write_high), or the cap if that is less.
    pub(crate) check_from: usize,
    pub(crate) deadlines: &'c mut Deadlines,
}

/// Whether messages for this connection are still taken; and, while a batch runs, whether it has anything to look at between two frames.
#[derive(Debug)]
pub(crate) enum SendState {
    /// They are.
    Open,
    /// They are, and the batch looks: at the handler's own deadlines, at what it asks of others, and at its queue.
    Watched,
    /// A message could not be; the connection ends for this reason.
    Refused(CloseReason),
    /// The write deadline is over.
    Expired,
    /// The connection is over.
    Closed,
}

/// Why a message was not queued.
#[derive(Debug)]
#[non_exhaustive]
pub enum SendError<E> {
    /// The connection is ending or over.
    Closed,
    /// The write deadline has passed, and was not set anew.
    DeadlinePassed,
    /// There is no room: the queue would have grown beyond [`Config::write_cap`](crate::Config::write_cap).
    OutboxFull {
        /// Bytes that would have been queued with this message.
        queued: usize,
        /// The cap.
        cap: usize,
    },
    /// The codec refused to encode it.
    Unencodable(E),
}

impl<E: fmt::Display> fmt::Display for SendError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SendError::Closed => write!(f, "the connection is over"),
            SendError::DeadlinePassed => write!(f, "the write deadline has passed"),
            SendError::OutboxFull { queued, cap } => write!(
                f,
                "write buffer full: {queued} bytes to queue, {cap} allowed"
            ),
            SendError::Unencodable(error) => write!(f, "the message cannot be encoded: {error}"),
        }
    }
}

impl<E: Error + 'static> Error for SendError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            SendError::Unencodable(error) => Some(error),
            _ => None,
        }
    }
}

impl<H: Handler> Context<'_, H> {
    /// Whether a batch may go on without a look at anything: the common case, told by one load.
    #[inline]
    pub(crate) fn needs_no_checks(&self) -> bool {
        matches!(self.send_state, SendState::Open)
    }

    /// Whether the loop has something to do before the next frame: to tell the handler that its deadline has passed, or to carry out what it asked of others.
    #[inline(never)]
    pub(crate) fn should_yield(&self) -> bool {
        self.deadlines.is_over(Direction::Read, &self.shared.clock)
            || self
                .shared
                .commands
                .is_full(self.shared.config.command_high)
    }

    /// From here on the batch looks about between two frames. Whoever changes what it looks at calls this; dials and stops are not among that.
    fn watch(&mut self) {
        if let SendState::Open = self.send_state {
            self.send_state = SendState::Watched;
        }
    }

    /// What a callback's verdict, and what it sent, mean for the connection.
    pub(crate) fn trigger_for(&mut self, verdict: Verdict) -> Option<Trigger> {
        if verdict != Verdict::Continue {
            self.shared.observe.note(|| Step::Verdict {
                id: self.id,
                verdict,
            });
        }
        if verdict == Verdict::Stop {
            self.shared.commands.stop(Stop::Gracefully);
        }
        match (verdict, mem::replace(&mut self.send_state, SendState::Open)) {
            (Verdict::Abort, _) => Some(Trigger::Fail(CloseReason::Aborted)),
            (_, SendState::Refused(reason @ CloseReason::WriteDeadline { .. })) => {
                Some(Trigger::Fail(reason))
            }
            (_, SendState::Refused(reason)) => Some(Trigger::Close(reason)),
            (Verdict::Pause, _) => Some(Trigger::Pause),
            (Verdict::Close, _) => Some(Trigger::Close(CloseReason::Handler)),
            (Verdict::Continue | Verdict::Stop, send_state) => {
                self.send_state = send_state;
                None
            }
        }
    }

    /// A message could not be queued: that ends the connection, for the first such reason.
    #[cold]
    fn refuse(&mut self, error: SendError<<H::Codec as Codec>::Error>) {
        let reason = match error {
            SendError::Closed => return,
            SendError::DeadlinePassed => CloseReason::WriteDeadline {
                unsent: self.out.len(),
            },
            SendError::OutboxFull { queued, cap } => CloseReason::OutboxFull { queued, cap },
            SendError::Unencodable(error) => CloseReason::Unencodable(H::Codec::boxed(error)),
        };
        match self.send_state {
            SendState::Open | SendState::Watched | SendState::Expired => {
                self.send_state = SendState::Refused(reason);
            }
            SendState::Refused(_) => {}
            SendState::Closed => log::error!(
                "connection {} had a message at its end that is lost: {reason}",
                self.id
            ),
        }
    }

    /// The connection's name.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// The other side's address, as it was when the connection was made.
    pub fn peer_addr(&self) -> Address {
        self.peer.unpack()
    }

    /// The time: when this turn of the loop began. All callbacks of a turn see the same.
    pub fn now(&self) -> Instant {
        self.shared.now()
    }

    /// What the handler remembers for this connection.
    pub fn state(&mut self) -> &mut H::State {
        self.state
    }

    /// Whether the queue is below [`Config::write_high`](crate::Config::write_high): a handler that sends of its own accord stops here, and goes on in [`Handler::drained`].
    pub fn has_room(&self) -> bool {
        self.out.len() < self.shared.config.write_high
    }

    /// Bytes queued for this connection and not yet taken by its socket.
    pub fn pending(&self) -> usize {
        self.out.len()
    }

    /// Encodes `message` into this connection's write buffer; it leaves when the batch is done.
    ///
    /// It never blocks, and never drops a message in silence: one that cannot be queued ends the connection as soon as the
    /// callback returns, with [`CloseReason::OutboxFull`], [`CloseReason::Unencodable`] or [`CloseReason::WriteDeadline`]. Messages
    /// sent before it still go out, but for the last case; those after it do not, nor does anything sent in [`Handler::close`]. Who wants to decide himself uses [`try_send`](Self::try_send).
    // Inlined always, and the failures are not: so the codec's part folds into the handler's.
    #[inline(always)]
    pub fn send<'m>(&mut self, message: impl Into<MessageOf<'m, H>>) {
        if let Err(error) = self.try_send(message) {
            self.refuse(error);
        }
    }

    /// The same as [`send`](Self::send), but what cannot be queued has no consequence: it is for the handler to say what follows.
    ///
    /// # Errors
    /// [`SendError`]. Nothing was queued then.
    #[inline(always)]
    pub fn try_send<'m>(
        &mut self,
        message: impl Into<MessageOf<'m, H>>,
    ) -> Result<(), SendError<<H::Codec as Codec>::Error>> {
        if !self.needs_no_checks() {
            self.check_open()?;
        }
        let (codec, before) = (&mut *self.codec, self.out.len());
        let bytes = append_whole(self.out, |out| codec.encode(message.into(), out))
            .map_err(SendError::Unencodable)?;
        if before + bytes >= self.check_from {
            self.check_room(before)?;
        }
        let id = &self.id;
        self.shared
            .observe
            .note(move || Step::Queued { id: *id, bytes });
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn check_open(&self) -> Result<(), SendError<<H::Codec as Codec>::Error>> {
        match self.send_state {
            SendState::Open | SendState::Watched => Ok(()),
            SendState::Expired => Err(SendError::DeadlinePassed),
            SendState::Refused(_) | SendState::Closed => Err(SendError::Closed),
        }
    }

    /// The last message has made the queue long: takes it back if that is longer than it may be.
    #[cold]
    #[inline(never)]
    fn check_room(&mut self, before: usize) -> Result<(), SendError<<H::Codec as Codec>::Error>> {
        let (queued, cap) = (self.out.len(), self.shared.config.write_cap);
        if queued > cap {
            self.out.truncate(before);
            return Err(SendError::OutboxFull { queued, cap });
        }
        self.watch();
        Ok(())
    }

    /// Sends `message` to another connection, or to this one: encoded now, by this connection's codec, and delivered after the batch.
    ///
    /// If `to` is gone or closing by then, nothing happens, and it is counted as stale. If its queue has no room
    /// for it ([`Config::write_cap`](crate::Config::write_cap)) it closes with [`CloseReason::OutboxFull`], and with [`CloseReason::WriteDeadline`] if that of `to` has passed. A message that the codec refuses ends
    /// *this* connection with [`CloseReason::Unencodable`].
    pub fn send_to<'m>(&mut self, to: ConnectionId, message: impl Into<MessageOf<'m, H>>) {
        self.send_to_many([to], message);
    }

    /// Sends one message to many connections: it is encoded once, and held once until the last of
    /// them has it.
    ///
    /// For each of `to` the same holds as for [`send_to`](Self::send_to). Until it is delivered it
    /// counts once towards [`Config::command_high`](crate::Config::command_high); then each
    /// connection queues a copy of its own. **Trap:** all of them must speak what this connection's
    /// codec writes.
    pub fn send_to_many<'m>(
        &mut self,
        to: impl IntoIterator<Item = ConnectionId>,
        message: impl Into<MessageOf<'m, H>>,
    ) {
        self.watch();
        let codec = &mut *self.codec;
        if let Err(error) = self
            .shared
            .commands
            .push_send(to, |out| codec.encode(message.into(), out))
        {
            self.refuse(SendError::Unencodable(error));
        }
    }

    /// Encodes `message` for other connections; one that the codec refuses ends this connection.
    pub(crate) fn encode<'m>(&mut self, message: impl Into<MessageOf<'m, H>>) -> Option<Bytes> {
        let (codec, mut out) = (&mut *self.codec, BytesMut::new());
        match append_whole(&mut out, |out| codec.encode(message.into(), out)) {
            Ok(_) => Some(out.freeze()),
            Err(error) => {
                self.refuse(SendError::Unencodable(error));
                None
            }
        }
    }

    /// The same as [`send`](Self::send), for one or more whole messages that are encoded already.
    pub(crate) fn send_encoded(&mut self, bytes: &[u8]) {
        let before = self.out.len();
        let sent = self.check_open().and_then(|()| {
            self.out.extend_from_slice(bytes);
            if before + bytes.len() >= self.check_from {
                self.check_room(before)
            } else {
                Ok(())
            }
        });
        match sent {
            Ok(()) => self.shared.observe.note(|| Step::Queued {
                id: self.id,
                bytes: bytes.len(),
            }),
            Err(error) => self.refuse(error),
        }
    }

    /// Closes another connection after the batch, as [`Verdict::Close`] does this one. One that is not established yet is given up.
    pub fn close(&mut self, id: ConnectionId) {
        self.watch();
        self.shared.commands.push(Command::Close(id));
    }

    /// Ends the pause that [`Verdict::Pause`] began, after the batch. Without one, nothing happens.
    pub fn resume(&mut self, id: ConnectionId) {
        self.watch();
        self.shared.commands.push(Command::Resume(id));
    }

    /// Begins a connection to the first of `addrs` that answers, after the batch; see [`Reactor::connect`](crate::Reactor::connect). `key` comes back in [`Origin::Dialed`](crate::Origin::Dialed).
    ///
    /// The handler is told how it went: by [`Handler::open`], or by [`Handler::close`], which comes too if it could not even be begun.
    ///
    /// **Trap:** dialing again from `close` at once turns the loop without a pause if the failure needs no waiting, for want of room or of a route say. Wait, with [`set_loop_timer`](Self::set_loop_timer).
    pub fn connect(&mut self, addrs: Vec<Address>, timeout: Duration, key: u64) {
        self.shared.commands.dial(Dial {
            addrs,
            timeout,
            key,
        });
    }

    /// Lets [`Handler::timer`] be called for this connection at `at`: never before, and at most a tick (1 ms) and a turn later, unless more than
    /// [`Config::calls_per_turn`](crate::Config::calls_per_turn) times come due together: then the rest follow, turn by turn.
    ///
    /// What is over already comes with the next tick. A timer ends with its connection. **Trap:** [`now`](Self::now) is when the turn
    /// began; a time counted from there is nearer than one counted from the system's clock.
    pub fn set_timer(&mut self, at: Instant) -> TimerId {
        self.shared
            .timers
            .set(at, Some(self.id), &self.shared.clock)
    }

    /// Lets [`Handler::loop_timer`] be called at `at`: the same, but it does not end with this connection.
    pub fn set_loop_timer(&mut self, at: Instant) -> TimerId {
        self.shared.timers.set(at, None, &self.shared.clock)
    }

    /// Stops the loop, as a [`Handle`](crate::Handle) does from elsewhere.
    pub fn stop(&mut self, how: Stop) {
        self.shared.commands.stop(how);
    }

    /// Takes a timer back, of this connection or any other; whether it was still to come.
    pub fn cancel_timer(&mut self, timer: TimerId) -> bool {
        self.shared.timers.cancel(timer)
    }

    /// Sets both deadlines; see [`set_read_deadline`](Self::set_read_deadline) and [`set_write_deadline`](Self::set_write_deadline).
    pub fn set_deadline(&mut self, at: Option<Instant>) {
        self.set_read_deadline(at);
        self.set_write_deadline(at);
    }

    /// Sets the time after which nothing more is read from this peer; `None` clears it.
    ///
    /// As in Go it is absolute: what arrives does not move it. When it passes, [`Handler::deadline`] is called, whether or not bytes are waiting; one
    /// that is over already passes at once, before any further frame. It stays passed until it is set anew, and clearing it does not touch the other.
    pub fn set_read_deadline(&mut self, at: Option<Instant>) {
        self.deadlines.set(Direction::Read, at, &self.shared.clock);
        self.watch();
    }

    /// Sets the time after which nothing more is written to this peer; `None` clears it.
    ///
    /// When it passes, [`Handler::deadline`] is called, whether or not anything is queued. What is queued stays so, and goes out if the deadline is set anew, or if the connection closes for another reason.
    /// While it is over, [`try_send`](Self::try_send) refuses with [`SendError::DeadlinePassed`], and [`send`](Self::send) ends the connection.
    pub fn set_write_deadline(&mut self, at: Option<Instant>) {
        self.deadlines.set(Direction::Write, at, &self.shared.clock);
        if let SendState::Open | SendState::Watched | SendState::Expired = self.send_state {
            let is_over = self.deadlines.is_over(Direction::Write, &self.shared.clock);
            self.send_state = if is_over {
                SendState::Expired
            } else {
                SendState::Watched
            };
        }
    }

    /// Gives the peer [`Config::handshake_timeout`](crate::Config::handshake_timeout) from now on for its next whole frame. Meant for [`Handler::open`].
    pub fn expect_handshake(&mut self) {
        self.deadlines.expect_handshake(&self.shared.clock);
        self.watch();
    }
}

impl SendState {
    /// Whether an open connection with these deadlines takes messages, and is to be watched.
    #[inline]
    pub(crate) fn of(deadlines: &Deadlines, shared: &Shared) -> Self {
        if deadlines.is_over(Direction::Write, &shared.clock) {
            SendState::Expired
        } else if deadlines.is_empty() && !shared.commands.is_full(shared.config.command_high) {
            SendState::Open
        } else {
            SendState::Watched
        }
    }
}

impl<H: Handler> fmt::Debug for Context<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("id", &self.id)
            .field("peer", &self.peer_addr())
            .field("pending", &self.out.len())
            .finish_non_exhaustive()
    }
}
