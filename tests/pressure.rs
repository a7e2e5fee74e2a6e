//! Back-pressure and limits under load: peers that send more than they read, and many connections.

#[path = "util/scripted.rs"]
mod scripted;
mod util;

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use glassloop::codec::Line;
use glassloop::internals::{Connection, Shared};
use glassloop::{Config, Context, Handler, Origin, Reactor, Verdict};
use scripted::{Harness, NetState};
use util::{Client, ack, addr_of, id, service, submit, turn_until};

/// Sends until neither the sockets nor the loop accept more bytes. Returns the number of bytes
/// sent, and the peak of the memory that the loop's connections held.
fn flood<H: glassloop::Handler>(
    reactor: &mut Reactor<H>,
    client: &mut Client,
    stream: &[u8],
) -> (usize, usize) {
    client.stream.set_nonblocking(true).unwrap();
    let (mut sent, mut peak, mut idle) = (0, 0, 0);
    while idle < 50 {
        match client.stream.write(&stream[sent % stream.len()..]) {
            Ok(n) => {
                sent += n;
                idle = 0;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => idle += 1,
            Err(error) => panic!("{error}"),
        }
        let _ = reactor
            .turn(Some(Duration::from_millis(u64::from(idle > 0))))
            .unwrap();
        peak = peak.max(reactor.buffered());
    }
    client.stream.set_nonblocking(false).unwrap();
    (sent, peak)
}

#[test]
fn peer_that_never_reads_uses_bounded_memory_and_loses_no_reply() {
    let mut reactor = Reactor::bind("127.0.0.1:0", service()).unwrap();
    let mut client = Client::connect(addr_of(&reactor));
    let requests: Vec<u8> = (0..10_000).flat_map(|n| submit(id(n), b"")).collect();
    let (sent, peak) = flood(&mut reactor, &mut client, &requests);

    // The bytes of one read that could not be handled yet, and the replies up to the high mark, in
    // a buffer that may have doubled to grow.
    let config = reactor.config();
    let bound = config.scratch + 2 * (config.write_high + 14);
    println!("{sent} bytes sent, peak memory {peak} bytes, {bound} allowed");
    assert!(
        (1..=bound).contains(&peak),
        "{peak} bytes held, {bound} allowed"
    );
    assert!(reactor.counters().writes_blocked > 0 && reactor.counters().bytes_read < sent as u64);

    // The loop continues by itself as soon as the peer reads, and no reply is lost. The last
    // request may have been cut.
    let frames = sent / 13;
    let mut reader = client.stream.try_clone().unwrap();
    let reading = std::thread::spawn(move || {
        let mut got = vec![0; frames * 14];
        reader.read_exact(&mut got).map(|()| got)
    });
    turn_until(&mut reactor, |_| reading.is_finished());
    let wanted: Vec<u8> = (0..frames as u64)
        .flat_map(|n| ack(id(n % 10_000)))
        .collect();
    assert!(reading.join().unwrap().unwrap() == wanted);
    turn_until(&mut reactor, |reactor| {
        reactor.counters().frames == frames as u64
    });
}

#[test]
fn reading_stops_at_the_high_mark_until_the_low_mark_is_reached() {
    let mut reactor = Reactor::bind("127.0.0.1:0", service()).unwrap();
    let mut client = Client::connect(addr_of(&reactor));
    flood(&mut reactor, &mut client, &submit(id(1), b"").repeat(1000));
    let blocked = reactor.counters();
    for _ in 0..100 {
        let _ = reactor.turn(Some(Duration::ZERO)).unwrap();
    }
    let after = reactor.counters();
    assert_eq!(
        (after.reads, after.writes, after.frames),
        (blocked.reads, blocked.writes, blocked.frames)
    );
    // 14 free bytes are not enough: the kernel reports the socket writable when about a third of
    // its buffer is free.
    client.stream.read_exact(&mut [0; 14]).unwrap();
    let _ = reactor.turn(Some(Duration::from_millis(5))).unwrap();
    assert_eq!(reactor.counters().reads, blocked.reads);
}

#[test]
fn flooding_peer_does_not_starve_a_quiet_peer() {
    let mut reactor = Reactor::bind("127.0.0.1:0", service()).unwrap();
    let addr = addr_of(&reactor);
    let (mut flooder, mut quiet) = (Client::connect(addr), Client::connect(addr));
    turn_until(&mut reactor, |reactor| reactor.connections() == 2);
    let requests = submit(id(7), &[0; 1000]).repeat(20_000);
    let mut writer = flooder.stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || writer.write_all(&requests));
    let reading = std::thread::spawn(move || flooder.expect(&ack(id(7)).repeat(20_000)));
    let mut rounds = 0;
    while !reading.is_finished() {
        quiet.send(&submit(id(1), b"quiet"));
        let frames = reactor.counters().frames;
        // The request arrives before the turn begins, so this turn or the next must serve it.
        let _ = reactor.turn(Some(Duration::from_millis(100))).unwrap();
        let _ = reactor.turn(Some(Duration::from_millis(100))).unwrap();
        assert!(reactor.counters().frames > frames);
        quiet.expect(&ack(id(1)));
        rounds += 1;
    }
    assert!(rounds > 0);
    writing.join().unwrap().unwrap();
    reading.join().unwrap();
    assert!(reactor.counters().bytes_read > 20_000_000);
}

#[test]
fn connections_above_the_limit_wait_until_one_closes() {
    let mut reactor = Reactor::new(
        service(),
        Config {
            max_connections: Some(2),
            ..Config::default()
        },
    )
    .unwrap();
    let addr = reactor.listen("127.0.0.1:0").unwrap();
    let mut clients: Vec<Client> = (0..5).map(|_| Client::connect(addr)).collect();
    for client in &mut clients {
        client.send(&submit(id(1), b""));
    }
    for closed in 0..5 {
        let answered = (closed + 2).min(5);
        turn_until(&mut reactor, |reactor| {
            reactor.counters().frames == answered
        });
        assert!(reactor.connections() <= 2);
        let mut first = clients.remove(0);
        first.expect(&ack(id(1)));
        drop(first);
        turn_until(&mut reactor, |reactor| {
            reactor.counters().closed == closed + 1
        });
    }
    assert!(reactor.connect(addr, Duration::MAX).is_ok());
}

#[test]
fn accepts_above_the_turn_limit_wait_for_the_next_turn() {
    let mut reactor = Reactor::new(
        service(),
        Config {
            accepts_per_turn: 3,
            ..Config::default()
        },
    )
    .unwrap();
    let addr = reactor.listen("127.0.0.1:0").unwrap();
    let _clients: Vec<Client> = (0..10).map(|_| Client::connect(addr)).collect();
    for accepted in [3, 6, 9, 10] {
        let _ = reactor.turn(Some(Duration::from_millis(100))).unwrap();
        assert_eq!(reactor.counters().accepted, accepted);
    }
}

#[test]
fn memory_follows_bytes_received_and_not_the_announced_length() {
    const PEERS: usize = 10_000;
    let mut harness = Harness::on(
        NetState::with_listeners(1),
        service(),
        Config {
            max_connections: Some(PEERS),
            ..Config::default()
        },
    );
    harness.accept(PEERS);
    // Each announces the longest frame allowed: 655 MB in all.
    let length = 65_536_u32.to_be_bytes();
    let mut held = Vec::new();
    for piece in [&length[..], b"\x02", b"0", b"0"] {
        (0..PEERS).for_each(|peer| harness.peer_sends(peer, piece));
        harness.turn();
        held.push(harness.reactor.buffered() / PEERS);
    }
    println!("{PEERS} peers announce 65,536 bytes each and send 7: {held:?} bytes held for each");
    assert!(
        held[0] <= 64,
        "{held:?}: four bytes and their heap box are allowed"
    );
    assert!(
        held[3] <= 2 * 7 + 4096,
        "{held:?}: at most one growth step beyond the received bytes is allowed"
    );
    assert_eq!(harness.reactor.connections(), PEERS);
}

/// Answers each line with as many empty lines as it has bytes.
struct LinePerByte;

impl Handler for LinePerByte {
    type Codec = Line;
    type State = ();
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (Line, ()) {
        (Line::default().max(2 << 20), ())
    }

    fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Verdict {
        for _ in line {
            cx.send(&b""[..]);
        }
        Verdict::Continue
    }
}

#[test]
fn million_one_byte_messages_use_memory_of_their_bytes() {
    const MANY: usize = 1_000_000;
    let config = Config {
        write_high: 4 << 20,
        write_low: 0,
        write_cap: 4 << 20,
        ..Config::default()
    };
    let (handler, shared) = (&mut LinePerByte, &mut Shared::new(config, Instant::now()));
    let mut connection = Connection::unconnected(handler);
    // A line that arrives byte by byte.
    for arrived in 1..=MANY {
        connection.receive(b"x", handler, shared);
        assert!(
            connection.heap() <= 2 * arrived + 4096,
            "{} bytes held for {arrived} received",
            connection.heap()
        );
    }
    // As many replies of one byte each, which the peer does not read.
    connection.receive(b"\n", handler, shared);
    assert_eq!(connection.unsent().len(), MANY);
    assert!(
        connection.heap() <= 2 * MANY + 4096,
        "{} bytes held",
        connection.heap()
    );
    // As many frames of one byte each: they leave no memory in use.
    connection.sent(MANY, shared);
    connection.shrink();
    for _ in 0..MANY {
        connection.receive(b"\n", handler, shared);
    }
    assert_eq!(
        (shared.observe.counters().frames, connection.heap()),
        (MANY as u64 + 1, 0)
    );
}
