//! Bytes that wait for a socket: a buffer that takes one word while it holds none.

use bytes::{Buf, BytesMut};

/// What was encoded and not taken by the socket yet.
#[derive(Debug, Default)]
pub(crate) struct Queue(Option<Box<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    bytes: BytesMut,
    /// Bytes of memory before those that wait: sent already, and not given back.
    spent: usize,
}

impl Queue {
    /// A queue of just these bytes, in memory of just that size.
    pub(crate) fn holding(bytes: &[u8]) -> Self {
        Self(Some(Box::new(Waiting { bytes: BytesMut::from(bytes), spent: 0 })))
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
        self.0.as_ref().map_or(&[], |waiting| &waiting.bytes)
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
        let Some(waiting) = &mut self.0 else { return assert_eq!(n, 0, "{n} bytes sent of none") };
        if n == waiting.bytes.len() {
            waiting.bytes.clear();
        } else {
            waiting.bytes.advance(n);
            waiting.spent += n;
        }
    }

    /// Drops what waits, and keeps the memory.
    #[inline]
    pub(crate) fn clear(&mut self) {
        if let Some(waiting) = &mut self.0 {
            waiting.bytes.clear();
            waiting.spent = 0;
        }
    }

    /// Whether it holds memory. One that nobody is writing to does only while bytes wait.
    #[inline]
    pub(crate) fn has_memory(&self) -> bool {
        self.0.is_some()
    }

    /// Bytes of heap that it holds.
    pub(crate) fn heap(&self) -> usize {
        self.0.as_ref().map_or(0, |waiting| size_of::<Waiting>() + waiting.bytes.capacity() + waiting.spent)
    }

    /// Lets go of memory that is mostly empty: of all, of what was sent already, or of what a larger queue has left behind.
    pub(crate) fn slim(&mut self) {
        /// Less free room than this is not worth moving what waits.
        const WORTH_KEEPING: usize = 4096;

        let Some(waiting) = &mut self.0 else { return };
        let (len, capacity) = (waiting.bytes.len(), waiting.bytes.capacity());
        if len == 0 {
            self.0 = None;
        } else if waiting.spent > len || capacity > 4 * len + WORTH_KEEPING {
            **waiting = Waiting { bytes: BytesMut::from(&waiting.bytes[..]), spent: 0 };
        }
    }
}
