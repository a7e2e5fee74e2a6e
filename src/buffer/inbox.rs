//! The read buffer of a connection: bytes that were read and not handled yet.

use std::mem;

use crate::codec::Need;
use crate::time::Timestamp;

/// Below this many missing bytes, copying from the scratch buffer is cheaper than a vectored read.
const MIN_DIRECT_READ: usize = 4096;
/// Memory of up to this many bytes is kept for the next inbox. A stream needs an inbox for each
/// read that ends inside a frame.
const MAX_SPARE: usize = 2048;

/// The received bytes of a connection that no frame could be decoded from so far.
///
/// It holds memory only while it holds bytes. It grows with the bytes that have arrived, not with
/// the length that a peer announces: never to more than double that, or by 4 KiB. No byte is zeroed
/// twice, and only growing moves bytes: a segment that arrives does not copy those before it.
#[derive(Debug, Default)]
pub(crate) struct Inbox(Option<Box<PendingFrame>>);

#[derive(Debug)]
struct PendingFrame {
    /// The bytes from `start` to `end` were received and not handled. Those after `end` are zeroed
    /// once, as space for more.
    ///
    /// Those before `start` were handled, and are at most as many as the rest at that time. With a
    /// frame of 4 GiB behind them, `end` needs more than 32 bits.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// What the codec needs beyond the held bytes.
    need: Need,
    /// When the partial frame began, or when its timer was last restarted.
    started_at: Timestamp,
}

impl Inbox {
    /// Makes an inbox with just these bytes; `need` is the codec's answer to them. It reuses the
    /// memory of `spare`, if that has any.
    pub(crate) fn holding(
        bytes: &[u8],
        need: Need,
        started_at: Timestamp,
        spare: &mut Inbox,
    ) -> Self {
        let unused = || {
            Box::new(PendingFrame {
                bytes: Vec::new(),
                start: 0,
                end: 0,
                need,
                started_at,
            })
        };
        let mut held = mem::take(spare).0.unwrap_or_else(unused);
        (held.start, held.end, held.need, held.started_at) = (0, 0, need, started_at);
        held.append(bytes);
        Self(Some(held))
    }

    /// Drops the bytes, which are handled, and gives the memory to `spare` if that has none. Memory
    /// beyond `MAX_SPARE` is freed.
    pub(crate) fn recycle(mut self, spare: &mut Inbox) {
        if let Some(held) = self
            .0
            .as_mut()
            .filter(|held| held.bytes.capacity() > MAX_SPARE)
        {
            held.bytes = Vec::new();
        }
        if spare.0.is_none() {
            *spare = self;
        }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Returns the held bytes.
    pub(crate) fn held(&self) -> &[u8] {
        self.0
            .as_ref()
            .map_or(&[], |held| &held.bytes[held.start..held.end])
    }

    /// Returns the bytes of heap that it holds.
    pub(crate) fn heap(&self) -> usize {
        self.0
            .as_ref()
            .map_or(0, |held| size_of::<PendingFrame>() + held.bytes.capacity())
    }

    /// Returns when its frame began, or when its timer was last restarted.
    pub(crate) fn started_at(&self) -> Timestamp {
        self.0.as_ref().map_or(0, |held| held.started_at)
    }

    /// Restarts the timer of its frame.
    pub(crate) fn restart_timer(&mut self, now: Timestamp) {
        if let Some(held) = &mut self.0 {
            held.started_at = now;
        }
    }

    /// True if a frame may be complete: the codec should be called.
    #[inline]
    pub(crate) fn has_frame(&self) -> bool {
        self.0.as_ref().is_some_and(|held| held.has_frame())
    }

    /// Returns at most how many bytes to append before the codec is called again.
    pub(crate) fn missing(&self) -> usize {
        self.0.as_ref().map_or(0, |held| held.missing())
    }

    /// Returns the inbox without its first `n` bytes. At least one byte must remain; `need` is the
    /// codec's answer to the rest.
    pub(crate) fn advanced_by(
        self,
        n: usize,
        need: Need,
        started_at: Timestamp,
        spare: &mut Inbox,
    ) -> Self {
        let len = self.held().len();
        assert!(n < len, "{n} of {len} bytes taken, but some must remain");
        let mut held = self.0.expect("it has bytes");
        held.start += n;
        (held.need, held.started_at) = (need, started_at);
        // The rest is moved only when more than half of the bytes are taken. So taking frames one
        // by one does not copy the rest each time, and the memory is at most twice what is held.
        if held.start <= held.len() {
            return Self(Some(held));
        }
        let rest = Self::holding(&held.bytes[held.start..held.end], need, started_at, spare);
        Self(Some(held)).recycle(spare);
        rest
    }

    /// Appends bytes to those that it holds.
    pub(crate) fn append(&mut self, fresh: &[u8]) {
        let Some(held) = self.0.as_mut().filter(|_| !fresh.is_empty()) else {
            return;
        };
        held.append(fresh);
        if held.need == Need::More {
            held.need = Need::Now;
        }
    }

    /// Returns space for the rest of a frame that is known to be long; empty otherwise.
    #[inline]
    pub(crate) fn frame_space(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Some(held)
                if matches!(held.need, Need::Total(_)) && held.missing() >= MIN_DIRECT_READ =>
            {
                held.grow_space()
            }
            _ => &mut [],
        }
    }

    /// Records that `n` bytes were read into [`frame_space`](Self::frame_space).
    pub(crate) fn filled(&mut self, n: usize) {
        let room = self
            .0
            .as_ref()
            .map_or(0, |held| held.bytes.len() - held.end);
        assert!(n <= room, "{n} bytes filled, but there is space for {room}");
        if let Some(held) = &mut self.0 {
            held.end += n;
        }
    }
}

impl PendingFrame {
    fn len(&self) -> usize {
        self.end - self.start
    }

    fn has_frame(&self) -> bool {
        match self.need {
            Need::Now => true,
            Need::More => false,
            Need::Total(total) => self.len() >= total as usize,
        }
    }

    fn missing(&self) -> usize {
        match self.need {
            Need::Now => 0,
            // The frame's end is unknown. Of one read, append as many bytes again before the next
            // call, so that its calls of the codec together stay linear.
            Need::More => self.len().max(64),
            Need::Total(total) => (total as usize).saturating_sub(self.len()),
        }
    }

    fn append(&mut self, fresh: &[u8]) {
        let end = self.end;
        let (filled, rest) = fresh.split_at(fresh.len().min(self.bytes.len() - end));
        self.bytes[end..][..filled.len()].copy_from_slice(filled);
        self.bytes.extend_from_slice(rest);
        self.end += fresh.len();
    }

    fn grow_space(&mut self) -> &mut [u8] {
        let (missing, end) = (self.missing(), self.end);
        if self.bytes.len() == end {
            let room = missing.min(self.len().max(MIN_DIRECT_READ - size_of::<PendingFrame>()));
            self.bytes.reserve_exact(room);
            self.bytes.resize(end + room, 0);
        }
        let room = self.bytes.len() - end;
        &mut self.bytes[end..][..room.min(missing)]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Zeroed memory of more than 4 GiB, of which only the pages that are written to are real;
    /// `None` if there is no address space for it.
    fn beyond_32_bits(room: usize) -> Option<Vec<u8>> {
        let len = usize::try_from(u64::from(u32::MAX) + 1)
            .ok()?
            .checked_add(room)?;
        Vec::<u8>::new().try_reserve_exact(len).ok()?;
        Some(vec![0; len])
    }

    /// An inbox that ends just before 4 GiB; the bytes before its own are handled.
    fn near_4_gib(need: Need) -> Option<Inbox> {
        let bytes = beyond_32_bits(4096)?;
        let end = u32::MAX as usize - 2;
        Some(Inbox(Some(Box::new(PendingFrame {
            bytes,
            start: end - 8,
            end,
            need,
            started_at: 0,
        }))))
    }

    #[test]
    fn bytes_appended_across_4_gib_are_kept() {
        let Some(mut inbox) = near_4_gib(Need::More) else {
            return;
        };
        inbox.append(b"0123456789");
        assert_eq!(inbox.held(), b"\0\0\0\0\0\0\0\x000123456789");
        let inbox = inbox.advanced_by(10, Need::More, 0, &mut Inbox::default());
        assert_eq!(inbox.held(), b"23456789", "the handled bytes are freed");
        assert!(inbox.heap() < 1024);
    }

    #[test]
    fn bytes_filled_across_4_gib_are_kept() {
        let Some(mut inbox) = near_4_gib(Need::Total(8 + 5000)) else {
            return;
        };
        let frame_space = inbox.frame_space();
        assert!(frame_space.len() >= 4096);
        frame_space[..10].copy_from_slice(b"0123456789");
        inbox.filled(10);
        assert_eq!(
            (inbox.held().len(), &inbox.held()[8..]),
            (18, &b"0123456789"[..])
        );
    }

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn longest_frame_after_handled_bytes_completes_with_its_last_byte() {
        for (len, missing) in [(u32::MAX - 1, 1), (u32::MAX, 0)] {
            let held = PendingFrame {
                bytes: Vec::new(),
                start: 1,
                end: 1 + len as usize,
                need: Need::Total(u32::MAX),
                started_at: 0,
            };
            assert_eq!((held.has_frame(), held.missing()), (missing == 0, missing));
        }
    }

    /// An operation on an inbox.
    #[derive(Clone, Debug)]
    enum Op {
        Append(usize),
        Place(usize),
        /// Takes this part of the held bytes, in 256ths.
        Take(u8, Option<u32>),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let need = prop_oneof![
            Just(None),
            Just(Some(u32::MAX)),
            Just(Some(u32::MAX - 1)),
            (1..20_000_u32).prop_map(Some)
        ];
        let op = prop_oneof![
            (0..6000_usize).prop_map(Op::Append),
            (0..6000_usize).prop_map(Op::Place),
            (any::<u8>(), need).prop_map(|(part, need)| Op::Take(part, need)),
        ];
        prop::collection::vec(op, 1..60)
    }

    proptest! {
        #[test]
        fn inbox_holds_the_bytes_put_in_and_not_taken(ops in ops()) {
            let (mut model, mut next, mut spare) = (vec![7_u8], 0_u8, Inbox::default());
            let mut inbox = Inbox::holding(&model, Need::More, 0, &mut spare);
            let mut fresh = |n: usize| -> Vec<u8> {
                let byte = |_| {
                    next = next.wrapping_mul(5).wrapping_add(1);
                    next
                };
                (0..n).map(byte).collect()
            };
            for op in ops {
                match op {
                    Op::Append(n) => {
                        let bytes = fresh(n);
                        inbox.append(&bytes);
                        model.extend(bytes);
                    }
                    Op::Place(most) => {
                        let frame_space = inbox.frame_space();
                        let n = frame_space.len().min(most);
                        let bytes = fresh(n);
                        frame_space[..n].copy_from_slice(&bytes);
                        inbox.filled(n);
                        model.extend(bytes);
                    }
                    Op::Take(part, need) => {
                        let n = (model.len() - 1) * usize::from(part) / 256;
                        let need = need.map_or(Need::More, Need::Total);
                        inbox = inbox.advanced_by(n, need, 0, &mut spare);
                        model.drain(..n);
                    }
                }
                prop_assert_eq!(inbox.held(), &model[..]);
                let (heap, held) = (inbox.heap(), model.len());
                prop_assert!(heap <= 5 * held + 4096, "{heap} bytes of memory for {held}");
            }
        }
    }
}
