//! What user code asks of other connections or of the loop: a value, carried out after the batch.
//!
//! A callback never re-enters the loop. What it wants beyond its own connection is queued here
//! and carried out when no callback runs.

use std::collections::VecDeque;
use std::mem;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::id::ConnectionId;
use crate::net::Address;
use crate::state::Stop;

/// One thing to be done to one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Queue a message for it.
    Send(ConnectionId),
    /// Close it after a flush.
    Close(ConnectionId),
    /// End its pause.
    Resume(ConnectionId),
}

/// The queue of commands, in the order in which they were given.
#[derive(Debug, Default)]
pub(crate) struct Commands {
    queue: VecDeque<Command>,
    /// What the queued sends are to send, in their order: each message once, for all its
    /// recipients.
    messages: VecDeque<Message>,
    /// Bytes of memory that `messages` hold.
    held: usize,
    /// Where the next message is encoded. Short ones share it: no allocation for each.
    chunk: BytesMut,
    /// Connections to be made.
    dials: VecDeque<Dial>,
    stop: Option<Stop>,
}

/// An encoded message. Its memory is freed as soon as the last recipient has it.
#[derive(Debug)]
struct Message {
    bytes: Bytes,
    /// Queued sends that are to send it.
    recipients: usize,
    /// Bytes of memory that are its own.
    held: usize,
}

/// Bytes that short messages are encoded into, one behind the other. A longer one has memory of its
/// own.
const CHUNK: usize = 4096;

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

    /// Queues what `encode` appends, to be sent to each of `to`.
    pub(crate) fn push_send<E>(
        &mut self,
        to: impl IntoIterator<Item = ConnectionId>,
        encode: impl FnOnce(&mut BytesMut) -> Result<(), E>,
    ) -> Result<(), E> {
        // Taken out meanwhile, so that an error or a panic leaves none of its memory behind. It is
        // empty: a codec that takes bytes back reaches its own only.
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
        // Counted one by one: the caller's iterator may be empty, or panic.
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

    pub(crate) fn stop(&mut self, how: Stop) {
        self.stop = Stop::firmer(self.stop, Some(how));
    }

    pub(crate) fn dial(&mut self, dial: Dial) {
        self.dials.push_back(dial);
    }

    /// How many connections are to be made.
    pub(crate) fn dials(&self) -> usize {
        self.dials.len()
    }

    /// The next connection to be made.
    pub(crate) fn pop_dial(&mut self) -> Option<Dial> {
        self.dials.pop_front()
    }

    pub(crate) fn take_stop(&mut self) -> Option<Stop> {
        self.stop.take()
    }

    /// The next command, and what it is to send.
    pub(crate) fn pop(&mut self) -> Option<(Command, Bytes)> {
        let command = self.queue.pop_front()?;
        let bytes = if let Command::Send(_) = command {
            self.next_message()
        } else {
            Bytes::new()
        };
        Some((command, bytes))
    }

    /// What the send that was popped just now is to send.
    fn next_message(&mut self) -> Bytes {
        let message = self.messages.front_mut().expect("a message for each send");
        message.recipients -= 1;
        if message.recipients > 0 {
            return message.bytes.clone();
        }
        self.held -= message.held;
        self.messages.pop_front().expect("just seen").bytes
    }

    /// Whether what waits takes `high` bytes or more.
    pub(crate) fn is_full(&self, high: usize) -> bool {
        !self.queue.is_empty() && self.held + self.queue.len() * size_of::<Command>() >= high
    }

    /// Gives back what the lists hold beyond `retained` bytes each, as far as they are empty.
    /// Messages are freed one by one.
    pub(crate) fn shrink(&mut self, retained: usize) {
        self.queue.shrink_to(retained / size_of::<Command>());
        self.messages.shrink_to(retained / size_of::<Message>());
        self.dials.shrink_to(retained / size_of::<Dial>());
    }

    /// Bytes of heap that it holds.
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

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.dials.is_empty() && self.stop.is_none()
    }
}

/// Appends what `encode` writes, or nothing: neither an error nor a panic leaves half a message behind.
///
/// # Panics
/// If `encode` takes away what was there before.
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
        "the codec took {} bytes away that were not its own",
        before - after
    );
    mem::forget(undo); // nothing is to be taken back
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
        encoded.expect("this encoder refuses nothing");
    }

    #[test]
    fn each_message_goes_to_its_recipients_in_order_and_is_freed_after_the_last() {
        let (mut commands, long) = (Commands::default(), vec![b'x'; 3 * CHUNK]);
        send(&mut commands, [id(1), id(2)], b"short");
        send(&mut commands, [], b"for no connection");
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
        assert_eq!(
            commands.held,
            b"last".len(),
            "the long one is not held any more"
        );
        assert_eq!(commands.pop(), Some((Command::Close(id(1)), Bytes::new())));
        assert_eq!(
            commands.pop(),
            Some((Command::Send(id(2)), Bytes::from_static(b"last")))
        );
        assert!(commands.pop().is_none() && commands.is_empty() && commands.held == 0);
    }

    #[test]
    fn an_error_a_panic_and_a_burst_leave_no_memory_behind() {
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
