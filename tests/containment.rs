//! A panic in the loop's own code ends one connection: a net that panics where the loop calls it
//! stands in for a bug.

#[path = "util/scripted.rs"]
mod scripted;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use glassloop::codec::Line;
use glassloop::internals::Established;
use glassloop::{
    CloseReason, Config, ConnectionId, Context, Handler, Origin, Step, Stop, Turn, Verdict,
};
use scripted::{NetState, SCRIPTED_PANIC, loopback, ms};

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

type Harness = scripted::Harness<Echo>;

/// A loop with three connections, the one in the midst of which is going to break: the peers 0, 1
/// and 2.
fn three(config: Config) -> Harness {
    let _ = log::set_logger(&Keeper);
    log::set_max_level(log::LevelFilter::Error);
    ERRORS.take();
    let mut harness = Harness::on(
        NetState {
            descriptors: Some(100),
            ..NetState::with_listeners(1)
        },
        Echo::default(),
        config,
    );
    harness.accept(3);
    harness
}

fn set_panic(harness: &Harness, peer: usize, call: &'static str) {
    harness.net.borrow_mut().peers[peer].panics_in = Some(call);
}

/// What must hold once the connection of peer 1 has broken in `call`: it alone is gone, that is
/// told, and its slot is free.
#[track_caller]
fn check(harness: &mut Harness, broken: ConnectionId, call: &str) {
    let counters = harness.reactor.counters();
    assert_eq!(
        (counters.internal_errors, counters.panics, counters.closed),
        (1, 0, 1),
        "{call}"
    );
    assert_eq!(
        (harness.is_open(0), harness.is_open(1), harness.is_open(2)),
        (true, false, true),
        "{call}"
    );
    assert_eq!(
        (harness.reactor.connections(), harness.reactor.buffered()),
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
        &format!("{SCRIPTED_PANIC} in {call}"),
        "please report",
    ] {
        assert!(line.contains(part), "{call}: {part:?} is not in {line:?}");
    }
    for peer in [0, 2] {
        harness.received(peer);
        harness.peer_sends(peer, b"alive\n");
    }
    harness.turn();
    assert_eq!(
        (harness.received(0), harness.received(2)),
        (b"alive\n".to_vec(), b"alive\n".to_vec()),
        "{call}"
    );
    let heir = harness.accept(1);
    let name = *harness.reactor.handler().all.last().unwrap();
    assert!(
        name.slot() == broken.slot() && name != broken,
        "{call}: {name} after {broken}"
    );
    harness.peer_sends(heir, b"alive\n");
    harness.turn();
    assert_eq!(
        (
            harness.received(heir),
            harness.reactor.counters().internal_errors
        ),
        (b"alive\n".to_vec(), 1),
        "{call}"
    );
}

#[test]
fn panic_in_an_event_closes_its_connection_and_the_turn_continues() {
    for (call, says) in [("read", "echo"), ("write", "echo"), ("shut_write", "close")] {
        let mut harness = three(Config::default());
        let broken = harness.reactor.handler().all[1];
        set_panic(&harness, 1, call);
        for (peer, line) in [(0, "before"), (1, says), (2, "behind")] {
            harness.peer_sends(peer, format!("{line}\n").as_bytes());
        }
        harness.turn();
        assert_eq!(
            (harness.received(0), harness.received(2)),
            (b"before\n".to_vec(), b"behind\n".to_vec()),
            "{call}: in the same turn"
        );
        assert_eq!(
            harness.reactor.handler().ends,
            [(broken, "internal")],
            "{call}"
        );
        check(&mut harness, broken, call);
    }
}

#[test]
fn observer_sees_the_panic_before_the_close() {
    let mut harness = three(Config::default());
    let (tell, told) = std::sync::mpsc::channel();
    harness
        .reactor
        .set_observer(move |step: &Step<'_>| match step {
            Step::InternalError { id, message } => {
                tell.send((*id, (*message).to_string())).unwrap();
            }
            Step::Closed { id, reason } => tell.send((*id, reason.to_string())).unwrap(),
            _ => {}
        });
    let broken = harness.reactor.handler().all[1];
    set_panic(&harness, 1, "read");
    harness.peer_sends(1, b"echo\n");
    harness.turn();
    let said = ["played bug in read", "internal error: a bug in glassloop"]
        .map(|text| (broken, text.to_string()));
    assert_eq!(told.try_iter().collect::<Vec<_>>(), said);
}

#[test]
fn panic_in_delivery_keeps_messages_to_other_connections() {
    // At the end of the turn, or at once where so much is asked of others already.
    for command_high in [Config::default().command_high, 1] {
        let mut harness = three(Config {
            command_high,
            ..Config::default()
        });
        let broken = harness.reactor.handler().all[1];
        harness.accept(1); // the last of those that are told
        set_panic(&harness, 1, "write");
        harness.peer_sends(0, b"tell\n");
        harness.turn();
        assert_eq!(
            (harness.received(2), harness.received(3)),
            (b"told\n".to_vec(), b"told\n".to_vec())
        );
        assert_eq!(harness.reactor.handler().ends, [(broken, "internal")]);
        harness.peer_resets(3);
        harness.turn();
        assert_eq!(harness.reactor.counters().internal_errors, 1);
        assert_eq!(
            (harness.is_open(0), harness.is_open(1), harness.is_open(2)),
            (true, false, true)
        );
    }
}

#[test]
fn panic_in_the_resume_queue_keeps_the_rest_of_the_queue() {
    let mut harness = three(Config {
        scratch: 8,
        ..Config::default()
    });
    let broken = harness.reactor.handler().all[1];
    for peer in 0..3 {
        harness.peer_sends(peer, b"1234567\n1234567\n1234567\n");
    }
    harness.turn();
    set_panic(&harness, 1, "read");
    for _ in 0..6 {
        harness.turn();
    }
    let all = b"1234567\n".repeat(3);
    assert_eq!(
        (harness.received(0), harness.received(2)),
        (all.clone(), all)
    );
    assert_eq!(harness.reactor.handler().ends, [(broken, "internal")]);
    check(&mut harness, broken, "read");
}

#[test]
fn panic_in_a_deadline_closes_its_connection_only() {
    let config = Config {
        write_timeout: Some(ms(100)),
        idle_timeout: None,
        ..Config::default()
    };
    let mut harness = three(config);
    let broken = harness.reactor.handler().all[1];
    harness.set_room(1, 2);
    harness.peer_sends(1, b"echo\n");
    harness.turn();
    set_panic(&harness, 1, "write"); // the last try, when the time is over
    harness.run_for(ms(200));
    assert_eq!(harness.reactor.handler().ends, [(broken, "internal")]);
    check(&mut harness, broken, "write");
}

#[test]
fn panic_during_removal_frees_the_slot() {
    let mut harness = three(Config::default());
    let broken = harness.reactor.handler().all[1];
    set_panic(&harness, 1, "deregister");
    harness.peer_resets(1);
    harness.turn();
    assert_eq!(
        harness.reactor.handler().ends,
        [],
        "it was being removed: there is nothing left to tell"
    );
    harness.reactor.handler().all.retain(|id| *id != broken);
    check(&mut harness, broken, "deregister");
}

#[test]
fn panic_in_a_dial_ends_it_and_the_next_dial_succeeds() {
    let mut harness = three(Config::default());
    let dialed = harness
        .reactor
        .connect_to(vec![loopback(9)], Duration::MAX)
        .unwrap();
    set_panic(&harness, 3, "established");
    harness.set_connect_state(3, Ok(Established::Yes));
    harness.turn();
    assert_eq!(harness.reactor.handler().ends, [(dialed, "internal")]);
    assert_eq!(
        (
            harness.reactor.connections(),
            harness.is_open(3),
            harness.reactor.counters().internal_errors
        ),
        (3, false, 1)
    );
    let again = harness
        .reactor
        .connect_to(vec![loopback(9)], Duration::MAX)
        .unwrap();
    assert_eq!(again.slot(), dialed.slot());
    harness.set_connect_state(4, Ok(Established::Yes));
    harness.turn();
    assert!(harness.reactor.handler().all.contains(&again));
}

#[test]
fn panic_in_a_stopping_loop_does_not_prevent_the_stop() {
    // The loop that stops gracefully reads from every connection once more; one that stops at once
    // only removes them.
    for (how, call) in [
        (Stop::Gracefully, "read"),
        (Stop::Within(ms(50)), "read"),
        (Stop::AtOnce, "deregister"),
    ] {
        let mut harness = three(Config::default());
        let broken = harness.reactor.handler().all[1];
        set_panic(&harness, 1, call);
        harness.peer_sends(0, b"asked in time\n");
        harness.peer_shuts_write(0);
        harness.peer_sends(2, b"asked in time\n");
        harness.reactor.stop(how);
        let mut turns = 0;
        while harness.reactor.turn(Some(ms(10))).unwrap() == Turn::Running {
            turns += 1;
            assert!(
                turns < 2_000,
                "{how:?}: it does not stop: {:?}",
                harness.reactor
            );
        }
        assert_eq!(
            (
                harness.open_sockets(),
                harness.reactor.connections(),
                harness.reactor.counters().internal_errors
            ),
            (0, 0, 1),
            "{how:?}"
        );
        let ends = &harness.reactor.handler().ends;
        assert_eq!(
            ends.iter().filter(|(id, _)| *id != broken).count(),
            2,
            "{how:?}: {ends:?}"
        );
        assert_eq!(
            (harness.received(0), harness.received(2)),
            (b"asked in time\n".to_vec(), b"asked in time\n".to_vec())
        );
    }
}

#[test]
fn panic_in_commands_of_an_outside_callback_closes_the_target() {
    let mut harness = three(Config {
        command_high: 1,
        ..Config::default()
    });
    let [first, broken, _] = harness.reactor.handler().all[..] else {
        panic!("three in all")
    };
    set_panic(&harness, 1, "write");
    // So much is asked of others that it is carried out at once.
    let there = harness.reactor.with(first, |_, cx| {
        cx.send_to(broken, &b"told"[..]);
        Verdict::Continue
    });
    harness.turn();
    assert!(there);
    assert_eq!(harness.reactor.handler().ends, [(broken, "internal")]);
    check(&mut harness, broken, "write");
}

#[test]
fn run_continues_after_each_of_several_panics() {
    let mut harness = three(Config {
        idle_timeout: None,
        ..Config::default()
    });
    harness.accept(1);
    for peer in 0..3 {
        set_panic(&harness, peer, "read");
        harness.peer_sends(peer, b"echo\n");
    }
    harness.peer_sends(3, b"echo\n");
    let at = harness.at(1000);
    harness.reactor.set_timer(at);
    let handle = harness.reactor.handle();
    harness.reactor.set_observer(move |step: &Step<'_>| {
        if let Step::Timer { .. } = step {
            handle.stop(Stop::Gracefully);
        }
    });
    harness.reactor.run().unwrap();
    assert_eq!(
        (
            harness.reactor.counters().internal_errors,
            harness.received(3)
        ),
        (3, b"echo\n".to_vec())
    );
    assert_eq!(
        harness
            .reactor
            .handler()
            .ends
            .iter()
            .filter(|(_, reason)| *reason == "internal")
            .count(),
        3
    );
}

#[test]
fn panic_outside_any_connection_is_passed_on() {
    let mut harness = three(Config::default());
    harness.net.borrow_mut().listeners[0].panics = true;
    harness.peer_sends(1, b"echo\n"); // in the same turn, and not to be blamed
    harness.queue_accepts(0, [Ok(())]);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        harness.reactor.turn(Some(Duration::ZERO))
    }));
    let payload = outcome.expect_err("no connection is to be blamed");
    assert_eq!(
        payload.downcast_ref::<String>().map(String::as_str),
        Some("played bug in accept")
    );
    assert_eq!(
        (
            harness.reactor.connections(),
            harness.reactor.counters().internal_errors
        ),
        (3, 0)
    );
}
