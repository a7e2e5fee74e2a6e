//! A failure of one of the server's loops is logged at once, and the other loops stop gracefully.

#[path = "../examples/server/loops.rs"]
mod loops;
#[cfg(target_os = "linux")]
#[path = "util/process.rs"]
mod process;
mod util;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use glassloop::internals::{Event, Listener, MioNet, Net, Socket, Token, Wake};
use glassloop::{Address, Config, Error, Reactor};

use loops::Loops;
use util::{Client, Service, ack, id, service, submit, wait_until};

/// How a poller breaks.
#[derive(Clone, Copy, Debug)]
enum Failure {
    Fails,
    Panics,
}

/// The system's sockets, with a poller that breaks on command.
struct Breakable {
    net: MioNet,
    breaks: Arc<AtomicBool>,
    failure: Failure,
}

impl Net for Breakable {
    type Listener = Listener;
    type Stream = Socket;
    const SHORT_READ_IS_EMPTY: bool = MioNet::SHORT_READ_IS_EMPTY;

    fn poll(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<Instant> {
        let now = self.net.poll(events, timeout)?;
        match self.failure {
            _ if !self.breaks.load(Ordering::Relaxed) => Ok(now),
            Failure::Fails => Err(io::Error::other("broken on command")),
            Failure::Panics => panic!("broken on command"),
        }
    }

    fn accept(&mut self, listener: &mut Listener) -> io::Result<(Socket, Address)> {
        self.net.accept(listener)
    }

    fn connect(&mut self, addr: &Address) -> io::Result<Socket> {
        self.net.connect(addr)
    }

    fn register(&mut self, stream: &mut Socket, token: usize) -> io::Result<()> {
        self.net.register(stream, token)
    }

    fn deregister(&mut self, stream: &mut Socket) -> io::Result<()> {
        self.net.deregister(stream)
    }

    fn listen(&mut self, listener: &mut Listener, token: usize) -> io::Result<()> {
        self.net.listen(listener, token)
    }

    fn unlisten(&mut self, listener: Listener) -> io::Result<()> {
        self.net.unlisten(listener)
    }

    fn now(&self) -> Instant {
        self.net.now()
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.net.waker()
    }

    fn descriptor_limit(&self) -> Option<usize> {
        self.net.descriptor_limit()
    }
}

/// A listener on a port of its own.
fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// Makes a loop that serves `listener` until its poller breaks.
fn make(
    listener: TcpListener,
    breaks: Arc<AtomicBool>,
    failure: Failure,
) -> Result<Reactor<Service, Breakable>, Error> {
    let net = MioNet::new(64, Token::Waker.pack(), true).map_err(Error::Setup)?;
    let (addr, listener) = (
        listener.local_addr().unwrap(),
        net.adopt(listener).map_err(Error::Setup)?,
    );
    let mut reactor = Reactor::with_net(
        Breakable {
            net,
            breaks,
            failure,
        },
        service(),
        Config::default(),
    )?;
    reactor.add_listener(listener, addr)?;
    Ok(reactor)
}

#[test]
fn failed_or_panicked_loop_makes_the_others_drain() {
    for broken in [0, 1] {
        for failure in [Failure::Fails, Failure::Panics] {
            let breaks = [0, 1].map(|_| Arc::new(AtomicBool::new(false)));
            let (listeners, addrs): (Vec<_>, Vec<_>) = [listener(), listener()].into_iter().unzip();
            let starts = listeners
                .into_iter()
                .zip(breaks.clone())
                .map(|(listener, breaks)| move || make(listener, breaks, failure));
            let loops = Loops::start(starts).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(loops.handles().len(), 2);
            let (mut failing, mut draining) = (
                Client::connect(addrs[broken]),
                Client::connect(addrs[1 - broken]),
            );
            for client in [&mut failing, &mut draining] {
                client.send(&submit(id(1), b""));
                client.expect(&ack(id(1)));
            }
            let total = thread::spawn(|| loops.wait());
            breaks[broken].store(true, Ordering::Relaxed);
            failing.send(&submit(id(2), b"")); // an event, so that the loop polls again
            failing.expect_closed();
            draining.expect_eof(); // and not a reset
            drop(draining);
            assert_eq!(total.join().unwrap().failed, 1, "loop {broken} {failure:?}");
        }
    }
}

#[test]
fn loop_that_fails_to_start_stops_the_others() {
    type Start = Box<dyn FnOnce() -> Result<Reactor<Service, Breakable>, Error> + Send>;

    let (served, addr) = listener();
    let never_breaks = || Arc::new(AtomicBool::new(false));
    let good: Start = Box::new(move || make(served, never_breaks(), Failure::Fails));
    let bad: Start = Box::new(|| {
        Err(Error::Config {
            problem: "no good".into(),
        })
    });
    let panics: Start = Box::new(|| panic!("no start"));
    for (bad, problem) in [(bad, "bad configuration: no good"), (panics, "it panicked")] {
        let starts: Vec<Start> = vec![bad];
        assert_eq!(Loops::start(starts).map(drop), Err(problem.to_string()));
    }
    let starts: Vec<Start> = vec![
        good,
        Box::new(|| {
            Err(Error::Config {
                problem: "no good".into(),
            })
        }),
    ];
    assert_eq!(
        Loops::start(starts).map(drop),
        Err("bad configuration: no good".to_string())
    );
    wait_until("the end of the other loop's listener", || {
        std::net::TcpStream::connect(addr).is_err()
    });
}

#[test]
#[cfg(target_os = "linux")]
fn server_reports_a_failed_loop_and_drains_the_others() {
    use process::Process;
    use std::process::Command;

    for broken in ["loop 0", "loop 1"] {
        let (server, addr) = Process::listening(&["--threads", "2", "--drain-timeout", "1h"]);
        let mut clients: Vec<Client> = (0..16).map(|_| Client::connect(addr)).collect();
        for client in &mut clients {
            client.send(&submit(id(1), b""));
            client.expect(&ack(id(1)));
        }
        let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid()))
            .unwrap()
            .map(|task| task.unwrap().path());
        let task = tasks
            .into_iter()
            .find(|task| std::fs::read_to_string(task.join("comm")).unwrap().trim() == broken)
            .unwrap();
        let mut strace = Command::new("strace");
        strace.args([
            "-p",
            task.file_name().unwrap().to_str().unwrap(),
            "-e",
            "trace=epoll_wait,epoll_pwait",
        ]);
        strace.args([
            "-e",
            "inject=epoll_wait,epoll_pwait:error=EBADF:when=1",
            "-o",
            "/dev/null",
        ]);
        if Command::new("strace").arg("--version").output().is_err() {
            return println!("not tested: strace is not installed here");
        }
        let strace = Process::run(&mut strace);
        wait_until("strace to attach", || !strace.log().is_empty());
        if !strace.log().contains("attached") {
            return println!("not tested: strace may not trace here: {}", strace.log());
        }
        for mut client in clients {
            // The loop that fails closes its connections. The other loop closes its connections
            // once they are answered.
            let _ = io::Write::write_all(&mut client.stream, &submit(id(2), b""));
            let _ = client.stream.shutdown(std::net::Shutdown::Write);
            let _ = io::Read::read_to_end(&mut client.stream, &mut Vec::new());
        }
        let (code, log) = server.end();
        assert_eq!(code, Some(1), "{log}");
        let wanted = format!(
            "{broken} failed: polling failed: Bad file descriptor (os error 9); \
             its connections are lost"
        );
        assert!(
            log.contains(&wanted) && log.contains("the other loops stop gracefully"),
            "{log}"
        );
        assert!(log.contains("stopped: 16 connections accepted"), "{log}");
    }
}
