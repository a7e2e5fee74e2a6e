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
    /// The first `held` bytes were received; those behind are room for more, zeroed once.
    bytes: Vec<u8>,
    held: usize,
    /// What the codec said of the held bytes.
    need: Need,
}

impl Default for Inbox {
    fn default() -> Self {
        Self { bytes: Vec::new(), held: 0, need: Need::More }
    }
}

impl Inbox {
    pub(super) fn is_empty(&self) -> bool {
        self.held == 0
    }

    pub(super) fn held(&self) -> &[u8] {
        &self.bytes[..self.held]
    }

    pub(super) fn heap(&self) -> usize {
        self.bytes.capacity()
    }

    /// Whether a frame may be whole.
    pub(super) fn is_ripe(&self) -> bool {
        self.held > 0
            && match self.need {
                Need::Now => true,
                Need::More => false,
                Need::Total(total) => self.held >= total as usize,
            }
    }

    /// How many bytes it is worth to append before the next look.
    pub(super) fn wants(&self) -> usize {
        match self.need {
            Need::Now => 0,
            // Nobody knows where the frame ends: as many again, so that all the looks together stay linear.
            Need::More => self.held.max(64),
            Need::Total(total) => (total as usize).saturating_sub(self.held),
        }
    }

    /// An inbox with just these bytes, of which the codec said `need`.
    pub(super) fn holding(bytes: &[u8], need: Need) -> Self {
        Self { bytes: bytes.to_vec(), held: bytes.len(), need }
    }

    /// The same without its first `n` bytes; of the rest the codec said `need`.
    pub(super) fn without(&self, n: usize, need: Need) -> Self {
        Self::holding(&self.held()[n..], need)
    }

    /// Takes in further bytes.
    pub(super) fn append(&mut self, fresh: &[u8]) {
        if fresh.is_empty() {
            return;
        }
        let (placed, rest) = fresh.split_at(fresh.len().min(self.bytes.len() - self.held));
        self.bytes[self.held..][..placed.len()].copy_from_slice(placed);
        self.bytes.extend_from_slice(rest);
        self.held += fresh.len();
        if self.need == Need::More {
            self.need = Need::Now;
        }
    }

    /// Room for the rest of the frame, if it is known to be long.
    #[inline]
    pub(super) fn place(&mut self) -> &mut [u8] {
        match self.need {
            Need::Total(_) if self.held > 0 && self.wants() >= WORTH_PLACING => self.make_place(),
            _ => &mut [],
        }
    }

    fn make_place(&mut self) -> &mut [u8] {
        let missing = self.wants();
        if self.bytes.len() == self.held {
            self.bytes.resize(self.held + missing.min(self.held.max(WORTH_PLACING)), 0);
        }
        let room = self.bytes.len() - self.held;
        &mut self.bytes[self.held..][..room.min(missing)]
    }

    /// Takes note that `n` bytes of the place were received.
    pub(super) fn placed(&mut self, n: usize) {
        assert!(n <= self.bytes.len() - self.held, "{n} bytes placed where there is less room");
        self.held += n;
    }
}
