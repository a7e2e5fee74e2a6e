//! Sending from a callback: to its own connection, and to other connections.

use std::error::Error;
use std::fmt;

use bytes::{Bytes, BytesMut};

use super::{Context, Handler, MessageOf, Shared, append_whole};
use crate::codec::Codec;
use crate::error::CloseReason;
use crate::id::ConnectionId;
use crate::observe::Step;
use crate::state::Direction;
use crate::time::Deadlines;

/// Why a message was not queued.
///
/// Returned by [`Context::try_send`].
#[derive(Debug)]
#[non_exhaustive]
pub enum SendError<E> {
    /// The connection is closing or closed.
    Closed,
    /// The write deadline has expired, and was not set again.
    DeadlinePassed,
    /// The write queue has no room: it would grow beyond
    /// [`Config::write_cap`](crate::Config::write_cap).
    OutboxFull {
        /// Bytes that would be queued with this message.
        queued: usize,
        /// The cap, in bytes.
        cap: usize,
    },
    /// The codec could not encode the message.
    Unencodable(E),
}

impl<E: fmt::Display> fmt::Display for SendError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SendError::Closed => write!(f, "the connection is closed"),
            SendError::DeadlinePassed => write!(f, "write deadline passed"),
            SendError::OutboxFull { queued, cap } => write!(
                f,
                "write buffer full: {queued} bytes to queue, {cap} allowed"
            ),
            SendError::Unencodable(error) => write!(f, "message cannot be encoded: {error}"),
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
    /// Encodes `message` into this connection's write buffer. The bytes are sent when the batch is
    /// done.
    ///
    /// It never blocks, and never drops a message silently. A message that cannot be queued closes
    /// the connection as soon as the callback returns. The reason is [`CloseReason::OutboxFull`],
    /// [`CloseReason::Unencodable`] or [`CloseReason::WriteDeadline`]. Messages sent before it
    /// still go out, except after `WriteDeadline`. Messages sent after it are dropped, and so is
    /// anything sent in [`Handler::close`].
    ///
    /// To handle a failure yourself, use [`try_send`](Self::try_send).
    // Always inlined, and the failures are not, so that the codec's part is optimized with the
    // handler.
    #[inline(always)]
    pub fn send<'m>(&mut self, message: impl Into<MessageOf<'m, H>>) {
        if let Err(error) = self.try_send(message) {
            self.refuse(error);
        }
    }

    /// Encodes `message` as [`send`](Self::send) does, and returns an error instead of closing the
    /// connection.
    ///
    /// # Errors
    ///
    /// [`SendError`]; then nothing was queued, and the connection stays as it is.
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

    /// Checks that messages for this connection are accepted.
    #[cold]
    #[inline(never)]
    fn check_open(&self) -> Result<(), SendError<<H::Codec as Codec>::Error>> {
        match self.send_state {
            SendState::Unchecked | SendState::Checked => Ok(()),
            SendState::Expired => Err(SendError::DeadlinePassed),
            SendState::Refused(_) | SendState::Closed => Err(SendError::Closed),
        }
    }

    /// From [`Config::write_high`](crate::Config::write_high) on, makes the batch check for
    /// back-pressure. Beyond the cap, removes the last message again.
    ///
    /// Called when the last message has made the queue long.
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

    /// Sends `message` to another connection, or to this one. It is encoded now, by this
    /// connection's codec, and delivered after the batch.
    ///
    /// - If `to` is gone or closing by then, the message is dropped and counted as stale.
    /// - If the queue of `to` has no room ([`Config::write_cap`](crate::Config::write_cap)), `to`
    ///   closes with [`CloseReason::OutboxFull`].
    /// - If the write deadline of `to` has expired, `to` closes with
    ///   [`CloseReason::WriteDeadline`].
    /// - If the codec cannot encode the message, *this* connection closes with
    ///   [`CloseReason::Unencodable`].
    ///
    /// **Trap:** `to` must speak the protocol that this connection's codec writes.
    pub fn send_to<'m>(&mut self, to: ConnectionId, message: impl Into<MessageOf<'m, H>>) {
        self.send_to_many([to], message);
    }

    /// Sends one message to many connections. It is encoded once, and held once until the last of
    /// them has it.
    ///
    /// Each connection in `to` is treated as by [`send_to`](Self::send_to). Until it is delivered,
    /// the message counts once towards [`Config::command_high`](crate::Config::command_high). Then
    /// each connection queues a copy of its own.
    ///
    /// **Trap:** all of them must speak the protocol that this connection's codec writes.
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

    /// Encodes `message` for other connections. A message that cannot be encoded closes this
    /// connection.
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

    /// Queues one or more whole messages that are encoded already. Failures are handled as by
    /// [`send`](Self::send).
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

    /// Closes the connection because a message could not be queued. The first such reason counts.
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
            SendState::Unchecked | SendState::Checked | SendState::Expired => {
                self.send_state = SendState::Refused(reason);
            }
            SendState::Refused(_) => {}
            SendState::Closed => log::error!(
                "connection {}: message sent in `close` dropped: {reason}",
                self.id
            ),
        }
    }
}

/// Whether messages for this connection are accepted, and whether the batch checks anything between
/// two frames.
#[derive(Debug)]
pub(crate) enum SendState {
    /// Messages are accepted, and the batch checks nothing.
    Unchecked,
    /// Messages are accepted. Between frames the batch checks the handler's own deadlines, the
    /// queued commands and the write queue.
    Checked,
    /// A message could not be queued. The connection closes for this reason.
    Refused(CloseReason),
    /// The write deadline has expired.
    Expired,
    /// The connection is closed.
    Closed,
}

impl SendState {
    /// Returns the state for an open connection with these deadlines.
    #[inline]
    pub(crate) fn of(deadlines: &Deadlines, shared: &Shared) -> Self {
        if deadlines.is_over(Direction::Write, &shared.clock) {
            SendState::Expired
        } else if deadlines.is_empty() && !shared.commands.is_full(shared.config.command_high) {
            SendState::Unchecked
        } else {
            SendState::Checked
        }
    }
}
