//! What Go's tests of its net package pin, and where the same is shown here; by Go's names, so that they can be laid side by side.
//!
//! Go's calls look as if they blocked. Here a read that returns is [`Handler::frame`](glassloop::Handler::frame), a timeout is
//! [`Handler::deadline`](glassloop::Handler::deadline), a write is [`Context::send`], `CloseWrite` is what the loop does itself when all is sent,
//! and what another goroutine does to a connection is a letter.

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

/// How one of Go's tests stands here.
enum Parity {
    /// Shown in this file by this function.
    Here(&'static str, &'static str),
    /// There is nothing to show, and why.
    Not(&'static str),
}
use Parity::{Here, Not};

const SELF: &str = "tests/go_parity.rs";
const NO_UDP: &str = "there are no datagrams";
const NO_RAW: &str = "no descriptor is handed out: a socket is read and written by its loop only";
const CAUGHT: &str = "accept_without_descriptors_backs_off_and_retries_by_timer";

/// Every test of Go's that was looked at: those of its net package in the order of its files, then net/http's, then those of x/net's nettest.
const TABLE: &[(&str, Parity)] = &[
    ("TestDialTimeout", Here(SELF, "test_dial_timeout")),
    (
        "TestDialTimeoutMaxDuration",
        Here(SELF, "test_dial_timeout_max_duration"),
    ),
    (
        "TestAcceptTimeout",
        Not(
            "an accept never waits, so it has no deadline: who waits is let in, and how long to wait for somebody is a loop timer",
        ),
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
            "the reading side cannot be shut alone: Verdict::Pause stops it, and a closing connection drops what it reads",
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
        Not("addresses are tried one after the other, and never two at a time"),
    ),
    (
        "TestDialerFallbackDelay",
        Not("addresses are tried one after the other, and never two at a time"),
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
            "five gigabytes in one transfer are opt-in in Go too; bytes are counted in 64 bits, and no buffer knows of a connection's total",
        ),
    ),
    ("TestCloseError", Here(SELF, "test_close_error")),
    ("TestAcceptError", Here("tests/seam.rs", CAUGHT)),
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
        Not("no lock guards a descriptor: one thread owns them all"),
    ),
    (
        "TestMutexCloseUnblock",
        Not("no lock guards a descriptor: one thread owns them all"),
    ),
    (
        "TestMutexOverflowPanic",
        Not("no lock guards a descriptor: one thread owns them all"),
    ),
    ("TestAcceptMaxFds", Here("tests/seam.rs", CAUGHT)),
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
        assert!(names.insert(name), "{name} stands twice in the table");
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
            Not(why) => assert!(why.len() > 10, "{name} is left out without a reason"),
        }
    }
    let here = std::fs::read_to_string(root.join(SELF)).unwrap();
    for function in here
        .split("#[test]\nfn ")
        .skip(2)
        .filter_map(|rest| rest.split('(').next())
    {
        let is_it = |parity: &Parity| matches!(parity, Here(SELF, known) if *known == function);
        assert!(
            function.starts_with("deadline_") || TABLE.iter().any(|(_, parity)| is_it(parity)),
            "{function} is not in the table"
        );
    }
}

/// Lets a test of one connection set what it likes, between turns.
fn set(harness: &mut Harness, setting: impl FnOnce(&mut Context<'_, Recorder>)) {
    harness.with_last(|cx| {
        setting(cx);
        Verdict::Continue
    });
}

/// A played loop with one connection, and nothing written down yet.
fn connected() -> (Harness, usize) {
    let mut harness = Harness::new(Config::default());
    let peer = harness.accept(1);
    assert_eq!(harness.calls(), [Call::Open]);
    (harness, peer)
}

const READ: Call = Call::Deadline(Direction::Read);
const WRITE: Call = Call::Deadline(Direction::Write);

/// A loop in a thread, and a client that it has let in.
fn served() -> (Server<Task>, Client) {
    let server = Server::start(Recorder::default(), Config::default());
    let mut client = server.connect();
    client.send(b"hello\n");
    client.expect(b"hello\n");
    (server, client)
}

/// Has something done in the loop's thread, and brings back what it says.
fn ask<T: Send + 'static>(
    server: &Server<Task>,
    question: impl FnOnce(&mut Recorder, &mut LoopContext<'_, Recorder>) -> T + Send + 'static,
) -> T {
    let (tell, told) = mpsc::channel();
    server
        .handle
        .post(Box::new(move |recorder, cx| {
            tell.send(question(recorder, cx)).unwrap();
        }))
        .unwrap();
    told.recv_timeout(TIMEOUT).expect("the loop should answer")
}

/// The same for the connection that was let in last.
fn ask_last<T: Send + 'static>(
    server: &Server<Task>,
    question: impl FnOnce(&mut Context<'_, Recorder>) -> T + Send + 'static,
) -> T {
    ask(server, |recorder, cx| {
        let mut answer = None;
        assert!(cx.with(recorder.last.unwrap(), |cx| {
            answer = Some(question(cx));
            Verdict::Continue
        }));
        answer.unwrap()
    })
}

/// Waits until the handler has written down so many calls of a kind.
#[track_caller]
fn wait_for(server: &Server<Task>, call: &Call, count: usize) {
    wait_until(&format!("{call:?}, {count} times"), || {
        let wanted = call.clone();
        ask(server, move |recorder, _| {
            recorder
                .log
                .iter()
                .filter(|(_, call)| *call == wanted)
                .count()
        }) >= count
    });
}

fn scribe_loop() -> (Reactor<Recorder>, SocketAddr) {
    util::reactor(Recorder::default(), Config::default())
}

// ---------------------------------------------------------------- timeout_test.go

/// Go: a dial with a timeout, or a deadline in the past, fails with a timeout and never hangs. Here it fails once, and in a turn of its own.
#[test]
fn test_dial_timeout() {
    let Some(silent) = FullListener::listen() else {
        return;
    };
    let (mut reactor, _) = scribe_loop();
    for (timeout, said) in [
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
            "nothing is told from within the call"
        );
        turn_until(&mut reactor, |reactor| {
            reactor.counters().closed == before + 1
        });
        assert!(begun.elapsed() >= timeout, "early: {:?}", begun.elapsed());
        let log = std::mem::take(&mut reactor.handler().log);
        let [(_, Call::Close(reason))] = &log[..] else {
            panic!("exactly one call is wanted: {log:?}")
        };
        assert!(
            reason.starts_with("cannot connect to 127.0.0.1:") && reason.contains(said),
            "{reason}"
        );
    }
    assert_eq!(reactor.connections(), 0);
}

/// Go: the longest duration there is overflows nothing, and the dial succeeds.
#[test]
fn test_dial_timeout_max_duration() {
    let (mut reactor, addr) = scribe_loop();
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

/// Go: a deadline set after none, on a listener that waits, makes the accept return. Here it is a timer of the loop that wakes it from a sleep without end.
#[test]
fn test_accept_timeout_must_return() {
    let config = Config {
        idle_timeout: None,
        ..Config::default()
    };
    let server = Server::start(Recorder::default(), config);
    let timer = ask(&server, |_, cx| cx.set_timer(cx.now() + ms(10)));
    wait_for(&server, &Call::LoopTimer(timer), 1);
}

/// Go: a deadline that is over and then cleared must not make an accept return.
#[test]
fn test_accept_timeout_must_not_return() {
    let (mut harness, _) = connected();
    let timer = harness.reactor.set_timer(harness.at(0));
    harness.skip(ms(100));
    assert!(harness.reactor.cancel_timer(timer));
    harness.run_for(ms(1000));
    assert_eq!(harness.calls(), []);
}

/// Go: a read with a deadline in the past fails though bytes are there, returns none of them, and fails again until the deadline is set anew.
#[test]
fn test_read_timeout() {
    let (mut harness, peer) = connected();
    let past = harness.at(0);
    harness.skip(ms(5));
    harness.turn();
    set(&mut harness, |cx| cx.set_read_deadline(Some(past)));
    harness.peer_sends(peer, b"one\ntwo\nthree\n");
    harness.run_for(ms(1000));
    assert_eq!(harness.calls(), [READ], "no frame, and told once");
    harness.peer_sends(peer, b"four\n");
    harness.run_for(ms(1000));
    assert_eq!(harness.calls(), [], "it stays passed");
    set(&mut harness, |cx| {
        cx.set_read_deadline(Some(cx.now() + ms(100)));
    });
    harness.run_for(ms(50));
    assert_eq!(harness.calls(), ["one", "two", "three", "four"].map(frame));
    harness.run_for(ms(1000));
    assert_eq!(harness.calls(), [READ], "the new one passes too");
}

/// Go: both deadlines in the past, the reading one cleared: the read waits, and what ends it is the close, not a timeout.
#[test]
fn test_read_timeout_must_not_return() {
    let (server, mut client) = served();
    ask_last(&server, |cx| {
        cx.set_deadline(Some(cx.now()));
        cx.set_read_deadline(None);
    });
    wait_for(&server, &WRITE, 1);
    client.send(b"still read\n");
    // The echo cannot be written any more, and that ends it; so it is another one that is closed.
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
        "no read deadline: it was cleared before it was told"
    );
    let id = harness.last();
    harness.reactor.handle().close(id).unwrap();
    harness.turn();
    harness.peer_shuts_write(peer);
    harness.run_for(ms(10));
    assert_eq!(harness.calls(), [closed("closed by the handler")]);
}

/// Go: a write with a deadline in the past fails though there is room, writes nothing, and fails again until the deadline is set anew.
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
            "it stays passed"
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

/// Go: both deadlines in the past, the writing one cleared: the write waits for room, and what ends it is the close.
#[test]
fn test_write_timeout_must_not_return() {
    let (mut harness, peer) = connected();
    harness.set_room(peer, 0);
    set(&mut harness, |cx| {
        cx.set_deadline(Some(cx.now()));
        cx.set_write_deadline(None);
        assert!(cx.try_send(&b"patience"[..]).is_ok());
    });
    harness.run_for(ms(1000));
    assert_eq!(harness.calls(), [READ]);
    harness.set_room(peer, 100);
    harness.report_event(peer, |event| event.writable = true);
    harness.run_for(ms(10));
    assert_eq!(harness.received(peer), b"patience\n");
}

/// Go: a read deadline of 100 ms passes after 50 to 250 ms. Here never before 100; how much later is the machine's affair.
#[test]
fn test_read_timeout_fluctuation() {
    let (server, _client) = served();
    for n in 1..=3 {
        let set_at = ask_last(&server, |cx| {
            let now = Instant::now();
            cx.set_read_deadline(Some(now + ms(100)));
            now
        });
        wait_for(&server, &READ, n);
        let came = ask(&server, |recorder, _| recorder.log.last().unwrap().0);
        assert!(came >= set_at + ms(100), "{:?}", came - set_at);
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
    let set_at = ask_last(&server, |cx| {
        (0..300).for_each(|_| cx.send(&*vec![b'x'; 60_000]));
        let now = Instant::now();
        cx.set_write_deadline(Some(now + ms(100)));
        now
    });
    let end = server.next_close_reason();
    assert!(set_at.elapsed() >= ms(100));
    assert!(
        end.starts_with("write deadline passed, ") && end.ends_with(" bytes not read by the peer"),
        "{end}"
    );
}

/// Go: 19 deadlines from a nanosecond to a second, three times over; each passes, and nothing ever hangs.
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
    let (mut reactor, addr) = scribe_loop();
    let mut clients = Vec::new();
    let mut wanted: Vec<Instant> = Vec::new();
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
            wanted.push(at);
        }
    }
    let passed = |reactor: &mut Reactor<Recorder>| {
        reactor
            .handler()
            .log
            .iter()
            .filter(|(_, call)| *call == READ)
            .count()
    };
    turn_until(&mut reactor, |reactor| passed(reactor) == wanted.len());
    let mut came: Vec<Instant> = reactor
        .handler()
        .log
        .iter()
        .filter(|(_, call)| *call == READ)
        .map(|(at, _)| *at)
        .collect();
    wanted.sort_unstable();
    came.sort_unstable();
    for (wanted, came) in wanted.iter().zip(came) {
        assert!(came >= *wanted, "early by {:?}", *wanted - came);
    }
}

/// Go: deadlines that are moved on with each of a thousand reads and writes never pass.
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
        "no stale one came"
    );
    harness.run_for(ms(10));
    assert_eq!(harness.calls(), [READ, WRITE], "the last ones do pass");
}

/// Go: deadlines of two microseconds, set a thousand times by another goroutine amid reads and writes: no race, no hang.
#[test]
fn test_read_write_deadline_race() {
    let recorder = Recorder {
        on_deadline: |_, cx| {
            cx.set_deadline(None);
            Verdict::Continue
        },
        on_frame: |line, cx| {
            cx.set_write_deadline(None); // else what is echoed ends the connection
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
    // All that was posted may be read in one turn, and so may the first question.
    wait_until("a deadline", || {
        ask(&server, |recorder, _| {
            recorder
                .log
                .iter()
                .any(|(_, call)| matches!(call, Call::Deadline(_)))
        })
    });
}

/// Go: eight goroutines bring the deadlines of ten connections nearer and nearer, a hundred times each; they pass, and nothing panics.
#[test]
fn test_concurrent_set_deadline() {
    let server = Server::start(Recorder::default(), Config::default());
    let let_in = |_| {
        let mut client = server.connect();
        client.send(b"hello\n");
        client.expect(b"hello\n");
        (client, ask(&server, |recorder, _| recorder.last.unwrap()))
    };
    let (_clients, ids): (Vec<Client>, Vec<ConnectionId>) = (0..10).map(let_in).unzip();
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

/// Go: after `CloseWrite` the peer reads the end and may still write; a further write on this side fails; reading goes on to the peer's own end.
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
    let id = ask(&server, |recorder, _| recorder.last.unwrap());
    assert!(
        !ask(&server, move |_, cx| cx.send_to(id, &b"too late"[..])),
        "nothing is sent after the end"
    );
    client.send(&vec![b'x'; 100_000]);
    client.shut_write();
    assert_eq!(
        server.next_close_reason(),
        "closed by the handler",
        "read to the end, with no reset"
    );
    assert_eq!(server.stop().bytes_discarded, 100_000);
}

/// Go: whatever is done to a connection after its close fails, and says so.
#[test]
fn test_conn_close() {
    let (server, mut client) = served();
    let id = ask(&server, |recorder, _| recorder.last.unwrap());
    server.handle.close(id).unwrap();
    client.expect_eof();
    drop(client);
    assert_eq!(server.next_close_reason(), "closed by the handler");
    assert!(!ask(&server, move |_, cx| cx
        .with(id, |_| unreachable!("it is gone"))));
    assert!(!ask(&server, move |_, cx| cx.with(id, |_| Verdict::Close)));
    assert_eq!(
        server.handle.send(id, &b"late\n"[..]),
        Err(PostError::Gone((&b"late\n"[..]).into()))
    );
    assert_eq!(server.handle.close(id), Err(PostError::Gone(id)));
}

/// Go: the address of a closed listener can be listened on again at once, with connections of the old one still about.
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
        // This side closes first: it is its port that then waits out the last segments.
        let id = reactor.handler().last.unwrap();
        assert!(reactor.with(id, |_, _| Verdict::Close));
        let _ = reactor.turn(Some(Duration::ZERO)).unwrap();
        client.expect(b"hello\n");
        client.expect_eof();
        drop(client);
        turn_until(&mut reactor, |reactor| reactor.connections() == 0);
    }
}

/// Go: a read into an empty buffer is not the end. Here nobody has a buffer to be empty: but the budget may be used up to the byte, and a frame may be empty.
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

/// Go: setting the deadline to the past, from elsewhere, ends a read that waits.
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
    ask_last(&server, |cx| {
        cx.set_read_deadline(cx.now().checked_sub(Duration::from_secs(1)));
    });
    client.expect_eof();
    assert_eq!(server.next_close_reason(), "read deadline passed");
}

/// Go: a close on one side wakes the read on the other one, which finds the end.
#[test]
fn test_close_unblocks_read() {
    let (server, mut client) = served();
    let id = ask(&server, |recorder, _| recorder.last.unwrap());
    let reading = thread::spawn(move || client.expect_eof());
    server.handle.close(id).unwrap();
    reading.join().unwrap();
}

/// Go: what fails is an error that can be asked whether it was a timeout.
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
    let (mut reactor, addr) = scribe_loop();
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

/// Go: addresses are right, deadlines can be set and bytes come back, on the network and in the file system.
#[cfg(unix)]
#[test]
fn test_conn_and_listener() {
    let path = std::env::temp_dir().join(format!("glassloop-parity-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let (mut reactor, tcp) = scribe_loop();
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

/// Go: a listener's own address can be dialed. And nettest's ping-pong: both ends answer each other, in one loop.
#[test]
fn test_dial_listener_addr() {
    let (mut reactor, addr) = scribe_loop();
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

/// Go: a dial that nobody answers can be cancelled, and ends at once.
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
    assert!(!harness.is_open(0), "its socket is closed");
    assert!(
        matches!(&harness.calls()[..], [Call::Close(_)]),
        "and the handler is told once"
    );
}

/// Go: what would have cancelled the dial does no harm once it has succeeded: here its time, which is over later.
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
    harness.peer_sends(0, b"well?\n");
    harness.run_for(ms(1000));
    assert_eq!(harness.calls(), [Call::Open, frame("well?")]);
    assert_eq!(harness.received(0), b"well?\n");
}

/// Go: of two addresses the one that loses is closed, however late it answers. Here it had its time before the other one was tried.
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
    assert_eq!(harness.socket_count(), 2, "the second one is tried");
    assert!(!harness.is_open(0), "and the first one is closed");
    // The same token, and the same slot: the report on the first one must not be taken for the second one's success.
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
    assert_eq!(harness.open_sockets(), 0, "every socket is closed again");
    assert_eq!(harness.calls().len(), 100, "and each was told of once");
    assert_eq!(harness.reactor.next_deadline(), None);
}

// ---------------------------------------------------------------- tcpsock_test.go

/// Go: dials to a listener that comes and goes never bring a connection that is none: each opens or fails, and what opened can be used.
#[test]
fn test_tcp_spurious_conn_setup_completion() {
    const DIALS: u64 = 500;
    // With room for all of them: where the queue is full, Linux lets a client believe that it is
    // connected, and drops it without a word when the listener closes.
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
        // And from here on nobody listens.
    });
    let mut reactor = Reactor::new(Recorder::default(), Config::default()).unwrap();
    for _ in 0..DIALS {
        reactor.connect(addr, TIMEOUT).unwrap();
        let _ = reactor.turn(Some(Duration::ZERO)).unwrap();
    }
    turn_until(&mut reactor, |reactor| reactor.connections() == 0);
    closing.join().unwrap();
    let log = std::mem::take(&mut reactor.handler().log);
    let ends: Vec<&String> = log
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
    assert_eq!(ends.len() as u64, DIALS, "each ends once");
    assert!(opened as u64 >= DIALS / 2);
    let failed = ends
        .iter()
        .filter(|reason| reason.starts_with("cannot connect to"))
        .count();
    assert_eq!(opened + failed, ends.len());
    assert!(
        !ends.iter().any(|reason| reason.starts_with("i/o error")),
        "{ends:?}"
    );
}

/// Go: the same with dials that are given up: none succeeds later.
#[test]
fn test_tcp_spurious_conn_setup_completion_with_cancel() {
    let mut harness = Harness::new(Config::default());
    for n in 0..100 {
        harness
            .reactor
            .connect_to(vec![loopback(1)], ms(10))
            .unwrap();
        harness.run_for(ms(11));
        // The answer comes just before it is given up, or just after.
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

/// Go: a socket that the system has connected with itself is no connection; it is tried again, twice.
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

/// Go: several goroutines accept on one listener, and all who dial are served. Here it is several loops.
#[test]
fn test_tcp_concurrent_accept() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let (tell, told) = mpsc::channel();
    let loops: Vec<_> = (0..3)
        .map(|_| {
            let (listener, tell) = (listener.try_clone().unwrap(), tell.clone());
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
                tell.send(reactor.handle()).unwrap();
                reactor.run().unwrap();
                reactor.counters().accepted
            })
        })
        .collect();
    let handles: Vec<_> = (0..3)
        .map(|_| told.recv_timeout(TIMEOUT).unwrap())
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

/// Go: two connections, ten thousand messages of 512 bytes each, all come back.
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

/// Go: closing what is closed, three times over, gives errors that are defined, and nothing worse.
#[test]
fn test_close_error() {
    let (server, client) = served();
    let id = ask(&server, |recorder, _| recorder.last.unwrap());
    drop(client);
    for _ in 0..3 {
        // While it is going either is right.
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
            handle.post(Box::new(|_, _| unreachable!("nobody reads this"))),
            Err(PostError::Stopped(_))
        ));
    }
}

/// Go: closing a listener that somebody waits on frees its port at once.
#[test]
fn test_closing_listener() {
    for _ in 0..10 {
        let server = Server::start(Recorder::default(), Config::default());
        let addr = server.addr;
        server.stop();
        let _again = TcpListener::bind(addr).unwrap();
    }
}

/// Go: using a connection while another goroutine closes it is safe: it works or it says that it is gone, and never reaches another one.
#[test]
fn test_file_close_race() {
    let server = Server::start(Recorder::default(), Config::default());
    for _ in 0..30 {
        let mut client = server.connect();
        client.send(b"hello\n");
        client.expect(b"hello\n");
        let id = ask(&server, |recorder, _| recorder.last.unwrap());
        thread::scope(|scope| {
            for closes in [false, false, true] {
                let handle = &server.handle;
                scope.spawn(move || {
                    for _ in 0..50 {
                        let said = if closes {
                            handle.close(id).err().map(|_| ())
                        } else {
                            handle.send(id, &b"x\n"[..]).err().map(|_| ())
                        };
                        if said.is_some() {
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

/// Go: a write deadline that is over is an error, and not a success in silence.
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
    // And so it is with what others send.
    let (mut harness, peer) = connected();
    set(&mut harness, |cx| cx.set_write_deadline(Some(cx.now())));
    let id = harness.last();
    harness.reactor.handle().send(id, &b"late\n"[..]).unwrap();
    harness.run_for(ms(10));
    assert_eq!(harness.received(peer), b"");
    assert!(!harness.is_open(peer));
}

// ---------------------------------------------------------------- net/http's serve_test.go

/// Go: a connection that has said nothing yet does not hold up a graceful end for long. Here not at all.
#[test]
fn test_server_shutdown_state_new() {
    let server = Server::start(Recorder::default(), Config::default());
    let mut silent = server.connect();
    server.handle.stop(Stop::Gracefully);
    silent.expect_eof();
    drop(silent);
    server.stop();
}

/// Go: a listener is closed once, however often the end is asked for.
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

/// Many goroutines write, while deadlines come and go: no message is mixed with another one.
#[test]
fn racy_write() {
    let (server, mut client) = served();
    let id = ask(&server, |recorder, _| recorder.last.unwrap());
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

/// A read deadline does not keep anybody from writing.
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

/// A write deadline does not keep anybody from reading.
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

/// Deadlines in the past act at once, on both directions, and the connection can be used again once they are cleared.
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

/// A deadline that is now acts on what waits already.
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
        "what is queued stays so"
    );
    set(&mut harness, |cx| cx.set_write_deadline(None));
    harness.run_for(ms(10));
    assert_eq!(
        harness.received(peer),
        b"stuck\n",
        "and goes out when the deadline is cleared"
    );
}

/// A deadline in the future acts then, and the connection can be used again once it is set anew.
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

/// A close ends what waits, with its own reason and not with a deadline's.
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

// ---------------------------------------------------------------- what a loop adds to Go's rules

/// A handler that sets the read deadline to the past in the middle of a batch gets no further frame of it.
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

/// A handler that sets it anew in its callback goes on with the very frames that were waiting, in the same turn.
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
        "the deadline first"
    );
    harness.run_for(ms(60));
    assert_eq!(
        harness.calls(),
        [READ],
        "and it is absolute: what came did not move it"
    );
}

/// By default a read deadline ends the connection once all is sent, and a write deadline at once; each by its name, and at its time.
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
    assert!(harness.is_open(peer), "what is queued goes out first");
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

    // And with nothing queued.
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

/// A deadline that has passed but was not told yet, in the turn that would have told it, is forgotten if something clears it before.
#[test]
fn deadline_cleared_in_its_own_turn_is_never_reported() {
    let (mut harness, peer) = connected();
    set(&mut harness, |cx| cx.set_deadline(Some(cx.now() + ms(50))));
    harness.turn();
    harness.skip(ms(60));
    // A letter is read before the deadlines are looked at.
    let id = harness.last();
    let clear: Task = Box::new(move |_, cx| {
        assert!(cx.with(id, |cx| {
            assert!(
                matches!(cx.try_send(&b"late"[..]), Err(SendError::DeadlinePassed)),
                "it is over all the same"
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

/// A connection that is closing has no deadlines of its handler's any more, and one that is new in the same slot has none of the old one's.
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
