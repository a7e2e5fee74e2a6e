//! Spinning: polling without sleep saves time if events come soon, and delays nothing.

#[path = "util/scripted.rs"]
mod scripted;

use std::cell::RefCell;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use glassloop::codec::Line;
use glassloop::sim::{Faults, Path, Peer, Sim};
use glassloop::{
    Config, Context, Counters, Handler, LoopContext, Origin, Reactor, TimerId, Turn, Verdict,
};
use scripted::{Harness, NetState};

/// The longest spin that may be configured: with it, a delay would show.
const LONGEST: Duration = Duration::from_millis(10);

/// Echoes lines, answers posts, and records when its timers fire.
#[derive(Clone, Default)]
struct Echo(Rc<RefCell<Vec<Instant>>>);

impl Handler for Echo {
    type Codec = Line;
    type State = ();
    type Mail = std::sync::mpsc::Sender<()>;

    fn connection(&mut self, _: &Origin) -> (Line, ()) {
        (Line::default(), ())
    }

    fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Verdict {
        cx.send(line);
        Verdict::Continue
    }

    fn loop_timer(&mut self, _: TimerId, cx: &mut LoopContext<'_, Self>) {
        self.0.borrow_mut().push(cx.now());
    }

    fn mail(&mut self, answer: Self::Mail, _: &mut LoopContext<'_, Self>) {
        let _ = answer.send(());
    }
}

/// A simulation without faults, with this latency on the network.
fn sim_with(spin: Duration, latency: Duration) -> Sim<Echo> {
    let mut sim = Sim::with_faults(
        1,
        Faults::none(),
        Echo::default(),
        Config {
            spin,
            ..Config::default()
        },
    );
    sim.set_path(Path {
        latency,
        ..Path::local()
    });
    sim
}

/// Sends `count` lines one after the other, each just before the loop begins to wait for it.
fn exchange_lines(sim: &mut Sim<Echo>, peer: &Peer, count: u64) {
    for _ in 0..count {
        let frames = sim.reactor().counters().frames;
        peer.send(b"again\n");
        while sim.reactor().counters().frames == frames {
            let _ = sim.turn(None).unwrap();
        }
    }
}

fn exchange_thousand_lines(spin: Duration, latency: Duration) -> Counters {
    let mut sim = sim_with(spin, latency);
    let addr = sim.listen();
    let peer = sim.connect(&addr);
    exchange_lines(&mut sim, &peer, 1000);
    sim.finish(10);
    assert_eq!(peer.received(), b"again\n".repeat(1000));
    sim.reactor().counters()
}

#[test]
fn loop_spins_for_fast_clients_and_sleeps_for_slow_ones() {
    let quick = exchange_thousand_lines(Duration::from_micros(8), Duration::from_nanos(700));
    assert!(quick.spin_hits > 700, "{quick:?}");
    assert!(quick.spin_misses < 20, "{quick:?}");
    let slow = exchange_thousand_lines(Duration::from_micros(8), Duration::from_micros(200));
    assert!(
        slow.spins < 40 && slow.polls - slow.turns < 2000,
        "{slow:?}"
    );
    let never = exchange_thousand_lines(Duration::ZERO, Duration::from_nanos(700));
    assert_eq!((never.spins, never.polls), (0, never.turns));
}

#[test]
fn deadline_while_spinning_is_never_early_and_no_later() {
    let run = |spin| {
        let mut sim = sim_with(spin, Duration::from_micros(2));
        let addr = sim.listen();
        let peer = sim.connect(&addr);
        let echo = sim.reactor().handler().clone();
        let mut due = Vec::new();
        for n in 0..400 {
            // Lines that come soon earn credit for spinning. The timer fires while the loop waits
            // for the next line.
            exchange_lines(&mut sim, &peer, 20);
            let at = sim.instant() + Duration::from_micros(n * 37);
            due.push(at);
            sim.reactor().set_timer(at);
            while echo.0.borrow().len() < due.len() {
                let _ = sim.turn(None).unwrap();
            }
        }
        let fired = echo.0.borrow().clone();
        assert_eq!(fired.len(), due.len());
        let late: Vec<Duration> = fired
            .iter()
            .zip(&due)
            .map(|(fired, due)| fired.checked_duration_since(*due).expect("not early"))
            .collect();
        (late, sim.reactor().counters())
    };
    let ((sleeping, sleep_counters), (spinning, spin_counters)) =
        (run(Duration::ZERO), run(LONGEST));
    assert!(
        sleep_counters.spins == 0 && spin_counters.spin_hits > 400,
        "{spin_counters:?}"
    );
    // Without spinning, the poller's own rounding makes timers up to a millisecond late. With it,
    // no timer is later than that.
    let latest = |late: &[Duration]| *late.iter().max().expect("there were some");
    assert!(
        latest(&spinning) <= latest(&sleeping),
        "{:?} late with spinning, {:?} without",
        latest(&spinning),
        latest(&sleeping)
    );
}

#[test]
fn posts_from_other_threads_are_delivered_while_spinning() {
    let mut reactor = Reactor::new(
        Echo::default(),
        Config {
            spin: LONGEST,
            ..Config::default()
        },
    )
    .unwrap();
    let handle = reactor.handle();
    let writer = thread::spawn(move || {
        for _ in 0..2_000 {
            let (answer, answered) = std::sync::mpsc::channel();
            handle.post(answer).unwrap();
            // The next one is posted while the loop waits; most of the time it spins.
            answered.recv().unwrap();
        }
        handle.shutdown(Duration::ZERO);
    });
    while reactor.turn(None).unwrap() == Turn::Running {}
    writer.join().unwrap();
    assert_eq!(reactor.counters().posts, 2_000);
}

#[test]
fn post_during_a_spin_ends_the_spin() {
    let config = Config {
        spin: LONGEST,
        idle_timeout: None,
        ..Config::default()
    };
    let mut harness = Harness::on(NetState::default(), Echo::default(), config);
    let (handle, (answer, answered)) = (harness.reactor.handle(), std::sync::mpsc::channel());
    let mut spins = 0;
    while spins == 0 {
        // The third poll of a turn is one of a spin. The clock stands still: only the post can end
        // the spin so soon.
        let (handle, answer) = (handle.clone(), answer.clone());
        let mut polls = 0;
        harness.net.borrow_mut().on_poll = Some(Box::new(move || {
            polls += 1;
            if polls == 3 {
                handle.post(answer.clone()).unwrap();
            }
        }));
        let before = harness.reactor.counters();
        let _ = harness
            .reactor
            .turn(Some(Duration::from_millis(5)))
            .unwrap();
        let after = harness.reactor.counters();
        spins = after.spins - before.spins;
        assert!(
            spins == 0 || (after.polls - before.polls, after.spin_hits) == (3, 1),
            "{after:?}"
        );
        assert!(after.turns < 100, "the loop never spins");
    }
    harness.turn();
    assert_eq!(
        (harness.reactor.counters().posts, answered.try_recv()),
        (1, Ok(()))
    );
}

#[test]
fn turn_with_zero_timeout_polls_once() {
    let mut harness = Harness::on(
        NetState::default(),
        Echo::default(),
        Config {
            spin: LONGEST,
            ..Config::default()
        },
    );
    for turns in 1..500 {
        harness.turn(); // with a timeout of zero
        assert_eq!(
            harness.net.borrow().timeouts,
            vec![Some(Duration::ZERO); turns]
        );
    }
    assert_eq!(harness.reactor.counters().spins, 0);
}

#[test]
fn spin_ends_even_if_the_clock_does_not_advance() {
    let mut harness = Harness::on(
        NetState::default(),
        Echo::default(),
        Config {
            spin: Duration::from_micros(8),
            ..Config::default()
        },
    );
    for _ in 0..200 {
        let _ = harness
            .reactor
            .turn(Some(Duration::from_millis(5)))
            .unwrap();
    }
    let counters = harness.reactor.counters();
    assert_eq!(
        (counters.turns, counters.spins, counters.spin_misses),
        (200, 2, 2)
    );
    assert!(counters.polls <= 200 + 2 * 80, "{counters:?}");
}
