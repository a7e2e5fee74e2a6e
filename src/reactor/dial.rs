//! Going out: several addresses in turn, one socket at a time, and a deadline over all.

use std::collections::VecDeque;
use std::time::Duration;

use crate::connection::Connection;
use crate::error::panics::catch_panic;
use crate::error::{CloseReason, ConnectError, ConnectFailure, Error};
use crate::handler::{Dial, Handler, Origin};
use crate::id::{ConnectionId, Token};
use crate::net::{Address, Established, Net, Readiness, Stream};
use crate::observe::Step;
use crate::reactor::Reactor;
use crate::reactor::slots::Slot;
use crate::reactor::stop::Phase;
use crate::state::{State, Trigger};
use crate::time::Expiry;

/// The least time that an address gets, as long as there is as much: Go's number.
const MIN_TIME_PER_ADDRESS: Duration = Duration::from_secs(2);
/// How often an address is tried again whose socket was connected with itself: Go's number too.
const MAX_SELF_CONNECTS: u8 = 2;

/// A connection that is being made.
#[derive(Debug)]
pub(super) struct Attempt {
    /// The address that is tried now.
    addr: Address,
    /// Those to be tried next.
    rest: VecDeque<Address>,
    /// Watched time at which this address has had its time.
    pub(super) until: u64,
    /// The time that it has.
    time: Duration,
    /// Watched time at which all together have had theirs.
    end: u64,
    /// What went wrong first.
    failure: Option<(Address, ConnectFailure)>,
    tried: usize,
    self_connects: u8,
}

impl<H: Handler, N: Net> Reactor<H, N> {
    /// Begins a connection to the first of `addrs` that answers, each tried in turn; `timeout` is for all together.
    ///
    /// Each gets an equal part of what is left of that, and at least two seconds if there are as many. The handler is told
    /// how it went, in one of the next turns: by [`Handler::open`], or by [`Handler::close`] with [`CloseReason::ConnectFailed`]. A connection that
    /// is established too late is closed, and nobody hears of it. `Duration::MAX` waits as long as the system does.
    ///
    /// # Errors
    /// [`Error::Connect`] if nothing could be begun: no address, no room for one more connection, a loop that is stopping, or a handler that panicked.
    pub fn connect_to(
        &mut self,
        addrs: Vec<Address>,
        timeout: Duration,
    ) -> Result<ConnectionId, Error> {
        self.update_clock();
        let begun = self.begin_dial(Dial {
            addrs,
            timeout,
            key: 0,
        });
        self.release_unused_permits(); // between turns, so no turn's end does it
        self.slots.clear_last_lookup();
        begun.map_err(|(_, error)| Error::Connect(error))
    }

    /// Begins one that a callback has asked for. If that fails the handler is told as if it had failed later.
    pub(super) fn start_dial(&mut self, dial: Dial) {
        let Err((origin, error)) = self.begin_dial(dial) else {
            return;
        };
        let id = self.slots.next_id();
        let Some(mut connection) = catch_panic(|| Connection::new(id, &origin, &mut self.handler))
        else {
            return self.shared.observe.note(|| Step::Panicked { id: Some(id) });
        };
        connection.apply(
            Trigger::Fail(CloseReason::ConnectFailed(Box::new(error))),
            &mut self.shared,
        );
        let reason = connection.finish_close(&mut self.handler, &mut self.shared);
        catch_panic(|| drop(reason));
    }

    /// Gives a connection its slot and tries its first address; or says why there is none.
    fn begin_dial(&mut self, dial: Dial) -> Result<ConnectionId, (Origin, ConnectError)> {
        let Dial {
            addrs,
            timeout,
            key,
        } = dial;
        let mut rest = VecDeque::from(addrs);
        let first = rest.front().cloned();
        let origin = Origin::Dialed {
            peer: first.clone().unwrap_or(Address::Unix(None)),
            key,
        };
        let failed = |failure| {
            (
                origin.clone(),
                ConnectError {
                    addr: first.clone(),
                    failure,
                    tried: 0,
                },
            )
        };
        let Phase::Running = self.phase else {
            return Err(failed(ConnectFailure::Stopping));
        };
        if !self.acquire_permit() {
            return Err(failed(ConnectFailure::NoRoom {
                open: self.open_connections(),
            }));
        }
        let Some(addr) = rest.pop_front() else {
            return Err(failed(ConnectFailure::NoAddress));
        };
        let id = self.slots.next_id();
        let Some(connection) = catch_panic(|| Connection::new(id, &origin, &mut self.handler))
        else {
            self.shared.observe.note(|| Step::Panicked { id: Some(id) });
            return Err(failed(ConnectFailure::Other(std::io::Error::other(
                "the handler panicked over it",
            ))));
        };
        self.insert_slot(Slot::new(connection, None));
        let end = self.shared.clock.watched_after(timeout).saturating_add(1); // so as not to be early
        let attempt = Attempt {
            addr,
            rest,
            until: end,
            time: timeout,
            end,
            failure: None,
            tried: 1,
            self_connects: 0,
        };
        self.dials.insert(id, attempt);
        self.connect_next(id);
        Ok(id)
    }

    /// Tries the addresses, from the present one on, until one does not fail at once.
    fn connect_next(&mut self, id: ConnectionId) {
        while let Some(attempt) = self.dials.get_mut(&id) {
            attempt.set_time(self.shared.clock.watched());
            let begun = self.net.connect(&attempt.addr).and_then(|mut stream| {
                self.net.register(&mut stream, Token::of(id).pack())?;
                Ok(stream)
            });
            match begun {
                Ok(stream) => {
                    self.shared.observe.note(|| Step::Dialed {
                        id,
                        peer: &attempt.addr,
                    });
                    self.slots.get(id).expect("who dials has a slot").stream = Some(stream);
                    break;
                }
                Err(error) => self.record_failure(id, ConnectFailure::from_io(error)),
            }
        }
        self.reschedule(id);
    }

    /// An address has failed: the next one is tried, or the connection is over.
    fn fail_address(&mut self, id: ConnectionId, failure: ConnectFailure) {
        let Some(slot) = self.slots.get(id) else {
            return;
        };
        let stream = slot.stream.take();
        slot.readiness = Readiness::default();
        if let (Some(mut stream), Some(attempt)) = (stream, self.dials.get(&id)) {
            // A success that comes from here on finds nobody: the socket is closed with this.
            if let Err(error) = self.net.deregister(&mut stream) {
                log::warn!("cannot deregister connection {id}: {error}");
            }
            self.shared.observe.note(|| Step::DialFailed {
                id,
                peer: &attempt.addr,
                failure: &failure,
            });
        }
        self.record_failure(id, failure);
        self.connect_next(id);
    }

    /// Remembers what the first failure was, and goes on to the next address; without one the connection is over.
    fn record_failure(&mut self, id: ConnectionId, failure: ConnectFailure) {
        let Some(attempt) = self.dials.get_mut(&id) else {
            return;
        };
        log::debug!("connection {id} to {}: {failure}", attempt.addr);
        let next = match failure {
            ConnectFailure::SelfConnect if attempt.self_connects < MAX_SELF_CONNECTS => {
                attempt.self_connects += 1;
                return;
            }
            _ if attempt.end <= self.shared.clock.watched() => None,
            _ => {
                attempt.self_connects = 0;
                attempt.rest.pop_front()
            }
        };
        if let Some(next) = next {
            let failed = std::mem::replace(&mut attempt.addr, next);
            attempt.failure.get_or_insert((failed, failure));
            attempt.tried += 1;
        } else if let Some(attempt) = self.dials.remove(&id) {
            let (addr, failure) = attempt.failure.unwrap_or((attempt.addr, failure));
            let error = ConnectError {
                addr: Some(addr),
                failure,
                tried: attempt.tried,
            };
            let slot = self.slots.get(id).expect("who dials has a slot");
            slot.connection.apply(
                Trigger::Fail(CloseReason::ConnectFailed(Box::new(error))),
                &mut self.shared,
            );
        }
    }

    /// An event has come for a socket that is connecting: finds out what became of it.
    pub(super) fn check_connected(&mut self, id: ConnectionId) {
        let Some(slot) = self.slots.get(id) else {
            return;
        };
        let (State::Connecting, Some(stream), true) = (
            slot.connection.state(),
            &mut slot.stream,
            slot.readiness.has(Readiness::WRITABLE),
        ) else {
            return;
        };
        match stream.established() {
            Ok(Established::NotYet) => slot.readiness.clear(Readiness::WRITABLE),
            Ok(Established::Yes) => {
                if let Some(attempt) = self.dials.remove(&id) {
                    slot.connection.set_peer_addr(&attempt.addr);
                }
                slot.schedule_check(None, &mut self.shared); // that was for the attempt; an open connection has deadlines of its own
                slot.connection
                    .established(&mut self.handler, &mut self.shared);
            }
            Ok(Established::WithItself) => self.fail_address(id, ConnectFailure::SelfConnect),
            Err(error) => self.fail_address(id, ConnectFailure::from_io(error)),
        }
    }

    /// An address has had its time.
    pub(super) fn expire_attempt(&mut self, id: ConnectionId) {
        let Some(attempt) = self
            .dials
            .get(&id)
            .filter(|attempt| attempt.until <= self.shared.clock.seen())
        else {
            return;
        };
        let after = attempt.time;
        self.shared.observe.note(|| Step::Deadline {
            id,
            expiry: Expiry::Connect,
        });
        self.fail_address(id, ConnectFailure::TimedOut { after });
    }
}

impl Attempt {
    /// Gives the present address its part of the time that is left.
    fn set_time(&mut self, now: u64) {
        let left = Duration::from_millis(self.end.saturating_sub(now + 1)); // the last tick is there so as not to be early
        let addresses =
            u32::try_from(self.rest.len()).map_or(u32::MAX, |rest| rest.saturating_add(1));
        self.time = (left / addresses).max(MIN_TIME_PER_ADDRESS).min(left);
        let ticks = u64::try_from(self.time.as_millis()).unwrap_or(u64::MAX);
        self.until = now
            .saturating_add(ticks)
            .saturating_add(1)
            .min(self.end)
            .max(now + 1);
    }
}

#[cfg(test)]
mod tests {
    use core::net::SocketAddr;

    use super::*;

    fn attempt(addresses: u16, end: u64) -> Attempt {
        let addr = |port| Address::from(SocketAddr::from(([127, 0, 0, 1], port)));
        let rest = (1..addresses).map(addr).collect();
        Attempt {
            addr: addr(0),
            rest,
            until: 0,
            time: Duration::ZERO,
            end,
            failure: None,
            tried: 0,
            self_connects: 0,
        }
    }

    /// Go's `TestDialerPartialDeadline`: an equal part for each address, but at least two seconds, but never more than there is.
    #[test]
    fn addresses_share_the_time_and_none_gets_too_little_to_be_of_use() {
        for (addresses, end, until) in [
            (1, 60_001, 60_001),
            (3, 60_001, 20_001),
            (3, 5_001, 2_001),
            (3, 1_501, 1_501),
            (1, 1, 1),
            (1, u64::MAX, u64::MAX),
        ] {
            let mut attempt = attempt(addresses, end);
            attempt.set_time(0);
            assert_eq!(attempt.until, until, "{addresses} addresses in {end} ms");
        }
    }
}
