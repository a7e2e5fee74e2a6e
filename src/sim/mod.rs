//! A deterministic network and clock to test handlers on: virtual time, injected faults, the same
//! run for the same seed.
//!
//! [`Sim`] runs a real [`Reactor`], with all its connections, deadlines and queues, over a
//! simulated [`Net`](crate::net::Net). Time is virtual: a minute of waiting costs one call. The
//! seed chooses the faults ([`Faults::random`]), the paths and everything else, so a failing run
//! can be repeated.
//!
//! ```
//! use glassloop::codec::Line;
//! use glassloop::sim::{PeerState, Sim};
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
//!     sim.run(std::time::Duration::from_secs(2)); // with the faults of the seed
//!     sim.finish(10_000); // without faults, until nothing is left to do
//!     if peer.blame().is_none() {
//!         assert_eq!(peer.received(), b"one\ntwo\nthree\n", "seed {seed}");
//!         assert_eq!(peer.state(), PeerState::Ended, "seed {seed}");
//!     }
//! }
//! ```
//!
//! # What is simulated, and what is not
//!
//! Simulated is TCP as a program sees it:
//!
//! - connections with latency, bandwidth and two buffers in each direction ([`Path`]);
//! - half-close, resets, and a FIN behind data;
//! - listeners with a backlog;
//! - dials that succeed, fail or are never answered;
//! - an edge-triggered poller.
//!
//! Not simulated are packets, threads (a [`Handle`](crate::Handle) works, from the same thread),
//! and the time that code takes: a callback takes none. A [`Fault`] is something that an operating
//! system may do. `tests/reality.rs` compares the simulator with the kernel it runs on.

mod fault;
mod inspect;
pub mod internals;
mod kernel;
mod link;
mod net;
mod peer;
mod poller;
mod rng;
mod sockets;
mod syscalls;
mod trace;
mod world;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

pub use self::fault::{Fault, FaultCounts, Faults};
pub use self::link::Path;
use self::link::{End, LoopSocket, Owner, PeerSocket};
pub use self::net::{SimListener, SimNet, SimStream};
pub use self::peer::{ActualIo, Blame, Peer, PeerState};
pub use self::rng::Rng;
pub use self::sockets::{Sockets, Unread};
use self::trace::Trace;
use self::world::{Listener, ScheduledEvent, World};
use crate::config::Config;
use crate::error::Error;
use crate::handler::Handler;
use crate::net::Address;
use crate::observe::Step;
use crate::reactor::{Reactor, Turn};

/// A reactor on a simulated network, and control over that network.
///
/// Between two turns a test lets peers send and close, reads what they received, and calls the
/// [`reactor`](Self::reactor).
pub struct Sim<H: Handler, const SHORT_READ_IS_EMPTY: bool = true> {
    reactor: Reactor<H, SimNet<SHORT_READ_IS_EMPTY>>,
    world: Rc<RefCell<World>>,
    trace: Rc<RefCell<Trace>>,
}

impl<H: Handler> Sim<H> {
    /// Creates a network with the faults and paths that `seed` draws, and a reactor without
    /// listeners.
    ///
    /// # Panics
    /// If the limits in `config` contradict each other.
    pub fn new(seed: u64, handler: H, config: Config) -> Self {
        let faults = Faults::random(&mut Rng::new(seed).fork(1));
        Self::with_faults(seed, faults, handler, config)
    }
}

impl<H: Handler, const SHORT_READ_IS_EMPTY: bool> Sim<H, SHORT_READ_IS_EMPTY> {
    /// Like [`new`](Sim::new), with the given faults. If the second parameter of the type is
    /// `false`, the poller promises less; see [`SimNet`].
    ///
    /// # Panics
    /// If the limits in `config` contradict each other.
    pub fn with_faults(seed: u64, faults: Faults, handler: H, config: Config) -> Self {
        let world = World::new(
            Rng::new(seed).fork(2),
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

    /// Calls `observer` with every step of the loop and the virtual time. It replaces the observer
    /// set before.
    pub fn observe(&mut self, mut observer: impl FnMut(Duration, &Step<'_>) + 'static) {
        let (world, trace) = (self.world.clone(), self.trace.clone());
        self.reactor.set_observer(move |step: &Step<'_>| {
            let now = world.borrow().now;
            trace.borrow_mut().step(now, step);
            observer(now, step);
        });
    }

    /// The reactor.
    pub fn reactor(&mut self) -> &mut Reactor<H, SimNet<SHORT_READ_IS_EMPTY>> {
        &mut self.reactor
    }

    /// Adds a listener to the reactor, and returns its address.
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

    /// Creates a listener that is not added to the reactor, for tests that drive the
    /// [`net`](Self::net) directly.
    pub fn listener(&mut self) -> (SimListener, Address) {
        let mut world = self.world.borrow_mut();
        let number = world.listeners.len();
        let addr: Address = core::net::SocketAddr::from(([127, 0, 0, 1], 1 + number as u16)).into();
        world.listeners.push(Listener {
            addr: addr.clone(),
            token: None,
            backlog: VecDeque::default(),
            queued: false,
            armed: false,
        });
        (SimListener { number }, addr)
    }

    /// The simulated network, for tests that drive it directly. **Trap:** the reactor must not turn
    /// meanwhile: it would miss the events that the test takes.
    pub fn net(&self) -> SimNet<SHORT_READ_IS_EMPTY> {
        SimNet {
            world: self.world.clone(),
        }
    }

    /// Creates a peer that connects to one of the reactor's listeners after the latency of its
    /// path.
    ///
    /// # Panics
    /// If no listener has this address.
    pub fn connect(&mut self, addr: &Address) -> Peer {
        let mut world = self.world.borrow_mut();
        let number = world
            .listeners
            .iter()
            .position(|listener| listener.addr == *addr)
            .unwrap_or_else(|| panic!("no listener has the address {addr}"));
        let from = world.fresh_addr();
        let peer_socket = PeerSocket {
            reads: true,
            ..PeerSocket::default()
        };
        let id = world.add_link([
            End::new(from, Owner::Peer(peer_socket)),
            End::new(addr.clone(), Owner::Loop(LoopSocket::default())),
        ]);
        let delay = world.latency(id.link);
        world.schedule(delay, ScheduledEvent::Syn(id, number));
        Peer {
            world: self.world.clone(),
            id,
        }
    }

    /// Adds a host that the loop can dial, and returns its address. Every other address refuses
    /// connections.
    pub fn host(&mut self) -> Address {
        let mut world = self.world.borrow_mut();
        let addr: Address =
            core::net::SocketAddr::from(([127, 0, 1, 1], 1 + world.hosts.len() as u16)).into();
        world.hosts.insert(addr.clone(), VecDeque::default());
        addr
    }

    /// Takes the next connection that the loop has established to a [`host`](Self::host); `None` if
    /// there is none.
    pub fn accept_at(&mut self, host: &Address) -> Option<Peer> {
        let id = self.world.borrow_mut().hosts.get_mut(host)?.pop_front()?;
        Some(Peer {
            world: self.world.clone(),
            id,
        })
    }

    /// Sets the path of all connections made from now on. By default each connection draws its own
    /// from the seed.
    pub fn set_path(&mut self, path: Path) {
        self.world.borrow_mut().path = Some(path);
    }

    /// Runs one turn of the loop. It blocks as long as the loop asks for, but not beyond `until`.
    ///
    /// # Errors
    /// [`Error::Poll`] if the poller fails; the simulated one never does.
    ///
    /// # Panics
    /// If the reactor caught a panic of its own code
    /// ([`Counters::internal_errors`](crate::Counters::internal_errors)), or if after the turn the
    /// numbers of connections, open sockets and registrations differ.
    pub fn turn(&mut self, until: Option<Duration>) -> Result<Turn, Error> {
        {
            let mut world = self.world.borrow_mut();
            (world.poll_deadline, world.peer_changed) = (until, false);
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

    /// Runs turns until `time` has passed or the loop has stopped.
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

    /// Ends all faults, and makes all paths short and fast. Buffers keep their sizes.
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

    /// Calls [`heal`](Self::heal), then runs turns until the loop has nothing left to do.
    ///
    /// # Panics
    /// If that takes more than `turns` turns; and as [`turn`](Self::turn).
    pub fn finish(&mut self, turns: usize) {
        self.heal();
        for _ in 0..turns {
            let turn = self.turn(None).unwrap_or_else(|error| panic!("{error}"));
            if turn == Turn::Stopped
                || (self.is_blocked_forever() && self.reactor.next_deadline().is_none())
            {
                return;
            }
        }
        panic!(
            "the loop still has work after {turns} turns: {:?}",
            self.reactor
        );
    }

    /// Delivers everything in flight without running the loop, for example the last bytes of a loop
    /// that has stopped.
    pub fn deliver_in_flight(&mut self) {
        self.world.borrow_mut().advance_to(Duration::MAX);
    }
}
