//! One net for all tests that play the outside world by hand: who knocks, what is said, what is refused, and how the time goes on.
//!
//! [`Stage`] is that world, and keeps what the loop did in it. [`Play`] is a loop on a stage, and the hand that plays.
//! What the test does not play goes well and happens to nobody: a peer says nothing, takes all that is written, and stays;
//! a dial begins, and is not decided. The clock stands still, except in a poll without events, which sleeps to the end of
//! its timeout, and where the test itself lets time pass.

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

/// An address of the played net. None of them leads anywhere.
pub fn loopback(port: u16) -> Address {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()
}

/// A listener, and what its accepts come to: first what is in the script, then for ever this error of the system, or that nobody waits.
#[derive(Default)]
pub struct Door {
    pub script: VecDeque<io::Result<()>>,
    pub then: Option<i32>,
    pub calls: u64,
    /// Whether an accept panics, as a bug in the loop would.
    pub panics: bool,
}

impl Door {
    fn answer(&mut self) -> io::Result<()> {
        self.calls += 1;
        let then = || {
            Err(self
                .then
                .map_or(ErrorKind::WouldBlock.into(), io::Error::from_raw_os_error))
        };
        self.script.pop_front().unwrap_or_else(then)
    }
}

/// The other side of a socket.
pub struct Peer {
    /// Under which the loop has registered our side.
    pub token: usize,
    /// What it has said, and what a read comes to when all of that is read.
    says: VecDeque<u8>,
    pub then: Result<usize, ErrorKind>,
    /// What the next writes come to, if they have their own script; and how many bytes more it takes in all.
    pub writes: VecDeque<io::Result<usize>>,
    room: usize,
    pub got: Vec<u8>,
    /// How a dial to it stands; or the system's error.
    established: Result<Established, i32>,
    open: bool,
    /// The call on our side of it that panics, as a bug in the loop would: `read`, `write`,
    /// `shut_write`, `established` or `deregister`.
    pub panics_in: Option<&'static str>,
}

impl Peer {
    /// Whether our side of it is still there.
    pub fn is_open(&self) -> bool {
        self.open
    }
}

/// What the outside world is like, and what the loop did there.
#[derive(Default)]
pub struct Stage {
    /// How far the clock has gone.
    pub elapsed: Duration,
    /// What the next poll reports.
    pub events: Vec<Event>,
    /// With which error of the system each poll fails from here on.
    pub poll_fails: Option<i32>,
    pub doors: Vec<Door>,
    /// The other side of every socket there was, in the order in which they were made.
    pub peers: Vec<Peer>,
    /// What the next dials come to at once; all later ones begin.
    pub dials: VecDeque<io::Result<()>>,
    /// With which errors of the system the next registrations of sockets fail; all later ones go well.
    pub refusals: VecDeque<i32>,
    /// How many descriptors the system says that there are.
    pub descriptors: Option<usize>,
    /// What happens elsewhere while the loop polls: called in each poll.
    pub on_poll: Option<Box<dyn FnMut()>>,
    /// The process is stopped once between the poller's answer and the look at the clock: for how
    /// long, and what arrives meanwhile.
    pub stopped_after_poll: Option<(Duration, Vec<Event>)>,
    /// What the loop asked of the poller, one for each turn.
    pub timeouts: Vec<Option<Duration>>,
    /// Where it dialed, in order.
    pub dialed: Vec<Address>,
    /// How often it asked a socket whether its dial is decided.
    pub asked: usize,
    pub deregistered: usize,
    pub unlistened: usize,
    /// How often it has read since the last poll: a loop that reads for ever would keep the test from its end.
    pub reads: u32,
}

impl Stage {
    /// With so many listeners, and no limit of descriptors.
    pub fn with_doors(count: usize) -> Self {
        Self {
            doors: (0..count).map(|_| Door::default()).collect(),
            ..Self::default()
        }
    }
}

/// With this begins the message of a panic that a test has asked for.
pub const PLAYED_BUG: &str = "played bug";

/// The loop's way to the stage.
pub struct Played {
    stage: Rc<RefCell<Stage>>,
    begun: Instant,
}

/// Our side of a connection, by the number of its peer. Dropped is closed.
pub struct Socket(Rc<RefCell<Stage>>, usize);

impl Socket {
    fn peer(&self) -> RefMut<'_, Peer> {
        RefMut::map(self.0.borrow_mut(), |stage| &mut stage.peers[self.1])
    }

    fn enter(&self, call: &str) {
        let panics = self.peer().panics_in == Some(call);
        assert!(!panics, "{PLAYED_BUG} in {call}");
    }
}

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.enter("read");
        assert!(!buf.is_empty(), "a read into nothing");
        let mut stage = self.0.borrow_mut();
        stage.reads += 1;
        assert!(stage.reads < 1_000_000, "the turn has no end");
        drop(stage);
        let mut peer = self.peer();
        let n = peer.says.len().min(buf.len());
        buf.iter_mut()
            .zip(peer.says.drain(..n))
            .for_each(|(to, byte)| *to = byte);
        if n == 0 { Ok(peer.then?) } else { Ok(n) }
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
        peer.got.extend_from_slice(&buf[..n]);
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
        self.0.borrow_mut().asked += 1;
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

struct Deaf;

impl Wake for Deaf {
    fn wake(&self) {}
}

impl Played {
    fn socket(&self, established: Established) -> Socket {
        let peers = &mut self.stage.borrow_mut().peers;
        let (token, says, writes, got) = Default::default();
        let (then, room, established) = (Err(ErrorKind::WouldBlock), usize::MAX, Ok(established));
        peers.push(Peer {
            token,
            says,
            then,
            writes,
            room,
            got,
            established,
            open: true,
            panics_in: None,
        });
        Socket(self.stage.clone(), peers.len() - 1)
    }
}

impl Net for Played {
    /// The number of its door.
    type Listener = usize;
    type Stream = Socket;
    const SHORT_READ_IS_EMPTY: bool = true;

    fn poll(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<Instant> {
        let mut stage = self.stage.borrow_mut();
        stage.timeouts.push(timeout);
        stage.reads = 0;
        if let Some(happens) = &mut stage.on_poll {
            happens();
        }
        if let Some(error) = stage.poll_fails {
            return Err(io::Error::from_raw_os_error(error));
        }
        events.append(&mut stage.events);
        if let Some((time, arrived)) = stage.stopped_after_poll.take() {
            stage.elapsed += time;
            stage.events = arrived;
        } else if events.is_empty() {
            stage.elapsed += timeout.unwrap_or_default();
        }
        Ok(self.begun + stage.elapsed)
    }

    fn accept(&mut self, door: &mut usize) -> io::Result<(Socket, Address)> {
        let panics = self.stage.borrow().doors[*door].panics;
        assert!(!panics, "{PLAYED_BUG} in accept");
        let answer = self.stage.borrow_mut().doors[*door].answer();
        answer.map(|()| (self.socket(Established::Yes), loopback(1)))
    }

    fn connect(&mut self, addr: &Address) -> io::Result<Socket> {
        self.stage.borrow_mut().dialed.push(addr.clone());
        self.stage
            .borrow_mut()
            .dials
            .pop_front()
            .unwrap_or(Ok(()))?;
        Ok(self.socket(Established::NotYet))
    }

    fn register(&mut self, socket: &mut Socket, token: usize) -> io::Result<()> {
        if let Some(error) = self.stage.borrow_mut().refusals.pop_front() {
            return Err(io::Error::from_raw_os_error(error));
        }
        socket.peer().token = token;
        Ok(())
    }

    fn deregister(&mut self, socket: &mut Socket) -> io::Result<()> {
        socket.enter("deregister");
        self.stage.borrow_mut().deregistered += 1;
        Ok(())
    }

    fn listen(&mut self, _: &mut usize, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn unlisten(&mut self, _: usize) -> io::Result<()> {
        self.stage.borrow_mut().unlistened += 1;
        Ok(())
    }

    fn now(&self) -> Instant {
        self.begun + self.stage.borrow().elapsed
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(Deaf)
    }

    fn descriptor_limit(&self) -> Option<usize> {
        self.stage.borrow().descriptors
    }
}

/// A loop on a stage, and the hand that plays. Peers are called by their numbers: the first socket's is 0.
pub struct Play<H: Handler> {
    pub reactor: Reactor<H, Played>,
    pub stage: Rc<RefCell<Stage>>,
    begun: Instant,
}

impl<H: Handler> Play<H> {
    /// With a listener for each door, and the clock at its beginning.
    pub fn on(stage: Stage, handler: H, config: Config) -> Self {
        let (begun, doors, stage) = (
            Instant::now(),
            stage.doors.len(),
            Rc::new(RefCell::new(stage)),
        );
        let mut reactor = Reactor::with_net(
            Played {
                stage: stage.clone(),
                begun,
            },
            handler,
            config,
        )
        .unwrap();
        for door in 0..doors {
            reactor.add_listener(door, loopback(0)).unwrap();
        }
        Self {
            reactor,
            stage,
            begun,
        }
    }

    /// The time by the played clock.
    pub fn now(&self) -> Instant {
        self.begun + self.stage.borrow().elapsed
    }

    /// The instant of a millisecond, counted from the beginning.
    pub fn at(&self, millis: u64) -> Instant {
        self.begun + ms(millis)
    }

    /// One turn in which no time passes.
    #[track_caller]
    pub fn turn(&mut self) {
        assert_eq!(
            self.reactor.turn(Some(Duration::ZERO)).unwrap(),
            Turn::Running
        );
    }

    /// Lets time pass in which the loop does not turn: the program does something else.
    pub fn skip(&mut self, time: Duration) {
        self.stage.borrow_mut().elapsed += time;
    }

    /// Lets time pass, in which the loop turns whenever it wants, and until it has nothing more to do at the end. Returns how many turns that were.
    #[track_caller]
    pub fn pass(&mut self, time: Duration) -> u64 {
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
                "the loop does not come to rest: {:?}",
                self.reactor
            );
        }
    }

    /// Somebody knocks at a door: that is what the next accepts there come to. The poller says so once.
    pub fn knock(&self, door: usize, answers: impl IntoIterator<Item = io::Result<()>>) {
        let mut stage = self.stage.borrow_mut();
        stage.doors[door].script.extend(answers);
        stage.events.push(Event {
            token: Token::Listener(door).pack(),
            readable: true,
            ..Event::default()
        });
    }

    /// Lets `count` connections in through the first door. Their numbers follow each other; this is the last one's.
    pub fn admit(&mut self, count: usize) -> usize {
        let mut known = self.sockets();
        let wanted = known + count;
        self.knock(0, (0..count).map(|_| Ok(())));
        while known < wanted {
            self.turn();
            assert!(
                self.sockets() > known,
                "nobody is let in: {:?}",
                self.reactor
            );
            (known..self.sockets()).for_each(|peer| self.tell(peer, |event| event.writable = true));
            known = self.sockets();
        }
        self.turn();
        wanted - 1
    }

    /// The poller reports something of a peer's socket.
    pub fn tell(&self, peer: usize, what: impl FnOnce(&mut Event)) {
        let mut stage = self.stage.borrow_mut();
        let mut event = Event {
            token: stage.peers[peer].token,
            ..Event::default()
        };
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
        self.stage.borrow_mut().peers[peer].then = Ok(0);
        self.tell(peer, |event| {
            (event.readable, event.read_closed) = (true, true);
        });
    }

    /// The peer resets the connection.
    pub fn reset(&self, peer: usize) {
        self.stage.borrow_mut().peers[peer].then = Err(ErrorKind::ConnectionReset);
        self.tell(peer, |event| {
            (
                event.readable,
                event.read_closed,
                event.write_closed,
                event.broken,
            ) = (true, true, true, true);
        });
    }

    /// From here on the peer takes `room` bytes more. The poller does not say so.
    pub fn set_room(&self, peer: usize, room: usize) {
        self.stage.borrow_mut().peers[peer].room = room;
    }

    /// How a dial stands that `peer` is the other side of, or the error that ends it; the poller says so.
    pub fn answer(&self, peer: usize, how: Result<Established, i32>) {
        self.stage.borrow_mut().peers[peer].established = how;
        self.tell(peer, |event| event.writable = true);
    }

    /// What the peer has got since this was last asked.
    pub fn got(&self, peer: usize) -> Vec<u8> {
        std::mem::take(&mut self.stage.borrow_mut().peers[peer].got)
    }

    /// Whether our side of a peer's connection is still there.
    pub fn is_open(&self, peer: usize) -> bool {
        self.stage.borrow().peers[peer].open
    }

    /// How many sockets there are at present.
    pub fn open(&self) -> usize {
        self.stage
            .borrow()
            .peers
            .iter()
            .filter(|peer| peer.open)
            .count()
    }

    /// How many sockets were made so far.
    pub fn sockets(&self) -> usize {
        self.stage.borrow().peers.len()
    }
}
