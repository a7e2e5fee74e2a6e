//! The examples as a user starts them: what they print, what they answer, how they exit.

#![cfg(unix)]

#[path = "util/process.rs"]
mod process;
mod util;

use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use process::{Process, client, example};
use util::{Client, TIMEOUT, ack, bound, id, request, submit, wait_until};

#[test]
fn server_announces_its_actual_addresses_and_serves_on_all() {
    let mut server = Process::server(&[
        "--listen",
        "127.0.0.1:0",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "off",
    ]);
    let addrs = [server.listening_on(), server.listening_on()];
    assert_ne!(addrs[0], addrs[1]);
    for addr in addrs {
        assert_ne!(addr.port(), 0);
        let mut client = Client::connect(addr);
        client.send(&submit(id(1), b"hello"));
        client.expect(&ack(id(1)));
    }
}

#[test]
fn first_signal_stops_gracefully_with_exit_code_0() {
    for signal in ["INT", "TERM"] {
        let (server, addr) = Process::listening(&[]);
        let mut client = Client::connect(addr);
        client.send(&submit(id(1), b"hello"));
        client.expect(&ack(id(1)));
        client.send(&submit(id(2), b"half")[..10]);
        server.signal(signal);
        client.expect_eof();
        drop(client);
        let (code, stderr) = server.end();
        assert_eq!(code, Some(0), "{stderr}");
        assert!(
            stderr.contains("1 connections accepted, 1 requests handled"),
            "{stderr}"
        );
        assert!(TcpStream::connect(addr).is_err());
    }
}

#[test]
fn signal_directly_after_the_announcement_stops_gracefully() {
    for _ in 0..20 {
        let (server, _) = Process::listening(&[]);
        server.signal("TERM");
        assert_eq!(server.end().0, Some(0));
    }
}

#[test]
fn no_address_is_announced_if_one_listener_fails() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Process::server(&[
        "--listen",
        "127.0.0.1:0",
        "--listen",
        &taken.local_addr().unwrap().to_string(),
    ]);
    server.expect_end_of_lines();
    assert_eq!(server.end().0, Some(1));
}

#[test]
fn second_signal_stops_at_once() {
    let (mut server, addr) = Process::listening(&["--drain-timeout", "1h"]);
    // A peer that sends requests and reads no replies: draining would take the hour.
    let mut client = Client::connect(addr);
    client
        .stream
        .set_write_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let requests = submit(id(1), b"").repeat(10_000);
    while std::io::Write::write_all(&mut client.stream, &requests).is_ok() {}
    server.signal("TERM");
    // The server has handled the first signal once it refuses new connections.
    wait_until("the end of the listener", || {
        TcpStream::connect(addr).is_err()
    });
    assert!(server.is_running(), "the server must wait for the peer");
    server.signal("TERM");
    let (code, stderr) = server.end();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("stopping at once"), "{stderr}");
}

#[test]
fn sighup_is_logged_and_stops_nothing() {
    let (server, addr) = Process::listening(&[]);
    let mut client = Client::connect(addr);
    for n in 0..3 {
        client.send(&submit(id(n), b"sent in two parts.")[..15]);
        server.signal("HUP");
        wait_until("SIGHUP in the log", || {
            server.log().matches("SIGHUP: nothing to reload").count() > n as usize
        });
        client.send(&submit(id(n), b"sent in two parts.")[15..]);
        client.expect(&ack(id(n)));
    }
    drop(client);
    // SIGHUP does not count as the first of two signals.
    server.signal("TERM");
    let (code, log) = server.end();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn signals_blocked_at_the_start_are_handled() {
    use nix::sys::signal::{SigSet, Signal};

    let start = || {
        let watched: SigSet = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM]
            .into_iter()
            .collect();
        watched.thread_block().unwrap(); // inherited by the process that this thread starts
        Process::listening(&["--threads", "2"])
    };
    for signal in ["INT", "TERM"] {
        let (server, _addr) = std::thread::spawn(start).join().unwrap();
        server.signal("HUP");
        server.wait_for_log("SIGHUP: nothing to reload");
        server.signal(signal);
        let (code, log) = server.end();
        assert_eq!(code, Some(0), "{log}");
    }
}

#[test]
fn sighup_pending_at_the_start_is_only_logged() {
    const LAUNCHER: &str = "import os, signal, sys\n\
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])\n\
        os.kill(os.getpid(), signal.SIGHUP)\n\
        os.execv(sys.argv[1], sys.argv[1:])";
    if !Command::new("python3")
        .args(["-c", ""])
        .output()
        .is_ok_and(|output| output.status.success())
    {
        return println!("not tested: there is no python3 here to block the signal");
    }
    let mut launcher = Command::new("python3");
    let (server, _addr) = Process::run_listening(
        launcher
            .args(["-c", LAUNCHER])
            .arg(example("server"))
            .args(["--listen", "127.0.0.1:0"]),
    );
    server.wait_for_log("SIGHUP: nothing to reload");
    server.signal("TERM");
    assert_eq!(server.end().0, Some(0));
}

#[test]
fn address_in_use_is_reported_with_a_remedy() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let (code, stderr) = Process::server(&["--listen", &addr]).end();
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains(&format!("cannot listen on {addr}: address already in use")),
        "{stderr}"
    );
    assert!(stderr.contains("--listen"), "{stderr}");
}

#[test]
fn wrong_flags_are_refused_with_a_hint() {
    for (args, hint) in [
        (&["--listen", "no-port"][..], "not an address with a port"),
        (&["--max-frame", "12"], "12 is not in 13.."),
        (&["--max-connections", "0"], "0 is not in 1.."),
        (&["--admin", "maybe"], "neither `off` nor an address"),
        (&["--dialect", "unknown"], "possible values: text, source"),
        (&["--drain-timeout", "soon"], "--drain-timeout"),
        (&["--scratch", "0"], "0 is not in 1.."),
        (&["--spin", "11ms"], "longer than 10ms"),
        (&["--events", "0"], "0 is not in 1.."),
        (&["--nodelay", "maybe"], "neither `on` nor `off`"),
        (
            &["--log", "loud"],
            "a level (error, warn, info, debug, trace, off)",
        ),
    ] {
        let (code, stderr) = Process::server(args).end();
        assert_ne!(code, Some(0), "{args:?}");
        assert!(stderr.contains(hint), "{args:?}: {stderr}");
    }
}

#[test]
fn tuning_flags_do_not_change_replies() {
    for args in [
        &["--scratch", "1"][..],
        &["--events", "1"],
        &["--nodelay", "off"],
        &["--spin", "0"],
        &["--spin", "10ms"],
    ] {
        let (_server, addr) = Process::listening(args);
        let mut clients = [Client::connect(addr), Client::connect(addr)];
        for client in &mut clients {
            client.send(&submit(id(1), &[b'x'; 5_000]).repeat(3));
        }
        for client in &mut clients {
            client.expect(&ack(id(1)).repeat(3));
        }
    }
}

#[test]
fn closed_connections_are_logged_at_debug_and_requests_are_not() {
    let (server, addr) = Process::listening(&["--log", "debug", "--require-conn"]);
    let mut client = Client::connect(addr);
    client.send(&[request(0x01, id(1), b""), submit(id(2), b"secret")].concat());
    client.expect(&[request(0x81, id(1), &[0]), ack(id(2))].concat());
    client.send(b"GET ");
    client.expect_eof();
    drop(client);
    // Peer bytes in the log are escaped.
    let mut hostile = Client::connect(addr);
    hostile.send(&submit(*b"\x1b[31m\r\n!", b""));
    hostile.expect(&request(0x82, *b"\x1b[31m\r\n!", &[1]));
    hostile.expect_eof();
    drop(hostile);
    server.signal("TERM");
    let (code, stderr) = server.end();
    assert_eq!(code, Some(0));
    assert!(
        stderr.contains(
            "closed: protocol error by the peer: frame of 1195725856 bytes, at most 65536 allowed"
        ),
        "{stderr}"
    );
    assert!(
        stderr.contains(r"submit \x1b[31m\r\n! before conn is refused"),
        "{stderr}"
    );
    assert!(
        !stderr.contains("secret") && !stderr.contains('\x1b'),
        "{stderr}"
    );
}

#[test]
fn peers_of_other_protocols_do_not_fill_the_log() {
    let (server, addr) = Process::listening(&[]);
    server.wait_for_log("room for ");
    server.wait_for_log("\n");
    let quiet = server.log();
    let first_bytes = [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"\r\n\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
    ];
    for bytes in first_bytes.iter().cycle().take(200) {
        let mut other = Client::connect(addr);
        other.send(bytes);
        other.expect_eof();
    }
    for _ in 0..100 {
        Client::connect(addr).reset();
    }
    // The server has handled all of them once a later client is served.
    let mut client = Client::connect(addr);
    client.send(&submit(id(1), b""));
    client.expect(&ack(id(1)));
    assert_eq!(
        server.log(),
        quiet,
        "such peers must not add lines to the log"
    );
    server.signal("TERM");
    let (code, stderr) = server.end();
    assert_eq!(code, Some(0));
    assert!(
        stderr.contains("301 connections accepted, 1 requests handled"),
        "such peers must be counted: {stderr}"
    );
}

#[test]
#[cfg(target_os = "linux")]
fn repeated_signals_do_not_stop_the_server_or_move_a_deadline() {
    let (server, addr) = Process::listening(&["--idle-timeout", "1s"]);
    let mut silent = Client::connect(addr);
    let begun = Instant::now();
    silent.send(&submit(id(1), b""));
    silent.expect(&ack(id(1)));
    silent.stream.set_nonblocking(true).unwrap();
    // SIGSTOP and SIGCONT interrupt a wait even if no handler is installed (signal(7)). If the loop
    // began each wait anew with its full timeout, the connection would never time out.
    let is_closed = |silent: &mut Client| match silent.stream.read(&mut [0]) {
        Ok(0) => true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        other => panic!("{other:?}"),
    };
    while !is_closed(&mut silent) {
        assert!(
            begun.elapsed() < TIMEOUT,
            "the signals have moved the deadline; {}",
            server.log()
        );
        server.signal("STOP");
        server.signal("CONT");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(
        begun.elapsed() >= Duration::from_millis(999),
        "closed after {:?}",
        begun.elapsed()
    );
    let mut client = Client::connect(addr);
    client.send(&submit(id(2), b""));
    client.expect(&ack(id(2)));
    server.signal("TERM");
    assert_eq!(server.end().0, Some(0));
}

/// A traced run of the example server: strace's output, the exit code, and stderr.
struct Traced {
    calls: String,
    code: Option<i32>,
    stderr: String,
}

/// Runs the example server under strace with `options`, and calls `visit` with a client. Returns
/// `None` if strace is not installed or may not trace.
///
/// The server does not spin, since the number of polls would depend on the machine.
fn traced(options: &[&str], visit: impl FnOnce(&mut Client)) -> Option<Traced> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    if !Command::new("strace")
        .arg("true")
        .output()
        .is_ok_and(|output| output.status.success())
    {
        println!("not tested: strace is not installed here, or may not trace");
        return None;
    }
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path =
        std::env::temp_dir().join(format!("glassloop-strace-{}-{number}", std::process::id()));
    let mut command = Command::new("strace");
    command
        .args(["-f", "-o"])
        .arg(&path)
        .args(options)
        .arg(example("server"))
        .args(["--listen", "127.0.0.1:0", "--spin", "off"]);
    let (server, addr) = Process::run_listening(&mut command);
    visit(&mut Client::connect(addr));
    let pid = Command::new("pgrep")
        .args(["-P", &server.pid().to_string()])
        .output()
        .unwrap()
        .stdout;
    let pid = String::from_utf8(pid).unwrap();
    let _ = Command::new("kill")
        .args(["-s", "TERM", pid.trim()])
        .status();
    let (code, stderr) = server.end();
    let calls = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    Some(Traced {
        calls,
        code,
        stderr,
    })
}

#[test]
#[cfg(target_os = "linux")]
fn broken_poller_is_reported_with_exit_code_1() {
    let broken = traced(
        &[
            "-e",
            "trace=epoll_wait,epoll_pwait",
            "-e",
            "inject=epoll_wait,epoll_pwait:error=EBADF:when=20+",
        ],
        |client| {
            // Each request takes one wait.
            for n in 0..100 {
                client.send(&submit(id(n), b""));
                match client.stream.read(&mut [0; 14]) {
                    Ok(14) => {}
                    Ok(0) => return,
                    Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
                    other => panic!("{other:?}"),
                }
            }
            panic!("the server continues without a poller");
        },
    );
    let Some(Traced {
        calls,
        code,
        stderr,
    }) = broken
    else {
        return;
    };
    assert_eq!(code, Some(1), "{stderr}");
    assert!(
        stderr.contains("polling failed: Bad file descriptor"),
        "{stderr}"
    );
    assert_eq!(
        calls.lines().filter(|line| line.contains("EBADF")).count(),
        1,
        "the first failed poll must be the last: {calls}"
    );
}

#[test]
#[cfg(target_os = "linux")]
fn writes_never_raise_sigpipe() {
    // A host program that does not ignore SIGPIPE (Rust programs do by default) dies of it, unless
    // each write has MSG_NOSIGNAL.
    let writes = traced(&["-e", "trace=sendto,sendmsg,write,writev"], |client| {
        for n in 0..20 {
            client.send(&submit(id(n), b"").repeat(usize::try_from(n).unwrap() + 1));
            (0..=n).for_each(|_| client.expect(&ack(id(n))));
        }
    });
    let Some(Traced { calls, stderr, .. }) = writes else {
        return;
    };
    let acks: Vec<&str> = calls
        .lines()
        .filter(|line| line.contains("\\0\\0\\0\\16\\202"))
        .collect();
    assert!(acks.len() >= 20, "{calls}{stderr}");
    assert!(
        acks.iter().all(|line| line.contains("MSG_NOSIGNAL")),
        "{calls}"
    );
}

#[test]
fn client_prints_every_ack_and_exits_with_0() {
    for (server_args, client_args) in [
        (&[][..], &["--conns", "5", "--count", "10"][..]),
        (
            &["--dialect", "source"],
            &["--dialect", "source", "--conns", "2", "--count", "3"],
        ),
        (
            &["--require-conn"],
            &["--conn", "--conns", "2", "--count", "3"],
        ),
    ] {
        let (_server, addr) = Process::listening(server_args);
        let addr = addr.to_string();
        let output = client(&[&["--addr", &addr, "--interval", "1ms"], client_args].concat());
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success(),
            "{stdout}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let wanted = if client_args.contains(&"5") { 50 } else { 6 };
        assert_eq!(
            stdout
                .lines()
                .filter(|line| line.contains("submitack") && line.ends_with(" ok"))
                .count(),
            wanted,
            "{stdout}"
        );
        assert!(
            stdout.ends_with(&format!("{wanted} of {wanted} acks\n")),
            "{stdout}"
        );
    }
}

#[test]
fn client_exits_with_1_if_an_ack_is_missing_or_wrong() {
    let twice = ack(id(2)).repeat(2);
    let answers = [
        Vec::new(),
        [ack(id(1)), twice].concat(),
        ack(id(7)),
        request(0x82, id(1), &[1]),
        request(0x81, id(1), &[0]),
        b"\0\0\0\x0d\x8200000001".to_vec(),
    ];
    for answer in answers {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let serving = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut peer = Client { stream };
            peer.stream.read_exact(&mut [0; 13]).unwrap();
            peer.send(&answer);
        });
        let output = client(&[
            "--addr",
            &addr,
            "--conns",
            "1",
            "--count",
            "2",
            "--interval",
            "0s",
        ]);
        serving.join().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("client: conn 1: "),
            "{output:?}"
        );
    }
    let (_bound, unused) = bound();
    let output = client(&["--addr", &unused.to_string(), "--conns", "1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&output.stderr)
            .contains("connection refused: nothing listens there"),
        "{output:?}"
    );
}

#[test]
fn syscalls_per_request_match_strace() {
    let counted = traced(
        &[
            "-e",
            "trace=recvfrom,sendto,read,write,epoll_wait,epoll_pwait,epoll_ctl",
        ],
        |client| {
            let ask = |client: &mut Client, n| {
                client.send(&submit(id(n), b"count me"));
                client.expect(&ack(id(n)));
            };
            ask(client, 0);
            // Markers in the trace: requests of another length.
            client.send(&submit(id(1), &[b'['; 100]));
            client.expect(&ack(id(1)));
            (0..200).for_each(|n| ask(client, n));
            client.send(&submit(id(1), &[b']'; 100]));
            client.expect(&ack(id(1)));
        },
    );
    let Some(Traced {
        calls: text,
        stderr,
        ..
    }) = counted
    else {
        return;
    };
    let lines: Vec<&str> = text.lines().collect();
    let marker = |bytes: &str| {
        lines
            .iter()
            .position(|line| line.contains("recvfrom") && line.contains(bytes))
    };
    let (Some(begin), Some(end)) = (marker("[[[["), marker("]]]]")) else {
        panic!("no markers in the trace\n{text}\n{stderr}")
    };
    // The loop's thread only; the thread that waits for signals makes calls too. A call that strace
    // splits in two lines is counted at the second.
    let (thread, _) = lines[begin].split_once(' ').unwrap();
    let calls = || {
        lines[begin + 1..end]
            .iter()
            .filter_map(|line| line.strip_prefix(thread))
            .map(str::trim_start)
    };
    let count = |name: &str| {
        let whole = [format!("{name}("), format!("<... {name} resumed>")];
        calls()
            .filter(|call| {
                whole.iter().any(|start| call.starts_with(start)) && !call.contains("<unfinished")
            })
            .count()
    };
    assert_eq!(
        (count("recvfrom"), count("sendto")),
        (200, 201),
        "the marker's own ack is the additional write:\n{text}"
    );
    // One wait for each request, and one for the second marker.
    let waits = count("epoll_wait") + count("epoll_pwait");
    assert_eq!(waits, 201, "{text}");
    assert_eq!(count("epoll_ctl") + count("read") + count("write"), 0);
}
