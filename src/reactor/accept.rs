//! Letting connections in: never so many that others starve, and whatever fails, the loop goes on.

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

/// A socket that accepts, and whether it is worth asking.
pub(super) struct Listener<N: Net> {
    socket: N::Listener,
    addr: Address,
    backlog: Backlog,
}

/// Whether connections wait at a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backlog {
    /// Nobody; an event will tell.
    Empty,
    /// Somebody may. Edge-triggered polling says so once, so it is remembered.
    Ready,
    /// Somebody may, but this listener fails. Worth asking again then.
    RetryAt(Instant),
}

impl<N: Net> Listener<N> {
    /// An event has come: connections wait.
    pub(super) fn on_event(&mut self) {
        if self.backlog == Backlog::Empty {
            self.backlog = Backlog::Ready;
        }
    }
}

/// As many as a listener's queue holds where nobody has asked the system for more (`net.core.somaxconn` on Linux).
const LONGEST_BACKLOG: usize = 4096;

/// What to do about a failed accept.
enum AcceptFailure {
    /// That one connection is gone; ask for the next.
    Retry,
    /// The system has no room, whichever listener asks. Only time can mend that.
    NoResources,
    /// It is this listener that fails. Perhaps time mends it.
    ThisListener,
}

/// EMFILE, ENFILE and ENOBUFS, which have no [`ErrorKind`]: their numbers on Unix (the last one on Linux and on BSD) and on Windows.
const OUT_OF_RESOURCES: [i32; 6] = [24, 23, 105, 55, 10024, 10055];

/// ENONET, EPROTO, ENOPROTOOPT and EHOSTDOWN on Linux, where accept(2) passes on what happened to the new connection before it was accepted.
const PEER_GONE: [i32; 4] = [64, 71, 92, 112];

/// Sorts accept(2)'s errors.
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
        // Whatever nobody thought of: not again at once, but it need not be everybody's.
        _ => AcceptFailure::ThisListener,
    }
}

impl<H: Handler, N: Net> Reactor<H, N> {
    /// Accepts from a listener of the net's own kind, which is bound to `addr`.
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

    /// The addresses it listens on, in the order in which they were added. Empty once it is stopping.
    pub fn local_addrs(&self) -> Vec<Address> {
        self.listeners
            .iter()
            .map(|listener| listener.addr.clone())
            .collect()
    }

    /// Lets in those who wait, as many from each listener as a turn allows.
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
            // Each turn begins with another one: near the limit of connections the first takes all the room there is.
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

    /// Lets in all who wait already, and closes the listeners: whoever is in a listener's queue when it closes is reset.
    pub(super) fn accept_backlog(&mut self) {
        while let Some(last) = self.listeners.last_mut() {
            last.backlog = Backlog::Ready;
            let number = self.listeners.len() - 1;
            // The limit of connections does not count here: they leave soon.
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
            // Nothing in between: that is the time in which newcomers are lost.
            self.unlisten_last();
        }
    }

    /// Accepts a connection, for which a place is taken.
    fn accept_one(&mut self, number: usize) {
        self.slots.clear_last_lookup();
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

    /// Decides what a failed accept means.
    fn handle_accept_error(&mut self, number: usize, error: &io::Error) {
        let listener = &mut self.listeners[number];
        let (now, pause) = (self.shared.now(), self.shared.config.accept_backoff);
        let what_now = match classify(error) {
            AcceptFailure::Retry => {
                return log::debug!(
                    "a connection was gone before {} accepted it: {error}",
                    listener.addr
                );
            }
            AcceptFailure::NoResources => {
                self.accept_paused_until = Some(now + pause);
                "nobody is accepted for now"
            }
            AcceptFailure::ThisListener => {
                listener.backlog = Backlog::RetryAt(now + pause);
                "this listener rests"
            }
        };
        if let Some(suppressed) = self
            .shared
            .log_throttle
            .allow(("accept", error.raw_os_error()), now)
        {
            log::warn!(
                "cannot accept on {}: {error}; {what_now}, and is asked again every {pause:?}{suppressed}",
                listener.addr
            );
        }
    }

    /// Gives a new socket a slot, registers it once and for both directions, and tells the handler.
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
                    io::Error::other("the handler panicked over it")
                })
            });
        let peer = origin.peer();
        let connection = made.inspect_err(|error| {
            if let Some(suppressed) = self
                .shared
                .log_throttle
                .allow(("admit", error.raw_os_error()), self.shared.clock.now())
            {
                log::warn!("a connection from {peer} is dropped: {error}{suppressed}");
            }
        })?;
        self.shared
            .observe
            .note(|| Step::Accepted { id, peer, listener });
        self.insert_slot(Slot::new(connection, Some(stream)));
        let slot = self.slots.get(id).expect("just entered");
        slot.connection
            .established(&mut self.handler, &mut self.shared);
        self.reschedule(id);
        self.run_commands_if_full();
        Ok(())
    }

    /// Gives a connection its slot.
    pub(super) fn insert_slot(&mut self, slot: Slot<H, N>) {
        let id = slot.connection.id();
        self.slots.insert(slot);
        self.mailbox.with(|state| state.connection_opened(id));
    }

    /// Whether a listener could be asked at once.
    pub(super) fn can_accept(&self) -> bool {
        self.accept_pending && self.has_pending_accept() && self.has_room()
    }

    /// Whether a listener may have connections, and can be asked now.
    pub(super) fn has_pending_accept(&self) -> bool {
        self.accept_paused_until.is_none()
            && self
                .listeners
                .iter()
                .any(|listener| listener.backlog == Backlog::Ready)
    }

    /// When a listener that rests is worth asking again.
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
        // A shared limit may have room by then; only asking it wakes this loop when it has.
        times.min().filter(|_| {
            if self.permits.is_some() {
                matches!(self.phase, Phase::Running)
            } else {
                self.has_room()
            }
        })
    }

    /// Closes all listeners: newcomers are refused from here on.
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
