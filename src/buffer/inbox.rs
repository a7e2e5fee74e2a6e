//! Bytes that were read and not handled yet: a buffer that takes one word while it holds none.

use std::mem;

use crate::codec::Need;
use crate::time::Stamp;

/// Below this many missing bytes, copying them out of the scratch is cheaper than a vectored read.
const WORTH_PLACING: usize = 4096;
/// Memory of up to this many bytes is kept for the next inbox: a stream that is cut anywhere needs one for each read.
const WORTH_KEEPING: usize = 2048;

/// The bytes at the front of a connection's stream that no frame could be made of so far.
///
/// It holds memory only while it holds bytes. It grows with what has arrived, not with what a
/// peer claims: never to more than double that, or by 4 KiB. No byte is zeroed twice, and none copied again for
/// each segment that arrives; only growing moves them.
#[derive(Debug, Default)]
pub(crate) struct Inbox(Option<Box<Held>>);

#[derive(Debug)]
struct Held {
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
    begun: Stamp,
}

impl Inbox {
    /// An inbox with just these bytes, of which the codec said `need`. It takes the memory of `spare`, if that has some.
    pub(crate) fn holding(bytes: &[u8], need: Need, begun: Stamp, spare: &mut Inbox) -> Self {
        let unused = || {
            Box::new(Held {
                bytes: Vec::new(),
                start: 0,
                end: 0,
                need,
                begun,
            })
        };
        let mut held = mem::take(spare).0.unwrap_or_else(unused);
        (held.start, held.end, held.need, held.begun) = (0, 0, need, begun);
        held.append(bytes);
        Self(Some(held))
    }

    /// Its bytes are handled: the memory goes to `spare`, if that has none, as far as it is not much.
    pub(crate) fn retire(mut self, spare: &mut Inbox) {
        if let Some(held) = self
            .0
            .as_mut()
            .filter(|held| held.bytes.capacity() > WORTH_KEEPING)
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
            .map_or(0, |held| size_of::<Held>() + held.bytes.capacity())
    }

    /// When its frame began, or was first waited for again.
    pub(crate) fn begun(&self) -> Stamp {
        self.0.as_ref().map_or(0, |held| held.begun)
    }

    /// Its frame has all of its time before it.
    pub(crate) fn begin_anew(&mut self, now: Stamp) {
        if let Some(held) = &mut self.0 {
            held.begun = now;
        }
    }

    /// Whether a frame may be whole.
    #[inline]
    pub(crate) fn is_ripe(&self) -> bool {
        self.0.as_ref().is_some_and(|held| held.is_ripe())
    }

    /// How many bytes it is worth to append before the next look.
    pub(crate) fn wants(&self) -> usize {
        self.0.as_ref().map_or(0, |held| held.wants())
    }

    /// The same without its first `n` bytes; of the rest, at least one byte, the codec said `need`.
    pub(crate) fn without(self, n: usize, need: Need, begun: Stamp, spare: &mut Inbox) -> Self {
        let len = self.held().len();
        assert!(n < len, "{n} bytes taken of {len}, and some left");
        let mut held = self.0.expect("it has bytes");
        held.start += n;
        (held.need, held.begun) = (need, begun);
        // Whoever takes them one by one does not copy the rest each time, but no more is kept than twice what is held.
        if held.start <= held.len() {
            return Self(Some(held));
        }
        let rest = Self::holding(&held.bytes[held.start..held.end], need, begun, spare);
        Self(Some(held)).retire(spare);
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
    pub(crate) fn place(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Some(held) if matches!(held.need, Need::Total(_)) && held.wants() >= WORTH_PLACING => {
                held.make_place()
            }
            _ => &mut [],
        }
    }

    /// Takes note that `n` bytes of the place were received.
    pub(crate) fn placed(&mut self, n: usize) {
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

impl Held {
    fn len(&self) -> usize {
        self.end - self.start
    }

    fn is_ripe(&self) -> bool {
        match self.need {
            Need::Now => true,
            Need::More => false,
            Need::Total(total) => self.len() >= total as usize,
        }
    }

    fn wants(&self) -> usize {
        match self.need {
            Need::Now => 0,
            // Nobody knows where the frame ends: as many again, so that all the looks together stay linear.
            Need::More => self.len().max(64),
            Need::Total(total) => (total as usize).saturating_sub(self.len()),
        }
    }

    fn append(&mut self, fresh: &[u8]) {
        let end = self.end;
        let (placed, rest) = fresh.split_at(fresh.len().min(self.bytes.len() - end));
        self.bytes[end..][..placed.len()].copy_from_slice(placed);
        self.bytes.extend_from_slice(rest);
        self.end += fresh.len();
    }

    fn make_place(&mut self) -> &mut [u8] {
        let (missing, end) = (self.wants(), self.end);
        if self.bytes.len() == end {
            let room = missing.min(self.len().max(WORTH_PLACING - size_of::<Held>()));
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
        Some(Inbox(Some(Box::new(Held {
            bytes,
            start: end - 8,
            end,
            need,
            begun: 0,
        }))))
    }

    #[test]
    fn bytes_appended_across_4_gib_are_held() {
        let Some(mut inbox) = near_4_gib(Need::More) else {
            return;
        };
        inbox.append(b"0123456789");
        assert_eq!(inbox.held(), b"\0\0\0\0\0\0\0\x000123456789");
        let inbox = inbox.without(10, Need::More, 0, &mut Inbox::default());
        assert_eq!(inbox.held(), b"23456789", "the spent front is given back");
        assert!(inbox.heap() < 1024);
    }

    #[test]
    fn bytes_placed_across_4_gib_are_held() {
        let Some(mut inbox) = near_4_gib(Need::Total(8 + 5000)) else {
            return;
        };
        let place = inbox.place();
        assert!(place.len() >= 4096);
        place[..10].copy_from_slice(b"0123456789");
        inbox.placed(10);
        assert_eq!(
            (inbox.held().len(), &inbox.held()[8..]),
            (18, &b"0123456789"[..])
        );
    }

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn longest_frame_behind_a_spent_front_is_whole_with_its_last_byte() {
        for (len, missing) in [(u32::MAX - 1, 1), (u32::MAX, 0)] {
            let held = Held {
                bytes: Vec::new(),
                start: 1,
                end: 1 + len as usize,
                need: Need::Total(u32::MAX),
                begun: 0,
            };
            assert_eq!((held.is_ripe(), held.wants()), (missing == 0, missing));
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
                        let place = inbox.place();
                        let n = place.len().min(most);
                        let bytes = fresh(n);
                        place[..n].copy_from_slice(&bytes);
                        inbox.placed(n);
                        model.extend(bytes);
                    }
                    Deed::Take(part, need) => {
                        let n = (model.len() - 1) * usize::from(part) / 256;
                        let need = need.map_or(Need::More, Need::Total);
                        inbox = inbox.without(n, need, 0, &mut spare);
                        model.drain(..n);
                    }
                }
                prop_assert_eq!(inbox.held(), &model[..]);
                prop_assert!(inbox.heap() <= 5 * model.len() + 4096, "{} bytes of memory for {}", inbox.heap(), model.len());
            }
        }
    }
}
