//! Stops under load: every request that the server has read is answered, and every connection ends
//! without a reset.

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
    Client, Server, TIMEOUT, ack, addr_of, id, reactor, service, submit, turn_until, wait_until,
};

/// Totals of what all clients observed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    acks: u64,
    /// Resets of connections that were served before.
    resets: u64,
    /// Resets of connections that were not served yet: they may have been in the backlog when the
    /// listener closed.
    early_resets: u64,
    /// Connections made after the load began.
    late_connections: u64,
}

impl std::ops::AddAssign for Seen {
    fn add_assign(&mut self, other: Self) {
        self.acks += other.acks;
        self.resets += other.resets;
        self.early_resets += other.early_resets;
        self.late_connections += other.late_connections;
    }
}

/// Sends `depth` requests at a time and reads their acks, until the server closes the connection.
fn run_client(mut client: Client, depth: u64, progress: &AtomicU64) -> Seen {
    let mut seen = Seen::default();
    let requests: Vec<u8> = (0..depth).flat_map(|n| submit(id(n), b"load")).collect();
    let mut chunk = [0; 4096];
    let mut unread = 0;
    'rounds: loop {
        // After a failed write there may still be bytes to read.
        let _ = client.stream.write_all(&requests);
        unread += depth as usize * 14;
        while unread > 0 {
            match client.stream.read(&mut chunk) {
                Ok(0) => break 'rounds,
                Ok(n) => {
                    seen.acks += n as u64; // in bytes until the end of this function
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

/// Connects, sends one request, reads its ack and closes, over and over until the listener is
/// closed.
fn reconnect_loop(addr: SocketAddr) -> Seen {
    let mut seen = Seen::default();
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < TIMEOUT, "the listener is never closed");
        let mut stream = match TcpStream::connect(addr) {
            Ok(stream) => stream,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return seen,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                seen.early_resets += 1;
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        seen.late_connections += 1;
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let _ = stream.write_all(&submit(id(1), b"reconnect"));
        let mut answer = [0; 14];
        match stream.read_exact(&mut answer) {
            Ok(()) => {
                assert_eq!(answer[..], ack(id(1)));
                seen.acks += 1;
            }
            // Accepted, and closed before its request was read.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => seen.early_resets += 1,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Clients that load one server.
struct Load {
    threads: Vec<JoinHandle<Seen>>,
    progress: Arc<AtomicU64>,
}

impl Load {
    /// Starts `count` connections, half of them with one request in flight and half with 16, and
    /// three clients that reconnect over and over.
    fn start(addr: SocketAddr, count: usize) -> Self {
        let progress = Arc::new(AtomicU64::new(0));
        let barrier = Arc::new(Barrier::new(count + 1));
        let mut threads: Vec<_> = (0..count)
            .map(|n| {
                let (progress, barrier) = (progress.clone(), barrier.clone());
                let client = Client::connect(addr);
                thread::spawn(move || {
                    barrier.wait();
                    run_client(client, if n % 2 == 0 { 1 } else { 16 }, &progress)
                })
            })
            .collect();
        barrier.wait();
        threads.extend((0..3).map(|_| thread::spawn(move || reconnect_loop(addr))));
        Self { threads, progress }
    }

    /// Waits until at least `answers` requests were answered.
    fn wait_for(&self, answers: u64) {
        wait_until("the load", || {
            self.progress.load(Ordering::Relaxed) >= answers
        });
    }

    /// Waits until all clients have ended, and returns their totals.
    fn finish(self) -> Seen {
        let mut seen = Seen::default();
        self.threads
            .into_iter()
            .for_each(|thread| seen += thread.join().expect("a client met an unexpected result"));
        seen
    }
}

#[track_caller]
fn check(seen: Seen, handled: u64, round: &str) {
    println!("{round}: {handled} requests handled, {seen:?}");
    assert_eq!(seen.resets, 0, "{round}");
    assert_eq!(
        seen.acks, handled,
        "{round}: acks read by the clients and requests handled by the server differ"
    );
}

/// The number before `what` in the server's log.
fn number(log: &str, what: &str) -> u64 {
    let (head, _) = log
        .split_once(what)
        .unwrap_or_else(|| panic!("no {what:?} in {log}"));
    head.rsplit(' ').next().unwrap().parse().unwrap()
}

fn stop_a_process(round: &str, args: &[&str], connections: usize) {
    let (server, addr) = Process::listening(args);
    let load = Load::start(addr, connections);
    load.wait_for(3000);
    server.signal("TERM");
    let (code, log) = server.end();
    let seen = load.finish();
    assert_eq!(code, Some(0), "{log}");
    check(seen, number(&log, " requests handled"), round);
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
        let load = Load::start(server.addr, 30 + 3 * n);
        load.wait_for(1000 + 300 * n as u64);
        let counters = server.stop();
        check(load.finish(), counters.frames, &format!("loop {n}"));
        assert_eq!(counters.bytes_dropped, 0);
    }
}

#[test]
fn connections_in_the_backlog_at_a_stop_are_answered() {
    // More connections than one turn accepts, with their requests sent already.
    let (mut reactor, addr) = reactor(service(), Config::default());
    let mut clients: Vec<Client> = (0..200).map(|_| Client::connect(addr)).collect();
    for client in &mut clients {
        client.send(&submit(id(1), b"early").repeat(3));
    }
    reactor.stop(Stop::Gracefully);
    let reading = thread::spawn(move || {
        for client in &mut clients {
            client.expect(&ack(id(1)).repeat(3));
            client.expect_eof();
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
    let mut stopping = on_port(0);
    let addr = addr_of(&stopping);
    let mut serving = on_port(addr.port());
    // The system has put each of them into one of the two queues already.
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::connect(addr)).collect();
    for client in &mut clients {
        client.send(&submit(id(1), b"backlog"));
    }
    stopping.stop(Stop::Gracefully);
    let reading = thread::spawn(move || {
        for client in &mut clients {
            client.expect(&ack(id(1)));
            client.shut_write();
            client.expect_eof();
        }
    });
    turn_until(&mut serving, |_| {
        stopping.turn(Some(Duration::ZERO)).is_ok() && reading.is_finished()
    });
    reading.join().unwrap();
    let served = [stopping.counters().frames, serving.counters().frames];
    assert_eq!(served.iter().sum::<u64>(), CLIENTS);
    assert!(
        !cfg!(target_os = "linux") || served.iter().all(|served| *served > 0),
        "Linux spreads connections over both: {served:?}"
    );
}

/// Peers that neither close nor read: one is silent, one is in the middle of a frame, and two have
/// filled their connection with requests.
fn unresponsive_peers(addr: SocketAddr) -> Vec<Client> {
    let mut peers: Vec<Client> = (0..4).map(|_| Client::connect(addr)).collect();
    peers[1].send(&submit(id(1), b"never finished")[..20]);
    let requests = submit(id(1), b"").repeat(5000);
    for peer in &mut peers[2..] {
        peer.stream
            .set_write_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        // The server has stopped reading once several writes in a row accept nothing.
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
    let peers = unresponsive_peers(server.addr);
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
        let peers = unresponsive_peers(addr);
        let begun = Instant::now();
        server.signal("TERM");
        let (code, log) = server.end();
        assert!(
            begun.elapsed() >= Duration::from_millis(400),
            "{:?}",
            begun.elapsed()
        );
        assert_eq!(code, Some(0), "{log}");
        assert!(number(&log, " bytes of replies dropped") > 0, "{log}");
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
        silent.expect_closed();
        let begun = Instant::now();
        assert_eq!(server.stop().closed, 1);
        assert!(begun.elapsed() < TIMEOUT);
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
        client.expect_eof();
    });
    reactor.run().unwrap();
    waiting.join().unwrap();
    handle.shutdown(Duration::ZERO); // the loop has stopped: no effect
    reactor.run().unwrap();
    assert_eq!((reactor.counters().frames, reactor.connections()), (1, 0));
}

/// Stops its loop at the seventh request: by its verdict, or by a handle that is used in the
/// callback.
struct StopsAtSeventh {
    requests: u64,
    handle: Option<glassloop::Handle<()>>,
}

impl Handler for StopsAtSeventh {
    type Codec = ServerCodec;
    type State = ();
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (ServerCodec, ()) {
        (ServerCodec::default(), ())
    }

    fn frame(&mut self, request: Request<'_>, cx: &mut Context<'_, Self>) -> Verdict {
        cx.send(request.ack(glassloop::submit::Outcome::Done));
        self.requests += 1;
        match &self.handle {
            _ if self.requests != 7 => Verdict::Continue,
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
    for by_handle in [false, true] {
        let mut reactor = Reactor::bind(
            "127.0.0.1:0",
            StopsAtSeventh {
                requests: 0,
                handle: None,
            },
        )
        .unwrap();
        let handle = reactor.handle();
        reactor.handler().handle = Some(handle).filter(|_| by_handle);
        let addr = addr_of(&reactor);
        let (mut client, mut other) = (Client::connect(addr), Client::connect(addr));
        other.send(&submit(id(1), b""));
        turn_until(&mut reactor, |reactor| reactor.counters().frames == 1);
        client.send(&(0..20).flat_map(|n| submit(id(n), b"")).collect::<Vec<_>>());
        let waiting = thread::spawn(move || {
            client.expect(&(0..20).flat_map(|n| ack(id(n))).collect::<Vec<_>>());
            client.expect_eof();
            other.expect(&ack(id(1)));
            other.expect_eof();
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
    let connected = Client::connect(addr);
    turn_until(&mut reactor, |reactor| reactor.connections() == 1);
    reactor.stop(Stop::Gracefully);
    turn_until(&mut reactor, |reactor| reactor.local_addrs().is_empty());
    // New connections now wait in the queue of the duplicate, and must not wake the loop.
    let stale = reactor.counters().stale;
    let clients: Vec<Client> = (0..20).map(|_| Client::connect(addr)).collect();
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
    for _ in &clients {
        duplicate.accept().unwrap();
    }
    drop(connected);
    turn_until(&mut reactor, |reactor| {
        reactor.turn(Some(Duration::ZERO)).unwrap() == Turn::Stopped
    });
}
