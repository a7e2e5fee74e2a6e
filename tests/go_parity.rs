//! Go's tests of its net package, and the tests here that show the same. The tests of this file
//! have Go's names, for comparison.
//!
//! Go's calls look blocking. The equivalents here:
//!
//! - a read that returns: [`Handler::frame`](glassloop::Handler::frame)
//! - a timeout: [`Handler::deadline`](glassloop::Handler::deadline)
//! - a write: [`Context::send`]
//! - `CloseWrite`: the loop does it by itself when all bytes are sent
//! - an operation of another goroutine on a connection: a post

#[path = "util/recorder.rs"]
mod recorder;
#[path = "util/scripted.rs"]
mod scripted;
mod util;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use glassloop::internals::Established;
use glassloop::{
    Config, ConnectFailure, ConnectionId, Context, Direction, LoopContext, PostError, Reactor,
    SendError, Stop, Turn, Verdict,
};
use socket2::{Domain, Socket, Type};

use recorder::{Call, Harness, Recorder, Task, closed, frame};
use scripted::{loopback, ms};
use util::{Client, FullListener, Server, TIMEOUT, addr_of, turn_until, unique_host, wait_until};

/// Where one of Go's tests is covered here.
enum Parity {
    /// The file and the function of the test that covers it.
    Here(&'static str, &'static str),
    /// The reason why no test covers it.
    Not(&'static str),
}
use Parity::{Here, Not};

const SELF: &str = "tests/go_parity.rs";
const NO_UDP: &str = "the crate has no datagrams";
const NO_RAW: &str = "only the loop reads and writes a socket: its descriptor is not public";
const ACCEPT_ERRORS: &str = "accept_without_descriptors_backs_off_and_retries_by_timer";

/// Go's tests: those of its net package in the order of its files, then those of net/http, then
/// those of x/net's nettest.
const TABLE: &[(&str, Parity)] = &[
    ("TestDialTimeout", Here(SELF, "test_dial_timeout")),
    (
        "TestDialTimeoutMaxDuration",
        Here(SELF, "test_dial_timeout_max_duration"),
    ),
    (
        "TestAcceptTimeout",
        Not("an accept never blocks, so it has no deadline: a loop timer limits the wait"),
    ),
    (
        "TestAcceptTimeoutMustReturn",
        Here(SELF, "test_accept_timeout_must_return"),
    ),
    (
        "TestAcceptTimeoutMustNotReturn",
        Here(SELF, "test_accept_timeout_must_not_return"),
    ),
    ("TestReadTimeout", Here(SELF, "test_read_timeout")),
    (
        "TestReadTimeoutMustNotReturn",
        Here(SELF, "test_read_timeout_must_not_return"),
    ),
    ("TestReadFromTimeout", Not(NO_UDP)),
    ("TestWriteTimeout", Here(SELF, "test_write_timeout")),
    (
        "TestWriteTimeoutMustNotReturn",
        Here(SELF, "test_write_timeout_must_not_return"),
    ),
    ("TestWriteToTimeout", Not(NO_UDP)),
    (
        "TestReadTimeoutFluctuation",
        Here(SELF, "test_read_timeout_fluctuation"),
    ),
    ("TestReadFromTimeoutFluctuation", Not(NO_UDP)),
    (
        "TestWriteTimeoutFluctuation",
        Here(SELF, "test_write_timeout_fluctuation"),
    ),
    ("TestVariousDeadlines", Here(SELF, "test_various_deadlines")),
    (
        "TestReadWriteProlongedTimeout",
        Here(SELF, "test_read_write_prolonged_timeout"),
    ),
    (
        "TestReadWriteDeadlineRace",
        Here(SELF, "test_read_write_deadline_race"),
    ),
    (
        "TestConcurrentSetDeadline",
        Here(SELF, "test_concurrent_set_deadline"),
    ),
    (
        "TestCloseRead",
        Not(
            "the reading side cannot be shut alone: Verdict::Pause stops reads, \
             and a closing connection discards what it reads",
        ),
    ),
    ("TestCloseWrite", Here(SELF, "test_close_write")),
    ("TestConnClose", Here(SELF, "test_conn_close")),
    (
        "TestListenerClose",
        Here("tests/closing.rs", "immediate_stop_drops_everything"),
    ),
    (
        "TestListenCloseListen",
        Here(SELF, "test_listen_close_listen"),
    ),
    (
        "TestAcceptIgnoreAbortedConnRequest",
        Here(
            "tests/seam.rs",
            "connection_aborted_before_accept_does_not_block_the_next",
        ),
    ),
    ("TestZeroByteRead", Here(SELF, "test_zero_byte_read")),
    (
        "TestReadTimeoutUnblocksRead",
        Here(SELF, "test_read_timeout_unblocks_read"),
    ),
    (
        "TestCloseUnblocksRead",
        Here(SELF, "test_close_unblocks_read"),
    ),
    (
        "TestNotTemporaryRead",
        Here(
            "tests/closing.rs",
            "reset_closes_one_connection_and_is_reported_as_reset",
        ),
    ),
    ("TestErrors", Here(SELF, "test_errors")),
    ("TestConnAndListener", Here(SELF, "test_conn_and_listener")),
    ("TestRawConnReadWrite", Not(NO_RAW)),
    ("TestRawConnReadWrite/Deadline", Not(NO_RAW)),
    ("TestRawConnControl", Not(NO_RAW)),
    (
        "TestDialListenerAddr",
        Here(SELF, "test_dial_listener_addr"),
    ),
    ("TestDialCancel", Here(SELF, "test_dial_cancel")),
    ("TestCancelAfterDial", Here(SELF, "test_cancel_after_dial")),
    (
        "TestDialerPartialDeadline",
        Here(
            "src/reactor/dial.rs",
            "addresses_share_the_timeout_with_a_minimum_of_two_seconds",
        ),
    ),
    (
        "TestDialParallel",
        Not("addresses are tried one after the other, never two at a time"),
    ),
    (
        "TestDialerFallbackDelay",
        Not("addresses are tried one after the other, never two at a time"),
    ),
    (
        "TestDialParallelSpuriousConnection",
        Here(SELF, "test_dial_parallel_spurious_connection"),
    ),
    (
        "TestDialerDualStackFDLeak",
        Here(SELF, "test_dialer_dual_stack_fd_leak"),
    ),
    (
        "TestTCPSpuriousConnSetupCompletion",
        Here(SELF, "test_tcp_spurious_conn_setup_completion"),
    ),
    (
        "TestTCPSpuriousConnSetupCompletionWithCancel",
        Here(SELF, "test_tcp_spurious_conn_setup_completion_with_cancel"),
    ),
    ("TestTCPSelfConnect", Here(SELF, "test_tcp_self_connect")),
    (
        "TestTCPConcurrentAccept",
        Here(SELF, "test_tcp_concurrent_accept"),
    ),
    (
        "TestTCPReadWriteAllocs",
        Here(
            "tests/cost.rs",
            "single_request_costs_one_poll_one_read_and_one_write",
        ),
    ),
    ("TestTCPStress", Here(SELF, "test_tcp_stress")),
    (
        "TestTCPBig",
        Not(
            "a transfer of 5 GB is opt-in in Go too: bytes are counted in 64 bits, and no buffer \
             depends on a connection's total",
        ),
    ),
    ("TestCloseError", Here(SELF, "test_close_error")),
    ("TestAcceptError", Here("tests/seam.rs", ACCEPT_ERRORS)),
    ("TestClosingListener", Here(SELF, "test_closing_listener")),
    ("TestFileCloseRace", Here(SELF, "test_file_close_race")),
    (
        "TestWritevError",
        Here(
            "tests/handler.rs",
            "frames_received_before_a_reset_are_handled",
        ),
    ),
    (
        "TestBuffers",
        Here(
            "tests/seam.rs",
            "partial_and_interrupted_writes_lose_no_byte",
        ),
    ),
    (
        "TestSendfileOnWriteTimeoutExceeded",
        Here(SELF, "test_sendfile_on_write_timeout_exceeded"),
    ),
    (
        "TestMutexClose",
        Not("no lock protects a descriptor: one thread owns all of them"),
    ),
    (
        "TestMutexCloseUnblock",
        Not("no lock protects a descriptor: one thread owns all of them"),
    ),
    (
        "TestMutexOverflowPanic",
        Not("no lock protects a descriptor: one thread owns all of them"),
    ),
    ("TestAcceptMaxFds", Here("tests/seam.rs", ACCEPT_ERRORS)),
    (
        "TestServerGracefulClose",
        Here(
            "tests/closing.rs",
            "graceful_stop_answers_read_requests_without_a_reset",
        ),
    ),
    (
        "TestServerShutdown",
        Here(
            "tests/closing.rs",
            "graceful_stop_answers_requests_that_wait_in_the_inbox",
        ),
    ),
    (
        "TestServerShutdownStateNew",
        Here(SELF, "test_server_shutdown_state_new"),
    ),
    (
        "TestServerCloseListenerOnce",
        Here(SELF, "test_server_close_listener_once"),
    ),
    (
        "TestServerShutdownThenServe",
        Here(
            "tests/seam.rs",
            "stopping_loop_refuses_connects_and_listeners",
        ),
    ),
    (
        "nettest/BasicIO",
        Here(
            "tests/wire.rs",
            "payloads_up_to_the_largest_frame_are_accepted",
        ),
    ),
    ("nettest/PingPong", Here(SELF, "test_dial_listener_addr")),
    (
        "nettest/RacyRead",
        Here(SELF, "test_read_write_deadline_race"),
    ),
    ("nettest/RacyWrite", Here(SELF, "racy_write")),
    ("nettest/ReadTimeout", Here(SELF, "read_timeout")),
    ("nettest/WriteTimeout", Here(SELF, "write_timeout")),
    ("nettest/PastTimeout", Here(SELF, "past_timeout")),
    ("nettest/PresentTimeout", Here(SELF, "present_timeout")),
    ("nettest/FutureTimeout", Here(SELF, "future_timeout")),
    ("nettest/CloseTimeout", Here(SELF, "close_timeout")),
    (
        "nettest/ConcurrentMethods",
        Here(SELF, "test_file_close_race"),
    ),
];

#[test]
fn every_test_in_the_table_exists() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut names = BTreeSet::new();
    for (name, parity) in TABLE {
        assert!(names.insert(name), "{name} is in the table twice");
        match parity {
            Here(file, function) => {
                let text = std::fs::read_to_string(root.join(file))
                    .unwrap_or_else(|error| panic!("{name}: {file}: {error}"));
                assert!(
                    text.contains(&format!("#[test]\nfn {function}()"))
                        || text.contains(&format!("#[test]\n    fn {function}()")),
                    "{name}: no test {function} in {file}"
                );
            }
            Not(reason) => assert!(reason.len() > 10, "{name} has no reason"),
        }
    }
    let here = std::fs::read_to_string(root.join(SELF)).unwrap();
    for function in here
        .split("#[test]\nfn ")
        .skip(2)
        .filter_map(|rest| rest.split('(').next())
    {
        let covers = |parity: &Parity| matches!(parity, Here(SELF, known) if *known == function);
        assert!(
            function.starts_with("deadline_") || TABLE.iter().any(|(_, parity)| covers(parity)),
            "{function} is not in the table"
        );
    }
}

/// Runs `setting` on the newest connection, between turns.
fn set(harness: &mut Harness, setting: impl FnOnce(&mut Context<'_, Recorder>)) {
    harness.with_last(|cx| {
        setting(cx);
        Verdict::Continue
    });
}

/// Returns a loop on a scripted network with one connection and an empty log.
fn connected() -> (Harness, usize) {
    let mut harness = Harness::new(Config::default());
    let peer = harness.accept(1);
    assert_eq!(harness.calls(), [Call::Open]);
    (harness, peer)
}

const READ: Call = Call::Deadline(Direction::Read);
const WRITE: Call = Call::Deadline(Direction::Write);

/// Returns a loop in a thread, and a client that it has accepted.
fn served() -> (Server<Task>, Client) {
    let server = Server::start(Recorder::default(), Config::default());
    let mut client = server.connect();
    client.send(b"hello\n");
    client.expect(b"hello\n");
    (server, client)
}

/// Runs a function in the loop's thread and returns its result.
fn run_in_loop<T: Send + 'static>(
    server: &Server<Task>,
    function: impl FnOnce(&mut Recorder, &mut LoopContext<'_, Recorder>) -> T + Send + 'static,
) -> T {
    let (sender, receiver) = mpsc::channel();
    server
        .handle
        .post(Box::new(move |recorder, cx| {
            sender.send(function(recorder, cx)).unwrap();
        }))
        .unwrap();
    receiver
        .recv_timeout(TIMEOUT)
        .expect("the loop should run the function")
}

/// The same on the newest connection.
fn run_on_last<T: Send + 'static>(
    server: &Server<Task>,
    function: impl FnOnce(&mut Context<'_, Recorder>) -> T + Send + 'static,
) -> T {
    run_in_loop(server, |recorder, cx| {
        let mut result = None;
        assert!(cx.with(recorder.last.unwrap(), |cx| {
            result = Some(function(cx));
            Verdict::Continue
        }));
        result.unwrap()
    })
}

/// Waits until the handler has recorded `count` callbacks equal to `call`.
#[track_caller]
fn wait_for(server: &Server<Task>, call: &Call, count: usize) {
    wait_until(&format!("{call:?}, {count} times"), || {
        let expected = call.clone();
        run_in_loop(server, move |recorder, _| {
            recorder
                .log
                .iter()
                .filter(|(_, call)| *call == expected)
                .count()
        }) >= count
    });
}

fn recorder_loop() -> (Reactor<Recorder>, SocketAddr) {
    util::reactor(Recorder::default(), Config::default())
}

// ---------------------------------------------------------------- timeout_test.go

/// Go: a dial with a timeout, or with a deadline in the past, fails with a timeout and never hangs.
/// Here it fails once, in a turn after the call.
#[test]
fn test_dial_timeout() {
    let Some(silent) = FullListener::listen() else {
        return;
    };
    let (mut reactor, _) = recorder_loop();
    for (timeout, text) in [
        (Duration::ZERO, "no answer within 0ns"),
        (Duration::from_nanos(1), "no answer within"),
        (ms(150), "no answer within 150ms"),
    ] {
        let _ = reactor.turn(Some(Duration::ZERO)).unwrap();
        let (begun, before) = (Instant::now(), reactor.counters().closed);
        reactor.connect(silent.addr, timeout).unwrap();
        assert_eq!(
            reactor.counters().closed,
            before,
            "no callback comes within the call"
        );
        turn_until(&mut reactor, |reactor| {
            reactor.counters().closed == before + 1
        });
        assert!(begun.elapsed() >= timeout, "early: {:?}", begun.elapsed());
        let log = std::mem::take(&mut reactor.handler().log);
        let [(_, Call::Close(reason))] = &log[..] else {
            panic!("expected exactly one callback: {log:?}")
        };
        assert!(
            reason.starts_with("cannot connect to 127.0.0.1:") && reason.contains(text),
            "{reason}"
        );
    }
    assert_eq!(reactor.connections(), 0);
}

/// Go: the longest possible duration does not overflow, and the dial succeeds.
#[test]
fn test_dial_timeout_max_duration() {
    let (mut reactor, addr) = recorder_loop();
    reactor.connect(addr, Duration::MAX).unwrap();
    turn_until(&mut reactor, |reactor| reactor.handler().log.len() == 2);
    assert!(
        reactor
            .handler()
            .log
            .iter()
            .all(|(_, call)| *call == Call::Open),
        "both ends are open"
    );
}

/// Go: a deadline that is set while a listener waits without one makes the accept return. Here a
/// loop timer wakes up a loop that has no deadline.
#[test]
fn test_accept_timeout_must_return() {
    let config = Config {
        idle_timeout: None,
        ..Config::default()
    };
    let server = Server::start(Recorder::default(), config);
    let timer = run_in_loop(&server, |_, cx| cx.set_timer(cx.now() + ms(10)));
    wait_for(&server, &Call::LoopTimer(timer), 1);
}

/// Go: a deadline that expired and was then cleared must not make an accept return.
#[test]
fn test_accept_timeout_must_not_return() {
    let (mut harness, _) = connected();
    let timer = harness.reactor.set_timer(harness.at(0));
    harness.skip(ms(100));
    assert!(harness.reactor.cancel_timer(timer));
    harness.run_for(ms(1000));
    assert_eq!(harness.calls(), []);
}

/// Go: a read with a deadline in the past fails although bytes are available. It returns none of
/// them, and fails again until the deadline is set again.
#[test]
fn test_read_timeout() {
    let (mut harness, peer) = connected();
    let past = harness.at(0);
    harness.skip(ms(5));
    harness.turn();
    set(&mut harness, |cx| cx.set_read_deadline(Some(past)));
    harness.peer_sends(peer, b"one\ntwo\nthree\n");
    harness.run_for(ms(1000));
    assert_eq!(harness.calls(), [READ], "no frame, and one callback");
    harness.peer_sends(peer, b"four\n");
    harness.run_for(ms(1000));
    assert_eq!(harness.calls(), [], "the deadline stays expired");
    set(&mut harness, |cx| {
        cx.set_read_deadline(Some(cx.now() + ms(100)));
    });
    harness.run_for(ms(50));
    assert_eq!(harness.calls(), ["one", "two", "three", "four"].map(frame));
    harness.run_for(ms(1000));
    assert_eq!(harness.calls(), [READ], "the new deadline expires too");
}

/// Go: both deadlines are in the past and the read deadline is cleared. The read waits, and the
/// close ends it, not a timeout.
#[test]
fn test_read_timeout_must_not_return() {
    let (server, mut client) = served();
    run_on_last(&server, |cx| {
        cx.set_deadline(Some(cx.now()));
        cx.set_read_deadline(None);
    });
    wait_for(&server, &WRITE, 1);
    client.send(b"still read\n");
    // The echo cannot be written, which closes this connection. So the test closes another one.
    assert_eq!(
        server.next_close_reason(),
        "write deadline passed, 0 bytes not read by the peer"
    );
    let (mut harness, peer) = connected();
    set(&mut harness, |cx| {
        cx.set_deadline(Some(cx.now()));
        cx.set_read_deadline(None);
    });
    harness.run_for(ms(1000));
    assert_eq!(
        harness.calls(),
        [WRITE],
        "the read deadline was cleared before its callback"
    );
    let id = harness.last();
    harness.reactor.handle().close(id).unwrap();
    harness.turn();
    harness.peer_shuts_write(peer);
    harness.run_for(ms(10));
    assert_eq!(harness.calls(), [closed("closed by the handler")]);
}

/// Go: a write with a deadline in the past fails although there is room. It writes nothing, and
/// fails again until the deadline is set again.
#[test]
fn test_write_timeout() {
    let (mut harness, peer) = connected();
    set(&mut harness, |cx| {
        cx.set_write_deadline(Some(cx.now()));
        for _ in 0..3 {
            assert!(matches!(
                cx.try_send(&b"late"[..]),
                Err(SendError::DeadlinePassed)
            ));
        }
        assert_eq!(cx.pending(), 0);
    });
    harness.run_for(ms(1000));
    set(&mut harness, |cx| {
        assert!(
            matches!(cx.try_send(&b"late"[..]), Err(SendError::DeadlinePassed)),
            "the deadline stays expired"
        );
    });
    harness.run_for(ms(10));
    assert_eq!(
        (harness.calls(), harness.received(peer)),
        (vec![WRITE], Vec::new())
    );
    set(&mut harness, |cx| {
        cx.set_write_deadline(Some(cx.now() + ms(100)));
        assert!(cx.try_send(&b"in time"[..]).is_ok());
    });
    harness.run_for(ms(10));
    assert_eq!(harness.received(peer), b"in time\n");
}

/// Go: both deadlines are in the past and the write deadline is cleared. The write waits for room,
/// and the close ends it.
#[test]
fn test_write_timeout_must_not_return() {
    let (mut harness, peer) = connected();
    harness.set_room(peer, 0);
    set(&mut harness, |cx| {
        cx.set_deadline(Some(cx.now()));
        cx.set_write_deadline(None);
        assert!(cx.try_send(&b"waiting"[..]).is_ok());
    });
    harness.run_for(ms(1000));
    assert_eq!(harness.calls(), [READ]);
    harness.set_room(peer, 100);
    harness.report_event(peer, |event| event.writable = true);
    harness.run_for(ms(10));
    assert_eq!(harness.received(peer), b"waiting\n");
}

/// Go: a read deadline of 100 ms expires after 50 to 250 ms. Here it never expires before 100 ms.
/// How much later depends on the machine.
#[test]
fn test_read_timeout_fluctuation() {
    let (server, _client) = served();
    for n in 1..=3 {
        let set_at = run_on_last(&server, |cx| {
            let now = Instant::now();
            cx.set_read_deadline(Some(now + ms(100)));
            now
        });
        wait_for(&server, &READ, n);
        let expired_at = run_in_loop(&server, |recorder, _| recorder.log.last().unwrap().0);
        assert!(expired_at >= set_at + ms(100), "{:?}", expired_at - set_at);
    }
}

/// Go: the same for a write to a peer that does not read.
#[test]
fn test_write_timeout_fluctuation() {
    let config = Config {
        write_cap: 64 << 20,
        ..Config::default()
    };
    let server = Server::start(
        Recorder {
            on_deadline: |_, _| Verdict::Close,
            ..Recorder::default()
        },
        config,
    );
    let mut client = server.connect();
    client.send(b"hello\n");
    client.expect(b"hello\n");
    let set_at = run_on_last(&server, |cx| {
        (0..300).for_each(|_| cx.send(&*vec![b'x'; 60_000]));
        let now = Instant::now();
        cx.set_write_deadline(Some(now + ms(100)));
        now
    });
    let reason = server.next_close_reason();
    assert!(set_at.elapsed() >= ms(100));
    assert!(
        reason.starts_with("write deadline passed, ")
            && reason.ends_with(" bytes not read by the peer"),
        "{reason}"
    );
}

/// Go: 19 deadlines from 1 ns to 1 s, three times. Each expires, and nothing hangs.
#[test]
fn test_various_deadlines() {
    const NANOS: [u64; 19] = [
        1,
        2,
        5,
        50,
        100,
        500,
        750,
        1_000,
        5_000,
        25_000,
        250_000,
        500_000,
        1_000_000,
        5_000_000,
        20_000_000,
        50_000_000,
        100_000_000,
        250_000_000,
        1_000_000_000,
    ];
    let (mut reactor, addr) = recorder_loop();
    let mut clients = Vec::new();
    let mut expected: Vec<Instant> = Vec::new();
    for _ in 0..3 {
        for nanos in NANOS {
            clients.push(Client::connect(addr));
            let count = clients.len();
            turn_until(&mut reactor, |reactor| reactor.connections() == count);
            let id = reactor.handler().last.unwrap();
            let at = Instant::now() + Duration::from_nanos(nanos);
            assert!(reactor.with(id, |_, cx| {
                cx.set_read_deadline(Some(at));
                Verdict::Continue
            }));
            expected.push(at);
        }
    }
    let expired = |reactor: &mut Reactor<Recorder>| {
        reactor
            .handler()
            .log
            .iter()
            .filter(|(_, call)| *call == READ)
            .count()
    };
    turn_until(&mut reactor, |reactor| expired(reactor) == expected.len());
    let mut expired_at: Vec<Instant> = reactor
        .handler()
        .log
        .iter()
        .filter(|(_, call)| *call == READ)
        .map(|(at, _)| *at)
        .collect();
    expected.sort_unstable();
    expired_at.sort_unstable();
    for (expected, at) in expected.iter().zip(expired_at) {
        assert!(at >= *expected, "early by {:?}", *expected - at);
    }
}

/// Go: deadlines that each of a thousand reads and writes moves never expire.
#[test]
fn test_read_write_prolonged_timeout() {
    let (mut harness, peer) = connected();
    harness.reactor.handler().on_frame = |line, cx| {
        cx.set_read_deadline(Some(cx.now() + ms(3)));
        cx.set_write_deadline(Some(cx.now() + ms(3)));
        cx.send(line);
        Verdict::Continue
    };
    for _ in 0..1000 {
        harness.peer_sends(peer, b"more\n");
        harness.turn();
        harness.run_for(ms(2));
    }
    assert_eq!(harness.received(peer), b"more\n".repeat(1000));
    assert!(
        harness.calls().iter().all(|call| *call == frame("more")),
        "no stale deadline may expire"
    );
    harness.run_for(ms(10));
    assert_eq!(harness.calls(), [READ, WRITE], "the last deadlines expire");
}

/// Go: another goroutine sets deadlines of 2 µs a thousand times during reads and writes. No race,
/// no hang.
#[test]
fn test_read_write_deadline_race() {
    let recorder = Recorder {
        on_deadline: |_, cx| {
            cx.set_deadline(None);
            Verdict::Continue
        },
        on_frame: |line, cx| {
            cx.set_write_deadline(None); // otherwise the echo would close the connection
            cx.send(line);
            Verdict::Continue
        },
        ..Recorder::default()
    };
    let server = Server::start(recorder, Config::default());
    let mut client = server.connect();
    client.send(b"hello\n");
    client.expect(b"hello\n");
    let handle = server.handle.clone();
    let setting = thread::spawn(move || {
        for n in 0..1000_u32 {
            let task: Task = Box::new(move |recorder, cx| {
                cx.with(recorder.last.unwrap(), |cx| {
                    let at = Instant::now() + Duration::from_micros(2);
                    if n % 2 == 0 {
                        cx.set_read_deadline(Some(at));
                    } else {
                        cx.set_write_deadline(Some(at));
                    }
                    Verdict::Continue
                });
            });
            handle.post(task).unwrap();
        }
    });
    for _ in 0..1000 {
        client.send(b"ping\n");
        client.expect(b"ping\n");
    }
    setting.join().unwrap();
    // One turn may run all posts, and the first check too.
    wait_until("a deadline", || {
        run_in_loop(&server, |recorder, _| {
            recorder
                .log
                .iter()
                .any(|(_, call)| matches!(call, Call::Deadline(_)))
        })
    });
}

/// Go: eight goroutines move the deadlines of ten connections nearer, a hundred times each. The
/// deadlines expire, and nothing panics.
#[test]
fn test_concurrent_set_deadline() {
    let server = Server::start(Recorder::default(), Config::default());
    let connect = |_| {
        let mut client = server.connect();
        client.send(b"hello\n");
        client.expect(b"hello\n");
        (
            client,
            run_in_loop(&server, |recorder, _| recorder.last.unwrap()),
        )
    };
    let (_clients, ids): (Vec<Client>, Vec<ConnectionId>) = (0..10).map(connect).unzip();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for nearer in 0..100 {
                    for id in ids.clone() {
                        let task: Task = Box::new(move |_, cx| {
                            cx.with(id, |cx| {
                                cx.set_deadline(Some(cx.now() + ms(200 - nearer)));
                                Verdict::Continue
                            });
                        });
                        server.handle.post(task).unwrap();
                    }
                }
            });
        }
    });
    wait_for(&server, &READ, 10);
    wait_for(&server, &WRITE, 10);
}

// ---------------------------------------------------------------- net_test.go

/// Go: after `CloseWrite` the peer reads the end of the stream and may still write. A further write
/// on this side fails. Reads continue to the end of the peer's stream.
#[test]
fn test_close_write() {
    let recorder = Recorder {
        on_frame: |line, cx| {
            cx.send(line);
            Verdict::Close
        },
        ..Recorder::default()
    };
    let server = Server::start(recorder, Config::default());
    let mut client = server.connect();
    client.send(b"bye\n");
    client.expect(b"bye\n");
    client.expect_eof();
    let id = run_in_loop(&server, |recorder, _| recorder.last.unwrap());
    assert!(
        !run_in_loop(&server, move |_, cx| cx.send_to(id, &b"too late"[..])),
        "nothing is sent after the close"
    );
    client.send(&vec![b'x'; 100_000]);
    client.shut_write();
    assert_eq!(
        server.next_close_reason(),
        "closed by the handler",
        "the stream is read to its end, without a reset"
    );
    assert_eq!(server.stop().bytes_discarded, 100_000);
}

/// Go: every operation on a closed connection fails with an error.
#[test]
fn test_conn_close() {
    let (server, mut client) = served();
    let id = run_in_loop(&server, |recorder, _| recorder.last.unwrap());
    server.handle.close(id).unwrap();
    client.expect_eof();
    drop(client);
    assert_eq!(server.next_close_reason(), "closed by the handler");
    assert!(!run_in_loop(&server, move |_, cx| cx
        .with(id, |_| unreachable!("the connection is closed"))));
    assert!(!run_in_loop(&server, move |_, cx| cx.with(id, |_| Verdict::Close)));
    assert_eq!(
        server.handle.send(id, &b"late\n"[..]),
        Err(PostError::Gone((&b"late\n"[..]).into()))
    );
    assert_eq!(server.handle.close(id), Err(PostError::Gone(id)));
}

/// Go: the address of a closed listener can be bound again at once, while old connections still
/// exist.
#[test]
fn test_listen_close_listen() {
    let mut addr = SocketAddr::from((unique_host(), 0));
    for _ in 0..10 {
        let mut reactor = Reactor::bind(addr, Recorder::default()).unwrap();
        addr = addr_of(&reactor);
        let mut client = Client::connect(addr);
        client.send(b"hello\n");
        turn_until(&mut reactor, |reactor| {
            reactor.counters().bytes_written == 6
        });
        // This side closes first, so its port is in TIME_WAIT.
        let id = reactor.handler().last.unwrap();
        assert!(reactor.with(id, |_, _| Verdict::Close));
        let _ = reactor.turn(Some(Duration::ZERO)).unwrap();
        client.expect(b"hello\n");
        client.expect_eof();
        drop(client);
        turn_until(&mut reactor, |reactor| reactor.connections() == 0);
    }
}

/// Go: a read into an empty buffer is not the end of the stream. Here a handler passes no buffer,
/// but a read may use up the budget exactly, and a frame may be empty.
#[test]
fn test_zero_byte_read() {
    let mut harness = Harness::new(Config {
        scratch: 1,
        ..Config::default()
    });
    let peer = harness.accept(1);
    harness.peer_sends(peer, b"\nab\n\n");
    harness.run_for(ms(10));
    assert_eq!(
        harness.calls(),
        [Call::Open, frame(""), frame("ab"), frame("")]
    );
    assert_eq!(harness.received(peer), b"\nab\n\n");
    assert!(harness.is_open(peer));
}

/// Go: another goroutine sets the deadline to the past, which ends a waiting read.
#[test]
fn test_read_timeout_unblocks_read() {
    let config = Config {
        idle_timeout: None,
        ..Config::default()
    };
    let server = Server::start(
        Recorder {
            on_deadline: |_, _| Verdict::Close,
            ..Recorder::default()
        },
        config,
    );
    let mut client = server.connect();
    client.send(b"hello\n");
    client.expect(b"hello\n");
    run_on_last(&server, |cx| {
        cx.set_read_deadline(cx.now().checked_sub(Duration::from_secs(1)));
    });
    client.expect_eof();
    assert_eq!(server.next_close_reason(), "read deadline passed");
}

/// Go: a close on one side ends the read on the other side, which finds the end of the stream.
#[test]
fn test_close_unblocks_read() {
    let (server, mut client) = served();
    let id = run_in_loop(&server, |recorder, _| recorder.last.unwrap());
    let reading = thread::spawn(move || client.expect_eof());
    server.handle.close(id).unwrap();
    reading.join().unwrap();
}

/// Go: each failure is an error that shows whether it was a timeout.
#[test]
fn test_errors() {
    fn is_error<E: std::error::Error + Send + Sync + 'static>() {}
    is_error::<glassloop::Error>();
    is_error::<glassloop::ConnectError>();
    is_error::<PostError<()>>();
    is_error::<SendError<glassloop::codec::LineError>>();
    is_error::<glassloop::submit::Error>();
    assert_eq!(
        ConnectFailure::TimedOut { after: ms(1) }.kind(),
        std::io::ErrorKind::TimedOut
    );
    let (mut reactor, addr) = recorder_loop();
    let taken = reactor.listen(addr).unwrap_err();
    assert_eq!(
        std::io::Error::from(taken).kind(),
        std::io::ErrorKind::AddrInUse
    );
    let error = reactor.connect_to(Vec::new(), Duration::MAX).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot connect: no address to connect to"
    );
}

/// Go: addresses are right, deadlines can be set and bytes come back, for TCP and Unix sockets.
#[cfg(unix)]
#[test]
fn test_conn_and_listener() {
    let path = std::env::temp_dir().join(format!("glassloop-parity-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let (mut reactor, tcp) = recorder_loop();
    let unix = reactor
        .listen_on_unix(std::os::unix::net::UnixListener::bind(&path).unwrap())
        .unwrap();
    assert_eq!(reactor.local_addrs(), [tcp.into(), unix.clone()]);
    assert_eq!(unix.to_string(), format!("unix:{}", path.display()));
    for (n, addr) in [tcp.into(), unix].into_iter().enumerate() {
        let id = reactor.connect_to(vec![addr.clone()], TIMEOUT).unwrap();
        let both = 2 * (n + 1);
        turn_until(&mut reactor, |reactor| {
            reactor
                .handler()
                .log
                .iter()
                .filter(|(_, call)| *call == Call::Open)
                .count()
                == both
        });
        assert!(reactor.with(id, |recorder, cx| {
            recorder.on_frame = |_, cx| {
                assert!(cx.try_send(&b"x"[..]).is_ok());
                Verdict::Close
            };
            assert_eq!(cx.peer_addr(), addr);
            cx.set_deadline(Some(cx.now() + TIMEOUT));
            cx.send(&b"hello"[..]);
            Verdict::Continue
        }));
        turn_until(&mut reactor, |reactor| reactor.connections() == 0);
    }
    assert!(std::fs::remove_file(&path).is_ok());
}

// ---------------------------------------------------------------- dial_test.go

/// Go: a listener's own address can be dialed. This is also nettest's ping-pong: both ends answer
/// each other in one loop.
#[test]
fn test_dial_listener_addr() {
    let (mut reactor, addr) = recorder_loop();
    reactor.handler().on_frame = |line, cx| {
        let n: u32 = std::str::from_utf8(line).unwrap().parse().unwrap();
        if n == 0 {
            return Verdict::Close;
        }
        cx.send(format!("{}", n - 1).as_bytes());
        Verdict::Continue
    };
    let id = reactor.connect(addr, TIMEOUT).unwrap();
    turn_until(&mut reactor, |reactor| reactor.handler().log.len() == 2);
    assert!(reactor.with(id, |_, cx| {
        assert_eq!(cx.peer_addr().tcp(), Some(addr));
        cx.send(&b"100"[..]);
        Verdict::Continue
    }));
    turn_until(&mut reactor, |reactor| reactor.connections() == 0);
    assert_eq!(reactor.counters().frames, 101);
}

/// Go: an unanswered dial can be cancelled, and ends at once.
#[test]
fn test_dial_cancel() {
    let mut harness = Harness::new(Config::default());
    let id = harness
        .reactor
        .connect_to(vec![loopback(1)], Duration::from_secs(3600))
        .unwrap();
    harness.run_for(ms(100));
    assert_eq!(harness.reactor.connections(), 1);
    harness.reactor.handle().close(id).unwrap();
    harness.run_for(ms(100));
    assert_eq!(harness.reactor.connections(), 0);
    assert!(!harness.is_open(0), "the socket must be closed");
    assert!(
        matches!(&harness.calls()[..], [Call::Close(_)]),
        "the handler gets one callback"
    );
}

/// Go: a cancellation after the dial succeeded has no effect. Here it is the timeout of the dial.
#[test]
fn test_cancel_after_dial() {
    let mut harness = Harness::new(Config::default());
    harness
        .reactor
        .connect_to(vec![loopback(1)], ms(100))
        .unwrap();
    harness.run_for(ms(50));
    harness.set_connect_state(0, Ok(Established::Yes));
    harness.run_for(ms(1000));
    harness.peer_sends(0, b"hello\n");
    harness.run_for(ms(1000));
    assert_eq!(harness.calls(), [Call::Open, frame("hello")]);
    assert_eq!(harness.received(0), b"hello\n");
}

/// Go: of two addresses, the slower one is closed, however late it answers. Here its share of the
/// time ends before the other address is tried.
#[test]
fn test_dial_parallel_spurious_connection() {
    let mut harness = Harness::new(Config::default());
    harness
        .reactor
        .connect_to(vec![loopback(1), loopback(1)], Duration::from_secs(4))
        .unwrap();
    harness.run_for(ms(1900));
    assert_eq!(harness.socket_count(), 1);
    harness.run_for(ms(200));
    assert_eq!(harness.socket_count(), 2, "the second address is tried");
    assert!(!harness.is_open(0), "the first socket is closed");
    // Both sockets have the same token and slot. An event of the first must not count as success of
    // the second.
    harness.set_connect_state(0, Ok(Established::Yes));
    harness.turn();
    assert_eq!(harness.calls(), []);
    harness.set_connect_state(1, Ok(Established::Yes));
    harness.turn();
    assert_eq!(harness.calls(), [Call::Open]);
    assert_eq!(harness.reactor.connections(), 1);
}

/// Go: dials that fail leave no descriptor behind.
#[test]
fn test_dialer_dual_stack_fd_leak() {
    let mut harness = Harness::new(Config::default());
    for _ in 0..10 {
        for _ in 0..10 {
            harness
                .reactor
                .connect_to(vec![loopback(1), loopback(1)], ms(10))
                .unwrap();
        }
        harness.run_for(ms(100));
        assert_eq!(
            (harness.reactor.connections(), harness.reactor.buffered()),
            (0, 0)
        );
    }
    assert_eq!(harness.open_sockets(), 0, "every socket must be closed");
    assert_eq!(harness.calls().len(), 100, "each dial has one callback");
    assert_eq!(harness.reactor.next_deadline(), None);
}

// ---------------------------------------------------------------- tcpsock_test.go

/// Go: dials to a listener that closes never give a false connection. Each dial opens or fails, and
/// an open connection can be used.
#[test]
fn test_tcp_spurious_conn_setup_completion() {
    const DIALS: u64 = 500;
    // The backlog has room for all dials. With a full backlog, Linux reports a connection to the
    // client as established, and drops it silently when the listener closes.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket
        .bind(&SocketAddr::from((unique_host(), 0)).into())
        .unwrap();
    socket.listen(2 * DIALS as i32).unwrap();
    let listener = TcpListener::from(socket);
    let addr = listener.local_addr().unwrap();
    let closing = thread::spawn(move || {
        for _ in 0..DIALS / 2 {
            let Ok((mut stream, _)) = listener.accept() else {
                return;
            };
            let _ = stream.write_all(b"hello\n");
        }
        // The listener closes here.
    });
    let mut reactor = Reactor::new(Recorder::default(), Config::default()).unwrap();
    for _ in 0..DIALS {
        reactor.connect(addr, TIMEOUT).unwrap();
        let _ = reactor.turn(Some(Duration::ZERO)).unwrap();
    }
    turn_until(&mut reactor, |reactor| reactor.connections() == 0);
    closing.join().unwrap();
    let log = std::mem::take(&mut reactor.handler().log);
    let reasons: Vec<&String> = log
        .iter()
        .filter_map(|(_, call)| {
            if let Call::Close(reason) = call {
                Some(reason)
            } else {
                None
            }
        })
        .collect();
    let opened = log.iter().filter(|(_, call)| *call == Call::Open).count();
    assert_eq!(reasons.len() as u64, DIALS, "each dial has one close");
    assert!(opened as u64 >= DIALS / 2);
    let failed = reasons
        .iter()
        .filter(|reason| reason.starts_with("cannot connect to"))
        .count();
    assert_eq!(opened + failed, reasons.len());
    assert!(
        !reasons.iter().any(|reason| reason.starts_with("i/o error")),
        "{reasons:?}"
    );
}

/// Go: the same with cancelled dials. None succeeds later.
#[test]
fn test_tcp_spurious_conn_setup_completion_with_cancel() {
    let mut harness = Harness::new(Config::default());
    for n in 0..100 {
        harness
            .reactor
            .connect_to(vec![loopback(1)], ms(10))
            .unwrap();
        harness.run_for(ms(11));
        // The answer comes just before the timeout, or just after it.
        harness.set_connect_state(n, Ok(Established::Yes));
        if n % 2 == 0 {
            harness.skip(ms(5));
        }
        harness.turn();
        harness.peer_shuts_write(n);
        harness.run_for(ms(100));
    }
    let calls = harness.calls();
    assert_eq!(
        calls
            .iter()
            .filter(|call| matches!(call, Call::Close(_)))
            .count(),
        100
    );
    for pair in calls.windows(2) {
        assert!(
            pair[0] != Call::Open || matches!(pair[1], Call::Close(_)),
            "{pair:?}"
        );
    }
    assert_eq!((harness.socket_count(), harness.open_sockets()), (100, 0));
    assert_eq!(harness.reactor.connections(), 0);
}

/// Go: a socket that the system has connected with itself is not a connection. The dial is retried
/// twice.
#[test]
fn test_tcp_self_connect() {
    let mut harness = Harness::new(Config::default());
    harness
        .reactor
        .connect_to(vec![loopback(1)], TIMEOUT)
        .unwrap();
    for n in 0..3 {
        assert_eq!((harness.socket_count(), harness.is_open(n)), (n + 1, true));
        harness.set_connect_state(n, Ok(Established::WithItself));
        harness.turn();
    }
    harness.run_for(ms(10));
    assert_eq!(harness.socket_count(), 3);
    let calls = harness.calls();
    assert!(
        matches!(&calls[..], [Call::Close(reason)] if reason.contains("connected with itself")),
        "{calls:?}"
    );
    assert_eq!(harness.reactor.connections(), 0);
}

/// Go: several goroutines accept on one listener, and every dial is served. Here several loops
/// accept.
#[test]
fn test_tcp_concurrent_accept() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let (sender, receiver) = mpsc::channel();
    let loops: Vec<_> = (0..3)
        .map(|_| {
            let (listener, sender) = (listener.try_clone().unwrap(), sender.clone());
            thread::spawn(move || {
                let mut reactor = Reactor::new(
                    Recorder::default(),
                    Config {
                        loops: 3,
                        ..Config::default()
                    },
                )
                .unwrap();
                reactor.listen_on(listener).unwrap();
                sender.send(reactor.handle()).unwrap();
                reactor.run().unwrap();
                reactor.counters().accepted
            })
        })
        .collect();
    let handles: Vec<_> = (0..3)
        .map(|_| receiver.recv_timeout(TIMEOUT).unwrap())
        .collect();
    for n in 0..10 {
        let mut clients: Vec<Client> = (0..10).map(|_| Client::connect(addr)).collect();
        for client in &mut clients {
            client.send(format!("{n}\n").as_bytes());
        }
        for client in &mut clients {
            client.expect(format!("{n}\n").as_bytes());
        }
    }
    for handle in &handles {
        handle.stop(Stop::AtOnce);
    }
    assert_eq!(
        loops
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum::<u64>(),
        100
    );
}

/// Go: two connections send ten thousand messages of 512 bytes each, and all come back.
#[test]
fn test_tcp_stress() {
    const WINDOW: usize = 50;
    let (server, client) = served();
    let clients = [client, server.connect()];
    let threads = clients.map(|mut client| {
        thread::spawn(move || {
            let messages = [&[b'x'; 511][..], b"\n"].concat().repeat(WINDOW);
            for _ in 0..10_000 / WINDOW {
                client.send(&messages);
                client.expect(&messages);
            }
        })
    });
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(server.stop().frames, 20_001);
}

/// Go: three closes of a closed connection give defined errors.
#[test]
fn test_close_error() {
    let (server, client) = served();
    let id = run_in_loop(&server, |recorder, _| recorder.last.unwrap());
    drop(client);
    for _ in 0..3 {
        // While the connection is closing, both results are correct.
        assert!(matches!(
            server.handle.close(id),
            Ok(()) | Err(PostError::Gone(_))
        ));
    }
    server.next_close_reason();
    assert_eq!(server.handle.close(id), Err(PostError::Gone(id)));
    let handle = server.handle.clone();
    server.stop();
    for how in [Stop::AtOnce, Stop::Gracefully, Stop::Within(Duration::ZERO)] {
        handle.stop(how);
        assert_eq!(handle.close(id), Err(PostError::Stopped(id)));
        assert!(matches!(
            handle.send(id, &b"x\n"[..]),
            Err(PostError::Stopped(_))
        ));
        assert!(matches!(
            handle.post(Box::new(|_, _| unreachable!("the loop has stopped"))),
            Err(PostError::Stopped(_))
        ));
    }
}

/// Go: the close of a listener on which an accept waits frees its port at once.
#[test]
fn test_closing_listener() {
    for _ in 0..10 {
        let server = Server::start(Recorder::default(), Config::default());
        let addr = server.addr;
        server.stop();
        let _again = TcpListener::bind(addr).unwrap();
    }
}

/// Go: use of a connection while another goroutine closes it is safe. It works or reports that the
/// connection is closed, and never reaches another connection.
#[test]
fn test_file_close_race() {
    let server = Server::start(Recorder::default(), Config::default());
    for _ in 0..30 {
        let mut client = server.connect();
        client.send(b"hello\n");
        client.expect(b"hello\n");
        let id = run_in_loop(&server, |recorder, _| recorder.last.unwrap());
        thread::scope(|scope| {
            for closes in [false, false, true] {
                let handle = &server.handle;
                scope.spawn(move || {
                    for _ in 0..50 {
                        let error = if closes {
                            handle.close(id).err().map(|_| ())
                        } else {
                            handle.send(id, &b"x\n"[..]).err().map(|_| ())
                        };
                        if error.is_some() {
                            break;
                        }
                    }
                });
            }
        });
        let mut rest = Vec::new();
        client.stream.read_to_end(&mut rest).unwrap();
        assert!(
            rest.chunks(2).all(|message| message == b"x\n"),
            "{}",
            rest.escape_ascii()
        );
        drop(client);
        assert_eq!(server.next_close_reason(), "closed by the handler");
    }
}

/// Go: an expired write deadline is an error, not a silent success.
#[test]
fn test_sendfile_on_write_timeout_exceeded() {
    let (mut harness, peer) = connected();
    harness.set_room(peer, 2);
    set(&mut harness, |cx| {
        cx.send(&b"first"[..]);
        cx.set_write_deadline(Some(cx.now() + ms(100)));
    });
    harness.run_for(ms(50));
    assert_eq!(harness.received(peer), b"fi");
    harness.run_for(ms(100));
    set(&mut harness, |cx| cx.send(&b"second"[..]));
    harness.run_for(ms(10));
    assert_eq!(
        harness.calls(),
        [
            WRITE,
            closed("write deadline passed, 4 bytes not read by the peer")
        ]
    );
    // The same for a message from another thread.
    let (mut harness, peer) = connected();
    set(&mut harness, |cx| cx.set_write_deadline(Some(cx.now())));
    let id = harness.last();
    harness.reactor.handle().send(id, &b"late\n"[..]).unwrap();
    harness.run_for(ms(10));
    assert_eq!(harness.received(peer), b"");
    assert!(!harness.is_open(peer));
}

// ---------------------------------------------------------------- net/http's serve_test.go

/// Go: a connection that has not sent anything does not delay a graceful stop for long. Here it
/// does not delay it at all.
#[test]
fn test_server_shutdown_state_new() {
    let server = Server::start(Recorder::default(), Config::default());
    let mut silent = server.connect();
    server.handle.stop(Stop::Gracefully);
    silent.expect_eof();
    drop(silent);
    server.stop();
}

/// Go: a listener is closed once, however often a stop is requested.
#[test]
fn test_server_close_listener_once() {
    let (mut harness, peer) = connected();
    for how in [Stop::Gracefully, Stop::Gracefully, Stop::Within(ms(10))] {
        harness.reactor.stop(how);
        harness.turn();
    }
    assert_eq!(harness.net.borrow().listeners_closed, 1);
    harness.reactor.stop(Stop::AtOnce);
    assert_eq!(harness.reactor.turn(None).unwrap(), Turn::Stopped);
    assert_eq!(harness.net.borrow().listeners_closed, 1);
    assert!(!harness.is_open(peer));
}

// ---------------------------------------------------------------- x/net/nettest

/// Many goroutines write while deadlines are set: no message is mixed with another.
#[test]
fn racy_write() {
    let (server, mut client) = served();
    let id = run_in_loop(&server, |recorder, _| recorder.last.unwrap());
    thread::scope(|scope| {
        for name in *b"abcdefghij" {
            let handle = &server.handle;
            scope.spawn(move || {
                for _ in 0..100 {
                    handle.send(id, [&[name; 63][..], b"\n"].concat()).unwrap();
                    let task: Task = Box::new(move |_, cx| {
                        cx.with(id, |cx| {
                            cx.set_write_deadline(Some(cx.now() + TIMEOUT));
                            Verdict::Continue
                        });
                    });
                    handle.post(task).unwrap();
                }
            });
        }
    });
    let mut got = vec![0; 1000 * 64];
    client.stream.read_exact(&mut got).unwrap();
    for message in got.chunks(64) {
        assert!(
            message[..63].iter().all(|byte| *byte == message[0]) && message[63] == b'\n',
            "{}",
            message.escape_ascii()
        );
    }
}

/// A read deadline does not prevent writes.
#[test]
fn read_timeout() {
    let (mut harness, peer) = connected();
    set(&mut harness, |cx| cx.set_read_deadline(Some(cx.now())));
    harness.run_for(ms(10));
    set(&mut harness, |cx| {
        assert!(cx.try_send(&b"written"[..]).is_ok());
    });
    harness.run_for(ms(10));
    assert_eq!(
        (harness.calls(), harness.received(peer)),
        (vec![READ], b"written\n".to_vec())
    );
}

/// A write deadline does not prevent reads.
#[test]
fn write_timeout() {
    let (mut harness, peer) = connected();
    harness.reactor.handler().on_frame = |_, _| Verdict::Continue;
    set(&mut harness, |cx| cx.set_write_deadline(Some(cx.now())));
    harness.run_for(ms(10));
    harness.peer_sends(peer, b"read\n");
    harness.run_for(ms(10));
    assert_eq!(harness.calls(), [WRITE, frame("read")]);
}

/// Deadlines in the past expire at once in both directions. The connection can be used again once
/// they are cleared.
#[test]
fn past_timeout() {
    let (mut harness, peer) = connected();
    set(&mut harness, |cx| {
        cx.set_deadline(
            cx.now()
                .checked_sub(Duration::from_secs(1))
                .or(Some(cx.now())),
        );
    });
    harness.peer_sends(peer, b"waits\n");
    harness.run_for(ms(10));
    set(&mut harness, |cx| {
        assert!(matches!(
            cx.try_send(&b"late"[..]),
            Err(SendError::DeadlinePassed)
        ));
    });
    assert_eq!(harness.calls(), [READ, WRITE]);
    set(&mut harness, |cx| cx.set_deadline(None));
    harness.run_for(ms(10));
    assert_eq!(
        (harness.calls(), harness.received(peer)),
        (vec![frame("waits")], b"waits\n".to_vec())
    );
}

/// A deadline of now applies to bytes that are already queued.
#[test]
fn present_timeout() {
    let (mut harness, peer) = connected();
    harness.set_room(peer, 0);
    set(&mut harness, |cx| cx.send(&b"stuck"[..]));
    harness.run_for(ms(100));
    set(&mut harness, |cx| cx.set_deadline(Some(cx.now())));
    harness.set_room(peer, 100);
    harness.report_event(peer, |event| event.writable = true);
    harness.run_for(ms(10));
    assert_eq!(
        (harness.calls(), harness.received(peer)),
        (vec![READ, WRITE], Vec::new()),
        "queued bytes stay queued"
    );
    set(&mut harness, |cx| cx.set_write_deadline(None));
    harness.run_for(ms(10));
    assert_eq!(
        harness.received(peer),
        b"stuck\n",
        "queued bytes are sent when the deadline is cleared"
    );
}

/// A deadline in the future expires then. The connection can be used again once it is cleared.
#[test]
fn future_timeout() {
    let (mut harness, peer) = connected();
    set(&mut harness, |cx| cx.set_deadline(Some(cx.now() + ms(100))));
    harness.run_for(ms(99));
    assert_eq!(harness.calls(), []);
    harness.run_for(ms(2));
    assert_eq!(harness.calls(), [READ, WRITE]);
    set(&mut harness, |cx| cx.set_deadline(None));
    harness.peer_sends(peer, b"again\n");
    harness.run_for(ms(10));
    assert_eq!(
        (harness.calls(), harness.received(peer)),
        (vec![frame("again")], b"again\n".to_vec())
    );
}

/// A close has its own reason, and not that of a deadline.
#[test]
fn close_timeout() {
    let (mut harness, peer) = connected();
    set(&mut harness, |cx| cx.set_deadline(Some(cx.now() + ms(100))));
    harness.with_last(|_| Verdict::Close);
    harness.turn();
    harness.run_for(ms(500));
    harness.peer_shuts_write(peer);
    harness.run_for(ms(10));
    assert_eq!(harness.calls(), [closed("closed by the handler")]);
}

// ---------------------------------------------------------------- rules beyond Go's

/// A handler that sets the read deadline to the past within a batch gets no further frame of it.
#[test]
fn deadline_in_the_past_expires_before_the_rest_of_the_batch() {
    let (mut harness, peer) = connected();
    harness.reactor.handler().on_frame = |line, cx| {
        if line == b"stop" {
            cx.set_read_deadline(Some(cx.now()));
        }
        Verdict::Continue
    };
    harness.peer_sends(peer, b"one\nstop\ntwo\nthree\nhal");
    harness.run_for(ms(100));
    assert_eq!(harness.calls(), [frame("one"), frame("stop"), READ]);
    harness.peer_sends(peer, b"f\n");
    harness.run_for(ms(100));
    assert_eq!(harness.calls(), []);
    set(&mut harness, |cx| cx.set_read_deadline(None));
    harness.run_for(ms(100));
    assert_eq!(harness.calls(), ["two", "three", "half"].map(frame));
}

/// A handler that renews the deadline in its callback gets the waiting frames in the same turn.
#[test]
fn deadline_renewed_in_the_callback_lets_the_batch_continue() {
    let (mut harness, peer) = connected();
    harness.reactor.handler().on_deadline = |which, cx| {
        assert_eq!(which, Direction::Read);
        cx.set_read_deadline(Some(cx.now() + ms(50)));
        Verdict::Continue
    };
    set(&mut harness, |cx| {
        cx.set_read_deadline(Some(cx.now() + ms(50)));
    });
    harness.turn();
    harness.skip(ms(50));
    harness.peer_sends(peer, b"already there\n");
    harness.turn();
    assert_eq!(
        harness.calls(),
        [READ, frame("already there")],
        "the deadline comes first"
    );
    harness.run_for(ms(60));
    assert_eq!(
        harness.calls(),
        [READ],
        "the deadline is absolute: received bytes do not move it"
    );
}

/// By default a read deadline closes the connection once all bytes are sent, and a write deadline
/// closes it at once. Each has its own close reason.
#[test]
fn deadline_by_default_closes_with_its_own_reason() {
    let closing = || {
        let (mut harness, peer) = connected();
        harness.reactor.handler().on_deadline = |_, _| Verdict::Close;
        harness.set_room(peer, 2);
        set(&mut harness, |cx| cx.send(&b"hello"[..]));
        harness.turn();
        (harness, peer)
    };
    let (mut harness, peer) = closing();
    set(&mut harness, |cx| {
        cx.set_read_deadline(Some(cx.now() + ms(100)));
    });
    harness.run_for(ms(200));
    assert!(harness.is_open(peer), "queued bytes are sent first");
    harness.set_room(peer, 100);
    harness.report_event(peer, |event| event.writable = true);
    harness.run_for(ms(10));
    assert_eq!(
        (harness.calls(), harness.received(peer)),
        (
            vec![READ, closed("read deadline passed")],
            b"hello\n".to_vec()
        )
    );

    let (mut harness, peer) = closing();
    set(&mut harness, |cx| {
        cx.set_write_deadline(Some(cx.now() + ms(100)));
    });
    harness.run_for(ms(200));
    assert_eq!(
        (harness.calls(), harness.received(peer)),
        (
            vec![
                WRITE,
                closed("write deadline passed, 4 bytes not read by the peer")
            ],
            b"he".to_vec()
        )
    );

    // The same with nothing queued.
    let (mut harness, peer) = connected();
    harness.reactor.handler().on_deadline = |_, _| Verdict::Close;
    set(&mut harness, |cx| {
        cx.set_read_deadline(Some(cx.now() + ms(100)));
    });
    harness.run_for(ms(200));
    assert_eq!(
        harness.log(),
        [(100, READ), (100, closed("read deadline passed"))]
    );
    assert!(!harness.is_open(peer));
}

/// An expired deadline whose callback has not come yet is dropped if a post in the same turn clears
/// it.
#[test]
fn deadline_cleared_in_its_own_turn_is_never_reported() {
    let (mut harness, peer) = connected();
    set(&mut harness, |cx| cx.set_deadline(Some(cx.now() + ms(50))));
    harness.turn();
    harness.skip(ms(60));
    // Posts run before deadlines are checked.
    let id = harness.last();
    let clear: Task = Box::new(move |_, cx| {
        assert!(cx.with(id, |cx| {
            assert!(
                matches!(cx.try_send(&b"late"[..]), Err(SendError::DeadlinePassed)),
                "the deadline has expired"
            );
            cx.set_deadline(None);
            assert!(cx.try_send(&b"in time"[..]).is_ok());
            Verdict::Continue
        }));
    });
    harness.reactor.handle().post(clear).unwrap();
    harness.run_for(ms(1000));
    assert_eq!(
        (harness.calls(), harness.received(peer)),
        (Vec::new(), b"in time\n".to_vec())
    );
}

/// A closing connection has no handler deadlines, and a new connection in the same slot does not
/// inherit them.
#[test]
fn deadline_is_not_inherited_by_the_next_connection_of_the_slot() {
    let (mut harness, peer) = connected();
    set(&mut harness, |cx| cx.set_deadline(Some(cx.now() + ms(50))));
    harness.peer_shuts_write(peer);
    harness.run_for(ms(10));
    assert_eq!(harness.calls(), [closed("closed by the peer")]);
    let next = harness.accept(1);
    harness.peer_sends(next, b"hello\n");
    harness.run_for(ms(200));
    assert_eq!(harness.calls(), [Call::Open, frame("hello")]);
}
