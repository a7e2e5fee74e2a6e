//! Letting connections in, and making them: never so many that others starve, and whatever fails, the loop goes on.

use core::net::SocketAddr;
use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use crate::connection::Connection;
use crate::error::Error;
use crate::guard::contain;
use crate::handler::{Handler, Origin};
use crate::id::{ConnectionId, Token};
use crate::net::Net;
use crate::observe::Step;
use crate::reactor::Reactor;
use crate::reactor::slots::{Due, Slot};
use crate::reactor::stop::Phase;
use crate::transport::Readiness;

/// A socket that accepts, and whether it is worth asking.
pub(super) struct Listener<N: Net> {
    socket: N::Listener,
    addr: SocketAddr,
    waiting: Waiting,
    /// Until then a failed accept is counted, but not logged again.
    quiet: Option<Instant>,
}

/// Whether connections wait at a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// Nobody; an event will tell.
    Nobody,
    /// Somebody may. Edge-triggered polling says so once, so it is remembered.
    Somebody,
    /// Somebody may, but the system could not hand him over. Worth asking again then.
    Until(Instant),
}

impl<N: Net> Listener<N> {
    /// An event has come: connections wait.
    pub(super) fn hear(&mut self) {
        if self.waiting == Waiting::Nobody {
            self.waiting = Waiting::Somebody;
        }
    }
}

/// What to do about a failed accept.
enum Failure {
    /// None waits.
    Blocked,
    /// That one connection is gone; ask for the next.
    Retry,
    /// The system has no room. Only time can mend that.
    BackOff,
}

/// Sorts accept(2)'s errors. Linux passes on what happened to the new connection before it was accepted.
fn classify(error: &io::Error) -> Failure {
    match error.kind() {
        ErrorKind::WouldBlock => Failure::Blocked,
        ErrorKind::Interrupted
        | ErrorKind::ConnectionAborted
        | ErrorKind::ConnectionReset
        | ErrorKind::HostUnreachable
        | ErrorKind::NetworkDown
        | ErrorKind::NetworkUnreachable
        | ErrorKind::TimedOut => Failure::Retry,
        // EMFILE, ENFILE, ENOBUFS, ENOMEM, and whatever nobody thought of: not again at once.
        _ => Failure::BackOff,
    }
}

impl<H: Handler, N: Net> Reactor<H, N> {
    /// Accepts from a listener of the net's own kind, which is bound to `addr`.
    ///
    /// # Errors
    /// [`Error::Listen`] if it cannot be registered, or if the loop is stopping.
    pub fn add_listener(&mut self, mut socket: N::Listener, addr: SocketAddr) -> Result<(), Error> {
        let token = Token::Listener(self.listeners.len()).pack();
        let registered = self.phase.running().and_then(|()| self.net.listen(&mut socket, token));
        registered.map_err(|source| Error::Listen { addr: addr.to_string(), source })?;
        self.listeners.push(Listener { socket, addr, waiting: Waiting::Nobody, quiet: None });
        Ok(())
    }

    /// The addresses it listens on, in the order in which they were added. Empty once it is stopping.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|listener| listener.addr).collect()
    }

    /// Begins a connection to `addr`. The handler is told how it went: by [`Handler::open`] or [`Handler::close`].
    ///
    /// # Errors
    /// [`Error::Connect`] if it could not even be begun, if there are as many connections as there may be, or if the loop is stopping.
    pub fn connect(&mut self, addr: SocketAddr) -> Result<ConnectionId, Error> {
        let failed = |source| Error::Connect { addr, source };
        self.phase.running().map_err(failed)?;
        if self.slots.len() >= self.max_connections {
            return Err(failed(io::Error::other(format!("{} connections are open, no more are allowed", self.slots.len()))));
        }
        let stream = self.net.connect(addr).map_err(failed)?;
        self.admit(stream, Origin::Dialed { peer: addr }).map_err(failed)
    }

    /// Lets in those who wait, as many from each listener as a turn allows.
    pub(super) fn accept(&mut self) {
        let listeners = self.listeners.len();
        for n in 0..listeners {
            // Each turn begins with another one: near the limit of connections the first takes all the room there is.
            let number = (n + self.shared.observe.counters().turns as usize) % listeners;
            if let Waiting::Until(at) = self.listeners[number].waiting {
                if at <= self.shared.now {
                    self.listeners[number].waiting = Waiting::Somebody;
                }
            }
            for _ in 0..self.shared.config.accepts_per_turn {
                if self.listeners[number].waiting != Waiting::Somebody || !self.has_room() {
                    break;
                }
                self.accept_one(number);
            }
        }
    }

    fn accept_one(&mut self, number: usize) {
        let listener = &mut self.listeners[number];
        let outcome = self.net.accept(&mut listener.socket);
        let error = match outcome {
            Ok((stream, peer)) => match self.admit(stream, Origin::Accepted { peer, listener: number }) {
                Ok(_) => return,
                Err(error) => {
                    log::warn!("a connection from {peer} is dropped: {error}");
                    error
                }
            },
            Err(error) => {
                match classify(&error) {
                    Failure::Blocked => return listener.waiting = Waiting::Nobody,
                    Failure::Retry => log::debug!("a connection was gone before {} accepted it: {error}", listener.addr),
                    Failure::BackOff => {
                        let (now, pause) = (self.shared.now, self.shared.config.accept_backoff);
                        listener.waiting = Waiting::Until(now + pause);
                        if listener.quiet.is_none_or(|until| until <= now) {
                            listener.quiet = Some(now + Duration::from_secs(1));
                            log::warn!("cannot accept on {}, trying again every {pause:?}: {error}", listener.addr);
                        }
                    }
                }
                error
            }
        };
        self.shared.observe.note(|| Step::AcceptFailed { listener: number, error: &error });
    }

    /// Gives a new socket a slot, registers it once and for both directions, and tells the handler.
    fn admit(&mut self, mut stream: N::Stream, origin: Origin) -> io::Result<ConnectionId> {
        let id = self.slots.next_id();
        self.net.register(&mut stream, Token::of(id).pack())?;
        let Some(connection) = contain(|| Connection::new(id, &origin, &mut self.handler)) else {
            log::error!("the handler panicked over a new connection from {}", origin.peer());
            self.shared.observe.note(|| Step::Panicked { id });
            let _ = self.net.deregister(&mut stream);
            return Err(io::Error::other("the handler panicked over it"));
        };
        self.shared.observe.note(|| match origin {
            Origin::Accepted { peer, listener } => Step::Accepted { id, peer, listener },
            Origin::Dialed { peer } => Step::Dialed { id, peer },
        });
        self.slots.insert(Slot { connection, stream, readiness: Readiness::default(), queued: false, due: Due::Never });
        if let Origin::Accepted { .. } = origin {
            let slot = self.slots.get(id).expect("just inserted");
            slot.connection.established(&mut self.handler, &mut self.shared);
            self.settle(id);
        }
        Ok(id)
    }

    /// Whether a listener could be asked at once.
    pub(super) fn can_accept(&self) -> bool {
        self.has_room() && self.listeners.iter().any(|listener| listener.waiting == Waiting::Somebody)
    }

    /// When a listener that rests is worth asking again.
    pub(super) fn next_accept(&self) -> Option<Instant> {
        let resting = self.listeners.iter().filter_map(|listener| match listener.waiting {
            Waiting::Until(at) => Some(at),
            Waiting::Nobody | Waiting::Somebody => None,
        });
        resting.min().filter(|_| self.has_room())
    }

    fn has_room(&self) -> bool {
        matches!(self.phase, Phase::Running) && self.slots.len() < self.max_connections
    }

    /// Closes all listeners: newcomers are refused from here on.
    pub(super) fn unlisten(&mut self) {
        for listener in self.listeners.drain(..) {
            if let Err(error) = self.net.unlisten(listener.socket) {
                log::warn!("cannot deregister the listener on {}: {error}", listener.addr);
            }
        }
    }
}
