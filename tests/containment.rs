//! A panic in the loop's own code ends one connection: a net that panics where the loop calls it
//! stands in for a bug.

#[path = "util/played.rs"]
mod played;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use glassloop::codec::Line;
use glassloop::internals::Established;
use glassloop::{
    CloseReason, Config, ConnectionId, Context, Handler, Origin, Step, Stop, Turn, Verdict,
};
use played::{PLAYED_BUG, Stage, loopback, ms};

thread_local! {
    /// What this thread has logged as an error.
    static ERRORS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Keeps errors for the test in whose thread they were logged.
struct Keeper;

impl log::Log for Keeper {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() == log::Level::Error
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            ERRORS.with(|errors| errors.borrow_mut().push(record.args().to_string()));
        }
    }

    fn flush(&self) {}
}

/// Echoes, tells all others, or closes; and notes each end.
#[derive(Default)]
struct Echo {
    all: Vec<ConnectionId>,
    ends: Vec<(ConnectionId, &'static str)>,
}

impl Handler for Echo {
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
        match line {
            b"tell" => {
                let this = cx.id();
                self.all
                    .iter()
                    .filter(|id| **id != this)
                    .for_each(|id| cx.send_to(*id, &b"told"[..]));
            }
            b"close" => return Verdict::Close,
            line => cx.send(line),
        }
        Verdict::Continue
    }

    fn close(&mut self, cx: &mut Context<'_, Self>, reason: &CloseReason) {
        self.all.retain(|id| *id != cx.id());
        self.ends.push((cx.id(), reason.name()));
    }
}

type Play = played::Play<Echo>;

/// A loop with three connections, the one in the midst of which is going to break: the peers 0, 1
/// and 2.
fn three(config: Config) -> Play {
    let _ = log::set_logger(&Keeper);
    log::set_max_level(log::LevelFilter::Error);
    ERRORS.take();
    let mut play = Play::on(
        Stage {
            descriptors: Some(100),
            ..Stage::with_doors(1)
        },
        Echo::default(),
        config,
    );
    play.admit(3);
    play
}

fn set_panic(play: &Play, peer: usize, call: &'static str) {
    play.stage.borrow_mut().peers[peer].panics_in = Some(call);
}

/// What must hold once the connection of peer 1 has broken in `call`: it alone is gone, that is
/// told, and its slot is free.
#[track_caller]
fn check(play: &mut Play, broken: ConnectionId, call: &str) {
    let counters = play.reactor.counters();
    assert_eq!(
        (counters.internal_errors, counters.panics, counters.closed),
        (1, 0, 1),
        "{call}"
    );
    assert_eq!(
        (play.is_open(0), play.is_open(1), play.is_open(2)),
        (true, false, true),
        "{call}"
    );
    assert_eq!(
        (play.reactor.connections(), play.reactor.buffered()),
        (2, 0),
        "{call}"
    );
    let errors = ERRORS.take();
    let [line] = &errors[..] else {
        panic!("{call}: one line is wanted: {errors:?}")
    };
    for part in [
        "bug in glassloop",
        &format!("connection {broken}"),
        &format!("{PLAYED_BUG} in {call}"),
        "please report",
    ] {
        assert!(line.contains(part), "{call}: {part:?} is not in {line:?}");
    }
    for peer in [0, 2] {
        play.got(peer);
        play.say(peer, b"alive\n");
    }
    play.turn();
    assert_eq!(
        (play.got(0), play.got(2)),
        (b"alive\n".to_vec(), b"alive\n".to_vec()),
        "{call}"
    );
    let heir = play.admit(1);
    let name = *play.reactor.handler().all.last().unwrap();
    assert!(
        name.slot() == broken.slot() && name != broken,
        "{call}: {name} after {broken}"
    );
    play.say(heir, b"alive\n");
    play.turn();
    assert_eq!(
        (play.got(heir), play.reactor.counters().internal_errors),
        (b"alive\n".to_vec(), 1),
        "{call}"
    );
}

#[test]
fn panic_over_an_event_ends_its_connection_and_the_turn_goes_on() {
    for (call, says) in [("read", "echo"), ("write", "echo"), ("shut_write", "close")] {
        let mut play = three(Config::default());
        let broken = play.reactor.handler().all[1];
        set_panic(&play, 1, call);
        for (peer, line) in [(0, "before"), (1, says), (2, "behind")] {
            play.say(peer, format!("{line}\n").as_bytes());
        }
        play.turn();
        assert_eq!(
            (play.got(0), play.got(2)),
            (b"before\n".to_vec(), b"behind\n".to_vec()),
            "{call}: in the same turn"
        );
        assert_eq!(
            play.reactor.handler().ends,
            [(broken, "internal")],
            "{call}"
        );
        check(&mut play, broken, call);
    }
}

#[test]
fn observer_is_told_of_the_panic_before_the_end() {
    let mut play = three(Config::default());
    let (tell, told) = std::sync::mpsc::channel();
    play.reactor
        .set_observer(move |step: &Step<'_>| match step {
            Step::InternalError { id, message } => {
                tell.send((*id, (*message).to_string())).unwrap();
            }
            Step::Closed { id, reason } => tell.send((*id, reason.to_string())).unwrap(),
            _ => {}
        });
    let broken = play.reactor.handler().all[1];
    set_panic(&play, 1, "read");
    play.say(1, b"echo\n");
    play.turn();
    let said = ["played bug in read", "internal error: a bug in glassloop"]
        .map(|text| (broken, text.to_string()));
    assert_eq!(told.try_iter().collect::<Vec<_>>(), said);
}

#[test]
fn panic_while_messages_are_delivered_leaves_those_to_others() {
    // At the end of the turn, or at once where so much is asked of others already.
    for command_high in [Config::default().command_high, 1] {
        let mut play = three(Config {
            command_high,
            ..Config::default()
        });
        let broken = play.reactor.handler().all[1];
        play.admit(1); // the last of those that are told
        set_panic(&play, 1, "write");
        play.say(0, b"tell\n");
        play.turn();
        assert_eq!(
            (play.got(2), play.got(3)),
            (b"told\n".to_vec(), b"told\n".to_vec())
        );
        assert_eq!(play.reactor.handler().ends, [(broken, "internal")]);
        play.reset(3);
        play.turn();
        assert_eq!(play.reactor.counters().internal_errors, 1);
        assert_eq!(
            (play.is_open(0), play.is_open(1), play.is_open(2)),
            (true, false, true)
        );
    }
}

#[test]
fn panic_on_the_resume_queue_leaves_the_rest_of_the_queue() {
    let mut play = three(Config {
        scratch: 8,
        ..Config::default()
    });
    let broken = play.reactor.handler().all[1];
    for peer in 0..3 {
        play.say(peer, b"1234567\n1234567\n1234567\n");
    }
    play.turn();
    set_panic(&play, 1, "read");
    for _ in 0..6 {
        play.turn();
    }
    let all = b"1234567\n".repeat(3);
    assert_eq!((play.got(0), play.got(2)), (all.clone(), all));
    assert_eq!(play.reactor.handler().ends, [(broken, "internal")]);
    check(&mut play, broken, "read");
}

#[test]
fn panic_over_a_deadline_ends_its_connection_only() {
    let config = Config {
        write_timeout: Some(ms(100)),
        idle_timeout: None,
        ..Config::default()
    };
    let mut play = three(config);
    let broken = play.reactor.handler().all[1];
    play.set_room(1, 2);
    play.say(1, b"echo\n");
    play.turn();
    set_panic(&play, 1, "write"); // the last try, when the time is over
    play.pass(ms(200));
    assert_eq!(play.reactor.handler().ends, [(broken, "internal")]);
    check(&mut play, broken, "write");
}

#[test]
fn panic_while_a_connection_is_removed_frees_its_slot() {
    let mut play = three(Config::default());
    let broken = play.reactor.handler().all[1];
    set_panic(&play, 1, "deregister");
    play.reset(1);
    play.turn();
    assert_eq!(
        play.reactor.handler().ends,
        [],
        "it was being removed: there is nothing left to tell"
    );
    play.reactor.handler().all.retain(|id| *id != broken);
    check(&mut play, broken, "deregister");
}

#[test]
fn panic_over_a_dial_ends_it_and_the_next_one_is_made() {
    let mut play = three(Config::default());
    let dialed = play
        .reactor
        .connect_to(vec![loopback(9)], Duration::MAX)
        .unwrap();
    set_panic(&play, 3, "established");
    play.answer(3, Ok(Established::Yes));
    play.turn();
    assert_eq!(play.reactor.handler().ends, [(dialed, "internal")]);
    assert_eq!(
        (
            play.reactor.connections(),
            play.is_open(3),
            play.reactor.counters().internal_errors
        ),
        (3, false, 1)
    );
    let again = play
        .reactor
        .connect_to(vec![loopback(9)], Duration::MAX)
        .unwrap();
    assert_eq!(again.slot(), dialed.slot());
    play.answer(4, Ok(Established::Yes));
    play.turn();
    assert!(play.reactor.handler().all.contains(&again));
}

#[test]
fn panic_in_a_stopping_loop_does_not_keep_it_from_its_end() {
    // The loop that stops gracefully reads from every connection once more; one that stops at once
    // only removes them.
    for (how, call) in [
        (Stop::Gracefully, "read"),
        (Stop::Within(ms(50)), "read"),
        (Stop::AtOnce, "deregister"),
    ] {
        let mut play = three(Config::default());
        let broken = play.reactor.handler().all[1];
        set_panic(&play, 1, call);
        play.say(0, b"asked in time\n");
        play.end(0);
        play.say(2, b"asked in time\n");
        play.reactor.stop(how);
        let mut turns = 0;
        while play.reactor.turn(Some(ms(10))).unwrap() == Turn::Running {
            turns += 1;
            assert!(
                turns < 2_000,
                "{how:?}: it does not stop: {:?}",
                play.reactor
            );
        }
        assert_eq!(
            (
                play.open(),
                play.reactor.connections(),
                play.reactor.counters().internal_errors
            ),
            (0, 0, 1),
            "{how:?}"
        );
        let ends = &play.reactor.handler().ends;
        assert_eq!(
            ends.iter().filter(|(id, _)| *id != broken).count(),
            2,
            "{how:?}: {ends:?}"
        );
        assert_eq!(
            (play.got(0), play.got(2)),
            (b"asked in time\n".to_vec(), b"asked in time\n".to_vec())
        );
    }
}

#[test]
fn panic_for_a_callback_from_outside_ends_that_connection() {
    let mut play = three(Config {
        command_high: 1,
        ..Config::default()
    });
    let [first, broken, _] = play.reactor.handler().all[..] else {
        panic!("three in all")
    };
    set_panic(&play, 1, "write");
    // So much is asked of others that it is carried out at once.
    let there = play.reactor.with(first, |_, cx| {
        cx.send_to(broken, &b"told"[..]);
        Verdict::Continue
    });
    play.turn();
    assert!(there);
    assert_eq!(play.reactor.handler().ends, [(broken, "internal")]);
    check(&mut play, broken, "write");
}

#[test]
fn run_goes_on_after_each_of_several_panics() {
    let mut play = three(Config {
        idle_timeout: None,
        ..Config::default()
    });
    play.admit(1);
    for peer in 0..3 {
        set_panic(&play, peer, "read");
        play.say(peer, b"echo\n");
    }
    play.say(3, b"echo\n");
    let at = play.at(1000);
    play.reactor.set_timer(at);
    let handle = play.reactor.handle();
    play.reactor.set_observer(move |step: &Step<'_>| {
        if let Step::Timer { .. } = step {
            handle.stop(Stop::Gracefully);
        }
    });
    play.reactor.run().unwrap();
    assert_eq!(
        (play.reactor.counters().internal_errors, play.got(3)),
        (3, b"echo\n".to_vec())
    );
    assert_eq!(
        play.reactor
            .handler()
            .ends
            .iter()
            .filter(|(_, reason)| *reason == "internal")
            .count(),
        3
    );
}

#[test]
fn panic_for_no_connection_is_passed_on() {
    let mut play = three(Config::default());
    play.stage.borrow_mut().doors[0].panics = true;
    play.say(1, b"echo\n"); // in the same turn, and not to be blamed
    play.knock(0, [Ok(())]);
    let outcome = catch_unwind(AssertUnwindSafe(|| play.reactor.turn(Some(Duration::ZERO))));
    let payload = outcome.expect_err("no connection is to be blamed");
    assert_eq!(
        payload.downcast_ref::<String>().map(String::as_str),
        Some("played bug in accept")
    );
    assert_eq!(
        (
            play.reactor.connections(),
            play.reactor.counters().internal_errors
        ),
        (3, 0)
    );
}
