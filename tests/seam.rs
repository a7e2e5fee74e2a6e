//! The loop over a net that is played by hand: what the system does seldom, done on purpose, and by a clock of its own.

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
fn by_hand(config: Config) -> Harness {
    Harness::on(
        NetState {
            descriptors: Some(100),
            ..NetState::with_listeners(1)
        },
        service(),
        config,
    )
}

/// One turn, which lasts as long as the loop likes.
fn turn(harness: &mut Harness) -> Turn {
    harness.reactor.turn(None).unwrap()
}

#[test]
fn an_event_for_an_earlier_connection_in_the_same_slot_is_ignored_and_counted() {
    let mut harness = by_hand(Config::default());
    let gone = harness.accept(1);
    harness.net.borrow_mut().peers[gone].then_read = Err(ErrorKind::ConnectionReset);
    harness.report_event(gone, |event| event.readable = true);
    let _ = turn(&mut harness);
    assert_eq!(
        (
            harness.reactor.connections(),
            harness.net.borrow().deregistered
        ),
        (0, 1)
    );

    let heir = harness.accept(1);
    let [first, second] = [gone, heir].map(|peer| harness.net.borrow().peers[peer].token);
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

/// Has all others closed whenever somebody says `out`. What was said, and who was closed, is kept.
#[derive(Default)]
struct Rivals {
    all: Vec<ConnectionId>,
    log: Vec<(ConnectionId, String)>,
}

impl Handler for Rivals {
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
        if line == b"out" {
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
fn an_event_for_one_who_was_closed_earlier_in_the_same_batch_finds_nobody_else() {
    // He is closed after the batch; or at once, where so much was asked of others already.
    let (after, at_once) = (Config::default().command_high, 1);
    for (command_high, of_the_other) in [
        (after, &["wait", "reset by the peer"][..]),
        (at_once, &["closed by the handler"]),
    ] {
        let config = Config {
            command_high,
            ..Config::default()
        };
        let mut harness =
            scripted::Harness::on(NetState::with_listeners(1), Rivals::default(), config);
        let (one, other) = (harness.accept(1), harness.accept(1));
        // One batch: he is closed, speaks, is reset, and is told of once more; and somebody new comes, who could have his place.
        harness.peer_sends(one, b"out\n");
        harness.peer_sends(other, b"wait\n");
        harness.peer_resets(other);
        harness.report_event(other, |event| {
            (event.readable, event.writable) = (true, true);
        });
        harness.queue_accepts(0, [Ok(())]);
        harness.turn();
        let Rivals { all, log } = harness.reactor.handler();
        let [first, second, newcomer] = all[..] else {
            panic!("three in all: {all:?}")
        };
        let log: Vec<(ConnectionId, &str)> =
            log.iter().map(|(id, what)| (*id, what.as_str())).collect();
        let of_the_other = of_the_other.iter().map(|what| (second, *what));
        assert_eq!(
            log,
            [(first, "out")]
                .into_iter()
                .chain(of_the_other)
                .collect::<Vec<_>>(),
            "with command_high {command_high}"
        );
        assert!(newcomer.slot() != first.slot() && newcomer.slot() != second.slot());
        assert_eq!(
            (
                harness.reactor.connections(),
                harness.is_open(one),
                harness.is_open(other)
            ),
            (2, true, false)
        );
        // Only after the batch is his place free.
        harness.accept(1);
        assert_eq!(harness.reactor.handler().all[3].slot(), second.slot());
    }
}

#[test]
fn an_accept_that_fails_for_want_of_room_rests_and_is_asked_again_by_the_clock() {
    const EMFILE: i32 = 24;
    let no_room = || Err(io::Error::from_raw_os_error(EMFILE));
    let mut harness = by_hand(Config::default());
    // One event for all: the system says so once.
    harness.queue_accepts(0, (0..5).map(|_| no_room()).chain([Ok(())]));
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
    // While it rests, other events do not make it ask.
    harness.queue_accepts(0, [no_room()]);
    let _ = turn(&mut harness);
    let calls = harness.net.borrow().listeners[0].calls;
    harness.queue_accepts(0, []);
    let _ = turn(&mut harness);
    assert_eq!(harness.net.borrow().listeners[0].calls, calls);
}

#[test]
fn a_connection_that_is_gone_before_it_is_accepted_does_not_keep_the_next_one_out() {
    let mut harness = by_hand(Config::default());
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
fn writes_of_one_byte_and_signals_lose_nothing() {
    let mut harness = by_hand(Config::default());
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
fn spurious_events_cost_a_read_and_nothing_else() {
    let mut harness = by_hand(Config {
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
        "and then it sleeps"
    );
}

#[test]
fn urgent_data_with_nothing_behind_it_costs_a_read_and_nothing_else() {
    let mut harness = by_hand(Config {
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
    // From now on a short read proves nothing; so the request costs one more.
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
        "and then it sleeps"
    );
}

#[test]
fn a_broken_poller_ends_the_loop_with_its_error_and_nothing_stays_open() {
    const EBADF: i32 = 9;
    let mut harness = by_hand(Config::default());
    harness.accept(3);
    harness.peer_sends(0, &submit(id(1), b"never finished")[..20]);
    harness.turn();
    harness.net.borrow_mut().poll_error = Some(EBADF);
    let polls = harness.net.borrow().timeouts.len();
    for _ in 0..3 {
        let told = harness.reactor.turn(None);
        assert!(
            matches!(&told, Err(Error::Poll(error)) if error.raw_os_error() == Some(EBADF)),
            "{told:?}"
        );
    }
    assert_eq!(
        harness.net.borrow().timeouts.len(),
        polls + 3,
        "it is for the caller to try again"
    );
    assert_eq!(
        harness.reactor.run().unwrap_err().to_string(),
        "polling failed: Bad file descriptor (os error 9)"
    );
    assert_eq!(harness.open_sockets(), 3, "nobody was at fault");
    let handle = harness.reactor.handle();
    let net = harness.net.clone();
    drop(harness);
    assert!(net.borrow().peers.iter().all(|peer| !peer.is_open()));
    assert_eq!(handle.post(()), Err(glassloop::PostError::Stopped(())));
}

#[test]
fn whom_the_poller_does_not_take_is_dropped_alone_be_he_accepted_or_dialed() {
    const ENOMEM: i32 = 12;
    const ENOSPC: i32 = 28;
    let mut harness = by_hand(Config::default());
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

    // A dial goes on to the next address, as after any other failure.
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

    // Nobody else has noticed.
    for peer in [0, 3] {
        harness.peer_sends(peer, &submit(id(7), b"still here"));
        harness.report_event(peer, |event| event.writable = true);
        harness.turn();
        assert_eq!(harness.received(peer), ack(id(7)));
    }
}

#[test]
fn a_stopping_loop_ignores_its_old_listener_and_begins_nothing_new() {
    let mut harness = by_hand(Config::default());
    let peer = harness.accept(1);
    harness.reactor.stop(Stop::Gracefully);
    assert_eq!(
        turn(&mut harness),
        Turn::Running,
        "the peer has still to leave"
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
fn without_a_number_there_are_as_many_connections_as_descriptors_less_a_reserve() {
    assert_eq!(by_hand(Config::default()).reactor.max_connections(), 75);
    assert_eq!(
        by_hand(Config {
            max_connections: Some(7),
            ..Config::default()
        })
        .reactor
        .max_connections(),
        7
    );
}

#[test]
fn at_the_drain_deadline_the_last_replies_are_tried_once_more() {
    let mut harness = by_hand(Config::default());
    let peer = harness.accept(1);
    harness.net.borrow_mut().peers[peer]
        .writes
        .push_back(Err(ErrorKind::WouldBlock.into()));
    harness.peer_sends(peer, &[submit(id(1), b"x"), vec![0; 4]].concat());
    let _ = turn(&mut harness);
    assert_eq!(harness.net.borrow().peers[peer].received, b"");
    // The poller says nothing of room: it waits until much is free.
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
fn longest_frame_behind_unanswered_requests_is_held_and_others_are_served() {
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
    // So many requests that their acks are held back; then a frame of 2^32 - 1 bytes begins.
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
        "all that were asked are answered"
    );
    for _ in 0..10 {
        harness.peer_sends(flooder, &payload);
        harness.run_for(ms(10));
    }
    let held = 1_100_004;
    assert!(
        (held..5 * held).contains(&harness.reactor.buffered()),
        "{} bytes of memory for {held}",
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
