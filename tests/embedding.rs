//! Embeds the loop in another program: the examples that do so, and what they rely on.

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

/// Starts an example, and returns its address.
fn run(name: &str) -> (Process, SocketAddr) {
    Process::run_listening(&mut Command::new(example(name)))
}

/// Runs several clients in lock-step: each line comes back before the next is sent. One lost edge
/// would block it.
///
/// Also returns an instant before the first client sent its last line.
fn echo_in_lock_step(addr: SocketAddr) -> (Vec<Client>, Instant) {
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

/// Runs several clients at once, each with many bytes in flight.
fn echo_concurrently(addr: SocketAddr) {
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

/// Waits until silent clients are closed. Only a deadline wakes up the loop here. The close must
/// come at the idle timeout and not before.
fn expect_idle_close((mut clients, last_sent): (Vec<Client>, Instant)) {
    clients[0].expect_eof();
    let idle = last_sent.elapsed();
    assert!(idle >= Duration::from_secs(2), "closed after {idle:?}");
    for client in &mut clients[1..] {
        client.expect_eof();
    }
}

#[test]
fn embed_thread_serves_and_broadcasts_stdin_lines() {
    let (mut process, addr) = run("embed_thread");
    echo_concurrently(addr);
    let (mut clients, _) = echo_in_lock_step(addr);
    for n in 0..100 {
        let news = format!("news {n}\n");
        process.write_stdin(&news);
        for client in &mut clients {
            client.expect(news.as_bytes());
        }
    }
    // More lines than one turn handles, and then the end of stdin. No line may be lost.
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
    echo_concurrently(addr);
    expect_idle_close(echo_in_lock_step(addr));
    // At least two seconds have passed.
    assert_eq!(
        (process.line(), process.line()),
        ("tick 1".to_string(), "tick 2".to_string())
    );
    echo_in_lock_step(addr);
}

#[test]
fn embed_nested_serves_and_closes_idle_connections() {
    let (_process, addr) = run("embed_nested");
    echo_concurrently(addr);
    let clients = echo_in_lock_step(addr);
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(TIMEOUT)).unwrap();
    let count_is = |expected: &[u8]| {
        let mut reply = [0; 16];
        udp.send_to(b"how many?", addr).unwrap();
        let length = udp.recv(&mut reply).unwrap();
        reply[..length] == *expected
    };
    // The loop may not have noticed yet that the first clients closed.
    wait_until("five connections", || count_is(b"5\n"));
    expect_idle_close(clients);
    wait_until("the close of all connections", || count_is(b"0\n"));
    echo_in_lock_step(addr);
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

/// Echoes each line.
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

/// Returns a configuration without guards.
fn unguarded() -> Config {
    Config {
        idle_timeout: None,
        frame_timeout: None,
        handshake_timeout: None,
        write_timeout: None,
        ..Config::default()
    }
}

/// A program's own poller, with the loop's descriptor as its only source.
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

    /// Returns true if the loop's descriptor becomes readable within `timeout`.
    fn is_readable(&mut self, timeout: Duration) -> bool {
        self.poll.poll(&mut self.events, Some(timeout)).unwrap();
        !self.events.is_empty()
    }
}

fn turn(reactor: &mut Reactor<Echo>) -> Turn {
    reactor.turn(Some(Duration::ZERO)).unwrap()
}

/// Turns as long as work is due. Returns the number of turns.
#[track_caller]
fn turn_until_idle(reactor: &mut Reactor<Echo>) -> u32 {
    for turns in 0..1000 {
        if reactor.next_deadline().is_none_or(|at| at > Instant::now()) {
            return turns;
        }
        let _ = turn(reactor);
    }
    panic!("the loop always has more to do: {reactor:?}");
}

#[test]
fn idle_loop_without_guards_has_no_deadline() {
    let (mut reactor, addr) = util::reactor(Echo, unguarded());
    assert_eq!(reactor.next_deadline(), None);
    let mut client = Client::connect(addr);
    turn_until(&mut reactor, |reactor| reactor.connections() == 1);
    client.send(b"x\n");
    turn_until(&mut reactor, |reactor| reactor.counters().writes == 1);
    turn_until_idle(&mut reactor);
    assert_eq!(
        reactor.next_deadline(),
        None,
        "an idle connection without guards has no deadline"
    );
}

#[test]
fn next_deadline_is_the_nearest_and_ignores_cancelled_timers() {
    let secs = Duration::from_secs;
    let (mut reactor, addr) = util::reactor(
        Echo,
        Config {
            idle_timeout: Some(secs(500)),
            ..unguarded()
        },
    );
    let begun = Instant::now();
    let _client = Client::connect(addr);
    turn_until(&mut reactor, |reactor| reactor.connections() == 1);
    turn_until_idle(&mut reactor);
    let near = |at: Option<Instant>, from: u64, to: u64| {
        let after = at.expect("a deadline") - begun;
        assert!(after >= secs(from) && after <= secs(to), "{after:?}");
    };
    // A guard is rounded up by at most a 64th, plus the time that the test has taken.
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
    // The deadline of a stopping loop.
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
            ..unguarded()
        },
    );
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::connect(addr)).collect();
    turn_until(&mut reactor, |reactor| {
        reactor.connections() == CLIENTS as usize
    });
    turn_until_idle(&mut reactor);
    let mut outer = Outer::around(&reactor);
    for round in 1..=20 {
        for client in &mut clients {
            client.send(b"at once\n");
        }
        // There may be one edge for all events. After it, only `next_deadline` shows that there is
        // more.
        while reactor.counters().frames < u64::from(round * CLIENTS) {
            assert!(outer.is_readable(TIMEOUT), "{reactor:?}");
            let _ = turn(&mut reactor);
            turn_until_idle(&mut reactor);
        }
        for client in &mut clients {
            client.expect(b"at once\n");
        }
    }
}

#[test]
fn unfinished_work_of_a_turn_is_due_at_once() {
    // More bytes than a connection may read in one turn.
    let (mut reactor, addr) = util::reactor(
        Echo,
        Config {
            scratch: 16,
            ..unguarded()
        },
    );
    let mut client = Client::connect(addr);
    turn_until(&mut reactor, |reactor| reactor.connections() == 1);
    turn_until_idle(&mut reactor);
    client.send(&b"0123456789abcde\n".repeat(50));
    let mut outer = Outer::around(&reactor);
    assert!(outer.is_readable(TIMEOUT));
    let _ = turn(&mut reactor);
    assert!(turn_until_idle(&mut reactor) >= 49);
    client.expect(&b"0123456789abcde\n".repeat(50));

    // More connections than the loop may accept in one turn.
    let (mut reactor, addr) = util::reactor(
        Echo,
        Config {
            accepts_per_turn: 1,
            ..unguarded()
        },
    );
    let _clients: Vec<Client> = (0..10).map(|_| Client::connect(addr)).collect();
    let _ = turn(&mut reactor);
    assert!(turn_until_idle(&mut reactor) >= 9);
    assert_eq!(reactor.connections(), 10);

    // More posts and timers than the loop may handle in one turn.
    let (mut reactor, _) = util::reactor(
        Echo,
        Config {
            calls_per_turn: 1,
            ..unguarded()
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
    turn_until_idle(&mut reactor);
    assert_eq!(
        (reactor.counters().posts, reactor.counters().timers),
        (10, 10)
    );

    // A stop that was requested between turns.
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
            ..unguarded()
        },
    );
    let _client = Client::connect(addr);
    turn_until(&mut reactor, |reactor| reactor.connections() == 1);
    reactor.set_timer(Instant::now() + Duration::from_secs(1000));
    let begun = Instant::now();
    for _ in 0..1000 {
        let _ = turn(&mut reactor);
    }
    // A wait of 1 ms in each turn would take a second in total, and a wait for the deadline far
    // longer.
    assert!(begun.elapsed() < TIMEOUT, "{:?}", begun.elapsed());
    assert!(reactor.counters().turns >= 1000);
}

#[test]
fn poller_descriptor_is_readable_only_when_events_are_pending() {
    let (mut reactor, addr) = util::reactor(Echo, unguarded());
    let mut outer = Outer::around(&reactor);
    let quiet = Duration::from_millis(20);
    assert!(!outer.is_readable(quiet));
    let mut client = Client::connect(addr);
    assert!(
        outer.is_readable(TIMEOUT),
        "a connection waits to be accepted"
    );
    turn_until(&mut reactor, |reactor| reactor.connections() == 1);
    turn_until_idle(&mut reactor);
    while outer.is_readable(Duration::ZERO) {
        let _ = turn(&mut reactor); // the new socket is writable
    }
    let handle = reactor.handle();
    for _ in 0..3 {
        assert!(!outer.is_readable(quiet) && reactor.next_deadline().is_none());
        client.send(b"x\n");
        assert!(outer.is_readable(TIMEOUT), "a line has arrived");
        let _ = turn(&mut reactor);
        client.expect(b"x\n");
        assert!(!outer.is_readable(quiet) && reactor.next_deadline().is_none());
        handle.post(()).unwrap();
        assert!(outer.is_readable(TIMEOUT), "a post has arrived");
        let _ = turn(&mut reactor);
    }
    assert_eq!(
        (reactor.counters().posts, reactor.counters().frames),
        (3, 3)
    );
    drop(client);
    assert!(outer.is_readable(TIMEOUT), "the peer has closed");
    turn_until(&mut reactor, |reactor| reactor.connections() == 0);
    handle.stop(Stop::Gracefully);
    assert!(outer.is_readable(TIMEOUT), "a stop was requested");
    assert_eq!(turn(&mut reactor), Turn::Stopped);
}

/// Returns the sockets and pollers that a child process inherits.
#[cfg(target_os = "linux")]
fn inherited_descriptors() -> Vec<String> {
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
    let before = inherited_descriptors();
    let (mut reactor, addr) = util::reactor(Echo, unguarded());
    reactor.listen("127.0.0.1:0").unwrap();
    let _client = Client::connect(addr);
    reactor.connect(addr, TIMEOUT).unwrap();
    // Accepted, dialed, and accepted again.
    turn_until(&mut reactor, |reactor| {
        reactor.connections() == 3 && reactor.counters().accepted == 2
    });
    let after = inherited_descriptors();
    assert!(
        after.iter().all(|target| before.contains(target)),
        "{after:?}, before: {before:?}"
    );
}
