//! The loop over a net that is played by hand: what the system does seldom, done on purpose, and by a clock of its own.

mod util;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use glassloop::net::{Established, Event, Net, Stream, Wake};
use glassloop::{Address, Config, Reactor, Stop, Turn};
use util::{Service, ack, id, service, submit};

/// What the next calls answer, and what the loop did.
#[derive(Default)]
struct Stage {
    events: Vec<Event>,
    /// How far the clock goes in the next poll, if that has no events.
    accepts: VecDeque<io::Result<()>>,
    accept_calls: usize,
    reads: VecDeque<io::Result<Vec<u8>>>,
    writes: VecDeque<io::Result<usize>>,
    written: Vec<u8>,
    /// The tokens of what was registered.
    registered: Vec<usize>,
    deregistered: usize,
    timeouts: Vec<Option<Duration>>,
}

#[derive(Clone)]
struct Played {
    stage: Rc<RefCell<Stage>>,
    now: Instant,
}

struct Socket(Rc<RefCell<Stage>>);

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let bytes = self.0.borrow_mut().reads.pop_front().unwrap_or_else(|| Err(ErrorKind::WouldBlock.into()))?;
        buf[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let mut stage = self.0.borrow_mut();
        let n = stage.writes.pop_front().unwrap_or(Ok(buf.len()))?.min(buf.len());
        stage.written.extend_from_slice(&buf[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Socket {
    fn established(&mut self) -> io::Result<Established> {
        Ok(Established::Yes)
    }

    fn shut_write(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Deaf;

impl Wake for Deaf {
    fn wake(&self) {}
}

impl Net for Played {
    type Listener = ();
    type Stream = Socket;
    const SHORT_READ_IS_EMPTY: bool = true;

    fn poll(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<Instant> {
        let mut stage = self.stage.borrow_mut();
        stage.timeouts.push(timeout);
        events.append(&mut stage.events);
        if events.is_empty() {
            self.now += timeout.unwrap_or_default();
        }
        Ok(self.now)
    }

    fn accept(&mut self, (): &mut ()) -> io::Result<(Socket, Address)> {
        let mut stage = self.stage.borrow_mut();
        stage.accept_calls += 1;
        let outcome = stage.accepts.pop_front().unwrap_or_else(|| Err(ErrorKind::WouldBlock.into()));
        outcome.map(|()| (Socket(self.stage.clone()), SocketAddr::from((Ipv4Addr::LOCALHOST, 1)).into()))
    }

    fn connect(&mut self, _: &Address) -> io::Result<Socket> {
        Ok(Socket(self.stage.clone()))
    }

    fn register(&mut self, _: &mut Socket, token: usize) -> io::Result<()> {
        self.stage.borrow_mut().registered.push(token);
        Ok(())
    }

    fn deregister(&mut self, _: &mut Socket) -> io::Result<()> {
        self.stage.borrow_mut().deregistered += 1;
        Ok(())
    }

    fn listen(&mut self, (): &mut (), _: usize) -> io::Result<()> {
        Ok(())
    }

    fn unlisten(&mut self, (): ()) -> io::Result<()> {
        Ok(())
    }

    fn now(&self) -> Instant {
        self.now
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(Deaf)
    }

    fn descriptor_limit(&self) -> Option<usize> {
        Some(100)
    }
}

/// A loop with one listener, and its stage.
fn play(config: Config) -> (Reactor<Service, Played>, Rc<RefCell<Stage>>) {
    let stage = Rc::new(RefCell::new(Stage::default()));
    let net = Played { stage: stage.clone(), now: Instant::now() };
    let mut reactor = Reactor::with_net(net, service(), config).unwrap();
    reactor.add_listener((), SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    (reactor, stage)
}

fn turn(reactor: &mut Reactor<Service, Played>) -> Turn {
    reactor.turn(None).unwrap()
}

/// The token of the listener: the first of all.
const LISTENER: usize = 0;

fn readable(token: usize) -> Event {
    Event { token, readable: true, ..Event::default() }
}

/// Lets one connection in and returns its token. Its socket takes writes.
fn admit(reactor: &mut Reactor<Service, Played>, stage: &RefCell<Stage>) -> usize {
    stage.borrow_mut().accepts.push_back(Ok(()));
    stage.borrow_mut().events.push(readable(LISTENER));
    let _ = turn(reactor);
    let token = *stage.borrow().registered.last().unwrap();
    stage.borrow_mut().events.push(Event { token, writable: true, ..Event::default() });
    let _ = turn(reactor);
    token
}

#[test]
fn an_event_for_an_earlier_connection_in_the_same_slot_is_ignored_and_counted() {
    let (mut reactor, stage) = play(Config::default());
    let first = admit(&mut reactor, &stage);
    stage.borrow_mut().reads.push_back(Err(ErrorKind::ConnectionReset.into()));
    stage.borrow_mut().events.push(readable(first));
    let _ = turn(&mut reactor);
    assert_eq!((reactor.connections(), stage.borrow().deregistered), (0, 1));

    let second = admit(&mut reactor, &stage);
    assert_ne!(first, second);
    let before = reactor.counters();
    stage.borrow_mut().events.extend([readable(first), readable(first + 0x55), readable(usize::MAX)]);
    let _ = turn(&mut reactor);
    let after = reactor.counters();
    assert_eq!((after.stale, after.reads, after.events), (before.stale + 3, before.reads, before.events));
    assert_eq!(reactor.connections(), 1);
}

#[test]
fn an_accept_that_fails_for_want_of_room_rests_and_is_asked_again_by_the_clock() {
    const EMFILE: i32 = 24;
    let (mut reactor, stage) = play(Config::default());
    stage.borrow_mut().accepts.extend((0..5).map(|_| Err(io::Error::from_raw_os_error(EMFILE))));
    stage.borrow_mut().accepts.push_back(Ok(()));
    // One event for all: the system says so once.
    stage.borrow_mut().events.push(readable(LISTENER));
    while reactor.connections() == 0 {
        let _ = turn(&mut reactor);
        assert!(reactor.counters().turns < 20, "{reactor:?}");
    }
    assert_eq!(stage.borrow().timeouts[1..6], [Some(Duration::from_millis(50)); 5]);
    assert_eq!(reactor.counters().accept_errors, 5);
    // While it rests, other events do not make it ask.
    stage.borrow_mut().accepts.push_back(Err(io::Error::from_raw_os_error(EMFILE)));
    stage.borrow_mut().events.push(readable(LISTENER));
    let _ = turn(&mut reactor);
    let calls = stage.borrow().accept_calls;
    stage.borrow_mut().events.push(readable(LISTENER));
    let _ = turn(&mut reactor);
    assert_eq!(stage.borrow().accept_calls, calls);
}

#[test]
fn a_connection_that_is_gone_before_it_is_accepted_does_not_keep_the_next_one_out() {
    let (mut reactor, stage) = play(Config::default());
    stage.borrow_mut().accepts.extend([Err(ErrorKind::ConnectionAborted.into()), Err(ErrorKind::Interrupted.into()), Ok(())]);
    stage.borrow_mut().events.push(readable(LISTENER));
    let _ = turn(&mut reactor);
    assert_eq!((reactor.connections(), reactor.counters().accept_errors), (1, 2));
}

#[test]
fn writes_of_one_byte_and_signals_lose_nothing() {
    let (mut reactor, stage) = play(Config::default());
    let token = admit(&mut reactor, &stage);
    stage.borrow_mut().reads.push_back(Ok(submit(id(1), b"x").repeat(3)));
    let script = [Ok(1), Err(ErrorKind::Interrupted), Ok(1), Err(ErrorKind::WouldBlock), Ok(39), Err(ErrorKind::WouldBlock)];
    stage.borrow_mut().writes.extend(script.map(|answer| answer.map_err(Into::into)));
    stage.borrow_mut().events.push(readable(token));
    let _ = turn(&mut reactor);
    assert_eq!(stage.borrow().written, ack(id(1))[..2]);
    for _ in 0..2 {
        stage.borrow_mut().events.push(Event { token, writable: true, ..Event::default() });
        let _ = turn(&mut reactor);
    }
    assert_eq!(stage.borrow().written, ack(id(1)).repeat(3));
    assert_eq!(reactor.buffered(), 0);
}

#[test]
fn spurious_events_cost_a_read_and_nothing_else() {
    let (mut reactor, stage) = play(Config { idle_timeout: None, ..Config::default() });
    let token = admit(&mut reactor, &stage);
    for _ in 0..3 {
        stage.borrow_mut().events.push(Event { token, readable: true, writable: true, ..Event::default() });
        let _ = turn(&mut reactor);
    }
    assert_eq!((reactor.counters().reads_blocked, reactor.connections(), reactor.counters().deferred), (3, 1, 0));
    assert_eq!(stage.borrow().timeouts.last(), Some(&None), "and then it sleeps");
}

#[test]
fn a_stopping_loop_ignores_its_old_listener_and_begins_nothing_new() {
    let (mut reactor, stage) = play(Config::default());
    let token = admit(&mut reactor, &stage);
    reactor.stop(Stop::Gracefully);
    assert_eq!(turn(&mut reactor), Turn::Running, "the peer has still to leave");
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    assert_eq!(
        reactor.connect_to(vec![addr.into()], Duration::MAX).unwrap_err().to_string(),
        "cannot connect to 127.0.0.1:1: the loop is stopping"
    );
    assert_eq!(reactor.add_listener((), addr).unwrap_err().to_string(), "cannot listen on 127.0.0.1:1: the loop is stopping");
    stage.borrow_mut().reads.push_back(Ok(Vec::new()));
    stage.borrow_mut().events.extend([readable(LISTENER), readable(token)]);
    assert_eq!(turn(&mut reactor), Turn::Stopped);
}

#[test]
fn without_a_number_there_are_as_many_connections_as_descriptors_less_a_reserve() {
    assert_eq!(play(Config::default()).0.max_connections(), 75);
    assert_eq!(play(Config { max_connections: Some(7), ..Config::default() }).0.max_connections(), 7);
}

#[test]
fn at_the_drain_deadline_the_last_replies_are_tried_once_more() {
    let (mut reactor, stage) = play(Config::default());
    let token = admit(&mut reactor, &stage);
    stage.borrow_mut().reads.push_back(Ok([submit(id(1), b"x"), vec![0; 4]].concat()));
    stage.borrow_mut().writes.push_back(Err(ErrorKind::WouldBlock.into()));
    stage.borrow_mut().events.push(readable(token));
    let _ = turn(&mut reactor);
    assert_eq!(stage.borrow().written, b"");
    // The poller says nothing of room: it waits until much is free.
    let _ = turn(&mut reactor);
    let tick = Duration::from_millis(1);
    assert_eq!(stage.borrow().timeouts.last(), Some(&Some(Duration::from_secs(10) + tick)));
    assert_eq!(stage.borrow().written, ack(id(1)));
    let _ = turn(&mut reactor);
    assert_eq!((stage.borrow().timeouts.last(), reactor.connections()), (Some(&Some(Duration::from_secs(2) + tick)), 0));
}
