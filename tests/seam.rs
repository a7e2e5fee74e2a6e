//! The loop on a scripted network with its own clock: rare results of system calls, produced on
//! purpose.

#[path = "util/scripted.rs"]
mod scripted;
mod util;

use std::io::{self, ErrorKind};
use std::time::Duration;

use glassloop::codec::Line;
use glassloop::internals::{Established, Event};
use glassloop::{
    CloseReason, Config, ConnectionId, Context, Error, Handler, Origin, Stop, Turn, Verdict,
};
use scripted::{NetState, loopback, ms};
use util::{Service, ack, id, service, submit};

type Harness = scripted::Harness<Service>;

/// A loop with one listener.
fn scripted(config: Config) -> Harness {
    Harness::on(
        NetState {
            descriptors: Some(100),
            ..NetState::with_listeners(1)
        },
        service(),
        config,
    )
}

/// Takes one turn without a limit on its sleep.
fn turn(harness: &mut Harness) -> Turn {
    harness.reactor.turn(None).unwrap()
}

#[test]
fn event_for_an_earlier_connection_in_a_slot_is_counted_as_stale() {
    let mut harness = scripted(Config::default());
    let closed = harness.accept(1);
    harness.net.borrow_mut().peers[closed].then_read = Err(ErrorKind::ConnectionReset);
    harness.report_event(closed, |event| event.readable = true);
    let _ = turn(&mut harness);
    assert_eq!(
        (
            harness.reactor.connections(),
            harness.net.borrow().deregistered
        ),
        (0, 1)
    );

    let next = harness.accept(1);
    let [first, second] = [closed, next].map(|peer| harness.net.borrow().peers[peer].token);
    assert_ne!(first, second);
    let before = harness.reactor.counters();
    for token in [first, first + 0x55, usize::MAX] {
        harness.net.borrow_mut().events.push(Event {
            token,
            readable: true,
            ..Event::default()
        });
    }
    let _ = turn(&mut harness);
    let after = harness.reactor.counters();
    assert_eq!(
        (after.stale, after.reads, after.events),
        (before.stale + 3, before.reads, before.events)
    );
    assert_eq!(harness.reactor.connections(), 1);
}

/// Closes all other connections on the line `close others`. Keeps the lines and close reasons of
/// each connection.
#[derive(Default)]
struct ClosesOthers {
    all: Vec<ConnectionId>,
    log: Vec<(ConnectionId, String)>,
}

impl Handler for ClosesOthers {
    type Codec = Line;
    type State = ();
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (Line, ()) {
        (Line::default(), ())
    }

    fn open(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        self.all.push(cx.id());
        Verdict::Continue
    }

    fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Verdict {
        self.log
            .push((cx.id(), String::from_utf8_lossy(line).into()));
        if line == b"close others" {
            let this = cx.id();
            self.all
                .iter()
                .filter(|id| **id != this)
                .for_each(|id| cx.close(*id));
        }
        Verdict::Continue
    }

    fn close(&mut self, cx: &mut Context<'_, Self>, reason: &CloseReason) {
        self.log.push((cx.id(), reason.to_string()));
    }
}

#[test]
fn slot_of_a_closed_connection_is_not_reused_within_the_batch() {
    // The other connection is closed after the batch; or at once, if `command_high` is reached.
    let (after, at_once) = (Config::default().command_high, 1);
    for (command_high, log_of_other) in [
        (after, &["wait", "reset by the peer"][..]),
        (at_once, &["closed by the handler"]),
    ] {
        let config = Config {
            command_high,
            ..Config::default()
        };
        let mut harness =
            scripted::Harness::on(NetState::with_listeners(1), ClosesOthers::default(), config);
        let (one, other) = (harness.accept(1), harness.accept(1));
        // One batch: the other connection is closed, its peer sends and resets, it gets one more
        // event, and a new connection arrives that could take its slot.
        harness.peer_sends(one, b"close others\n");
        harness.peer_sends(other, b"wait\n");
        harness.peer_resets(other);
        harness.report_event(other, |event| {
            (event.readable, event.writable) = (true, true);
        });
        harness.queue_accepts(0, [Ok(())]);
        harness.turn();
        let ClosesOthers { all, log } = harness.reactor.handler();
        let [first, second, third] = all[..] else {
            panic!("three connections expected: {all:?}")
        };
        let log: Vec<(ConnectionId, &str)> =
            log.iter().map(|(id, what)| (*id, what.as_str())).collect();
        let log_of_other = log_of_other.iter().map(|what| (second, *what));
        assert_eq!(
            log,
            [(first, "close others")]
                .into_iter()
                .chain(log_of_other)
                .collect::<Vec<_>>(),
            "with command_high {command_high}"
        );
        assert!(third.slot() != first.slot() && third.slot() != second.slot());
        assert_eq!(
            (
                harness.reactor.connections(),
                harness.is_open(one),
                harness.is_open(other)
            ),
            (2, true, false)
        );
        // Its slot is free only after the batch.
        harness.accept(1);
        assert_eq!(harness.reactor.handler().all[3].slot(), second.slot());
    }
}

#[test]
fn accept_without_descriptors_backs_off_and_retries_by_timer() {
    const EMFILE: i32 = 24;
    let out_of_descriptors = || Err(io::Error::from_raw_os_error(EMFILE));
    let mut harness = scripted(Config::default());
    // One event for all: the poller reports the listener once.
    harness.queue_accepts(0, (0..5).map(|_| out_of_descriptors()).chain([Ok(())]));
    while harness.reactor.connections() == 0 {
        let _ = turn(&mut harness);
        assert!(
            harness.reactor.counters().turns < 20,
            "{:?}",
            harness.reactor
        );
    }
    assert_eq!(harness.net.borrow().timeouts[1..6], [Some(ms(50)); 5]);
    assert_eq!(harness.reactor.counters().accept_errors, 5);
    // During the backoff, another event does not cause an accept.
    harness.queue_accepts(0, [out_of_descriptors()]);
    let _ = turn(&mut harness);
    let calls = harness.net.borrow().listeners[0].calls;
    harness.queue_accepts(0, []);
    let _ = turn(&mut harness);
    assert_eq!(harness.net.borrow().listeners[0].calls, calls);
}

#[test]
fn connection_aborted_before_accept_does_not_block_the_next() {
    let mut harness = scripted(Config::default());
    harness.queue_accepts(
        0,
        [
            Err(ErrorKind::ConnectionAborted.into()),
            Err(ErrorKind::Interrupted.into()),
            Ok(()),
        ],
    );
    let _ = turn(&mut harness);
    assert_eq!(
        (
            harness.reactor.connections(),
            harness.reactor.counters().accept_errors
        ),
        (1, 2)
    );
}

#[test]
fn partial_and_interrupted_writes_lose_no_byte() {
    let mut harness = scripted(Config::default());
    let peer = harness.accept(1);
    let script = [
        Ok(1),
        Err(ErrorKind::Interrupted),
        Ok(1),
        Err(ErrorKind::WouldBlock),
        Ok(39),
        Err(ErrorKind::WouldBlock),
    ];
    harness.net.borrow_mut().peers[peer]
        .writes
        .extend(script.map(|answer| answer.map_err(Into::into)));
    harness.peer_sends(peer, &submit(id(1), b"x").repeat(3));
    let _ = turn(&mut harness);
    assert_eq!(harness.net.borrow().peers[peer].received, ack(id(1))[..2]);
    for _ in 0..2 {
        harness.report_event(peer, |event| event.writable = true);
        let _ = turn(&mut harness);
    }
    assert_eq!(harness.received(peer), ack(id(1)).repeat(3));
    assert_eq!(harness.reactor.buffered(), 0);
}

#[test]
fn spurious_events_cost_one_read_each() {
    let mut harness = scripted(Config {
        idle_timeout: None,
        ..Config::default()
    });
    let peer = harness.accept(1);
    for _ in 0..3 {
        harness.report_event(peer, |event| {
            (event.readable, event.writable) = (true, true);
        });
        let _ = turn(&mut harness);
    }
    let counters = harness.reactor.counters();
    assert_eq!(
        (
            counters.reads_blocked,
            harness.reactor.connections(),
            counters.deferred
        ),
        (3, 1, 0)
    );
    assert_eq!(
        harness.net.borrow().timeouts.last(),
        Some(&None),
        "the loop sleeps without a limit afterwards"
    );
}

#[test]
fn urgent_data_with_nothing_behind_it_costs_one_read() {
    let mut harness = scripted(Config {
        idle_timeout: None,
        ..Config::default()
    });
    let peer = harness.accept(1);
    for _ in 0..3 {
        harness.report_event(peer, |event| (event.readable, event.urgent) = (true, true));
        let _ = turn(&mut harness);
    }
    harness.peer_sends(peer, &submit(id(1), b"x"));
    let _ = turn(&mut harness);
    assert_eq!(harness.received(peer), ack(id(1)));
    let counters = harness.reactor.counters();
    // After urgent data a short read does not prove that the socket is empty, so the request costs
    // one more read.
    assert_eq!(
        (
            counters.reads_blocked,
            harness.reactor.connections(),
            counters.deferred
        ),
        (4, 1, 0)
    );
    let _ = turn(&mut harness);
    assert_eq!(
        harness.net.borrow().timeouts.last(),
        Some(&None),
        "the loop sleeps without a limit afterwards"
    );
}

#[test]
fn broken_poller_ends_the_loop_and_leaves_no_socket_open() {
    const EBADF: i32 = 9;
    let mut harness = scripted(Config::default());
    harness.accept(3);
    harness.peer_sends(0, &submit(id(1), b"never finished")[..20]);
    harness.turn();
    harness.net.borrow_mut().poll_error = Some(EBADF);
    let polls = harness.net.borrow().timeouts.len();
    for _ in 0..3 {
        let result = harness.reactor.turn(None);
        assert!(
            matches!(&result, Err(Error::Poll(error)) if error.raw_os_error() == Some(EBADF)),
            "{result:?}"
        );
    }
    assert_eq!(
        harness.net.borrow().timeouts.len(),
        polls + 3,
        "each turn polls once; the caller decides whether to try again"
    );
    assert_eq!(
        harness.reactor.run().unwrap_err().to_string(),
        "polling failed: Bad file descriptor (os error 9)"
    );
    assert_eq!(
        harness.open_sockets(),
        3,
        "a poll error closes no connection"
    );
    let handle = harness.reactor.handle();
    let net = harness.net.clone();
    drop(harness);
    assert!(net.borrow().peers.iter().all(|peer| !peer.is_open()));
    assert_eq!(handle.post(()), Err(glassloop::PostError::Stopped(())));
}

#[test]
fn socket_that_cannot_be_registered_is_dropped_alone() {
    const ENOMEM: i32 = 12;
    const ENOSPC: i32 = 28;
    let mut harness = scripted(Config::default());
    harness.accept(1);
    harness
        .net
        .borrow_mut()
        .register_errors
        .extend([ENOSPC, ENOMEM]);
    harness.queue_accepts(0, [Ok(()), Ok(()), Ok(())]);
    harness.turn();
    assert_eq!(
        [0, 1, 2, 3].map(|peer| harness.is_open(peer)),
        [true, false, false, true]
    );
    assert_eq!(
        (
            harness.reactor.connections(),
            harness.reactor.counters().accepted,
            harness.reactor.counters().accept_errors
        ),
        (2, 2, 2)
    );

    // A dial continues with the next address, as after any other failure.
    harness.net.borrow_mut().register_errors.push_back(ENOSPC);
    harness
        .reactor
        .connect_to(vec![loopback(1), loopback(2)], Duration::MAX)
        .unwrap();
    assert_eq!(
        (
            [4, 5].map(|peer| harness.is_open(peer)),
            harness.reactor.connections()
        ),
        ([false, true], 3)
    );
    harness.set_connect_state(5, Ok(Established::Yes));
    harness.turn();
    harness.net.borrow_mut().register_errors.push_back(ENOSPC);
    harness
        .reactor
        .connect_to(vec![loopback(3)], Duration::MAX)
        .unwrap();
    harness.turn();
    assert_eq!(
        (
            harness.is_open(6),
            harness.reactor.connections(),
            harness.reactor.counters().dial_errors
        ),
        (false, 3, 0)
    );

    // The other connections are not affected.
    for peer in [0, 3] {
        harness.peer_sends(peer, &submit(id(7), b"still here"));
        harness.report_event(peer, |event| event.writable = true);
        harness.turn();
        assert_eq!(harness.received(peer), ack(id(7)));
    }
}

#[test]
fn stopping_loop_refuses_connects_and_listeners() {
    let mut harness = scripted(Config::default());
    let peer = harness.accept(1);
    harness.reactor.stop(Stop::Gracefully);
    assert_eq!(
        turn(&mut harness),
        Turn::Running,
        "the peer has not closed yet"
    );
    let refused = harness
        .reactor
        .connect_to(vec![loopback(1)], Duration::MAX)
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "cannot connect to 127.0.0.1:1: the loop is stopping"
    );
    let refused = harness.reactor.add_listener(1, loopback(1)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "cannot listen on 127.0.0.1:1: the loop is stopping"
    );
    harness.queue_accepts(0, []);
    harness.net.borrow_mut().peers[peer].then_read = Ok(0);
    harness.report_event(peer, |event| event.readable = true);
    assert_eq!(turn(&mut harness), Turn::Stopped);
}

#[test]
fn default_connection_limit_is_descriptors_minus_a_reserve() {
    assert_eq!(scripted(Config::default()).reactor.max_connections(), 75);
    assert_eq!(
        scripted(Config {
            max_connections: Some(7),
            ..Config::default()
        })
        .reactor
        .max_connections(),
        7
    );
}

#[test]
fn drain_deadline_tries_the_last_replies_once_more() {
    let mut harness = scripted(Config::default());
    let peer = harness.accept(1);
    harness.net.borrow_mut().peers[peer]
        .writes
        .push_back(Err(ErrorKind::WouldBlock.into()));
    harness.peer_sends(peer, &[submit(id(1), b"x"), vec![0; 4]].concat());
    let _ = turn(&mut harness);
    assert_eq!(harness.net.borrow().peers[peer].received, b"");
    // The poller does not report the socket writable: it waits until much of the buffer is free.
    let _ = turn(&mut harness);
    let tick = ms(1);
    assert_eq!(
        harness.net.borrow().timeouts.last(),
        Some(&Some(Duration::from_secs(10) + tick))
    );
    let _ = turn(&mut harness); // a guard waits for one poll that began after it has expired
    assert_eq!(harness.received(peer), ack(id(1)));
    let _ = turn(&mut harness);
    assert_eq!(
        harness.net.borrow().timeouts.last(),
        Some(&Some(Duration::from_secs(2) + tick))
    );
    let _ = turn(&mut harness);
    assert_eq!(harness.reactor.connections(), 0);
}

#[test]
fn longest_frame_behind_blocked_replies_leaves_others_served() {
    let config = Config {
        frame_timeout: None,
        buffered_high: usize::MAX,
        ..Config::default()
    };
    let net = NetState {
        descriptors: Some(100),
        ..NetState::with_listeners(1)
    };
    let mut harness = Harness::on(
        net,
        Service {
            max_frame: u32::MAX,
            ..service()
        },
        config,
    );
    let flooder = harness.accept(1);
    let other = harness.accept(1);
    // So many requests that their acks block on write; then a frame of 2^32 - 1 bytes begins.
    harness.set_room(flooder, 0);
    let (asked, payload) = (20_000, vec![2; 100_000]);
    harness.peer_sends(flooder, &submit(id(1), b"").repeat(asked));
    harness.peer_sends(flooder, &[&u32::MAX.to_be_bytes()[..], &payload].concat());
    harness.run_for(ms(100));
    harness.set_room(flooder, usize::MAX);
    harness.report_event(flooder, |event| event.writable = true);
    harness.run_for(ms(100));
    assert_eq!(
        harness.received(flooder).len(),
        asked * ack(id(1)).len(),
        "all requests must be answered"
    );
    for _ in 0..10 {
        harness.peer_sends(flooder, &payload);
        harness.run_for(ms(10));
    }
    let held = 1_100_004;
    assert!(
        (held..5 * held).contains(&harness.reactor.buffered()),
        "{} bytes of memory for {held} bytes received",
        harness.reactor.buffered()
    );
    harness.peer_sends(other, &submit(id(2), b"alive"));
    harness.run_for(ms(10));
    assert_eq!(harness.received(other), ack(id(2)));
    assert_eq!(
        (
            harness.reactor.connections(),
            harness.reactor.counters().internal_errors
        ),
        (2, 0)
    );
}
