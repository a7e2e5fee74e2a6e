//! One call of the poller, and how much the loop knows after it.
//!
//! A guard deadline is carried out only if the poller has reported everything since it expired. What
//! a call reports was ready before the call: the process may be stopped between the poller's answer
//! and the look at the clock. And one call does not always report everything:
//!
//! - A signal ends it early ([epoll_wait(2)](https://man7.org/linux/man-pages/man2/epoll_wait.2.html): `EINTR`), and a process that was stopped
//!   and continued comes back with one: it brings no events, however many sockets are ready.
//! - It brings [`Config::events_per_turn`](crate::Config::events_per_turn) events at most. The poller reports in the order in which sockets became
//!   ready, so calls that bring as many events as there are sockets have reported all that were ready before the first of them.

use std::io::{self, ErrorKind};
use std::time::Duration;

use crate::handler::Handler;
use crate::net::Net;
use crate::reactor::Reactor;

/// A row of polls that each brought as many events as they may.
#[derive(Clone, Copy, Debug)]
pub(super) struct FullPolls {
    /// Watched time when the first of them began.
    since: u64,
    /// Events that are still to come until all that was ready then is reported.
    left: usize,
}

impl<H: Handler, N: Net> Reactor<H, N> {
    /// Waits for events, for at most `timeout`, and advances the clock. At the tick `due` the loop
    /// has something to do without them.
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
            self.full_polls = None;
            // Not `now`: the process may have been stopped after the poller had collected its events.
            self.shared.clock.set_seen(begun);
        }
        Ok(())
    }

    /// The poller did not report everything: counts what it did report.
    #[cold]
    fn note_partial_poll(&mut self, before: u64) {
        let sources = self.slots.len() + self.listeners.len() + 1; // and the waker
        let mut full_polls = self.full_polls.unwrap_or(FullPolls {
            since: before,
            left: sources,
        });
        full_polls.left = full_polls.left.saturating_sub(self.events.len());
        self.full_polls = Some(full_polls).filter(|full_polls| full_polls.left > 0);
        if self.full_polls.is_none() {
            self.shared.clock.set_seen(full_polls.since);
        }
    }

    /// The work of a turn is done. A frame that is not finished, or a reply that is not sent, may have had to wait for it.
    #[inline]
    pub(super) fn note_work_time(&mut self) {
        // Read only where somebody may have waited: most turns do with one look at the clock.
        if self.buffered > 0 {
            self.shared.clock.worked_until(self.net.now());
        }
    }
}
