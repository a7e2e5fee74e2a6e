//! How connections and loops end, on real sockets; and on simulated ones where the moment matters.

#[path = "util/scripted.rs"]
mod scripted;
mod util;

use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

use glassloop::codec::Line;
use glassloop::internals::Net;
use glassloop::sim::{Faults, Path, PeerState, Sim};
use glassloop::{
    Config, ConnectionId, Context, Handler, Origin, Reactor, Step, Stop, Turn, Verdict,
};
use scripted::{Harness, NetState, ms};
use util::{Client, Server, TIMEOUT, ack, addr_of, id, service, submit, turn_until};

#[test]
fn half_closed_peer_gets_all_replies_and_then_eof() {
    let server = Server::submit();
    for count in [1, 1000, 20_000] {
        let mut client = server.connect();
        let mut writer = client.stream.try_clone().unwrap();
        let requests: Vec<u8> = (0..count)
            .flat_map(|n| submit(id(n), b"then I am done"))
            .collect();
        let writing = std::thread::spawn(move || {
            writer.write_all(&requests).unwrap();
            writer.shutdown(std::net::Shutdown::Write).unwrap();
        });
        client.expect(&(0..count).flat_map(|n| ack(id(n))).collect::<Vec<_>>());
        client.expect_eof();
        writing.join().unwrap();
        assert_eq!(server.next_close_reason(), "closed by the peer");
    }
}

#[test]
fn bytes_and_fin_sent_before_the_accept_are_answered() {
    let mut reactor = Reactor::bind("127.0.0.1:0", service()).unwrap();
    let mut client = Client::connect(addr_of(&reactor));
    client.send(&submit(id(1), b"early"));
    client.shut_write();
    turn_until(&mut reactor, |reactor| reactor.counters().closed == 1);
    client.expect(&ack(id(1)));
    client.expect_eof();
}

#[test]
fn eof_inside_a_frame_is_reported_with_its_byte_count() {
    let server = Server::submit();
    let mut client = server.connect();
    client.send(&[submit(id(1), b""), submit(id(2), b"cut off")[..7].to_vec()].concat());
    client.shut_write();
    client.expect(&ack(id(1)));
    client.expect_eof();
    assert_eq!(
        server.next_close_reason(),
        "closed by the peer 7 bytes into a frame"
    );
}

#[test]
fn reset_closes_one_connection_and_is_reported_as_reset() {
    let server = Server::submit();
    let mut bystander = server.connect();
    for n in 0..50 {
        let mut client = server.connect();
        client.send(&submit(id(1), b"first"));
        client.expect(&ack(id(1)));
        client.send(&submit(id(2), b"in the middle of")[..12]);
        client.reset();
        assert_eq!(server.next_close_reason(), "reset by the peer");
        bystander.send(&submit(id(n), b""));
        bystander.expect(&ack(id(n)));
    }
    // Before it is accepted, or with nothing said at all.
    for _ in 0..50 {
        server.connect().reset();
        assert_eq!(server.next_close_reason(), "reset by the peer");
    }
}

/// Who came, and why each of them ended.
#[derive(Default)]
struct Register {
    came: Vec<ConnectionId>,
    ends: Vec<String>,
}

impl Register {
    /// One that is kept from here on.
    fn of<H: Handler, N: Net>(reactor: &mut Reactor<H, N>) -> Rc<RefCell<Self>> {
        let register = Rc::new(RefCell::new(Self::default()));
        let kept = register.clone();
        reactor.set_observer(move |step: &Step<'_>| match step {
            Step::Accepted { id, .. } => kept.borrow_mut().came.push(*id),
            Step::Closed { reason, .. } => kept.borrow_mut().ends.push(reason.to_string()),
            _ => {}
        });
        register
    }
}

#[test]
fn reset_drops_queued_replies_and_timers_and_is_reported_once() {
    let config = Config {
        write_cap: 64 << 20,
        ..Config::default()
    };
    let mut reactor = Reactor::new(Flood, config).unwrap();
    let addr = reactor.listen("127.0.0.1:0").unwrap();
    let register = Register::of(&mut reactor);
    let mut client = Client::connect(addr);
    client.send(b"much\n");
    turn_until(&mut reactor, |reactor| {
        reactor.counters().writes_blocked > 0
    });
    let (id, mut timer) = (register.borrow().came[0], None);
    assert!(reactor.with(id, |_, cx| {
        timer = Some(cx.set_timer(cx.now() + Duration::from_secs(3600)));
        Verdict::Continue
    }));
    assert!(reactor.buffered() > 1_000_000 && reactor.next_deadline().is_some());
    client.reset();
    turn_until(&mut reactor, |reactor| reactor.connections() == 0);
    for _ in 0..3 {
        let _ = reactor.turn(Some(Duration::ZERO)).unwrap(); // nothing more comes
    }
    assert_eq!(register.borrow().ends, ["reset by the peer"]);
    assert_eq!(
        (
            reactor.buffered(),
            reactor.next_deadline(),
            reactor.cancel_timer(timer.unwrap())
        ),
        (0, None, false)
    );
}

#[test]
fn simultaneous_close_ends_cleanly_on_both_sides() {
    // The peer's end is there, and unread, when the loop closes.
    let mut reactor = Reactor::bind("127.0.0.1:0", service()).unwrap();
    let register = Register::of(&mut reactor);
    for n in 1..=20 {
        let mut client = Client::connect(addr_of(&reactor));
        client.send(&submit(id(1), b"last"));
        turn_until(&mut reactor, |reactor| reactor.counters().frames == n);
        client.shut_write();
        let id = *register.borrow().came.last().unwrap();
        reactor.with(id, |_, _| Verdict::Close);
        turn_until(&mut reactor, |reactor| reactor.connections() == 0);
        client.expect(&ack(util::id(1)));
        client.expect_eof();
    }
    assert_eq!(register.borrow().ends, ["closed by the handler"; 20]);
    // The two ends meet on the way.
    let mut sim = Sim::<_, true>::with_faults(7, Faults::none(), service(), Config::default());
    let addr = sim.listen();
    sim.set_path(Path {
        latency: Duration::from_millis(50),
        ..Path::local()
    });
    let register = Register::of(sim.reactor());
    let peer = sim.connect(&addr);
    sim.run(Duration::from_secs(1));
    peer.shut_write();
    let id = register.borrow().came[0];
    assert!(sim.reactor().with(id, |_, _| Verdict::Close));
    sim.run(Duration::from_millis(200)); // much less than the linger time
    assert_eq!((peer.state(), peer.blame()), (PeerState::Ended, None));
    assert_eq!(register.borrow().ends, ["closed by the handler"]);
}

#[test]
fn refused_peer_that_still_sends_reads_replies_and_eof() {
    let server = Server::submit();
    let mut client = server.connect();
    client.send(&[submit(id(1), b"good"), vec![0; 4]].concat());
    // Much more than the loop reads in a turn, sent after the refusal: a plain close would answer with a reset.
    let mut writer = client.stream.try_clone().unwrap();
    let flood = std::thread::spawn(move || {
        let deadline = Instant::now() + Duration::from_millis(300);
        while Instant::now() < deadline && writer.write_all(&[0; 16 * 1024]).is_ok() {}
        writer.shutdown(std::net::Shutdown::Write)
    });
    client.expect(&ack(id(1)));
    client.expect_eof();
    flood
        .join()
        .unwrap()
        .expect("the server must have read to the end");
    assert_eq!(
        server.next_close_reason(),
        "protocol error by the peer: frame of 0 bytes, at least 13 needed"
    );
}

#[test]
fn refused_peer_that_never_closes_is_dropped_after_linger_timeout() {
    let config = Config {
        linger_timeout: Duration::from_millis(50),
        ..Config::default()
    };
    let server = Server::start(service(), config);
    let mut client = server.connect();
    client.send(&[0; 4]);
    client.expect_eof();
    assert!(server.next_close_reason().starts_with("protocol error"));
    let counters = server.stop();
    assert_eq!((counters.deadlines, counters.closed), (1, 1));
}

#[test]
fn peer_that_reads_nothing_is_dropped_after_drain_timeout() {
    let config = Config {
        drain_timeout: Duration::from_millis(50),
        write_cap: 64 << 20,
        ..Config::default()
    };
    let server = Server::start(Flood, config);
    let mut client = server.connect();
    client.send(b"bye\n");
    let end = server.next_close_reason();
    assert!(
        end.starts_with("drain deadline passed, ")
            && end.ends_with(" bytes of replies not read by the peer"),
        "{end}"
    );
    drop(client);
}

/// Answers `one` with 60,000 bytes, and anything else with more than a socket takes. Closes after `bye`.
struct Flood;

impl Handler for Flood {
    type Codec = Line;
    type State = ();
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (Line, ()) {
        (Line::default().max(1 << 20), ())
    }

    fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Verdict {
        let count = if line == b"one" { 1 } else { 300 };
        (0..count).for_each(|_| cx.send(&*vec![b'x'; 60_000]));
        if line == b"bye" {
            Verdict::Close
        } else {
            Verdict::Continue
        }
    }
}

#[test]
fn slow_reader_gets_all_last_replies_beyond_drain_timeout() {
    const ALL: usize = 300 * 60_001;
    for poller_says_so in [true, false] {
        let config = Config {
            drain_timeout: ms(1000),
            write_cap: 64 << 20,
            ..Config::default()
        };
        let mut harness = Harness::on(NetState::with_listeners(1), Flood, config);
        let register = Register::of(&mut harness.reactor);
        let peer = harness.accept(1);
        harness.set_room(peer, 0);
        harness.peer_sends(peer, b"bye\n");
        harness.turn();
        let mut got = 0;
        while got < ALL {
            if poller_says_so {
                harness.run_for(ms(900));
                harness.set_room(peer, 1 << 20);
                harness.report_event(peer, |event| event.writable = true);
                harness.turn();
            } else {
                // The loop finds the room when it tries once more, at the deadline.
                harness.set_room(peer, 1 << 20);
                harness.run_for(ms(1020));
            }
            let more = harness.received(peer).len();
            assert!(
                more > 0,
                "the end came after {got} bytes: {:?}",
                register.borrow().ends
            );
            got += more;
        }
        assert_eq!(got, ALL);
        harness.peer_shuts_write(peer);
        harness.run_for(ms(10));
        assert_eq!(register.borrow().ends, ["closed by the handler"]);
    }
}

#[test]
fn refused_peer_that_keeps_sending_is_dropped_after_drain_timeout() {
    let config = Config {
        linger_timeout: ms(500),
        drain_timeout: ms(2500),
        idle_timeout: None,
        ..Config::default()
    };
    let mut harness = Harness::on(NetState::with_listeners(1), service(), config);
    let register = Register::of(&mut harness.reactor);
    let peer = harness.accept(1);
    harness.peer_sends(peer, &[0; 4]);
    harness.turn();
    let begun = harness.now();
    while harness.is_open(peer) {
        harness.peer_sends(peer, b"x");
        harness.run_for(ms(100));
        assert!(harness.now() - begun <= ms(2700), "it is still there");
    }
    assert!(
        harness.now() - begun >= ms(2500),
        "let go after {:?}",
        harness.now() - begun
    );
    assert!(register.borrow().ends[0].starts_with("protocol error"));
}

#[test]
fn graceful_stop_answers_read_requests_without_a_reset() {
    let server = Server::submit();
    let mut clients: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(&submit(id(1), b"read"));
        client.expect(&ack(id(1)));
        // Half a frame is no request: it is not waited for.
        client.send(&submit(id(2), b"half")[..9]);
    }
    let addr = server.addr;
    server.handle.stop(Stop::Gracefully);
    for client in &mut clients {
        client.expect_eof();
    }
    drop(clients);
    for _ in 0..20 {
        assert_eq!(server.next_close_reason(), "shut down");
    }
    assert_eq!(server.stop().frames, 20);
    assert!(
        std::net::TcpStream::connect(addr).is_err(),
        "nobody listens any more"
    );
}

#[test]
fn graceful_stop_answers_requests_that_wait_in_the_inbox() {
    // Each answer takes the connection over the high mark, so most of the requests wait inside.
    let config = Config {
        write_high: 1,
        write_low: 0,
        ..Config::default()
    };
    let mut reactor = Reactor::new(Flood, config).unwrap();
    let addr = reactor.listen("127.0.0.1:0").unwrap();
    let mut client = Client::connect(addr);
    client.send(&b"one\n".repeat(200));
    turn_until(&mut reactor, |reactor| {
        reactor.counters().writes_blocked > 0
    });
    assert!(reactor.counters().frames < 200);
    reactor.stop(Stop::Gracefully);
    let reading = std::thread::spawn(move || {
        let mut got = Vec::new();
        client.stream.read_to_end(&mut got).map(|_| got.len())
    });
    turn_until(&mut reactor, |reactor| {
        reactor.turn(Some(Duration::ZERO)).unwrap() == Turn::Stopped
    });
    assert_eq!(reading.join().unwrap().unwrap(), 200 * 60_001);
}

#[test]
fn graceful_stop_drops_peers_that_never_read() {
    let config = Config {
        drain_timeout: Duration::from_millis(50),
        write_cap: 64 << 20,
        ..Config::default()
    };
    let mut reactor = Reactor::new(Flood, config).unwrap();
    let addr = reactor.listen("127.0.0.1:0").unwrap();
    let mut client = Client::connect(addr);
    client.send(b"much\n");
    turn_until(&mut reactor, |reactor| {
        reactor.counters().writes_blocked > 0
    });
    reactor.stop(Stop::Gracefully);
    turn_until(&mut reactor, |reactor| reactor.connections() == 0);
    assert_eq!(reactor.turn(None).unwrap(), Turn::Stopped);
}

#[test]
fn immediate_stop_drops_everything() {
    let mut reactor = Reactor::bind("127.0.0.1:0", service()).unwrap();
    let mut client = Client::connect(addr_of(&reactor));
    turn_until(&mut reactor, |reactor| reactor.connections() == 1);
    reactor.handle().stop(Stop::Gracefully);
    reactor.handle().stop(Stop::AtOnce);
    assert_eq!(reactor.turn(Some(TIMEOUT)).unwrap(), Turn::Stopped);
    assert_eq!(reactor.connections(), 0);
    client.expect_closed();
    assert_eq!(
        reactor.turn(None).unwrap(),
        Turn::Stopped,
        "a stopped loop stays stopped"
    );
    let refused = std::net::TcpStream::connect(client.stream.peer_addr().unwrap()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}
