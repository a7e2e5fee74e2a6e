//! What handlers and clients record during a run, for the checks at the end.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use glassloop::{ConnectionId, Stop};

use crate::delivery::{DeliveryChecker, Party};

/// Shared by the handler, the clients and the run.
pub(crate) type SharedRecord = Rc<RefCell<Record>>;

/// What has happened so far, and what is expected of each client.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub delivery: DeliveryChecker,
    /// The connection of each client.
    pub ids: BTreeMap<Party, ConnectionId>,
    /// Closes that a handler's action may cause: the client and the reason.
    pub expected_closes: BTreeSet<(Party, &'static str)>,
    /// Clients that a message can be guaranteed to reach: they have not ended their sending, and no
    /// handler has closed them.
    pub receiving: BTreeSet<Party>,
    /// Messages that must arrive: the receiver and the sender.
    pub guaranteed: BTreeSet<(Party, Party)>,
    /// Clients of the relay that have had all their answers.
    pub relayed: BTreeSet<Party>,
    /// How the loop was told to stop, and its deadline for it.
    pub stopped: Option<Stop>,
    pub stop_by: Option<Instant>,
    /// Timers and deadlines that fired early or late: the connection, the time set, and the time
    /// fired. `None`: never.
    pub mistimed: Vec<(ConnectionId, Instant, Option<Instant>)>,
    /// Messages posted and messages received.
    pub posts: (u64, u64),
    /// Panics caused by the test.
    pub deliberate_panics: u64,
}

impl Record {
    /// Records that a handler's action may close this client, with this reason.
    pub(crate) fn expect_close(&mut self, client: Party, reason: &'static str) {
        self.expected_closes.insert((client, reason));
        self.receiving.remove(&client);
    }

    /// Records that the loop was told to stop within `grace`.
    pub(crate) fn stop(&mut self, how: Stop, now: Instant, grace: Duration) {
        if self.stopped != Some(Stop::AtOnce) {
            self.stopped = Some(how);
        }
        self.stop_by = self.stop_by.into_iter().chain(now.checked_add(grace)).min();
    }
}
