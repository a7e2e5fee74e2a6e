//! A simulated network and clock for the loop, harsher than any real one, and the same again for the same seed.
//!
//! [`Sim`] runs a real [`Reactor`], with all its connections, deadlines and queues, over a [`Net`](crate::net::Net) that is made
//! up. Time is virtual: a minute of waiting takes no longer than a call. What can go wrong is drawn from the
//! seed ([`Faults::drawn`]), and so is everything else, so that a run that fails can be looked at again and again.
//!
//! ```
//! use glassloop::codec::Line;
//! use glassloop::sim::{Fate, Sim};
//! use glassloop::{Config, Context, Handler, Origin, Verdict};
//!
//! struct Echo;
//!
//! impl Handler for Echo {
//!     type Codec = Line;
//!     type State = ();
//!     type Mail = ();
//!
//!     fn connection(&mut self, _: &Origin) -> (Line, ()) {
//!         (Line::default(), ())
//!     }
//!
//!     fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Verdict {
//!         cx.send(line);
//!         Verdict::Continue
//!     }
//! }
//!
//! for seed in 0..100 {
//!     let mut sim = Sim::new(seed, Echo, Config::default());
//!     let addr = sim.listen();
//!     let peer = sim.connect(&addr);
//!     peer.send(b"one\ntwo\nthree\n");
//!     peer.shut_write();
//!     sim.run(std::time::Duration::from_secs(2)); // the net is as the seed wants it
//!     sim.finish(10_000); //                        and now it is kind
//!     if peer.blame().is_none() {
//!         assert_eq!(peer.received(), b"one\ntwo\nthree\n", "seed {seed}");
//!         assert_eq!(peer.fate(), Fate::Ended, "seed {seed}");
//!     }
//! }
//! ```
//!
//! # What is simulated, and what is not
//!
//! TCP as a program sees it: connections with latency, bandwidth and two buffers in each direction ([`Path`]); half-close, resets, ends with
//! data before them; listeners with a queue; dials that succeed, fail or are never answered; an edge-triggered poller. Not
//! simulated: packets, threads (a [`Handle`](crate::Handle) works, from the same thread), and the time that code takes: a callback takes none.
//! A [`Fault`] is something that a system is free to do. `tests/reality.rs` compares the
//! simulated system with the one it runs on.

mod calls;
mod dice;
mod fault;
pub mod internals;
mod kernel;
mod link;
mod net;
mod peer;
mod trace;
mod world;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

pub use self::dice::Dice;
pub use self::fault::{Fault, Faults, Tally};
pub use self::link::Path;
use self::link::{End, Holder, Mind, Watch};
pub use self::net::{SimListener, SimNet, SimStream};
pub use self::peer::{Blame, Fate, Peer, Truth};
use self::trace::Trace;
use self::world::{Door, Happening, World};
use crate::config::Config;
use crate::error::Error;
use crate::handler::Handler;
use crate::id::{ConnectionId, Token};
use crate::net::Address;
use crate::observe::Step;
use crate::reactor::{Reactor, Turn};

/// A loop in a simulated world, and the hand on that world.
///
/// Between two turns a test does what it likes: it lets peers send and close, looks at what they have got, and asks the [`reactor`](Self::reactor).
pub struct Sim<H: Handler, const SHORT_READ_IS_EMPTY: bool = true> {
    reactor: Reactor<H, SimNet<SHORT_READ_IS_EMPTY>>,
    world: Rc<RefCell<World>>,
    trace: Rc<RefCell<Trace>>,
}

impl<H: Handler> Sim<H> {
    /// A world with the faults and the paths that `seed` draws, and a loop that listens nowhere yet.
    ///
    /// # Panics
    /// If the limits in `config` contradict each other.
    pub fn new(seed: u64, handler: H, config: Config) -> Self {
        let faults = Faults::drawn(&mut Dice::new(seed).fork(1));
        Self::with_faults(seed, faults, handler, config)
    }
}

impl<H: Handler, const SHORT_READ_IS_EMPTY: bool> Sim<H, SHORT_READ_IS_EMPTY> {
    /// The same with faults of one's own. Where the second parameter is `false` the poller promises less; see [`SimNet`].
    ///
    /// # Panics
    /// If the limits in `config` contradict each other.
    pub fn with_faults(seed: u64, faults: Faults, handler: H, config: Config) -> Self {
        let world = World::new(
            Dice::new(seed).fork(2),
            faults,
            config.events_per_turn,
            SHORT_READ_IS_EMPTY,
        );
        let world = Rc::new(RefCell::new(world));
        let net = SimNet {
            world: world.clone(),
        };
        let reactor =
            Reactor::with_net(net, handler, config).unwrap_or_else(|error| panic!("{error}"));
        let mut sim = Self {
            reactor,
            world,
            trace: Rc::default(),
        };
        sim.observe(|_, _| {});
        sim
    }

    /// Lets `observer` see every step of the loop, with the time by the simulation's clock, instead of the one before.
    pub fn observe(&mut self, mut observer: impl FnMut(Duration, &Step<'_>) + 'static) {
        let (world, trace) = (self.world.clone(), self.trace.clone());
        self.reactor.set_observer(move |step: &Step<'_>| {
            let now = world.borrow().now;
            trace.borrow_mut().step(now, step);
            observer(now, step);
        });
    }

    /// The loop itself.
    pub fn reactor(&mut self) -> &mut Reactor<H, SimNet<SHORT_READ_IS_EMPTY>> {
        &mut self.reactor
    }

    /// Lets the loop listen, at an address of its own.
    ///
    /// # Panics
    /// If the loop is stopping.
    pub fn listen(&mut self) -> Address {
        let (listener, addr) = self.listener();
        self.reactor
            .add_listener(listener, addr.clone())
            .unwrap_or_else(|error| panic!("{error}"));
        addr
    }

    /// A listener that the loop knows nothing of, and its address, for who drives the [`net`](Self::net) himself.
    pub fn listener(&mut self) -> (SimListener, Address) {
        let mut world = self.world.borrow_mut();
        let number = world.doors.len();
        let addr: Address = core::net::SocketAddr::from(([127, 0, 0, 1], 1 + number as u16)).into();
        world.doors.push(Door {
            addr: addr.clone(),
            token: None,
            queue: VecDeque::default(),
            listed: false,
            owes: false,
        });
        (SimListener { number }, addr)
    }

    /// The net below the loop, for who asks it himself, call by call. The loop should not turn meanwhile: its events would be missing.
    pub fn net(&self) -> SimNet<SHORT_READ_IS_EMPTY> {
        SimNet {
            world: self.world.clone(),
        }
    }

    /// A client that connects to one of the loop's listeners, in a while.
    ///
    /// # Panics
    /// If the loop never listened there.
    pub fn connect(&mut self, addr: &Address) -> Peer {
        let mut world = self.world.borrow_mut();
        let number = world
            .doors
            .iter()
            .position(|door| door.addr == *addr)
            .unwrap_or_else(|| panic!("the loop does not listen on {addr}"));
        let from = world.fresh_addr();
        let mind = Mind {
            reads: true,
            ..Mind::default()
        };
        let id = world.connect([
            End::new(from, Holder::Peer(mind)),
            End::new(addr.clone(), Holder::Loop(Watch::default())),
        ]);
        let delay = world.latency(id.link);
        world.plan(delay, Happening::Knock(id, number));
        Peer {
            world: self.world.clone(),
            id,
        }
    }

    /// Somebody else listens from here on, at an address that the loop can dial. Every other address refuses.
    pub fn host(&mut self) -> Address {
        let mut world = self.world.borrow_mut();
        let addr: Address =
            core::net::SocketAddr::from(([127, 0, 1, 1], 1 + world.hosts.len() as u16)).into();
        world.hosts.insert(addr.clone(), VecDeque::default());
        addr
    }

    /// The next connection that the loop has made to a [`host`](Self::host), as that one sees it.
    pub fn visitor(&mut self, host: &Address) -> Option<Peer> {
        let id = self.world.borrow_mut().hosts.get_mut(host)?.pop_front()?;
        Some(Peer {
            world: self.world.clone(),
            id,
        })
    }

    /// Lets all connections that are made from here on go over this path. Until then each has one of its own, drawn from the seed.
    pub fn set_path(&mut self, path: Path) {
        self.world.borrow_mut().path = Some(path);
    }

    /// One turn of the loop, which sleeps as long as it wants to, but not beyond `until`.
    ///
    /// # Errors
    /// [`Error::Poll`] if the poller is broken, which the simulated one never is.
    ///
    /// # Panics
    /// If the loop has contained a panic of its own code
    /// ([`Counters::internal_errors`](crate::Counters::internal_errors)), or if it and the world
    /// disagree on how many sockets are open or registered afterwards.
    pub fn turn(&mut self, until: Option<Duration>) -> Result<Turn, Error> {
        {
            let mut world = self.world.borrow_mut();
            (world.alarm, world.stirred) = (until, false);
        }
        let turn = self.reactor.turn(None)?;
        if let Some(error) = &self.trace.borrow().internal_error {
            panic!("contained: {error}");
        }
        let world = self.world.borrow();
        let (slots, sockets, registered) = (
            self.reactor.connections(),
            world.sockets,
            world.registered.len(),
        );
        assert_eq!(
            (slots, sockets),
            (sockets, registered),
            "connections, open sockets and registrations"
        );
        Ok(turn)
    }

    /// Turns until `time` has passed, or the loop has stopped.
    ///
    /// # Panics
    /// As [`turn`](Self::turn).
    pub fn run(&mut self, time: Duration) {
        let until = self.now() + time;
        while self.now() < until {
            if self
                .turn(Some(until))
                .unwrap_or_else(|error| panic!("{error}"))
                == Turn::Stopped
            {
                break;
            }
        }
    }

    /// Makes the world kind: from here on no fault happens, and all paths are short and free. Only buffers stay as small as they are.
    pub fn heal(&mut self) {
        let mut world = self.world.borrow_mut();
        world.faults = Faults::none();
        world.exhausted_until = Duration::ZERO;
        world.path.get_or_insert_with(Path::local);
        for link in &mut world.links {
            link.clogged_until = Duration::ZERO;
            let Path {
                send_buffer,
                receive_buffer,
                ..
            } = link.path;
            link.path = Path {
                send_buffer,
                receive_buffer,
                ..Path::local()
            };
        }
    }

    /// Makes the world kind, and turns until nothing more will happen by itself.
    ///
    /// # Panics
    /// If that takes more than `turns`, and as [`turn`](Self::turn).
    pub fn finish(&mut self, turns: usize) {
        self.heal();
        for _ in 0..turns {
            let turn = self.turn(None).unwrap_or_else(|error| panic!("{error}"));
            if turn == Turn::Stopped || (self.is_asleep() && self.reactor.next_deadline().is_none())
            {
                return;
            }
        }
        panic!(
            "the loop does not come to rest in {turns} turns: {:?}",
            self.reactor
        );
    }

    /// Lets the world go on without the loop until nothing more will arrive: after it has stopped, what it has sent last is still under way.
    pub fn go_on_without_loop(&mut self) {
        self.world.borrow_mut().go_on_to(Duration::MAX);
    }

    /// Whether the loop, in its last turn, would have slept for ever: nothing was to be done, and nothing would have come.
    pub fn is_asleep(&self) -> bool {
        self.world.borrow().asleep
    }

    /// The time by the simulation's clock, from its beginning.
    pub fn now(&self) -> Duration {
        self.world.borrow().now
    }

    /// The same as the loop sees it.
    pub fn instant(&self) -> Instant {
        self.world.borrow().instant()
    }

    /// What `at` is by the simulation's clock.
    pub fn elapsed(&self, at: Instant) -> Duration {
        self.world.borrow().elapsed(at)
    }

    /// Bytes and ends that have come to the loop's sockets so far: what the loop can have a reason to turn for.
    pub fn arrived(&self) -> u64 {
        self.world.borrow().arrived
    }

    /// A view of what waits in the loop's sockets, for an observer.
    pub fn sockets(&self) -> Sockets {
        Sockets {
            world: self.world.clone(),
        }
    }

    /// How long the loop's sockets were open, all together.
    pub fn lived(&self) -> Duration {
        self.world.borrow().lived
    }

    /// Which faults have happened, and how often.
    pub fn tally(&self) -> Tally {
        self.world.borrow().tally.clone()
    }

    /// A number that stands for all steps so far: the same for the same run, on every machine.
    pub fn trace(&self) -> u64 {
        self.trace.borrow().hash
    }
}

/// A view of what waits in the loop's sockets. It can be used while the loop turns: by an [observer](Sim::observe), for instance.
#[derive(Clone, Debug)]
pub struct Sockets {
    world: Rc<RefCell<World>>,
}

/// What waits in one socket of the loop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unread {
    /// Bytes that have arrived and were not read.
    pub bytes: usize,
    /// When the first of them came, by the simulation's clock.
    pub since: Duration,
    /// Whether the poller has an event for a reader that it has not reported yet.
    pub unreported: bool,
}

impl Sockets {
    /// What waits in a connection's socket; nothing if it has none.
    pub fn unread(&self, id: ConnectionId) -> Unread {
        self.world.borrow_mut().unread(Token::of(id).pack())
    }
}

impl<H: Handler, const SHORT_READ_IS_EMPTY: bool> std::fmt::Debug for Sim<H, SHORT_READ_IS_EMPTY> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sim")
            .field("now", &self.now())
            .field("reactor", &self.reactor)
            .finish_non_exhaustive()
    }
}
