//! Peers that mean no good: they drip, they never read, they flood, they fill the memory. The honest ones beside them are served.

#[path = "util/played.rs"]
mod played;
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
use played::{Play, Stage, ms};
use util::{
    Client, PATIENCE, Server, Service, ack, addr_of, id, reactor, service, submit, turn_until,
};

const MAX_FRAME: usize = 65_536;

/// All but the last byte of a request of so many bytes.
fn unfinished(len: usize) -> Vec<u8> {
    let mut request = submit(id(0), &vec![0; len - 13]);
    request.pop();
    request
}

/// Peers in lock-step: all ask, then all read.
struct Honest(Vec<Client>);

impl Honest {
    fn connect(addr: SocketAddr, count: usize) -> Self {
        Self((0..count).map(|_| Client::connect(addr)).collect())
    }

    fn ask(&mut self, round: u64) {
        self.0
            .iter_mut()
            .for_each(|client| client.send(&submit(id(round), b"honest")));
    }

    fn expect(&mut self, round: u64) {
        self.0
            .iter_mut()
            .for_each(|client| client.expect(&ack(id(round))));
    }
}

/// Peers that send one long request a byte at a time. Each remembers when it began.
struct Drippers {
    peers: Vec<(Client, Instant)>,
    request: Vec<u8>,
    sent: usize,
}

impl Drippers {
    fn begin(addr: SocketAddr, count: usize) -> Self {
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

    /// Drips a byte each and drops those who are gone; the shortest time that one of those had lasted is returned.
    fn drip(&mut self) -> Duration {
        let (mut shortest, byte) = (Duration::MAX, &self.request[self.sent..=self.sent]);
        self.sent += 1;
        self.peers.retain_mut(|(client, begun)| {
            let gone = client.stream.write(byte).is_err()
                || !matches!(client.stream.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock);
            if gone {
                shortest = shortest.min(begun.elapsed());
            }
            !gone
        });
        shortest
    }
}

/// As many as the limit of descriptors allows, both ends of each being in this process, up to 2,000.
fn many() -> usize {
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
    let count = many();
    let (mut reactor, addr) = reactor(
        service(),
        Config {
            frame_timeout: Some(frame_timeout),
            ..Config::default()
        },
    );
    let ended = ends(&mut reactor);
    let mut honest = Honest::connect(addr, 50);
    turn_until(&mut reactor, |reactor| reactor.connections() == 50);
    let mut drippers = Drippers::begin(addr, count);
    turn_until(&mut reactor, |reactor| {
        reactor.counters().accepted == 50 + count as u64
    });
    // All events fit into so many polls, and the honest ones' are the last. The turns are counted,
    // since they do not depend on the machine.
    let enough = (count + 50).div_ceil(reactor.config().events_per_turn) as u64;
    let (mut shortest, mut rounds, begun) = (Duration::MAX, 0, Instant::now());
    while !drippers.peers.is_empty() {
        assert!(
            begun.elapsed() < PATIENCE,
            "{} still drip",
            drippers.peers.len()
        );
        shortest = shortest.min(drippers.drip());
        honest.ask(rounds);
        rounds += 1;
        let (turns, frames) = (reactor.counters().turns, 50 * rounds);
        turn_until(&mut reactor, |reactor| reactor.counters().frames == frames);
        let turns = reactor.counters().turns - turns;
        assert!(
            turns <= enough,
            "beside {} dripping peers the honest waited for {turns} turns",
            drippers.peers.len()
        );
        honest.expect(rounds - 1);
    }
    println!(
        "{rounds} rounds beside {count} dripping peers, the first of which was gone after {shortest:?}"
    );
    assert!(shortest >= frame_timeout, "one was gone after {shortest:?}");
    drop(honest);
    turn_until(&mut reactor, |reactor| reactor.connections() == 0);
    let ended = ended.lock().unwrap();
    assert_eq!(
        ended
            .iter()
            .filter(|(reason, _)| *reason == "frame_timeout")
            .count(),
        count
    );
    assert_eq!(ended.len(), count + 50);
}

#[test]
fn silent_peer_is_closed_at_its_deadline_without_a_drain_timeout() {
    let time = Some(Duration::from_millis(300));
    let eternal = || Config {
        drain_timeout: Duration::from_secs(3600),
        ..Config::default()
    };
    let (idle, frame, handshake) = (
        Config {
            idle_timeout: time,
            ..eternal()
        },
        Config {
            frame_timeout: time,
            ..eternal()
        },
        Config {
            handshake_timeout: time,
            ..eternal()
        },
    );
    let mut late = Vec::new();
    for (config, said, require_conn, reason) in [
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
        client.send(said);
        match client.stream.read(&mut [0]) {
            Ok(0) => assert!(begun.elapsed() >= Duration::from_millis(300)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => late.push(reason),
            other => panic!("{other:?}"),
        }
        drop(client);
        assert_eq!(server.next_end(), reason);
    }
    assert!(late.is_empty(), "not gone after {PATIENCE:?}: {late:?}");
}

#[test]
fn slow_sender_that_completes_frames_in_time_stays_open() {
    let mut play = Play::on(
        Stage::with_doors(1),
        service(),
        Config {
            frame_timeout: Some(ms(1000)),
            ..Config::default()
        },
    );
    let peer = play.admit(1);
    // The last byte of a request comes together with the first of the next: there is always an unfinished one.
    let stream: Vec<u8> = (0..13).flat_map(|n| submit(id(n), b"")).collect();
    play.say(peer, &stream[..1]);
    for (n, chunk) in stream[1..].chunks(13).enumerate() {
        play.pass(ms(990));
        play.say(peer, chunk);
        play.turn();
        assert_eq!(play.got(peer), ack(id(n as u64)));
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
                // Until the sockets are full, and then until the server has gone.
                while client.stream.write_all(&requests).is_ok() {
                    assert!(begun.elapsed() < PATIENCE);
                }
                begun.elapsed()
            })
        })
        .collect();
    let mut honest = Honest::connect(addr, 3);
    // Each flooder has its time, so this ends.
    for round in 0.. {
        honest.ask(round);
        honest.expect(round);
        if flooding.iter().all(thread::JoinHandle::is_finished) {
            break;
        }
    }
    for flooder in flooding {
        let lasted = flooder.join().unwrap();
        assert!(lasted >= write_timeout, "gone after {lasted:?}");
        let end = server.next_end();
        assert!(
            end.starts_with("write deadline passed: the peer took none of ")
                && end.ends_with(" bytes in 600ms"),
            "{end}"
        );
    }
    server.stop();
}

/// Of each connection that a loop has closed: why, and how many bytes it held then.
fn ends<H: Handler>(reactor: &mut Reactor<H>) -> Arc<Mutex<Vec<(&'static str, usize)>>> {
    let ends = Arc::new(Mutex::new(Vec::new()));
    let kept = ends.clone();
    reactor.set_observer(move |step: &Step<'_>| {
        if let Step::Closed { reason, .. } = step {
            let held = if let CloseReason::Overload { held, .. } = reason {
                *held
            } else {
                0
            };
            kept.lock().unwrap().push((reason.name(), held));
        }
    });
    ends
}

/// Asks and is answered, whatever the others do; and never are there more bytes than allowed.
fn ask<H: Handler>(reactor: &mut Reactor<H>, client: &mut Client, peak: &mut usize) {
    client.send(&submit(id(1), b"honest"));
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
    let ends = ends(&mut reactor);
    let mut honest = Client::connect(addr);
    let mut peak = 0;
    // Unfinished as well, but not much: they are not to pay for the others.
    let modest: Vec<Client> = (0..50)
        .map(|_| held_open(addr, &unfinished(8_000)))
        .collect();
    turn_until(&mut reactor, |reactor| {
        reactor.counters().bytes_read == 50 * 7_999
    });
    let greedy: Vec<Client> = (0..200)
        .map(|_| {
            let client = held_open(addr, &unfinished(MAX_FRAME));
            ask(&mut reactor, &mut honest, &mut peak);
            client
        })
        .collect();
    turn_until(&mut reactor, |reactor| reactor.counters().accepted == 251);
    ask(&mut reactor, &mut honest, &mut peak);
    let ends = ends.lock().unwrap();
    println!(
        "of 200 greedy peers {} were closed; at most {peak} bytes were held, {high} are allowed",
        ends.len()
    );
    assert!(peak <= high && peak > low, "{peak} bytes held");
    assert!(!ends.is_empty() && ends.len() < 200);
    // A modest one holds 8,000 bytes, in a buffer that may have doubled to grow.
    assert!(
        ends.iter()
            .all(|(name, held)| *name == "overload" && *held > 16_000),
        "{ends:?}"
    );
    assert_eq!(reactor.connections(), 251 - ends.len());
    drop((modest, greedy));
}

fn held_open(addr: SocketAddr, bytes: &[u8]) -> Client {
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
    let ends = ends(&mut reactor);
    let mut honest = Client::connect(addr);
    let requests = submit(id(1), b"").repeat(5000);
    let mut deaf: Vec<Client> = (0..12).map(|_| Client::connect(addr)).collect();
    for client in &deaf {
        client.stream.set_nonblocking(true).unwrap();
    }
    let (mut peak, begun, mut sent) = (0, Instant::now(), BTreeMap::new());
    while ends.lock().unwrap().is_empty() {
        assert!(begun.elapsed() < PATIENCE, "{peak} bytes held at most");
        for (n, client) in deaf.iter_mut().enumerate() {
            let so_far: &mut usize = sent.entry(n).or_default();
            if let Ok(n) = client.stream.write(&requests[*so_far % 13..]) {
                *so_far += n;
            }
        }
        ask(&mut reactor, &mut honest, &mut peak);
    }
    ask(&mut reactor, &mut honest, &mut peak);
    let ends = ends.lock().unwrap();
    println!(
        "of 12 deaf peers {} were closed; at most {peak} bytes were held, {high} are allowed",
        ends.len()
    );
    assert!(peak <= high);
    assert!(
        ends.iter()
            .all(|(name, held)| *name == "overload" && *held > 10_000),
        "{ends:?}"
    );
}

/// Every connection sends much of its own accord when its timer comes; no peer reads.
#[derive(Default)]
struct Alarm(Vec<ConnectionId>);

const SPEECH: usize = 500_000;

impl Handler for Alarm {
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
        cx.send(&*"x".repeat(SPEECH).into_bytes());
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
    let (mut reactor, addr) = reactor(Alarm::default(), config);
    let peers: Vec<Client> = (0..40).map(|_| Client::connect(addr)).collect();
    turn_until(&mut reactor, |reactor| reactor.counters().accepted == 40);
    for id in std::mem::take(&mut reactor.handler().0) {
        assert!(reactor.with(id, |_, cx| {
            cx.set_timer(cx.now());
            Verdict::Continue
        }));
    }
    // `buffered` is true again when the turn is over, so it cannot tell; the allocator can. Only this thread is counted.
    let allocated = allocation_counter::measure(|| {
        turn_until(&mut reactor, |reactor| {
            reactor.counters().timers + reactor.counters().closed >= 40
        });
    });
    let (peak, allowed) = (allocated.bytes_max, HIGH as u64 + 4 * SPEECH as u64);
    assert!(
        peak > SPEECH as u64,
        "{peak} bytes were held: nothing was tested"
    );
    assert!(
        peak <= allowed,
        "{peak} bytes were held at once, {allowed} are allowed"
    );
    drop(peers);
}

/// Floods with requests and reads what comes back, over several connections, until it is told to stop.
fn flood(addr: SocketAddr, peers: usize, over: Arc<AtomicBool>) -> thread::JoinHandle<usize> {
    thread::spawn(move || {
        let requests = submit(id(7), &[0; 300]).repeat(200);
        let mut flooders: Vec<(Client, usize)> =
            (0..peers).map(|_| (Client::connect(addr), 0)).collect();
        for (client, _) in &flooders {
            client.stream.set_nonblocking(true).unwrap();
        }
        let (mut acks, begun) = (vec![0; 64 * 1024], Instant::now());
        while !over.load(Ordering::Relaxed) {
            assert!(
                begun.elapsed() < 5 * PATIENCE,
                "nobody says that it is over"
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
    let mut quiet = Honest::connect(addr, 20);
    let over = Arc::new(AtomicBool::new(false));
    let flooding = flood(addr, 20, over.clone());
    turn_until(&mut reactor, |reactor| {
        reactor.connections() == 40 && reactor.counters().bytes_read > 1_000_000
    });
    let before = reactor.counters().bytes_read;
    let (mut round, begun) = (0, Instant::now());
    // How much comes beside them is up to the other thread.
    while round < 150 || reactor.counters().bytes_read - before <= 1_000_000 {
        assert!(begun.elapsed() < PATIENCE, "no peer floods");
        quiet.ask(round);
        for _ in 0..2 {
            let _ = reactor.turn(Some(Duration::from_millis(100))).unwrap();
        }
        quiet.expect(round); // the loop stands still meanwhile: what is not there now will not come
        round += 1;
    }
    let read = reactor.counters().bytes_read - before;
    over.store(true, Ordering::Relaxed);
    println!(
        "{read} bytes read beside them, {} sent",
        flooding.join().unwrap()
    );
}
