//! The loop. [`Reactor::turn`] is one round of it, and the whole of it in ten lines.

mod accept;
mod serve;
mod slots;
mod stop;

use core::net::SocketAddr;
use std::collections::VecDeque;
use std::fmt;
use std::net::{TcpListener, ToSocketAddrs};
use std::time::{Duration, Instant};

use bytes::BytesMut;

use self::accept::Listener;
use self::slots::Slots;
use self::stop::Phase;
use crate::command::Handle;
use crate::config::Config;
use crate::deadline::Deadlines;
use crate::error::Error;
use crate::handler::{Context, Handler, Shared};
use crate::id::{ConnectionId, Token};
use crate::net::{Event, MioNet, Net};
use crate::observe::{Counters, Observer, Step};
use crate::verdict::{Stop, Verdict};

/// Descriptors that are not for connections: listeners, logs, the program's own files.
const RESERVE: usize = 64;

/// An event loop: one thread, one poller, all connections, one handler.
///
/// ```no_run
/// # use glassloop::{Context, Handler, Origin, Reactor, Verdict, codec::Line};
/// # struct Echo;
/// # impl Handler for Echo {
/// #     type Codec = Line;
/// #     type State = ();
/// #     fn connection(&mut self, _: &Origin) -> (Line, ()) { (Line::default(), ()) }
/// #     fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Verdict { cx.send(line); Verdict::Continue }
/// # }
/// let mut reactor = Reactor::bind("127.0.0.1:7000", Echo)?;
/// println!("listening on {}", reactor.local_addrs()[0]);
/// reactor.run()?;
/// # Ok::<(), glassloop::Error>(())
/// ```
///
/// Write `Reactor<MyHandler>`; the second parameter is the way to the operating system, and only tests name another one than the real one.
pub struct Reactor<H: Handler, N: Net = MioNet> {
    net: N,
    handler: H,
    listeners: Vec<Listener<N>>,
    slots: Slots<H, N>,
    shared: Shared,
    deadlines: Deadlines,
    /// Connections that have something to do without an event: a budget ran out, a pause ended.
    resume: VecDeque<ConnectionId>,
    /// Connections that were given something to write, or were closed, outside of their own batch.
    touched: Vec<ConnectionId>,
    /// Connections that are over; their slots are freed when the turn ends, and never inside a batch.
    closed: VecDeque<ConnectionId>,
    events: Vec<Event>,
    /// The read buffer that all connections share.
    scratch: Box<[u8]>,
    /// The write buffer that connections borrow for a batch.
    spare: BytesMut,
    max_connections: usize,
    handle: Handle,
    phase: Phase,
}

/// What a turn leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Turn {
    /// There may be more to do.
    Running,
    /// The loop has stopped, as it was asked to: nothing is open any more.
    Stopped,
}

impl<H: Handler> Reactor<H> {
    /// A loop with the default limits that listens on `addr`.
    ///
    /// # Errors
    /// [`Error::Listen`] if the address is taken or is none, [`Error::Setup`] if there is no poller to be had.
    pub fn bind(addr: impl ToSocketAddrs + fmt::Debug, handler: H) -> Result<Self, Error> {
        let mut reactor = Self::new(handler, Config::default())?;
        reactor.listen(addr)?;
        Ok(reactor)
    }

    /// A loop that listens nowhere yet.
    ///
    /// # Errors
    /// [`Error::Config`] if the limits contradict each other, [`Error::Setup`] if there is no poller to be had.
    pub fn new(handler: H, config: Config) -> Result<Self, Error> {
        config.check()?;
        let net = MioNet::new(config.events_per_turn, Token::Waker.pack(), config.nodelay).map_err(Error::Setup)?;
        Self::with_net(net, handler, config)
    }

    /// Listens on `addr` too; port 0 lets the system choose. Returns the real address.
    ///
    /// The backlog (connections that wait to be accepted) is std's. For another one, or other
    /// socket options, make the listener yourself and give it to [`listen_on`](Self::listen_on).
    ///
    /// # Errors
    /// [`Error::Listen`] if the address is taken, or is none.
    pub fn listen(&mut self, addr: impl ToSocketAddrs + fmt::Debug) -> Result<SocketAddr, Error> {
        let text = format!("{addr:?}").trim_matches('"').to_string();
        let listener = TcpListener::bind(addr).map_err(|source| Error::Listen { addr: text, source })?;
        self.listen_on(listener)
    }

    /// Accepts from a listener that was made elsewhere: by another crate, by another process. Returns its address.
    ///
    /// It is made non-blocking, and gets [`Config::nodelay`].
    ///
    /// # Errors
    /// [`Error::Listen`] with what the system says.
    pub fn listen_on(&mut self, listener: TcpListener) -> Result<SocketAddr, Error> {
        let addr = listener.local_addr().map_err(|source| Error::Listen { addr: "a given socket".into(), source })?;
        let failed = |source| Error::Listen { addr: addr.to_string(), source };
        let listener = self.net.adopt(listener).map_err(failed)?;
        self.add_listener(listener, addr)?;
        Ok(addr)
    }
}

impl<H: Handler, N: Net> Reactor<H, N> {
    /// A loop over any [`Net`].
    ///
    /// # Errors
    /// [`Error::Config`] if the limits contradict each other.
    pub fn with_net(net: N, handler: H, config: Config) -> Result<Self, Error> {
        config.check()?;
        let max_connections = max_connections(&config, net.descriptor_limit());
        Ok(Self {
            handle: Handle::new(net.waker()),
            net,
            handler,
            listeners: Vec::new(),
            slots: Slots::default(),
            deadlines: Deadlines::default(),
            resume: VecDeque::new(),
            touched: Vec::new(),
            closed: VecDeque::new(),
            events: Vec::with_capacity(config.events_per_turn),
            scratch: vec![0; config.scratch].into_boxed_slice(),
            spare: BytesMut::new(),
            max_connections,
            phase: Phase::Running,
            shared: Shared::new(config, Instant::now()),
        })
    }

    /// Turns until it is told to stop.
    ///
    /// # Errors
    /// [`Error::Poll`] if the poller is broken. Nothing that a peer does ends the loop.
    pub fn run(&mut self) -> Result<(), Error> {
        while self.turn(None)? == Turn::Running {}
        Ok(())
    }

    /// One round of the loop: waits for events, at most for `timeout` (`None`: as long as it takes), and does all there is to do.
    ///
    /// `Some(Duration::ZERO)` does not wait. It may return early, with nothing done. The clock is
    /// read once, when the poller wakes, and is the time for the whole turn.
    ///
    /// **Trap:** the wait is bounded by the nearest deadline as seen from the *last* turn's time. A
    /// program that does something else for long between turns does well to begin with a turn of zero.
    ///
    /// # Errors
    /// [`Error::Poll`] if the poller is broken.
    pub fn turn(&mut self, timeout: Option<Duration>) -> Result<Turn, Error> {
        if let Phase::Stopped = self.phase {
            return Ok(Turn::Stopped);
        }
        let resumable = self.resume.len();
        let patience = self.patience(timeout);
        self.shared.now = self.net.poll(&mut self.events, patience).map_err(Error::Poll)?;
        self.shared.observe.note(|| Step::Turn { now: self.shared.now, events: self.events.len() });

        self.dispatch(); //        events: accept, and serve who is ready
        self.resume(resumable); // who was not finished in the last turn
        self.deliver(); //         commands: what was asked of other connections and of the loop
        self.expire(); //          deadlines
        self.flush(); //           replies that were queued outside of a batch
        self.reap(); //            who is over
        Ok(self.outlook())
    }

    /// How long the next poll may sleep.
    fn patience(&self, timeout: Option<Duration>) -> Option<Duration> {
        let unfinished = !(self.resume.is_empty() && self.touched.is_empty() && self.shared.commands.is_empty());
        if unfinished || self.can_accept() {
            return Some(Duration::ZERO);
        }
        let deadlines = [self.deadlines.next(), self.phase.deadline(), self.next_accept()];
        match deadlines.into_iter().flatten().min() {
            None => timeout,
            Some(at) => {
                let left = at.saturating_duration_since(self.shared.now);
                Some(timeout.map_or(left, |timeout| timeout.min(left)))
            }
        }
    }

    /// Hands each event to whom it is for.
    fn dispatch(&mut self) {
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            match Token::unpack(event.token) {
                Token::Listener(number) => match self.listeners.get_mut(number) {
                    Some(listener) => listener.hear(),
                    None => self.shared.observe.note(|| Step::Stale),
                },
                Token::Waker => {} // the mailbox is looked into in every turn
                token @ Token::Connection { .. } => self.hear(token, &event),
            }
        }
        self.events = events;
        self.accept();
    }

    /// Goes on with those who were on the queue when the turn began, so that nobody is served twice in one turn.
    fn resume(&mut self, resumable: usize) {
        for _ in 0..resumable {
            let id = self.resume.pop_front().expect("only this function shortens the queue");
            self.go_on(id);
        }
    }

    /// Runs `callback` on an open connection, as if it were one of the handler's own: the next turn sends its replies and
    /// carries out its verdict, and a panic in it closes the connection. Returns whether the connection was there and open.
    ///
    /// For use between turns, by the program that owns the loop. [`Context::now`] is still the last turn's time.
    pub fn with(&mut self, id: ConnectionId, callback: impl FnOnce(&mut H, &mut Context<'_, H>) -> Verdict) -> bool {
        let Some(slot) = self.slots.open(id) else {
            self.shared.observe.note(|| Step::Stale);
            return false;
        };
        slot.connection.call(&mut self.handler, &mut self.shared, callback);
        self.touched.push(id);
        true
    }

    /// Stops the loop, as a [`Handle`] does from elsewhere: the next turns carry it out.
    pub fn stop(&mut self, how: Stop) {
        self.shared.commands.stop(how);
    }

    /// A hand on this loop for other threads.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The handler.
    pub fn handler(&mut self) -> &mut H {
        &mut self.handler
    }

    /// Takes the reactor apart and gives the handler back. Open connections are closed as they are.
    pub fn into_handler(self) -> H {
        self.handler
    }

    /// Lets `observer` see every step from here on, instead of the one before.
    pub fn set_observer(&mut self, observer: impl Observer + 'static) {
        self.shared.observe.set_observer(observer);
    }

    /// How often each step was taken so far.
    pub fn counters(&self) -> Counters {
        self.shared.observe.counters()
    }

    /// The limits it was made with.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// How many connections are there, those that are closing included.
    pub fn connections(&self) -> usize {
        self.slots.len()
    }

    /// The most there may be: [`Config::max_connections`], or what was derived in its stead.
    pub fn max_connections(&self) -> usize {
        self.max_connections
    }

    /// Bytes of heap that the connections' own buffers hold: nothing for those that are idle.
    pub fn buffered(&self) -> usize {
        self.slots.iter().map(|slot| slot.connection.heap()).sum()
    }

    /// Bytes of memory a connection takes while it is idle: its slot, and nothing else.
    pub fn idle_footprint() -> usize {
        Slots::<H, N>::FOOTPRINT
    }
}

/// As many connections as configured, or else as many as there are descriptors for.
fn max_connections(config: &Config, descriptors: Option<usize>) -> usize {
    let possible = descriptors.map(|limit| limit.saturating_sub(RESERVE));
    match (config.max_connections, possible) {
        (Some(wanted), Some(possible)) if wanted > possible => {
            log::warn!("{wanted} connections are allowed, but the system's limit of descriptors leaves room for {possible}");
            wanted
        }
        (Some(wanted), _) => wanted,
        (None, Some(possible)) => {
            if possible < RESERVE {
                log::warn!("the system's limit of descriptors leaves room for {possible} connections only");
            }
            possible.clamp(1, Token::MAX_SLOTS)
        }
        (None, None) => 1024 - RESERVE,
    }
}

impl<H: Handler, N: Net> fmt::Debug for Reactor<H, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor")
            .field("listening", &self.local_addrs())
            .field("connections", &self.slots.len())
            .field("phase", &self.phase)
            .field("counters", &self.counters())
            .finish_non_exhaustive()
    }
}
