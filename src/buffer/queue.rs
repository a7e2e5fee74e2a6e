//! Bytes that wait for a socket: a buffer that takes one word while it holds none.

use std::mem;

use bytes::{Buf, BytesMut};

/// What was encoded and not taken by the socket yet.
#[derive(Debug, Default)]
pub(crate) struct Queue(Option<Box<Unsent>>);

#[derive(Debug, Default)]
struct Unsent {
    bytes: BytesMut,
    /// Bytes of memory before those that wait: sent already, and not given back.
    consumed: usize,
}

impl Queue {
    /// A queue to be lent: it is empty, and ready to be written to.
    pub(crate) fn spare() -> Self {
        Self(Some(Box::default()))
    }

    /// A queue of just these bytes, in memory of just that size.
    fn holding(bytes: &[u8]) -> Self {
        Self(Some(Box::new(Unsent {
            bytes: BytesMut::from(bytes),
            consumed: 0,
        })))
    }

    /// How many bytes wait.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.bytes().len()
    }

    /// Whether none does.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes that wait.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |unsent| &unsent.bytes)
    }

    /// The buffer itself, to write behind what waits.
    #[inline]
    pub(crate) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.0.get_or_insert_default().bytes
    }

    /// Takes off the first `n` bytes.
    ///
    /// # Panics
    /// If there are fewer.
    #[inline]
    pub(crate) fn advance(&mut self, n: usize) {
        let Some(unsent) = &mut self.0 else {
            return assert_eq!(n, 0, "{n} bytes sent of none");
        };
        if n == unsent.bytes.len() {
            unsent.bytes.clear();
        } else {
            unsent.bytes.advance(n);
            unsent.consumed += n;
        }
    }

    /// Drops what waits, and keeps the memory.
    #[inline]
    pub(crate) fn clear(&mut self) {
        if let Some(unsent) = &mut self.0 {
            unsent.bytes.clear();
        }
    }

    /// Ends a loan: the memory goes back to `spare`, which lent it. What still waits moves into
    /// memory of its own, of just its size.
    ///
    /// Memory of more than `retained` bytes does not go back. It stays with what waits if that
    /// fills half of it, and is freed otherwise.
    #[inline]
    pub(crate) fn return_to(&mut self, spare: &mut Queue, retained: usize) {
        let is_small = |unsent: &Unsent| {
            unsent.bytes.is_empty() && unsent.consumed == 0 && unsent.bytes.capacity() <= retained
        };
        if self.0.as_deref().is_some_and(is_small) {
            mem::swap(self, spare);
        } else {
            self.return_unsent_to(spare, retained);
        }
    }

    #[inline(never)]
    fn return_unsent_to(&mut self, spare: &mut Queue, retained: usize) {
        *spare = mem::take(self);
        let Some(unsent) = &mut spare.0 else {
            return *spare = Self::spare();
        };
        let (len, held) = (
            unsent.bytes.len(),
            unsent.bytes.capacity() + unsent.consumed,
        );
        if held > retained && held <= 2 * len {
            *self = mem::replace(spare, Self::spare());
            return;
        }
        if len > 0 {
            *self = Self::holding(&unsent.bytes);
        }
        unsent.bytes.clear();
        if held > retained {
            unsent.bytes = BytesMut::new();
        } else if unsent.consumed > 0 {
            // What was sent in parts has left the memory before it behind.
            let _ = unsent.bytes.try_reclaim(unsent.bytes.capacity() + 1);
        }
        unsent.consumed = 0;
    }

    /// Whether it holds memory. One that nobody is writing to does only while bytes wait.
    #[inline]
    pub(crate) fn has_memory(&self) -> bool {
        self.0.is_some()
    }

    /// Bytes of heap that it holds.
    pub(crate) fn heap(&self) -> usize {
        self.0.as_ref().map_or(0, |unsent| {
            size_of::<Unsent>() + unsent.bytes.capacity() + unsent.consumed
        })
    }

    /// Lets go of memory that is mostly empty: of all, of what was sent already, or of what a larger queue has left behind.
    pub(crate) fn shrink(&mut self) {
        /// Less free room than this is not worth moving what waits.
        const MIN_RECLAIM: usize = 4096;

        let Some(unsent) = &mut self.0 else { return };
        let (len, capacity) = (unsent.bytes.len(), unsent.bytes.capacity());
        if len == 0 {
            self.0 = None;
        } else if unsent.consumed > len || capacity > 4 * len + MIN_RECLAIM {
            **unsent = Unsent {
                bytes: BytesMut::from(&unsent.bytes[..]),
                consumed: 0,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lent queue with `len` bytes, of which `sent` have left, after its loan has ended; and the
    /// spare one.
    fn returned(len: usize, sent: usize) -> (Queue, Queue) {
        let (mut queue, mut spare) = (Queue::spare(), Queue::default());
        queue.buffer().extend_from_slice(&vec![b'x'; len]);
        queue.advance(sent);
        queue.return_to(&mut spare, 1000);
        (queue, spare)
    }

    #[test]
    fn small_memory_goes_back_whole_and_what_waits_gets_its_own() {
        let (queue, spare) = returned(800, 800);
        assert!(!queue.has_memory() && spare.is_empty() && spare.heap() >= 800);
        let (queue, spare) = returned(800, 700);
        assert_eq!(
            (queue.len(), queue.heap()),
            (100, size_of::<Unsent>() + 100)
        );
        assert!(
            spare.is_empty() && spare.heap() >= 800,
            "the memory before what waits counts again"
        );
    }

    #[test]
    fn large_memory_stays_with_what_fills_half_of_it() {
        let (queue, spare) = returned(10_000, 3_000);
        assert!(
            queue.len() == 7_000 && queue.heap() >= 10_000,
            "nothing was copied"
        );
        assert_eq!(spare.heap(), size_of::<Unsent>());
    }

    #[test]
    fn large_memory_is_freed_if_little_waits_in_it() {
        for sent in [10_000, 8_000] {
            let (queue, spare) = returned(10_000, sent);
            assert_eq!(
                (queue.len(), queue.has_memory()),
                (10_000 - sent, sent < 10_000)
            );
            assert!(
                queue.heap() <= size_of::<Unsent>() + 2_000 && spare.heap() == size_of::<Unsent>()
            );
        }
    }
}
