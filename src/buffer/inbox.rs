//! Bytes that were read and not handled yet: a buffer that takes one word while it holds none.

use std::mem;

use crate::codec::Need;
use crate::time::Timestamp;

/// Below this many missing bytes, copying them out of the scratch is cheaper than a vectored read.
const MIN_DIRECT_READ: usize = 4096;
/// Memory of up to this many bytes is kept for the next inbox: a stream that is cut anywhere needs one for each read.
const MAX_SPARE: usize = 2048;

/// The bytes at the front of a connection's stream that no frame could be made of so far.
///
/// It holds memory only while it holds bytes. It grows with what has arrived, not with what a
/// peer claims: never to more than double that, or by 4 KiB. No byte is zeroed twice, and none copied again for
/// each segment that arrives; only growing moves them.
#[derive(Debug, Default)]
pub(crate) struct Inbox(Option<Box<PendingFrame>>);

#[derive(Debug)]
struct PendingFrame {
    /// What stands between `start` and `end` was received and not handled; what is behind is room for more, zeroed once.
    ///
    /// What is before `start` was handled and is no longer than the rest was then. With a frame of
    /// 4 GiB behind it, `end` has more than 32 bits.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// What the codec said of the held bytes.
    need: Need,
    /// When the unfinished frame began, or was first waited for again.
    started_at: Timestamp,
}

impl Inbox {
    /// An inbox with just these bytes, of which the codec said `need`. It takes the memory of `spare`, if that has some.
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

    /// Its bytes are handled: the memory goes to `spare`, if that has none, as far as it is not much.
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

    pub(crate) fn held(&self) -> &[u8] {
        self.0
            .as_ref()
            .map_or(&[], |held| &held.bytes[held.start..held.end])
    }

    pub(crate) fn heap(&self) -> usize {
        self.0
            .as_ref()
            .map_or(0, |held| size_of::<PendingFrame>() + held.bytes.capacity())
    }

    /// When its frame began, or was first waited for again.
    pub(crate) fn started_at(&self) -> Timestamp {
        self.0.as_ref().map_or(0, |held| held.started_at)
    }

    /// Its frame has all of its time before it.
    pub(crate) fn restart_timer(&mut self, now: Timestamp) {
        if let Some(held) = &mut self.0 {
            held.started_at = now;
        }
    }

    /// Whether a frame may be whole.
    #[inline]
    pub(crate) fn has_frame(&self) -> bool {
        self.0.as_ref().is_some_and(|held| held.has_frame())
    }

    /// How many bytes it is worth to append before the next look.
    pub(crate) fn missing(&self) -> usize {
        self.0.as_ref().map_or(0, |held| held.missing())
    }

    /// The same without its first `n` bytes; of the rest, at least one byte, the codec said `need`.
    pub(crate) fn advanced_by(
        self,
        n: usize,
        need: Need,
        started_at: Timestamp,
        spare: &mut Inbox,
    ) -> Self {
        let len = self.held().len();
        assert!(n < len, "{n} bytes taken of {len}, and some left");
        let mut held = self.0.expect("it has bytes");
        held.start += n;
        (held.need, held.started_at) = (need, started_at);
        // Whoever takes them one by one does not copy the rest each time, but no more is kept than twice what is held.
        if held.start <= held.len() {
            return Self(Some(held));
        }
        let rest = Self::holding(&held.bytes[held.start..held.end], need, started_at, spare);
        Self(Some(held)).recycle(spare);
        rest
    }

    /// Takes in further bytes, to those that it holds.
    pub(crate) fn append(&mut self, fresh: &[u8]) {
        let Some(held) = self.0.as_mut().filter(|_| !fresh.is_empty()) else {
            return;
        };
        held.append(fresh);
        if held.need == Need::More {
            held.need = Need::Now;
        }
    }

    /// Room for the rest of the frame, if it is known to be long.
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

    /// Takes note that `n` bytes of the place were received.
    pub(crate) fn filled(&mut self, n: usize) {
        let room = self
            .0
            .as_ref()
            .map_or(0, |held| held.bytes.len() - held.end);
        assert!(n <= room, "{n} bytes placed where there is room for {room}");
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
            // Nobody knows where the frame ends: as many again, so that all the looks together stay linear.
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

    /// Zeroed memory of more than 4 GiB, of which only those pages are real that are written to;
    /// `None` if there is no address space for it.
    fn beyond_32_bits(room: usize) -> Option<Vec<u8>> {
        let len = usize::try_from(u64::from(u32::MAX) + 1)
            .ok()?
            .checked_add(room)?;
        Vec::<u8>::new().try_reserve_exact(len).ok()?;
        Some(vec![0; len])
    }

    /// An inbox whose bytes end just before 4 GiB, with as much before them that was handled.
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
    fn bytes_appended_across_4_gib_are_held() {
        let Some(mut inbox) = near_4_gib(Need::More) else {
            return;
        };
        inbox.append(b"0123456789");
        assert_eq!(inbox.held(), b"\0\0\0\0\0\0\0\x000123456789");
        let inbox = inbox.advanced_by(10, Need::More, 0, &mut Inbox::default());
        assert_eq!(inbox.held(), b"23456789", "the spent front is given back");
        assert!(inbox.heap() < 1024);
    }

    #[test]
    fn bytes_placed_across_4_gib_are_held() {
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
    fn longest_frame_behind_a_spent_front_is_whole_with_its_last_byte() {
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

    /// What is done to an inbox.
    #[derive(Clone, Debug)]
    enum Deed {
        Append(usize),
        Place(usize),
        /// Takes off so much of what is held, in 256ths.
        Take(u8, Option<u32>),
    }

    fn deeds() -> impl Strategy<Value = Vec<Deed>> {
        let need = prop_oneof![
            Just(None),
            Just(Some(u32::MAX)),
            Just(Some(u32::MAX - 1)),
            (1..20_000_u32).prop_map(Some)
        ];
        let deed = prop_oneof![
            (0..6000_usize).prop_map(Deed::Append),
            (0..6000_usize).prop_map(Deed::Place),
            (any::<u8>(), need).prop_map(|(part, need)| Deed::Take(part, need)),
        ];
        prop::collection::vec(deed, 1..60)
    }

    proptest! {
        #[test]
        fn inbox_holds_what_was_put_in_and_not_taken(deeds in deeds()) {
            let (mut model, mut next, mut spare) = (vec![7_u8], 0_u8, Inbox::default());
            let mut inbox = Inbox::holding(&model, Need::More, 0, &mut spare);
            let mut fresh = |n: usize| -> Vec<u8> { (0..n).map(|_| { next = next.wrapping_mul(5).wrapping_add(1); next }).collect() };
            for deed in deeds {
                match deed {
                    Deed::Append(n) => {
                        let bytes = fresh(n);
                        inbox.append(&bytes);
                        model.extend(bytes);
                    }
                    Deed::Place(most) => {
                        let frame_space = inbox.frame_space();
                        let n = frame_space.len().min(most);
                        let bytes = fresh(n);
                        frame_space[..n].copy_from_slice(&bytes);
                        inbox.filled(n);
                        model.extend(bytes);
                    }
                    Deed::Take(part, need) => {
                        let n = (model.len() - 1) * usize::from(part) / 256;
                        let need = need.map_or(Need::More, Need::Total);
                        inbox = inbox.advanced_by(n, need, 0, &mut spare);
                        model.drain(..n);
                    }
                }
                prop_assert_eq!(inbox.held(), &model[..]);
                prop_assert!(inbox.heap() <= 5 * model.len() + 4096, "{} bytes of memory for {}", inbox.heap(), model.len());
            }
        }
    }
}
