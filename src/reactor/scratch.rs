//! The read buffer that all connections share.

/// The smallest page in use anywhere, in bytes.
const PAGE: usize = 4096;

/// Bytes that begin where a page does.
///
/// An allocator puts a large block a few bytes behind the beginning of a page, and the kernel copies from the front of pages as a rule. Of all places
/// that is the worst one: a processor tells loads from stores by their place in the page first, and holds up a load that seems to follow a store ("4K aliasing").
/// Measured with payloads of 16 KiB on an AMD EPYC: processor time 1.15 there, beside a C loop's 1, and 1.04 at the beginning of a page.
#[derive(Debug)]
pub(super) struct Scratch {
    memory: Box<[u8]>,
    start: usize,
    len: usize,
}

impl Scratch {
    pub(super) fn new(len: usize) -> Self {
        let memory = vec![0; len + PAGE].into_boxed_slice();
        // It may not be told where the memory is (in a constant, for instance); then any place does.
        let start = memory.as_ptr().align_offset(PAGE).min(PAGE);
        Self { memory, start, len }
    }

    /// Bytes of heap that it holds.
    pub(super) fn heap(&self) -> usize {
        self.memory.len()
    }

    /// All of it.
    #[inline]
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..][..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_with_a_page_and_is_as_long_as_was_asked_for() {
        for len in [1, 4095, 262_144] {
            let mut scratch = Scratch::new(len);
            assert_eq!(
                (
                    scratch.bytes().as_ptr().align_offset(PAGE),
                    scratch.bytes().len()
                ),
                (0, len)
            );
        }
    }
}
