//! One connection limit for several loops: every permit is released, however its connection ends,
//! and goes to the loop that waits.

#[path = "util/scripted.rs"]
mod scripted;
mod util;

use std::thread;
use std::time::Duration;

use glassloop::codec::Line;
use glassloop::{Address, Config, ConnectionLimit, Context, Handler, Origin, Stop, Verdict};
use scripted::{Harness, NetState, loopback};
use util::{Client, TIMEOUT, ack, id, reactor, service, submit, turn_until, wait_until};

/// A handler that panics in `connection` for every second connection.
#[derive(Default)]
struct PanicsOnEverySecond {
    made: usize,
}

impl Handler for PanicsOnEverySecond {
    type Codec = Line;
    type State = ();
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (Line, ()) {
        self.made += 1;
        assert!(self.made % 2 == 1, "a scripted panic of the handler");
        (Line::default(), ())
    }

    fn frame(&mut self, _: &[u8], _: &mut Context<'_, Self>) -> Verdict {
        Verdict::Close
    }
}

/// Returns a loop on a scripted network with one listener and this limit.
fn harness(limit: &ConnectionLimit) -> Harness<PanicsOnEverySecond> {
    let mut harness = Harness::on(
        NetState::with_listeners(1),
        PanicsOnEverySecond::default(),
        Config::default(),
    );
    harness.reactor.share_limit(limit);
    harness
}

/// Checks that each connection has one permit, and nothing else has one.
#[track_caller]
fn assert_permits(limit: &ConnectionLimit, harnesses: &[&Harness<PanicsOnEverySecond>]) {
    assert_eq!(
        limit.open(),
        harnesses
            .iter()
            .map(|harness| harness.reactor.connections())
            .sum::<usize>()
    );
}

#[test]
fn failed_accept_leaves_no_permit_taken() {
    const ECONNABORTED: i32 = 103;
    const EMFILE: i32 = 24;
    const EINVAL: i32 = 22;
    const ENOSPC: i32 = 28;
    let limit = ConnectionLimit::new(3);
    let (mut one, mut other) = (harness(&limit), harness(&limit));
    for error in [ECONNABORTED, EMFILE, EINVAL] {
        one.queue_accepts(0, [Err(std::io::Error::from_raw_os_error(error))]);
        one.turn();
        one.run_for(Duration::from_millis(200)); // the pause ends, and no connection waits
        assert_permits(&limit, &[&one, &other]);
    }
    assert_eq!((limit.open(), one.reactor.counters().accept_errors), (0, 3));
    // A failed registration, then a success, then a panic of the handler.
    one.net.borrow_mut().register_errors.push_back(ENOSPC);
    one.queue_accepts(0, [Ok(()), Ok(()), Ok(())]);
    one.turn();
    assert_permits(&limit, &[&one, &other]);
    assert_eq!((limit.open(), one.reactor.handler().made), (1, 2));
    // The other loop takes the rest, and the handler panics on its second connection.
    other.queue_accepts(0, [Ok(()), Ok(()), Ok(()), Ok(())]);
    other.turn();
    assert_permits(&limit, &[&one, &other]);
    assert_eq!((limit.open(), limit.max()), (3, 3));
    drop(one);
    assert_permits(&limit, &[&other]);
    other.reactor.stop(Stop::AtOnce);
    let _ = other.reactor.turn(Some(Duration::ZERO)).unwrap();
    assert_eq!(limit.open(), 0);
}

#[test]
fn failed_dial_leaves_no_permit_taken() {
    const EADDRNOTAVAIL: i32 = 99;
    let limit = ConnectionLimit::new(1);
    let (mut one, mut other) = (harness(&limit), harness(&limit));
    let dial = |harness: &mut Harness<PanicsOnEverySecond>, addrs: Vec<Address>| {
        let begun = harness
            .reactor
            .connect_to(addrs, Duration::from_secs(1))
            .map_err(|error| error.to_string());
        (begun, limit.open())
    };
    assert_eq!(
        dial(&mut one, vec![]),
        (Err("cannot connect: no address to connect to".into()), 0)
    );
    // One dial fails at once, and one stays pending.
    one.net
        .borrow_mut()
        .connect_results
        .push_back(Err(std::io::Error::from_raw_os_error(EADDRNOTAVAIL)));
    assert_eq!(dial(&mut one, vec![loopback(1)]).1, 1);
    one.turn();
    assert_eq!(limit.open(), 0);
    let (begun, open) = dial(&mut one, vec![loopback(1)]);
    assert!(
        begun
            .unwrap_err()
            .contains("the handler panicked in `connection`")
            && open == 0
    );
    assert_eq!(dial(&mut one, vec![loopback(1)]).1, 1);
    let limit_error =
        "cannot connect to 127.0.0.1:1: 1 connections are open, no more are allowed".to_string();
    assert_eq!(dial(&mut other, vec![loopback(1)]), (Err(limit_error), 1));
    one.run_for(Duration::from_secs(2));
    assert_permits(&limit, &[&one, &other]);
    assert_eq!(limit.open(), 0);
    assert!(dial(&mut other, vec![loopback(1)]).0.is_ok());
}

#[test]
fn loop_that_joins_later_counts_its_open_connections() {
    let limit = ConnectionLimit::new(1);
    let mut one = Harness::on(NetState::with_listeners(1), service(), Config::default());
    one.accept(2);
    one.reactor.share_limit(&limit);
    one.reactor.share_limit(&limit); // a second call counts once
    assert_eq!((limit.open(), one.reactor.max_connections()), (2, 1));
    one.queue_accepts(0, [Ok(())]);
    for (closed, open) in [(0, 1), (1, 1)] {
        one.peer_shuts_write(closed);
        one.run_for(Duration::ZERO);
        one.run_for(Duration::ZERO);
        assert_eq!(
            limit.open(),
            open,
            "the waiting connection is accepted only when both are closed"
        );
    }
    assert!(one.is_open(2));
}

#[test]
fn freed_permit_goes_to_the_waiting_loop() {
    let limit = ConnectionLimit::new(1);
    let (mut busy, addr) = reactor(service(), Config::default());
    busy.share_limit(&limit);
    let mut clients: Vec<Client> = (0..5).map(|_| Client::connect(addr)).collect();
    turn_until(&mut busy, |busy| busy.connections() == 1);
    // A second loop, blocked in its own thread, with a connection that waits.
    let (shared, channel) = (limit.clone(), std::sync::mpsc::channel());
    let other = thread::spawn(move || {
        let (mut other, addr) = reactor(service(), Config::default());
        other.share_limit(&shared);
        channel.0.send((addr, other.handle())).unwrap();
        other.run().unwrap();
    });
    let (addr, handle) = channel.1.recv_timeout(TIMEOUT).unwrap();
    let mut waiting_client = Client::connect(addr);
    waiting_client.send(&submit(id(1), b""));
    wait_until("the other loop to wait", || {
        format!("{limit:?}").contains("waiting: 1")
    });
    // The busy loop's connection closes. The permit goes to the other loop, although the busy loop
    // has four more waiting connections.
    drop(clients.remove(0));
    turn_until(&mut busy, |busy| busy.connections() == 0);
    waiting_client.expect(&ack(id(1)));
    assert_eq!((busy.connections(), limit.open()), (0, 1));
    drop(waiting_client);
    turn_until(&mut busy, |busy| busy.connections() == 1);
    handle.stop(Stop::Gracefully);
    other.join().unwrap();
    drop(busy);
    assert_eq!(limit.open(), 0);
}

#[test]
fn panicked_loop_releases_its_permits() {
    let limit = ConnectionLimit::new(1);
    let (sender, receiver) = std::sync::mpsc::channel();
    let shared = limit.clone();
    let panicking = thread::spawn(move || {
        let (mut reactor, addr) = reactor(service(), Config::default());
        reactor.share_limit(&shared);
        sender.send(addr).unwrap();
        turn_until(&mut reactor, |reactor| reactor.connections() == 1);
        panic!("scripted panic");
    });
    let client = Client::connect(receiver.recv_timeout(TIMEOUT).unwrap());
    assert!(panicking.join().is_err());
    drop(client);
    assert_eq!(limit.open(), 0);
}
