//! When the system has no room left: the loop rests, serves those who are there, and lets the others in by itself.

#![cfg(unix)]

#[path = "util/process.rs"]
mod process;
#[path = "util/scripted.rs"]
mod scripted;
mod util;

use std::io::{ErrorKind, Read};
use std::time::{Duration, Instant};

use glassloop::Config;
use process::Process;
use scripted::NetState;
use util::{Client, Service, TIMEOUT, ack, id, service, submit, wait_until};

const PEERS: usize = 120;

/// Peers that have asked something each, in the order in which they wait to be let in.
fn crowd(addr: std::net::SocketAddr) -> Vec<Client> {
    let newcomer = |n| {
        let mut client = Client::connect(addr);
        client.send(&submit(id(n), b"me too"));
        client
    };
    (0..PEERS as u64).map(newcomer).collect()
}

/// Whether bytes wait to be read.
fn is_answered(client: &Client) -> bool {
    client.stream.set_nonblocking(true).unwrap();
    let answer = client.stream.peek(&mut [0]);
    client.stream.set_nonblocking(false).unwrap();
    match answer {
        Ok(1) => true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        other => panic!("neither answered nor waiting: {other:?}"),
    }
}

/// How many of the crowd the server has let in, once it lets in no more. Their answers are still to be read.
fn served(peers: &mut [Client], at_least: usize) -> usize {
    let count = |peers: &[Client]| peers.iter().filter(|peer| is_answered(peer)).count();
    wait_until("the first to be let in", || count(peers) >= at_least);
    std::thread::sleep(Duration::from_millis(300)); // time for one too many to be let in
    // However slow the machine is: while one who is in is served a few times over, all the others who are in are served too.
    // With several loops the first peer may be one that waits: its loop may have found no permit.
    let first = peers.iter().position(is_answered).unwrap();
    let first_id = id(first as u64);
    let asked = submit(first_id, b"me again");
    for _ in 0..10 {
        peers[first].expect(&ack(first_id));
        peers[first].send(&asked);
    }
    wait_until("the last answer", || is_answered(&peers[first]));
    count(peers)
}

/// Some of those who are served leave; as many of those who wait are let in, though nobody new has knocked.
fn let_some_leave(mut peers: Vec<Client>, served: usize) {
    const LEAVING: usize = 10;
    let waiting = &peers[served..served + LEAVING];
    assert!(!waiting.iter().any(is_answered));
    drop(peers.drain(..LEAVING));
    let queued = &mut peers[served - LEAVING..];
    for (n, peer) in queued[..LEAVING].iter_mut().enumerate() {
        peer.expect(&ack(id((served + n) as u64)));
    }
}

/// Sums up what the log says of failed accepts: its lines, and the attempts that they stand for.
#[cfg(target_os = "linux")]
fn failures(log: &str) -> (usize, usize) {
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("cannot accept on"))
        .collect();
    let suppressed = lines.iter().filter_map(|line| {
        line.split_once(" more of this kind")
            .and_then(|(head, _)| head.rsplit_once('('))
    });
    let attempts = suppressed
        .map(|(_, number)| number.parse::<usize>().unwrap())
        .sum::<usize>()
        + lines.len();
    (lines.len(), attempts)
}

#[test]
#[cfg(target_os = "linux")]
fn out_of_descriptors_server_pauses_accepts_and_serves_on() {
    let (server, addr) =
        Process::with_descriptors(64, &["--max-connections", "1000", "--idle-timeout", "off"]);
    let mut peers = crowd(addr);
    server.wait_for_log("cannot accept on");
    let inside = served(&mut peers, 40);
    assert!((40..64).contains(&inside), "{inside} of {PEERS} are served");
    for (n, peer) in peers[..inside].iter_mut().enumerate() {
        peer.expect(&ack(id(n as u64)));
    }

    let (begun, ticks, before) = (Instant::now(), server.cpu_ticks(), failures(&server.log()));
    let mut rounds = 0;
    while begun.elapsed() < Duration::from_secs(3) {
        let peer = &mut peers[rounds % inside];
        peer.send(&submit(id(7), b"still there?"));
        peer.expect(&ack(id(7)));
        rounds += 1;
        std::thread::sleep(Duration::from_millis(50));
    }
    let (after, used, took) = (
        failures(&server.log()),
        server.cpu_ticks() - ticks,
        begun.elapsed(),
    );
    let (lines, attempts) = (after.0 - before.0, after.1 - before.1);
    println!(
        "{inside} of {PEERS} served; in {took:?}: {used} ticks, {lines} lines, {attempts} failed accepts, {rounds} requests answered"
    );
    // A tick is 10 ms. One in 200 ms is 5 %, and one more is for the rounding.
    assert!(
        u128::from(used) * 200 <= took.as_millis() + 200,
        "{used} ticks in {took:?}"
    );
    let seconds = took.as_secs() as usize + 1;
    assert!((1..=seconds).contains(&lines), "{lines} lines in {took:?}");
    // The first line tells of what was before too.
    assert!(
        attempts >= 1 && attempts <= 20 * (seconds + 1) + 1,
        "{attempts} attempts in {took:?}"
    );
    assert!(
        server.log().contains("; all listeners pause for 50ms"),
        "{}",
        server.log()
    );

    let_some_leave(peers, inside);
    server.signal("TERM");
    assert_eq!(server.end().0, Some(0));
}

#[test]
fn default_limit_stops_accepts_before_descriptors_run_out() {
    let (server, addr) = Process::with_descriptors(64, &[]);
    server.wait_for_log("room for 48 connections");
    let mut peers = crowd(addr);
    assert_eq!(served(&mut peers, 48), 48);
    for (n, peer) in peers[..48].iter_mut().enumerate() {
        peer.expect(&ack(id(n as u64)));
    }
    let_some_leave(peers, 48);
    let log = server.log();
    assert!(!log.contains("cannot accept"), "{log}");
    server.signal("TERM");
    assert_eq!(server.end().0, Some(0));
}

#[test]
fn several_loops_stop_accepts_before_descriptors_run_out() {
    let (server, addr) = Process::with_descriptors(64, &["--threads", "4"]);
    // Each further loop needs a few for itself.
    server.wait_for_log("room for 36 connections");
    let mut peers = crowd(addr);
    served(&mut peers, 36);
    let log = server.log();
    assert!(!log.contains("cannot accept"), "{log}");
    // Now it lets in those who wait too, as far as there are descriptors.
    server.signal("TERM");
    drop(peers);
    assert_eq!(server.end().0, Some(0));
}

#[test]
#[cfg(target_os = "linux")]
fn connections_beyond_the_backlog_are_accepted_later() {
    const NEWCOMERS: usize = 8;
    let (listener, addr) = util::bound();
    listener.listen(2).unwrap();
    // Nobody waits here: each has sent his first packet when the call returns, and it was answered or dropped.
    let newcomers: Vec<socket2::Socket> = (0..NEWCOMERS)
        .map(|_| {
            let socket =
                socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&addr.into());
            socket
        })
        .collect();
    let outside = newcomers
        .iter()
        .filter(|socket| socket.peer_addr().is_err())
        .count();
    assert!(outside > 0, "the queue was meant to be too short");
    let mut reactor = glassloop::Reactor::new(service(), Config::default()).unwrap();
    reactor.listen_on(listener.into()).unwrap();
    // Their systems try again, after a second for the first time. Each speaks as soon as he believes that he is in: a listener that
    // was flooded may know of him only then (tcp_syncookies, tcp(7)).
    let (asked, mut silent) = (
        submit(id(1), b"at last"),
        newcomers.iter().collect::<Vec<_>>(),
    );
    util::turn_until(&mut reactor, |reactor| {
        silent.retain(|socket| socket.send(&asked).is_err());
        reactor.counters().frames == NEWCOMERS as u64
    });
    for socket in newcomers {
        socket.set_nonblocking(false).unwrap();
        Client {
            stream: socket.into(),
        }
        .expect(&ack(id(1)));
    }
}

// By hand: on the played net.

#[cfg(target_os = "linux")]
mod errno {
    pub(crate) const EPERM: i32 = 1;
    pub(crate) const ENOMEM: i32 = 12;
    pub(crate) const EINVAL: i32 = 22;
    pub(crate) const ENFILE: i32 = 23;
    pub(crate) const EMFILE: i32 = 24;
    pub(crate) const EPROTO: i32 = 71;
    pub(crate) const EOPNOTSUPP: i32 = 95;
    pub(crate) const ECONNABORTED: i32 = 103;
    pub(crate) const ENOBUFS: i32 = 105;
}

type Harness = scripted::Harness<Service>;

/// A loop with so many listeners.
fn by_hand(config: Config, listeners: usize) -> Harness {
    Harness::on(NetState::with_listeners(listeners), service(), config)
}

/// How often each listener was asked for a connection.
fn calls(harness: &Harness) -> Vec<u64> {
    harness
        .net
        .borrow()
        .listeners
        .iter()
        .map(|listener| listener.calls)
        .collect()
}

/// No deadline of a connection shall wake these loops.
fn idle() -> Config {
    Config {
        idle_timeout: None,
        ..Config::default()
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
#[cfg(target_os = "linux")]
fn resource_errors_limit_accepts_to_20_attempts_a_second() {
    for error in [errno::EMFILE, errno::ENFILE, errno::ENOBUFS, errno::ENOMEM] {
        let mut harness = by_hand(idle(), 2);
        for listener in 0..2 {
            harness.net.borrow_mut().listeners[listener].then_error = Some(error);
            harness.queue_accepts(listener, []);
        }
        let turns = harness.run_for(3 * SECOND);
        let calls: u64 = calls(&harness).iter().sum();
        assert!(
            (55..=61).contains(&calls),
            "{calls} attempts in three seconds with error {error}"
        );
        assert!(turns <= calls + 2, "{turns} turns for {calls} attempts");
        assert_eq!(harness.reactor.counters().accept_errors, calls);
        // Room again: no new event tells, and both are asked.
        for listener in &mut harness.net.borrow_mut().listeners {
            listener.then_error = None;
            listener.script.push_back(Ok(()));
        }
        harness.run_for(SECOND / 10);
        assert_eq!(harness.reactor.connections(), 2, "error {error}");
        assert!(harness.run_for(60 * SECOND) <= 2, "and then it sleeps");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn failing_listener_pauses_alone_and_others_accept() {
    for error in [errno::EINVAL, errno::EPERM, errno::EOPNOTSUPP] {
        let mut harness = by_hand(idle(), 3);
        for sick in [0, 2] {
            harness.net.borrow_mut().listeners[sick].then_error = Some(error);
            harness.queue_accepts(sick, []);
        }
        harness.turn();
        for served in 1..=20 {
            harness.queue_accepts(1, [Ok(())]);
            harness.turn();
            assert_eq!(
                harness.reactor.connections(),
                served,
                "in the very turn in which it came, with error {error} beside it"
            );
        }
        let turns = harness.run_for(3 * SECOND);
        let calls = calls(&harness);
        assert!(
            [calls[0], calls[2]]
                .iter()
                .all(|calls| (55..=61).contains(calls)),
            "{calls:?} attempts with error {error}"
        );
        assert!(turns <= 125, "{turns} turns in three seconds");
        // It recovers without an event.
        harness.net.borrow_mut().listeners[0].then_error = None;
        harness.net.borrow_mut().listeners[0]
            .script
            .push_back(Ok(()));
        harness.run_for(SECOND / 10);
        assert_eq!(harness.reactor.connections(), 21);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn aborted_connections_cause_no_pause_and_stay_within_the_turn_limit() {
    let mut harness = by_hand(idle(), 2);
    let aborted = || Err(std::io::Error::from_raw_os_error(errno::ECONNABORTED));
    harness.queue_accepts(0, (0..100).map(|_| aborted()).chain([Ok(())]));
    harness.queue_accepts(1, [Ok(())]);
    harness.turn();
    assert_eq!(
        (harness.reactor.connections(), calls(&harness)[0]),
        (1, 16),
        "the other one is served in the first turn"
    );
    let turns = harness.run_for(Duration::from_millis(1));
    assert_eq!(
        (harness.reactor.connections(), calls(&harness)[0]),
        (2, 102)
    );
    assert!(turns <= 8, "{turns} turns");
}

#[test]
#[cfg(target_os = "linux")]
fn network_error_of_one_connection_does_not_delay_others() {
    // accept(2): "For reliable operation the application should detect the network errors defined for the protocol after
    // accept() and treat them like EAGAIN by retrying. In the case of TCP/IP, these are ENETDOWN, EPROTO, ENOPROTOOPT,
    // EHOSTDOWN, ENONET, EHOSTUNREACH, EOPNOTSUPP, and ENETUNREACH."
    const ENONET: i32 = 64;
    const ENOPROTOOPT: i32 = 92;
    const ENETDOWN: i32 = 100;
    const ENETUNREACH: i32 = 101;
    const EHOSTDOWN: i32 = 112;
    const EHOSTUNREACH: i32 = 113;
    let mut late = Vec::new();
    for error in [
        errno::EPROTO,
        ENONET,
        ENOPROTOOPT,
        ENETDOWN,
        ENETUNREACH,
        EHOSTDOWN,
        EHOSTUNREACH,
    ] {
        let mut harness = by_hand(idle(), 2);
        harness.queue_accepts(0, [Err(std::io::Error::from_raw_os_error(error)), Ok(())]);
        harness.queue_accepts(1, [Ok(())]);
        harness.turn();
        if harness.reactor.connections() != 2 {
            late.push(error);
        }
        harness.run_for(SECOND / 10);
        assert_eq!(
            harness.reactor.connections(),
            2,
            "at the latest after a rest, with error {error}"
        );
    }
    assert!(
        late.is_empty(),
        "all listeners rested after error numbers {late:?} of one newcomer"
    );
}

#[test]
fn full_loop_with_pending_connections_does_not_spin() {
    let mut harness = by_hand(
        Config {
            max_connections: Some(3),
            ..idle()
        },
        1,
    );
    harness.queue_accepts(0, (0..10).map(|_| Ok(())));
    harness.turn();
    assert_eq!(harness.reactor.connections(), 3);
    assert!(harness.run_for(60 * SECOND) <= 2);
    assert_eq!(calls(&harness)[0], 3);
}

#[test]
fn connection_limit_accepts_one_for_each_close_on_real_sockets() {
    // The same as above with the real poller, which tells of those who wait only once.
    let server = util::Server::start(
        service(),
        Config {
            max_connections: Some(2),
            ..Config::default()
        },
    );
    let mut clients: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(&submit(id(n as u64), b""));
    }
    for (n, mut client) in clients.into_iter().enumerate() {
        client.expect(&ack(id(n as u64)));
        client.shut_write();
        client.stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        assert_eq!(client.stream.read(&mut [0]).unwrap(), 0);
    }
}
