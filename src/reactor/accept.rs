//! Accepting connections: a bounded number each turn, so that open connections are not starved. No
//! accept error ends the loop.

use std::io::{self, ErrorKind};
use std::time::Instant;

use crate::connection::Connection;
use crate::error::Error;
use crate::error::panics::catch_panic;
use crate::handler::{Handler, Origin};
use crate::id::Token;
use crate::net::{Address, Net};
use crate::observe::Step;
use crate::reactor::Reactor;
use crate::reactor::slots::Slot;
use crate::reactor::stop::Phase;

/// A listening socket, and what is known of its backlog.
pub(super) struct Listener<N: Net> {
    socket: N::Listener,
    addr: Address,
    backlog: Backlog,
}

/// Whether a listener's backlog may hold connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backlog {
    /// It is empty; an event reports the next connection.
    Empty,
    /// It may hold some. Edge-triggered polling reports that only once, so it is remembered.
    Ready,
    /// It may hold some, but accepting from this listener failed. Try again at this time.
    RetryAt(Instant),
}

impl<N: Net> Listener<N> {
    /// Records an event: the backlog holds connections.
    pub(super) fn on_event(&mut self) {
        if self.backlog == Backlog::Empty {
            self.backlog = Backlog::Ready;
        }
    }
}

/// The longest backlog that a listener has by default (`net.core.somaxconn` on Linux).
const LONGEST_BACKLOG: usize = 4096;

/// What a failed accept means.
enum AcceptFailure {
    /// Only that connection has failed. Accept the next one.
    Retry,
    /// The system is out of descriptors or memory, for every listener. Retry after a pause.
    NoResources,
    /// This listener fails. Retry after a pause.
    ThisListener,
}

/// EMFILE, ENFILE and ENOBUFS, which have no [`ErrorKind`]: their numbers on Unix (the last one on
/// Linux and on BSD) and on Windows.
const OUT_OF_RESOURCES: [i32; 6] = [24, 23, 105, 55, 10024, 10055];

/// ENONET, EPROTO, ENOPROTOOPT and EHOSTDOWN on Linux, where accept(2) also returns pending network
/// errors of the new connection.
const PEER_GONE: [i32; 4] = [64, 71, 92, 112];

/// Classifies an error of accept(2).
fn classify(error: &io::Error) -> AcceptFailure {
    let is_one_of = |numbers: &[i32]| {
        error
            .raw_os_error()
            .is_some_and(|number| numbers.contains(&number))
    };
    match error.kind() {
        ErrorKind::Interrupted
        | ErrorKind::ConnectionAborted
        | ErrorKind::ConnectionReset
        | ErrorKind::HostUnreachable
        | ErrorKind::NetworkDown
        | ErrorKind::NetworkUnreachable
        | ErrorKind::TimedOut => AcceptFailure::Retry,
        _ if cfg!(target_os = "linux") && is_one_of(&PEER_GONE) => AcceptFailure::Retry,
        ErrorKind::OutOfMemory => AcceptFailure::NoResources,
        _ if is_one_of(&OUT_OF_RESOURCES) => AcceptFailure::NoResources,
        // An unknown error: pause, but only this listener.
        _ => AcceptFailure::ThisListener,
    }
}

impl<H: Handler, N: Net> Reactor<H, N> {
    /// Adds a listener of the [`Net`]'s own type, bound to `addr`.
    ///
    /// # Errors
    /// [`Error::Listen`] if it cannot be registered, or if the loop is stopping.
    pub fn add_listener(
        &mut self,
        mut socket: N::Listener,
        addr: impl Into<Address>,
    ) -> Result<(), Error> {
        let addr = addr.into();
        let token = Token::Listener(self.listeners.len()).pack();
        let registered = self
            .phase
            .running()
            .and_then(|()| self.net.listen(&mut socket, token));
        registered.map_err(|source| Error::Listen {
            addr: addr.to_string(),
            source,
        })?;
        self.listeners.push(Listener {
            socket,
            addr,
            backlog: Backlog::Empty,
        });
        Ok(())
    }

    /// Returns the addresses of the listeners, in the order in which they were added. Empty once
    /// the loop is stopping.
    pub fn local_addrs(&self) -> Vec<Address> {
        self.listeners
            .iter()
            .map(|listener| listener.addr.clone())
            .collect()
    }

    /// Accepts pending connections, from each listener at most
    /// [`Config::accepts_per_turn`](crate::Config::accepts_per_turn).
    #[inline]
    pub(super) fn accept(&mut self) {
        if self.accept_pending {
            self.accept_pending_connections();
            self.accept_pending = self
                .listeners
                .iter()
                .any(|listener| listener.backlog != Backlog::Empty);
        }
    }

    fn accept_pending_connections(&mut self) {
        let now = self.shared.now();
        if self.accept_paused_until.is_some_and(|until| until <= now) {
            self.accept_paused_until = None;
        }
        let listeners = self.listeners.len();
        for n in 0..listeners {
            // Each turn begins with another listener. Near the connection limit, the first one
            // takes all the room that is left.
            let number =
                (n + self.shared.observe.counters().turns as usize % listeners) % listeners;
            if let Backlog::RetryAt(at) = self.listeners[number].backlog {
                if at <= now {
                    self.listeners[number].backlog = Backlog::Ready;
                }
            }
            for _ in 0..self.shared.config.accepts_per_turn {
                if self.listeners[number].backlog != Backlog::Ready
                    || self.accept_paused_until.is_some()
                    || !self.acquire_permit()
                {
                    break;
                }
                self.accept_one(number);
            }
        }
    }

    /// Accepts all connections that are in the backlogs already, and closes the listeners. Closing
    /// a listener resets the connections in its backlog.
    pub(super) fn accept_backlog(&mut self) {
        while let Some(last) = self.listeners.last_mut() {
            last.backlog = Backlog::Ready;
            let number = self.listeners.len() - 1;
            // The connection limit does not apply here: these connections close soon.
            let most = self
                .max_connections
                .saturating_add(LONGEST_BACKLOG)
                .min(Token::MAX_SLOTS);
            while self.listeners[number].backlog == Backlog::Ready
                && self.slots.len() < most
                && self.accept_paused_until.is_none()
            {
                if let Some(permits) = &mut self.permits {
                    permits.acquire_beyond_limit(self.slots.len());
                }
                self.accept_one(number);
            }
            // No work in between: connections that arrive before the close are lost.
            self.unlisten_last();
        }
    }

    /// Accepts one connection. The caller has acquired its permit.
    fn accept_one(&mut self, number: usize) {
        self.slots.clear_panic_suspect();
        let listener = &mut self.listeners[number];
        let error = match self.net.accept(&mut listener.socket) {
            Ok((stream, peer)) => match self.add_accepted(stream, peer, number) {
                Ok(()) => return,
                Err(error) => error,
            },
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return listener.backlog = Backlog::Empty;
            }
            Err(error) => {
                self.handle_accept_error(number, &error);
                error
            }
        };
        self.shared.observe.note(|| Step::AcceptFailed {
            listener: number,
            error: &error,
        });
    }

    /// Decides when to accept again after an error.
    fn handle_accept_error(&mut self, number: usize, error: &io::Error) {
        let listener = &mut self.listeners[number];
        let (now, pause) = (self.shared.now(), self.shared.config.accept_backoff);
        let what_now = match classify(error) {
            AcceptFailure::Retry => {
                return log::debug!(
                    "connection lost before {} accepted it: {error}",
                    listener.addr
                );
            }
            AcceptFailure::NoResources => {
                self.accept_paused_until = Some(now + pause);
                "all listeners pause"
            }
            AcceptFailure::ThisListener => {
                listener.backlog = Backlog::RetryAt(now + pause);
                "this listener pauses"
            }
        };
        if let Some(suppressed) = self
            .shared
            .log_throttle
            .allow(("accept", error.raw_os_error()), now)
        {
            log::warn!(
                "cannot accept on {}: {error}; {what_now} for {pause:?}{suppressed}",
                listener.addr
            );
        }
    }

    /// Registers a new socket, once and for both directions, makes its connection, puts that in a
    /// slot and calls [`Handler::open`].
    fn add_accepted(
        &mut self,
        mut stream: N::Stream,
        peer: Address,
        listener: usize,
    ) -> io::Result<()> {
        let id = self.slots.next_id();
        let origin = Origin::Accepted { peer, listener };
        let made = self
            .net
            .register(&mut stream, Token::of(id).pack())
            .and_then(|()| {
                let connection = catch_panic(|| Connection::new(id, &origin, &mut self.handler));
                connection.ok_or_else(|| {
                    self.shared.observe.note(|| Step::Panicked { id: Some(id) });
                    let _ = self.net.deregister(&mut stream);
                    io::Error::other("the handler panicked in `connection`")
                })
            });
        let peer = origin.peer();
        let connection = made.inspect_err(|error| {
            if let Some(suppressed) = self
                .shared
                .log_throttle
                .allow(("admit", error.raw_os_error()), self.shared.clock.now())
            {
                log::warn!("dropped a new connection from {peer}: {error}{suppressed}");
            }
        })?;
        self.shared
            .observe
            .note(|| Step::Accepted { id, peer, listener });
        self.insert_slot(Slot::new(connection, Some(stream)));
        let slot = self.slots.get(id).expect("just inserted");
        slot.connection
            .established(&mut self.handler, &mut self.shared);
        self.reschedule(id);
        self.enforce_loop_limits();
        Ok(())
    }

    /// Puts a connection in its slot, and makes it known to the mailbox.
    pub(super) fn insert_slot(&mut self, slot: Slot<H, N>) {
        let id = slot.connection.id();
        self.slots.insert(slot);
        self.mailbox.with(|state| state.connection_opened(id));
    }

    /// True if a connection can be accepted now.
    pub(super) fn can_accept(&self) -> bool {
        self.accept_pending && self.has_pending_accept() && self.has_room()
    }

    /// True if a listener may have connections and no pause is in force.
    pub(super) fn has_pending_accept(&self) -> bool {
        self.accept_paused_until.is_none()
            && self
                .listeners
                .iter()
                .any(|listener| listener.backlog == Backlog::Ready)
    }

    /// Returns when to accept again after a pause.
    #[inline]
    pub(super) fn next_accept(&self) -> Option<Instant> {
        if self.accept_pending {
            self.next_accept_retry()
        } else {
            None
        }
    }

    fn next_accept_retry(&self) -> Option<Instant> {
        let times = self
            .listeners
            .iter()
            .filter_map(|listener| match listener.backlog {
                Backlog::RetryAt(at) => Some(at),
                Backlog::Ready => self.accept_paused_until,
                Backlog::Empty => None,
            });
        // With a shared limit, try then: a permit may be free, and only an attempt makes the limit
        // wake this loop when one is.
        times.min().filter(|_| {
            if self.permits.is_some() {
                matches!(self.phase, Phase::Running)
            } else {
                self.has_room()
            }
        })
    }

    /// Closes all listeners. New connections are refused from then on.
    pub(super) fn unlisten(&mut self) {
        while !self.listeners.is_empty() {
            self.unlisten_last();
        }
    }

    fn unlisten_last(&mut self) {
        let Some(listener) = self.listeners.pop() else {
            return;
        };
        if let Err(error) = self.net.unlisten(listener.socket) {
            log::warn!(
                "cannot deregister the listener on {}: {error}",
                listener.addr
            );
        }
    }
}
