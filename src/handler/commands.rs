//! Commands: what user code asks of other connections or of the loop, as values.
//!
//! A callback never re-enters the loop. What it asks beyond its own connection is queued here. The
//! loop carries it out when no callback runs.

use std::collections::VecDeque;
use std::mem;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::id::ConnectionId;
use crate::net::Address;
use crate::state::Stop;

/// One operation on one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Queue a message for the connection. The message is in [`Commands::messages`].
    Send(ConnectionId),
    /// Close the connection when its queued replies are sent.
    Close(ConnectionId),
    /// End the pause of the connection.
    Resume(ConnectionId),
}

/// The queue of commands, in the order in which they were given.
#[derive(Debug, Default)]
pub(crate) struct Commands {
    queue: VecDeque<Command>,
    /// The messages of the queued sends, in order. Each message is held once for all its
    /// recipients.
    messages: VecDeque<Message>,
    /// Bytes of memory that `messages` hold.
    held: usize,
    /// Where the next message is encoded. Short messages share it, so they need no allocation each.
    chunk: BytesMut,
    /// Outgoing connections to begin.
    dials: VecDeque<Dial>,
    /// The stop of the loop that was requested, if any.
    stop: Option<Stop>,
}

/// An encoded message. Its memory is freed when the last recipient has it.
#[derive(Debug)]
struct Message {
    bytes: Bytes,
    /// The number of queued sends of this message.
    recipients: usize,
    /// Bytes of memory that belong to this message only.
    held: usize,
}

/// Size of the chunk into which short messages are encoded, one after the other. A longer message
/// has memory of its own.
const CHUNK: usize = 4096;

/// An outgoing connection to begin.
#[derive(Debug)]
pub(crate) struct Dial {
    /// The addresses to try, in this order.
    pub(crate) addrs: Vec<Address>,
    /// The time limit over all addresses.
    pub(crate) timeout: Duration,
    /// A number that the handler chose. It comes back in [`Origin::Dialed`](crate::Origin::Dialed).
    pub(crate) key: u64,
}

impl Commands {
    /// Queues one command.
    pub(crate) fn push(&mut self, command: Command) {
        self.queue.push_back(command);
    }

    /// Queues the message that `encode` appends, to be sent to each of `to`.
    pub(crate) fn push_send<E>(
        &mut self,
        to: impl IntoIterator<Item = ConnectionId>,
        encode: impl FnOnce(&mut BytesMut) -> Result<(), E>,
    ) -> Result<(), E> {
        // Taken out while `encode` runs, so that an error or a panic leaves none of its memory
        // behind. The chunk is empty, so a codec that removes bytes can only remove its own.
        let mut chunk = mem::take(&mut self.chunk);
        if chunk.capacity() == 0 {
            chunk.reserve(CHUNK);
        }
        let len = append_whole(&mut chunk, encode)?;
        let mut held = chunk.capacity();
        let bytes = chunk.split().freeze();
        if len <= CHUNK && chunk.capacity() <= 2 * CHUNK {
            (self.chunk, held) = (chunk, len);
        }
        let mut message = Some(Message {
            bytes,
            recipients: 0,
            held,
        });
        // Counted one by one, because the caller's iterator may be empty, or panic.
        for id in to {
            if let Some(message) = message.take() {
                self.held += held;
                self.messages.push_back(message);
            }
            self.queue.push_back(Command::Send(id));
            self.messages
                .back_mut()
                .expect("pushed with the first")
                .recipients += 1;
        }
        Ok(())
    }

    /// Requests a stop of the loop. [`Stop::firmer`] decides between several requests.
    pub(crate) fn stop(&mut self, how: Stop) {
        self.stop = Stop::firmer(self.stop, Some(how));
    }

    /// Queues an outgoing connection.
    pub(crate) fn dial(&mut self, dial: Dial) {
        self.dials.push_back(dial);
    }

    /// Returns the number of outgoing connections to begin.
    pub(crate) fn dials(&self) -> usize {
        self.dials.len()
    }

    /// Removes the next outgoing connection to begin.
    pub(crate) fn pop_dial(&mut self) -> Option<Dial> {
        self.dials.pop_front()
    }

    /// Removes the stop that was requested.
    pub(crate) fn take_stop(&mut self) -> Option<Stop> {
        self.stop.take()
    }

    /// Removes the next command. The bytes are its message, if it is a send.
    pub(crate) fn pop(&mut self) -> Option<(Command, Bytes)> {
        let command = self.queue.pop_front()?;
        let bytes = if let Command::Send(_) = command {
            self.next_message()
        } else {
            Bytes::new()
        };
        Some((command, bytes))
    }

    /// Returns the message of the send that was popped just now.
    fn next_message(&mut self) -> Bytes {
        let message = self.messages.front_mut().expect("a message for each send");
        message.recipients -= 1;
        if message.recipients > 0 {
            return message.bytes.clone();
        }
        self.held -= message.held;
        self.messages.pop_front().expect("just seen").bytes
    }

    /// Returns true if the queued commands and messages take `high` bytes or more.
    pub(crate) fn is_full(&self, high: usize) -> bool {
        !self.queue.is_empty() && self.held + self.queue.len() * size_of::<Command>() >= high
    }

    /// Shrinks the lists of commands to at most `retained` bytes of unused memory each. Messages
    /// are freed one by one.
    pub(crate) fn shrink(&mut self, retained: usize) {
        self.queue.shrink_to(retained / size_of::<Command>());
        self.messages.shrink_to(retained / size_of::<Message>());
    }

    /// Shrinks the list of outgoing connections in the same way.
    pub(crate) fn shrink_dials(&mut self, retained: usize) {
        self.dials.shrink_to(retained / size_of::<Dial>());
    }

    /// Returns the bytes of heap memory held.
    pub(crate) fn heap(&self) -> usize {
        let chunk = if self.chunk.capacity() > 0 {
            2 * CHUNK
        } else {
            0
        };
        let dials = self
            .dials
            .iter()
            .map(|dial| dial.addrs.capacity() * size_of::<Address>())
            .sum::<usize>();
        self.queue.capacity() * size_of::<Command>()
            + self.messages.capacity() * size_of::<Message>()
            + self.dials.capacity() * size_of::<Dial>()
            + dials
            + self.held
            + chunk
    }

    /// Returns true if there is nothing to carry out.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.dials.is_empty() && self.stop.is_none()
    }
}

/// Appends what `encode` writes, or nothing. After an error or a panic no part of the message is
/// left. Returns the number of bytes appended.
///
/// # Panics
///
/// If `encode` removes bytes that were in `out` before.
pub(crate) fn append_whole<E>(
    out: &mut BytesMut,
    encode: impl FnOnce(&mut BytesMut) -> Result<(), E>,
) -> Result<usize, E> {
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
    assert!(
        after >= before,
        "the codec removed {} bytes that were not its own",
        before - after
    );
    mem::forget(undo); // keep what was appended
    Ok(after - before)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use bytes::BufMut;

    use super::*;

    fn id(slot: u32) -> ConnectionId {
        ConnectionId::new(slot, NonZeroU32::MIN)
    }

    fn send(commands: &mut Commands, to: impl IntoIterator<Item = ConnectionId>, message: &[u8]) {
        let encoded: Result<(), ()> = commands.push_send(to, |out| {
            out.put_slice(message);
            Ok(())
        });
        encoded.expect("this encoder never fails");
    }

    #[test]
    fn messages_reach_recipients_in_order_and_are_then_freed() {
        let (mut commands, long) = (Commands::default(), vec![b'x'; 3 * CHUNK]);
        send(&mut commands, [id(1), id(2)], b"short");
        send(&mut commands, [], b"no recipient");
        send(&mut commands, [id(1), id(3)], &long);
        commands.push(Command::Close(id(1)));
        send(&mut commands, [id(2)], b"last");
        let wanted = [(1, &b"short"[..]), (2, b"short"), (1, &long), (3, &long)];
        for (to, message) in wanted {
            assert!(commands.held >= long.len());
            assert_eq!(
                commands.pop(),
                Some((Command::Send(id(to)), Bytes::copy_from_slice(message)))
            );
        }
        assert_eq!(commands.held, b"last".len(), "the long message is freed");
        assert_eq!(commands.pop(), Some((Command::Close(id(1)), Bytes::new())));
        assert_eq!(
            commands.pop(),
            Some((Command::Send(id(2)), Bytes::from_static(b"last")))
        );
        assert!(commands.pop().is_none() && commands.is_empty() && commands.held == 0);
    }

    #[test]
    fn errors_panics_and_bursts_leave_no_memory() {
        let mut commands = Commands::default();
        let failed: Result<(), &str> = commands.push_send([id(1)], |out| {
            out.put_bytes(b'x', 1 << 20);
            Err("no")
        });
        assert_eq!((failed, commands.heap()), (Err("no"), 0));
        let recipients = [id(1), id(2)]
            .into_iter()
            .chain(std::iter::from_fn(|| panic!("in the caller's iterator")));
        assert!(
            catch_unwind(AssertUnwindSafe(|| send(
                &mut commands,
                recipients,
                b"to two"
            )))
            .is_err()
        );
        assert_eq!(std::iter::from_fn(|| commands.pop()).count(), 2);
        for n in 0..10_000 {
            send(&mut commands, [id(n)], &[b'x'; 100]);
        }
        assert!(commands.heap() > 1_000_000);
        while commands.pop().is_some() {}
        commands.shrink(1000);
        assert!(
            commands.heap() <= 2 * 1000 + 2 * CHUNK,
            "{} bytes",
            commands.heap()
        );
    }

    #[test]
    fn failed_encode_leaves_no_partial_message() {
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
