//! When the system has no room left: the loop rests, serves those who are there, and lets the others in by itself.

#![cfg(unix)]

#[path = "util/stage.rs"]
mod played;
#[path = "util/process.rs"]
mod process;
mod util;

use std::io::{self, ErrorKind, Read};
use std::time::{Duration, Instant};

use glassloop::id::Token;
use glassloop::net::Event;
use glassloop::{Config, Reactor};
use played::{Played, SharedStage, pass, play};
use process::{Process, wait_until};
use util::{Client, PATIENCE, Service, ack, id, service, submit};

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

/// How many of the crowd the server has let in, once it lets in no more.
fn served(peers: &[Client], at_least: usize) -> usize {
    let count = || peers.iter().filter(|peer| is_answered(peer)).count();
    wait_until("the first to be let in", || count() >= at_least);
    std::thread::sleep(Duration::from_millis(300)); // nothing tells that nothing more happens
    count()
}

/// Some of those who are served leave; as many of those who wait are let in, though nobody new has knocked.
fn let_some_leave(mut peers: Vec<Client>, served: usize) {
    const LEAVING: usize = 10;
    let waiting = &peers[served..served + LEAVING];
    assert!(!waiting.iter().any(is_answered));
    drop(peers.drain(..LEAVING));
    let begun = Instant::now();
    let queued = &mut peers[served - LEAVING..];
    for (n, peer) in queued[..LEAVING].iter_mut().enumerate() {
        peer.expect(&ack(id((served + n) as u64)));
    }
    println!("{LEAVING} who waited were served {:?} after as many had left", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(5));
}

/// Sums up what the log says of failed accepts: its lines, and the attempts that they stand for.
#[cfg(target_os = "linux")]
fn failures(log: &str) -> (usize, usize) {
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("cannot accept on")).collect();
    let suppressed = lines.iter().filter_map(|line| line.split_once(" more of this kind").and_then(|(head, _)| head.rsplit_once('(')));
    let attempts = suppressed.map(|(_, number)| number.parse::<usize>().unwrap()).sum::<usize>() + lines.len();
    (lines.len(), attempts)
}

#[test]
#[cfg(target_os = "linux")]
fn out_of_descriptors_the_server_rests_serves_on_and_lets_in_those_who_wait_when_there_is_room() {
    let (server, addr) = Process::with_descriptors(64, &["--max-connections", "1000", "--idle-timeout", "off"]);
    let mut peers = crowd(addr);
    server.wait_for_log("cannot accept on");
    let inside = served(&peers, 40);
    assert!((40..64).contains(&inside), "{inside} of {PEERS} are served");
    for (n, peer) in peers[..inside].iter_mut().enumerate() {
        peer.expect(&ack(id(n as u64)));
    }

    let (begun, ticks, before) = (Instant::now(), server.ticks(), failures(&server.log()));
    let mut rounds = 0;
    while begun.elapsed() < Duration::from_secs(3) {
        let peer = &mut peers[rounds % inside];
        peer.send(&submit(id(7), b"still there?"));
        peer.expect(&ack(id(7)));
        rounds += 1;
        std::thread::sleep(Duration::from_millis(50));
    }
    let (took, used, after) = (begun.elapsed(), server.ticks() - ticks, failures(&server.log()));
    let (lines, attempts) = (after.0 - before.0, after.1 - before.1);
    println!("{inside} of {PEERS} served; in {took:?}: {used} ticks, {lines} lines, {attempts} failed accepts, {rounds} requests answered");
    // A tick is 10 ms. One in 200 ms is 5 %, and one more is for the rounding.
    assert!(u128::from(used) * 200 <= took.as_millis() + 200, "{used} ticks in {took:?}");
    let seconds = took.as_secs() as usize + 1;
    assert!((1..=seconds).contains(&lines), "{lines} lines in {took:?}");
    // The first line tells of what was before too.
    assert!(attempts >= 1 && attempts <= 20 * (seconds + 1) + 1, "{attempts} attempts in {took:?}");
    assert!(server.log().contains("; nobody is accepted for now, and is asked again every 50ms"), "{}", server.log());

    let_some_leave(peers, inside);
    server.signal("TERM");
    assert_eq!(server.end().0, Some(0));
}

#[test]
fn by_default_the_server_stops_accepting_before_it_runs_out_of_descriptors() {
    let (server, addr) = Process::with_descriptors(64, &[]);
    server.wait_for_log("room for 48 connections");
    let mut peers = crowd(addr);
    assert_eq!(served(&peers, 48), 48);
    for (n, peer) in peers[..48].iter_mut().enumerate() {
        peer.expect(&ack(id(n as u64)));
    }
    let_some_leave(peers, 48);
    server.signal("TERM");
    let (code, log) = server.end();
    assert_eq!(code, Some(0));
    assert!(!log.contains("cannot accept"), "{log}");
}

#[test]
fn several_loops_stop_accepting_before_the_process_runs_out_of_descriptors_too() {
    let (server, addr) = Process::with_descriptors(64, &["--threads", "4"]);
    // Each further loop needs a few for itself.
    server.wait_for_log("room for 36 connections");
    let peers = crowd(addr);
    served(&peers, 36);
    server.signal("TERM");
    drop(peers);
    let (code, log) = server.end();
    assert_eq!(code, Some(0));
    assert!(!log.contains("cannot accept"), "{log}");
}

// By hand.

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

/// Connections come to a listener.
fn knock(stage: &SharedStage, door: usize, answers: impl IntoIterator<Item = io::Result<()>>) {
    let mut stage = stage.borrow_mut();
    stage.doors[door].script.extend(answers);
    stage.events.push(Event { token: Token::Listener(door).pack(), readable: true, ..Event::default() });
}

fn turn(reactor: &mut Reactor<Service, Played>) {
    let _ = reactor.turn(Some(Duration::ZERO)).unwrap();
}

/// No deadline of a connection shall wake these loops.
fn idle() -> Config {
    Config { idle_timeout: None, ..Config::default() }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
#[cfg(target_os = "linux")]
fn without_room_in_the_system_there_are_at_most_20_attempts_a_second_over_all_listeners() {
    for error in [errno::EMFILE, errno::ENFILE, errno::ENOBUFS, errno::ENOMEM] {
        let (mut reactor, stage) = play(service(), idle(), 2);
        for door in 0..2 {
            stage.borrow_mut().doors[door].then = Some(error);
            knock(&stage, door, []);
        }
        let turns = pass(&mut reactor, &stage, 3 * SECOND);
        let calls: usize = stage.borrow().doors.iter().map(|door| door.calls).sum();
        assert!((55..=61).contains(&calls), "{calls} attempts in three seconds with error {error}");
        assert!(turns <= calls + 2, "{turns} turns for {calls} attempts");
        assert_eq!(reactor.counters().accept_errors, calls as u64);
        // Room again: no new event tells, and both are asked.
        for door in &mut stage.borrow_mut().doors {
            door.then = None;
            door.script.push_back(Ok(()));
        }
        pass(&mut reactor, &stage, SECOND / 10);
        assert_eq!(reactor.connections(), 2, "error {error}");
        assert!(pass(&mut reactor, &stage, 60 * SECOND) <= 2, "and then it sleeps");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_listener_that_is_sick_rests_alone_and_the_others_are_served_meanwhile() {
    for error in [errno::EINVAL, errno::EPERM, errno::EOPNOTSUPP] {
        let (mut reactor, stage) = play(service(), idle(), 3);
        for sick in [0, 2] {
            stage.borrow_mut().doors[sick].then = Some(error);
            knock(&stage, sick, []);
        }
        turn(&mut reactor);
        for served in 1..=20 {
            knock(&stage, 1, [Ok(())]);
            turn(&mut reactor);
            assert_eq!(reactor.connections(), served, "in the very turn in which it came, with error {error} beside it");
        }
        let turns = pass(&mut reactor, &stage, 3 * SECOND);
        let calls: Vec<usize> = stage.borrow().doors.iter().map(|door| door.calls).collect();
        assert!([calls[0], calls[2]].iter().all(|calls| (55..=61).contains(calls)), "{calls:?} attempts with error {error}");
        assert!(turns <= 125, "{turns} turns in three seconds");
        // It recovers without an event.
        stage.borrow_mut().doors[0].then = None;
        stage.borrow_mut().doors[0].script.push_back(Ok(()));
        pass(&mut reactor, &stage, SECOND / 10);
        assert_eq!(reactor.connections(), 21);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_storm_of_connections_that_are_gone_before_the_accept_costs_no_rest_and_no_more_than_a_turn_s_share_at_a_time() {
    let (mut reactor, stage) = play(service(), idle(), 2);
    let aborted = || Err(io::Error::from_raw_os_error(errno::ECONNABORTED));
    knock(&stage, 0, (0..100).map(|_| aborted()).chain([Ok(())]));
    knock(&stage, 1, [Ok(())]);
    turn(&mut reactor);
    assert_eq!((reactor.connections(), stage.borrow().doors[0].calls), (1, 16), "the other one is served in the first turn");
    let turns = pass(&mut reactor, &stage, Duration::from_millis(1));
    assert_eq!((reactor.connections(), stage.borrow().doors[0].calls), (2, 102));
    assert!(turns <= 8, "{turns} turns");
}

#[test]
#[cfg(target_os = "linux")]
fn an_error_of_one_newcomer_does_not_make_the_others_wait() {
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
    for error in [errno::EPROTO, ENONET, ENOPROTOOPT, ENETDOWN, ENETUNREACH, EHOSTDOWN, EHOSTUNREACH] {
        let (mut reactor, stage) = play(service(), idle(), 2);
        knock(&stage, 0, [Err(io::Error::from_raw_os_error(error)), Ok(())]);
        knock(&stage, 1, [Ok(())]);
        turn(&mut reactor);
        if reactor.connections() != 2 {
            late.push(error);
        }
        pass(&mut reactor, &stage, SECOND / 10);
        assert_eq!(reactor.connections(), 2, "at the latest after a rest, with error {error}");
    }
    assert!(late.is_empty(), "all listeners rested after error numbers {late:?} of one newcomer");
}

#[test]
fn a_full_house_with_somebody_at_the_door_is_no_reason_to_stay_awake() {
    let (mut reactor, stage) = play(service(), Config { max_connections: Some(3), ..idle() }, 1);
    knock(&stage, 0, (0..10).map(|_| Ok(())));
    turn(&mut reactor);
    assert_eq!(reactor.connections(), 3);
    assert!(pass(&mut reactor, &stage, 60 * SECOND) <= 2);
    assert_eq!(stage.borrow().doors[0].calls, 3);
}

#[test]
fn the_fixed_limit_lets_in_one_for_one_that_leaves_on_real_sockets() {
    // The same as above with the real poller, which tells of those who wait only once.
    let server = util::Server::start(service(), Config { max_connections: Some(2), ..Config::default() });
    let mut clients: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(&submit(id(n as u64), b""));
    }
    for (n, mut client) in clients.into_iter().enumerate() {
        client.expect(&ack(id(n as u64)));
        client.shut_write();
        client.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(client.stream.read(&mut [0]).unwrap(), 0);
    }
}
