//! The simulator: a world that is as kind as it can be, but for the faults that a test asks for.

use glassloop::codec::Line;
use glassloop::internals::Net;
use glassloop::sim::{Fault, Faults, Path, Peer, PeerState, Sim, SimListener, SimNet, SimStream};
use glassloop::{Address, Config, Context, Handler, Origin, Verdict};

use super::world::{EVENTS, Sign, World};

/// A loop is part of a simulation; this one never turns.
struct Idle;

impl Handler for Idle {
    type Codec = Line;
    type State = ();
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (Line, ()) {
        unreachable!("the loop does not turn")
    }

    fn frame(&mut self, _: &[u8], _: &mut Context<'_, Self>) -> Verdict {
        unreachable!("the loop does not turn")
    }
}

pub struct Simulated {
    sim: Sim<Idle>,
    net: SimNet,
}

impl Simulated {
    /// Each of `always` happens whenever it can; and as epoll does it, an event reports all that is the case.
    pub fn new(always: &[Fault]) -> Self {
        Self::with([Fault::FullEvent].iter().chain(always))
    }

    /// An event reports only what is new.
    pub fn terse() -> Self {
        Self::with(&[])
    }

    fn with<'a>(always: impl IntoIterator<Item = &'a Fault>) -> Self {
        let mut faults = Faults::none();
        for fault in always {
            faults.set(*fault, 1_000_000);
        }
        let mut sim = Sim::with_faults(
            1,
            faults,
            Idle,
            Config {
                events_per_turn: EVENTS,
                ..Config::default()
            },
        );
        sim.set_path(Path {
            send_buffer: 65_536,
            receive_buffer: 16_384,
            ..Path::local()
        });
        let net = sim.net();
        Self { sim, net }
    }

    /// Lets all that is under way arrive.
    fn settle(&mut self) {
        self.sim.deliver_in_flight();
    }
}

fn quiet(far: Peer) -> Peer {
    far.set_reading(false);
    far
}

impl World for Simulated {
    type Net = SimNet;
    type Far = Peer;

    fn net(&mut self) -> &mut SimNet {
        &mut self.net
    }

    fn listener(&mut self) -> (SimListener, Address) {
        self.sim.listener()
    }

    fn client(&mut self, addr: &Address) -> Option<Peer> {
        let far = quiet(self.sim.connect(addr));
        self.settle();
        (far.state() != PeerState::Refused).then_some(far)
    }

    fn host(&mut self) -> Address {
        self.sim.host()
    }

    fn nobody(&mut self) -> Address {
        core::net::SocketAddr::from(([127, 0, 2, 1], 1)).into()
    }

    fn visitor(&mut self, host: &Address) -> Peer {
        self.settle();
        quiet(self.sim.accept_at(host).expect("somebody should have come"))
    }

    /// Where the fault strikes, every dial does.
    fn dial_itself(&mut self) -> SimStream {
        let host = self.host();
        self.net.connect(&host).unwrap()
    }

    fn addr(&self, far: &Peer) -> Address {
        far.addr()
    }

    fn arrives(&mut self, _: &SimStream, _: Sign) {
        self.settle();
    }

    fn arrives_there(&mut self, _: &Peer) {
        self.settle();
    }

    fn arrived_there(&mut self, far: &mut Peer) -> usize {
        self.settle();
        self.take_some(far)
    }

    fn send(&mut self, far: &mut Peer, bytes: &[u8]) {
        far.send(bytes);
        self.settle();
    }

    /// Nobody sends one here: where the fault strikes, the first bytes that arrive have one behind them.
    fn send_urgent(&mut self, _: &mut Peer, _: u8) {}

    fn shut_write(&mut self, far: &mut Peer) {
        far.shut_write();
    }

    fn close(&mut self, far: Peer) {
        far.close();
    }

    fn reset(&mut self, far: Peer) {
        far.reset();
    }

    fn take_some(&mut self, far: &mut Peer) -> usize {
        far.set_reading(true);
        far.set_reading(false);
        far.received().len()
    }

    fn hear(&mut self, far: &mut Peer, count: usize) -> Vec<u8> {
        far.set_reading(true);
        self.settle();
        far.set_reading(false);
        let bytes = far.received();
        assert_eq!(bytes.len(), count);
        bytes
    }

    fn hear_out(&mut self, far: &mut Peer) -> (Vec<u8>, &'static str) {
        far.set_reading(true);
        self.settle();
        match far.state() {
            PeerState::Ended => (far.received(), "end"),
            PeerState::Reset => (far.received(), "reset"),
            fate => panic!("{fate:?}"),
        }
    }
}
