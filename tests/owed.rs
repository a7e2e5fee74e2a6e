//! Several things at once: delayed replies, posts, marks and stops that meet in one turn. Each case
//! was a bug once.

mod util;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use glassloop::codec::Line;
use glassloop::{
    Config, ConnectionId, Context, Direction, Handler, LoopContext, Origin, Reactor, Stop, TimerId,
    Turn, Verdict,
};
use socket2::{Domain, SockRef, Socket, Type};
use util::{Client, Server, TIMEOUT, ack, id, reactor, service, submit, turn_until};

/// Does what each line asks for.
#[derive(Default)]
struct CommandHandler {
    ids: Vec<ConnectionId>,
    lines: Vec<String>,
    posts: u64,
    timers: u64,
    /// Gets the id of each connection that asks for a delayed reply.
    later: Option<mpsc::Sender<ConnectionId>>,
}

impl Handler for CommandHandler {
    type Codec = Line;
    type State = ();
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (Line, ()) {
        (Line::default().max(2 << 20), ())
    }

    fn open(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        self.ids.push(cx.id());
        Verdict::Continue
    }

    fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Verdict {
        self.lines.push(String::from_utf8(line.to_vec()).unwrap());
        match line {
            b"later" => {
                let _ = self.later.as_ref().map(|later| later.send(cx.id()));
                return Verdict::Pause;
            }
            b"pause" => return Verdict::Pause,
            b"1kB" => {
                cx.send(&*vec![b'x'; 999]);
                cx.resume(cx.id());
                return Verdict::Pause;
            }
            b"big" => cx.send(&*vec![b'x'; 60_000]),
            b"huge" => cx.send(&*vec![b'x'; 999_999]),
            b"tell the first" => cx.send_to(self.ids[0], &b"another asked"[..]),
            _ => {}
        }
        Verdict::Continue
    }

    fn deadline(&mut self, which: Direction, cx: &mut Context<'_, Self>) -> Verdict {
        self.lines.push(format!("({which:?})"));
        match which {
            Direction::Write => cx.set_deadline(Some(cx.now())),
            Direction::Read => cx.set_deadline(None),
        }
        Verdict::Continue
    }

    fn loop_timer(&mut self, _: TimerId, _: &mut LoopContext<'_, Self>) {
        self.timers += 1;
    }

    fn mail(&mut self, (): (), _: &mut LoopContext<'_, Self>) {
        self.posts += 1;
    }
}

/// A loop with `clients` connections, accepted in the order of the clients.
fn with_clients(config: Config, clients: usize) -> (Reactor<CommandHandler>, Vec<Client>) {
    let (mut reactor, addr) = reactor(CommandHandler::default(), config);
    let clients = (0..clients)
        .map(|n| {
            let client = Client::connect(addr);
            turn_until(&mut reactor, |reactor| reactor.handler().ids.len() == n + 1);
            client
        })
        .collect();
    (reactor, clients)
}

fn run_until_stopped<H: Handler>(reactor: &mut Reactor<H>) {
    let end = Instant::now() + TIMEOUT;
    while reactor.turn(Some(Duration::from_millis(1))).unwrap() == Turn::Running {
        assert!(Instant::now() < end, "the loop does not stop: {reactor:?}");
    }
}

#[test]
fn graceful_stop_waits_for_a_reply_still_in_progress() {
    let (later, asked) = mpsc::channel();
    let server = Server::start(
        CommandHandler {
            later: Some(later),
            ..CommandHandler::default()
        },
        Config::default(),
    );
    let mut client = server.connect();
    client.send(b"later\n");
    let id = asked.recv_timeout(TIMEOUT).unwrap();
    server.handle.stop(Stop::Gracefully);
    // The loop has seen the stop once its listener is closed.
    let end = Instant::now() + TIMEOUT;
    while std::net::TcpStream::connect(server.addr).is_ok() {
        assert!(Instant::now() < end);
    }
    server.handle.send(id, &b"here it is\n"[..]).unwrap();
    server.handle.close(id).unwrap();
    client.expect(b"here it is\n");
    client.expect_eof();
}

#[test]
fn messages_to_other_connections_are_sent_before_a_graceful_end() {
    let (mut reactor, mut clients) = with_clients(Config::default(), 2);
    clients[1].send(b"tell the first\ntell the first\n");
    reactor.stop(Stop::Gracefully);
    let mut second = clients.pop().unwrap();
    let reading = std::thread::spawn(move || {
        clients[0].expect(b"another asked\nanother asked\n");
        clients[0].expect_eof();
        second.expect_eof();
    });
    run_until_stopped(&mut reactor);
    reading.join().unwrap();
    assert_eq!(reactor.counters().stale, 0);
}

#[test]
fn resume_after_pause_respects_the_write_high_mark() {
    let config = Config {
        write_high: 10_000,
        write_low: 5000,
        ..Config::default()
    };
    let (mut reactor, clients) = with_clients(config, 1);
    let mut writer = clients[0].stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || writer.write_all(&b"1kB\n".repeat(20_000)));
    turn_until(&mut reactor, |reactor| {
        reactor.counters().writes_blocked > 0
    });
    let (id, mut peak) = (reactor.handler().ids[0], 0);
    for _ in 0..200 {
        let _ = reactor.turn(Some(Duration::ZERO)).unwrap();
        assert!(reactor.with(id, |_, cx| {
            peak = peak.max(cx.pending());
            Verdict::Continue
        }));
    }
    assert!(
        (10_000..11_000).contains(&peak),
        "{peak} bytes queued: the mark and the reply that reached it are allowed"
    );
    drop(clients);
    drop(reactor);
    let _ = writing.join().unwrap();
}

#[test]
fn fast_reader_does_not_exceed_the_turn_budget() {
    let (mut reactor, mut clients) = with_clients(Config::default(), 1);
    let mut reader = clients[0].stream.try_clone().unwrap();
    let reading = std::thread::spawn(move || {
        let mut rest = 500 * 60_001;
        let mut chunk = vec![0; 1 << 20];
        while rest > 0 {
            match reader.read(&mut chunk).unwrap() {
                0 => panic!("{rest} bytes are missing"),
                n => rest -= n,
            }
        }
    });
    clients[0].send(&b"big\n".repeat(500));
    let (mut most, end) = (0, Instant::now() + TIMEOUT);
    while !reading.is_finished() {
        assert!(Instant::now() < end);
        let before = reactor.counters().bytes_written;
        let _ = reactor.turn(Some(Duration::from_millis(1))).unwrap();
        most = most.max(reactor.counters().bytes_written - before);
    }
    reading.join().unwrap();
    // The budget, and what the round that exceeded it had queued: up to the high mark and one reply
    // more, before and after.
    let bound = reactor.config().scratch + 3 * (reactor.config().write_high + 60_001);
    assert!(
        most <= bound as u64,
        "{most} bytes in one turn, {bound} allowed"
    );
}

#[test]
fn partly_sent_buffer_is_counted_until_it_is_freed() {
    // Accepted sockets inherit the listener's small buffers, so most of the reply stays in the
    // loop.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_send_buffer_size(4096).unwrap();
    socket
        .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
        .unwrap();
    socket.listen(1).unwrap();
    let mut reactor = Reactor::new(
        CommandHandler::default(),
        Config {
            write_high: 1 << 20,
            ..Config::default()
        },
    )
    .unwrap();
    let addr = reactor.listen_on(socket.into()).unwrap();
    let mut client = Client::connect(addr);
    client.send(b"huge\n");
    client.stream.set_nonblocking(true).unwrap();
    turn_until(&mut reactor, |reactor| {
        reactor.counters().writes_blocked > 0
    });
    let mut left = 1_000_000 - usize::try_from(reactor.counters().bytes_written).unwrap();
    let mut chunk = vec![0; 64 << 10];
    let (first, end) = (left, Instant::now() + TIMEOUT);
    while left > 0 {
        assert!(Instant::now() < end);
        // The buffer is freed when more than half of it is sent.
        assert!(
            left <= first / 2 || reactor.buffered() >= first,
            "{} bytes counted of {first}",
            reactor.buffered()
        );
        // Never less than the unsent bytes, and never much more than twice as many.
        assert!(
            (left..=2 * left + 4096).contains(&reactor.buffered()),
            "{} bytes counted, {left} unsent",
            reactor.buffered()
        );
        match client.stream.read(&mut chunk) {
            Ok(0) => panic!("the connection ended before the whole reply"),
            Err(error) if error.kind() != ErrorKind::WouldBlock => panic!("{error}"),
            _ => {}
        }
        let _ = reactor.turn(Some(Duration::from_millis(1))).unwrap();
        left = 1_000_000 - usize::try_from(reactor.counters().bytes_written).unwrap();
    }
    assert_eq!(reactor.buffered(), 0);
}

#[test]
#[cfg(target_os = "linux")]
fn requests_behind_urgent_data_are_read() {
    let (mut reactor, addr) = reactor(service(), Config::default());
    for round in 0..20 {
        let mut client = Client::connect(addr);
        turn_until(&mut reactor, |reactor| {
            reactor.counters().accepted == round + 1
        });
        // All three arrive before the loop reads.
        client.send(&submit(id(1), b"before"));
        SockRef::from(&client.stream)
            .send_out_of_band(b"!")
            .unwrap();
        client.send(&submit(id(2), b"behind"));
        turn_until(&mut reactor, |reactor| {
            reactor.counters().frames == 2 * (round + 1)
        });
        client.expect(&[ack(id(1)), ack(id(2))].concat());
    }
}

#[test]
fn graceful_stop_accepts_the_backlog_above_the_connection_limit() {
    let (mut reactor, addr) = reactor(
        service(),
        Config {
            max_connections: Some(2),
            ..Config::default()
        },
    );
    let mut clients: Vec<Client> = (0..12).map(|_| Client::connect(addr)).collect();
    for client in &mut clients {
        client.send(&submit(id(1), b"queued"));
    }
    turn_until(&mut reactor, |reactor| reactor.connections() == 2);
    reactor.stop(Stop::Gracefully);
    let reading = std::thread::spawn(move || {
        for client in &mut clients {
            client.expect(&ack(id(1)));
            client.expect_eof();
        }
    });
    run_until_stopped(&mut reactor);
    reading.join().unwrap();
}

#[test]
fn posts_sent_before_a_stop_of_the_loop_are_delivered() {
    let (mut reactor, _clients) = with_clients(Config::default(), 0);
    (0..5000).for_each(|_| reactor.handle().post(()).unwrap());
    reactor.stop(Stop::Gracefully);
    run_until_stopped(&mut reactor);
    assert_eq!(reactor.handler().posts, 5000);
}

#[test]
fn timer_set_after_a_long_gap_between_turns_is_not_late() {
    let (mut reactor, _clients) = with_clients(Config::default(), 0);
    std::thread::sleep(Duration::from_millis(300)); // no turn meanwhile
    reactor.set_timer(Instant::now() + Duration::from_millis(5));
    let left = reactor
        .next_deadline()
        .unwrap()
        .saturating_duration_since(Instant::now());
    assert!(left <= Duration::from_millis(6), "{left:?}");
    // The same deadline bounds the turn's sleep: without a timer it would never end.
    turn_until(&mut reactor, |reactor| {
        reactor.turn(None).is_ok() && reactor.handler().timers == 1
    });
}

#[test]
#[cfg(unix)]
fn frames_of_a_paused_unix_peer_that_closes_are_handled() {
    let path = std::env::temp_dir().join(format!("glassloop-owed-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let mut reactor = Reactor::new(CommandHandler::default(), Config::default()).unwrap();
    reactor
        .listen_on_unix(std::os::unix::net::UnixListener::bind(&path).unwrap())
        .unwrap();
    let mut peer = std::os::unix::net::UnixStream::connect(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    peer.write_all(b"pause\n").unwrap();
    turn_until(&mut reactor, |reactor| reactor.handler().lines.len() == 1);
    peer.write_all(b"one\ntwo\n").unwrap();
    drop(peer);
    for _ in 0..3 {
        let _ = reactor.turn(Some(Duration::from_millis(1))).unwrap();
    }
    let id = reactor.handler().ids[0];
    assert!(reactor.with(id, |_, cx| {
        cx.resume(cx.id());
        Verdict::Continue
    }));
    turn_until(&mut reactor, |reactor| reactor.connections() == 0);
    assert_eq!(reactor.handler().lines, ["pause", "one", "two"]);
}

#[test]
fn past_deadline_set_in_a_deadline_callback_fires_before_next_frame() {
    let (mut reactor, mut clients) = with_clients(Config::default(), 1);
    clients[0].send(b"one\n");
    let id = reactor.handler().ids[0];
    reactor.with(id, |_, cx| {
        cx.set_write_deadline(Some(cx.now()));
        Verdict::Continue
    });
    turn_until(&mut reactor, |reactor| {
        reactor.handler().lines.contains(&"one".to_string())
    });
    let lines = &reactor.handler().lines;
    let place = |line: &str| lines.iter().position(|other| other == line).unwrap();
    assert!(
        place("(Write)") < place("(Read)") && place("(Read)") < place("one"),
        "{lines:?}"
    );
}

#[test]
fn config_that_would_spin_or_overflow_is_refused() {
    let refused = |config: Config| assert!(config.check().is_err(), "{config:?}");
    refused(Config {
        accept_backoff: Duration::ZERO,
        ..Config::default()
    });
    refused(Config {
        loops: usize::MAX,
        ..Config::default()
    });
    refused(Config {
        scratch: usize::MAX,
        ..Config::default()
    });
    refused(Config {
        events_per_turn: usize::MAX,
        ..Config::default()
    });
    let few = Config {
        loops: 65_536,
        ..Config::default()
    };
    assert!(Reactor::new(service(), few).unwrap().max_connections() >= 1);
}
