//! The loop on a scripted network with its own clock: rare results of system calls, produced on
//! purpose.

#[path = "util/played.rs"]
mod played;
mod util;

use std::io::{self, ErrorKind};
use std::time::Duration;

use glassloop::codec::Line;
use glassloop::internals::{Established, Event};
use glassloop::{
    CloseReason, Config, ConnectionId, Context, Error, Handler, Origin, Stop, Turn, Verdict,
};
use played::{Stage, loopback, ms};
use util::{Service, ack, id, service, submit};

type Play = played::Play<Service>;

/// A loop with one listener.
fn scripted(config: Config) -> Play {
    Play::on(
        Stage {
            descriptors: Some(100),
            ..Stage::with_doors(1)
        },
        service(),
        config,
    )
}

/// Takes one turn without a limit on its sleep.
fn turn(play: &mut Play) -> Turn {
    play.reactor.turn(None).unwrap()
}

#[test]
fn event_for_an_earlier_connection_in_a_slot_is_counted_as_stale() {
    let mut play = scripted(Config::default());
    let closed = play.admit(1);
    play.stage.borrow_mut().peers[closed].then = Err(ErrorKind::ConnectionReset);
    play.tell(closed, |event| event.readable = true);
    let _ = turn(&mut play);
    assert_eq!(
        (play.reactor.connections(), play.stage.borrow().deregistered),
        (0, 1)
    );

    let next = play.admit(1);
    let [first, second] = [closed, next].map(|peer| play.stage.borrow().peers[peer].token);
    assert_ne!(first, second);
    let before = play.reactor.counters();
    for token in [first, first + 0x55, usize::MAX] {
        play.stage.borrow_mut().events.push(Event {
            token,
            readable: true,
            ..Event::default()
        });
    }
    let _ = turn(&mut play);
    let after = play.reactor.counters();
    assert_eq!(
        (after.stale, after.reads, after.events),
        (before.stale + 3, before.reads, before.events)
    );
    assert_eq!(play.reactor.connections(), 1);
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
        let mut play = played::Play::on(Stage::with_doors(1), ClosesOthers::default(), config);
        let (one, other) = (play.admit(1), play.admit(1));
        // One batch: the other connection is closed, its peer sends and resets, it gets one more
        // event, and a new connection arrives that could take its slot.
        play.say(one, b"close others\n");
        play.say(other, b"wait\n");
        play.reset(other);
        play.tell(other, |event| {
            (event.readable, event.writable) = (true, true);
        });
        play.knock(0, [Ok(())]);
        play.turn();
        let ClosesOthers { all, log } = play.reactor.handler();
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
                play.reactor.connections(),
                play.is_open(one),
                play.is_open(other)
            ),
            (2, true, false)
        );
        // Its slot is free only after the batch.
        play.admit(1);
        assert_eq!(play.reactor.handler().all[3].slot(), second.slot());
    }
}

#[test]
fn accept_without_descriptors_backs_off_and_retries_by_timer() {
    const EMFILE: i32 = 24;
    let out_of_descriptors = || Err(io::Error::from_raw_os_error(EMFILE));
    let mut play = scripted(Config::default());
    // One event for all: the poller reports the listener once.
    play.knock(0, (0..5).map(|_| out_of_descriptors()).chain([Ok(())]));
    while play.reactor.connections() == 0 {
        let _ = turn(&mut play);
        assert!(play.reactor.counters().turns < 20, "{:?}", play.reactor);
    }
    assert_eq!(play.stage.borrow().timeouts[1..6], [Some(ms(50)); 5]);
    assert_eq!(play.reactor.counters().accept_errors, 5);
    // During the backoff, another event does not cause an accept.
    play.knock(0, [out_of_descriptors()]);
    let _ = turn(&mut play);
    let calls = play.stage.borrow().doors[0].calls;
    play.knock(0, []);
    let _ = turn(&mut play);
    assert_eq!(play.stage.borrow().doors[0].calls, calls);
}

#[test]
fn connection_aborted_before_accept_does_not_block_the_next() {
    let mut play = scripted(Config::default());
    play.knock(
        0,
        [
            Err(ErrorKind::ConnectionAborted.into()),
            Err(ErrorKind::Interrupted.into()),
            Ok(()),
        ],
    );
    let _ = turn(&mut play);
    assert_eq!(
        (
            play.reactor.connections(),
            play.reactor.counters().accept_errors
        ),
        (1, 2)
    );
}

#[test]
fn partial_and_interrupted_writes_lose_no_byte() {
    let mut play = scripted(Config::default());
    let peer = play.admit(1);
    let script = [
        Ok(1),
        Err(ErrorKind::Interrupted),
        Ok(1),
        Err(ErrorKind::WouldBlock),
        Ok(39),
        Err(ErrorKind::WouldBlock),
    ];
    play.stage.borrow_mut().peers[peer]
        .writes
        .extend(script.map(|answer| answer.map_err(Into::into)));
    play.say(peer, &submit(id(1), b"x").repeat(3));
    let _ = turn(&mut play);
    assert_eq!(play.stage.borrow().peers[peer].got, ack(id(1))[..2]);
    for _ in 0..2 {
        play.tell(peer, |event| event.writable = true);
        let _ = turn(&mut play);
    }
    assert_eq!(play.got(peer), ack(id(1)).repeat(3));
    assert_eq!(play.reactor.buffered(), 0);
}

#[test]
fn spurious_events_cost_one_read_each() {
    let mut play = scripted(Config {
        idle_timeout: None,
        ..Config::default()
    });
    let peer = play.admit(1);
    for _ in 0..3 {
        play.tell(peer, |event| {
            (event.readable, event.writable) = (true, true);
        });
        let _ = turn(&mut play);
    }
    let counters = play.reactor.counters();
    assert_eq!(
        (
            counters.reads_blocked,
            play.reactor.connections(),
            counters.deferred
        ),
        (3, 1, 0)
    );
    assert_eq!(
        play.stage.borrow().timeouts.last(),
        Some(&None),
        "the loop sleeps without a limit afterwards"
    );
}

#[test]
fn urgent_data_with_nothing_behind_it_costs_one_read() {
    let mut play = scripted(Config {
        idle_timeout: None,
        ..Config::default()
    });
    let peer = play.admit(1);
    for _ in 0..3 {
        play.tell(peer, |event| (event.readable, event.urgent) = (true, true));
        let _ = turn(&mut play);
    }
    play.say(peer, &submit(id(1), b"x"));
    let _ = turn(&mut play);
    assert_eq!(play.got(peer), ack(id(1)));
    let counters = play.reactor.counters();
    // After urgent data a short read does not prove that the socket is empty, so the request costs
    // one more read.
    assert_eq!(
        (
            counters.reads_blocked,
            play.reactor.connections(),
            counters.deferred
        ),
        (4, 1, 0)
    );
    let _ = turn(&mut play);
    assert_eq!(
        play.stage.borrow().timeouts.last(),
        Some(&None),
        "the loop sleeps without a limit afterwards"
    );
}

#[test]
fn broken_poller_ends_the_loop_and_leaves_no_socket_open() {
    const EBADF: i32 = 9;
    let mut play = scripted(Config::default());
    play.admit(3);
    play.say(0, &submit(id(1), b"never finished")[..20]);
    play.turn();
    play.stage.borrow_mut().poll_fails = Some(EBADF);
    let polls = play.stage.borrow().timeouts.len();
    for _ in 0..3 {
        let result = play.reactor.turn(None);
        assert!(
            matches!(&result, Err(Error::Poll(error)) if error.raw_os_error() == Some(EBADF)),
            "{result:?}"
        );
    }
    assert_eq!(
        play.stage.borrow().timeouts.len(),
        polls + 3,
        "each turn polls once; the caller decides whether to try again"
    );
    assert_eq!(
        play.reactor.run().unwrap_err().to_string(),
        "polling failed: Bad file descriptor (os error 9)"
    );
    assert_eq!(play.open(), 3, "a poll error closes no connection");
    let handle = play.reactor.handle();
    let stage = play.stage.clone();
    drop(play);
    assert!(stage.borrow().peers.iter().all(|peer| !peer.is_open()));
    assert_eq!(handle.post(()), Err(glassloop::PostError::Stopped(())));
}

#[test]
fn socket_that_cannot_be_registered_is_dropped_alone() {
    const ENOMEM: i32 = 12;
    const ENOSPC: i32 = 28;
    let mut play = scripted(Config::default());
    play.admit(1);
    play.stage.borrow_mut().refusals.extend([ENOSPC, ENOMEM]);
    play.knock(0, [Ok(()), Ok(()), Ok(())]);
    play.turn();
    assert_eq!(
        [0, 1, 2, 3].map(|peer| play.is_open(peer)),
        [true, false, false, true]
    );
    assert_eq!(
        (
            play.reactor.connections(),
            play.reactor.counters().accepted,
            play.reactor.counters().accept_errors
        ),
        (2, 2, 2)
    );

    // A dial continues with the next address, as after any other failure.
    play.stage.borrow_mut().refusals.push_back(ENOSPC);
    play.reactor
        .connect_to(vec![loopback(1), loopback(2)], Duration::MAX)
        .unwrap();
    assert_eq!(
        (
            [4, 5].map(|peer| play.is_open(peer)),
            play.reactor.connections()
        ),
        ([false, true], 3)
    );
    play.answer(5, Ok(Established::Yes));
    play.turn();
    play.stage.borrow_mut().refusals.push_back(ENOSPC);
    play.reactor
        .connect_to(vec![loopback(3)], Duration::MAX)
        .unwrap();
    play.turn();
    assert_eq!(
        (
            play.is_open(6),
            play.reactor.connections(),
            play.reactor.counters().dial_errors
        ),
        (false, 3, 0)
    );

    // The other connections are not affected.
    for peer in [0, 3] {
        play.say(peer, &submit(id(7), b"still here"));
        play.tell(peer, |event| event.writable = true);
        play.turn();
        assert_eq!(play.got(peer), ack(id(7)));
    }
}

#[test]
fn stopping_loop_refuses_connects_and_listeners() {
    let mut play = scripted(Config::default());
    let peer = play.admit(1);
    play.reactor.stop(Stop::Gracefully);
    assert_eq!(
        turn(&mut play),
        Turn::Running,
        "the peer has not closed yet"
    );
    let refused = play
        .reactor
        .connect_to(vec![loopback(1)], Duration::MAX)
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "cannot connect to 127.0.0.1:1: the loop is stopping"
    );
    let refused = play.reactor.add_listener(1, loopback(1)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "cannot listen on 127.0.0.1:1: the loop is stopping"
    );
    play.knock(0, []);
    play.stage.borrow_mut().peers[peer].then = Ok(0);
    play.tell(peer, |event| event.readable = true);
    assert_eq!(turn(&mut play), Turn::Stopped);
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
    let mut play = scripted(Config::default());
    let peer = play.admit(1);
    play.stage.borrow_mut().peers[peer]
        .writes
        .push_back(Err(ErrorKind::WouldBlock.into()));
    play.say(peer, &[submit(id(1), b"x"), vec![0; 4]].concat());
    let _ = turn(&mut play);
    assert_eq!(play.stage.borrow().peers[peer].got, b"");
    // The poller does not report the socket writable: it waits until much of the buffer is free.
    let _ = turn(&mut play);
    let tick = ms(1);
    assert_eq!(
        play.stage.borrow().timeouts.last(),
        Some(&Some(Duration::from_secs(10) + tick))
    );
    let _ = turn(&mut play); // a guard waits for one poll that began after it has expired
    assert_eq!(play.got(peer), ack(id(1)));
    let _ = turn(&mut play);
    assert_eq!(
        play.stage.borrow().timeouts.last(),
        Some(&Some(Duration::from_secs(2) + tick))
    );
    let _ = turn(&mut play);
    assert_eq!(play.reactor.connections(), 0);
}

#[test]
fn longest_frame_behind_blocked_replies_leaves_others_served() {
    let config = Config {
        frame_timeout: None,
        buffered_high: usize::MAX,
        ..Config::default()
    };
    let stage = Stage {
        descriptors: Some(100),
        ..Stage::with_doors(1)
    };
    let mut play = Play::on(
        stage,
        Service {
            max_frame: u32::MAX,
            ..service()
        },
        config,
    );
    let flooder = play.admit(1);
    let other = play.admit(1);
    // So many requests that their acks block on write; then a frame of 2^32 - 1 bytes begins.
    play.set_room(flooder, 0);
    let (asked, payload) = (20_000, vec![2; 100_000]);
    play.say(flooder, &submit(id(1), b"").repeat(asked));
    play.say(flooder, &[&u32::MAX.to_be_bytes()[..], &payload].concat());
    play.pass(ms(100));
    play.set_room(flooder, usize::MAX);
    play.tell(flooder, |event| event.writable = true);
    play.pass(ms(100));
    assert_eq!(
        play.got(flooder).len(),
        asked * ack(id(1)).len(),
        "all requests must be answered"
    );
    for _ in 0..10 {
        play.say(flooder, &payload);
        play.pass(ms(10));
    }
    let held = 1_100_004;
    assert!(
        (held..5 * held).contains(&play.reactor.buffered()),
        "{} bytes of memory for {held} bytes received",
        play.reactor.buffered()
    );
    play.say(other, &submit(id(2), b"alive"));
    play.pass(ms(10));
    assert_eq!(play.got(other), ack(id(2)));
    assert_eq!(
        (
            play.reactor.connections(),
            play.reactor.counters().internal_errors
        ),
        (2, 0)
    );
}
