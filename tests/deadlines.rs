//! Time: the guards, timers, and what it costs to have many of them; by a clock that the test moves.

#[path = "util/recorder.rs"]
mod recorder;
#[path = "util/scripted.rs"]
mod scripted;
mod util;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use allocation_counter::measure;
use glassloop::codec::Line;
use glassloop::internals::Established;
use glassloop::{
    CloseReason, Config, Context, Direction, Handler, LoopContext, Origin, Step, Stop, TimerId,
    Verdict,
};
use recorder::{Call, Harness, Recorder, Task, closed, frame};
use scripted::{NetState, loopback, ms};
use util::{Client, reactor, turn_until};

/// No guard at all, so that a test can add the one that it is about.
fn unguarded() -> Config {
    Config {
        frame_timeout: None,
        handshake_timeout: None,
        idle_timeout: None,
        write_timeout: None,
        ..Config::default()
    }
}

/// That something with a time of `time` ms came `after` so many: never early, and late by a 64th for those who may come together, and two ticks.
#[track_caller]
fn assert_in_time(after: u64, time: u64) {
    assert!(after >= time, "{after} ms is too early for {time} ms");
    assert!(
        after <= time + time / 64 + 2,
        "{after} ms is too late for {time} ms"
    );
}

/// That the connection ended for `reason` after `time` ms, counted from `from`; and the rest of the log before that.
#[track_caller]
fn assert_ended(harness: &mut Harness, from: u64, time: u64, reason: &str) -> Vec<Call> {
    let mut log = harness.log();
    let (at, call) = log.pop().expect("something should have happened");
    assert_eq!(call, closed(reason));
    assert_in_time(at - from, time);
    log.into_iter().map(|(_, call)| call).collect()
}

fn resume_connection(_: &mut Context<'_, Recorder>) -> Verdict {
    Verdict::Continue
}

// ---------------------------------------------------------------- guards

#[test]
fn silent_connection_is_closed_after_idle_timeout() {
    let mut harness = Harness::new(Config {
        idle_timeout: Some(ms(1000)),
        ..unguarded()
    });
    let peer = harness.accept(1);
    harness.run_for(ms(999));
    assert!(harness.is_open(peer));
    harness.run_for(ms(9000));
    assert_eq!(
        assert_ended(&mut harness, 0, 1000, "idle for 1s"),
        [Call::Open]
    );
    assert!(!harness.is_open(peer));
    assert_eq!(
        harness.reactor.next_deadline(),
        None,
        "and nothing is left of it"
    );
}

#[test]
fn bytes_in_either_direction_restart_idle_timeout() {
    let mut harness = Harness::new(Config {
        idle_timeout: Some(ms(1000)),
        ..unguarded()
    });
    let peer = harness.accept(1);
    for n in 0..20 {
        harness.run_for(ms(900));
        if n % 2 == 0 {
            harness.peer_sends(peer, b"x"); // half a line is something too
        } else {
            harness.with_last(|cx| {
                cx.send(&b"unasked"[..]);
                Verdict::Continue
            });
        }
        harness.turn();
    }
    assert!(harness.is_open(peer));
    harness.run_for(ms(9000));
    assert_ended(&mut harness, 18_000, 1000, "idle for 1s");
}

#[test]
fn queued_bytes_that_are_not_written_do_not_count_as_activity() {
    let mut harness = Harness::new(Config {
        idle_timeout: Some(ms(1000)),
        ..unguarded()
    });
    let peer = harness.accept(1);
    harness.set_room(peer, 0);
    for _ in 0..9 {
        harness.with_last(|cx| {
            cx.send(&b"into nothing"[..]);
            Verdict::Continue
        });
        harness.run_for(ms(100));
    }
    harness.run_for(ms(30_000));
    // The replies have their drain time, and nobody takes them.
    let log = harness.log();
    let (at, end) = log.last().unwrap();
    assert_eq!(
        *end,
        closed("drain deadline passed, 117 bytes of replies not read by the peer")
    );
    assert_in_time(at - 10_000, 1000);
}

#[test]
fn peer_that_sends_byte_by_byte_is_closed_at_frame_deadline() {
    let mut harness = Harness::new(Config {
        frame_timeout: Some(ms(1000)),
        ..unguarded()
    });
    let peer = harness.accept(1);
    harness.run_for(ms(5000));
    for _ in 0..60 {
        harness.peer_sends(peer, b"x");
        harness.turn();
        harness.run_for(ms(50));
    }
    let Some((at, Call::Close(reason))) = harness.log().pop() else {
        panic!("it should be closed")
    };
    assert_in_time(at - 5000, 1000);
    assert!(
        reason.ends_with("bytes of an unfinished frame came from the peer in 1s"),
        "{reason}"
    );
}

#[test]
fn each_frame_has_its_own_timeout() {
    let mut harness = Harness::new(Config {
        frame_timeout: Some(ms(1000)),
        ..unguarded()
    });
    let peer = harness.accept(1);
    // Each piece ends one frame and begins the next, so that there is never a moment without an unfinished one.
    for piece in 0..20 {
        harness.peer_sends(peer, if piece == 0 { b"half" } else { b"whole\nhalf" });
        harness.turn();
        harness.run_for(ms(900));
    }
    assert_eq!(harness.calls().len(), 20, "opened, and 19 frames");
    // And one that stands alone counts from its own first byte, however long it was silent before.
    harness.peer_sends(peer, b"\n");
    harness.turn();
    harness.run_for(ms(20_000));
    harness.peer_sends(peer, b"x");
    harness.turn();
    harness.run_for(ms(999));
    harness.peer_sends(peer, b"y\n");
    harness.turn();
    assert_eq!(
        harness.calls(),
        [frame("wholehalf"), frame("xy")].map(|call| if call == frame("wholehalf") {
            frame("half")
        } else {
            call
        })
    );
    harness.run_for(ms(60_000));
    assert!(harness.is_open(peer));
}

#[test]
fn frame_timeout_stops_while_the_handler_pauses() {
    let mut harness = Harness::new(Config {
        frame_timeout: Some(ms(1000)),
        ..unguarded()
    });
    harness.reactor.handler().on_frame = |_, _| Verdict::Pause;
    let peer = harness.accept(1);
    harness.peer_sends(peer, b"pause\nhal");
    harness.turn();
    harness.run_for(ms(60_000));
    let id = harness.last();
    harness.with_last(move |cx| {
        cx.resume(id);
        Verdict::Continue
    });
    harness.run_for(ms(990));
    harness.peer_sends(peer, b"f\n");
    harness.run_for(ms(60_000));
    assert_eq!(harness.calls(), [Call::Open, frame("pause"), frame("half")]);
    assert!(harness.is_open(peer));
}

#[test]
fn frame_timeout_stops_under_write_back_pressure() {
    let mut harness = Harness::new(Config {
        frame_timeout: Some(ms(1000)),
        write_high: 4,
        write_low: 0,
        ..unguarded()
    });
    let peer = harness.accept(1);
    harness.set_room(peer, 0);
    harness.peer_sends(peer, b"choke\nhal");
    harness.turn();
    harness.run_for(ms(60_000));
    harness.set_room(peer, 100);
    harness.report_event(peer, |event| event.writable = true);
    harness.turn();
    harness.run_for(ms(990));
    harness.peer_sends(peer, b"f\n");
    harness.run_for(ms(60_000));
    assert_eq!(harness.calls(), [Call::Open, frame("choke"), frame("half")]);
    assert_eq!(harness.received(peer), b"choke\nhalf\n");
}

#[test]
fn frame_timeout_stops_while_a_read_deadline_is_expired() {
    let mut harness = Harness::new(Config {
        frame_timeout: Some(ms(1000)),
        ..unguarded()
    });
    let peer = harness.accept(1);
    let at = harness.at(100);
    harness.with_last(|cx| {
        cx.set_read_deadline(Some(at));
        Verdict::Continue
    });
    harness.peer_sends(peer, b"hal");
    harness.run_for(ms(60_000));
    harness.with_last(|cx| {
        cx.set_read_deadline(None);
        Verdict::Continue
    });
    harness.run_for(ms(500));
    harness.peer_sends(peer, b"f\n");
    harness.run_for(ms(500));
    assert_eq!(
        harness.calls(),
        [Call::Open, Call::Deadline(Direction::Read), frame("half")]
    );
}

#[test]
fn renewed_read_deadline_does_not_extend_frame_timeout() {
    let mut harness = Harness::new(Config {
        frame_timeout: Some(ms(1000)),
        ..unguarded()
    });
    harness.reactor.handler().on_deadline = |_, cx| {
        cx.set_read_deadline(Some(cx.now() + ms(100)));
        Verdict::Continue
    };
    let peer = harness.accept(1);
    let at = harness.at(100);
    harness.with_last(|cx| {
        cx.set_read_deadline(Some(at));
        Verdict::Continue
    });
    harness.peer_sends(peer, b"hal");
    harness.turn();
    harness.run_for(ms(9000));
    let told = assert_ended(
        &mut harness,
        0,
        1000,
        "frame deadline passed: 3 bytes of an unfinished frame came from the peer in 1s",
    );
    assert!(told.len() > 8, "{told:?}");
}

#[test]
fn peer_that_reads_nothing_is_closed_after_write_timeout() {
    let mut harness = Harness::new(Config {
        write_timeout: Some(ms(1000)),
        ..unguarded()
    });
    let peer = harness.accept(1);
    harness.set_room(peer, 4);
    harness.run_for(ms(3000));
    harness.peer_sends(peer, b"hello\n");
    harness.turn();
    harness.run_for(ms(5000));
    let log = assert_ended(
        &mut harness,
        3000,
        1000,
        "write deadline passed: the peer took none of 2 bytes in 1s",
    );
    assert_eq!(log, [Call::Open, frame("hello")]);
    assert_eq!(harness.received(peer), b"hell");
}

#[test]
fn each_byte_written_restarts_write_timeout() {
    for poller_says_so in [true, false] {
        let mut harness = Harness::new(Config {
            write_timeout: Some(ms(1000)),
            ..unguarded()
        });
        let peer = harness.accept(1);
        harness.set_room(peer, 0);
        harness.peer_sends(peer, &[&[b'x'; 30][..], b"\n"].concat());
        harness.turn();
        // The system's poller speaks of room only when much is free: then the loop has to try by itself.
        for _ in 0..30 {
            harness.run_for(ms(900));
            harness.set_room(peer, 1);
            if poller_says_so {
                harness.report_event(peer, |event| event.writable = true);
            }
        }
        assert!(harness.is_open(peer), "{:?}", harness.log());
        harness.run_for(ms(30_000));
        let Some(Call::Close(reason)) = harness.calls().pop() else {
            panic!("in the end it takes nothing more")
        };
        assert!(
            reason.starts_with("write deadline passed: the peer took none of "),
            "{reason}"
        );
        assert!(harness.received(peer).len() > 20);
    }
}

#[test]
fn write_timeout_begins_when_bytes_are_queued() {
    let mut harness = Harness::new(Config {
        write_timeout: Some(ms(1000)),
        ..unguarded()
    });
    let peer = harness.accept(1);
    harness.set_room(peer, 0);
    harness.run_for(ms(60_000));
    // The loop did not turn for a while, which is not the peer's fault.
    harness.skip(ms(5000));
    harness.with_last(|cx| {
        cx.send(&b"hello"[..]);
        Verdict::Continue
    });
    harness.turn();
    harness.run_for(ms(990));
    assert!(harness.is_open(peer), "{:?}", harness.log());
    harness.run_for(ms(5000));
    assert_ended(
        &mut harness,
        65_000,
        1000,
        "write deadline passed: the peer took none of 6 bytes in 1s",
    );
}

#[test]
fn handshake_timeout_ends_with_the_first_whole_frame() {
    let config = || Config {
        handshake_timeout: Some(ms(1000)),
        ..unguarded()
    };
    let expecting = || {
        let mut harness = Harness::new(config());
        harness.reactor.handler().on_open = |cx| {
            cx.expect_handshake();
            Verdict::Continue
        };
        let peer = harness.accept(1);
        (harness, peer)
    };
    let (mut harness, peer) = expecting();
    for _ in 0..9 {
        harness.run_for(ms(100));
        harness.peer_sends(peer, b"x");
    }
    harness.peer_sends(peer, b"\n");
    harness.run_for(ms(60_000));
    assert_eq!(harness.calls(), [Call::Open, frame("xxxxxxxxx")]);

    let (mut harness, peer) = expecting();
    for _ in 0..60 {
        harness.peer_sends(peer, b"x");
        harness.turn();
        harness.run_for(ms(50));
    }
    assert_ended(
        &mut harness,
        0,
        1000,
        "handshake deadline passed: no first frame from the peer in 1s",
    );

    // Who is not waited for has all the time.
    let mut harness = Harness::new(config());
    let peer = harness.accept(1);
    harness.run_for(ms(60_000));
    assert!(harness.is_open(peer));
}

#[test]
fn earliest_expired_guard_names_the_close_reason() {
    let config = Config {
        frame_timeout: Some(ms(300)),
        handshake_timeout: Some(ms(200)),
        idle_timeout: Some(ms(100)),
        write_timeout: Some(ms(400)),
        ..unguarded()
    };
    let mut harness = Harness::new(config);
    harness.reactor.handler().on_open = |cx| {
        cx.expect_handshake();
        Verdict::Continue
    };
    let peer = harness.accept(1);
    harness.peer_sends(peer, b"half");
    harness.turn();
    harness.run_for(ms(9000));
    assert_ended(&mut harness, 0, 100, "idle for 100ms");
}

/// A connection that every guard has something against: half a frame, unread replies, no handshake, and silence.
fn offend(harness: &mut Harness) -> usize {
    harness.reactor.handler().on_open = |cx| {
        cx.expect_handshake();
        cx.send(&b"nobody takes this"[..]);
        Verdict::Continue
    };
    // No room from the start: so it is made before the poller says anything.
    let peer = harness.accept(1);
    harness.peer_sends(peer, b"half a fra");
    harness.set_room(peer, 0);
    harness.with_last(|cx| {
        cx.send(&b"nor this"[..]);
        Verdict::Continue
    });
    harness.turn();
    harness.turn();
    peer
}

#[test]
fn none_disables_every_guard_and_the_loop_blocks() {
    let mut harness = Harness::new(unguarded());
    let peer = offend(&mut harness);
    assert_eq!(harness.reactor.next_deadline(), None);
    assert_eq!(harness.run_for(Duration::from_secs(86_400 * 365)), 1);
    assert!(harness.is_open(peer));
}

#[test]
fn maximum_durations_in_the_configuration_never_expire() {
    let forever = Config {
        drain_timeout: Duration::MAX,
        frame_timeout: Some(Duration::MAX),
        handshake_timeout: Some(Duration::MAX),
        idle_timeout: Some(Duration::MAX),
        linger_timeout: Duration::MAX,
        write_timeout: Some(Duration::MAX),
        ..Config::default()
    };
    let mut harness = Harness::new(forever);
    let peer = offend(&mut harness);
    assert_eq!(harness.reactor.next_deadline(), None);
    assert_eq!(harness.run_for(Duration::from_secs(86_400 * 365)), 1);
    harness.reactor.stop(Stop::Gracefully);
    harness.run_for(Duration::from_secs(86_400 * 365));
    assert!(harness.is_open(peer), "it drains as long as it takes");
    harness.set_room(peer, usize::MAX);
    harness.report_event(peer, |event| event.writable = true);
    harness.peer_shuts_write(peer);
    harness.run_for(ms(1));
    assert!(!harness.is_open(peer));
    assert_eq!(harness.calls().last(), Some(&closed("shut down")));
}

type Setting = fn(&mut Config);

#[test]
fn guards_of_one_millisecond_are_never_early() {
    let guards: [(Setting, &str); 4] = [
        (
            |config| config.frame_timeout = Some(ms(1)),
            "frame deadline passed: 10 bytes of an unfinished frame came from the peer in 1ms",
        ),
        (
            |config| config.handshake_timeout = Some(ms(1)),
            "handshake deadline passed: no first frame from the peer in 1ms",
        ),
        (|config| config.idle_timeout = Some(ms(1)), "idle for 1ms"),
        (
            |config| config.write_timeout = Some(ms(1)),
            "write deadline passed: the peer took none of 9 bytes in 1ms",
        ),
    ];
    for (set, reason) in guards {
        let mut config = Config {
            drain_timeout: ms(5),
            ..unguarded()
        };
        set(&mut config);
        let mut harness = Harness::new(config);
        let peer = offend(&mut harness);
        assert!(harness.is_open(peer), "{reason}");
        harness.run_for(ms(20));
        let Some((at, Call::Close(end))) = harness.log().pop() else {
            panic!("{reason}: nothing happened")
        };
        assert!(at >= 1, "{reason}: early");
        // What nobody takes has its drain time, and is then what the end is named for.
        assert!(
            end == reason || end.starts_with("drain deadline passed, 9 bytes"),
            "{end}"
        );
    }
}

#[test]
fn bytes_that_came_during_a_blocked_turn_count_before_guards_expire() {
    // A callback, or the program between two turns, takes five times as long as a peer may. The silence was not the peer's.
    let (time, kept) = (Some(ms(1000)), ms(5000));
    let calls_after = |harness: &mut Harness| {
        harness.turn();
        harness.run_for(ms(500));
        harness.calls()
    };
    let mut harness = Harness::new(Config {
        idle_timeout: time,
        ..unguarded()
    });
    let peer = harness.accept(1);
    harness.skip(kept);
    harness.peer_sends(peer, b"not idle\n");
    assert_eq!(calls_after(&mut harness), [Call::Open, frame("not idle")]);

    let mut harness = Harness::new(Config {
        frame_timeout: time,
        ..unguarded()
    });
    let peer = harness.accept(1);
    harness.peer_sends(peer, b"one half");
    harness.turn();
    harness.skip(kept);
    harness.peer_sends(peer, b" and the other\n");
    assert_eq!(
        calls_after(&mut harness),
        [Call::Open, frame("one half and the other")]
    );

    let mut harness = Harness::new(Config {
        handshake_timeout: time,
        ..unguarded()
    });
    harness.reactor.handler().on_open = |cx| {
        cx.expect_handshake();
        Verdict::Continue
    };
    let peer = harness.accept(1);
    harness.skip(kept);
    harness.peer_sends(peer, b"hello\n");
    assert_eq!(calls_after(&mut harness), [Call::Open, frame("hello")]);

    let mut harness = Harness::new(Config {
        write_timeout: time,
        ..unguarded()
    });
    let peer = harness.accept(1);
    harness.set_room(peer, 0);
    harness.peer_sends(peer, b"echo\n");
    harness.turn();
    harness.skip(kept);
    harness.set_room(peer, 100);
    harness.report_event(peer, |event| event.writable = true);
    assert_eq!(
        (calls_after(&mut harness), harness.received(peer)),
        (vec![Call::Open, frame("echo")], b"echo\n".to_vec())
    );
}

#[test]
fn reset_is_noticed_while_a_read_deadline_is_expired() {
    let mut harness = Harness::new(unguarded());
    let peer = harness.accept(1);
    let at = harness.at(100);
    harness.with_last(|cx| {
        cx.set_read_deadline(Some(at));
        Verdict::Continue
    });
    harness.run_for(ms(200));
    harness.peer_resets(peer);
    harness.run_for(ms(1000));
    assert_eq!(
        harness.calls(),
        [
            Call::Open,
            Call::Deadline(Direction::Read),
            closed("reset by the peer")
        ]
    );
}

#[test]
fn dial_between_turns_has_its_whole_timeout() {
    let mut harness = Harness::new(unguarded());
    harness.turn();
    harness.skip(ms(5000));
    harness
        .reactor
        .connect_to(vec![loopback(1)], ms(1000))
        .unwrap();
    harness.turn();
    harness.run_for(ms(999));
    assert_eq!(harness.log(), []);
    harness.run_for(ms(10));
    let log = harness.log();
    assert!(
        matches!(&log[..], [(6000..=6002, Call::Close(reason))] if reason.contains("no answer within 1")),
        "{log:?}"
    );
}

// ---------------------------------------------------------------- timers

#[test]
fn timers_fire_in_order_never_early_and_at_most_a_tick_late() {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut harness = Harness::new(unguarded());
    harness.accept(1);
    let mut wanted: Vec<(Instant, TimerId)> = Vec::new();
    for n in 0..2000_u64 {
        // In microseconds: many fall into one tick, and none on its edge.
        let at = harness.now() + Duration::from_micros(rng.u64(1..300_000));
        let timer = if n % 2 == 0 {
            harness.reactor.set_timer(at)
        } else {
            let mut set = None;
            harness.with_last(|cx| {
                set = Some(cx.set_timer(at));
                Verdict::Continue
            });
            set.unwrap()
        };
        wanted.push((at, timer));
        harness.run_for(Duration::from_micros(rng.u64(..200)));
    }
    harness.run_for(ms(600));
    let log = std::mem::take(&mut harness.reactor.handler().log);
    let came: Vec<(Instant, TimerId)> = log
        .into_iter()
        .filter_map(|(at, call)| match call {
            Call::Timer(timer) | Call::LoopTimer(timer) => Some((at, timer)),
            _ => None,
        })
        .collect();
    assert_eq!(came.len(), wanted.len());
    assert!(came.is_sorted_by_key(|(at, _)| *at));
    for (at, timer) in came {
        let (set_for, _) = wanted.iter().find(|(_, known)| *known == timer).unwrap();
        assert!(at >= *set_for, "early by {:?}", *set_for - at);
        assert!(at - *set_for <= ms(2), "late by {:?}", at - *set_for);
    }
    assert_eq!(harness.reactor.next_deadline(), None);
}

#[test]
fn timer_cancelled_in_its_own_tick_does_not_fire() {
    thread_local!(static VICTIM: RefCell<Option<TimerId>> = const { RefCell::new(None) });
    let mut harness = Harness::new(unguarded());
    harness.reactor.handler().on_loop_timer =
        |_, cx| assert!(cx.cancel_timer(VICTIM.take().unwrap()));
    harness.reactor.handler().on_timer = |_, cx| {
        if let Some(victim) = VICTIM.take() {
            assert!(cx.cancel_timer(victim));
        }
        Verdict::Continue
    };
    harness.accept(1);
    let at = harness.at(10);
    let of_connection = |harness: &mut Harness| {
        let mut set = None;
        harness.with_last(|cx| {
            set = Some(cx.set_timer(at));
            Verdict::Continue
        });
        set.unwrap()
    };
    let first = harness.reactor.set_timer(at);
    let victim = of_connection(&mut harness);
    let last = of_connection(&mut harness);
    VICTIM.set(Some(victim));
    harness.run_for(ms(100));
    assert_eq!(
        harness.calls(),
        [Call::Open, Call::LoopTimer(first), Call::Timer(last)]
    );
    assert!(
        ![first, victim, last]
            .into_iter()
            .any(|timer| harness.reactor.cancel_timer(timer)),
        "none is still to come"
    );
}

#[test]
fn timers_of_a_closed_connection_never_fire_and_leave_nothing() {
    let mut harness = Harness::new(unguarded());
    let peer = harness.accept(1);
    let mut timers = Vec::new();
    let begun = harness.at(0);
    harness.with_last(|cx| {
        timers = (0..1000)
            .map(|n| cx.set_timer(begun + ms(10 + n % 100)))
            .collect();
        Verdict::Continue
    });
    harness.peer_sends(peer, b"bye\n");
    harness.peer_shuts_write(peer);
    harness.run_for(ms(5));
    assert_eq!(
        harness.calls(),
        [Call::Open, frame("bye"), closed("closed by the peer")]
    );
    assert!(
        !timers
            .into_iter()
            .any(|timer| harness.reactor.cancel_timer(timer))
    );
    assert_eq!(harness.reactor.next_deadline(), None);
    // Another one in the same slot does not inherit them.
    harness.accept(1);
    harness.run_for(ms(1000));
    assert_eq!(harness.calls(), [Call::Open]);
    assert_eq!(harness.reactor.counters().timers, 0);
}

#[test]
fn timer_that_renews_itself_in_the_past_does_not_block_the_turn() {
    let mut harness = Harness::new(unguarded());
    harness.reactor.handler().on_loop_timer = |_, cx| {
        cx.set_timer(cx.now().checked_sub(Duration::from_nanos(1)).unwrap());
    };
    harness.reactor.set_timer(harness.at(0));
    let turns = harness.run_for(ms(100));
    assert_eq!(harness.reactor.counters().timers, 100, "once a tick");
    assert!(turns <= 102, "{turns} turns");
}

#[test]
fn deadline_renewed_in_the_past_blocks_neither_turn_nor_other_deadline() {
    let mut harness = Harness::new(unguarded());
    harness.reactor.handler().on_deadline = |which, cx| {
        match which {
            Direction::Read => cx.set_read_deadline(Some(cx.now())),
            Direction::Write => cx.set_write_deadline(Some(cx.now())),
        }
        Verdict::Continue
    };
    harness.accept(1);
    harness.calls();
    let at = harness.at(10);
    harness.with_last(|cx| {
        cx.set_deadline(Some(at));
        Verdict::Continue
    });
    harness.turn();
    harness.skip(ms(10));
    harness.turn();
    let mut calls = harness.calls();
    assert!(calls.len() <= 2, "{} calls in one turn", calls.len());
    harness.turn();
    calls.extend(harness.calls());
    assert!(
        calls.contains(&Call::Deadline(Direction::Write)),
        "{calls:?}"
    );
}

#[test]
fn hundred_thousand_timers_in_one_tick_do_not_starve_sockets() {
    let mut harness = Harness::new(Config::default());
    let peer = harness.accept(1);
    let (soon, later) = (harness.at(100), harness.at(3_600_000));
    for n in 0..1_000_000_u32 {
        harness.reactor.set_timer(if n < 100_000 {
            soon
        } else {
            later + Duration::from_micros(u64::from(n))
        });
    }
    harness.run_for(ms(99));
    assert_eq!(harness.reactor.counters().timers, 0);
    harness.skip(ms(1));
    let (mut waited, mut asked) = (0_u64, 0_u64);
    while harness.reactor.counters().timers < 100_000 {
        let turns = harness.reactor.counters().turns;
        harness.peer_sends(peer, b"are you there?\n");
        asked += 1;
        while harness.received(peer) != b"are you there?\n" {
            harness.turn();
            assert!(
                harness.reactor.counters().turns < turns + 1000,
                "no answer: {:?}",
                harness.reactor
            );
        }
        waited = waited.max(harness.reactor.counters().turns - turns);
        assert!(asked < 10_000);
    }
    assert!(waited <= 2, "a request waited for {waited} turns");
    assert!(asked >= 50, "only {asked} requests were served meanwhile");
    assert_eq!(
        harness.reactor.counters().timers,
        100_000,
        "and no other timer came"
    );
    harness.reactor.handler().log.clear();
}

#[test]
fn timer_set_and_cancel_cost_hardly_grows_with_a_million_timers() {
    let mut harness = Harness::new(unguarded());
    let mut rng = fastrand::Rng::with_seed(11);
    let begun = harness.at(0);
    let mut time = |harness: &mut Harness, armed: u32| {
        while harness.reactor.counters().timers == 0 && harness.reactor.next_deadline().is_none() {
            harness.reactor.set_timer(begun + ms(1_000));
        }
        for _ in 1..armed {
            harness
                .reactor
                .set_timer(begun + ms(rng.u64(1_000..10_000_000)));
        }
        // The quickest of several rounds: the others were disturbed.
        (0..20)
            .map(|_| {
                let clock = Instant::now();
                for _ in 0..1000 {
                    let timer = harness
                        .reactor
                        .set_timer(begun + ms(rng.u64(1_000..10_000_000)));
                    assert!(harness.reactor.cancel_timer(timer));
                }
                clock.elapsed()
            })
            .min()
            .unwrap()
    };
    let few = time(&mut harness, 1_000);
    let many = time(&mut harness, 1_000_000);
    println!(
        "set and cancel: {:?} among a thousand, {:?} among a million",
        few / 1000,
        many / 1000
    );
    assert!(
        many < 20 * few,
        "{many:?} among a million, {few:?} among a thousand"
    );
}

// ---------------------------------------------------------------- costs

/// Waits for a handshake, and echoes.
struct Guarded;

impl Handler for Guarded {
    type Codec = Line;
    type State = ();
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (Line, ()) {
        (Line::default(), ())
    }

    fn open(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        cx.expect_handshake();
        Verdict::Continue
    }

    /// Each moves its own deadlines on, as a program of Go's would.
    fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Verdict {
        if line == b"deadline" {
            cx.set_deadline(Some(cx.now() + Duration::from_secs(600)));
        }
        cx.send(line);
        Verdict::Continue
    }
}

#[test]
fn deadlines_moved_by_each_request_cost_no_allocation_and_no_turn() {
    let (mut reactor, addr) = reactor(Guarded, Config::default());
    let mut client = Client::connect(addr);
    for line in [&b"hello\n"[..], b"deadline\n"] {
        let mut round = |reactor: &mut glassloop::Reactor<Guarded>| {
            client.send(line);
            let done = reactor.counters().bytes_written + line.len() as u64;
            let info =
                measure(|| turn_until(reactor, |reactor| reactor.counters().bytes_written == done));
            client.expect(line);
            info.count_total
        };
        for _ in 0..10 {
            round(&mut reactor); // the buffers find their size
        }
        let before = reactor.counters();
        let allocated: u64 = (0..1000).map(|_| round(&mut reactor)).sum();
        let after = reactor.counters();
        assert_eq!(allocated, 0, "{}", line.escape_ascii());
        // `turn_until` looks up every millisecond: so turns are counted by those that brought something.
        assert_eq!(
            (
                after.events - before.events,
                after.reads - before.reads,
                after.deadlines
            ),
            (1000, 1000, 0)
        );
    }
}

#[test]
fn guards_need_no_extra_turn_while_requests_arrive() {
    let mut harness = Harness::new(Config::default());
    harness.reactor.handler().on_open = |cx| {
        cx.expect_handshake();
        Verdict::Continue
    };
    let peer = harness.accept(1);
    let before = harness.reactor.counters().turns;
    for n in 0..1000_u64 {
        harness.skip(ms(5));
        harness.peer_sends(peer, b"hello\n");
        harness.turn();
        assert_eq!(harness.reactor.counters().turns, before + n + 1);
    }
    assert_eq!(harness.received(peer).len(), 6000);
    // From here on: the rest of the handshake's time and of the idle time, and nothing in between but looks that come to nothing.
    let turns = harness.run_for(ms(50_000));
    assert!(turns <= 3, "{turns} turns");
    assert!(harness.is_open(peer));
}

#[test]
fn ten_thousand_idle_connections_share_few_wake_ups() {
    const CONNECTIONS: usize = 10_000;
    let mut harness = Harness::new(Config {
        idle_timeout: Some(Duration::from_secs(300)),
        ..Config::default()
    });
    harness.accept(CONNECTIONS);
    assert_eq!(harness.reactor.connections(), CONNECTIONS);
    assert_eq!(
        harness.run_for(Duration::from_secs(60)),
        1,
        "only the one that ends the minute"
    );

    // Those who come one after the other do not each have a wake-up of their own.
    let mut harness = Harness::new(Config::default());
    for _ in 0..100 {
        harness.accept(100);
        harness.run_for(ms(10));
    }
    assert_eq!(harness.reactor.connections(), CONNECTIONS);
    // The loop wakes three times or so; each time it may look at 1,024 a turn.
    let turns = harness.run_for(Duration::from_secs(100));
    assert!(turns <= 30, "{turns} turns");
    assert_eq!(harness.reactor.connections(), 0);
}

#[test]
fn ten_thousand_connections_without_guards_cause_no_wake_up() {
    let mut harness = Harness::new(unguarded());
    harness.accept(10_000);
    assert_eq!(harness.reactor.next_deadline(), None);
    assert_eq!(harness.run_for(Duration::from_secs(60)), 1);
}

// ---------------------------------------------------------------- how they meet

/// A connection that is choked and may not write any more, though its peer takes something again; its read deadline passes in 40 ms.
fn choked_and_late(harness: &mut Harness) -> usize {
    let peer = harness.accept(1);
    harness.set_room(peer, 0);
    harness.peer_sends(peer, b"choke\n");
    harness.turn();
    let (write, read) = (harness.at(100), harness.at(200));
    harness.with_last(|cx| {
        cx.set_write_deadline(Some(write));
        cx.set_read_deadline(Some(read));
        Verdict::Continue
    });
    harness.run_for(ms(150));
    harness.set_room(peer, 100);
    harness.report_event(peer, |event| event.writable = true);
    harness.run_for(ms(10));
    assert_eq!(harness.received(peer), b"");
    peer
}

#[test]
fn read_deadline_callback_can_clear_the_write_deadline() {
    let mut harness = Harness::new(Config {
        write_high: 4,
        write_low: 0,
        ..unguarded()
    });
    harness.reactor.handler().on_deadline = |which, cx| {
        if which == Direction::Read {
            cx.set_deadline(None);
        }
        Verdict::Continue
    };
    let peer = choked_and_late(&mut harness);
    harness.run_for(ms(100));
    assert_eq!(harness.received(peer), b"choke\n");
}

#[test]
fn post_can_clear_the_write_deadline_when_the_read_deadline_expires() {
    let mut harness = Harness::new(Config {
        write_high: 4,
        write_low: 0,
        ..unguarded()
    });
    let peer = choked_and_late(&mut harness);
    let id = harness.last();
    harness.skip(ms(100));
    let clear: Task = Box::new(move |_, cx| {
        assert!(cx.with(id, |cx| {
            cx.set_write_deadline(None);
            Verdict::Continue
        }));
    });
    harness.reactor.handle().post(clear).unwrap();
    harness.run_for(ms(100));
    assert_eq!(harness.received(peer), b"choke\n");
}

/// On a real loop, since it is the poller's own report of the bell that is used up.
#[test]
fn post_behind_the_turn_limit_is_not_forgotten() {
    let (mut reactor, _) = reactor(
        Recorder::default(),
        Config {
            calls_per_turn: 2,
            ..unguarded()
        },
    );
    let handle = reactor.handle();
    let post = || {
        handle
            .post(Box::new(|_: &mut Recorder, _: &mut LoopContext<'_, Recorder>| {}) as Task)
            .unwrap();
    };
    (0..3).for_each(|_| post());
    let _ = reactor.turn(Some(Duration::ZERO)).unwrap();
    assert_eq!(reactor.counters().posts, 2);
    post(); // it rings, and the next poll hears it; but in that turn the third letter is read first
    let _ = reactor.turn(Some(Duration::ZERO)).unwrap();
    assert!(
        reactor.counters().posts == 4 || reactor.next_deadline().is_some(),
        "{reactor:?}"
    );
}

#[test]
fn panics_in_timers_and_deadlines_close_their_connection_only() {
    let mut harness = Harness::new(unguarded());
    harness.reactor.handler().on_timer = |_, _| panic!("in a timer");
    harness.reactor.handler().on_deadline = |_, _| panic!("in a deadline");
    harness.reactor.handler().on_loop_timer = |_, _| panic!("in a timer of the loop");
    let mut peers = Vec::new();
    for n in 0..3 {
        peers.push(harness.accept(1));
        let at = harness.at(100 + n);
        harness.with_last(|cx| {
            match n {
                0 => drop(cx.set_timer(at)),
                1 => cx.set_read_deadline(Some(at)),
                _ => cx.send(&b"bystander"[..]),
            }
            Verdict::Continue
        });
    }
    harness.reactor.set_timer(harness.at(200));
    harness.run_for(ms(300));
    assert_eq!(harness.reactor.counters().panics, 3);
    for peer in &peers {
        harness.peer_shuts_write(*peer);
    }
    harness.run_for(ms(10));
    let mut ends: Vec<Call> = harness
        .calls()
        .into_iter()
        .filter(|call| matches!(call, Call::Close(_)))
        .collect();
    ends.sort_by_key(|call| format!("{call:?}"));
    assert_eq!(
        ends,
        [
            closed("closed by the peer"),
            closed("the handler panicked"),
            closed("the handler panicked")
        ]
    );
}

#[test]
fn timer_set_in_the_close_callback_never_fires() {
    struct AtTheEnd;
    impl Handler for AtTheEnd {
        type Codec = Line;
        type State = ();
        type Mail = ();
        fn connection(&mut self, _: &Origin) -> (Line, ()) {
            (Line::default(), ())
        }
        fn frame(&mut self, _: &[u8], _: &mut Context<'_, Self>) -> Verdict {
            Verdict::Close
        }
        fn timer(&mut self, _: TimerId, _: &mut Context<'_, Self>) -> Verdict {
            unreachable!("its connection is over")
        }
        fn close(&mut self, cx: &mut Context<'_, Self>, _: &CloseReason) {
            cx.set_timer(cx.now());
            cx.set_deadline(Some(cx.now()));
        }
    }
    let mut harness = scripted::Harness::on(NetState::with_listeners(1), AtTheEnd, unguarded());
    let peer = harness.accept(1);
    harness.peer_sends(peer, b"bye\n");
    harness.peer_shuts_write(peer);
    harness.run_for(ms(100));
    assert_eq!(
        (
            harness.reactor.connections(),
            harness.reactor.next_deadline(),
            harness.reactor.counters().panics
        ),
        (0, None, 0)
    );
}

/// Does something to a connection, as chance will have it.
fn at_random(cx: &mut Context<'_, Recorder>) -> Verdict {
    let at = cx.now() + Duration::from_micros(fastrand::u64(..50_000));
    match fastrand::u32(..24) {
        0 => cx.set_read_deadline(Some(at)),
        1 => cx.set_write_deadline(Some(at)),
        2 => cx.set_deadline(Some(cx.now())),
        3..6 => cx.set_deadline(None),
        6..8 => drop(cx.set_timer(at)),
        8 => cx.expect_handshake(),
        9..12 => drop(cx.try_send(&*vec![b'y'; fastrand::usize(..200)])),
        12..14 => cx.resume(cx.id()),
        14 => return Verdict::Pause,
        15 if fastrand::u32(..4) == 0 => return Verdict::Close,
        16 if fastrand::u32(..4) == 0 => return Verdict::Abort,
        _ => {}
    }
    Verdict::Continue
}

#[test]
fn random_operations_never_panic_and_leave_nothing() {
    let some_time = || (fastrand::u32(..4) > 0).then(|| ms(fastrand::u64(1..200)));
    for seed in 0..20_000 {
        fastrand::seed(seed);
        let config = Config {
            calls_per_turn: fastrand::usize(1..20),
            drain_timeout: ms(fastrand::u64(..100)),
            frame_timeout: some_time(),
            handshake_timeout: some_time(),
            idle_timeout: some_time(),
            linger_timeout: ms(fastrand::u64(..100)),
            scratch: fastrand::usize(1..64),
            write_cap: 4096,
            write_high: 64,
            write_low: 16,
            write_timeout: some_time(),
            ..Config::default()
        };
        let mut harness = Harness::new(config);
        let recorder = harness.reactor.handler();
        recorder.on_open = at_random;
        recorder.on_frame = |line, cx| {
            let _ = cx.try_send(line);
            at_random(cx)
        };
        recorder.on_deadline = |_, cx| at_random(cx);
        recorder.on_timer = |_, cx| at_random(cx);
        harness.accept(1);
        for _ in 0..200 {
            let peer = fastrand::usize(..harness.socket_count());
            let last = harness.last();
            match fastrand::u32(..16) {
                0 => drop(harness.accept(1)),
                1..5 => harness.peer_sends(
                    peer,
                    [
                        &b"x"[..],
                        b"a\nb\nc\n",
                        b"\nhalf",
                        b"long enough to be cut into pieces\n",
                    ][fastrand::usize(..4)],
                ),
                5 => harness.set_room(peer, fastrand::usize(..100)),
                6..8 => harness.report_event(peer, |event| {
                    (event.readable, event.writable) = (true, true);
                }),
                8 if fastrand::u32(..3) == 0 => harness.peer_shuts_write(peer),
                9 if fastrand::u32(..3) == 0 => harness.peer_resets(peer),
                10 => drop(harness.reactor.with(last, |_, cx| at_random(cx))),
                11 => drop(harness.reactor.handle().send(last, &b"letter\n"[..])),
                12 => drop(
                    harness
                        .reactor
                        .connect_to(vec![loopback(1), loopback(1)], ms(fastrand::u64(..100))),
                ),
                13 => harness.set_connect_state(peer, Ok(Established::Yes)),
                14 => harness.skip(Duration::from_micros(fastrand::u64(..30_000))),
                15 => drop(harness.run_for(Duration::from_micros(fastrand::u64(..30_000)))),
                _ => {}
            }
            if fastrand::bool() {
                harness.turn();
            }
        }
        harness.reactor.stop(Stop::Gracefully);
        harness.run_for(Duration::from_secs(1));
        assert_eq!(
            (
                harness.reactor.connections(),
                harness.reactor.buffered(),
                harness.reactor.counters().panics
            ),
            (0, 0, 0),
            "seed {seed}"
        );
        assert_eq!(harness.open_sockets(), 0, "seed {seed}");
        let closes = harness
            .calls()
            .iter()
            .filter(|call| matches!(call, Call::Close(_)))
            .count();
        assert!(
            closes as u64 >= harness.reactor.counters().closed,
            "seed {seed}"
        );
    }
}

// ---------------------------------------------------------------- extremes

/// The last instant that the system can tell, or nearly.
fn end_of_time() -> Instant {
    (0..64).rev().fold(Instant::now(), |at, bit| {
        at.checked_add(Duration::from_secs(1 << bit)).unwrap_or(at)
    })
}

#[test]
fn extreme_instants_are_valid_deadlines_and_timers() {
    let far = end_of_time();
    let past = (0..64).rev().fold(Instant::now(), |at, bit| {
        at.checked_sub(Duration::from_secs(1 << bit)).unwrap_or(at)
    });
    let mut harness = Harness::new(Config::default());
    let peer = harness.accept(1);
    harness.calls();
    let never = harness.reactor.set_timer(far);
    harness.with_last(|cx| {
        cx.set_deadline(Some(far));
        cx.set_timer(far);
        assert!(cx.try_send(&b"it is not over"[..]).is_ok());
        Verdict::Continue
    });
    harness.peer_sends(peer, b"hello\n");
    harness.turn();
    assert_eq!(harness.calls(), [frame("hello")]);
    harness.run_for(Duration::from_secs(30));
    assert!(harness.reactor.cancel_timer(never));

    let now = harness.reactor.set_timer(past);
    harness.with_last(|cx| {
        cx.set_deadline(Some(past));
        Verdict::Continue
    });
    harness.run_for(ms(2));
    let mut calls = harness.calls();
    calls.sort_by_key(|call| matches!(call, Call::LoopTimer(_)));
    assert_eq!(
        calls,
        [
            Call::Deadline(Direction::Read),
            Call::Deadline(Direction::Write),
            Call::LoopTimer(now)
        ]
    );
}

#[test]
fn maximum_stop_and_dial_timeouts_do_not_overflow() {
    let mut harness = Harness::new(unguarded());
    for timeout in [
        Duration::MAX,
        Duration::from_secs(u64::MAX / 2),
        Duration::from_secs(86_400 * 30),
        Duration::from_secs(86_400 * 50),
    ] {
        harness
            .reactor
            .connect_to(vec![loopback(1), loopback(1), loopback(1)], timeout)
            .unwrap();
    }
    harness.run_for(Duration::from_secs(86_400));
    assert_eq!(
        (harness.reactor.connections(), harness.calls()),
        (4, Vec::new()),
        "a day is not yet for ever"
    );
    harness.reactor.stop(Stop::Within(Duration::MAX));
    harness.run_for(Duration::from_secs(86_400));
    assert_eq!(
        harness.reactor.connections(),
        0,
        "a dial is not worth waiting for"
    );
}

#[test]
fn observer_sees_each_expired_deadline_with_its_kind() {
    let mut harness = Harness::new(Config {
        write_timeout: Some(ms(100)),
        drain_timeout: ms(100),
        ..unguarded()
    });
    let seen: Rc<RefCell<Vec<String>>> = Rc::default();
    let shown = seen.clone();
    harness.reactor.set_observer(move |step: &Step<'_>| {
        if let Step::Deadline { expiry, .. } = step {
            shown.borrow_mut().push(format!("{expiry:?}"));
        }
    });
    let peer = harness.accept(1);
    harness.set_room(peer, 0);
    let at = harness.at(50);
    harness.with_last(|cx| {
        cx.set_read_deadline(Some(at));
        cx.send(&b"hello"[..]);
        resume_connection(cx)
    });
    harness.run_for(ms(1000));
    assert_eq!(*seen.borrow(), ["Deadline(Read)", "Write"]);
    assert_eq!(harness.reactor.counters().deadlines, 2);
}
