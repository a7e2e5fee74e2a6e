//! The write buffer of a connection: bytes that were encoded and not sent yet.

use std::mem;

use bytes::{Buf, BytesMut};

/// Encoded bytes that the socket has not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Queue(Option<Box<Unsent>>);

#[derive(Debug, Default)]
struct Unsent {
    bytes: BytesMut,
    /// Bytes of memory before the unsent ones: sent already, and not freed.
    consumed: usize,
}

impl Queue {
    /// Makes an empty queue with memory, for connections to borrow.
    pub(crate) fn spare() -> Self {
        Self(Some(Box::default()))
    }

    /// Makes a queue of just these bytes, in memory of exactly their size.
    fn holding(bytes: &[u8]) -> Self {
        Self(Some(Box::new(Unsent {
            bytes: BytesMut::from(bytes),
            consumed: 0,
        })))
    }

    /// Returns the number of unsent bytes.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.bytes().len()
    }

    /// True if no bytes are unsent.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the unsent bytes.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |unsent| &unsent.bytes)
    }

    /// Returns the buffer itself, to append to.
    #[inline]
    pub(crate) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.0.get_or_insert_default().bytes
    }

    /// Removes the first `n` bytes.
    ///
    /// # Panics
    /// If there are fewer.
    #[inline]
    pub(crate) fn advance(&mut self, n: usize) {
        let Some(unsent) = &mut self.0 else {
            return assert_eq!(n, 0, "{n} bytes sent of an empty queue");
        };
        if n == unsent.bytes.len() {
            unsent.bytes.clear();
        } else {
            unsent.bytes.advance(n);
            unsent.consumed += n;
        }
    }

    /// Drops the unsent bytes, and keeps the memory.
    #[inline]
    pub(crate) fn clear(&mut self) {
        if let Some(unsent) = &mut self.0 {
            unsent.bytes.clear();
        }
    }

    /// Returns borrowed memory to `spare`. Bytes that are still unsent move into memory of their
    /// own, of exactly their size.
    ///
    /// Memory of more than `retained` bytes is not returned. It stays with the unsent bytes if they
    /// fill half of it, and is freed otherwise.
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
            // Partial writes have left unused memory in front. Reclaim it.
            let _ = unsent.bytes.try_reclaim(unsent.bytes.capacity() + 1);
        }
        unsent.consumed = 0;
    }

    /// True if it holds memory. Outside of a batch, it does only while bytes are unsent.
    #[inline]
    pub(crate) fn has_memory(&self) -> bool {
        self.0.is_some()
    }

    /// Returns the bytes of heap that it holds.
    pub(crate) fn heap(&self) -> usize {
        self.0.as_ref().map_or(0, |unsent| {
            size_of::<Unsent>() + unsent.bytes.capacity() + unsent.consumed
        })
    }

    /// Frees memory that is mostly unused: all of it, that of sent bytes, or what a larger queue
    /// has left.
    pub(crate) fn shrink(&mut self) {
        /// Less free memory than this is not worth moving the unsent bytes.
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

    /// Returns a borrowed queue with `len` bytes, of which `sent` were sent, after it was returned;
    /// and the spare one.
    fn returned(len: usize, sent: usize) -> (Queue, Queue) {
        let (mut queue, mut spare) = (Queue::spare(), Queue::default());
        queue.buffer().extend_from_slice(&vec![b'x'; len]);
        queue.advance(sent);
        queue.return_to(&mut spare, 1000);
        (queue, spare)
    }

    #[test]
    fn small_memory_is_returned_and_unsent_bytes_are_copied() {
        let (queue, spare) = returned(800, 800);
        assert!(!queue.has_memory() && spare.is_empty() && spare.heap() >= 800);
        let (queue, spare) = returned(800, 700);
        assert_eq!(
            (queue.len(), queue.heap()),
            (100, size_of::<Unsent>() + 100)
        );
        assert!(
            spare.is_empty() && spare.heap() >= 800,
            "the memory of sent bytes is reclaimed"
        );
    }

    #[test]
    fn large_memory_stays_with_unsent_bytes_that_fill_half() {
        let (queue, spare) = returned(10_000, 3_000);
        assert!(
            queue.len() == 7_000 && queue.heap() >= 10_000,
            "nothing was copied"
        );
        assert_eq!(spare.heap(), size_of::<Unsent>());
    }

    #[test]
    fn large_memory_is_freed_if_few_bytes_are_unsent() {
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
