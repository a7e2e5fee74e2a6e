//! The loop as a part of something larger: the examples that embed it, and what they rely on.

#![cfg(unix)]

#[path = "util/process.rs"]
mod process;
mod util;

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use glassloop::codec::Line;
use glassloop::{Config, Context, Handler, Origin, Reactor, Stop, Turn, Verdict};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use process::{Process, example};
use util::{Client, TIMEOUT, turn_until, wait_until};

/// An example that runs, and where it listens.
fn run(name: &str) -> (Process, SocketAddr) {
    Process::run_listening(&mut Command::new(example(name)))
}

/// Several clients in turn, each of whose lines comes back before the next is sent: one lost edge, and it stands still.
///
/// Returns also a time at which the first of them has not yet sent its last line.
fn talk_in_lock_step(addr: SocketAddr) -> (Vec<Client>, Instant) {
    let mut clients: Vec<Client> = (0..5).map(|_| Client::connect(addr)).collect();
    let mut last_round = Instant::now();
    for n in 0..60 {
        last_round = Instant::now();
        for client in &mut clients {
            let line = format!("line {n}\n");
            client.send(line.as_bytes());
            client.expect(line.as_bytes());
        }
    }
    (clients, last_round)
}

/// Several clients at once, each with much on the way.
fn talk_all_at_once(addr: SocketAddr) {
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = Client::connect(addr);
                for n in 0..30 {
                    let lines = format!("{n}\n").repeat(2000);
                    client.send(lines.as_bytes());
                    client.expect(lines.as_bytes());
                }
            });
        }
    });
}

/// Nothing but a deadline wakes the loop: who says nothing is let go when his time is up, and not before.
fn fall_silent((mut clients, silent): (Vec<Client>, Instant)) {
    clients[0].expect_eof();
    let idle = silent.elapsed();
    assert!(idle >= Duration::from_secs(2), "let go after {idle:?}");
    for client in &mut clients[1..] {
        client.expect_eof();
    }
}

#[test]
fn embed_thread_serves_and_broadcasts_stdin_lines() {
    let (mut process, addr) = run("embed_thread");
    talk_all_at_once(addr);
    let (mut clients, _) = talk_in_lock_step(addr);
    for n in 0..100 {
        let news = format!("news {n}\n");
        process.write_stdin(&news);
        for client in &mut clients {
            client.expect(news.as_bytes());
        }
    }
    // More than is carried out in a turn, and then the end: nothing of it is lost.
    let news = (0..3000)
        .map(|n| format!("{n}\n"))
        .collect::<Vec<_>>()
        .concat();
    process.write_stdin(&news);
    process.close_stdin();
    for client in &mut clients {
        client.expect(news.as_bytes());
        client.expect_eof();
    }
    drop(clients);
    assert_eq!(process.end().0, Some(0));
}

#[test]
fn embed_tokio_serves_and_closes_idle_connections_beside_a_task() {
    let (mut process, addr) = run("embed_tokio");
    talk_all_at_once(addr);
    fall_silent(talk_in_lock_step(addr));
    // At least two seconds have passed.
    assert_eq!(
        (process.line(), process.line()),
        ("tick 1".to_string(), "tick 2".to_string())
    );
    talk_in_lock_step(addr);
}

#[test]
fn embed_nested_serves_and_closes_idle_connections() {
    let (_process, addr) = run("embed_nested");
    talk_all_at_once(addr);
    let clients = talk_in_lock_step(addr);
    let asker = UdpSocket::bind("127.0.0.1:0").unwrap();
    asker.set_read_timeout(Some(TIMEOUT)).unwrap();
    let ask = |wanted: &[u8]| {
        let mut answer = [0; 16];
        asker.send_to(b"how many?", addr).unwrap();
        let length = asker.recv(&mut answer).unwrap();
        answer[..length] == *wanted
    };
    // The peers of the first talk may not have been noticed to have left.
    wait_until("five connections", || ask(b"5\n"));
    fall_silent(clients);
    wait_until("the end of all connections", || ask(b"0\n"));
    talk_in_lock_step(addr);
}

#[test]
fn example_that_cannot_listen_exits_with_an_error() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    for name in ["embed_thread", "embed_tokio", "embed_nested"] {
        let output = Command::new(example(name))
            .arg(&addr)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(
            (output.status.code(), output.stdout.as_slice()),
            (Some(1), &b""[..]),
            "{name}"
        );
    }
}

/// Sends back; keeps quiet otherwise.
struct Echo;

impl Handler for Echo {
    type Codec = Line;
    type State = ();
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (Line, ()) {
        (Line::default(), ())
    }

    fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Verdict {
        cx.send(line);
        Verdict::Continue
    }
}

/// No deadline but those that a test sets.
fn no_guards() -> Config {
    Config {
        idle_timeout: None,
        frame_timeout: None,
        handshake_timeout: None,
        write_timeout: None,
        ..Config::default()
    }
}

/// A program's own poller, with the loop as its only source.
struct Outer {
    poll: Poll,
    events: Events,
}

impl Outer {
    fn around(reactor: &Reactor<Echo>) -> Self {
        let poll = Poll::new().unwrap();
        poll.registry()
            .register(
                &mut SourceFd(&reactor.as_raw_fd()),
                Token(0),
                Interest::READABLE,
            )
            .unwrap();
        Self {
            poll,
            events: Events::with_capacity(4),
        }
    }

    /// Whether the loop's descriptor has become readable, in so long at most.
    fn hears(&mut self, patience: Duration) -> bool {
        self.poll.poll(&mut self.events, Some(patience)).unwrap();
        !self.events.is_empty()
    }
}

fn turn(reactor: &mut Reactor<Echo>) -> Turn {
    reactor.turn(Some(Duration::ZERO)).unwrap()
}

/// Turns as long as turns are due; returns how many that were.
#[track_caller]
fn settle(reactor: &mut Reactor<Echo>) -> u32 {
    for turns in 0..1000 {
        if reactor.next_deadline().is_none_or(|at| at > Instant::now()) {
            return turns;
        }
        let _ = turn(reactor);
    }
    panic!("there is always more to do: {reactor:?}");
}

#[test]
fn idle_loop_without_guards_has_no_deadline() {
    let (mut reactor, addr) = util::reactor(Echo, no_guards());
    assert_eq!(reactor.next_deadline(), None);
    let mut client = Client::connect(addr);
    turn_until(&mut reactor, |reactor| reactor.connections() == 1);
    client.send(b"x\n");
    turn_until(&mut reactor, |reactor| reactor.counters().writes == 1);
    settle(&mut reactor);
    assert_eq!(
        reactor.next_deadline(),
        None,
        "an idle connection without guards waits for nothing"
    );
}

#[test]
fn next_deadline_is_the_nearest_and_ignores_cancelled_timers() {
    let secs = Duration::from_secs;
    let (mut reactor, addr) = util::reactor(
        Echo,
        Config {
            idle_timeout: Some(secs(500)),
            ..no_guards()
        },
    );
    let begun = Instant::now();
    let _client = Client::connect(addr);
    turn_until(&mut reactor, |reactor| reactor.connections() == 1);
    settle(&mut reactor);
    let near = |at: Option<Instant>, from: u64, to: u64| {
        let after = at.expect("a deadline") - begun;
        assert!(after >= secs(from) && after <= secs(to), "{after:?}");
    };
    // A guard is rounded up, by no more than a 64th and the time the test has taken.
    near(reactor.next_deadline(), 500, 530);
    let far = reactor.set_timer(begun + secs(1000));
    near(reactor.next_deadline(), 500, 530);
    let timer = reactor.set_timer(begun + secs(100));
    near(reactor.next_deadline(), 100, 101);
    let nearer = reactor.set_timer(begun + secs(50));
    near(reactor.next_deadline(), 50, 51);
    assert!(reactor.cancel_timer(nearer));
    near(reactor.next_deadline(), 100, 101);
    assert!(reactor.cancel_timer(timer) && reactor.cancel_timer(far));
    near(reactor.next_deadline(), 500, 530);
    // The time that a stopping loop has.
    reactor.stop(Stop::Within(secs(1)));
    let _ = turn(&mut reactor);
    assert!(reactor.next_deadline().unwrap() <= Instant::now() + secs(1));
}

#[test]
fn full_event_batch_counts_as_unfinished_work() {
    const CLIENTS: u32 = 7;
    let (mut reactor, addr) = util::reactor(
        Echo,
        Config {
            events_per_turn: 1,
            ..no_guards()
        },
    );
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::connect(addr)).collect();
    turn_until(&mut reactor, |reactor| {
        reactor.connections() == CLIENTS as usize
    });
    settle(&mut reactor);
    let mut outer = Outer::around(&reactor);
    for round in 1..=20 {
        for client in &mut clients {
            client.send(b"all at once\n");
        }
        // There may be one edge for all of them; after it nothing but `next_deadline` says that
        // there is more.
        while reactor.counters().frames < u64::from(round * CLIENTS) {
            assert!(outer.hears(TIMEOUT), "{reactor:?}");
            let _ = turn(&mut reactor);
            settle(&mut reactor);
        }
        for client in &mut clients {
            client.expect(b"all at once\n");
        }
    }
}

#[test]
fn unfinished_work_of_a_turn_is_due_at_once() {
    // More is read than a connection may in one turn.
    let (mut reactor, addr) = util::reactor(
        Echo,
        Config {
            scratch: 16,
            ..no_guards()
        },
    );
    let mut client = Client::connect(addr);
    turn_until(&mut reactor, |reactor| reactor.connections() == 1);
    settle(&mut reactor);
    client.send(&b"0123456789abcde\n".repeat(50));
    let mut outer = Outer::around(&reactor);
    assert!(outer.hears(TIMEOUT));
    let _ = turn(&mut reactor);
    assert!(settle(&mut reactor) >= 49);
    client.expect(&b"0123456789abcde\n".repeat(50));

    // More want in than may in one turn.
    let (mut reactor, addr) = util::reactor(
        Echo,
        Config {
            accepts_per_turn: 1,
            ..no_guards()
        },
    );
    let _clients: Vec<Client> = (0..10).map(|_| Client::connect(addr)).collect();
    let _ = turn(&mut reactor);
    assert!(settle(&mut reactor) >= 9);
    assert_eq!(reactor.connections(), 10);

    // More mail, and more timers, than are seen to in one turn.
    let (mut reactor, _) = util::reactor(
        Echo,
        Config {
            calls_per_turn: 1,
            ..no_guards()
        },
    );
    let handle = reactor.handle();
    for _ in 0..10 {
        handle.post(()).unwrap();
        reactor.set_timer(Instant::now());
    }
    turn_until(&mut reactor, |reactor| {
        reactor.counters().posts > 0 && reactor.counters().timers > 0
    });
    settle(&mut reactor);
    assert_eq!(
        (reactor.counters().posts, reactor.counters().timers),
        (10, 10)
    );

    // What was asked for between turns.
    reactor.stop(Stop::AtOnce);
    assert!(
        reactor
            .next_deadline()
            .is_some_and(|at| at <= Instant::now())
    );
    assert_eq!(turn(&mut reactor), Turn::Stopped);
}

#[test]
fn turn_with_zero_timeout_never_blocks() {
    let (mut reactor, addr) = util::reactor(
        Echo,
        Config {
            idle_timeout: Some(Duration::from_secs(3600)),
            ..no_guards()
        },
    );
    let _client = Client::connect(addr);
    turn_until(&mut reactor, |reactor| reactor.connections() == 1);
    reactor.set_timer(Instant::now() + Duration::from_secs(1000));
    let begun = Instant::now();
    for _ in 0..1000 {
        let _ = turn(&mut reactor);
    }
    // It would be a second if each waited for a millisecond, and for ever if one of them waited for the deadline.
    assert!(begun.elapsed() < TIMEOUT, "{:?}", begun.elapsed());
    assert!(reactor.counters().turns >= 1000);
}

#[test]
fn poller_descriptor_is_readable_only_when_events_are_pending() {
    let (mut reactor, addr) = util::reactor(Echo, no_guards());
    let mut outer = Outer::around(&reactor);
    let quiet = Duration::from_millis(20);
    assert!(!outer.hears(quiet));
    let mut client = Client::connect(addr);
    assert!(outer.hears(TIMEOUT), "somebody wants in");
    turn_until(&mut reactor, |reactor| reactor.connections() == 1);
    settle(&mut reactor);
    while outer.hears(Duration::ZERO) {
        let _ = turn(&mut reactor); // the new socket takes writes
    }
    let handle = reactor.handle();
    for _ in 0..3 {
        assert!(!outer.hears(quiet) && reactor.next_deadline().is_none());
        client.send(b"x\n");
        assert!(outer.hears(TIMEOUT), "a line has come");
        let _ = turn(&mut reactor);
        client.expect(b"x\n");
        assert!(!outer.hears(quiet) && reactor.next_deadline().is_none());
        handle.post(()).unwrap();
        assert!(outer.hears(TIMEOUT), "a letter has come");
        let _ = turn(&mut reactor);
    }
    assert_eq!(
        (reactor.counters().posts, reactor.counters().frames),
        (3, 3)
    );
    drop(client);
    assert!(outer.hears(TIMEOUT), "somebody leaves");
    turn_until(&mut reactor, |reactor| reactor.connections() == 0);
    handle.stop(Stop::Gracefully);
    assert!(outer.hears(TIMEOUT), "it is to stop");
    assert_eq!(turn(&mut reactor), Turn::Stopped);
}

/// The sockets and pollers that a child of this process is born with.
#[cfg(target_os = "linux")]
fn inherited() -> Vec<String> {
    let listing = Command::new("ls")
        .args(["-l", "/proc/self/fd"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(listing.status.success());
    let listing = String::from_utf8(listing.stdout).unwrap();
    let targets = listing.lines().filter_map(|line| line.split_once(" -> "));
    targets
        .map(|(_, target)| target.to_string())
        .filter(|target| target.starts_with("socket:") || target.starts_with("anon_inode:"))
        .collect()
}

#[test]
#[cfg(target_os = "linux")]
fn child_process_inherits_no_descriptor_of_the_loop() {
    let before = inherited();
    let (mut reactor, addr) = util::reactor(Echo, no_guards());
    reactor.listen("127.0.0.1:0").unwrap();
    let _client = Client::connect(addr);
    reactor.connect(addr, TIMEOUT).unwrap();
    // Accepted, dialed, and accepted again.
    turn_until(&mut reactor, |reactor| {
        reactor.connections() == 3 && reactor.counters().accepted == 2
    });
    let after = inherited();
    assert!(
        after.iter().all(|target| before.contains(target)),
        "{after:?}, and before there was {before:?}"
    );
}
