//! The slab of connections. A connection's id is its slot and a generation, so the id of a closed
//! connection never finds the next one in its slot.

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};

use slab::Slab;

use crate::connection::Connection;
use crate::handler::Handler;
use crate::id::{ConnectionId, Token};
use crate::net::{Net, Readiness};
use crate::state::State;

/// One connection with its socket.
pub(super) struct Slot<H: Handler, N: Net> {
    pub(super) connection: Connection<H::Codec, H::State>,
    /// `None` only while it is connecting, between two attempts.
    pub(super) stream: Option<N::Stream>,
    /// The tick at which its deadlines are checked next.
    pub(super) deadline_check: Option<NonZeroU64>,
    /// Bytes of its buffers that are included in `Reactor::buffered`.
    pub(super) counted_bytes: u32,
    pub(super) readiness: Readiness,
    /// True exactly while its id is on the resume queue.
    pub(super) in_resume_queue: bool,
    /// True exactly while its id is on the pending-flush list.
    pub(super) in_pending_flush: bool,
    /// True if our sending side is shut.
    pub(super) write_shut: bool,
}

impl<H: Handler, N: Net> Slot<H, N> {
    pub(super) fn new(
        connection: Connection<H::Codec, H::State>,
        stream: Option<N::Stream>,
    ) -> Self {
        Self {
            connection,
            stream,
            deadline_check: None,
            counted_bytes: 0,
            readiness: Readiness::default(),
            in_resume_queue: false,
            in_pending_flush: false,
            write_shut: false,
        }
    }

    /// Returns the connection, its socket and its readiness, once it is established.
    #[inline]
    pub(super) fn parts(
        &mut self,
    ) -> (
        &mut Connection<H::Codec, H::State>,
        &mut N::Stream,
        &mut Readiness,
    ) {
        (
            &mut self.connection,
            self.stream
                .as_mut()
                .expect("an established connection has a socket"),
            &mut self.readiness,
        )
    }
}

/// All connections of a loop.
pub(super) struct Slots<H: Handler, N: Net> {
    slab: Slab<Slot<H, N>>,
    /// The generation of the connection that was added last.
    generation: u32,
    /// The connection that was looked up last. A panic is attributed to it.
    panic_suspect: Option<ConnectionId>,
}

impl<H: Handler, N: Net> Default for Slots<H, N> {
    fn default() -> Self {
        Self {
            slab: Slab::new(),
            generation: 0,
            panic_suspect: None,
        }
    }
}

impl<H: Handler, N: Net> Slots<H, N> {
    /// Bytes that a slot takes. The slab adds a word to mark occupied entries, where the slot's
    /// type has no spare bit pattern for that.
    pub(super) const FOOTPRINT: usize = size_of::<Slot<H, N>>();

    /// Reserves memory for this many connections, so that the slab is never moved while it grows.
    /// Memory that is never written to costs address space only.
    pub(super) fn reserve(&mut self, connections: usize) {
        self.slab.reserve(connections);
    }

    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    /// Returns the id that the next inserted connection will have.
    pub(super) fn next_id(&mut self) -> ConnectionId {
        self.generation = self.generation.wrapping_add(1);
        let generation = NonZeroU32::new(self.generation).unwrap_or_else(|| {
            self.generation = 1; // 0 is never used
            NonZeroU32::MIN
        });
        let slot = u32::try_from(self.slab.vacant_key())
            .expect("fewer connections than a token can number");
        ConnectionId::new(slot, generation)
    }

    /// Inserts a connection that has the id from [`next_id`](Self::next_id).
    pub(super) fn insert(&mut self, slot: Slot<H, N>) {
        let id = slot.connection.id();
        let key = self.slab.insert(slot);
        assert_eq!(key, id.slot(), "a connection must be in the slot of its id");
        self.panic_suspect = Some(id);
    }

    /// Returns the connection with exactly this id, and makes it the last lookup.
    #[inline]
    pub(super) fn get(&mut self, id: ConnectionId) -> Option<&mut Slot<H, N>> {
        let slot = self
            .slab
            .get_mut(id.slot())
            .filter(|slot| slot.connection.id() == id)?;
        self.panic_suspect = Some(id);
        Some(slot)
    }

    /// The same for a connection that is the last lookup already.
    #[inline]
    pub(super) fn get_untracked(&mut self, id: ConnectionId) -> Option<&mut Slot<H, N>> {
        self.slab
            .get_mut(id.slot())
            .filter(|slot| slot.connection.id() == id)
    }

    /// Returns the connection in this slot, whatever its generation.
    pub(super) fn get_by_slot(&mut self, slot: usize) -> Option<&mut Slot<H, N>> {
        let slot = self.slab.get_mut(slot)?;
        self.panic_suspect = Some(slot.connection.id());
        Some(slot)
    }

    /// Returns the connection with exactly this id, if it is open.
    pub(super) fn get_open(&mut self, id: ConnectionId) -> Option<&mut Slot<H, N>> {
        self.get(id)
            .filter(|slot| matches!(slot.connection.state(), State::Open(_)))
    }

    /// Returns the connection that an event is for, if it still exists.
    #[inline]
    pub(super) fn get_by_token(&mut self, token: Token) -> Option<&mut Slot<H, N>> {
        let Token::Connection { slot, .. } = token else {
            return None;
        };
        let slot = self
            .slab
            .get_mut(slot)
            .filter(|slot| token.names(slot.connection.id()))?;
        self.panic_suspect = Some(slot.connection.id());
        Some(slot)
    }

    /// Returns the connection that was looked up last, unless other work has begun since.
    pub(super) fn panic_suspect(&self) -> Option<ConnectionId> {
        self.panic_suspect
    }

    /// Clears the last lookup: the work that begins is for no connection, or for one without a
    /// slot.
    #[inline]
    pub(super) fn clear_panic_suspect(&mut self) {
        self.panic_suspect = None;
    }

    /// Removes a connection, and frees its slot.
    pub(super) fn remove(&mut self, id: ConnectionId) -> Option<Slot<H, N>> {
        self.get(id)?;
        Some(self.slab.remove(id.slot()))
    }

    pub(super) fn ids(&self) -> Vec<ConnectionId> {
        self.iter().map(|slot| slot.connection.id()).collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Slot<H, N>> {
        self.slab.iter().map(|(_, slot)| slot)
    }
}

impl<H: Handler, N: Net> fmt::Debug for Slots<H, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(
                self.iter()
                    .map(|slot| (slot.connection.id(), slot.connection.state())),
            )
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Line;
    use crate::handler::{Context, Origin};
    use crate::net::Address;
    use crate::net::MioNet;
    use crate::state::Verdict;

    struct NoOp;

    impl Handler for NoOp {
        type Codec = Line;
        type State = ();
        type Mail = ();

        fn connection(&mut self, _: &Origin) -> (Line, ()) {
            (Line::default(), ())
        }

        fn frame(&mut self, _: &[u8], _: &mut Context<'_, Self>) -> Verdict {
            Verdict::Continue
        }
    }

    #[test]
    fn generations_skip_zero_and_a_stale_id_finds_nothing() {
        let mut slots = Slots::<NoOp, MioNet> {
            generation: u32::MAX - 2,
            ..Slots::default()
        };
        let mut removed: Vec<ConnectionId> = Vec::new();
        for generation in [u32::MAX - 1, u32::MAX, 1, 2] {
            let id = slots.next_id();
            assert_eq!((id.slot(), id.generation()), (0, generation));
            let origin = Origin::Dialed {
                peer: Address::Unix(None),
                key: 0,
            };
            slots.insert(Slot::new(Connection::new(id, &origin, &mut NoOp), None));
            assert!(slots.get(id).is_some() && slots.get_by_token(Token::of(id)).is_some());
            assert!(
                removed.iter().all(|old| slots.get(*old).is_none()
                    && slots.get_by_token(Token::of(*old)).is_none())
            );
            removed.extend(slots.remove(id).map(|slot| slot.connection.id()));
        }
        assert!(removed.len() == 4 && removed.iter().all(|old| slots.remove(*old).is_none()));
    }
}
