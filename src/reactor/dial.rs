//! Outgoing connections: the addresses are tried in order, one socket at a time, under one
//! deadline.

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

/// The least time for one address, if that much is left. Go uses the same number.
const MIN_TIME_PER_ADDRESS: Duration = Duration::from_secs(2);
/// How often an address is retried after a self-connect (TCP simultaneous open to its own port). Go
/// uses the same number.
const MAX_SELF_CONNECTS: u8 = 2;

/// An outgoing connection that is not established yet.
#[derive(Debug)]
pub(super) struct Attempt {
    /// The address that is being tried.
    addr: Address,
    /// The addresses to try after it.
    rest: VecDeque<Address>,
    /// Watched time (see `Clock`) at which the attempt on this address times out.
    pub(super) addr_deadline: u64,
    /// The timeout of this address.
    addr_timeout: Duration,
    /// Watched time at which the whole attempt times out.
    deadline: u64,
    /// The first failure.
    failure: Option<(Address, ConnectFailure)>,
    tried: usize,
    self_connects: u8,
}

impl<H: Handler, N: Net> Reactor<H, N> {
    /// Starts a connection to the first of `addrs` that answers. The addresses are tried in order;
    /// `timeout` is for all of them together.
    ///
    /// Each address gets an equal share of the time that is left, but at least two seconds while
    /// there are as many. The outcome is reported in one of the next turns: by [`Handler::open`],
    /// or by [`Handler::close`] with [`CloseReason::ConnectFailed`]. A connection that is
    /// established too late is closed without a callback. `Duration::MAX` waits as long as the
    /// system does.
    ///
    /// # Errors
    /// [`Error::Connect`] if nothing could be started: no address, no room for one more connection,
    /// a loop that is stopping, or a handler that panicked.
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
        self.release_unused_permits(); // between turns, no turn's end does it
        self.slots.clear_panic_suspect();
        begun.map_err(|(_, error)| Error::Connect(error))
    }

    /// Starts a connection that a callback has requested. If that fails, [`Handler::close`] is
    /// called, as for a later failure.
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

    /// Puts a connection in a slot and tries its first address, or returns why it cannot.
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
                "the handler panicked in `connection`",
            ))));
        };
        self.insert_slot(Slot::new(connection, None));
        // One tick more, since the clock is rounded down.
        let deadline = self.shared.clock.watched_after(timeout).saturating_add(1);
        let attempt = Attempt {
            addr,
            rest,
            addr_deadline: deadline,
            addr_timeout: timeout,
            deadline,
            failure: None,
            tried: 1,
            self_connects: 0,
        };
        self.dials.insert(id, attempt);
        self.connect_next(id);
        Ok(id)
    }

    /// Tries the current address, and the next ones, until one does not fail at once.
    fn connect_next(&mut self, id: ConnectionId) {
        while let Some(attempt) = self.dials.get_mut(&id) {
            attempt.set_addr_deadline(self.shared.clock.watched());
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
                    self.slots
                        .get(id)
                        .expect("a connecting id has a slot")
                        .stream = Some(stream);
                    break;
                }
                Err(error) => self.record_failure(id, ConnectFailure::from_io(error)),
            }
        }
        self.reschedule(id);
    }

    /// Handles the failure of an address: tries the next one, or closes the connection.
    fn fail_address(&mut self, id: ConnectionId, failure: ConnectFailure) {
        let Some(slot) = self.slots.get(id) else {
            return;
        };
        let stream = slot.stream.take();
        slot.readiness = Readiness::default();
        if let (Some(mut stream), Some(attempt)) = (stream, self.dials.get(&id)) {
            // This closes the socket, so a late success has no effect.
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

    /// Records a failure and moves on to the next address. Without one, the connection closes with
    /// the first failure.
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
            _ if attempt.deadline <= self.shared.clock.watched() => None,
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
            let slot = self.slots.get(id).expect("a connecting id has a slot");
            slot.connection.apply(
                Trigger::Fail(CloseReason::ConnectFailed(Box::new(error))),
                &mut self.shared,
            );
        }
    }

    /// Handles an event for a connecting socket: checks whether it is established.
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
                // The check was for the attempt. An open connection has other deadlines.
                slot.schedule_check(None, &mut self.shared);
                slot.connection
                    .established(&mut self.handler, &mut self.shared);
            }
            Ok(Established::WithItself) => self.fail_address(id, ConnectFailure::SelfConnect),
            Err(error) => self.fail_address(id, ConnectFailure::from_io(error)),
        }
    }

    /// Handles the timeout of an address, if it has expired.
    pub(super) fn expire_attempt(&mut self, id: ConnectionId) {
        let Some(attempt) = self
            .dials
            .get(&id)
            .filter(|attempt| attempt.addr_deadline <= self.shared.clock.seen())
        else {
            return;
        };
        let after = attempt.addr_timeout;
        self.shared.observe.note(|| Step::Deadline {
            id,
            expiry: Expiry::Connect,
        });
        self.fail_address(id, ConnectFailure::TimedOut { after });
    }
}

impl Attempt {
    /// Gives the current address its share of the time that is left.
    fn set_addr_deadline(&mut self, now: u64) {
        // The deadline has one tick more than the timeout.
        let left = Duration::from_millis(self.deadline.saturating_sub(now + 1));
        let addresses =
            u32::try_from(self.rest.len()).map_or(u32::MAX, |rest| rest.saturating_add(1));
        self.addr_timeout = (left / addresses).max(MIN_TIME_PER_ADDRESS).min(left);
        let ticks = u64::try_from(self.addr_timeout.as_millis()).unwrap_or(u64::MAX);
        self.addr_deadline = now
            .saturating_add(ticks)
            .saturating_add(1)
            .min(self.deadline)
            .max(now + 1);
    }
}

#[cfg(test)]
mod tests {
    use core::net::SocketAddr;

    use super::*;

    fn attempt(addresses: u16, deadline: u64) -> Attempt {
        let addr = |port| Address::from(SocketAddr::from(([127, 0, 0, 1], port)));
        let rest = (1..addresses).map(addr).collect();
        Attempt {
            addr: addr(0),
            rest,
            addr_deadline: 0,
            addr_timeout: Duration::ZERO,
            deadline,
            failure: None,
            tried: 0,
            self_connects: 0,
        }
    }

    /// As Go's `TestDialerPartialDeadline`: an equal share for each address, but at least two
    /// seconds, and never more than is left.
    #[test]
    fn addresses_share_the_timeout_with_a_minimum_of_two_seconds() {
        for (addresses, deadline, expected) in [
            (1, 60_001, 60_001),
            (3, 60_001, 20_001),
            (3, 5_001, 2_001),
            (3, 1_501, 1_501),
            (1, 1, 1),
            (1, u64::MAX, u64::MAX),
        ] {
            let mut attempt = attempt(addresses, deadline);
            attempt.set_addr_deadline(0);
            assert_eq!(
                attempt.addr_deadline, expected,
                "{addresses} addresses in {deadline} ms"
            );
        }
    }
}
