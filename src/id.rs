//! Connection ids, and the poller tokens that carry them.

use std::fmt;
use std::num::NonZeroU32;

/// Bits of a token that hold the slot, and bits that hold the generation: half of the word each.
const HALF: u32 = usize::BITS / 2;
/// The low half of a token.
const MASK: usize = (1 << HALF) - 1;

/// Identifies one connection of one loop.
///
/// An id is a slot and a generation. A slot of the slab is reused as soon as its connection is
/// gone; the generation differs then. An event, a command or a deadline with an old generation is
/// ignored and counted ([`Counters::stale`](crate::Counters::stale)).
///
/// It prints as `slot#generation`, `3#9` for example.
///
/// **Trap:** ids of different loops may be equal.
///
/// **Trap:** generations have 32 bits. An id that is kept while 2^32 other connections are opened
/// may name a newer one. On 32-bit targets a poller token holds 16 bits of each part, so a *stale
/// event* is detected within 65,536 connections only.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    slot: u32,
    generation: NonZeroU32,
}

impl ConnectionId {
    /// Makes the id of the connection in `slot`, the `generation`-th to be opened by its loop.
    pub fn new(slot: u32, generation: NonZeroU32) -> Self {
        Self { slot, generation }
    }

    /// Returns the slot in the slab. Later connections reuse it.
    pub fn slot(self) -> usize {
        self.slot as usize
    }

    /// Returns the number of the connection in its loop. It counts from 1, and wraps from
    /// `u32::MAX` to 1.
    pub fn generation(self) -> u32 {
        self.generation.get()
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.slot, self.generation)
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a poller event belongs to.
///
/// Generation 0 belongs to no connection: with it, the slot's part is a listener's number, and the
/// largest slot is the waker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// A connection.
    Connection {
        /// The slot in the slab.
        slot: usize,
        /// As many low bits of the generation as a token holds; see [`Token::names`].
        generation: usize,
    },
    /// The listener with this number. Listeners are numbered in the order in which they were added.
    Listener(usize),
    /// The loop's waker: a [`Handle`](crate::Handle) has put a message into the mailbox.
    Waker,
}

impl Token {
    /// The largest number of connections, and of listeners, that tokens can address.
    pub const MAX_SLOTS: usize = MASK;

    /// Returns the token under which the connection `id` is registered.
    pub fn of(id: ConnectionId) -> Self {
        let generation = id.generation() as usize & MASK;
        // On narrow tokens, a generation whose low bits are all zero would read as a listener.
        Token::Connection {
            slot: id.slot(),
            generation: generation.max(1),
        }
    }

    /// Returns true if this token was made from `id`.
    pub fn names(self, id: ConnectionId) -> bool {
        self == Self::of(id)
    }

    /// Packs the token into the word that the poller stores.
    ///
    /// # Panics
    ///
    /// If the slot or the listener's number is not below [`Token::MAX_SLOTS`].
    pub fn pack(self) -> usize {
        let (slot, generation) = match self {
            Token::Connection { slot, generation } => (slot, generation),
            Token::Listener(number) => (number, 0),
            Token::Waker => return MASK << HALF,
        };
        assert!(
            slot < Self::MAX_SLOTS,
            "slot {slot} does not fit into a token"
        );
        slot << HALF | generation
    }

    /// Reads the token from the word that the poller returned.
    pub fn unpack(word: usize) -> Self {
        match (word >> HALF, word & MASK) {
            (MASK, 0) => Token::Waker,
            (number, 0) => Token::Listener(number),
            (slot, generation) => Token::Connection { slot, generation },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(slot: u32, generation: u32) -> ConnectionId {
        ConnectionId::new(
            slot,
            NonZeroU32::new(generation).expect("generations are counted from 1"),
        )
    }

    #[test]
    fn packed_tokens_unpack_to_the_same_token() {
        for token in [
            Token::of(id(0, 1)),
            Token::of(id(65_000, u32::MAX)),
            Token::Listener(0),
            Token::Listener(7),
            Token::Waker,
        ] {
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }

    #[test]
    fn token_matches_one_generation_of_its_slot() {
        let token = Token::of(id(3, 9));
        assert!(token.names(id(3, 9)));
        assert!(!token.names(id(3, 10)));
        assert!(!token.names(id(4, 9)));
    }
}
