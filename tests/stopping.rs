//! Stops under load: whoever was connected gets an answer to all that was taken, and an orderly end.

#![cfg(unix)]

#[path = "util/process.rs"]
mod process;
mod util;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use glassloop::submit::{Request, ServerCodec};
use glassloop::{Config, Context, Handler, Origin, Reactor, Stop, Turn, Verdict};
use process::Process;
use socket2::{Domain, Socket, Type};
use util::{
    Client, PATIENCE, Server, ack, addr_of, id, reactor, service, submit, turn_until, wait_until,
};

/// What the clients saw, all together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    acks: u64,
    /// Resets of connections that had been served.
    resets: u64,
    /// Resets of connections that had not been served yet: they may have been in the backlog when the listener closed.
    early_resets: u64,
    /// Connections made after the load had begun.
    newcomers: u64,
}

impl std::ops::AddAssign for Seen {
    fn add_assign(&mut self, other: Self) {
        self.acks += other.acks;
        self.resets += other.resets;
        self.early_resets += other.early_resets;
        self.newcomers += other.newcomers;
    }
}

/// Sends so many requests at a time and reads their acks, until the server has ended the connection.
fn load(mut client: Client, depth: u64, progress: &AtomicU64) -> Seen {
    let mut seen = Seen::default();
    let requests: Vec<u8> = (0..depth).flat_map(|n| submit(id(n), b"load")).collect();
    let mut chunk = [0; 4096];
    let mut unread = 0;
    'rounds: loop {
        // A write that fails says nothing of what is there to be read.
        let _ = client.stream.write_all(&requests);
        unread += depth as usize * 14;
        while unread > 0 {
            match client.stream.read(&mut chunk) {
                Ok(0) => break 'rounds,
                Ok(n) => {
                    seen.acks += n as u64; // bytes, for now
                    unread -= n;
                }
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    seen.resets += 1;
                    break 'rounds;
                }
                Err(error) => panic!("{error}"),
            }
        }
        progress.fetch_add(depth, Ordering::Relaxed);
    }
    assert_eq!(seen.acks % 14, 0, "an ack was cut");
    seen.acks /= 14;
    seen
}

/// Connects, asks once, reads the answer and leaves, again and again, until nobody listens any more.
fn come_and_go(addr: SocketAddr) -> Seen {
    let mut seen = Seen::default();
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < PATIENCE, "the listener is never closed");
        let mut stream = match TcpStream::connect(addr) {
            Ok(stream) => stream,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return seen,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                seen.early_resets += 1;
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        seen.newcomers += 1;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.write_all(&submit(id(1), b"new here"));
        let mut answer = [0; 14];
        match stream.read_exact(&mut answer) {
            Ok(()) => {
                assert_eq!(answer[..], ack(id(1)));
                seen.acks += 1;
            }
            // Let in, and ended before its request was read.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => seen.early_resets += 1,
            Err(error) => panic!("{error}"),
        }
    }
}

/// The load on one server.
struct Crowd {
    threads: Vec<JoinHandle<Seen>>,
    progress: Arc<AtomicU64>,
}

impl Crowd {
    /// So many connections, half of them with one request under way and half with 16, and three who come and go.
    fn gather(addr: SocketAddr, count: usize) -> Self {
        let progress = Arc::new(AtomicU64::new(0));
        let together = Arc::new(Barrier::new(count + 1));
        let mut threads: Vec<_> = (0..count)
            .map(|n| {
                let (progress, together) = (progress.clone(), together.clone());
                let client = Client::connect(addr);
                thread::spawn(move || {
                    together.wait();
                    load(client, if n % 2 == 0 { 1 } else { 16 }, &progress)
                })
            })
            .collect();
        together.wait();
        threads.extend((0..3).map(|_| thread::spawn(move || come_and_go(addr))));
        Self { threads, progress }
    }

    /// Waits until so many requests were answered.
    fn wait_for(&self, answers: u64) {
        wait_until("the load", || {
            self.progress.load(Ordering::Relaxed) >= answers
        });
    }

    /// What all of them saw, once the server has ended.
    fn disperse(self) -> Seen {
        let mut seen = Seen::default();
        self.threads
            .into_iter()
            .for_each(|thread| seen += thread.join().expect("no client may see anything else"));
        seen
    }
}

#[track_caller]
fn check(seen: Seen, taken: u64, round: &str) {
    println!("{round}: {taken} requests taken, {seen:?}");
    assert_eq!(seen.resets, 0, "{round}");
    assert_eq!(
        seen.acks, taken,
        "{round}: the clients have other acks than the server took requests"
    );
}

/// The number before `what` in the server's last words.
fn number(log: &str, what: &str) -> u64 {
    let (head, _) = log
        .split_once(what)
        .unwrap_or_else(|| panic!("no {what:?} in {log}"));
    head.rsplit(' ').next().unwrap().parse().unwrap()
}

fn stop_a_process(round: &str, args: &[&str], connections: usize) {
    let (server, addr) = Process::listening(args);
    let crowd = Crowd::gather(addr, connections);
    crowd.wait_for(3000);
    server.signal("TERM");
    let (code, log) = server.end();
    let seen = crowd.disperse();
    assert_eq!(code, Some(0), "{log}");
    check(seen, number(&log, " requests taken"), round);
    assert!(!log.contains("dropped"), "{log}");
}

#[test]
fn process_under_load_stops_with_all_acked_and_exit_code_0() {
    for (n, connections) in [30, 40, 50].into_iter().enumerate() {
        stop_a_process(&format!("process {n}"), &[], connections);
    }
}

#[test]
fn process_of_four_loops_stops_with_all_acked_and_exit_code_0() {
    for n in 0..3 {
        stop_a_process(&format!("four loops, {n}"), &["--threads", "4"], 40);
    }
}

#[test]
fn loop_under_load_stops_with_every_request_acked() {
    for n in 0..7 {
        let server = Server::submit();
        let crowd = Crowd::gather(server.addr, 30 + 3 * n);
        crowd.wait_for(1000 + 300 * n as u64);
        let counters = server.stop();
        check(crowd.disperse(), counters.frames, &format!("loop {n}"));
        assert_eq!(counters.bytes_dropped, 0);
    }
}

#[test]
fn connections_in_the_backlog_at_a_stop_are_answered() {
    // More than a turn lets in, and with what they have to say already sent.
    let (mut reactor, addr) = reactor(service(), Config::default());
    let mut clients: Vec<Client> = (0..200).map(|_| Client::connect(addr)).collect();
    for client in &mut clients {
        client.send(&submit(id(1), b"early").repeat(3));
    }
    reactor.stop(Stop::Gracefully);
    let reading = thread::spawn(move || {
        for client in &mut clients {
            client.expect(&ack(id(1)).repeat(3));
            client.expect_end();
        }
    });
    turn_until(&mut reactor, |reactor| reactor.counters().closed == 200);
    reading.join().unwrap();
    assert_eq!(
        (reactor.counters().frames, reactor.turn(None).unwrap()),
        (600, Turn::Stopped)
    );
}

#[test]
fn stopping_loop_answers_its_backlog_on_a_shared_port() {
    const CLIENTS: u64 = 100;
    let on_port = |port| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket
            .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())
            .unwrap();
        socket.listen(4096).unwrap();
        let mut reactor = Reactor::new(service(), Config::default()).unwrap();
        reactor.listen_on(socket.into()).unwrap();
        reactor
    };
    let mut leaves = on_port(0);
    let addr = addr_of(&leaves);
    let mut stays = on_port(addr.port());
    // The system has put each of them into one of the two queues already.
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::connect(addr)).collect();
    for client in &mut clients {
        client.send(&submit(id(1), b"whoever"));
    }
    leaves.stop(Stop::Gracefully);
    let reading = thread::spawn(move || {
        for client in &mut clients {
            client.expect(&ack(id(1)));
            client.shut_write();
            client.expect_end();
        }
    });
    turn_until(&mut stays, |_| {
        leaves.turn(Some(Duration::ZERO)).is_ok() && reading.is_finished()
    });
    reading.join().unwrap();
    let served = [leaves.counters().frames, stays.counters().frames];
    assert_eq!(served.iter().sum::<u64>(), CLIENTS);
    assert!(
        !cfg!(target_os = "linux") || served.iter().all(|served| *served > 0),
        "Linux spreads them: {served:?}"
    );
}

/// Peers that neither leave nor read: one is silent, one is in the middle of a frame, one sends without end, one takes no reply.
fn stubborn(addr: SocketAddr) -> Vec<Client> {
    let mut peers: Vec<Client> = (0..4).map(|_| Client::connect(addr)).collect();
    peers[1].send(&submit(id(1), b"never finished")[..20]);
    let requests = submit(id(1), b"").repeat(5000);
    for peer in &mut peers[2..] {
        peer.stream
            .set_write_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        // The server stands still once nothing more is taken, several times in a row.
        let (mut sent, mut blocked) = (0, 0);
        while blocked < 3 {
            match peer.stream.write(&requests[sent % requests.len()..]) {
                Ok(n) => (sent, blocked) = (sent + n, 0),
                Err(_) => blocked += 1,
            }
        }
    }
    peers
}

#[test]
fn stop_ends_at_the_drain_timeout_despite_unresponsive_peers() {
    let drain_timeout = Duration::from_millis(500);
    let config = Config {
        drain_timeout,
        linger_timeout: Duration::from_secs(3600),
        ..Config::default()
    };
    let server = Server::start(service(), config);
    let peers = stubborn(server.addr);
    let mut more = peers[2].stream.try_clone().unwrap();
    let sending = thread::spawn(move || while more.write(&[0; 100]).is_ok() {});
    let begun = Instant::now();
    let counters = server.stop();
    let took = begun.elapsed();
    assert!(took >= drain_timeout, "{took:?}");
    assert_eq!(counters.closed, 4);
    drop(peers);
    sending.join().unwrap();
}

#[test]
fn process_with_unresponsive_peers_exits_with_0_and_reports_drops() {
    for args in [
        &["--drain-timeout", "400ms"][..],
        &["--drain-timeout", "400ms", "--threads", "4"],
    ] {
        let (server, addr) = Process::listening(args);
        let peers = stubborn(addr);
        let begun = Instant::now();
        server.signal("TERM");
        let (code, log) = server.end();
        assert!(
            begun.elapsed() >= Duration::from_millis(400),
            "{:?}",
            begun.elapsed()
        );
        assert_eq!(code, Some(0), "{log}");
        assert!(number(&log, " bytes of replies were dropped") > 0, "{log}");
        drop(peers);
    }
}

#[test]
fn shorter_stop_grace_overrides_a_longer_one() {
    for graces in [&[3600, 0][..], &[0, 3600], &[3600, 3600, 0, 3600]] {
        let config = Config {
            linger_timeout: Duration::from_secs(3600),
            drain_timeout: Duration::from_secs(3600),
            ..Config::default()
        };
        let server = Server::start(service(), config);
        let mut silent = server.connect();
        silent.send(&submit(id(1), b""));
        silent.expect(&ack(id(1)));
        for grace in graces {
            server.handle.shutdown(Duration::from_secs(*grace));
        }
        silent.expect_gone();
        let begun = Instant::now();
        assert_eq!(server.stop().closed, 1);
        assert!(begun.elapsed() < PATIENCE);
    }
}

#[test]
fn shutdown_before_run_still_serves_the_backlog() {
    let (mut reactor, addr) = reactor(service(), Config::default());
    let handle = reactor.handle();
    handle.shutdown(Duration::from_secs(10));
    handle.shutdown(Duration::from_secs(10));
    let mut client = Client::connect(addr);
    client.send(&submit(id(1), b"just in time"));
    let waiting = thread::spawn(move || {
        client.expect(&ack(id(1)));
        client.expect_end();
    });
    reactor.run().unwrap();
    waiting.join().unwrap();
    handle.shutdown(Duration::ZERO); // nobody listens any more, and nobody minds
    reactor.run().unwrap();
    assert_eq!((reactor.counters().frames, reactor.connections()), (1, 0));
}

/// Stops its loop when it is asked the seventh time: by its verdict, or by a hand on the loop, from within the callback.
struct Seventh {
    asked: u64,
    by_hand: Option<glassloop::Handle<()>>,
}

impl Handler for Seventh {
    type Codec = ServerCodec;
    type State = ();
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (ServerCodec, ()) {
        (ServerCodec::default(), ())
    }

    fn frame(&mut self, request: Request<'_>, cx: &mut Context<'_, Self>) -> Verdict {
        cx.send(request.ack(glassloop::submit::Outcome::Done));
        self.asked += 1;
        match &self.by_hand {
            _ if self.asked != 7 => Verdict::Continue,
            Some(handle) => {
                handle.shutdown(Duration::from_secs(10));
                Verdict::Continue
            }
            None => Verdict::Stop,
        }
    }
}

#[test]
fn stop_from_a_callback_answers_the_batch_and_all_others() {
    for by_hand in [false, true] {
        let mut reactor = Reactor::bind(
            "127.0.0.1:0",
            Seventh {
                asked: 0,
                by_hand: None,
            },
        )
        .unwrap();
        let handle = reactor.handle();
        reactor.handler().by_hand = Some(handle).filter(|_| by_hand);
        let addr = addr_of(&reactor);
        let (mut client, mut other) = (Client::connect(addr), Client::connect(addr));
        other.send(&submit(id(1), b""));
        turn_until(&mut reactor, |reactor| reactor.counters().frames == 1);
        client.send(&(0..20).flat_map(|n| submit(id(n), b"")).collect::<Vec<_>>());
        let waiting = thread::spawn(move || {
            client.expect(&(0..20).flat_map(|n| ack(id(n))).collect::<Vec<_>>());
            client.expect_end();
            other.expect(&ack(id(1)));
            other.expect_end();
        });
        reactor.run().unwrap();
        waiting.join().unwrap();
        assert_eq!(reactor.counters().frames, 21);
    }
}

#[test]
fn closed_listener_with_a_duplicate_does_not_wake_the_loop() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let duplicate = listener.try_clone().unwrap();
    let long = Duration::from_secs(3600);
    let config = Config {
        drain_timeout: long,
        linger_timeout: long,
        ..Config::default()
    };
    let mut reactor = Reactor::new(service(), config).unwrap();
    let addr = reactor.listen_on(listener).unwrap();
    let stays = Client::connect(addr);
    turn_until(&mut reactor, |reactor| reactor.connections() == 1);
    reactor.stop(Stop::Gracefully);
    turn_until(&mut reactor, |reactor| reactor.local_addrs().is_empty());
    // Whoever comes now waits in the queue of the duplicate, and is none of the loop's business.
    let stale = reactor.counters().stale;
    let newcomers: Vec<Client> = (0..20).map(|_| Client::connect(addr)).collect();
    for _ in 0..20 {
        assert_eq!(
            reactor.turn(Some(Duration::from_millis(1))).unwrap(),
            Turn::Running
        );
    }
    assert_eq!(
        (reactor.counters().stale, reactor.connections()),
        (stale, 1)
    );
    for _ in &newcomers {
        duplicate.accept().unwrap();
    }
    drop(stays);
    turn_until(&mut reactor, |reactor| {
        reactor.turn(Some(Duration::ZERO)).unwrap() == Turn::Stopped
    });
}
