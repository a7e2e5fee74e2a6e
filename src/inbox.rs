//! Bytes that were read and not handled yet: a buffer that takes one word while it holds none.

use std::mem;

use crate::clock::Stamp;
use crate::codec::Need;

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
    bytes: Vec<u8>,
    start: u32,
    end: u32,
    /// What the codec said of the held bytes.
    need: Need,
    /// When the unfinished frame began, or was first waited for again.
    begun: Stamp,
}

impl Inbox {
    /// An inbox with just these bytes, of which the codec said `need`. It takes the memory of `spare`, if that has some.
    pub(crate) fn holding(bytes: &[u8], need: Need, begun: Stamp, spare: &mut Inbox) -> Self {
        let unused = || Box::new(Held { bytes: Vec::new(), start: 0, end: 0, need, begun });
        let mut held = mem::take(spare).0.unwrap_or_else(unused);
        (held.start, held.end, held.need, held.begun) = (0, 0, need, begun);
        held.append(bytes);
        Self(Some(held))
    }

    /// Its bytes are handled: the memory goes to `spare`, if that has none, as far as it is not much.
    pub(crate) fn retire(mut self, spare: &mut Inbox) {
        if let Some(held) = self.0.as_mut().filter(|held| held.bytes.capacity() > WORTH_KEEPING) {
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
        self.0.as_ref().map_or(&[], |held| &held.bytes[held.start as usize..held.end as usize])
    }

    pub(crate) fn heap(&self) -> usize {
        self.0.as_ref().map_or(0, |held| size_of::<Held>() + held.bytes.capacity())
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
        held.start += n as u32;
        (held.need, held.begun) = (need, begun);
        // Whoever takes them one by one does not copy the rest each time, but no more is kept than twice what is held.
        if held.start as usize <= held.len() {
            return Self(Some(held));
        }
        let rest = Self::holding(&held.bytes[held.start as usize..held.end as usize], need, begun, spare);
        Self(Some(held)).retire(spare);
        rest
    }

    /// Takes in further bytes, to those that it holds.
    pub(crate) fn append(&mut self, fresh: &[u8]) {
        let Some(held) = self.0.as_mut().filter(|_| !fresh.is_empty()) else { return };
        held.append(fresh);
        if held.need == Need::More {
            held.need = Need::Now;
        }
    }

    /// Room for the rest of the frame, if it is known to be long.
    #[inline]
    pub(crate) fn place(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Some(held) if matches!(held.need, Need::Total(_)) && held.wants() >= WORTH_PLACING => held.make_place(),
            _ => &mut [],
        }
    }

    /// Takes note that `n` bytes of the place were received.
    pub(crate) fn placed(&mut self, n: usize) {
        let room = self.0.as_ref().map_or(0, |held| held.bytes.len() - held.end as usize);
        assert!(n <= room, "{n} bytes placed where there is room for {room}");
        if let Some(held) = &mut self.0 {
            held.grow(n);
        }
    }
}

impl Held {
    fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    fn grow(&mut self, n: usize) {
        let end = self.end as usize + n;
        self.end = u32::try_from(end).unwrap_or_else(|_| panic!("{end} bytes held of what was read, which is more than any frame has"));
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
        let end = self.end as usize;
        let (placed, rest) = fresh.split_at(fresh.len().min(self.bytes.len() - end));
        self.bytes[end..][..placed.len()].copy_from_slice(placed);
        self.bytes.extend_from_slice(rest);
        self.grow(fresh.len());
    }

    fn make_place(&mut self) -> &mut [u8] {
        let (missing, end) = (self.wants(), self.end as usize);
        if self.bytes.len() == end {
            let room = missing.min(self.len().max(WORTH_PLACING - size_of::<Held>()));
            self.bytes.reserve_exact(room);
            self.bytes.resize(end + room, 0);
        }
        let room = self.bytes.len() - end;
        &mut self.bytes[end..][..room.min(missing)]
    }
}
