//! Time: the guards, timers, and what it costs to have many of them; by a clock that the test moves.

#[path = "util/played.rs"]
mod played;
#[path = "util/scribe.rs"]
mod scribe;
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
use played::{Stage, loopback, ms};
use scribe::{Call, Play, Scribe, Task, closed, frame};
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
fn assert_ended(play: &mut Play, from: u64, time: u64, reason: &str) -> Vec<Call> {
    let mut log = play.log();
    let (at, call) = log.pop().expect("something should have happened");
    assert_eq!(call, closed(reason));
    assert_in_time(at - from, time);
    log.into_iter().map(|(_, call)| call).collect()
}

fn resume_connection(_: &mut Context<'_, Scribe>) -> Verdict {
    Verdict::Continue
}

// ---------------------------------------------------------------- guards

#[test]
fn a_silent_connection_is_closed_at_the_idle_time() {
    let mut play = Play::new(Config {
        idle_timeout: Some(ms(1000)),
        ..unguarded()
    });
    let peer = play.admit(1);
    play.pass(ms(999));
    assert!(play.is_open(peer));
    play.pass(ms(9000));
    assert_eq!(
        assert_ended(&mut play, 0, 1000, "idle for 1s"),
        [Call::Open]
    );
    assert!(!play.is_open(peer));
    assert_eq!(
        play.reactor.next_deadline(),
        None,
        "and nothing is left of it"
    );
}

#[test]
fn bytes_in_either_direction_keep_a_connection_from_being_idle() {
    let mut play = Play::new(Config {
        idle_timeout: Some(ms(1000)),
        ..unguarded()
    });
    let peer = play.admit(1);
    for n in 0..20 {
        play.pass(ms(900));
        if n % 2 == 0 {
            play.say(peer, b"x"); // half a line is something too
        } else {
            play.with_last(|cx| {
                cx.send(&b"unasked"[..]);
                Verdict::Continue
            });
        }
        play.turn();
    }
    assert!(play.is_open(peer));
    play.pass(ms(9000));
    assert_ended(&mut play, 18_000, 1000, "idle for 1s");
}

#[test]
fn what_is_queued_and_not_taken_does_not_count_as_movement() {
    let mut play = Play::new(Config {
        idle_timeout: Some(ms(1000)),
        ..unguarded()
    });
    let peer = play.admit(1);
    play.set_room(peer, 0);
    for _ in 0..9 {
        play.with_last(|cx| {
            cx.send(&b"into nothing"[..]);
            Verdict::Continue
        });
        play.pass(ms(100));
    }
    play.pass(ms(30_000));
    // The replies have their drain time, and nobody takes them.
    let log = play.log();
    let (at, end) = log.last().unwrap();
    assert_eq!(
        *end,
        closed("drain deadline passed, 117 bytes of replies not read by the peer")
    );
    assert_in_time(at - 10_000, 1000);
}

#[test]
fn a_dripping_peer_is_gone_at_the_frame_deadline() {
    let mut play = Play::new(Config {
        frame_timeout: Some(ms(1000)),
        ..unguarded()
    });
    let peer = play.admit(1);
    play.pass(ms(5000));
    for _ in 0..60 {
        play.say(peer, b"x");
        play.turn();
        play.pass(ms(50));
    }
    let Some((at, Call::Close(reason))) = play.log().pop() else {
        panic!("it should be closed")
    };
    assert_in_time(at - 5000, 1000);
    assert!(
        reason.ends_with("bytes of an unfinished frame came from the peer in 1s"),
        "{reason}"
    );
}

#[test]
fn each_frame_has_a_time_of_its_own() {
    let mut play = Play::new(Config {
        frame_timeout: Some(ms(1000)),
        ..unguarded()
    });
    let peer = play.admit(1);
    // Each piece ends one frame and begins the next, so that there is never a moment without an unfinished one.
    for piece in 0..20 {
        play.say(peer, if piece == 0 { b"half" } else { b"whole\nhalf" });
        play.turn();
        play.pass(ms(900));
    }
    assert_eq!(play.calls().len(), 20, "opened, and 19 frames");
    // And one that stands alone counts from its own first byte, however long it was silent before.
    play.say(peer, b"\n");
    play.turn();
    play.pass(ms(20_000));
    play.say(peer, b"x");
    play.turn();
    play.pass(ms(999));
    play.say(peer, b"y\n");
    play.turn();
    assert_eq!(
        play.calls(),
        [frame("wholehalf"), frame("xy")].map(|call| if call == frame("wholehalf") {
            frame("half")
        } else {
            call
        })
    );
    play.pass(ms(60_000));
    assert!(play.is_open(peer));
}

#[test]
fn a_frame_s_time_is_not_counted_while_the_handler_pauses() {
    let mut play = Play::new(Config {
        frame_timeout: Some(ms(1000)),
        ..unguarded()
    });
    play.reactor.handler().on_frame = |_, _| Verdict::Pause;
    let peer = play.admit(1);
    play.say(peer, b"pause\nhal");
    play.turn();
    play.pass(ms(60_000));
    let id = play.last();
    play.with_last(move |cx| {
        cx.resume(id);
        Verdict::Continue
    });
    play.pass(ms(990));
    play.say(peer, b"f\n");
    play.pass(ms(60_000));
    assert_eq!(play.calls(), [Call::Open, frame("pause"), frame("half")]);
    assert!(play.is_open(peer));
}

#[test]
fn a_frame_s_time_is_not_counted_while_replies_hold_the_connection_back() {
    let mut play = Play::new(Config {
        frame_timeout: Some(ms(1000)),
        write_high: 4,
        write_low: 0,
        ..unguarded()
    });
    let peer = play.admit(1);
    play.set_room(peer, 0);
    play.say(peer, b"choke\nhal");
    play.turn();
    play.pass(ms(60_000));
    play.set_room(peer, 100);
    play.tell(peer, |event| event.writable = true);
    play.turn();
    play.pass(ms(990));
    play.say(peer, b"f\n");
    play.pass(ms(60_000));
    assert_eq!(play.calls(), [Call::Open, frame("choke"), frame("half")]);
    assert_eq!(play.got(peer), b"choke\nhalf\n");
}

#[test]
fn a_frame_s_time_is_not_counted_while_a_read_deadline_has_passed() {
    let mut play = Play::new(Config {
        frame_timeout: Some(ms(1000)),
        ..unguarded()
    });
    let peer = play.admit(1);
    let at = play.at(100);
    play.with_last(|cx| {
        cx.set_read_deadline(Some(at));
        Verdict::Continue
    });
    play.say(peer, b"hal");
    play.pass(ms(60_000));
    play.with_last(|cx| {
        cx.set_read_deadline(None);
        Verdict::Continue
    });
    play.pass(ms(500));
    play.say(peer, b"f\n");
    play.pass(ms(500));
    assert_eq!(
        play.calls(),
        [Call::Open, Call::Deadline(Direction::Read), frame("half")]
    );
}

#[test]
fn a_read_deadline_that_the_handler_sets_anew_does_not_give_a_frame_more_time() {
    let mut play = Play::new(Config {
        frame_timeout: Some(ms(1000)),
        ..unguarded()
    });
    play.reactor.handler().on_deadline = |_, cx| {
        cx.set_read_deadline(Some(cx.now() + ms(100)));
        Verdict::Continue
    };
    let peer = play.admit(1);
    let at = play.at(100);
    play.with_last(|cx| {
        cx.set_read_deadline(Some(at));
        Verdict::Continue
    });
    play.say(peer, b"hal");
    play.turn();
    play.pass(ms(9000));
    let told = assert_ended(
        &mut play,
        0,
        1000,
        "frame deadline passed: 3 bytes of an unfinished frame came from the peer in 1s",
    );
    assert!(told.len() > 8, "{told:?}");
}

#[test]
fn a_peer_that_takes_nothing_is_gone_at_the_write_time_and_the_rest_is_dropped() {
    let mut play = Play::new(Config {
        write_timeout: Some(ms(1000)),
        ..unguarded()
    });
    let peer = play.admit(1);
    play.set_room(peer, 4);
    play.pass(ms(3000));
    play.say(peer, b"hello\n");
    play.turn();
    play.pass(ms(5000));
    let log = assert_ended(
        &mut play,
        3000,
        1000,
        "write deadline passed: the peer took none of 2 bytes in 1s",
    );
    assert_eq!(log, [Call::Open, frame("hello")]);
    assert_eq!(play.got(peer), b"hell");
}

#[test]
fn every_byte_that_the_peer_takes_gives_it_a_new_write_time() {
    for poller_says_so in [true, false] {
        let mut play = Play::new(Config {
            write_timeout: Some(ms(1000)),
            ..unguarded()
        });
        let peer = play.admit(1);
        play.set_room(peer, 0);
        play.say(peer, &[&[b'x'; 30][..], b"\n"].concat());
        play.turn();
        // The system's poller speaks of room only when much is free: then the loop has to try by itself.
        for _ in 0..30 {
            play.pass(ms(900));
            play.set_room(peer, 1);
            if poller_says_so {
                play.tell(peer, |event| event.writable = true);
            }
        }
        assert!(play.is_open(peer), "{:?}", play.log());
        play.pass(ms(30_000));
        let Some(Call::Close(reason)) = play.calls().pop() else {
            panic!("in the end it takes nothing more")
        };
        assert!(
            reason.starts_with("write deadline passed: the peer took none of "),
            "{reason}"
        );
        assert!(play.got(peer).len() > 20);
    }
}

#[test]
fn the_write_time_begins_when_something_is_queued() {
    let mut play = Play::new(Config {
        write_timeout: Some(ms(1000)),
        ..unguarded()
    });
    let peer = play.admit(1);
    play.set_room(peer, 0);
    play.pass(ms(60_000));
    // The loop did not turn for a while, which is not the peer's fault.
    play.skip(ms(5000));
    play.with_last(|cx| {
        cx.send(&b"hello"[..]);
        Verdict::Continue
    });
    play.turn();
    play.pass(ms(990));
    assert!(play.is_open(peer), "{:?}", play.log());
    play.pass(ms(5000));
    assert_ended(
        &mut play,
        65_000,
        1000,
        "write deadline passed: the peer took none of 6 bytes in 1s",
    );
}

#[test]
fn the_handshake_s_time_ends_with_the_first_whole_frame_and_not_with_a_byte() {
    let config = || Config {
        handshake_timeout: Some(ms(1000)),
        ..unguarded()
    };
    let expecting = || {
        let mut play = Play::new(config());
        play.reactor.handler().on_open = |cx| {
            cx.expect_handshake();
            Verdict::Continue
        };
        let peer = play.admit(1);
        (play, peer)
    };
    let (mut play, peer) = expecting();
    for _ in 0..9 {
        play.pass(ms(100));
        play.say(peer, b"x");
    }
    play.say(peer, b"\n");
    play.pass(ms(60_000));
    assert_eq!(play.calls(), [Call::Open, frame("xxxxxxxxx")]);

    let (mut play, peer) = expecting();
    for _ in 0..60 {
        play.say(peer, b"x");
        play.turn();
        play.pass(ms(50));
    }
    assert_ended(
        &mut play,
        0,
        1000,
        "handshake deadline passed: no first frame from the peer in 1s",
    );

    // Who is not waited for has all the time.
    let mut play = Play::new(config());
    let peer = play.admit(1);
    play.pass(ms(60_000));
    assert!(play.is_open(peer));
}

#[test]
fn of_several_guards_the_one_that_is_over_first_names_the_reason() {
    let config = Config {
        frame_timeout: Some(ms(300)),
        handshake_timeout: Some(ms(200)),
        idle_timeout: Some(ms(100)),
        write_timeout: Some(ms(400)),
        ..unguarded()
    };
    let mut play = Play::new(config);
    play.reactor.handler().on_open = |cx| {
        cx.expect_handshake();
        Verdict::Continue
    };
    let peer = play.admit(1);
    play.say(peer, b"half");
    play.turn();
    play.pass(ms(9000));
    assert_ended(&mut play, 0, 100, "idle for 100ms");
}

/// A connection that every guard has something against: half a frame, unread replies, no handshake, and silence.
fn offend(play: &mut Play) -> usize {
    play.reactor.handler().on_open = |cx| {
        cx.expect_handshake();
        cx.send(&b"nobody takes this"[..]);
        Verdict::Continue
    };
    // No room from the start: so it is made before the poller says anything.
    let peer = play.admit(1);
    play.say(peer, b"half a fra");
    play.set_room(peer, 0);
    play.with_last(|cx| {
        cx.send(&b"nor this"[..]);
        Verdict::Continue
    });
    play.turn();
    play.turn();
    peer
}

#[test]
fn none_turns_every_guard_off_and_the_loop_sleeps_for_ever() {
    let mut play = Play::new(unguarded());
    let peer = offend(&mut play);
    assert_eq!(play.reactor.next_deadline(), None);
    assert_eq!(play.pass(Duration::from_secs(86_400 * 365)), 1);
    assert!(play.is_open(peer));
}

#[test]
fn for_ever_is_for_ever_wherever_the_configuration_has_a_time() {
    let forever = Config {
        drain_timeout: Duration::MAX,
        frame_timeout: Some(Duration::MAX),
        handshake_timeout: Some(Duration::MAX),
        idle_timeout: Some(Duration::MAX),
        linger_timeout: Duration::MAX,
        write_timeout: Some(Duration::MAX),
        ..Config::default()
    };
    let mut play = Play::new(forever);
    let peer = offend(&mut play);
    assert_eq!(play.reactor.next_deadline(), None);
    assert_eq!(play.pass(Duration::from_secs(86_400 * 365)), 1);
    play.reactor.stop(Stop::Gracefully);
    play.pass(Duration::from_secs(86_400 * 365));
    assert!(play.is_open(peer), "it drains as long as it takes");
    play.set_room(peer, usize::MAX);
    play.tell(peer, |event| event.writable = true);
    play.end(peer);
    play.pass(ms(1));
    assert!(!play.is_open(peer));
    assert_eq!(play.calls().last(), Some(&closed("shut down")));
}

type Setting = fn(&mut Config);

#[test]
fn guards_of_a_millisecond_are_not_early_either() {
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
        let mut play = Play::new(config);
        let peer = offend(&mut play);
        assert!(play.is_open(peer), "{reason}");
        play.pass(ms(20));
        let Some((at, Call::Close(end))) = play.log().pop() else {
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
fn what_came_while_the_loop_was_kept_is_heard_before_anybody_is_called_silent() {
    // A callback, or the program between two turns, takes five times as long as a peer may. The silence was not the peer's.
    let (time, kept) = (Some(ms(1000)), ms(5000));
    let calls_after = |play: &mut Play| {
        play.turn();
        play.pass(ms(500));
        play.calls()
    };
    let mut play = Play::new(Config {
        idle_timeout: time,
        ..unguarded()
    });
    let peer = play.admit(1);
    play.skip(kept);
    play.say(peer, b"not idle\n");
    assert_eq!(calls_after(&mut play), [Call::Open, frame("not idle")]);

    let mut play = Play::new(Config {
        frame_timeout: time,
        ..unguarded()
    });
    let peer = play.admit(1);
    play.say(peer, b"one half");
    play.turn();
    play.skip(kept);
    play.say(peer, b" and the other\n");
    assert_eq!(
        calls_after(&mut play),
        [Call::Open, frame("one half and the other")]
    );

    let mut play = Play::new(Config {
        handshake_timeout: time,
        ..unguarded()
    });
    play.reactor.handler().on_open = |cx| {
        cx.expect_handshake();
        Verdict::Continue
    };
    let peer = play.admit(1);
    play.skip(kept);
    play.say(peer, b"hello\n");
    assert_eq!(calls_after(&mut play), [Call::Open, frame("hello")]);

    let mut play = Play::new(Config {
        write_timeout: time,
        ..unguarded()
    });
    let peer = play.admit(1);
    play.set_room(peer, 0);
    play.say(peer, b"echo\n");
    play.turn();
    play.skip(kept);
    play.set_room(peer, 100);
    play.tell(peer, |event| event.writable = true);
    assert_eq!(
        (calls_after(&mut play), play.got(peer)),
        (vec![Call::Open, frame("echo")], b"echo\n".to_vec())
    );
}

#[test]
fn a_reset_is_noticed_where_a_passed_deadline_keeps_the_loop_from_reading() {
    let mut play = Play::new(unguarded());
    let peer = play.admit(1);
    let at = play.at(100);
    play.with_last(|cx| {
        cx.set_read_deadline(Some(at));
        Verdict::Continue
    });
    play.pass(ms(200));
    play.reset(peer);
    play.pass(ms(1000));
    assert_eq!(
        play.calls(),
        [
            Call::Open,
            Call::Deadline(Direction::Read),
            closed("reset by the peer")
        ]
    );
}

#[test]
fn a_dial_that_is_begun_between_turns_has_its_whole_time() {
    let mut play = Play::new(unguarded());
    play.turn();
    play.skip(ms(5000));
    play.reactor
        .connect_to(vec![loopback(1)], ms(1000))
        .unwrap();
    play.turn();
    play.pass(ms(999));
    assert_eq!(play.log(), []);
    play.pass(ms(10));
    let log = play.log();
    assert!(
        matches!(&log[..], [(6000..=6002, Call::Close(reason))] if reason.contains("no answer within 1")),
        "{log:?}"
    );
}

// ---------------------------------------------------------------- timers

#[test]
fn timers_come_in_order_never_early_and_at_most_a_tick_late() {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut play = Play::new(unguarded());
    play.admit(1);
    let mut wanted: Vec<(Instant, TimerId)> = Vec::new();
    for n in 0..2000_u64 {
        // In microseconds: many fall into one tick, and none on its edge.
        let at = play.now() + Duration::from_micros(rng.u64(1..300_000));
        let timer = if n % 2 == 0 {
            play.reactor.set_timer(at)
        } else {
            let mut set = None;
            play.with_last(|cx| {
                set = Some(cx.set_timer(at));
                Verdict::Continue
            });
            set.unwrap()
        };
        wanted.push((at, timer));
        play.pass(Duration::from_micros(rng.u64(..200)));
    }
    play.pass(ms(600));
    let log = std::mem::take(&mut play.reactor.handler().log);
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
    assert_eq!(play.reactor.next_deadline(), None);
}

#[test]
fn a_timer_that_an_earlier_one_of_the_same_tick_cancels_does_not_come() {
    thread_local!(static VICTIM: RefCell<Option<TimerId>> = const { RefCell::new(None) });
    let mut play = Play::new(unguarded());
    play.reactor.handler().on_loop_timer = |_, cx| assert!(cx.cancel_timer(VICTIM.take().unwrap()));
    play.reactor.handler().on_timer = |_, cx| {
        if let Some(victim) = VICTIM.take() {
            assert!(cx.cancel_timer(victim));
        }
        Verdict::Continue
    };
    play.admit(1);
    let at = play.at(10);
    let of_connection = |play: &mut Play| {
        let mut set = None;
        play.with_last(|cx| {
            set = Some(cx.set_timer(at));
            Verdict::Continue
        });
        set.unwrap()
    };
    let first = play.reactor.set_timer(at);
    let victim = of_connection(&mut play);
    let last = of_connection(&mut play);
    VICTIM.set(Some(victim));
    play.pass(ms(100));
    assert_eq!(
        play.calls(),
        [Call::Open, Call::LoopTimer(first), Call::Timer(last)]
    );
    assert!(
        ![first, victim, last]
            .into_iter()
            .any(|timer| play.reactor.cancel_timer(timer)),
        "none is still to come"
    );
}

#[test]
fn the_timers_of_a_closed_connection_never_come_and_leave_nothing_behind() {
    let mut play = Play::new(unguarded());
    let peer = play.admit(1);
    let mut timers = Vec::new();
    let begun = play.at(0);
    play.with_last(|cx| {
        timers = (0..1000)
            .map(|n| cx.set_timer(begun + ms(10 + n % 100)))
            .collect();
        Verdict::Continue
    });
    play.say(peer, b"bye\n");
    play.end(peer);
    play.pass(ms(5));
    assert_eq!(
        play.calls(),
        [Call::Open, frame("bye"), closed("closed by the peer")]
    );
    assert!(
        !timers
            .into_iter()
            .any(|timer| play.reactor.cancel_timer(timer))
    );
    assert_eq!(play.reactor.next_deadline(), None);
    // Another one in the same slot does not inherit them.
    play.admit(1);
    play.pass(ms(1000));
    assert_eq!(play.calls(), [Call::Open]);
    assert_eq!(play.reactor.counters().timers, 0);
}

#[test]
fn a_timer_that_sets_itself_anew_in_the_past_does_not_hold_up_the_turn() {
    let mut play = Play::new(unguarded());
    play.reactor.handler().on_loop_timer = |_, cx| {
        cx.set_timer(cx.now().checked_sub(Duration::from_nanos(1)).unwrap());
    };
    play.reactor.set_timer(play.at(0));
    let turns = play.pass(ms(100));
    assert_eq!(play.reactor.counters().timers, 100, "once a tick");
    assert!(turns <= 102, "{turns} turns");
}

#[test]
fn a_deadline_that_is_set_anew_in_the_past_does_not_hold_up_the_turn_nor_the_other_deadline() {
    let mut play = Play::new(unguarded());
    play.reactor.handler().on_deadline = |which, cx| {
        match which {
            Direction::Read => cx.set_read_deadline(Some(cx.now())),
            Direction::Write => cx.set_write_deadline(Some(cx.now())),
        }
        Verdict::Continue
    };
    play.admit(1);
    play.calls();
    let at = play.at(10);
    play.with_last(|cx| {
        cx.set_deadline(Some(at));
        Verdict::Continue
    });
    play.turn();
    play.skip(ms(10));
    play.turn();
    let mut calls = play.calls();
    assert!(calls.len() <= 2, "{} calls in one turn", calls.len());
    play.turn();
    calls.extend(play.calls());
    assert!(
        calls.contains(&Call::Deadline(Direction::Write)),
        "{calls:?}"
    );
}

#[test]
fn a_hundred_thousand_timers_in_one_tick_leave_the_sockets_their_part_of_the_time() {
    let mut play = Play::new(Config::default());
    let peer = play.admit(1);
    let (soon, later) = (play.at(100), play.at(3_600_000));
    for n in 0..1_000_000_u32 {
        play.reactor.set_timer(if n < 100_000 {
            soon
        } else {
            later + Duration::from_micros(u64::from(n))
        });
    }
    play.pass(ms(99));
    assert_eq!(play.reactor.counters().timers, 0);
    play.skip(ms(1));
    let (mut waited, mut asked) = (0_u64, 0_u64);
    while play.reactor.counters().timers < 100_000 {
        let turns = play.reactor.counters().turns;
        play.say(peer, b"are you there?\n");
        asked += 1;
        while play.got(peer) != b"are you there?\n" {
            play.turn();
            assert!(
                play.reactor.counters().turns < turns + 1000,
                "no answer: {:?}",
                play.reactor
            );
        }
        waited = waited.max(play.reactor.counters().turns - turns);
        assert!(asked < 10_000);
    }
    assert!(waited <= 2, "a request waited for {waited} turns");
    assert!(asked >= 50, "only {asked} requests were served meanwhile");
    assert_eq!(
        play.reactor.counters().timers,
        100_000,
        "and no other timer came"
    );
    play.reactor.handler().log.clear();
}

#[test]
fn setting_and_cancelling_a_timer_among_a_million_costs_little_more_than_among_a_thousand() {
    let mut play = Play::new(unguarded());
    let mut rng = fastrand::Rng::with_seed(11);
    let begun = play.at(0);
    let mut time = |play: &mut Play, armed: u32| {
        while play.reactor.counters().timers == 0 && play.reactor.next_deadline().is_none() {
            play.reactor.set_timer(begun + ms(1_000));
        }
        for _ in 1..armed {
            play.reactor
                .set_timer(begun + ms(rng.u64(1_000..10_000_000)));
        }
        // The quickest of several rounds: the others were disturbed.
        (0..20)
            .map(|_| {
                let clock = Instant::now();
                for _ in 0..1000 {
                    let timer = play
                        .reactor
                        .set_timer(begun + ms(rng.u64(1_000..10_000_000)));
                    assert!(play.reactor.cancel_timer(timer));
                }
                clock.elapsed()
            })
            .min()
            .unwrap()
    };
    let few = time(&mut play, 1_000);
    let many = time(&mut play, 1_000_000);
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
fn deadlines_that_move_with_every_request_cost_no_allocation_and_no_turn() {
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
fn guards_ask_for_no_turn_of_their_own_while_requests_come() {
    let mut play = Play::new(Config::default());
    play.reactor.handler().on_open = |cx| {
        cx.expect_handshake();
        Verdict::Continue
    };
    let peer = play.admit(1);
    let before = play.reactor.counters().turns;
    for n in 0..1000_u64 {
        play.skip(ms(5));
        play.say(peer, b"hello\n");
        play.turn();
        assert_eq!(play.reactor.counters().turns, before + n + 1);
    }
    assert_eq!(play.got(peer).len(), 6000);
    // From here on: the rest of the handshake's time and of the idle time, and nothing in between but looks that come to nothing.
    let turns = play.pass(ms(50_000));
    assert!(turns <= 3, "{turns} turns");
    assert!(play.is_open(peer));
}

#[test]
fn an_idle_loop_with_ten_thousand_connections_wakes_for_its_nearest_deadline_only() {
    const CONNECTIONS: usize = 10_000;
    let mut play = Play::new(Config {
        idle_timeout: Some(Duration::from_secs(300)),
        ..Config::default()
    });
    play.admit(CONNECTIONS);
    assert_eq!(play.reactor.connections(), CONNECTIONS);
    assert_eq!(
        play.pass(Duration::from_secs(60)),
        1,
        "only the one that ends the minute"
    );

    // Those who come one after the other do not each have a wake-up of their own.
    let mut play = Play::new(Config::default());
    for _ in 0..100 {
        play.admit(100);
        play.pass(ms(10));
    }
    assert_eq!(play.reactor.connections(), CONNECTIONS);
    // The loop wakes three times or so; each time it may look at 1,024 a turn.
    let turns = play.pass(Duration::from_secs(100));
    assert!(turns <= 30, "{turns} turns");
    assert_eq!(play.reactor.connections(), 0);
}

#[test]
fn ten_thousand_connections_without_guards_let_the_loop_sleep_for_ever() {
    let mut play = Play::new(unguarded());
    play.admit(10_000);
    assert_eq!(play.reactor.next_deadline(), None);
    assert_eq!(play.pass(Duration::from_secs(60)), 1);
}

// ---------------------------------------------------------------- how they meet

/// A connection that is choked and may not write any more, though its peer takes something again; its read deadline passes in 40 ms.
fn choked_and_late(play: &mut Play) -> usize {
    let peer = play.admit(1);
    play.set_room(peer, 0);
    play.say(peer, b"choke\n");
    play.turn();
    let (write, read) = (play.at(100), play.at(200));
    play.with_last(|cx| {
        cx.set_write_deadline(Some(write));
        cx.set_read_deadline(Some(read));
        Verdict::Continue
    });
    play.pass(ms(150));
    play.set_room(peer, 100);
    play.tell(peer, |event| event.writable = true);
    play.pass(ms(10));
    assert_eq!(play.got(peer), b"");
    peer
}

#[test]
fn the_callback_of_a_read_deadline_may_clear_the_write_deadline_of_a_choked_connection() {
    let mut play = Play::new(Config {
        write_high: 4,
        write_low: 0,
        ..unguarded()
    });
    play.reactor.handler().on_deadline = |which, cx| {
        if which == Direction::Read {
            cx.set_deadline(None);
        }
        Verdict::Continue
    };
    let peer = choked_and_late(&mut play);
    play.pass(ms(100));
    assert_eq!(play.got(peer), b"choke\n");
}

#[test]
fn a_letter_may_clear_the_write_deadline_of_a_choked_connection_in_the_turn_of_its_read_deadline() {
    let mut play = Play::new(Config {
        write_high: 4,
        write_low: 0,
        ..unguarded()
    });
    let peer = choked_and_late(&mut play);
    let id = play.last();
    play.skip(ms(100));
    let clear: Task = Box::new(move |_, cx| {
        assert!(cx.with(id, |cx| {
            cx.set_write_deadline(None);
            Verdict::Continue
        }));
    });
    play.reactor.handle().post(clear).unwrap();
    play.pass(ms(100));
    assert_eq!(play.got(peer), b"choke\n");
}

/// On a real loop, since it is the poller's own report of the bell that is used up.
#[test]
fn a_letter_that_comes_while_others_still_wait_is_not_slept_over() {
    let (mut reactor, _) = reactor(
        Scribe::default(),
        Config {
            calls_per_turn: 2,
            ..unguarded()
        },
    );
    let handle = reactor.handle();
    let post = || {
        handle
            .post(Box::new(|_: &mut Scribe, _: &mut LoopContext<'_, Scribe>| {}) as Task)
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
fn panics_in_timers_and_deadlines_end_their_own_connection_only() {
    let mut play = Play::new(unguarded());
    play.reactor.handler().on_timer = |_, _| panic!("in a timer");
    play.reactor.handler().on_deadline = |_, _| panic!("in a deadline");
    play.reactor.handler().on_loop_timer = |_, _| panic!("in a timer of the loop");
    let mut peers = Vec::new();
    for n in 0..3 {
        peers.push(play.admit(1));
        let at = play.at(100 + n);
        play.with_last(|cx| {
            match n {
                0 => drop(cx.set_timer(at)),
                1 => cx.set_read_deadline(Some(at)),
                _ => cx.send(&b"bystander"[..]),
            }
            Verdict::Continue
        });
    }
    play.reactor.set_timer(play.at(200));
    play.pass(ms(300));
    assert_eq!(play.reactor.counters().panics, 3);
    for peer in &peers {
        play.end(*peer);
    }
    play.pass(ms(10));
    let mut ends: Vec<Call> = play
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
fn a_timer_that_is_set_in_the_very_last_callback_never_comes() {
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
    let mut play = played::Play::on(Stage::with_doors(1), AtTheEnd, unguarded());
    let peer = play.admit(1);
    play.say(peer, b"bye\n");
    play.end(peer);
    play.pass(ms(100));
    assert_eq!(
        (
            play.reactor.connections(),
            play.reactor.next_deadline(),
            play.reactor.counters().panics
        ),
        (0, None, 0)
    );
}

/// Does something to a connection, as chance will have it.
fn at_random(cx: &mut Context<'_, Scribe>) -> Verdict {
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
fn whatever_meets_whatever_the_loop_lives_and_nothing_is_left() {
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
        let mut play = Play::new(config);
        let scribe = play.reactor.handler();
        scribe.on_open = at_random;
        scribe.on_frame = |line, cx| {
            let _ = cx.try_send(line);
            at_random(cx)
        };
        scribe.on_deadline = |_, cx| at_random(cx);
        scribe.on_timer = |_, cx| at_random(cx);
        play.admit(1);
        for _ in 0..200 {
            let peer = fastrand::usize(..play.sockets());
            let last = play.last();
            match fastrand::u32(..16) {
                0 => drop(play.admit(1)),
                1..5 => play.say(
                    peer,
                    [
                        &b"x"[..],
                        b"a\nb\nc\n",
                        b"\nhalf",
                        b"long enough to be cut into pieces\n",
                    ][fastrand::usize(..4)],
                ),
                5 => play.set_room(peer, fastrand::usize(..100)),
                6..8 => play.tell(peer, |event| {
                    (event.readable, event.writable) = (true, true);
                }),
                8 if fastrand::u32(..3) == 0 => play.end(peer),
                9 if fastrand::u32(..3) == 0 => play.reset(peer),
                10 => drop(play.reactor.with(last, |_, cx| at_random(cx))),
                11 => drop(play.reactor.handle().send(last, &b"letter\n"[..])),
                12 => drop(
                    play.reactor
                        .connect_to(vec![loopback(1), loopback(1)], ms(fastrand::u64(..100))),
                ),
                13 => play.answer(peer, Ok(Established::Yes)),
                14 => play.skip(Duration::from_micros(fastrand::u64(..30_000))),
                15 => drop(play.pass(Duration::from_micros(fastrand::u64(..30_000)))),
                _ => {}
            }
            if fastrand::bool() {
                play.turn();
            }
        }
        play.reactor.stop(Stop::Gracefully);
        play.pass(Duration::from_secs(1));
        assert_eq!(
            (
                play.reactor.connections(),
                play.reactor.buffered(),
                play.reactor.counters().panics
            ),
            (0, 0, 0),
            "seed {seed}"
        );
        assert_eq!(play.open(), 0, "seed {seed}");
        let closes = play
            .calls()
            .iter()
            .filter(|call| matches!(call, Call::Close(_)))
            .count();
        assert!(
            closes as u64 >= play.reactor.counters().closed,
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
fn no_instant_is_too_far_away_to_be_a_time() {
    let far = end_of_time();
    let past = (0..64).rev().fold(Instant::now(), |at, bit| {
        at.checked_sub(Duration::from_secs(1 << bit)).unwrap_or(at)
    });
    let mut play = Play::new(Config::default());
    let peer = play.admit(1);
    play.calls();
    let never = play.reactor.set_timer(far);
    play.with_last(|cx| {
        cx.set_deadline(Some(far));
        cx.set_timer(far);
        assert!(cx.try_send(&b"it is not over"[..]).is_ok());
        Verdict::Continue
    });
    play.say(peer, b"hello\n");
    play.turn();
    assert_eq!(play.calls(), [frame("hello")]);
    play.pass(Duration::from_secs(30));
    assert!(play.reactor.cancel_timer(never));

    let now = play.reactor.set_timer(past);
    play.with_last(|cx| {
        cx.set_deadline(Some(past));
        Verdict::Continue
    });
    play.pass(ms(2));
    let mut calls = play.calls();
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
fn a_stop_that_may_take_for_ever_and_a_dial_that_may_too_overflow_nothing() {
    let mut play = Play::new(unguarded());
    for timeout in [
        Duration::MAX,
        Duration::from_secs(u64::MAX / 2),
        Duration::from_secs(86_400 * 30),
        Duration::from_secs(86_400 * 50),
    ] {
        play.reactor
            .connect_to(vec![loopback(1), loopback(1), loopback(1)], timeout)
            .unwrap();
    }
    play.pass(Duration::from_secs(86_400));
    assert_eq!(
        (play.reactor.connections(), play.calls()),
        (4, Vec::new()),
        "a day is not yet for ever"
    );
    play.reactor.stop(Stop::Within(Duration::MAX));
    play.pass(Duration::from_secs(86_400));
    assert_eq!(
        play.reactor.connections(),
        0,
        "a dial is not worth waiting for"
    );
}

#[test]
fn each_time_that_is_up_is_shown_with_its_name() {
    let mut play = Play::new(Config {
        write_timeout: Some(ms(100)),
        drain_timeout: ms(100),
        ..unguarded()
    });
    let seen: Rc<RefCell<Vec<String>>> = Rc::default();
    let shown = seen.clone();
    play.reactor.set_observer(move |step: &Step<'_>| {
        if let Step::Deadline { expiry, .. } = step {
            shown.borrow_mut().push(format!("{expiry:?}"));
        }
    });
    let peer = play.admit(1);
    play.set_room(peer, 0);
    let at = play.at(50);
    play.with_last(|cx| {
        cx.set_read_deadline(Some(at));
        cx.send(&b"hello"[..]);
        resume_connection(cx)
    });
    play.pass(ms(1000));
    assert_eq!(*seen.borrow(), ["Deadline(Read)", "Write"]);
    assert_eq!(play.reactor.counters().deadlines, 2);
}
