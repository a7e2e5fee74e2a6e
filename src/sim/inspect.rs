//! What a test can read from a simulation: the clock, the counts, the trace.

use std::time::{Duration, Instant};

use super::{FaultCounts, Sim, Sockets};
use crate::handler::Handler;

impl<H: Handler, const SHORT_READ_IS_EMPTY: bool> Sim<H, SHORT_READ_IS_EMPTY> {
    /// True if the last turn would have blocked forever: nothing was ready, and nothing was
    /// scheduled.
    pub fn is_blocked_forever(&self) -> bool {
        self.world.borrow().blocked_forever
    }

    /// The virtual time since the start.
    pub fn now(&self) -> Duration {
        self.world.borrow().now
    }

    /// The virtual time as the [`Instant`] that the loop sees.
    pub fn instant(&self) -> Instant {
        self.world.borrow().instant()
    }

    /// The virtual time of `at`.
    pub fn elapsed(&self, at: Instant) -> Duration {
        self.world.borrow().elapsed(at)
    }

    /// Bytes and FINs that have arrived at the loop's sockets so far: the input that can cause
    /// turns.
    pub fn arrived(&self) -> u64 {
        self.world.borrow().arrived
    }

    /// A view of the unread bytes in the loop's sockets, for an observer.
    pub fn sockets(&self) -> Sockets {
        Sockets {
            world: self.world.clone(),
        }
    }

    /// How long the loop's sockets were open, added up over all sockets.
    pub fn connection_time(&self) -> Duration {
        self.world.borrow().connection_time
    }

    /// How often each fault has happened.
    pub fn fault_counts(&self) -> FaultCounts {
        self.world.borrow().fault_counts.clone()
    }

    /// A hash of all steps so far. It is the same for the same run, on every machine.
    pub fn trace(&self) -> u64 {
        self.trace.borrow().hash
    }
}

impl<H: Handler, const SHORT_READ_IS_EMPTY: bool> std::fmt::Debug for Sim<H, SHORT_READ_IS_EMPTY> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sim")
            .field("now", &self.now())
            .field("reactor", &self.reactor)
            .finish_non_exhaustive()
    }
}
