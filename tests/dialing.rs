//! Outgoing connections: every way in which they can fail, and exactly one outcome for each.

#[path = "util/scripted.rs"]
mod scripted;
mod util;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use glassloop::codec::Line;
use glassloop::internals::Established;
use glassloop::{
    Address, CloseReason, Config, ConnectFailure, ConnectionId, Context, Expiry, Handler,
    LoopContext, Origin, Reactor, Step, Stop, Turn, Verdict,
};
use scripted::{NetState, loopback, ms};
use util::{TIMEOUT, turn_until};

/// A dial that a callback shall begin.
type Wish = (Vec<Address>, Duration, u64);

/// Writes down what becomes of its dials.
#[derive(Default)]
struct Dialer {
    /// Every outcome as it came: `open` and where to, `never` and why, or `closed` and why.
    outcomes: Vec<(ConnectionId, u64, String)>,
    /// What is dialed when the next connection opens.
    in_open: VecDeque<Wish>,
    /// How often it dials again when a connection is over.
    again: usize,
    /// How many connections were asked for a state.
    made: usize,
}

impl Dialer {
    /// What became of the dials with this key.
    fn of_key(&self, key: u64) -> Vec<&str> {
        self.outcomes
            .iter()
            .filter(|(_, its, _)| *its == key)
            .map(|(_, _, outcome)| outcome.as_str())
            .collect()
    }
}

impl Handler for Dialer {
    type Codec = Line;
    /// Its key, if it was dialed, and whether it was open.
    type State = (Option<u64>, bool);
    type Mail = Wish;

    fn connection(&mut self, origin: &Origin) -> (Line, Self::State) {
        self.made += 1;
        let key = if let Origin::Dialed { key, .. } = origin {
            Some(*key)
        } else {
            None
        };
        (Line::default(), (key, false))
    }

    fn open(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        if let (Some(key), _) = *cx.state() {
            cx.state().1 = true;
            self.outcomes
                .push((cx.id(), key, format!("open to {}", cx.peer_addr())));
        }
        for (addrs, timeout, key) in self.in_open.drain(..) {
            cx.connect(addrs, timeout, key);
        }
        Verdict::Continue
    }

    fn frame(&mut self, _: &[u8], _: &mut Context<'_, Self>) -> Verdict {
        Verdict::Continue
    }

    fn mail(&mut self, (addrs, timeout, key): Wish, cx: &mut LoopContext<'_, Self>) {
        cx.connect(addrs, timeout, key);
    }

    fn close(&mut self, cx: &mut Context<'_, Self>, reason: &CloseReason) {
        let (Some(key), opened) = *cx.state() else {
            return;
        };
        self.outcomes.push((
            cx.id(),
            key,
            format!("{}: {reason}", if opened { "closed" } else { "never" }),
        ));
        if self.again > 0 {
            self.again -= 1;
            cx.connect(vec![loopback(1)], Duration::from_secs(1), key + 1);
        }
    }
}

const LONG: Duration = Duration::from_secs(60);

fn dialer() -> Reactor<Dialer> {
    Reactor::new(Dialer::default(), Config::default()).unwrap()
}

/// Turns until there are so many outcomes, and returns them as texts.
fn outcomes(reactor: &mut Reactor<Dialer>, count: usize) -> Vec<String> {
    turn_until(reactor, |reactor| reactor.handler().outcomes.len() >= count);
    for _ in 0..3 {
        let _ = reactor.turn(Some(Duration::ZERO)).unwrap(); // nothing more comes
    }
    assert_eq!(reactor.handler().outcomes.len(), count);
    reactor
        .handler()
        .outcomes
        .iter()
        .map(|(_, _, outcome)| outcome.clone())
        .collect()
}

/// An address at which nobody listens. The socket is kept, so that no other test is given the port.
fn dead() -> SocketAddr {
    let (socket, addr) = util::bound();
    std::mem::forget(socket);
    addr
}

/// Begins a dial in the very present: the loop counts from its last turn. Returns a time that is not later than that.
fn dial_now(reactor: &mut Reactor<Dialer>, addrs: &[SocketAddr], timeout: Duration) -> Instant {
    let now = Instant::now();
    let _ = reactor.turn(Some(Duration::ZERO)).unwrap();
    reactor.connect(addrs, timeout).unwrap();
    now
}

fn alive() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// A listener that answers nobody; Linux has that.
#[cfg(target_os = "linux")]
fn silent() -> util::FullListener {
    util::FullListener::listen().unwrap()
}

#[test]
fn dial_without_listener_is_refused() {
    let mut reactor = dialer();
    let addr = dead();
    let id = reactor.connect(addr, LONG).unwrap();
    assert_eq!(
        outcomes(&mut reactor, 1),
        [format!(
            "never: cannot connect to {addr}: connection refused: nothing listens there"
        )]
    );
    assert_eq!(
        (
            reactor.handler().outcomes[0].0,
            reactor.connections(),
            reactor.counters().dial_errors
        ),
        (id, 0, 1)
    );
}

#[test]
#[cfg(target_os = "linux")]
fn unanswered_dial_ends_at_its_deadline_and_not_before() {
    let silent = silent();
    let mut reactor = dialer();
    let timeout = Duration::from_millis(300);
    let begun = dial_now(&mut reactor, &[silent.addr], timeout);
    // How long it says that was is a matter of the test by hand below.
    assert!(outcomes(&mut reactor, 1)[0].starts_with(&format!(
        "never: cannot connect to {}: no answer within 30",
        silent.addr
    )));
    assert!(begun.elapsed() >= timeout);
    reactor.connect(silent.addr, Duration::ZERO).unwrap();
    assert!(outcomes(&mut reactor, 2)[1].contains(": no answer within "));
}

#[test]
#[cfg(target_os = "linux")]
fn addresses_are_tried_in_order_until_one_answers() {
    let (mut reactor, silent, dead, (_listener, alive)) = (dialer(), silent(), dead(), alive());
    reactor.connect(&[dead, alive][..], LONG).unwrap();
    assert_eq!(outcomes(&mut reactor, 1), [format!("open to {alive}")]);
    assert_eq!(
        (reactor.counters().dialed, reactor.counters().dial_errors),
        (2, 1)
    );
    let begun = dial_now(
        &mut reactor,
        &[silent.addr, dead, alive],
        Duration::from_secs(5),
    );
    assert_eq!(outcomes(&mut reactor, 2)[1], format!("open to {alive}"));
    assert!(
        begun.elapsed() >= Duration::from_millis(1990),
        "the first had its fair time; to the tick it is tested by hand below"
    );
    // It is the first one's failure that is told.
    reactor
        .connect(&[dead, silent.addr][..], Duration::from_millis(100))
        .unwrap();
    let failure = "connection refused: nothing listens there (other addresses tried: 1)";
    assert_eq!(
        outcomes(&mut reactor, 3)[2],
        format!("never: cannot connect to {dead}: {failure}")
    );
}

#[test]
fn dial_that_cannot_start_is_an_error_or_a_close_callback() {
    let (_listener, addr) = alive();
    let mut reactor = Reactor::new(
        Dialer::default(),
        Config {
            max_connections: Some(1),
            ..Config::default()
        },
    )
    .unwrap();
    let handle = reactor.handle();
    assert_eq!(
        reactor
            .connect_to(Vec::new(), LONG)
            .unwrap_err()
            .to_string(),
        "cannot connect: no address to connect to"
    );
    handle.post((Vec::new(), LONG, 1)).unwrap();
    assert_eq!(
        outcomes(&mut reactor, 1),
        ["never: cannot connect: no address to connect to"]
    );

    reactor.connect(addr, LONG).unwrap();
    let full = format!("cannot connect to {addr}: 1 connections are open, no more are allowed");
    assert_eq!(reactor.connect(addr, LONG).unwrap_err().to_string(), full);
    handle.post((vec![addr.into()], LONG, 2)).unwrap();
    turn_until(&mut reactor, |reactor| {
        reactor.handler().outcomes.len() == 3
    });
    assert_eq!(reactor.handler().of_key(2), [format!("never: {full}")]);

    reactor.stop(Stop::Gracefully);
    handle.post((vec![addr.into()], LONG, 3)).unwrap();
    let _ = reactor.turn(Some(Duration::ZERO)).unwrap();
    handle.post((vec![addr.into()], LONG, 4)).unwrap();
    let _ = reactor.turn(Some(Duration::ZERO)).unwrap();
    let stopping = format!("cannot connect to {addr}: the loop is stopping");
    assert_eq!(
        reactor.connect(addr, LONG).unwrap_err().to_string(),
        stopping
    );
    // The third was asked for in the turn of the stop: there was no room yet. The fourth came later.
    assert_eq!(reactor.handler().of_key(3), [format!("never: {full}")]);
    assert_eq!(reactor.handler().of_key(4), [format!("never: {stopping}")]);
}

#[test]
fn callback_dials_with_a_key_and_gets_it_in_the_origin() {
    let (mut reactor, dead, (_listener, alive)) = (dialer(), dead(), alive());
    reactor.handler().in_open.extend([
        (vec![alive.into()], LONG, 77),
        (vec![dead.into(), alive.into()], LONG, 78),
        (vec![dead.into()], LONG, 79),
    ]);
    reactor.connect(alive, LONG).unwrap();
    outcomes(&mut reactor, 4);
    let open = format!("open to {alive}");
    for key in [0, 77, 78] {
        assert_eq!(reactor.handler().of_key(key), [&open]);
    }
    assert!(reactor.handler().of_key(79)[0].starts_with("never: "));
}

#[test]
#[cfg(unix)]
fn unix_socket_is_dialed_by_its_path() {
    let path = std::env::temp_dir().join(format!("glassloop-dialing-{}", std::process::id()));
    let mut reactor = dialer();
    let addr = Address::unix(&path);
    reactor.connect_to(vec![addr.clone()], LONG).unwrap();
    assert_eq!(
        outcomes(&mut reactor, 1),
        [format!(
            "never: cannot connect to {addr}: No such file or directory (os error 2)"
        )]
    );
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    reactor.connect_to(vec![addr.clone()], LONG).unwrap();
    assert_eq!(outcomes(&mut reactor, 2)[1], format!("open to {addr}"));
    drop(listener);
    // The file is still there, and nobody behind it.
    reactor.connect_to(vec![addr.clone()], LONG).unwrap();
    turn_until(&mut reactor, |reactor| {
        reactor
            .handler()
            .outcomes
            .iter()
            .any(|(.., outcome)| outcome.contains("connection refused"))
    });
    // The other kinds of addresses may stand beside it.
    let (_listener, alive) = alive();
    let id = reactor.connect_to(vec![addr, alive.into()], LONG).unwrap();
    turn_until(&mut reactor, |reactor| {
        reactor
            .handler()
            .outcomes
            .last()
            .is_some_and(|(its, ..)| *its == id)
    });
    assert_eq!(
        reactor.handler().outcomes.last().unwrap().2,
        format!("open to {alive}")
    );
    std::fs::remove_file(path).unwrap();
}

#[test]
#[cfg(target_os = "linux")]
fn abstract_unix_socket_is_dialed_by_its_name() {
    use std::os::linux::net::SocketAddrExt;

    let name = format!("glassloop-dialing-{}", std::process::id());
    let std_addr = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let addr = Address::from(std_addr.clone());
    assert_eq!(addr.to_string(), format!("unix:@{name}"));
    let mut reactor = dialer();
    assert_eq!(
        reactor
            .listen_on_unix(std::os::unix::net::UnixListener::bind_addr(&std_addr).unwrap())
            .unwrap(),
        addr
    );
    reactor.connect_to(vec![addr.clone()], LONG).unwrap();
    turn_until(&mut reactor, |reactor| {
        reactor
            .handler()
            .outcomes
            .iter()
            .any(|(.., outcome)| *outcome == format!("open to {addr}"))
    });
}

/// Checks that every dial has exactly one first outcome, and that those who were open are closed once at most.
#[track_caller]
fn one_outcome_each(handler: &Dialer, dials: &[ConnectionId]) {
    let mut of: BTreeMap<ConnectionId, Vec<&str>> = BTreeMap::new();
    for (id, _, outcome) in &handler.outcomes {
        of.entry(*id)
            .or_default()
            .push(outcome.split([' ', ':']).next().unwrap());
    }
    for id in dials {
        let outcomes = of.get(id).map_or(&[][..], |outcomes| outcomes);
        assert!(
            matches!(outcomes, ["open" | "never"] | ["open", "closed"]),
            "{id}: {outcomes:?}"
        );
    }
    assert_eq!(of.len(), dials.len());
}

#[test]
#[cfg(target_os = "linux")]
fn each_dial_has_one_outcome_even_if_the_loop_stops() {
    for how in [None, Some(Stop::Gracefully), Some(Stop::AtOnce)] {
        let (silent, dead, (_listener, alive)) = (silent(), dead(), alive());
        let mut reactor = dialer();
        let ways = [
            vec![alive],
            vec![dead],
            vec![silent.addr],
            vec![dead, alive],
            vec![dead, silent.addr],
            vec![dead, dead, dead],
        ];
        // The listener's queue holds less than all of them; so some of the good ones are silent as well.
        let mut dials = Vec::new();
        for (n, way) in ways.iter().cycle().take(300).enumerate() {
            dials.push(
                reactor
                    .connect(&way[..], Duration::from_millis(200 + n as u64))
                    .unwrap(),
            );
            if n % 50 == 7 {
                let _ = reactor.turn(Some(Duration::ZERO)).unwrap();
            }
        }
        if let Some(how) = how {
            reactor.stop(how);
        }
        turn_until(&mut reactor, |reactor| {
            let first = reactor
                .handler()
                .outcomes
                .iter()
                .filter(|(.., outcome)| !outcome.starts_with("closed"))
                .count();
            first >= dials.len() && (how.is_none() || reactor.connections() == 0)
        });
        one_outcome_each(reactor.handler(), &dials);
        drop(silent);
    }
}

/// Runs this test again, alone in a process of its own, where nobody else opens descriptors. Whether it is that one already.
#[cfg(target_os = "linux")]
fn alone(name: &str) -> bool {
    const SIGN: &str = "GLASSLOOP_ALONE";
    if std::env::var_os(SIGN).is_some() {
        return true;
    }
    let test = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(SIGN, "1")
        .output()
        .unwrap();
    print!("{}", String::from_utf8_lossy(&test.stdout));
    assert!(
        test.status.success(),
        "{}",
        String::from_utf8_lossy(&test.stderr)
    );
    false
}

#[cfg(target_os = "linux")]
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
#[cfg(target_os = "linux")]
fn failed_and_late_dials_leave_no_descriptor() {
    if !alone("failed_and_late_dials_leave_no_descriptor") {
        return;
    }
    let mut silent = silent();
    let dead = dead();
    let mut reactor = dialer();
    let before = descriptors();
    for n in 0..200 {
        let addrs = if n % 2 == 0 {
            [dead, silent.addr]
        } else {
            [silent.addr, dead]
        };
        reactor
            .connect(&addrs[..], Duration::from_millis(150))
            .unwrap();
    }
    assert!(descriptors() > before + 50);
    turn_until(&mut reactor, |reactor| {
        reactor.handler().outcomes.len() == 200
    });
    assert_eq!((descriptors(), reactor.connections()), (before, 0));

    // Late successes: the queue gets room when their time is over already, and before the loop looks.
    let id = reactor
        .connect(silent.addr, Duration::from_millis(50))
        .unwrap();
    std::thread::sleep(ms(60));
    silent.queue.clear();
    while silent.listener.set_nonblocking(true).is_ok() && silent.listener.accept().is_ok() {}
    turn_until(&mut reactor, |reactor| {
        reactor.handler().outcomes.len() == 201
    });
    one_outcome_each(
        &Dialer {
            outcomes: reactor.handler().outcomes.split_off(200),
            ..Dialer::default()
        },
        &[id],
    );
    println!("{} connections of the late dial", reactor.connections());
    reactor.stop(Stop::AtOnce);
    assert_eq!(reactor.turn(None).unwrap(), Turn::Stopped);
    assert!(descriptors() < before);
}

#[test]
#[cfg(target_os = "linux")]
fn real_self_connection_is_not_a_success() {
    let mut reactor = dialer();
    let encounters = Arc::new(AtomicU64::new(0));
    let kept = encounters.clone();
    reactor.set_observer(move |step: &Step<'_>| {
        if let Step::DialFailed {
            failure: ConnectFailure::SelfConnect,
            ..
        } = step
        {
            kept.fetch_add(1, Ordering::Relaxed);
        }
    });
    let addr = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let (begun, mut dials) = (Instant::now(), 0);
    // The system goes through its ports in turn, so as a rule it meets this one; but nobody promises that.
    let is_answered = |reactor: &mut Reactor<Dialer>| {
        reactor
            .handler()
            .outcomes
            .iter()
            .any(|(.., outcome)| !outcome.starts_with("never: "))
    };
    while encounters.load(Ordering::Relaxed) == 0
        && dials < 40_000
        && begun.elapsed() < Duration::from_secs(4)
    {
        (0..100).for_each(|_| assert!(reactor.connect(addr, LONG).is_ok()));
        dials += 100;
        turn_until(&mut reactor, |reactor| {
            reactor.connections() == 0 || is_answered(reactor)
        });
    }
    if let Some(answer) = reactor
        .handler()
        .outcomes
        .iter()
        .find(|(.., outcome)| !outcome.starts_with("never: "))
    {
        // The port has to be free for this test: so another one may have come to listen there.
        let is_taken = std::net::TcpStream::connect(addr)
            .is_ok_and(|stream| stream.local_addr().unwrap() != addr);
        assert!(is_taken, "{answer:?}");
        println!("not tested: another program has taken the port");
        return;
    }
    match encounters.load(Ordering::Relaxed) {
        0 => println!("not met in {dials} dials: a socket that is connected with itself"),
        n => println!(
            "{n} of {dials} dials were connected with themselves after {:?}",
            begun.elapsed()
        ),
    }
}

#[test]
fn silent_dialed_connection_is_closed_after_idle_timeout() {
    for timeout in [Duration::from_millis(10), LONG, Duration::MAX] {
        let (_listener, addr) = alive();
        let idle = Arc::new(AtomicU64::new(0));
        let seen = idle.clone();
        let mut reactor = Reactor::new(
            Dialer::default(),
            Config {
                idle_timeout: Some(Duration::from_millis(300)),
                ..Config::default()
            },
        )
        .unwrap();
        reactor.set_observer(move |step: &Step<'_>| {
            if let Step::Deadline {
                expiry: Expiry::Idle,
                ..
            } = step
            {
                seen.fetch_add(1, Ordering::Relaxed);
            }
        });
        reactor.connect(addr, timeout).unwrap();
        turn_until(&mut reactor, |reactor| {
            !reactor.handler().outcomes.is_empty()
        });
        let end = Instant::now() + TIMEOUT;
        while idle.load(Ordering::Relaxed) == 0 {
            assert!(
                Instant::now() < end,
                "dialed with {timeout:?}, and idle for ever: {:?}",
                reactor.next_deadline()
            );
            let _ = reactor.turn(Some(Duration::from_millis(50))).unwrap();
        }
    }
}

// By hand: on the played net.

type Harness = scripted::Harness<Dialer>;

/// A loop that nobody can come to.
fn by_hand() -> Harness {
    by_hand_with_room_for(None)
}

fn by_hand_with_room_for(max_connections: Option<usize>) -> Harness {
    Harness::on(
        NetState::default(),
        Dialer::default(),
        Config {
            idle_timeout: None,
            max_connections,
            ..Config::default()
        },
    )
}

/// The dial under way is answered, or comes to this error of the system.
fn decide(harness: &mut Harness, how: Result<Established, i32>) {
    harness.set_connect_state(harness.socket_count() - 1, how);
    harness.turn();
}

/// What became of the dials so far.
fn told(harness: &mut Harness) -> Vec<String> {
    harness
        .reactor
        .handler()
        .outcomes
        .iter()
        .map(|(_, _, outcome)| outcome.clone())
        .collect()
}

#[test]
#[cfg(target_os = "linux")]
fn system_errors_have_their_text_at_once_and_later() {
    const EADDRNOTAVAIL: i32 = 99;
    const ENETUNREACH: i32 = 101;
    const ETIMEDOUT: i32 = 110;
    const ECONNREFUSED: i32 = 111;
    const EHOSTUNREACH: i32 = 113;
    const EMFILE: i32 = 24;
    for (error, text) in [
        (
            EADDRNOTAVAIL,
            "no local port is left for that address, or this machine has no address to reach it from",
        ),
        (ECONNREFUSED, "connection refused: nothing listens there"),
        (EHOSTUNREACH, "No route to host (os error 113)"),
        (ENETUNREACH, "Network is unreachable (os error 101)"),
        (ETIMEDOUT, "Connection timed out (os error 110)"),
        (EMFILE, "Too many open files (os error 24)"),
    ] {
        let wanted = format!("never: cannot connect to 127.0.0.1:9: {text}");
        let mut harness = by_hand();
        harness
            .net
            .borrow_mut()
            .connect_results
            .push_back(Err(io::Error::from_raw_os_error(error)));
        harness.reactor.connect_to(vec![loopback(9)], LONG).unwrap();
        assert!(
            harness.reactor.handler().outcomes.is_empty(),
            "the handler is told in a turn, and not before the caller has the name"
        );
        harness.turn();
        assert_eq!(told(&mut harness), std::slice::from_ref(&wanted));

        let mut harness = by_hand();
        harness.reactor.connect_to(vec![loopback(9)], LONG).unwrap();
        decide(&mut harness, Err(error));
        assert_eq!(told(&mut harness), [wanted]);
        assert_eq!(
            (harness.open_sockets(), harness.reactor.connections()),
            (0, 0)
        );
    }
}

#[test]
fn self_connection_is_retried_twice() {
    let itself = Ok(Established::WithItself);
    let mut harness = by_hand();
    harness.reactor.connect_to(vec![loopback(9)], LONG).unwrap();
    for how in [itself, itself, Ok(Established::Yes)] {
        decide(&mut harness, how);
    }
    assert_eq!(told(&mut harness), ["open to 127.0.0.1:9"]);

    let mut harness = by_hand();
    harness.reactor.connect_to(vec![loopback(9)], LONG).unwrap();
    for how in [itself; 3] {
        decide(&mut harness, how);
    }
    assert_eq!(
        told(&mut harness),
        ["never: cannot connect to 127.0.0.1:9: connected with itself: nothing listens there"]
    );
    assert_eq!(
        (harness.open_sockets(), harness.net.borrow().dialed.len()),
        (0, 3)
    );
}

#[test]
fn success_after_the_deadline_is_dropped_without_callback() {
    let mut harness = by_hand();
    harness
        .reactor
        .connect_to(vec![loopback(9)], ms(500))
        .unwrap();
    harness.run_for(ms(499));
    assert_eq!(
        (
            harness.reactor.handler().outcomes.len(),
            harness.open_sockets()
        ),
        (0, 1),
        "not before its time"
    );
    harness.run_for(ms(3));
    assert_eq!((told(&mut harness).len(), harness.open_sockets()), (1, 0));
    decide(&mut harness, Ok(Established::Yes));
    assert_eq!(
        (
            harness.reactor.counters().stale,
            harness.net.borrow().established_calls
        ),
        (1, 0),
        "the old socket is not even asked"
    );
    assert_eq!(
        told(&mut harness),
        ["never: cannot connect to 127.0.0.1:9: no answer within 500ms"]
    );
}

#[test]
fn dial_long_after_the_last_turn_has_its_whole_timeout() {
    let mut harness = by_hand();
    harness.run_for(ms(10));
    // The program does something else, looks up a name for instance.
    harness.skip(Duration::from_secs(1));
    harness
        .reactor
        .connect_to(vec![loopback(9)], ms(500))
        .unwrap();
    harness.turn();
    harness.run_for(ms(400));
    assert_eq!(told(&mut harness), [""; 0]);
    harness.run_for(ms(110));
    assert_eq!(told(&mut harness).len(), 1);
}

#[test]
fn address_has_its_share_of_the_timeout_to_the_last_tick() {
    let mut harness = by_hand();
    harness.run_for(Duration::from_micros(900));
    harness
        .reactor
        .connect_to(vec![loopback(8), loopback(9)], Duration::from_secs(4))
        .unwrap();
    harness.run_for(Duration::from_micros(1_999_500));
    assert_eq!(
        harness.net.borrow().dialed,
        [loopback(8)],
        "two seconds are not over yet"
    );
}

#[test]
fn event_of_the_previous_address_is_not_an_answer() {
    let mut harness = by_hand();
    harness
        .reactor
        .connect_to(vec![loopback(8), loopback(9)], Duration::from_secs(4))
        .unwrap();
    harness.run_for(ms(2010));
    assert_eq!(harness.net.borrow().dialed, [loopback(8), loopback(9)]);
    decide(&mut harness, Ok(Established::NotYet)); // of which socket nobody can say: what counts is what the present one answers
    assert!(harness.reactor.handler().outcomes.is_empty());
    decide(&mut harness, Ok(Established::Yes));
    assert_eq!(told(&mut harness), ["open to 127.0.0.1:9"]);
}

#[test]
fn zero_timeout_ends_next_tick_and_maximum_never_ends() {
    let mut harness = by_hand();
    harness
        .reactor
        .connect_to(vec![loopback(9), loopback(10)], Duration::ZERO)
        .unwrap();
    harness.run_for(ms(5));
    assert_eq!((told(&mut harness).len(), harness.open_sockets()), (1, 0));

    let mut harness = by_hand();
    harness
        .reactor
        .connect_to(vec![loopback(9), loopback(10)], Duration::MAX)
        .unwrap();
    let turns = harness.run_for(Duration::from_secs(365 * 24 * 60 * 60));
    assert_eq!((told(&mut harness).len(), harness.open_sockets()), (0, 1));
    assert!(turns < 100, "{turns} turns of waiting");
    decide(&mut harness, Ok(Established::Yes));
    assert_eq!(told(&mut harness), ["open to 127.0.0.1:9"]);
}

#[test]
fn message_to_an_unestablished_dial_is_counted_and_dropped() {
    const ECONNREFUSED: i32 = if cfg!(target_os = "linux") { 111 } else { 61 };
    for (how, wanted) in [
        (Ok(Established::Yes), "open to "),
        (Err(ECONNREFUSED), "never: cannot connect to "),
    ] {
        let mut harness = by_hand();
        let id = harness.reactor.connect_to(vec![loopback(9)], LONG).unwrap();
        let handle = harness.reactor.handle();
        for _ in 0..3 {
            handle.send(id, &b"too early\n"[..]).unwrap();
        }
        harness.turn();
        assert_eq!(
            (
                harness.reactor.counters().posts,
                harness.reactor.counters().stale
            ),
            (3, 3)
        );
        decide(&mut harness, how);
        harness.turn();
        assert_eq!(harness.received(0), b"");
        let told = told(&mut harness);
        assert!(told.len() == 1 && told[0].starts_with(wanted), "{told:?}");
    }
}

#[test]
fn stop_ends_pending_dials() {
    for how in [Stop::Gracefully, Stop::Within(Duration::ZERO), Stop::AtOnce] {
        let mut harness = by_hand();
        harness
            .reactor
            .connect_to(vec![loopback(8), loopback(9)], Duration::MAX)
            .unwrap();
        harness.reactor.stop(how);
        assert_eq!(
            harness.reactor.turn(Some(Duration::ZERO)).unwrap(),
            Turn::Stopped
        );
        assert_eq!(
            (told(&mut harness), harness.open_sockets()),
            (vec!["never: shut down".to_string()], 0)
        );
    }
}

#[test]
fn redial_on_every_failure_does_not_block_the_turn() {
    // As long as the loop is stopping, or full, or there is no address, each such dial fails at once.
    const MANY: usize = 10_000;
    let mut harness = by_hand();
    harness.reactor.handler().again = MANY;
    let one = harness.reactor.connect_to(vec![loopback(8)], LONG).unwrap();
    for _ in 0..2 {
        decide(&mut harness, Ok(Established::Yes));
        harness.reactor.connect_to(vec![loopback(9)], LONG).unwrap();
    }
    harness.reactor.with(one, |_, _| Verdict::Abort);
    harness.reactor.stop(Stop::Gracefully);
    harness.run_for(Duration::from_secs(1)); // the one is over, and is dialed again; the other one lingers
    let turns = harness.reactor.counters().turns as usize;
    let failed = harness.reactor.handler().outcomes.len();
    assert!(
        failed <= 100 * turns,
        "{failed} dials failed in {turns} turns"
    );
}

#[test]
fn redial_in_a_full_loop_does_not_block_the_turn() {
    const MANY: usize = 10_000;
    let mut harness = by_hand_with_room_for(Some(1));
    harness.reactor.connect_to(vec![loopback(9)], LONG).unwrap();
    harness.reactor.handler().again = MANY;
    harness
        .reactor
        .handler()
        .in_open
        .push_back((vec![loopback(9)], LONG, 1));
    decide(&mut harness, Ok(Established::Yes));
    let failed = harness.reactor.handler().outcomes.len();
    assert!(failed <= 100, "{failed} dials failed in one turn");
}

#[test]
fn dial_from_the_last_callback_has_an_outcome() {
    for how in [Stop::Gracefully, Stop::AtOnce] {
        let mut harness = by_hand();
        harness.reactor.handler().again = 1;
        harness.reactor.connect_to(vec![loopback(9)], LONG).unwrap();
        harness.reactor.stop(how);
        assert_eq!(
            harness.reactor.turn(Some(Duration::ZERO)).unwrap(),
            Turn::Stopped
        );
        let _ = harness.reactor.turn(Some(Duration::ZERO)).unwrap();
        assert_eq!(
            harness.reactor.handler().of_key(1),
            ["never: cannot connect to 127.0.0.1:1: the loop is stopping"],
            "{how:?}"
        );
    }
}

#[test]
fn reset_after_the_connect_closes_an_open_connection() {
    let (mut reactor, (listener, addr)) = (dialer(), alive());
    reactor.connect(addr, LONG).unwrap();
    assert_eq!(outcomes(&mut reactor, 1).len(), 1);
    let (stream, _) = listener.accept().unwrap();
    socket2::SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(stream);
    assert_eq!(outcomes(&mut reactor, 2)[1], "closed: reset by the peer");
}
