//! What was read and not handled yet.

use crate::codec::Need;

/// Below this many missing bytes, copying them out of the scratch is cheaper than a vectored read.
const WORTH_PLACING: usize = 4096;

/// The bytes at the front of a connection's stream that no frame could be made of so far.
///
/// It holds memory only while it holds bytes. It grows with what has arrived, not with what a
/// peer claims: never to more than double that, or by 4 KiB. No byte is zeroed twice, and none copied again for
/// each segment that arrives; only growing moves them.
#[derive(Debug)]
pub(super) struct Inbox {
    /// What stands between `start` and `end` was received and not handled; what is behind is room for more, zeroed once.
    bytes: Vec<u8>,
    start: u32,
    end: u32,
    /// What the codec said of the held bytes.
    need: Need,
}

impl Default for Inbox {
    fn default() -> Self {
        Self { bytes: Vec::new(), start: 0, end: 0, need: Need::More }
    }
}

impl Inbox {
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(super) fn held(&self) -> &[u8] {
        &self.bytes[self.start as usize..self.end as usize]
    }

    pub(super) fn heap(&self) -> usize {
        self.bytes.capacity()
    }

    fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    fn grow(&mut self, n: usize) {
        let end = self.end as usize + n;
        self.end = u32::try_from(end).unwrap_or_else(|_| panic!("{end} bytes held of what was read, which is more than any frame has"));
    }

    /// Whether a frame may be whole.
    pub(super) fn is_ripe(&self) -> bool {
        !self.is_empty()
            && match self.need {
                Need::Now => true,
                Need::More => false,
                Need::Total(total) => self.len() >= total as usize,
            }
    }

    /// How many bytes it is worth to append before the next look.
    pub(super) fn wants(&self) -> usize {
        match self.need {
            Need::Now => 0,
            // Nobody knows where the frame ends: as many again, so that all the looks together stay linear.
            Need::More => self.len().max(64),
            Need::Total(total) => (total as usize).saturating_sub(self.len()),
        }
    }

    /// An inbox with just these bytes, of which the codec said `need`.
    pub(super) fn holding(bytes: &[u8], need: Need) -> Self {
        let mut inbox = Self { bytes: bytes.to_vec(), need, ..Self::default() };
        inbox.grow(bytes.len());
        inbox
    }

    /// The same without its first `n` bytes; of the rest the codec said `need`.
    pub(super) fn without(mut self, n: usize, need: Need) -> Self {
        assert!(n <= self.len(), "{n} bytes taken of {}", self.len());
        self.start += n as u32;
        self.need = need;
        // Whoever takes them one by one does not copy the rest each time, but no more is kept than twice what is held.
        if self.start as usize > self.len() { Self::holding(self.held(), need) } else { self }
    }

    /// Takes in further bytes.
    pub(super) fn append(&mut self, fresh: &[u8]) {
        if fresh.is_empty() {
            return;
        }
        let end = self.end as usize;
        let (placed, rest) = fresh.split_at(fresh.len().min(self.bytes.len() - end));
        self.bytes[end..][..placed.len()].copy_from_slice(placed);
        self.bytes.extend_from_slice(rest);
        self.grow(fresh.len());
        if self.need == Need::More {
            self.need = Need::Now;
        }
    }

    /// Room for the rest of the frame, if it is known to be long.
    #[inline]
    pub(super) fn place(&mut self) -> &mut [u8] {
        match self.need {
            Need::Total(_) if !self.is_empty() && self.wants() >= WORTH_PLACING => self.make_place(),
            _ => &mut [],
        }
    }

    fn make_place(&mut self) -> &mut [u8] {
        let (missing, end) = (self.wants(), self.end as usize);
        if self.bytes.len() == end {
            let room = missing.min(self.len().max(WORTH_PLACING));
            self.bytes.reserve_exact(room);
            self.bytes.resize(end + room, 0);
        }
        let room = self.bytes.len() - end;
        &mut self.bytes[end..][..room.min(missing)]
    }

    /// Takes note that `n` bytes of the place were received.
    pub(super) fn placed(&mut self, n: usize) {
        let room = self.bytes.len() - self.end as usize;
        assert!(n <= room, "{n} bytes placed where there is room for {room}");
        self.grow(n);
    }
}
