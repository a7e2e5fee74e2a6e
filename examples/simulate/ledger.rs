//! What handlers and clients write down while a simulation runs: the oracle, and who has what coming.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use glassloop::{ConnectionId, Stop};

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
    /// How the loop was told to stop, if it was, and by when it is to have done so.
    pub stopped: Option<Stop>,
    pub stop_by: Option<Instant>,
    /// Timers and deadlines that did not come just in time: whose, when they were to come, and when they did, if they did.
    pub untimely: Vec<(ConnectionId, Instant, Option<Instant>)>,
    /// Letters that were taken on, and those that were read.
    pub letters: (u64, u64),
    /// The next panics are meant.
    pub panics: u64,
}

impl Ledger {
    /// A handler does something that ends a client's connection, for a reason with this name.
    pub(crate) fn doom(&mut self, client: Party, reason: &'static str) {
        self.doomed.insert((client, reason));
        self.attentive.remove(&client);
    }

    /// Somebody tells the loop to stop; it has `grace` for it.
    pub(crate) fn stop(&mut self, how: Stop, now: Instant, grace: Duration) {
        if self.stopped != Some(Stop::AtOnce) {
            self.stopped = Some(how);
        }
        self.stop_by = self.stop_by.into_iter().chain(now.checked_add(grace)).min();
    }
}
