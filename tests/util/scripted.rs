//! A scripted network and clock, for tests that decide each event, each system error and each
//! millisecond.
//!
//! [`NetState`] is the state of the network: what its calls return, and what the loop called.
//! [`Harness`] is a loop on such a network, with methods that script it.
//!
//! Defaults, where the test scripts nothing: a peer sends nothing, reads all that is written, and
//! stays connected. A dial starts and stays pending. The clock moves in a poll without events,
//! which waits for its whole timeout, and where the test moves it.

#![allow(dead_code, unreachable_pub)] // each test file uses its own part

use std::cell::{RefCell, RefMut};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use glassloop::internals::{Established, Event, Net, Stream, Token, Wake};
use glassloop::{Address, Config, Handler, Reactor, Turn};

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Returns an address for the scripted network, where addresses are only recorded.
pub fn loopback(port: u16) -> Address {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()
}

/// The results of the accepts of one listener.
///
/// First come the results in `script`, then always the system error `then_error`, or "would block"
/// without one.
#[derive(Default)]
pub struct ListenerScript {
    pub script: VecDeque<io::Result<()>>,
    pub then_error: Option<i32>,
    pub calls: u64,
    /// True if an accept panics, to stand in for a bug in the loop.
    pub panics: bool,
}

impl ListenerScript {
    fn next_result(&mut self) -> io::Result<()> {
        self.calls += 1;
        let then_error = || {
            Err(self
                .then_error
                .map_or(ErrorKind::WouldBlock.into(), io::Error::from_raw_os_error))
        };
        self.script.pop_front().unwrap_or_else(then_error)
    }
}

/// The peer of one of the loop's sockets.
pub struct Peer {
    /// The token under which the loop registered the socket.
    pub token: usize,
    /// The bytes that the peer sent and the loop has not read.
    unread: VecDeque<u8>,
    /// The result of a read once `unread` is empty.
    pub then_read: Result<usize, ErrorKind>,
    /// The results of the next writes. Later writes take as many bytes as there is room.
    pub writes: VecDeque<io::Result<usize>>,
    /// How many more bytes the writes take in total.
    room: usize,
    pub received: Vec<u8>,
    /// The state of a dial to this peer, or the system error that ended it.
    established: Result<Established, i32>,
    open: bool,
    /// The call on the loop's socket that panics, to stand in for a bug in the loop: `read`,
    /// `write`, `shut_write`, `established` or `deregister`.
    pub panics_in: Option<&'static str>,
}

impl Peer {
    /// True if the loop's socket is still open.
    pub fn is_open(&self) -> bool {
        self.open
    }
}

/// The state of the network: what its calls return, and what the loop called.
#[derive(Default)]
pub struct NetState {
    /// The time since the start.
    pub elapsed: Duration,
    /// The events that the next poll reports.
    pub events: Vec<Event>,
    /// The system error with which each poll fails.
    pub poll_error: Option<i32>,
    pub listeners: Vec<ListenerScript>,
    /// The peers of all sockets ever made, in order of creation.
    pub peers: Vec<Peer>,
    /// The immediate results of the next dials. Later dials start.
    pub connect_results: VecDeque<io::Result<()>>,
    /// The system errors with which the next registrations fail. Later ones succeed.
    pub register_errors: VecDeque<i32>,
    /// The limit of descriptors that the system reports.
    pub descriptors: Option<usize>,
    /// A hook that is called in each poll, for what happens elsewhere while the loop waits.
    pub on_poll: Option<Box<dyn FnMut()>>,
    /// Stops the process once, after the poll and before the loop reads the clock: for how long,
    /// and which events arrive meanwhile.
    pub stopped_after_poll: Option<(Duration, Vec<Event>)>,
    /// The timeouts that the loop gave to the poller, one for each turn.
    pub timeouts: Vec<Option<Duration>>,
    /// The addresses dialed, in order.
    pub dialed: Vec<Address>,
    /// How often the loop asked a socket for the state of its dial.
    pub established_calls: usize,
    pub deregistered: usize,
    pub listeners_closed: usize,
    /// The number of reads since the last poll. It detects a turn that reads without end.
    pub reads: u32,
}

impl NetState {
    /// Returns a network with `count` listeners and no limit of descriptors.
    pub fn with_listeners(count: usize) -> Self {
        Self {
            listeners: (0..count).map(|_| ListenerScript::default()).collect(),
            ..Self::default()
        }
    }
}

/// The first words of the message of a scripted panic.
pub const SCRIPTED_PANIC: &str = "scripted panic";

/// The network that the loop is given.
pub struct ScriptedNet {
    net: Rc<RefCell<NetState>>,
    begun: Instant,
}

/// The loop's socket of a connection, with the index of its peer. Dropping it closes it.
pub struct Socket(Rc<RefCell<NetState>>, usize);

impl Socket {
    fn peer(&self) -> RefMut<'_, Peer> {
        RefMut::map(self.0.borrow_mut(), |net| &mut net.peers[self.1])
    }

    fn enter(&self, call: &str) {
        let panics = self.peer().panics_in == Some(call);
        assert!(!panics, "{SCRIPTED_PANIC} in {call}");
    }
}

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.enter("read");
        assert!(!buf.is_empty(), "read with an empty buffer");
        let mut net = self.0.borrow_mut();
        net.reads += 1;
        assert!(net.reads < 1_000_000, "the turn reads without end");
        drop(net);
        let mut peer = self.peer();
        let n = peer.unread.len().min(buf.len());
        buf.iter_mut()
            .zip(peer.unread.drain(..n))
            .for_each(|(to, byte)| *to = byte);
        if n == 0 { Ok(peer.then_read?) } else { Ok(n) }
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.enter("write");
        let mut peer = self.peer();
        let n = peer
            .writes
            .pop_front()
            .unwrap_or(Ok(usize::MAX))?
            .min(peer.room)
            .min(buf.len());
        peer.room -= n;
        peer.received.extend_from_slice(&buf[..n]);
        if n == 0 {
            Err(ErrorKind::WouldBlock.into())
        } else {
            Ok(n)
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Socket {
    fn established(&mut self) -> io::Result<Established> {
        self.enter("established");
        self.0.borrow_mut().established_calls += 1;
        self.peer()
            .established
            .map_err(io::Error::from_raw_os_error)
    }

    fn shut_write(&mut self) -> io::Result<()> {
        self.enter("shut_write");
        Ok(())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.peer().open = false;
    }
}

struct NoWake;

impl Wake for NoWake {
    fn wake(&self) {}
}

impl ScriptedNet {
    fn socket(&self, established: Established) -> Socket {
        let peers = &mut self.net.borrow_mut().peers;
        let (token, unread, writes, received) = Default::default();
        let (then_read, room, established) =
            (Err(ErrorKind::WouldBlock), usize::MAX, Ok(established));
        peers.push(Peer {
            token,
            unread,
            then_read,
            writes,
            room,
            received,
            established,
            open: true,
            panics_in: None,
        });
        Socket(self.net.clone(), peers.len() - 1)
    }
}

impl Net for ScriptedNet {
    /// The index in [`NetState::listeners`].
    type Listener = usize;
    type Stream = Socket;
    const SHORT_READ_IS_EMPTY: bool = true;

    fn poll(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<Instant> {
        let mut net = self.net.borrow_mut();
        net.timeouts.push(timeout);
        net.reads = 0;
        if let Some(hook) = &mut net.on_poll {
            hook();
        }
        if let Some(error) = net.poll_error {
            return Err(io::Error::from_raw_os_error(error));
        }
        events.append(&mut net.events);
        if let Some((time, arrived)) = net.stopped_after_poll.take() {
            net.elapsed += time;
            net.events = arrived;
        } else if events.is_empty() {
            net.elapsed += timeout.unwrap_or_default();
        }
        Ok(self.begun + net.elapsed)
    }

    fn accept(&mut self, listener: &mut usize) -> io::Result<(Socket, Address)> {
        let panics = self.net.borrow().listeners[*listener].panics;
        assert!(!panics, "{SCRIPTED_PANIC} in accept");
        let result = self.net.borrow_mut().listeners[*listener].next_result();
        result.map(|()| (self.socket(Established::Yes), loopback(1)))
    }

    fn connect(&mut self, addr: &Address) -> io::Result<Socket> {
        self.net.borrow_mut().dialed.push(addr.clone());
        self.net
            .borrow_mut()
            .connect_results
            .pop_front()
            .unwrap_or(Ok(()))?;
        Ok(self.socket(Established::NotYet))
    }

    fn register(&mut self, socket: &mut Socket, token: usize) -> io::Result<()> {
        if let Some(error) = self.net.borrow_mut().register_errors.pop_front() {
            return Err(io::Error::from_raw_os_error(error));
        }
        socket.peer().token = token;
        Ok(())
    }

    fn deregister(&mut self, socket: &mut Socket) -> io::Result<()> {
        socket.enter("deregister");
        self.net.borrow_mut().deregistered += 1;
        Ok(())
    }

    fn listen(&mut self, _: &mut usize, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn unlisten(&mut self, _: usize) -> io::Result<()> {
        self.net.borrow_mut().listeners_closed += 1;
        Ok(())
    }

    fn now(&self) -> Instant {
        self.begun + self.net.borrow().elapsed
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(NoWake)
    }

    fn descriptor_limit(&self) -> Option<usize> {
        self.net.borrow().descriptors
    }
}

/// A loop on a scripted network.
///
/// A peer is named by the index of its socket, in order of creation: the first is 0.
pub struct Harness<H: Handler> {
    pub reactor: Reactor<H, ScriptedNet>,
    pub net: Rc<RefCell<NetState>>,
    begun: Instant,
}

impl<H: Handler> Harness<H> {
    /// Returns a loop that listens on every listener of `net`.
    pub fn on(net: NetState, handler: H, config: Config) -> Self {
        let (begun, listeners, net) = (
            Instant::now(),
            net.listeners.len(),
            Rc::new(RefCell::new(net)),
        );
        let mut reactor = Reactor::with_net(
            ScriptedNet {
                net: net.clone(),
                begun,
            },
            handler,
            config,
        )
        .unwrap();
        for listener in 0..listeners {
            reactor.add_listener(listener, loopback(0)).unwrap();
        }
        Self {
            reactor,
            net,
            begun,
        }
    }

    /// Returns the time of the scripted clock.
    pub fn now(&self) -> Instant {
        self.begun + self.net.borrow().elapsed
    }

    /// Returns the instant `millis` after the start.
    pub fn at(&self, millis: u64) -> Instant {
        self.begun + ms(millis)
    }

    /// Runs one turn in which no time passes.
    #[track_caller]
    pub fn turn(&mut self) {
        assert_eq!(
            self.reactor.turn(Some(Duration::ZERO)).unwrap(),
            Turn::Running
        );
    }

    /// Moves the clock without a turn of the loop, as if the program did something else.
    pub fn skip(&mut self, time: Duration) {
        self.net.borrow_mut().elapsed += time;
    }

    /// Runs the loop until `time` has passed and nothing more is due. Returns the number of turns.
    #[track_caller]
    pub fn run_for(&mut self, time: Duration) -> u64 {
        let (until, before) = (self.now() + time, self.reactor.counters().turns);
        loop {
            let left = until.saturating_duration_since(self.now());
            let stopped = self.reactor.turn(Some(left)).unwrap() == Turn::Stopped;
            let turns = self.reactor.counters().turns - before;
            if stopped
                || self.now() >= until
                    && self
                        .reactor
                        .next_deadline()
                        .is_none_or(|at| at > self.now())
            {
                return turns;
            }
            assert!(
                turns < 10_000,
                "the loop always has more to do: {:?}",
                self.reactor
            );
        }
    }

    /// Queues the results of the next accepts at a listener. The poller reports the listener once.
    pub fn queue_accepts(
        &self,
        listener: usize,
        results: impl IntoIterator<Item = io::Result<()>>,
    ) {
        let mut net = self.net.borrow_mut();
        net.listeners[listener].script.extend(results);
        net.events.push(Event {
            token: Token::Listener(listener).pack(),
            readable: true,
            ..Event::default()
        });
    }

    /// Makes the loop accept `count` connections at the first listener. Their indices are
    /// consecutive. Returns the last one.
    pub fn accept(&mut self, count: usize) -> usize {
        let mut known = self.socket_count();
        let wanted = known + count;
        self.queue_accepts(0, (0..count).map(|_| Ok(())));
        while known < wanted {
            self.turn();
            assert!(
                self.socket_count() > known,
                "no connection is accepted: {:?}",
                self.reactor
            );
            (known..self.socket_count())
                .for_each(|peer| self.report_event(peer, |event| event.writable = true));
            known = self.socket_count();
        }
        self.turn();
        wanted - 1
    }

    /// Reports an event of a peer's socket in the next poll.
    pub fn report_event(&self, peer: usize, what: impl FnOnce(&mut Event)) {
        let mut net = self.net.borrow_mut();
        let mut event = Event {
            token: net.peers[peer].token,
            ..Event::default()
        };
        what(&mut event);
        net.events.push(event);
    }

    /// Sends bytes from the peer. The next poll reports them.
    pub fn peer_sends(&self, peer: usize, bytes: &[u8]) {
        self.net.borrow_mut().peers[peer].unread.extend(bytes);
        self.report_event(peer, |event| event.readable = true);
    }

    /// Shuts down the peer's sending side.
    pub fn peer_shuts_write(&self, peer: usize) {
        self.net.borrow_mut().peers[peer].then_read = Ok(0);
        self.report_event(peer, |event| {
            (event.readable, event.read_closed) = (true, true);
        });
    }

    /// Resets the connection from the peer.
    pub fn peer_resets(&self, peer: usize) {
        self.net.borrow_mut().peers[peer].then_read = Err(ErrorKind::ConnectionReset);
        self.report_event(peer, |event| {
            (
                event.readable,
                event.read_closed,
                event.write_closed,
                event.broken,
            ) = (true, true, true, true);
        });
    }

    /// Lets writes to the peer take `room` more bytes. The poller does not report it.
    pub fn set_room(&self, peer: usize, room: usize) {
        self.net.borrow_mut().peers[peer].room = room;
    }

    /// Sets the state of the dial to `peer`, or the system error that ends it. The poller reports
    /// the socket.
    pub fn set_connect_state(&self, peer: usize, state: Result<Established, i32>) {
        self.net.borrow_mut().peers[peer].established = state;
        self.report_event(peer, |event| event.writable = true);
    }

    /// Returns what the peer has received since the last call.
    pub fn received(&self, peer: usize) -> Vec<u8> {
        std::mem::take(&mut self.net.borrow_mut().peers[peer].received)
    }

    /// True if the loop's socket to the peer is still open.
    pub fn is_open(&self, peer: usize) -> bool {
        self.net.borrow().peers[peer].open
    }

    /// Returns the number of open sockets.
    pub fn open_sockets(&self) -> usize {
        self.net
            .borrow()
            .peers
            .iter()
            .filter(|peer| peer.open)
            .count()
    }

    /// Returns the number of sockets ever made.
    pub fn socket_count(&self) -> usize {
        self.net.borrow().peers.len()
    }
}
