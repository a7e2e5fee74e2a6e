//! What handlers and clients write down while a simulation runs: the oracle, and who has what coming.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use glassloop::ConnectionId;

use crate::oracle::{Oracle, Party};

/// Shared by the handler and the scene.
pub(crate) type Book = Rc<RefCell<Ledger>>;

/// What has been done so far, by whom and to whom.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub oracle: Oracle,
    /// Under which name each client is connected.
    pub ids: BTreeMap<Party, ConnectionId>,
    /// Those whom something may have ended that a handler did, and what.
    pub doomed: BTreeSet<(Party, &'static str)>,
    /// Those to whom a message could still be promised: they have not ended their sending, and nobody has ended them.
    pub attentive: BTreeSet<Party>,
    /// Messages from one client to another that were promised for certain.
    pub promised: BTreeSet<(Party, Party)>,
    /// Clients that were passed on to somebody else, and have had all their answers.
    pub done: BTreeSet<Party>,
    /// Whether the loop was told to stop.
    pub stopped: bool,
    /// Timers that came too early or too late: by how much.
    pub untimely: Vec<(Duration, Duration)>,
    /// The next panics are meant.
    pub panics: u64,
}

impl Ledger {
    /// A handler does something that ends a client's connection, for a reason with this name.
    pub(crate) fn doom(&mut self, client: Party, reason: &'static str) {
        self.doomed.insert((client, reason));
        self.attentive.remove(&client);
    }
}
