//! Who a connection is, and how that fits into the one word the poller hands back.

use std::fmt;
use std::num::NonZeroU32;

/// Half of a poller token: the slot's part and the generation's part are equally wide.
const HALF: u32 = usize::BITS / 2;
const MASK: usize = (1 << HALF) - 1;

/// Names one connection for its whole life, and never another one.
///
/// A slot of the slab is used again as soon as its connection is gone; the generation tells the
/// two apart. An event, a command or a deadline that carries an old generation is ignored and counted.
///
/// **Trap:** generations are 32 bits wide. An id that is kept while four thousand million other
/// connections come and go may name a newer one. Where a pointer has 32 bits, the poller's token
/// holds 16 bits of each, so a *stale event* is told apart over 65,536 connections only.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    slot: u32,
    generation: NonZeroU32,
}

impl ConnectionId {
    /// Names the connection in `slot`, the `generation`-th to be opened by its loop.
    pub fn new(slot: u32, generation: NonZeroU32) -> Self {
        Self { slot, generation }
    }

    /// The slot in the slab, used again by later connections.
    pub fn slot(self) -> usize {
        self.slot as usize
    }

    /// Which connection of this loop it is, counted from 1 and wrapping past `u32::MAX` to 1.
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

/// What an event of the poller is about.
///
/// Generation 0 belongs to no connection: with it, the slot's part numbers a listener, and its largest value is the waker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// A connection: its slot, and as many low bits of its generation as a token holds.
    Connection {
        /// The slot in the slab.
        slot: usize,
        /// The low bits of the generation; see [`Token::names`].
        generation: usize,
    },
    /// The listener with this number, in the order in which they were added.
    Listener(usize),
    /// A [`Handle`](crate::Handle) asked the loop to look at its mailbox.
    Waker,
}

impl Token {
    /// The most connections (and listeners) that tokens can number.
    pub const MAX_SLOTS: usize = MASK;

    /// The token under which `id` is registered.
    pub fn of(id: ConnectionId) -> Self {
        let generation = id.generation() as usize & MASK;
        // A generation whose low bits are all zero would read as a listener where tokens are narrow.
        Token::Connection {
            slot: id.slot(),
            generation: generation.max(1),
        }
    }

    /// Whether this token was made of `id`.
    pub fn names(self, id: ConnectionId) -> bool {
        self == Self::of(id)
    }

    /// Packs the token into the word that the poller keeps.
    ///
    /// # Panics
    /// If the slot or the listener's number is above [`Token::MAX_SLOTS`].
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

    /// Reads the word that the poller handed back.
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
    fn tokens_survive_the_round_trip_through_the_poller() {
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
    fn a_token_names_one_generation_of_a_slot_only() {
        let token = Token::of(id(3, 9));
        assert!(token.names(id(3, 9)));
        assert!(!token.names(id(3, 10)));
        assert!(!token.names(id(4, 9)));
    }
}
