//! Outgoing connections: every failure, and exactly one outcome for each dial.

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

/// A dial for a callback to start: addresses, timeout, key.
type DialRequest = (Vec<Address>, Duration, u64);

/// Records the outcomes of its dials.
#[derive(Default)]
struct Dialer {
    /// The outcomes in order: `open to ADDRESS`, `never: REASON`, or `closed: REASON`.
    outcomes: Vec<(ConnectionId, u64, String)>,
    /// The dials to start when the next connection opens.
    in_open: VecDeque<DialRequest>,
    /// How many times to dial again when a connection closes.
    redials: usize,
    /// How many times `connection` was called.
    made: usize,
}

impl Dialer {
    /// Returns the outcomes of the dials with this key.
    fn of_key(&self, key: u64) -> Vec<&str> {
        self.outcomes
            .iter()
            .filter(|(_, known, _)| *known == key)
            .map(|(_, _, outcome)| outcome.as_str())
            .collect()
    }
}

impl Handler for Dialer {
    type Codec = Line;
    /// The key, if the connection was dialed, and whether it was open.
    type State = (Option<u64>, bool);
    type Mail = DialRequest;

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

    fn mail(&mut self, (addrs, timeout, key): DialRequest, cx: &mut LoopContext<'_, Self>) {
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
        if self.redials > 0 {
            self.redials -= 1;
            cx.connect(vec![loopback(1)], Duration::from_secs(1), key + 1);
        }
    }
}

const LONG: Duration = Duration::from_secs(60);

fn dialer() -> Reactor<Dialer> {
    Reactor::new(Dialer::default(), Config::default()).unwrap()
}

/// Turns until there are `count` outcomes, and returns their texts.
fn outcomes(reactor: &mut Reactor<Dialer>, count: usize) -> Vec<String> {
    turn_until(reactor, |reactor| reactor.handler().outcomes.len() >= count);
    for _ in 0..3 {
        let _ = reactor.turn(Some(Duration::ZERO)).unwrap(); // no further outcome may come
    }
    assert_eq!(reactor.handler().outcomes.len(), count);
    reactor
        .handler()
        .outcomes
        .iter()
        .map(|(_, _, outcome)| outcome.clone())
        .collect()
}

/// Returns an address without a listener. The socket stays bound, so that no other test gets the
/// port.
fn unused_addr() -> SocketAddr {
    let (socket, addr) = util::bound();
    std::mem::forget(socket);
    addr
}

/// Starts a dial right after a turn. Returns an instant that is not later than that turn, from
/// which the loop counts.
fn dial_now(reactor: &mut Reactor<Dialer>, addrs: &[SocketAddr], timeout: Duration) -> Instant {
    let now = Instant::now();
    let _ = reactor.turn(Some(Duration::ZERO)).unwrap();
    reactor.connect(addrs, timeout).unwrap();
    now
}

fn listening() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// Returns a listener that does not answer. Linux only.
#[cfg(target_os = "linux")]
fn full_listener() -> util::FullListener {
    util::FullListener::listen().unwrap()
}

#[test]
fn dial_without_listener_is_refused() {
    let mut reactor = dialer();
    let addr = unused_addr();
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
    let full = full_listener();
    let mut reactor = dialer();
    let timeout = Duration::from_millis(300);
    let begun = dial_now(&mut reactor, &[full.addr], timeout);
    // A test on the scripted network below checks the exact time in the text.
    assert!(outcomes(&mut reactor, 1)[0].starts_with(&format!(
        "never: cannot connect to {}: no answer within 30",
        full.addr
    )));
    assert!(begun.elapsed() >= timeout);
    reactor.connect(full.addr, Duration::ZERO).unwrap();
    assert!(outcomes(&mut reactor, 2)[1].contains(": no answer within "));
}

#[test]
#[cfg(target_os = "linux")]
fn addresses_are_tried_in_order_until_one_answers() {
    let (mut reactor, full, unused, (_listener, listening_addr)) =
        (dialer(), full_listener(), unused_addr(), listening());
    reactor
        .connect(&[unused, listening_addr][..], LONG)
        .unwrap();
    assert_eq!(
        outcomes(&mut reactor, 1),
        [format!("open to {listening_addr}")]
    );
    assert_eq!(
        (reactor.counters().dialed, reactor.counters().dial_errors),
        (2, 1)
    );
    let begun = dial_now(
        &mut reactor,
        &[full.addr, unused, listening_addr],
        Duration::from_secs(5),
    );
    assert_eq!(
        outcomes(&mut reactor, 2)[1],
        format!("open to {listening_addr}")
    );
    assert!(
        begun.elapsed() >= Duration::from_millis(1990),
        "the first address had its share of the time; the exact tick is tested below"
    );
    // The outcome names the failure of the first address.
    reactor
        .connect(&[unused, full.addr][..], Duration::from_millis(100))
        .unwrap();
    let failure = "connection refused: nothing listens there (other addresses tried: 1)";
    assert_eq!(
        outcomes(&mut reactor, 3)[2],
        format!("never: cannot connect to {unused}: {failure}")
    );
}

#[test]
fn dial_that_cannot_start_is_an_error_or_a_close_callback() {
    let (_listener, addr) = listening();
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
    // The third dial was posted in the turn of the stop, when the loop was still full. The fourth
    // came later.
    assert_eq!(reactor.handler().of_key(3), [format!("never: {full}")]);
    assert_eq!(reactor.handler().of_key(4), [format!("never: {stopping}")]);
}

#[test]
fn callback_dials_with_a_key_and_gets_it_in_the_origin() {
    let (mut reactor, unused, (_listener, listening_addr)) = (dialer(), unused_addr(), listening());
    reactor.handler().in_open.extend([
        (vec![listening_addr.into()], LONG, 77),
        (vec![unused.into(), listening_addr.into()], LONG, 78),
        (vec![unused.into()], LONG, 79),
    ]);
    reactor.connect(listening_addr, LONG).unwrap();
    outcomes(&mut reactor, 4);
    let open = format!("open to {listening_addr}");
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
    // The file still exists, without a listener.
    reactor.connect_to(vec![addr.clone()], LONG).unwrap();
    turn_until(&mut reactor, |reactor| {
        reactor
            .handler()
            .outcomes
            .iter()
            .any(|(.., outcome)| outcome.contains("connection refused"))
    });
    // The list may contain other kinds of addresses too.
    let (_listener, listening_addr) = listening();
    let id = reactor
        .connect_to(vec![addr, listening_addr.into()], LONG)
        .unwrap();
    turn_until(&mut reactor, |reactor| {
        reactor
            .handler()
            .outcomes
            .last()
            .is_some_and(|(known, ..)| *known == id)
    });
    assert_eq!(
        reactor.handler().outcomes.last().unwrap().2,
        format!("open to {listening_addr}")
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

/// Checks that every dial has exactly one first outcome, and that a connection that opened is
/// closed at most once.
#[track_caller]
fn assert_one_outcome_each(handler: &Dialer, dials: &[ConnectionId]) {
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
        let (full, unused, (_listener, listening_addr)) =
            (full_listener(), unused_addr(), listening());
        let mut reactor = dialer();
        let targets = [
            vec![listening_addr],
            vec![unused],
            vec![full.addr],
            vec![unused, listening_addr],
            vec![unused, full.addr],
            vec![unused, unused, unused],
        ];
        // The backlog of the listener is shorter than the number of dials, so some dials to it get
        // no answer either.
        let mut dials = Vec::new();
        for (n, target) in targets.iter().cycle().take(300).enumerate() {
            dials.push(
                reactor
                    .connect(&target[..], Duration::from_millis(200 + n as u64))
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
        assert_one_outcome_each(reactor.handler(), &dials);
        drop(full);
    }
}

/// Runs this test again in its own process, where no other test opens descriptors. Returns true if
/// this is that process.
#[cfg(target_os = "linux")]
fn is_separate_process(name: &str) -> bool {
    const MARKER: &str = "GLASSLOOP_SEPARATE_PROCESS";
    if std::env::var_os(MARKER).is_some() {
        return true;
    }
    let test = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(MARKER, "1")
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
    if !is_separate_process("failed_and_late_dials_leave_no_descriptor") {
        return;
    }
    let mut full = full_listener();
    let unused = unused_addr();
    let mut reactor = dialer();
    let before = descriptors();
    for n in 0..200 {
        let addrs = if n % 2 == 0 {
            [unused, full.addr]
        } else {
            [full.addr, unused]
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

    // Late successes: the backlog gets room after the deadline, and before the next turn.
    let id = reactor
        .connect(full.addr, Duration::from_millis(50))
        .unwrap();
    std::thread::sleep(ms(60));
    full.queue.clear();
    while full.listener.set_nonblocking(true).is_ok() && full.listener.accept().is_ok() {}
    turn_until(&mut reactor, |reactor| {
        reactor.handler().outcomes.len() == 201
    });
    assert_one_outcome_each(
        &Dialer {
            outcomes: reactor.handler().outcomes.split_off(200),
            ..Dialer::default()
        },
        &[id],
    );
    println!("connections of the late dial: {}", reactor.connections());
    reactor.stop(Stop::AtOnce);
    assert_eq!(reactor.turn(None).unwrap(), Turn::Stopped);
    assert!(descriptors() < before);
}

#[test]
#[cfg(target_os = "linux")]
fn real_self_connection_is_not_a_success() {
    let mut reactor = dialer();
    let self_connects = Arc::new(AtomicU64::new(0));
    let kept = self_connects.clone();
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
    // The system assigns its ports in turn, so it usually reaches this one. This is not guaranteed.
    let has_opened = |reactor: &mut Reactor<Dialer>| {
        reactor
            .handler()
            .outcomes
            .iter()
            .any(|(.., outcome)| !outcome.starts_with("never: "))
    };
    while self_connects.load(Ordering::Relaxed) == 0
        && dials < 40_000
        && begun.elapsed() < Duration::from_secs(4)
    {
        (0..100).for_each(|_| assert!(reactor.connect(addr, LONG).is_ok()));
        dials += 100;
        turn_until(&mut reactor, |reactor| {
            reactor.connections() == 0 || has_opened(reactor)
        });
    }
    if let Some(answer) = reactor
        .handler()
        .outcomes
        .iter()
        .find(|(.., outcome)| !outcome.starts_with("never: "))
    {
        // The port has to be free for this test, so another program may have bound it.
        let is_taken = std::net::TcpStream::connect(addr)
            .is_ok_and(|stream| stream.local_addr().unwrap() != addr);
        assert!(is_taken, "{answer:?}");
        println!("not tested: another program has taken the port");
        return;
    }
    match self_connects.load(Ordering::Relaxed) {
        0 => println!("no self-connection in {dials} dials"),
        n => println!(
            "{n} self-connections in {dials} dials after {:?}",
            begun.elapsed()
        ),
    }
}

#[test]
fn silent_dialed_connection_is_closed_after_idle_timeout() {
    for timeout in [Duration::from_millis(10), LONG, Duration::MAX] {
        let (_listener, addr) = listening();
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
                "dialed with {timeout:?}, and never closed as idle: {:?}",
                reactor.next_deadline()
            );
            let _ = reactor.turn(Some(Duration::from_millis(50))).unwrap();
        }
    }
}

// On the scripted network.

type Harness = scripted::Harness<Dialer>;

/// Returns a loop without listeners.
fn scripted_dialer() -> Harness {
    scripted_dialer_with_limit(None)
}

fn scripted_dialer_with_limit(max_connections: Option<usize>) -> Harness {
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

/// Sets the state of the pending dial, or the system error that ends it, and runs a turn.
fn finish_dial(harness: &mut Harness, state: Result<Established, i32>) {
    harness.set_connect_state(harness.socket_count() - 1, state);
    harness.turn();
}

/// Returns the outcomes so far.
fn scripted_outcomes(harness: &mut Harness) -> Vec<String> {
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
            "no local port is left for that address, \
             or this machine has no address to reach it from",
        ),
        (ECONNREFUSED, "connection refused: nothing listens there"),
        (EHOSTUNREACH, "No route to host (os error 113)"),
        (ENETUNREACH, "Network is unreachable (os error 101)"),
        (ETIMEDOUT, "Connection timed out (os error 110)"),
        (EMFILE, "Too many open files (os error 24)"),
    ] {
        let expected = format!("never: cannot connect to 127.0.0.1:9: {text}");
        let mut harness = scripted_dialer();
        harness
            .net
            .borrow_mut()
            .connect_results
            .push_back(Err(io::Error::from_raw_os_error(error)));
        harness.reactor.connect_to(vec![loopback(9)], LONG).unwrap();
        assert!(
            harness.reactor.handler().outcomes.is_empty(),
            "the handler is called in a turn, after the caller has the id"
        );
        harness.turn();
        assert_eq!(
            scripted_outcomes(&mut harness),
            std::slice::from_ref(&expected)
        );

        let mut harness = scripted_dialer();
        harness.reactor.connect_to(vec![loopback(9)], LONG).unwrap();
        finish_dial(&mut harness, Err(error));
        assert_eq!(scripted_outcomes(&mut harness), [expected]);
        assert_eq!(
            (harness.open_sockets(), harness.reactor.connections()),
            (0, 0)
        );
    }
}

#[test]
fn self_connection_is_retried_twice() {
    let self_connect = Ok(Established::WithItself);
    let mut harness = scripted_dialer();
    harness.reactor.connect_to(vec![loopback(9)], LONG).unwrap();
    for how in [self_connect, self_connect, Ok(Established::Yes)] {
        finish_dial(&mut harness, how);
    }
    assert_eq!(scripted_outcomes(&mut harness), ["open to 127.0.0.1:9"]);

    let mut harness = scripted_dialer();
    harness.reactor.connect_to(vec![loopback(9)], LONG).unwrap();
    for how in [self_connect; 3] {
        finish_dial(&mut harness, how);
    }
    assert_eq!(
        scripted_outcomes(&mut harness),
        ["never: cannot connect to 127.0.0.1:9: connected with itself: nothing listens there"]
    );
    assert_eq!(
        (harness.open_sockets(), harness.net.borrow().dialed.len()),
        (0, 3)
    );
}

#[test]
fn success_after_the_deadline_is_dropped_without_callback() {
    let mut harness = scripted_dialer();
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
        "not before the deadline"
    );
    harness.run_for(ms(3));
    assert_eq!(
        (
            scripted_outcomes(&mut harness).len(),
            harness.open_sockets()
        ),
        (1, 0)
    );
    finish_dial(&mut harness, Ok(Established::Yes));
    assert_eq!(
        (
            harness.reactor.counters().stale,
            harness.net.borrow().established_calls
        ),
        (1, 0),
        "the old socket must not be queried"
    );
    assert_eq!(
        scripted_outcomes(&mut harness),
        ["never: cannot connect to 127.0.0.1:9: no answer within 500ms"]
    );
}

#[test]
fn dial_long_after_the_last_turn_has_its_whole_timeout() {
    let mut harness = scripted_dialer();
    harness.run_for(ms(10));
    // The program does something else, for example a name lookup.
    harness.skip(Duration::from_secs(1));
    harness
        .reactor
        .connect_to(vec![loopback(9)], ms(500))
        .unwrap();
    harness.turn();
    harness.run_for(ms(400));
    assert_eq!(scripted_outcomes(&mut harness), [""; 0]);
    harness.run_for(ms(110));
    assert_eq!(scripted_outcomes(&mut harness).len(), 1);
}

#[test]
fn address_has_its_share_of_the_timeout_to_the_last_tick() {
    let mut harness = scripted_dialer();
    harness.run_for(Duration::from_micros(900));
    harness
        .reactor
        .connect_to(vec![loopback(8), loopback(9)], Duration::from_secs(4))
        .unwrap();
    harness.run_for(Duration::from_micros(1_999_500));
    assert_eq!(
        harness.net.borrow().dialed,
        [loopback(8)],
        "two seconds have not passed yet"
    );
}

#[test]
fn event_of_the_previous_address_is_not_an_answer() {
    let mut harness = scripted_dialer();
    harness
        .reactor
        .connect_to(vec![loopback(8), loopback(9)], Duration::from_secs(4))
        .unwrap();
    harness.run_for(ms(2010));
    assert_eq!(harness.net.borrow().dialed, [loopback(8), loopback(9)]);
    // The event does not say which socket it belongs to. The state of the current socket counts.
    finish_dial(&mut harness, Ok(Established::NotYet));
    assert!(harness.reactor.handler().outcomes.is_empty());
    finish_dial(&mut harness, Ok(Established::Yes));
    assert_eq!(scripted_outcomes(&mut harness), ["open to 127.0.0.1:9"]);
}

#[test]
fn zero_timeout_ends_next_tick_and_maximum_never_ends() {
    let mut harness = scripted_dialer();
    harness
        .reactor
        .connect_to(vec![loopback(9), loopback(10)], Duration::ZERO)
        .unwrap();
    harness.run_for(ms(5));
    assert_eq!(
        (
            scripted_outcomes(&mut harness).len(),
            harness.open_sockets()
        ),
        (1, 0)
    );

    let mut harness = scripted_dialer();
    harness
        .reactor
        .connect_to(vec![loopback(9), loopback(10)], Duration::MAX)
        .unwrap();
    let turns = harness.run_for(Duration::from_secs(365 * 24 * 60 * 60));
    assert_eq!(
        (
            scripted_outcomes(&mut harness).len(),
            harness.open_sockets()
        ),
        (0, 1)
    );
    assert!(turns < 100, "{turns} turns of waiting");
    finish_dial(&mut harness, Ok(Established::Yes));
    assert_eq!(scripted_outcomes(&mut harness), ["open to 127.0.0.1:9"]);
}

#[test]
fn message_to_an_unestablished_dial_is_counted_and_dropped() {
    const ECONNREFUSED: i32 = if cfg!(target_os = "linux") { 111 } else { 61 };
    for (how, expected) in [
        (Ok(Established::Yes), "open to "),
        (Err(ECONNREFUSED), "never: cannot connect to "),
    ] {
        let mut harness = scripted_dialer();
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
        finish_dial(&mut harness, how);
        harness.turn();
        assert_eq!(harness.received(0), b"");
        let outcomes = scripted_outcomes(&mut harness);
        assert!(
            outcomes.len() == 1 && outcomes[0].starts_with(expected),
            "{outcomes:?}"
        );
    }
}

#[test]
fn stop_ends_pending_dials() {
    for how in [Stop::Gracefully, Stop::Within(Duration::ZERO), Stop::AtOnce] {
        let mut harness = scripted_dialer();
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
            (scripted_outcomes(&mut harness), harness.open_sockets()),
            (vec!["never: shut down".to_string()], 0)
        );
    }
}

#[test]
fn redial_on_every_failure_does_not_block_the_turn() {
    // While the loop is stopping or full, or without an address, each such dial fails at once.
    const MANY: usize = 10_000;
    let mut harness = scripted_dialer();
    harness.reactor.handler().redials = MANY;
    let first = harness.reactor.connect_to(vec![loopback(8)], LONG).unwrap();
    for _ in 0..2 {
        finish_dial(&mut harness, Ok(Established::Yes));
        harness.reactor.connect_to(vec![loopback(9)], LONG).unwrap();
    }
    harness.reactor.with(first, |_, _| Verdict::Abort);
    harness.reactor.stop(Stop::Gracefully);
    // The first connection is closed and dialed again. The other one lingers.
    harness.run_for(Duration::from_secs(1));
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
    let mut harness = scripted_dialer_with_limit(Some(1));
    harness.reactor.connect_to(vec![loopback(9)], LONG).unwrap();
    harness.reactor.handler().redials = MANY;
    harness
        .reactor
        .handler()
        .in_open
        .push_back((vec![loopback(9)], LONG, 1));
    finish_dial(&mut harness, Ok(Established::Yes));
    let failed = harness.reactor.handler().outcomes.len();
    assert!(failed <= 100, "{failed} dials failed in one turn");
}

#[test]
fn dial_from_the_last_callback_has_an_outcome() {
    for how in [Stop::Gracefully, Stop::AtOnce] {
        let mut harness = scripted_dialer();
        harness.reactor.handler().redials = 1;
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
    let (mut reactor, (listener, addr)) = (dialer(), listening());
    reactor.connect(addr, LONG).unwrap();
    assert_eq!(outcomes(&mut reactor, 1).len(), 1);
    let (stream, _) = listener.accept().unwrap();
    socket2::SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(stream);
    assert_eq!(outcomes(&mut reactor, 2)[1], "closed: reset by the peer");
}
