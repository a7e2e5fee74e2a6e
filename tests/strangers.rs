//! Hostile peers: they send byte by byte, never read, flood, or fill the memory. Other peers are
//! served all the same.

#[path = "util/scripted.rs"]
mod scripted;
mod util;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use glassloop::codec::Line;
use glassloop::{
    CloseReason, Config, ConnectionId, Context, Handler, Origin, Reactor, Step, TimerId, Verdict,
};
use scripted::{Harness, NetState, ms};
use util::{
    Client, Server, Service, TIMEOUT, ack, addr_of, id, reactor, service, submit, turn_until,
};

const MAX_FRAME: usize = 65_536;

/// All but the last byte of a request of `len` bytes.
fn unfinished(len: usize) -> Vec<u8> {
    let mut request = submit(id(0), &vec![0; len - 13]);
    request.pop();
    request
}

/// Well-behaved peers in lock-step: all send a request, then all read the ack.
struct GoodPeers(Vec<Client>);

impl GoodPeers {
    fn connect(addr: SocketAddr, count: usize) -> Self {
        Self((0..count).map(|_| Client::connect(addr)).collect())
    }

    fn ask(&mut self, round: u64) {
        self.0
            .iter_mut()
            .for_each(|client| client.send(&submit(id(round), b"good")));
    }

    fn expect(&mut self, round: u64) {
        self.0
            .iter_mut()
            .for_each(|client| client.expect(&ack(id(round))));
    }
}

/// Peers that send one long request a byte at a time, each with the time at which it began.
struct SlowSenders {
    peers: Vec<(Client, Instant)>,
    request: Vec<u8>,
    sent: usize,
}

impl SlowSenders {
    fn start(addr: SocketAddr, count: usize) -> Self {
        let request = unfinished(MAX_FRAME);
        let one = |_| {
            let mut client = Client::connect(addr);
            client.stream.set_nonblocking(true).unwrap();
            let begun = Instant::now();
            client.send(&request[..1]);
            (client, begun)
        };
        Self {
            peers: (0..count).map(one).collect(),
            request,
            sent: 1,
        }
    }

    /// Sends one byte from each peer and removes the peers with a closed connection. Returns the
    /// shortest lifetime of these.
    fn send_one_byte(&mut self) -> Duration {
        let (mut shortest, byte) = (Duration::MAX, &self.request[self.sent..=self.sent]);
        self.sent += 1;
        self.peers.retain_mut(|(client, begun)| {
            let is_open = client.stream.write(byte).is_ok()
                && client
                    .stream
                    .read(&mut [0])
                    .is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
            if !is_open {
                shortest = shortest.min(begun.elapsed());
            }
            is_open
        });
        shortest
    }
}

/// The number of peers that the descriptor limit allows, up to 2,000. Both ends of each connection
/// are in this process.
fn peer_count() -> usize {
    #[cfg(unix)]
    if let Ok(limit) = rlimit::increase_nofile_limit(6000) {
        return (limit as usize)
            .saturating_sub(1000)
            .div_euclid(2)
            .clamp(50, 2000);
    }
    50
}

#[test]
fn slow_senders_close_at_the_frame_deadline_and_delay_no_others() {
    let frame_timeout = Duration::from_secs(1);
    let count = peer_count();
    let (mut reactor, addr) = reactor(
        service(),
        Config {
            frame_timeout: Some(frame_timeout),
            ..Config::default()
        },
    );
    let closed = record_closes(&mut reactor);
    let mut good = GoodPeers::connect(addr, 50);
    turn_until(&mut reactor, |reactor| reactor.connections() == 50);
    let mut slow = SlowSenders::start(addr, count);
    turn_until(&mut reactor, |reactor| {
        reactor.counters().accepted == 50 + count as u64
    });
    // This many polls report all events, with those of the good peers last. Turns are counted,
    // since their number does not depend on the machine.
    let max_turns = (count + 50).div_ceil(reactor.config().events_per_turn) as u64;
    let (mut shortest, mut rounds, begun) = (Duration::MAX, 0, Instant::now());
    while !slow.peers.is_empty() {
        assert!(
            begun.elapsed() < TIMEOUT,
            "{} slow senders are still open",
            slow.peers.len()
        );
        shortest = shortest.min(slow.send_one_byte());
        good.ask(rounds);
        rounds += 1;
        let (turns, frames) = (reactor.counters().turns, 50 * rounds);
        turn_until(&mut reactor, |reactor| reactor.counters().frames == frames);
        let turns = reactor.counters().turns - turns;
        assert!(
            turns <= max_turns,
            "beside {} slow senders, good peers waited for {turns} turns",
            slow.peers.len()
        );
        good.expect(rounds - 1);
    }
    println!("{rounds} rounds beside {count} slow senders, the first closed after {shortest:?}");
    assert!(shortest >= frame_timeout, "one closed after {shortest:?}");
    drop(good);
    turn_until(&mut reactor, |reactor| reactor.connections() == 0);
    let closed = closed.lock().unwrap();
    assert_eq!(
        closed
            .iter()
            .filter(|(reason, _)| *reason == "frame_timeout")
            .count(),
        count
    );
    assert_eq!(closed.len(), count + 50);
}

#[test]
fn silent_peer_is_closed_at_its_deadline_without_a_drain_timeout() {
    let timeout = Some(Duration::from_millis(300));
    let long_drain = || Config {
        drain_timeout: Duration::from_secs(3600),
        ..Config::default()
    };
    let (idle, frame, handshake) = (
        Config {
            idle_timeout: timeout,
            ..long_drain()
        },
        Config {
            frame_timeout: timeout,
            ..long_drain()
        },
        Config {
            handshake_timeout: timeout,
            ..long_drain()
        },
    );
    let mut late = Vec::new();
    for (config, sent, require_conn, reason) in [
        (idle, &b""[..], false, "idle for 300ms"),
        (
            frame,
            b"\0\0\0",
            false,
            "frame deadline passed: 3 bytes of an unfinished frame came from the peer in 300ms",
        ),
        (
            handshake,
            b"",
            true,
            "handshake deadline passed: no first frame from the peer in 300ms",
        ),
    ] {
        let server = Server::start(
            Service {
                require_conn,
                ..service()
            },
            config,
        );
        let begun = Instant::now();
        let mut client = server.connect();
        client.send(sent);
        match client.stream.read(&mut [0]) {
            Ok(0) => assert!(begun.elapsed() >= Duration::from_millis(300)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => late.push(reason),
            other => panic!("{other:?}"),
        }
        drop(client);
        assert_eq!(server.next_close_reason(), reason);
    }
    assert!(late.is_empty(), "not closed after {TIMEOUT:?}: {late:?}");
}

#[test]
fn slow_sender_that_completes_frames_in_time_stays_open() {
    let mut harness = Harness::on(
        NetState::with_listeners(1),
        service(),
        Config {
            frame_timeout: Some(ms(1000)),
            ..Config::default()
        },
    );
    let peer = harness.accept(1);
    // The last byte of a request arrives together with the first byte of the next, so there is
    // always an unfinished request.
    let stream: Vec<u8> = (0..13).flat_map(|n| submit(id(n), b"")).collect();
    harness.peer_sends(peer, &stream[..1]);
    for (n, chunk) in stream[1..].chunks(13).enumerate() {
        harness.run_for(ms(990));
        harness.peer_sends(peer, chunk);
        harness.turn();
        assert_eq!(harness.received(peer), ack(id(n as u64)));
    }
}

#[test]
fn peers_that_never_read_close_at_the_write_deadline_not_before() {
    let write_timeout = Duration::from_millis(600);
    let server = Server::start(
        service(),
        Config {
            write_timeout: Some(write_timeout),
            ..Config::default()
        },
    );
    let addr = server.addr;
    let flooding: Vec<_> = (0..8)
        .map(|_| {
            thread::spawn(move || {
                let mut client = Client::connect(addr);
                let requests = submit(id(1), b"").repeat(5000);
                let begun = Instant::now();
                // Until the sockets are full, and then until the server closes the connection.
                while client.stream.write_all(&requests).is_ok() {
                    assert!(begun.elapsed() < TIMEOUT);
                }
                begun.elapsed()
            })
        })
        .collect();
    let mut good = GoodPeers::connect(addr, 3);
    // Each flooding peer reaches its write deadline, so this loop ends.
    for round in 0.. {
        good.ask(round);
        good.expect(round);
        if flooding.iter().all(thread::JoinHandle::is_finished) {
            break;
        }
    }
    for flooder in flooding {
        let lasted = flooder.join().unwrap();
        assert!(lasted >= write_timeout, "closed after {lasted:?}");
        let reason = server.next_close_reason();
        assert!(
            reason.starts_with("write deadline passed: the peer took none of ")
                && reason.ends_with(" bytes in 600ms"),
            "{reason}"
        );
    }
    server.stop();
}

/// Records of each closed connection the name of its close reason, and for `overload` the bytes
/// that it held.
fn record_closes<H: Handler>(reactor: &mut Reactor<H>) -> Arc<Mutex<Vec<(&'static str, usize)>>> {
    let closed = Arc::new(Mutex::new(Vec::new()));
    let record = closed.clone();
    reactor.set_observer(move |step: &Step<'_>| {
        if let Step::Closed { reason, .. } = step {
            let held = if let CloseReason::Overload { held, .. } = reason {
                *held
            } else {
                0
            };
            record.lock().unwrap().push((reason.name(), held));
        }
    });
    closed
}

/// Sends a request and expects its ack, and raises `peak` to the most bytes buffered meanwhile.
fn ask<H: Handler>(reactor: &mut Reactor<H>, client: &mut Client, peak: &mut usize) {
    client.send(&submit(id(1), b"good"));
    let mut answer = [0; 14];
    client.stream.set_nonblocking(true).unwrap();
    turn_until(reactor, |reactor| {
        *peak = reactor.buffered().max(*peak);
        client
            .stream
            .peek(&mut answer)
            .is_ok_and(|n| n == answer.len())
    });
    client.stream.set_nonblocking(false).unwrap();
    client.expect(&ack(id(1)));
    *peak = reactor.buffered().max(*peak);
}

#[test]
fn unfinished_frames_over_the_memory_limit_close_the_largest() {
    let (high, low) = (4 << 20, 3 << 20);
    let config = Config {
        buffered_high: high,
        buffered_low: low,
        ..Config::default()
    };
    let (mut reactor, addr) = reactor(service(), config);
    let closed = record_closes(&mut reactor);
    let mut good = Client::connect(addr);
    let mut peak = 0;
    // Unfinished as well, but small: these connections must stay open.
    let small: Vec<Client> = (0..50)
        .map(|_| connect_and_send(addr, &unfinished(8_000)))
        .collect();
    turn_until(&mut reactor, |reactor| {
        reactor.counters().bytes_read == 50 * 7_999
    });
    let large: Vec<Client> = (0..200)
        .map(|_| {
            let client = connect_and_send(addr, &unfinished(MAX_FRAME));
            ask(&mut reactor, &mut good, &mut peak);
            client
        })
        .collect();
    turn_until(&mut reactor, |reactor| reactor.counters().accepted == 251);
    ask(&mut reactor, &mut good, &mut peak);
    let closed = closed.lock().unwrap();
    println!(
        "{} of 200 large connections closed; peak {peak} bytes, {high} allowed",
        closed.len()
    );
    assert!(peak <= high && peak > low, "{peak} bytes held");
    assert!(!closed.is_empty() && closed.len() < 200);
    // A small one holds 8,000 bytes, in a buffer that may have doubled to grow.
    assert!(
        closed
            .iter()
            .all(|(name, held)| *name == "overload" && *held > 16_000),
        "{closed:?}"
    );
    assert_eq!(reactor.connections(), 251 - closed.len());
    drop((small, large));
}

fn connect_and_send(addr: SocketAddr, bytes: &[u8]) -> Client {
    let mut client = Client::connect(addr);
    client.send(bytes);
    client
}

#[test]
fn unread_replies_over_the_memory_limit_close_slow_readers() {
    let high = 1 << 20;
    let config = Config {
        buffered_high: high,
        buffered_low: high * 3 / 4,
        write_timeout: None,
        ..Config::default()
    };
    let (mut reactor, addr) = reactor(service(), config);
    let closed = record_closes(&mut reactor);
    let mut good = Client::connect(addr);
    let requests = submit(id(1), b"").repeat(5000);
    let mut unreading: Vec<Client> = (0..12).map(|_| Client::connect(addr)).collect();
    for client in &unreading {
        client.stream.set_nonblocking(true).unwrap();
    }
    let (mut peak, begun, mut sent) = (0, Instant::now(), BTreeMap::new());
    while closed.lock().unwrap().is_empty() {
        assert!(begun.elapsed() < TIMEOUT, "peak {peak} bytes");
        for (n, client) in unreading.iter_mut().enumerate() {
            let so_far: &mut usize = sent.entry(n).or_default();
            if let Ok(n) = client.stream.write(&requests[*so_far % 13..]) {
                *so_far += n;
            }
        }
        ask(&mut reactor, &mut good, &mut peak);
    }
    ask(&mut reactor, &mut good, &mut peak);
    let closed = closed.lock().unwrap();
    println!(
        "{} of 12 peers that do not read were closed; peak {peak} bytes, {high} allowed",
        closed.len()
    );
    assert!(peak <= high);
    assert!(
        closed
            .iter()
            .all(|(name, held)| *name == "overload" && *held > 10_000),
        "{closed:?}"
    );
}

/// Sends a large message on each connection when its timer fires.
#[derive(Default)]
struct SendsOnTimer(Vec<ConnectionId>);

const MESSAGE: usize = 500_000;

impl Handler for SendsOnTimer {
    type Codec = Line;
    type State = ();
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (Line, ()) {
        (Line::default().max(1 << 20), ())
    }

    fn open(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        self.0.push(cx.id());
        Verdict::Continue
    }

    fn frame(&mut self, _: &[u8], _: &mut Context<'_, Self>) -> Verdict {
        Verdict::Continue
    }

    fn timer(&mut self, _: TimerId, cx: &mut Context<'_, Self>) -> Verdict {
        cx.send(&*"x".repeat(MESSAGE).into_bytes());
        Verdict::Continue
    }
}

#[test]
fn replies_sent_from_timers_respect_the_memory_limit() {
    const HIGH: usize = 2 << 20;
    let config = Config {
        buffered_high: HIGH,
        buffered_low: HIGH / 2,
        ..Config::default()
    };
    let (mut reactor, addr) = reactor(SendsOnTimer::default(), config);
    let peers: Vec<Client> = (0..40).map(|_| Client::connect(addr)).collect();
    turn_until(&mut reactor, |reactor| reactor.counters().accepted == 40);
    for id in std::mem::take(&mut reactor.handler().0) {
        assert!(reactor.with(id, |_, cx| {
            cx.set_timer(cx.now());
            Verdict::Continue
        }));
    }
    // After the turn `buffered` is below the limit again, so the allocator is measured instead; it
    // counts this thread only.
    let allocated = allocation_counter::measure(|| {
        turn_until(&mut reactor, |reactor| {
            reactor.counters().timers + reactor.counters().closed >= 40
        });
    });
    let (peak, allowed) = (allocated.bytes_max, HIGH as u64 + 4 * MESSAGE as u64);
    assert!(
        peak > MESSAGE as u64,
        "peak {peak} bytes: the test does not reach the limit"
    );
    assert!(peak <= allowed, "peak {peak} bytes, {allowed} allowed");
    drop(peers);
}

/// Floods a server over `peers` connections and reads the acks, in a thread, until `stop` is set.
/// The thread returns the number of bytes sent.
fn flood(addr: SocketAddr, peers: usize, stop: Arc<AtomicBool>) -> thread::JoinHandle<usize> {
    thread::spawn(move || {
        let requests = submit(id(7), &[0; 300]).repeat(200);
        let mut flooders: Vec<(Client, usize)> =
            (0..peers).map(|_| (Client::connect(addr), 0)).collect();
        for (client, _) in &flooders {
            client.stream.set_nonblocking(true).unwrap();
        }
        let (mut acks, begun) = (vec![0; 64 * 1024], Instant::now());
        while !stop.load(Ordering::Relaxed) {
            assert!(
                begun.elapsed() < 5 * TIMEOUT,
                "the test does not stop the flood"
            );
            for (client, sent) in &mut flooders {
                if let Ok(n) = client.stream.write(&requests[*sent % 313..]) {
                    *sent += n;
                }
                assert!(!matches!(client.stream.read(&mut acks), Ok(0)));
            }
        }
        flooders
            .iter()
            .map(|(client, sent)| {
                client
                    .stream
                    .shutdown(Shutdown::Both)
                    .map_or(*sent, |()| *sent)
            })
            .sum()
    })
}

#[test]
fn quiet_peers_are_answered_within_two_turns_beside_flooding_peers() {
    let mut reactor = Reactor::bind("127.0.0.1:0", service()).unwrap();
    let addr = addr_of(&reactor);
    let mut quiet = GoodPeers::connect(addr, 20);
    let stop = Arc::new(AtomicBool::new(false));
    let flooding = flood(addr, 20, stop.clone());
    turn_until(&mut reactor, |reactor| {
        reactor.connections() == 40 && reactor.counters().bytes_read > 1_000_000
    });
    let before = reactor.counters().bytes_read;
    let (mut round, begun) = (0, Instant::now());
    // At least 150 rounds, and until the flood has sent enough beside them.
    while round < 150 || reactor.counters().bytes_read - before <= 1_000_000 {
        assert!(begun.elapsed() < TIMEOUT, "the flood sends too little");
        quiet.ask(round);
        for _ in 0..2 {
            let _ = reactor.turn(Some(Duration::from_millis(100))).unwrap();
        }
        quiet.expect(round); // no turn meanwhile: an ack that is not sent yet would be missing
        round += 1;
    }
    let read = reactor.counters().bytes_read - before;
    stop.store(true, Ordering::Relaxed);
    println!(
        "{read} bytes of the flood read meanwhile, {} sent",
        flooding.join().unwrap()
    );
}
