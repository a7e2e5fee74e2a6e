//! What user code asks of other connections or of the loop: a value, carried out after the batch.
//!
//! A callback never re-enters the loop. What it wants beyond its own connection is queued here
//! and carried out when no callback runs; what comes from other threads waits in the mailbox
//! behind a [`Handle`].

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::BytesMut;

use crate::id::ConnectionId;
use crate::net::Wake;
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
pub struct Commands {
    queue: VecDeque<Command>,
    /// What the queued sends are to send, one behind the other: no allocation for each.
    encoded: BytesMut,
    /// The message that is being encoded.
    message: BytesMut,
    /// How much of `encoded` was popped already.
    sent: usize,
    stop: Option<Stop>,
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
        self.stop = self.stop.max(Some(how));
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
        self.queue.is_empty() && self.stop.is_none()
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
    let mut undo = Undo { out, len: before };
    encode(undo.out)?;
    let after = undo.out.len();
    assert!(after >= before, "the codec took {} bytes away that were not its own", before - after);
    undo.len = after;
    Ok(after - before)
}

/// A hand on the loop for other threads: it can be told to stop.
///
/// Clones reach the same loop. A handle outlives its loop; then it reaches nothing.
#[derive(Clone)]
pub struct Handle {
    mailbox: Arc<Mailbox>,
}

/// What other threads have left for the loop.
struct Mailbox {
    /// 0 for nothing, else a [`Stop`] plus one; it only grows.
    stop: AtomicU8,
    waker: Arc<dyn Wake>,
}

impl Handle {
    pub(crate) fn new(waker: Arc<dyn Wake>) -> Self {
        Self { mailbox: Arc::new(Mailbox { stop: AtomicU8::new(0), waker }) }
    }

    /// Asks the loop to stop. Asking again changes nothing, but [`Stop::AtOnce`] overtakes [`Stop::Gracefully`].
    pub fn stop(&self, how: Stop) {
        // First the letter, then the bell: the loop looks after it wakes.
        self.mailbox.stop.fetch_max(how as u8 + 1, Ordering::AcqRel);
        self.mailbox.waker.wake();
    }

    /// What was asked for so far.
    pub(crate) fn asked(&self) -> Option<Stop> {
        match self.mailbox.stop.load(Ordering::Acquire) {
            0 => None,
            1 => Some(Stop::Gracefully),
            _ => Some(Stop::AtOnce),
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("asked", &self.asked()).finish()
    }
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
