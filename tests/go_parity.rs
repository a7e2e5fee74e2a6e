//! What Go's tests of its net package pin, and where the same is shown here; by Go's names, so that they can be laid side by side.
//!
//! Go's calls look as if they blocked. Here a read that returns is [`Handler::frame`](glassloop::Handler::frame), a timeout is
//! [`Handler::deadline`](glassloop::Handler::deadline), a write is [`Context::send`], `CloseWrite` is what the loop does itself when all is sent,
//! and what another goroutine does to a connection is a letter.

#[path = "util/played.rs"]
mod played;
#[path = "util/scribe.rs"]
mod scribe;
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

use played::{loopback, ms};
use scribe::{Call, Play, Scribe, Task, closed, frame};
use util::{Client, PATIENCE, Server, Silent, addr_of, own_host, turn_until, wait_until};

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
const CAUGHT: &str = "an_accept_that_fails_for_want_of_room_rests_and_is_asked_again_by_the_clock";

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
        Here("tests/closing.rs", "a_stop_at_once_drops_everything"),
    ),
    (
        "TestListenCloseListen",
        Here(SELF, "test_listen_close_listen"),
    ),
    (
        "TestAcceptIgnoreAbortedConnRequest",
        Here(
            "tests/seam.rs",
            "a_connection_that_is_gone_before_it_is_accepted_does_not_keep_the_next_one_out",
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
            "a_reset_ends_one_connection_and_is_not_taken_for_an_end",
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
            "addresses_share_the_time_and_none_gets_too_little_to_be_of_use",
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
            "a_lone_request_costs_one_wait_one_read_one_write_and_nothing_else",
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
            "frames_that_came_before_a_reset_are_handled",
        ),
    ),
    (
        "TestBuffers",
        Here(
            "tests/seam.rs",
            "writes_of_one_byte_and_signals_lose_nothing",
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
            "a_graceful_stop_answers_what_was_read_and_ends_with_no_reset",
        ),
    ),
    (
        "TestServerShutdown",
        Here(
            "tests/closing.rs",
            "requests_read_but_not_yet_handled_are_answered_by_a_graceful_stop",
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
            "a_stopping_loop_ignores_its_old_listener_and_begins_nothing_new",
        ),
    ),
    (
        "nettest/BasicIO",
        Here(
            "tests/wire.rs",
            "payloads_of_every_size_are_taken_up_to_the_largest_frame",
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
fn every_test_that_the_table_names_is_there() {
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
fn set(play: &mut Play, setting: impl FnOnce(&mut Context<'_, Scribe>)) {
    play.with_last(|cx| {
        setting(cx);
        Verdict::Continue
    });
}

/// A played loop with one connection, and nothing written down yet.
fn connected() -> (Play, usize) {
    let mut play = Play::new(Config::default());
    let peer = play.admit(1);
    assert_eq!(play.calls(), [Call::Open]);
    (play, peer)
}

const READ: Call = Call::Deadline(Direction::Read);
const WRITE: Call = Call::Deadline(Direction::Write);

/// A loop in a thread, and a client that it has let in.
fn served() -> (Server<Task>, Client) {
    let server = Server::start(Scribe::default(), Config::default());
    let mut client = server.connect();
    client.send(b"hello\n");
    client.expect(b"hello\n");
    (server, client)
}

/// Has something done in the loop's thread, and brings back what it says.
fn ask<T: Send + 'static>(
    server: &Server<Task>,
    question: impl FnOnce(&mut Scribe, &mut LoopContext<'_, Scribe>) -> T + Send + 'static,
) -> T {
    let (tell, told) = mpsc::channel();
    server
        .handle
        .post(Box::new(move |scribe, cx| {
            tell.send(question(scribe, cx)).unwrap();
        }))
        .unwrap();
    told.recv_timeout(PATIENCE).expect("the loop should answer")
}

/// The same for the connection that was let in last.
fn ask_last<T: Send + 'static>(
    server: &Server<Task>,
    question: impl FnOnce(&mut Context<'_, Scribe>) -> T + Send + 'static,
) -> T {
    ask(server, |scribe, cx| {
        let mut answer = None;
        assert!(cx.with(scribe.last.unwrap(), |cx| {
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
        ask(server, move |scribe, _| {
            scribe
                .log
                .iter()
                .filter(|(_, call)| *call == wanted)
                .count()
        }) >= count
    });
}

fn scribe_loop() -> (Reactor<Scribe>, SocketAddr) {
    util::reactor(Scribe::default(), Config::default())
}

// ---------------------------------------------------------------- timeout_test.go

/// Go: a dial with a timeout, or a deadline in the past, fails with a timeout and never hangs. Here it fails once, and in a turn of its own.
#[test]
fn test_dial_timeout() {
    let Some(silent) = Silent::listen() else {
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
    let server = Server::start(Scribe::default(), config);
    let timer = ask(&server, |_, cx| cx.set_timer(cx.now() + ms(10)));
    wait_for(&server, &Call::LoopTimer(timer), 1);
}

/// Go: a deadline that is over and then cleared must not make an accept return.
#[test]
fn test_accept_timeout_must_not_return() {
    let (mut play, _) = connected();
    let timer = play.reactor.set_timer(play.at(0));
    play.skip(ms(100));
    assert!(play.reactor.cancel_timer(timer));
    play.pass(ms(1000));
    assert_eq!(play.calls(), []);
}

/// Go: a read with a deadline in the past fails though bytes are there, returns none of them, and fails again until the deadline is set anew.
#[test]
fn test_read_timeout() {
    let (mut play, peer) = connected();
    let past = play.at(0);
    play.skip(ms(5));
    play.turn();
    set(&mut play, |cx| cx.set_read_deadline(Some(past)));
    play.say(peer, b"one\ntwo\nthree\n");
    play.pass(ms(1000));
    assert_eq!(play.calls(), [READ], "no frame, and told once");
    play.say(peer, b"four\n");
    play.pass(ms(1000));
    assert_eq!(play.calls(), [], "it stays passed");
    set(&mut play, |cx| {
        cx.set_read_deadline(Some(cx.now() + ms(100)));
    });
    play.pass(ms(50));
    assert_eq!(play.calls(), ["one", "two", "three", "four"].map(frame));
    play.pass(ms(1000));
    assert_eq!(play.calls(), [READ], "the new one passes too");
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
        server.next_end(),
        "write deadline passed, 0 bytes not read by the peer"
    );
    let (mut play, peer) = connected();
    set(&mut play, |cx| {
        cx.set_deadline(Some(cx.now()));
        cx.set_read_deadline(None);
    });
    play.pass(ms(1000));
    assert_eq!(
        play.calls(),
        [WRITE],
        "no read deadline: it was cleared before it was told"
    );
    let id = play.last();
    play.reactor.handle().close(id).unwrap();
    play.turn();
    play.end(peer);
    play.pass(ms(10));
    assert_eq!(play.calls(), [closed("closed by the handler")]);
}

/// Go: a write with a deadline in the past fails though there is room, writes nothing, and fails again until the deadline is set anew.
#[test]
fn test_write_timeout() {
    let (mut play, peer) = connected();
    set(&mut play, |cx| {
        cx.set_write_deadline(Some(cx.now()));
        for _ in 0..3 {
            assert!(matches!(
                cx.try_send(&b"late"[..]),
                Err(SendError::DeadlinePassed)
            ));
        }
        assert_eq!(cx.pending(), 0);
    });
    play.pass(ms(1000));
    set(&mut play, |cx| {
        assert!(
            matches!(cx.try_send(&b"late"[..]), Err(SendError::DeadlinePassed)),
            "it stays passed"
        );
    });
    play.pass(ms(10));
    assert_eq!((play.calls(), play.got(peer)), (vec![WRITE], Vec::new()));
    set(&mut play, |cx| {
        cx.set_write_deadline(Some(cx.now() + ms(100)));
        assert!(cx.try_send(&b"in time"[..]).is_ok());
    });
    play.pass(ms(10));
    assert_eq!(play.got(peer), b"in time\n");
}

/// Go: both deadlines in the past, the writing one cleared: the write waits for room, and what ends it is the close.
#[test]
fn test_write_timeout_must_not_return() {
    let (mut play, peer) = connected();
    play.set_room(peer, 0);
    set(&mut play, |cx| {
        cx.set_deadline(Some(cx.now()));
        cx.set_write_deadline(None);
        assert!(cx.try_send(&b"patience"[..]).is_ok());
    });
    play.pass(ms(1000));
    assert_eq!(play.calls(), [READ]);
    play.set_room(peer, 100);
    play.tell(peer, |event| event.writable = true);
    play.pass(ms(10));
    assert_eq!(play.got(peer), b"patience\n");
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
        let came = ask(&server, |scribe, _| scribe.log.last().unwrap().0);
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
        Scribe {
            on_deadline: |_, _| Verdict::Close,
            ..Scribe::default()
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
    let end = server.next_end();
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
    let passed = |reactor: &mut Reactor<Scribe>| {
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
    let (mut play, peer) = connected();
    play.reactor.handler().on_frame = |line, cx| {
        cx.set_read_deadline(Some(cx.now() + ms(3)));
        cx.set_write_deadline(Some(cx.now() + ms(3)));
        cx.send(line);
        Verdict::Continue
    };
    for _ in 0..1000 {
        play.say(peer, b"more\n");
        play.turn();
        play.pass(ms(2));
    }
    assert_eq!(play.got(peer), b"more\n".repeat(1000));
    assert!(
        play.calls().iter().all(|call| *call == frame("more")),
        "no stale one came"
    );
    play.pass(ms(10));
    assert_eq!(play.calls(), [READ, WRITE], "the last ones do pass");
}

/// Go: deadlines of two microseconds, set a thousand times by another goroutine amid reads and writes: no race, no hang.
#[test]
fn test_read_write_deadline_race() {
    let scribe = Scribe {
        on_deadline: |_, cx| {
            cx.set_deadline(None);
            Verdict::Continue
        },
        on_frame: |line, cx| {
            cx.set_write_deadline(None); // else what is echoed ends the connection
            cx.send(line);
            Verdict::Continue
        },
        ..Scribe::default()
    };
    let server = Server::start(scribe, Config::default());
    let mut client = server.connect();
    client.send(b"hello\n");
    client.expect(b"hello\n");
    let handle = server.handle.clone();
    let setting = thread::spawn(move || {
        for n in 0..1000_u32 {
            let task: Task = Box::new(move |scribe, cx| {
                cx.with(scribe.last.unwrap(), |cx| {
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
        ask(&server, |scribe, _| {
            scribe
                .log
                .iter()
                .any(|(_, call)| matches!(call, Call::Deadline(_)))
        })
    });
}

/// Go: eight goroutines bring the deadlines of ten connections nearer and nearer, a hundred times each; they pass, and nothing panics.
#[test]
fn test_concurrent_set_deadline() {
    let server = Server::start(Scribe::default(), Config::default());
    let let_in = |_| {
        let mut client = server.connect();
        client.send(b"hello\n");
        client.expect(b"hello\n");
        (client, ask(&server, |scribe, _| scribe.last.unwrap()))
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
    let scribe = Scribe {
        on_frame: |line, cx| {
            cx.send(line);
            Verdict::Close
        },
        ..Scribe::default()
    };
    let server = Server::start(scribe, Config::default());
    let mut client = server.connect();
    client.send(b"bye\n");
    client.expect(b"bye\n");
    client.expect_end();
    let id = ask(&server, |scribe, _| scribe.last.unwrap());
    assert!(
        !ask(&server, move |_, cx| cx.send_to(id, &b"too late"[..])),
        "nothing is sent after the end"
    );
    client.send(&vec![b'x'; 100_000]);
    client.shut_write();
    assert_eq!(
        server.next_end(),
        "closed by the handler",
        "read to the end, with no reset"
    );
    assert_eq!(server.stop().bytes_discarded, 100_000);
}

/// Go: whatever is done to a connection after its close fails, and says so.
#[test]
fn test_conn_close() {
    let (server, mut client) = served();
    let id = ask(&server, |scribe, _| scribe.last.unwrap());
    server.handle.close(id).unwrap();
    client.expect_end();
    drop(client);
    assert_eq!(server.next_end(), "closed by the handler");
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
    let mut addr = SocketAddr::from((own_host(), 0));
    for _ in 0..10 {
        let mut reactor = Reactor::bind(addr, Scribe::default()).unwrap();
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
        client.expect_end();
        drop(client);
        turn_until(&mut reactor, |reactor| reactor.connections() == 0);
    }
}

/// Go: a read into an empty buffer is not the end. Here nobody has a buffer to be empty: but the budget may be used up to the byte, and a frame may be empty.
#[test]
fn test_zero_byte_read() {
    let mut play = Play::new(Config {
        scratch: 1,
        ..Config::default()
    });
    let peer = play.admit(1);
    play.say(peer, b"\nab\n\n");
    play.pass(ms(10));
    assert_eq!(
        play.calls(),
        [Call::Open, frame(""), frame("ab"), frame("")]
    );
    assert_eq!(play.got(peer), b"\nab\n\n");
    assert!(play.is_open(peer));
}

/// Go: setting the deadline to the past, from elsewhere, ends a read that waits.
#[test]
fn test_read_timeout_unblocks_read() {
    let config = Config {
        idle_timeout: None,
        ..Config::default()
    };
    let server = Server::start(
        Scribe {
            on_deadline: |_, _| Verdict::Close,
            ..Scribe::default()
        },
        config,
    );
    let mut client = server.connect();
    client.send(b"hello\n");
    client.expect(b"hello\n");
    ask_last(&server, |cx| {
        cx.set_read_deadline(cx.now().checked_sub(Duration::from_secs(1)));
    });
    client.expect_end();
    assert_eq!(server.next_end(), "read deadline passed");
}

/// Go: a close on one side wakes the read on the other one, which finds the end.
#[test]
fn test_close_unblocks_read() {
    let (server, mut client) = served();
    let id = ask(&server, |scribe, _| scribe.last.unwrap());
    let reading = thread::spawn(move || client.expect_end());
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
        let id = reactor.connect_to(vec![addr.clone()], PATIENCE).unwrap();
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
        assert!(reactor.with(id, |scribe, cx| {
            scribe.on_frame = |_, cx| {
                assert!(cx.try_send(&b"x"[..]).is_ok());
                Verdict::Close
            };
            assert_eq!(cx.peer_addr(), addr);
            cx.set_deadline(Some(cx.now() + PATIENCE));
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
    let id = reactor.connect(addr, PATIENCE).unwrap();
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
    let mut play = Play::new(Config::default());
    let id = play
        .reactor
        .connect_to(vec![loopback(1)], Duration::from_secs(3600))
        .unwrap();
    play.pass(ms(100));
    assert_eq!(play.reactor.connections(), 1);
    play.reactor.handle().close(id).unwrap();
    play.pass(ms(100));
    assert_eq!(play.reactor.connections(), 0);
    assert!(!play.is_open(0), "its socket is closed");
    assert!(
        matches!(&play.calls()[..], [Call::Close(_)]),
        "and the handler is told once"
    );
}

/// Go: what would have cancelled the dial does no harm once it has succeeded: here its time, which is over later.
#[test]
fn test_cancel_after_dial() {
    let mut play = Play::new(Config::default());
    play.reactor.connect_to(vec![loopback(1)], ms(100)).unwrap();
    play.pass(ms(50));
    play.answer(0, Ok(Established::Yes));
    play.pass(ms(1000));
    play.say(0, b"well?\n");
    play.pass(ms(1000));
    assert_eq!(play.calls(), [Call::Open, frame("well?")]);
    assert_eq!(play.got(0), b"well?\n");
}

/// Go: of two addresses the one that loses is closed, however late it answers. Here it had its time before the other one was tried.
#[test]
fn test_dial_parallel_spurious_connection() {
    let mut play = Play::new(Config::default());
    play.reactor
        .connect_to(vec![loopback(1), loopback(1)], Duration::from_secs(4))
        .unwrap();
    play.pass(ms(1900));
    assert_eq!(play.sockets(), 1);
    play.pass(ms(200));
    assert_eq!(play.sockets(), 2, "the second one is tried");
    assert!(!play.is_open(0), "and the first one is closed");
    // The same token, and the same slot: the report on the first one must not be taken for the second one's success.
    play.answer(0, Ok(Established::Yes));
    play.turn();
    assert_eq!(play.calls(), []);
    play.answer(1, Ok(Established::Yes));
    play.turn();
    assert_eq!(play.calls(), [Call::Open]);
    assert_eq!(play.reactor.connections(), 1);
}

/// Go: dials that fail leave no descriptor behind.
#[test]
fn test_dialer_dual_stack_fd_leak() {
    let mut play = Play::new(Config::default());
    for _ in 0..10 {
        for _ in 0..10 {
            play.reactor
                .connect_to(vec![loopback(1), loopback(1)], ms(10))
                .unwrap();
        }
        play.pass(ms(100));
        assert_eq!(
            (play.reactor.connections(), play.reactor.buffered()),
            (0, 0)
        );
    }
    assert_eq!(play.open(), 0, "every socket is closed again");
    assert_eq!(play.calls().len(), 100, "and each was told of once");
    assert_eq!(play.reactor.next_deadline(), None);
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
        .bind(&SocketAddr::from((own_host(), 0)).into())
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
    let mut reactor = Reactor::new(Scribe::default(), Config::default()).unwrap();
    for _ in 0..DIALS {
        reactor.connect(addr, PATIENCE).unwrap();
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
    let mut play = Play::new(Config::default());
    for n in 0..100 {
        play.reactor.connect_to(vec![loopback(1)], ms(10)).unwrap();
        play.pass(ms(11));
        // The answer comes just before it is given up, or just after.
        play.answer(n, Ok(Established::Yes));
        if n % 2 == 0 {
            play.skip(ms(5));
        }
        play.turn();
        play.end(n);
        play.pass(ms(100));
    }
    let calls = play.calls();
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
    assert_eq!((play.sockets(), play.open()), (100, 0));
    assert_eq!(play.reactor.connections(), 0);
}

/// Go: a socket that the system has connected with itself is no connection; it is tried again, twice.
#[test]
fn test_tcp_self_connect() {
    let mut play = Play::new(Config::default());
    play.reactor
        .connect_to(vec![loopback(1)], PATIENCE)
        .unwrap();
    for n in 0..3 {
        assert_eq!((play.sockets(), play.is_open(n)), (n + 1, true));
        play.answer(n, Ok(Established::WithItself));
        play.turn();
    }
    play.pass(ms(10));
    assert_eq!(play.sockets(), 3);
    let calls = play.calls();
    assert!(
        matches!(&calls[..], [Call::Close(reason)] if reason.contains("connected with itself")),
        "{calls:?}"
    );
    assert_eq!(play.reactor.connections(), 0);
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
                    Scribe::default(),
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
        .map(|_| told.recv_timeout(PATIENCE).unwrap())
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
    let id = ask(&server, |scribe, _| scribe.last.unwrap());
    drop(client);
    for _ in 0..3 {
        // While it is going either is right.
        assert!(matches!(
            server.handle.close(id),
            Ok(()) | Err(PostError::Gone(_))
        ));
    }
    server.next_end();
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
        let server = Server::start(Scribe::default(), Config::default());
        let addr = server.addr;
        server.stop();
        let _again = TcpListener::bind(addr).unwrap();
    }
}

/// Go: using a connection while another goroutine closes it is safe: it works or it says that it is gone, and never reaches another one.
#[test]
fn test_file_close_race() {
    let server = Server::start(Scribe::default(), Config::default());
    for _ in 0..30 {
        let mut client = server.connect();
        client.send(b"hello\n");
        client.expect(b"hello\n");
        let id = ask(&server, |scribe, _| scribe.last.unwrap());
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
        assert_eq!(server.next_end(), "closed by the handler");
    }
}

/// Go: a write deadline that is over is an error, and not a success in silence.
#[test]
fn test_sendfile_on_write_timeout_exceeded() {
    let (mut play, peer) = connected();
    play.set_room(peer, 2);
    set(&mut play, |cx| {
        cx.send(&b"first"[..]);
        cx.set_write_deadline(Some(cx.now() + ms(100)));
    });
    play.pass(ms(50));
    assert_eq!(play.got(peer), b"fi");
    play.pass(ms(100));
    set(&mut play, |cx| cx.send(&b"second"[..]));
    play.pass(ms(10));
    assert_eq!(
        play.calls(),
        [
            WRITE,
            closed("write deadline passed, 4 bytes not read by the peer")
        ]
    );
    // And so it is with what others send.
    let (mut play, peer) = connected();
    set(&mut play, |cx| cx.set_write_deadline(Some(cx.now())));
    let id = play.last();
    play.reactor.handle().send(id, &b"late\n"[..]).unwrap();
    play.pass(ms(10));
    assert_eq!(play.got(peer), b"");
    assert!(!play.is_open(peer));
}

// ---------------------------------------------------------------- net/http's serve_test.go

/// Go: a connection that has said nothing yet does not hold up a graceful end for long. Here not at all.
#[test]
fn test_server_shutdown_state_new() {
    let server = Server::start(Scribe::default(), Config::default());
    let mut silent = server.connect();
    server.handle.stop(Stop::Gracefully);
    silent.expect_end();
    drop(silent);
    server.stop();
}

/// Go: a listener is closed once, however often the end is asked for.
#[test]
fn test_server_close_listener_once() {
    let (mut play, peer) = connected();
    for how in [Stop::Gracefully, Stop::Gracefully, Stop::Within(ms(10))] {
        play.reactor.stop(how);
        play.turn();
    }
    assert_eq!(play.stage.borrow().unlistened, 1);
    play.reactor.stop(Stop::AtOnce);
    assert_eq!(play.reactor.turn(None).unwrap(), Turn::Stopped);
    assert_eq!(play.stage.borrow().unlistened, 1);
    assert!(!play.is_open(peer));
}

// ---------------------------------------------------------------- x/net/nettest

/// Many goroutines write, while deadlines come and go: no message is mixed with another one.
#[test]
fn racy_write() {
    let (server, mut client) = served();
    let id = ask(&server, |scribe, _| scribe.last.unwrap());
    thread::scope(|scope| {
        for name in *b"abcdefghij" {
            let handle = &server.handle;
            scope.spawn(move || {
                for _ in 0..100 {
                    handle.send(id, [&[name; 63][..], b"\n"].concat()).unwrap();
                    let task: Task = Box::new(move |_, cx| {
                        cx.with(id, |cx| {
                            cx.set_write_deadline(Some(cx.now() + PATIENCE));
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
    let (mut play, peer) = connected();
    set(&mut play, |cx| cx.set_read_deadline(Some(cx.now())));
    play.pass(ms(10));
    set(&mut play, |cx| {
        assert!(cx.try_send(&b"written"[..]).is_ok());
    });
    play.pass(ms(10));
    assert_eq!(
        (play.calls(), play.got(peer)),
        (vec![READ], b"written\n".to_vec())
    );
}

/// A write deadline does not keep anybody from reading.
#[test]
fn write_timeout() {
    let (mut play, peer) = connected();
    play.reactor.handler().on_frame = |_, _| Verdict::Continue;
    set(&mut play, |cx| cx.set_write_deadline(Some(cx.now())));
    play.pass(ms(10));
    play.say(peer, b"read\n");
    play.pass(ms(10));
    assert_eq!(play.calls(), [WRITE, frame("read")]);
}

/// Deadlines in the past act at once, on both directions, and the connection can be used again once they are cleared.
#[test]
fn past_timeout() {
    let (mut play, peer) = connected();
    set(&mut play, |cx| {
        cx.set_deadline(
            cx.now()
                .checked_sub(Duration::from_secs(1))
                .or(Some(cx.now())),
        );
    });
    play.say(peer, b"waits\n");
    play.pass(ms(10));
    set(&mut play, |cx| {
        assert!(matches!(
            cx.try_send(&b"late"[..]),
            Err(SendError::DeadlinePassed)
        ));
    });
    assert_eq!(play.calls(), [READ, WRITE]);
    set(&mut play, |cx| cx.set_deadline(None));
    play.pass(ms(10));
    assert_eq!(
        (play.calls(), play.got(peer)),
        (vec![frame("waits")], b"waits\n".to_vec())
    );
}

/// A deadline that is now acts on what waits already.
#[test]
fn present_timeout() {
    let (mut play, peer) = connected();
    play.set_room(peer, 0);
    set(&mut play, |cx| cx.send(&b"stuck"[..]));
    play.pass(ms(100));
    set(&mut play, |cx| cx.set_deadline(Some(cx.now())));
    play.set_room(peer, 100);
    play.tell(peer, |event| event.writable = true);
    play.pass(ms(10));
    assert_eq!(
        (play.calls(), play.got(peer)),
        (vec![READ, WRITE], Vec::new()),
        "what is queued stays so"
    );
    set(&mut play, |cx| cx.set_write_deadline(None));
    play.pass(ms(10));
    assert_eq!(
        play.got(peer),
        b"stuck\n",
        "and goes out when the deadline is cleared"
    );
}

/// A deadline in the future acts then, and the connection can be used again once it is set anew.
#[test]
fn future_timeout() {
    let (mut play, peer) = connected();
    set(&mut play, |cx| cx.set_deadline(Some(cx.now() + ms(100))));
    play.pass(ms(99));
    assert_eq!(play.calls(), []);
    play.pass(ms(2));
    assert_eq!(play.calls(), [READ, WRITE]);
    set(&mut play, |cx| cx.set_deadline(None));
    play.say(peer, b"again\n");
    play.pass(ms(10));
    assert_eq!(
        (play.calls(), play.got(peer)),
        (vec![frame("again")], b"again\n".to_vec())
    );
}

/// A close ends what waits, with its own reason and not with a deadline's.
#[test]
fn close_timeout() {
    let (mut play, peer) = connected();
    set(&mut play, |cx| cx.set_deadline(Some(cx.now() + ms(100))));
    play.with_last(|_| Verdict::Close);
    play.turn();
    play.pass(ms(500));
    play.end(peer);
    play.pass(ms(10));
    assert_eq!(play.calls(), [closed("closed by the handler")]);
}

// ---------------------------------------------------------------- what a loop adds to Go's rules

/// A handler that sets the read deadline to the past in the middle of a batch gets no further frame of it.
#[test]
fn deadline_in_the_past_comes_before_the_rest_of_the_batch() {
    let (mut play, peer) = connected();
    play.reactor.handler().on_frame = |line, cx| {
        if line == b"stop" {
            cx.set_read_deadline(Some(cx.now()));
        }
        Verdict::Continue
    };
    play.say(peer, b"one\nstop\ntwo\nthree\nhal");
    play.pass(ms(100));
    assert_eq!(play.calls(), [frame("one"), frame("stop"), READ]);
    play.say(peer, b"f\n");
    play.pass(ms(100));
    assert_eq!(play.calls(), []);
    set(&mut play, |cx| cx.set_read_deadline(None));
    play.pass(ms(100));
    assert_eq!(play.calls(), ["two", "three", "half"].map(frame));
}

/// A handler that sets it anew in its callback goes on with the very frames that were waiting, in the same turn.
#[test]
fn deadline_that_is_set_anew_in_the_callback_lets_the_batch_go_on() {
    let (mut play, peer) = connected();
    play.reactor.handler().on_deadline = |which, cx| {
        assert_eq!(which, Direction::Read);
        cx.set_read_deadline(Some(cx.now() + ms(50)));
        Verdict::Continue
    };
    set(&mut play, |cx| {
        cx.set_read_deadline(Some(cx.now() + ms(50)));
    });
    play.turn();
    play.skip(ms(50));
    play.say(peer, b"already there\n");
    play.turn();
    assert_eq!(
        play.calls(),
        [READ, frame("already there")],
        "the deadline first"
    );
    play.pass(ms(60));
    assert_eq!(
        play.calls(),
        [READ],
        "and it is absolute: what came did not move it"
    );
}

/// By default a read deadline ends the connection once all is sent, and a write deadline at once; each by its name, and at its time.
#[test]
fn deadline_by_default_closes_with_its_own_reason() {
    let closing = || {
        let (mut play, peer) = connected();
        play.reactor.handler().on_deadline = |_, _| Verdict::Close;
        play.set_room(peer, 2);
        set(&mut play, |cx| cx.send(&b"hello"[..]));
        play.turn();
        (play, peer)
    };
    let (mut play, peer) = closing();
    set(&mut play, |cx| {
        cx.set_read_deadline(Some(cx.now() + ms(100)));
    });
    play.pass(ms(200));
    assert!(play.is_open(peer), "what is queued goes out first");
    play.set_room(peer, 100);
    play.tell(peer, |event| event.writable = true);
    play.pass(ms(10));
    assert_eq!(
        (play.calls(), play.got(peer)),
        (
            vec![READ, closed("read deadline passed")],
            b"hello\n".to_vec()
        )
    );

    let (mut play, peer) = closing();
    set(&mut play, |cx| {
        cx.set_write_deadline(Some(cx.now() + ms(100)));
    });
    play.pass(ms(200));
    assert_eq!(
        (play.calls(), play.got(peer)),
        (
            vec![
                WRITE,
                closed("write deadline passed, 4 bytes not read by the peer")
            ],
            b"he".to_vec()
        )
    );

    // And with nothing queued.
    let (mut play, peer) = connected();
    play.reactor.handler().on_deadline = |_, _| Verdict::Close;
    set(&mut play, |cx| {
        cx.set_read_deadline(Some(cx.now() + ms(100)));
    });
    play.pass(ms(200));
    assert_eq!(
        play.log(),
        [(100, READ), (100, closed("read deadline passed"))]
    );
    assert!(!play.is_open(peer));
}

/// A deadline that has passed but was not told yet, in the turn that would have told it, is forgotten if something clears it before.
#[test]
fn deadline_that_is_cleared_in_its_own_turn_is_never_told() {
    let (mut play, peer) = connected();
    set(&mut play, |cx| cx.set_deadline(Some(cx.now() + ms(50))));
    play.turn();
    play.skip(ms(60));
    // A letter is read before the deadlines are looked at.
    let id = play.last();
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
    play.reactor.handle().post(clear).unwrap();
    play.pass(ms(1000));
    assert_eq!(
        (play.calls(), play.got(peer)),
        (Vec::new(), b"in time\n".to_vec())
    );
}

/// A connection that is closing has no deadlines of its handler's any more, and one that is new in the same slot has none of the old one's.
#[test]
fn deadline_goes_with_its_connection() {
    let (mut play, peer) = connected();
    set(&mut play, |cx| cx.set_deadline(Some(cx.now() + ms(50))));
    play.end(peer);
    play.pass(ms(10));
    assert_eq!(play.calls(), [closed("closed by the peer")]);
    let next = play.admit(1);
    play.say(next, b"hello\n");
    play.pass(ms(200));
    assert_eq!(play.calls(), [Call::Open, frame("hello")]);
}
