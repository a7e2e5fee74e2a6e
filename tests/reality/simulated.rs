//! [`Simulated`]: the simulator, with no faults but those that a test asks for.

use glassloop::codec::Line;
use glassloop::internals::Net;
use glassloop::sim::{Fault, Faults, Path, Peer, PeerState, Sim, SimListener, SimNet, SimStream};
use glassloop::{Address, Config, Context, Handler, Origin, Verdict};

use super::backend::{Arrival, Backend, EVENTS};

/// A simulation needs a handler. This one is never called, since the loop does not turn.
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
    /// Each fault in `always` happens whenever it can. Events report all current readiness, as
    /// epoll does.
    pub fn new(always: &[Fault]) -> Self {
        Self::with([Fault::FullEvent].iter().chain(always))
    }

    /// Events report only what is new.
    pub fn new_only() -> Self {
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

    /// Delivers everything in flight.
    fn deliver_all(&mut self) {
        self.sim.deliver_in_flight();
    }
}

fn not_reading(peer: Peer) -> Peer {
    peer.set_reading(false);
    peer
}

impl Backend for Simulated {
    type Net = SimNet;
    type Peer = Peer;

    fn net(&mut self) -> &mut SimNet {
        &mut self.net
    }

    fn listener(&mut self) -> (SimListener, Address) {
        self.sim.listener()
    }

    fn client(&mut self, addr: &Address) -> Option<Peer> {
        let peer = not_reading(self.sim.connect(addr));
        self.deliver_all();
        (peer.state() != PeerState::Refused).then_some(peer)
    }

    fn host(&mut self) -> Address {
        self.sim.host()
    }

    fn refusing_addr(&mut self) -> Address {
        core::net::SocketAddr::from(([127, 0, 2, 1], 1)).into()
    }

    fn accept_at(&mut self, host: &Address) -> Peer {
        self.deliver_all();
        not_reading(self.sim.accept_at(host).expect("no connection arrived"))
    }

    /// With [`Fault::DialMeetsItself`], every dial connects to itself.
    fn dial_self(&mut self) -> SimStream {
        let host = self.host();
        self.net.connect(&host).unwrap()
    }

    fn addr(&self, peer: &Peer) -> Address {
        peer.addr()
    }

    fn wait_for(&mut self, _: &SimStream, _: Arrival) {
        self.deliver_all();
    }

    fn wait_for_peer(&mut self, _: &Peer) {
        self.deliver_all();
    }

    fn arrived_at_peer(&mut self, peer: &mut Peer) -> usize {
        self.deliver_all();
        self.recv_some(peer)
    }

    fn send(&mut self, peer: &mut Peer, bytes: &[u8]) {
        peer.send(bytes);
        self.deliver_all();
    }

    /// Does nothing: with [`Fault::Urgent`], the first bytes that arrive have an urgent byte behind
    /// them.
    fn send_urgent(&mut self, _: &mut Peer, _: u8) {}

    fn shut_write(&mut self, peer: &mut Peer) {
        peer.shut_write();
    }

    fn close(&mut self, peer: Peer) {
        peer.close();
    }

    fn reset(&mut self, peer: Peer) {
        peer.reset();
    }

    fn recv_some(&mut self, peer: &mut Peer) -> usize {
        peer.set_reading(true);
        peer.set_reading(false);
        peer.received().len()
    }

    fn recv_exact(&mut self, peer: &mut Peer, count: usize) -> Vec<u8> {
        peer.set_reading(true);
        self.deliver_all();
        peer.set_reading(false);
        let bytes = peer.received();
        assert_eq!(bytes.len(), count);
        bytes
    }

    fn recv_to_end(&mut self, peer: &mut Peer) -> (Vec<u8>, &'static str) {
        peer.set_reading(true);
        self.deliver_all();
        match peer.state() {
            PeerState::Ended => (peer.received(), "end"),
            PeerState::Reset => (peer.received(), "reset"),
            fate => panic!("{fate:?}"),
        }
    }
}
