//! What is unread in the loop's sockets, for an observer.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::world::World;
use crate::id::{ConnectionId, Token};

/// A view of the unread bytes in the loop's sockets. It can be used during a turn, for instance by
/// an [observer](super::Sim::observe).
#[derive(Clone, Debug)]
pub struct Sockets {
    pub(super) world: Rc<RefCell<World>>,
}

/// The unread bytes of one socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unread {
    /// Bytes that have arrived and were not read.
    pub bytes: usize,
    /// When the first of them arrived, in virtual time.
    pub since: Duration,
    /// True if the poller has a readable event that it has not reported yet.
    pub unreported: bool,
}

impl Sockets {
    /// The unread bytes of a connection's socket. Zero if the connection has no socket.
    pub fn unread(&self, id: ConnectionId) -> Unread {
        self.world.borrow_mut().unread(Token::of(id).pack())
    }
}
