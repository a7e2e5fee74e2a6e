//! A net that the test plays by hand, with several listeners and with dials, and a clock that goes on only while the loop sleeps.

#![allow(dead_code, unreachable_pub)] // each test file uses its own part

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use glassloop::net::{Established, Event, Net, Stream, Wake};
use glassloop::{Address, Config, Handler, Reactor, Turn};

/// What a listener answers: first what is in the script, then for ever this error, or that nobody waits.
#[derive(Default)]
pub struct Door {
    pub script: VecDeque<io::Result<()>>,
    pub then: Option<i32>,
    pub calls: usize,
}

/// What the next calls answer, and what the loop did.
#[derive(Default)]
pub struct Stage {
    pub events: Vec<Event>,
    pub doors: Vec<Door>,
    /// What the next dials answer at once; all others begin well.
    pub connects: VecDeque<io::Result<()>>,
    /// What sockets that connect say when asked; all others are not decided.
    pub established: VecDeque<io::Result<Established>>,
    /// Where the loop dialed, in order.
    pub dialed: Vec<Address>,
    /// The tokens of what was registered.
    pub registered: Vec<usize>,
    /// Sockets that exist.
    pub open: usize,
    /// Turns so far.
    pub polls: usize,
    /// How far the clock has gone.
    pub elapsed: Duration,
}

pub type SharedStage = Rc<RefCell<Stage>>;

pub struct Played {
    stage: SharedStage,
    begun: Instant,
}

/// It has nothing to read, and takes all that is written.
pub struct Socket(SharedStage);

impl Socket {
    fn new(stage: &SharedStage) -> Self {
        stage.borrow_mut().open += 1;
        Self(stage.clone())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.0.borrow_mut().open -= 1;
    }
}

impl Read for Socket {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Socket {
    fn established(&mut self) -> io::Result<Established> {
        self.0.borrow_mut().established.pop_front().unwrap_or(Ok(Established::NotYet))
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
    type Listener = usize;
    type Stream = Socket;
    const SHORT_READ_IS_EMPTY: bool = true;

    fn poll(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<Instant> {
        let mut stage = self.stage.borrow_mut();
        stage.polls += 1;
        events.append(&mut stage.events);
        if events.is_empty() {
            stage.elapsed += timeout.expect("nobody would ever wake it");
        }
        Ok(self.begun + stage.elapsed)
    }

    fn accept(&mut self, door: &mut usize) -> io::Result<(Socket, Address)> {
        let mut stage = self.stage.borrow_mut();
        let door = &mut stage.doors[*door];
        door.calls += 1;
        match (door.script.pop_front(), door.then) {
            (Some(answer), _) => answer?,
            (None, Some(error)) => return Err(io::Error::from_raw_os_error(error)),
            (None, None) => return Err(ErrorKind::WouldBlock.into()),
        }
        drop(stage);
        Ok((Socket::new(&self.stage), loopback(1)))
    }

    fn connect(&mut self, addr: &Address) -> io::Result<Socket> {
        let mut stage = self.stage.borrow_mut();
        stage.dialed.push(addr.clone());
        stage.connects.pop_front().unwrap_or(Ok(()))?;
        drop(stage);
        Ok(Socket::new(&self.stage))
    }

    fn register(&mut self, _: &mut Socket, token: usize) -> io::Result<()> {
        self.stage.borrow_mut().registered.push(token);
        Ok(())
    }

    fn deregister(&mut self, _: &mut Socket) -> io::Result<()> {
        Ok(())
    }

    fn listen(&mut self, _: &mut usize, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn unlisten(&mut self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn now(&self) -> Instant {
        self.begun + self.stage.borrow().elapsed
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(Deaf)
    }

    fn descriptor_limit(&self) -> Option<usize> {
        None
    }
}

pub fn loopback(port: u16) -> Address {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()
}

/// A loop with so many listeners, and its stage.
pub fn play<H: Handler>(handler: H, config: Config, doors: usize) -> (Reactor<H, Played>, SharedStage) {
    let stage = SharedStage::default();
    let net = Played { stage: stage.clone(), begun: Instant::now() };
    let mut reactor = Reactor::with_net(net, handler, config).unwrap();
    for door in 0..doors {
        stage.borrow_mut().doors.push(Door::default());
        reactor.add_listener(door, loopback(1)).unwrap();
    }
    (reactor, stage)
}

/// Lets so much time pass. Returns how many turns the loop took for it; a loop that spins fails the test.
#[track_caller]
pub fn pass<H: Handler>(reactor: &mut Reactor<H, Played>, stage: &SharedStage, time: Duration) -> usize {
    let end = stage.borrow().elapsed + time;
    for turns in 0..10_000 {
        let left = end.saturating_sub(stage.borrow().elapsed);
        if left.is_zero() || reactor.turn(Some(left)).unwrap() == Turn::Stopped {
            return turns;
        }
    }
    panic!("the loop spins: {reactor:?}");
}
