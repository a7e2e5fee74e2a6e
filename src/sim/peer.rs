//! The far end of a connection, as a test plays it.

use std::cell::{RefCell, RefMut};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use super::link::{EndId, Mind};
use super::world::World;
use crate::net::Address;

/// The far end of one of the loop's connections: a client, or whoever the loop has dialed.
///
/// What it is told to do it does as far as its own system's buffers let it, while the simulation goes on. Clones are the same peer.
#[derive(Clone)]
pub struct Peer {
    pub(super) world: Rc<RefCell<World>>,
    pub(super) id: EndId,
}

/// How a connection stands, as its peer sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    /// Not established yet.
    #[default]
    Connecting,
    /// Established, and nothing has ended it. What the peer itself has closed is so too, until the other side has ended.
    Open,
    /// The loop's end was read: everything that it has sent is there.
    Ended,
    /// Broken. What the loop has sent last may be missing.
    Reset,
    /// Nobody listened.
    Refused,
}

/// Who broke a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The loop: it closed the socket while bytes were unread, or still came in.
    Loop,
    /// The peer, on purpose, or by closing while bytes were unread or still came in.
    Peer,
    /// One of the [`Fault`](super::Fault)s.
    Net,
}

/// What really happened on the loop's side of a connection, for an oracle to compare with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Truth {
    /// Bytes that the loop has read.
    pub read: u64,
    /// Bytes that it has written.
    pub written: u64,
    /// When it last read some, by the simulation's clock.
    pub last_read: Duration,
    /// When it last wrote some.
    pub last_write: Duration,
}

impl Peer {
    fn mind(&self) -> RefMut<'_, Mind> {
        RefMut::map(self.world.borrow_mut(), |world| {
            world.end(self.id).mind().expect("a peer's own end")
        })
    }

    /// Its own address: what the loop knows it by.
    pub fn addr(&self) -> Address {
        self.world.borrow_mut().end(self.id).addr.clone()
    }

    /// Sends bytes, as soon as there is room for them.
    pub fn send(&self, bytes: &[u8]) {
        self.mind().outgoing.extend(bytes);
        self.world.borrow_mut().pump(self.id);
    }

    /// Bytes that it was told to send and that its own system has had no room for yet.
    pub fn unsent(&self) -> usize {
        self.mind().outgoing.len()
    }

    /// What it has read since this was last asked.
    pub fn received(&self) -> Vec<u8> {
        std::mem::take(&mut self.mind().received)
    }

    /// Whether it reads. It does from the beginning.
    pub fn set_reading(&self, reads: bool) {
        self.mind().reads = reads;
        self.world.borrow_mut().take_in(self.id);
    }

    /// Ends its sending, after all that it was told to send.
    pub fn shut_write(&self) {
        self.mind().shut = true;
        self.world.borrow_mut().pump(self.id);
    }

    /// Closes its socket at once. What it was told to send and had no room for is not sent; what it has not read makes a reset of it.
    pub fn close(&self) {
        self.world.borrow_mut().close(self.id, Blame::Peer);
    }

    /// Closes its socket with a reset.
    pub fn reset(&self) {
        self.world.borrow_mut().abort(self.id, Blame::Peer);
    }

    /// How the connection stands.
    pub fn fate(&self) -> Fate {
        self.mind().fate
    }

    /// Who broke the connection, if somebody did.
    pub fn blame(&self) -> Option<Blame> {
        self.world.borrow().links[self.id.link].blame
    }

    /// What really happened at the loop's end.
    pub fn truth(&self) -> Truth {
        self.world
            .borrow_mut()
            .end(self.id.other())
            .watch()
            .map(|watch| watch.truth)
            .unwrap_or_default()
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("link", &self.id.link)
            .field("fate", &self.fate())
            .finish_non_exhaustive()
    }
}
