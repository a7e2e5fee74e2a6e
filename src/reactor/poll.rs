//! One call of the poller, and how complete its report is.
//!
//! A guard deadline (idle, frame, write timeout and the like) is carried out only if the poller has
//! reported everything since it expired. What a call reports was ready before the call: the process
//! may be stopped between the poller's answer and the reading of the clock. And one call does not
//! always report everything:
//!
//! - A signal ends it early
//!   ([epoll_wait(2)](https://man7.org/linux/man-pages/man2/epoll_wait.2.html): `EINTR`), and so
//!   does continuing a process that was stopped. It then returns no events, however many sockets
//!   are ready.
//! - It returns at most [`Config::events_per_turn`](crate::Config::events_per_turn) events. The
//!   poller reports sockets in the order in which they became ready. So once as many events as
//!   there are sockets have been returned, all sockets that were ready before the first of those
//!   calls have been reported.

use std::io::{self, ErrorKind};
use std::time::Duration;

use crate::handler::Handler;
use crate::net::Net;
use crate::reactor::Reactor;

/// Consecutive polls that each reported only a part: the event list was full, or a signal came.
#[derive(Clone, Copy, Debug)]
pub(super) struct PartialPolls {
    /// Watched time (see `Clock`) when the first of them began.
    since: u64,
    /// Events that must still be returned before all sockets ready at `since` are reported.
    left: usize,
}

impl<H: Handler, N: Net> Reactor<H, N> {
    /// Waits for events, at most for `timeout`, and advances the clock. `due` is the tick at which
    /// the loop has work even without an event.
    #[inline]
    pub(super) fn poll(&mut self, timeout: Option<Duration>, due: Option<u64>) -> io::Result<()> {
        let begun = self.shared.clock.watched();
        let (now, is_interrupted) = match self.net.poll(&mut self.events, timeout) {
            Ok(now) => (now, false),
            Err(error) if error.kind() == ErrorKind::Interrupted => (self.net.now(), true),
            Err(error) => return Err(error),
        };
        self.shared.clock.advance(now, due);
        self.poll_again = self.events.len() >= self.shared.config.events_per_turn;
        if is_interrupted || self.poll_again {
            self.note_partial_poll(begun);
        } else {
            self.partial_polls = None;
            // Not `now`: the process may have been stopped after the poller collected its events.
            self.shared.clock.set_seen(begun);
        }
        Ok(())
    }

    /// Counts what an incomplete poll has reported.
    #[cold]
    fn note_partial_poll(&mut self, begun: u64) {
        let sources = self.slots.len() + self.listeners.len() + 1; // 1 for the waker
        let mut partial_polls = self.partial_polls.unwrap_or(PartialPolls {
            since: begun,
            left: sources,
        });
        partial_polls.left = partial_polls.left.saturating_sub(self.events.len());
        self.partial_polls = Some(partial_polls).filter(|partial_polls| partial_polls.left > 0);
        if self.partial_polls.is_none() {
            self.shared.clock.set_seen(partial_polls.since);
        }
    }

    /// Records how long the turn has worked. A partial frame, or an unsent reply, may have waited
    /// for it, and that time must not count against the peer.
    #[inline]
    pub(super) fn note_work_time(&mut self) {
        // Only if such bytes exist: most turns read the clock once.
        if self.buffered > 0 {
            self.shared.clock.worked_until(self.net.now());
        }
    }
}
