//! The slab of connections: who sits where, and whether it is still the same one.

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
    /// The tick at which its deadlines are looked at.
    pub(super) deadline_check: Option<NonZeroU64>,
    /// Bytes of its buffers that the loop's sum of them holds.
    pub(super) counted_bytes: u32,
    pub(super) readiness: Readiness,
    /// True exactly while its id is on the resume queue.
    pub(super) in_resume_queue: bool,
    /// True exactly while its id is on the list of those that were pending_flush outside of their own batch.
    pub(super) in_pending_flush: bool,
    /// Whether our sending side is shut.
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

    /// The socket of a connection that is past connecting.
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
                .expect("who is past connecting has a socket"),
            &mut self.readiness,
        )
    }
}

/// All connections of a loop.
pub(super) struct Slots<H: Handler, N: Net> {
    slab: Slab<Slot<H, N>>,
    /// The generation of the connection that was added last.
    generation: u32,
    /// The connection that was looked up last: a panic is blamed on the work for it.
    last_lookup: Option<ConnectionId>,
}

impl<H: Handler, N: Net> Default for Slots<H, N> {
    fn default() -> Self {
        Self {
            slab: Slab::new(),
            generation: 0,
            last_lookup: None,
        }
    }
}

impl<H: Handler, N: Net> Slots<H, N> {
    /// Bytes a slot takes; the slab adds a word to tell that it is taken, where the slot's type has no room for that.
    pub(super) const FOOTPRINT: usize = size_of::<Slot<H, N>>();

    /// Sees to it that so many connections find room without one of them having to wait until all others have moved. Memory that nobody
    /// has written to costs an address only.
    pub(super) fn reserve(&mut self, connections: usize) {
        self.slab.reserve(connections);
    }

    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    /// The name that the next connection to be added will have.
    pub(super) fn next_id(&mut self) -> ConnectionId {
        self.generation = self.generation.wrapping_add(1);
        let generation = NonZeroU32::new(self.generation).unwrap_or_else(|| {
            self.generation = 1; // 0 belongs to no connection
            NonZeroU32::MIN
        });
        let slot = u32::try_from(self.slab.vacant_key())
            .expect("fewer connections than a token can number");
        ConnectionId::new(slot, generation)
    }

    /// Adds a connection that was named by [`next_id`](Self::next_id).
    pub(super) fn insert(&mut self, slot: Slot<H, N>) {
        let id = slot.connection.id();
        let key = self.slab.insert(slot);
        assert_eq!(key, id.slot(), "a connection must sit where its name says");
        self.last_lookup = Some(id);
    }

    /// The connection with this very name.
    #[inline]
    pub(super) fn get(&mut self, id: ConnectionId) -> Option<&mut Slot<H, N>> {
        let slot = self
            .slab
            .get_mut(id.slot())
            .filter(|slot| slot.connection.id() == id)?;
        self.last_lookup = Some(id);
        Some(slot)
    }

    /// The same for one that was looked up last already.
    #[inline]
    pub(super) fn get_untracked(&mut self, id: ConnectionId) -> Option<&mut Slot<H, N>> {
        self.slab
            .get_mut(id.slot())
            .filter(|slot| slot.connection.id() == id)
    }

    /// The connection that sits there, whoever it is.
    pub(super) fn get_by_slot(&mut self, slot: usize) -> Option<&mut Slot<H, N>> {
        let slot = self.slab.get_mut(slot)?;
        self.last_lookup = Some(slot.connection.id());
        Some(slot)
    }

    /// The connection with this very name, if it is open.
    pub(super) fn get_open(&mut self, id: ConnectionId) -> Option<&mut Slot<H, N>> {
        self.get(id)
            .filter(|slot| matches!(slot.connection.state(), State::Open(_)))
    }

    /// The connection that an event is about, if that one is still there.
    #[inline]
    pub(super) fn get_by_token(&mut self, token: Token) -> Option<&mut Slot<H, N>> {
        let Token::Connection { slot, .. } = token else {
            return None;
        };
        let slot = self
            .slab
            .get_mut(slot)
            .filter(|slot| token.names(slot.connection.id()))?;
        self.last_lookup = Some(slot.connection.id());
        Some(slot)
    }

    /// The connection that was looked up last, unless other work has begun since.
    pub(super) fn last_lookup(&self) -> Option<ConnectionId> {
        self.last_lookup
    }

    /// Other work begins, for no connection or for one that has no slot yet.
    #[inline]
    pub(super) fn clear_last_lookup(&mut self) {
        self.last_lookup = None;
    }

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

    struct Nobody;

    impl Handler for Nobody {
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
    fn generations_wrap_past_zero_and_an_old_name_finds_nobody() {
        let mut slots = Slots::<Nobody, MioNet> {
            generation: u32::MAX - 2,
            ..Slots::default()
        };
        let mut gone: Vec<ConnectionId> = Vec::new();
        for generation in [u32::MAX - 1, u32::MAX, 1, 2] {
            let id = slots.next_id();
            assert_eq!((id.slot(), id.generation()), (0, generation));
            let origin = Origin::Dialed {
                peer: Address::Unix(None),
                key: 0,
            };
            slots.insert(Slot::new(Connection::new(id, &origin, &mut Nobody), None));
            assert!(slots.get(id).is_some() && slots.get_by_token(Token::of(id)).is_some());
            assert!(
                gone.iter().all(|old| slots.get(*old).is_none()
                    && slots.get_by_token(Token::of(*old)).is_none())
            );
            gone.extend(slots.remove(id).map(|slot| slot.connection.id()));
        }
        assert!(gone.len() == 4 && gone.iter().all(|old| slots.remove(*old).is_none()));
    }
}
