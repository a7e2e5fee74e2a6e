//! A net that a test plays by hand, with a clock of its own and as many peers as it likes; and a handler that writes down what it is called for.

#![allow(dead_code, unreachable_pub)] // each test file uses its own part

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use glassloop::codec::Line;
use glassloop::net::{Established, Event, Net, Stream, Wake};
use glassloop::{
    Address, CloseReason, Config, ConnectionId, Context, Direction, Handler, LoopContext, Origin, Reactor, TimerId, Turn, Verdict,
};

/// What the outside world is like.
pub struct Stage {
    now: Instant,
    events: Vec<Event>,
    /// How many wait to be accepted.
    waiting: usize,
    /// Every socket there was, in the order in which they were made.
    peers: Vec<Peer>,
    /// What the loop asked of the poller.
    pub timeouts: Vec<Option<Duration>>,
    pub unlistened: usize,
}

/// The other side of a socket.
struct Peer {
    token: usize,
    says: VecDeque<u8>,
    leaves: Option<Leaving>,
    /// How many bytes more it takes.
    room: usize,
    got: Vec<u8>,
    established: Established,
    open: bool,
}

#[derive(Clone, Copy)]
enum Leaving {
    End,
    Reset,
}

/// The way to the stage for the loop.
pub struct Played(Rc<RefCell<Stage>>);

/// One socket, by the number of its peer. Dropped is closed.
pub struct Socket(Rc<RefCell<Stage>>, usize);

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let peer = &mut self.0.borrow_mut().peers[self.1];
        let n = peer.says.len().min(buf.len());
        assert!(!buf.is_empty(), "a read into nothing");
        for (to, byte) in buf.iter_mut().zip(peer.says.drain(..n)) {
            *to = byte;
        }
        match (n, peer.leaves) {
            (0, None) => Err(ErrorKind::WouldBlock.into()),
            (0, Some(Leaving::Reset)) => Err(ErrorKind::ConnectionReset.into()),
            _ => Ok(n),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let peer = &mut self.0.borrow_mut().peers[self.1];
        let n = peer.room.min(buf.len());
        peer.room -= n;
        peer.got.extend_from_slice(&buf[..n]);
        if n == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(n) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Socket {
    fn established(&mut self) -> io::Result<Established> {
        Ok(self.0.borrow().peers[self.1].established)
    }

    fn shut_write(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.0.borrow_mut().peers[self.1].open = false;
    }
}

struct Deaf;

impl Wake for Deaf {
    fn wake(&self) {}
}

impl Played {
    fn socket(&mut self, established: Established) -> Socket {
        let mut stage = self.0.borrow_mut();
        let (says, got) = (VecDeque::new(), Vec::new());
        stage.peers.push(Peer { token: 0, says, leaves: None, room: usize::MAX, got, established, open: true });
        Socket(self.0.clone(), stage.peers.len() - 1)
    }
}

impl Net for Played {
    type Listener = ();
    type Stream = Socket;
    const SHORT_READ_IS_EMPTY: bool = true;

    /// Without events it sleeps to the end of the timeout.
    fn poll(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<Instant> {
        let mut stage = self.0.borrow_mut();
        stage.timeouts.push(timeout);
        events.append(&mut stage.events);
        if let (true, Some(timeout)) = (events.is_empty(), timeout) {
            stage.now += timeout;
        }
        Ok(stage.now)
    }

    fn accept(&mut self, (): &mut ()) -> io::Result<(Socket, Address)> {
        let waiting = self.0.borrow().waiting;
        self.0.borrow_mut().waiting = waiting.checked_sub(1).ok_or(ErrorKind::WouldBlock)?;
        Ok((self.socket(Established::Yes), SocketAddr::from((Ipv4Addr::LOCALHOST, 1)).into()))
    }

    fn connect(&mut self, _: &Address) -> io::Result<Socket> {
        Ok(self.socket(Established::NotYet))
    }

    fn register(&mut self, socket: &mut Socket, token: usize) -> io::Result<()> {
        self.0.borrow_mut().peers[socket.1].token = token;
        Ok(())
    }

    fn deregister(&mut self, _: &mut Socket) -> io::Result<()> {
        Ok(())
    }

    fn listen(&mut self, (): &mut (), _: usize) -> io::Result<()> {
        Ok(())
    }

    fn unlisten(&mut self, (): ()) -> io::Result<()> {
        self.0.borrow_mut().unlistened += 1;
        Ok(())
    }

    fn now(&self) -> Instant {
        self.0.borrow().now
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(Deaf)
    }

    fn descriptor_limit(&self) -> Option<usize> {
        Some(100_000)
    }
}

/// A loop over a played net, and the hand that plays.
pub struct Play<H: Handler = Scribe> {
    pub reactor: Reactor<H, Played>,
    pub stage: Rc<RefCell<Stage>>,
    begun: Instant,
}

/// The token of the listener: the first of all.
const LISTENER: usize = 0;

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Play {
    pub fn new(config: Config) -> Self {
        Self::with_handler(Scribe::default(), config)
    }

    /// What the handler has written down since it was last asked, each with its millisecond.
    pub fn log(&mut self) -> Vec<(u64, Call)> {
        let begun = self.begun;
        let log = std::mem::take(&mut self.reactor.handler().log);
        log.into_iter().map(|(at, call)| (u64::try_from(at.duration_since(begun).as_millis()).unwrap(), call)).collect()
    }

    /// The same without the times.
    pub fn calls(&mut self) -> Vec<Call> {
        self.log().into_iter().map(|(_, call)| call).collect()
    }

    /// The name of the connection that was made last.
    pub fn last(&mut self) -> ConnectionId {
        self.reactor.handler().last.unwrap()
    }

    /// Runs `callback` on the connection that was made last.
    #[track_caller]
    pub fn with_last(&mut self, callback: impl FnOnce(&mut Context<'_, Scribe>) -> Verdict) {
        let id = self.last();
        assert!(self.reactor.with(id, |_, cx| callback(cx)), "{id} should be open");
    }
}

impl<H: Handler> Play<H> {
    /// A loop with one listener, whose clock stands where it began.
    pub fn with_handler(handler: H, config: Config) -> Self {
        let begun = Instant::now();
        let stage = Stage { now: begun, events: Vec::new(), waiting: 0, peers: Vec::new(), timeouts: Vec::new(), unlistened: 0 };
        let stage = Rc::new(RefCell::new(stage));
        let mut reactor = Reactor::with_net(Played(stage.clone()), handler, config).unwrap();
        reactor.add_listener((), SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        Self { reactor, stage, begun }
    }

    /// The time by the played clock.
    pub fn now(&self) -> Instant {
        self.stage.borrow().now
    }

    /// The instant of a millisecond, counted from the beginning.
    pub fn at(&self, millis: u64) -> Instant {
        self.begun + ms(millis)
    }

    /// One turn in which no time passes.
    pub fn turn(&mut self) {
        assert_eq!(self.reactor.turn(Some(Duration::ZERO)).unwrap(), Turn::Running);
    }

    /// Lets time pass in which the loop does not turn: the program does something else.
    pub fn skip(&mut self, time: Duration) {
        self.stage.borrow_mut().now += time;
    }

    /// Lets time pass, in which the loop turns whenever it wants, and until it has nothing more to do at the end. Returns how many turns that were.
    #[track_caller]
    pub fn pass(&mut self, time: Duration) -> u64 {
        let (until, before) = (self.now() + time, self.reactor.counters().turns);
        loop {
            let left = until.saturating_duration_since(self.now());
            if self.reactor.turn(Some(left)).unwrap() == Turn::Stopped {
                break;
            }
            if self.now() >= until && self.reactor.next_deadline().is_none_or(|at| at > self.now()) {
                break;
            }
            assert!(self.reactor.counters().turns < before + 20_000, "the loop does not come to rest: {:?}", self.reactor);
        }
        self.reactor.counters().turns - before
    }

    /// Lets `count` connections in. Their numbers follow each other; this is the last one's.
    pub fn admit(&mut self, count: usize) -> usize {
        let wanted = self.stage.borrow().peers.len() + count;
        self.stage.borrow_mut().waiting += count;
        self.stage.borrow_mut().events.push(Event { token: LISTENER, readable: true, ..Event::default() });
        let mut known = wanted - count;
        while known < wanted {
            self.turn();
            let there = self.stage.borrow().peers.len();
            (known..there).for_each(|peer| self.tell(peer, |event| event.writable = true));
            known = there;
        }
        self.turn();
        wanted - 1
    }

    /// The poller reports something of a peer's socket.
    pub fn tell(&self, peer: usize, what: impl FnOnce(&mut Event)) {
        let mut stage = self.stage.borrow_mut();
        let mut event = Event { token: stage.peers[peer].token, ..Event::default() };
        what(&mut event);
        stage.events.push(event);
    }

    /// The peer sends; the next turn will see it.
    pub fn say(&self, peer: usize, bytes: &[u8]) {
        self.stage.borrow_mut().peers[peer].says.extend(bytes);
        self.tell(peer, |event| event.readable = true);
    }

    /// The peer closes its sending side.
    pub fn end(&self, peer: usize) {
        self.stage.borrow_mut().peers[peer].leaves = Some(Leaving::End);
        self.tell(peer, |event| (event.readable, event.read_closed) = (true, true));
    }

    /// The peer resets the connection.
    pub fn reset(&self, peer: usize) {
        self.stage.borrow_mut().peers[peer].leaves = Some(Leaving::Reset);
        self.tell(peer, |event| (event.readable, event.read_closed, event.write_closed, event.broken) = (true, true, true, true));
    }

    /// From here on the peer takes `room` bytes more. The poller does not say so.
    pub fn set_room(&self, peer: usize, room: usize) {
        self.stage.borrow_mut().peers[peer].room = room;
    }

    /// How a dial stands that `peer` is the other side of; the poller says so.
    pub fn answer(&self, peer: usize, established: Established) {
        self.stage.borrow_mut().peers[peer].established = established;
        self.tell(peer, |event| event.writable = true);
    }

    /// What the peer has got since this was last asked.
    pub fn got(&self, peer: usize) -> Vec<u8> {
        std::mem::take(&mut self.stage.borrow_mut().peers[peer].got)
    }

    /// Whether our end of a peer's connection is still there.
    pub fn is_open(&self, peer: usize) -> bool {
        self.stage.borrow().peers[peer].open
    }

    /// How many sockets were made so far.
    pub fn sockets(&self) -> usize {
        self.stage.borrow().peers.len()
    }
}

/// Something that a [`Scribe`] was called for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Open,
    Frame(String),
    Deadline(Direction),
    Timer(TimerId),
    LoopTimer(TimerId),
    Close(String),
}

pub fn frame(line: &str) -> Call {
    Call::Frame(line.into())
}

pub fn closed(reason: &str) -> Call {
    Call::Close(reason.into())
}

/// Writes down what it is called for, and does what it was given to do.
pub struct Scribe {
    pub log: Vec<(Instant, Call)>,
    pub last: Option<ConnectionId>,
    pub on_open: fn(&mut Context<'_, Scribe>) -> Verdict,
    pub on_frame: fn(&[u8], &mut Context<'_, Scribe>) -> Verdict,
    pub on_deadline: fn(Direction, &mut Context<'_, Scribe>) -> Verdict,
    pub on_timer: fn(TimerId, &mut Context<'_, Scribe>) -> Verdict,
    pub on_loop_timer: fn(TimerId, &mut LoopContext<'_, Scribe>),
}

/// What a thread may have a [`Scribe`] do.
pub type Task = Box<dyn FnOnce(&mut Scribe, &mut LoopContext<'_, Scribe>) + Send>;

impl Default for Scribe {
    /// Echoes, and goes on whatever happens.
    fn default() -> Self {
        Self {
            log: Vec::new(),
            last: None,
            on_open: |_| Verdict::Continue,
            on_frame: |line, cx| {
                cx.send(line);
                Verdict::Continue
            },
            on_deadline: |_, _| Verdict::Continue,
            on_timer: |_, _| Verdict::Continue,
            on_loop_timer: |_, _| {},
        }
    }
}

impl Handler for Scribe {
    type Codec = Line;
    type State = ();
    type Mail = Task;

    fn connection(&mut self, _: &Origin) -> (Line, ()) {
        (Line::default().max(1 << 20), ())
    }

    fn open(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        self.last = Some(cx.id());
        self.log.push((cx.now(), Call::Open));
        (self.on_open)(cx)
    }

    fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Verdict {
        self.log.push((cx.now(), Call::Frame(String::from_utf8_lossy(line).into())));
        (self.on_frame)(line, cx)
    }

    fn deadline(&mut self, which: Direction, cx: &mut Context<'_, Self>) -> Verdict {
        self.log.push((cx.now(), Call::Deadline(which)));
        (self.on_deadline)(which, cx)
    }

    fn timer(&mut self, timer: TimerId, cx: &mut Context<'_, Self>) -> Verdict {
        self.log.push((cx.now(), Call::Timer(timer)));
        (self.on_timer)(timer, cx)
    }

    fn loop_timer(&mut self, timer: TimerId, cx: &mut LoopContext<'_, Self>) {
        self.log.push((cx.now(), Call::LoopTimer(timer)));
        (self.on_loop_timer)(timer, cx);
    }

    fn mail(&mut self, task: Task, cx: &mut LoopContext<'_, Self>) {
        task(self, cx);
    }

    fn close(&mut self, cx: &mut Context<'_, Self>, reason: &CloseReason) {
        self.log.push((cx.now(), Call::Close(reason.to_string())));
    }
}
