//! What user code asks of other connections or of the loop: a value, carried out after the batch.
//!
//! A callback never re-enters the loop. What it wants beyond its own connection is queued here
//! and carried out when no callback runs.

use std::collections::VecDeque;
use std::mem;
use std::time::Duration;

use bytes::BytesMut;

use crate::address::Address;
use crate::id::ConnectionId;
use crate::verdict::Stop;

/// One thing to be done to one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Queue the next so many bytes of [`Commands::encoded`] for it.
    Send(ConnectionId, usize),
    /// Close it after a flush.
    Close(ConnectionId),
    /// End its pause.
    Resume(ConnectionId),
}

/// The queue of commands, in the order in which they were given.
#[derive(Debug, Default)]
pub(crate) struct Commands {
    queue: VecDeque<Command>,
    /// What the queued sends are to send, one behind the other: no allocation for each.
    encoded: BytesMut,
    /// The message that is being encoded.
    message: BytesMut,
    /// How much of `encoded` was popped already.
    sent: usize,
    /// Connections to be made.
    dials: Vec<Dial>,
    stop: Option<Stop>,
}

/// A connection to be made.
#[derive(Debug)]
pub(crate) struct Dial {
    /// Where to, in the order in which to try.
    pub(crate) addrs: Vec<Address>,
    /// How long it may take, over all addresses.
    pub(crate) timeout: Duration,
    /// The handler's own word for it.
    pub(crate) key: u64,
}

impl Commands {
    pub(crate) fn push(&mut self, command: Command) {
        self.queue.push_back(command);
    }

    /// Queues what `encode` appends, to be sent to `to`.
    pub(crate) fn push_send<E>(&mut self, to: ConnectionId, encode: impl FnOnce(&mut BytesMut) -> Result<(), E>) -> Result<(), E> {
        // Not straight behind the others': a codec that takes bytes back must not reach theirs.
        self.message.clear();
        let bytes = append_whole(&mut self.message, encode)?;
        self.encoded.extend_from_slice(&self.message);
        self.push(Command::Send(to, bytes));
        Ok(())
    }

    pub(crate) fn stop(&mut self, how: Stop) {
        self.stop = Stop::firmer(self.stop, Some(how));
    }

    pub(crate) fn dial(&mut self, dial: Dial) {
        self.dials.push(dial);
    }

    pub(crate) fn take_dials(&mut self) -> Vec<Dial> {
        std::mem::take(&mut self.dials)
    }

    pub(crate) fn take_stop(&mut self) -> Option<Stop> {
        self.stop.take()
    }

    /// The next command, and what it is to send.
    pub(crate) fn pop(&mut self) -> Option<(Command, &[u8])> {
        let Some(command) = self.queue.pop_front() else {
            self.encoded.clear();
            self.sent = 0;
            return None;
        };
        let Command::Send(_, bytes) = command else { return Some((command, &[])) };
        self.sent += bytes;
        Some((command, &self.encoded[self.sent - bytes..self.sent]))
    }

    /// Whether what waits takes `high` bytes or more.
    pub(crate) fn is_full(&self, high: usize) -> bool {
        !self.queue.is_empty() && self.encoded.len() + self.queue.len() * size_of::<Command>() >= high
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.dials.is_empty() && self.stop.is_none()
    }
}

/// Appends what `encode` writes, or nothing: neither an error nor a panic leaves half a message behind.
///
/// # Panics
/// If `encode` takes away what was there before.
pub(crate) fn append_whole<E>(out: &mut BytesMut, encode: impl FnOnce(&mut BytesMut) -> Result<(), E>) -> Result<usize, E> {
    struct Undo<'a> {
        out: &'a mut BytesMut,
        len: usize,
    }
    impl Drop for Undo<'_> {
        fn drop(&mut self) {
            self.out.truncate(self.len);
        }
    }

    let before = out.len();
    let undo = Undo { out, len: before };
    encode(undo.out)?;
    let after = undo.out.len();
    assert!(after >= before, "the codec took {} bytes away that were not its own", before - after);
    mem::forget(undo); // nothing is to be taken back
    Ok(after - before)
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use bytes::BufMut;

    use super::*;

    #[test]
    fn half_a_message_is_never_left_behind() {
        let mut out = BytesMut::from(&b"before"[..]);
        let failed: Result<usize, &str> = append_whole(&mut out, |out| {
            out.put_slice(b"half");
            Err("no")
        });
        assert_eq!((failed, &out[..]), (Err("no"), &b"before"[..]));

        let panicked = catch_unwind(AssertUnwindSafe(|| {
            append_whole(&mut out, |out| -> Result<(), ()> {
                out.put_slice(b"half");
                panic!("in the codec");
            })
        }));
        assert!(panicked.is_err());
        assert_eq!(&out[..], b"before");

        let written: Result<usize, ()> = append_whole(&mut out, |out| {
            out.put_slice(b" after");
            Ok(())
        });
        assert_eq!((written, &out[..]), (Ok(6), &b"before after"[..]));
    }
}
