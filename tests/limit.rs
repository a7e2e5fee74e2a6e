//! One limit of connections for several loops: every place comes back, on whatever way, and goes to
//! the loop that waits.

#[path = "util/scripted.rs"]
mod scripted;
mod util;

use std::thread;
use std::time::Duration;

use glassloop::codec::Line;
use glassloop::{Address, Config, ConnectionLimit, Context, Handler, Origin, Stop, Verdict};
use scripted::{Harness, NetState, loopback};
use util::{Client, TIMEOUT, ack, id, reactor, service, submit, turn_until, wait_until};

/// Panics over every second connection.
#[derive(Default)]
struct Fragile {
    made: usize,
}

impl Handler for Fragile {
    type Codec = Line;
    type State = ();
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (Line, ()) {
        self.made += 1;
        assert!(
            self.made % 2 == 1,
            "a connection that the handler does not like"
        );
        (Line::default(), ())
    }

    fn frame(&mut self, _: &[u8], _: &mut Context<'_, Self>) -> Verdict {
        Verdict::Close
    }
}

/// A played loop with one listener, at this limit.
fn harness(limit: &ConnectionLimit) -> Harness<Fragile> {
    let mut harness = Harness::on(
        NetState::with_listeners(1),
        Fragile::default(),
        Config::default(),
    );
    harness.reactor.share_limit(limit);
    harness
}

/// Each connection has its place, and nothing else has one.
#[track_caller]
fn assert_exact(limit: &ConnectionLimit, harnesses: &[&Harness<Fragile>]) {
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
        one.run_for(Duration::from_millis(200)); // it is asked again after a rest, and nothing waits any more
        assert_exact(&limit, &[&one, &other]);
    }
    assert_eq!((limit.open(), one.reactor.counters().accept_errors), (0, 3));
    // Registered in vain, then one that is good, then one over which the handler panics.
    one.net.borrow_mut().register_errors.push_back(ENOSPC);
    one.queue_accepts(0, [Ok(()), Ok(()), Ok(())]);
    one.turn();
    assert_exact(&limit, &[&one, &other]);
    assert_eq!((limit.open(), one.reactor.handler().made), (1, 2));
    // The other loop has the rest, and its second connection panics too.
    other.queue_accepts(0, [Ok(()), Ok(()), Ok(()), Ok(())]);
    other.turn();
    assert_exact(&limit, &[&one, &other]);
    assert_eq!((limit.open(), limit.max()), (3, 3));
    drop(one);
    assert_exact(&limit, &[&other]);
    other.reactor.stop(Stop::AtOnce);
    let _ = other.reactor.turn(Some(Duration::ZERO)).unwrap();
    assert_eq!(limit.open(), 0);
}

#[test]
fn failed_dial_leaves_no_permit_taken() {
    const EADDRNOTAVAIL: i32 = 99;
    let limit = ConnectionLimit::new(1);
    let (mut one, mut other) = (harness(&limit), harness(&limit));
    let dial = |harness: &mut Harness<Fragile>, addrs: Vec<Address>| {
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
    // One that fails at once, and one that is never decided.
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
    let refused =
        "cannot connect to 127.0.0.1:1: 1 connections are open, no more are allowed".to_string();
    assert_eq!(dial(&mut other, vec![loopback(1)]), (Err(refused), 1));
    one.run_for(Duration::from_secs(2));
    assert_exact(&limit, &[&one, &other]);
    assert_eq!(limit.open(), 0);
    assert!(dial(&mut other, vec![loopback(1)]).0.is_ok());
}

#[test]
fn loop_that_joins_later_counts_its_open_connections() {
    let limit = ConnectionLimit::new(1);
    let mut one = Harness::on(NetState::with_listeners(1), service(), Config::default());
    one.accept(2);
    one.reactor.share_limit(&limit);
    one.reactor.share_limit(&limit); // again: counted once
    assert_eq!((limit.open(), one.reactor.max_connections()), (2, 1));
    one.queue_accepts(0, [Ok(())]);
    for (gone, left) in [(0, 1), (1, 1)] {
        one.peer_shuts_write(gone);
        one.run_for(Duration::ZERO);
        one.run_for(Duration::ZERO);
        assert_eq!(
            limit.open(),
            left,
            "the one that waits comes only when both have gone"
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
    // A second loop, asleep in a thread of its own, with a connection that waits.
    let (waiting, told) = (limit.clone(), std::sync::mpsc::channel());
    let other = thread::spawn(move || {
        let (mut other, addr) = reactor(service(), Config::default());
        other.share_limit(&waiting);
        told.0.send((addr, other.handle())).unwrap();
        other.run().unwrap();
    });
    let (addr, handle) = told.1.recv_timeout(TIMEOUT).unwrap();
    let mut patient = Client::connect(addr);
    patient.send(&submit(id(1), b""));
    wait_until("the other loop to wait", || {
        format!("{limit:?}").contains("waiting: 1")
    });
    // The first of the busy loop's leaves. The place goes to the other loop, although this one has
    // four more that wait.
    drop(clients.remove(0));
    turn_until(&mut busy, |busy| busy.connections() == 0);
    patient.expect(&ack(id(1)));
    assert_eq!((busy.connections(), limit.open()), (0, 1));
    drop(patient);
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
    let panics = thread::spawn(move || {
        let (mut reactor, addr) = reactor(service(), Config::default());
        reactor.share_limit(&shared);
        sender.send(addr).unwrap();
        turn_until(&mut reactor, |reactor| reactor.connections() == 1);
        panic!("the end of a loop");
    });
    let client = Client::connect(receiver.recv_timeout(TIMEOUT).unwrap());
    assert!(panics.join().is_err());
    drop(client);
    assert_eq!(limit.open(), 0);
}
