//! A panic in the loop's own code closes one connection. A network that panics where the loop calls
//! it stands in for a bug.

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
    /// The errors that this thread has logged.
    static ERRORS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// A logger that keeps the errors of each thread for the test that runs in it.
struct ErrorLog;

impl log::Log for ErrorLog {
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

/// Echoes a line, sends to all other connections (`tell`), or closes (`close`). Records each close.
#[derive(Default)]
struct Echo {
    all: Vec<ConnectionId>,
    closed: Vec<(ConnectionId, &'static str)>,
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
        self.closed.push((cx.id(), reason.name()));
    }
}

type Harness = scripted::Harness<Echo>;

/// Returns a loop with three connections: peers 0, 1 and 2. The socket of peer 1 is going to panic.
fn three_connections(config: Config) -> Harness {
    let _ = log::set_logger(&ErrorLog);
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

/// Checks the loop after the panic of peer 1's socket in `call`: only that connection is closed,
/// the panic is logged, and the slot is free.
#[track_caller]
fn assert_contained(harness: &mut Harness, broken: ConnectionId, call: &str) {
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
        panic!("{call}: expected one line: {errors:?}")
    };
    for part in [
        "bug in glassloop",
        &format!("connection {broken}"),
        &format!("{SCRIPTED_PANIC} in {call}"),
        "please report",
    ] {
        assert!(
            line.contains(part),
            "{call}: {part:?} is missing in {line:?}"
        );
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
    let next = harness.accept(1);
    let next_id = *harness.reactor.handler().all.last().unwrap();
    assert!(
        next_id.slot() == broken.slot() && next_id != broken,
        "{call}: {next_id} after {broken}"
    );
    harness.peer_sends(next, b"alive\n");
    harness.turn();
    assert_eq!(
        (
            harness.received(next),
            harness.reactor.counters().internal_errors
        ),
        (b"alive\n".to_vec(), 1),
        "{call}"
    );
}

#[test]
fn panic_in_an_event_closes_its_connection_and_the_turn_continues() {
    for (call, says) in [("read", "echo"), ("write", "echo"), ("shut_write", "close")] {
        let mut harness = three_connections(Config::default());
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
            harness.reactor.handler().closed,
            [(broken, "internal")],
            "{call}"
        );
        assert_contained(&mut harness, broken, call);
    }
}

#[test]
fn observer_sees_the_panic_before_the_close() {
    let mut harness = three_connections(Config::default());
    let (sender, receiver) = std::sync::mpsc::channel();
    harness
        .reactor
        .set_observer(move |step: &Step<'_>| match step {
            Step::InternalError { id, message } => {
                sender.send((*id, (*message).to_string())).unwrap();
            }
            Step::Closed { id, reason } => sender.send((*id, reason.to_string())).unwrap(),
            _ => {}
        });
    let broken = harness.reactor.handler().all[1];
    set_panic(&harness, 1, "read");
    harness.peer_sends(1, b"echo\n");
    harness.turn();
    let steps = [
        "scripted panic in read",
        "internal error: a bug in glassloop",
    ]
    .map(|text| (broken, text.to_string()));
    assert_eq!(receiver.try_iter().collect::<Vec<_>>(), steps);
}

#[test]
fn panic_in_delivery_keeps_messages_to_other_connections() {
    // At the end of the turn, or at once if `command_high` is reached.
    for command_high in [Config::default().command_high, 1] {
        let mut harness = three_connections(Config {
            command_high,
            ..Config::default()
        });
        let broken = harness.reactor.handler().all[1];
        harness.accept(1); // the last receiver of the message
        set_panic(&harness, 1, "write");
        harness.peer_sends(0, b"tell\n");
        harness.turn();
        assert_eq!(
            (harness.received(2), harness.received(3)),
            (b"told\n".to_vec(), b"told\n".to_vec())
        );
        assert_eq!(harness.reactor.handler().closed, [(broken, "internal")]);
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
    let mut harness = three_connections(Config {
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
    assert_eq!(harness.reactor.handler().closed, [(broken, "internal")]);
    assert_contained(&mut harness, broken, "read");
}

#[test]
fn panic_in_a_deadline_closes_its_connection_only() {
    let config = Config {
        write_timeout: Some(ms(100)),
        idle_timeout: None,
        ..Config::default()
    };
    let mut harness = three_connections(config);
    let broken = harness.reactor.handler().all[1];
    harness.set_room(1, 2);
    harness.peer_sends(1, b"echo\n");
    harness.turn();
    set_panic(&harness, 1, "write"); // the last write, when the deadline expires
    harness.run_for(ms(200));
    assert_eq!(harness.reactor.handler().closed, [(broken, "internal")]);
    assert_contained(&mut harness, broken, "write");
}

#[test]
fn panic_during_removal_frees_the_slot() {
    let mut harness = three_connections(Config::default());
    let broken = harness.reactor.handler().all[1];
    set_panic(&harness, 1, "deregister");
    harness.peer_resets(1);
    harness.turn();
    assert_eq!(
        harness.reactor.handler().closed,
        [],
        "the connection was being removed: no callback is left"
    );
    harness.reactor.handler().all.retain(|id| *id != broken);
    assert_contained(&mut harness, broken, "deregister");
}

#[test]
fn panic_in_a_dial_ends_it_and_the_next_dial_succeeds() {
    let mut harness = three_connections(Config::default());
    let dialed = harness
        .reactor
        .connect_to(vec![loopback(9)], Duration::MAX)
        .unwrap();
    set_panic(&harness, 3, "established");
    harness.set_connect_state(3, Ok(Established::Yes));
    harness.turn();
    assert_eq!(harness.reactor.handler().closed, [(dialed, "internal")]);
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
    // A graceful stop reads from every connection once more. An immediate stop only removes them.
    for (how, call) in [
        (Stop::Gracefully, "read"),
        (Stop::Within(ms(50)), "read"),
        (Stop::AtOnce, "deregister"),
    ] {
        let mut harness = three_connections(Config::default());
        let broken = harness.reactor.handler().all[1];
        set_panic(&harness, 1, call);
        harness.peer_sends(0, b"sent in time\n");
        harness.peer_shuts_write(0);
        harness.peer_sends(2, b"sent in time\n");
        harness.reactor.stop(how);
        let mut turns = 0;
        while harness.reactor.turn(Some(ms(10))).unwrap() == Turn::Running {
            turns += 1;
            assert!(
                turns < 2_000,
                "{how:?}: the loop does not stop: {:?}",
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
        let closed = &harness.reactor.handler().closed;
        assert_eq!(
            closed.iter().filter(|(id, _)| *id != broken).count(),
            2,
            "{how:?}: {closed:?}"
        );
        assert_eq!(
            (harness.received(0), harness.received(2)),
            (b"sent in time\n".to_vec(), b"sent in time\n".to_vec())
        );
    }
}

#[test]
fn panic_in_commands_of_an_outside_callback_closes_the_target() {
    let mut harness = three_connections(Config {
        command_high: 1,
        ..Config::default()
    });
    let [first, broken, _] = harness.reactor.handler().all[..] else {
        panic!("there are three connections")
    };
    set_panic(&harness, 1, "write");
    // `command_high` is 1, so the command runs at once.
    let found = harness.reactor.with(first, |_, cx| {
        cx.send_to(broken, &b"told"[..]);
        Verdict::Continue
    });
    harness.turn();
    assert!(found);
    assert_eq!(harness.reactor.handler().closed, [(broken, "internal")]);
    assert_contained(&mut harness, broken, "write");
}

#[test]
fn run_continues_after_each_of_several_panics() {
    let mut harness = three_connections(Config {
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
            .closed
            .iter()
            .filter(|(_, reason)| *reason == "internal")
            .count(),
        3
    );
}

#[test]
fn panic_outside_any_connection_is_passed_on() {
    let mut harness = three_connections(Config::default());
    harness.net.borrow_mut().listeners[0].panics = true;
    harness.peer_sends(1, b"echo\n"); // in the same turn, but not the cause
    harness.queue_accepts(0, [Ok(())]);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        harness.reactor.turn(Some(Duration::ZERO))
    }));
    let payload = outcome.expect_err("the panic belongs to no connection");
    assert_eq!(
        payload.downcast_ref::<String>().map(String::as_str),
        Some("scripted panic in accept")
    );
    assert_eq!(
        (
            harness.reactor.connections(),
            harness.reactor.counters().internal_errors
        ),
        (3, 0)
    );
}
