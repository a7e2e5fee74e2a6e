//! The server's flags as a user sees them: timeouts, threads, Unix sockets, sockets from systemd;
//! and the client's two timeouts.

#![cfg(unix)]

#[path = "util/process.rs"]
mod process;
mod util;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use process::{Process, client, example};
use util::{Client, TIMEOUT, ack, id, request, submit, wait_until};

/// What a peer sends, and the close reason that it must get.
struct Case<'a> {
    flags: &'a [&'a str],
    sends: &'a [u8],
    reason: &'a str,
}

/// Asserts that a server with a limit of 400 ms closes such a connection and logs the reason: not
/// before that time, and not a `--drain-timeout` later. With `off` the connection stays open.
fn closes_in_time(case: &Case<'_>, flag: &str) {
    let start = |time: &str| {
        Process::listening(
            &[
                case.flags,
                &[flag, time, "--drain-timeout", "1h", "--log", "debug"],
            ]
            .concat(),
        )
    };
    let (server, addr) = start("400ms");
    let begun = Instant::now();
    let mut peer = Client::connect(addr);
    peer.send(case.sends);
    peer.expect_closed(); // much sooner than `--drain-timeout`
    assert!(
        begun.elapsed() >= Duration::from_millis(400),
        "{flag}: {:?}",
        begun.elapsed()
    );
    drop(peer);
    server.wait_for_log(case.reason);

    let (_server, addr) = start("off");
    let mut peer = Client::connect(addr);
    peer.send(case.sends);
    peer.stream
        .set_read_timeout(Some(Duration::from_millis(700)))
        .unwrap();
    let still_open = peer.stream.read(&mut [0]).unwrap_err();
    assert_eq!(still_open.kind(), ErrorKind::WouldBlock, "{flag} off");
}

#[test]
fn idle_timeout_closes_a_silent_peer_unless_off() {
    closes_in_time(
        &Case {
            flags: &[],
            sends: b"",
            reason: "closed: idle for 400ms",
        },
        "--idle-timeout",
    );
}

#[test]
fn frame_timeout_closes_on_an_unfinished_request_unless_off() {
    let reason =
        "closed: frame deadline passed: 7 bytes of an unfinished frame came from the peer in 400ms";
    closes_in_time(
        &Case {
            flags: &[],
            sends: &submit(id(1), b"")[..7],
            reason,
        },
        "--frame-timeout",
    );
}

#[test]
fn handshake_timeout_closes_a_peer_without_conn_unless_off() {
    let reason = "closed: handshake deadline passed: no first frame from the peer in 400ms";
    closes_in_time(
        &Case {
            flags: &["--require-conn"],
            sends: b"",
            reason,
        },
        "--handshake-timeout",
    );
}

#[test]
fn handshake_timeout_applies_only_while_a_required_conn_is_missing() {
    let (_lax, lax) = Process::listening(&["--handshake-timeout", "1s"]);
    let (_strict, strict) = Process::listening(&["--handshake-timeout", "1s", "--require-conn"]);
    let (mut free, mut known) = (Client::connect(lax), Client::connect(strict));
    known.send(&request(0x01, id(1), b""));
    known.expect(&request(0x81, id(1), &[0]));
    thread::sleep(Duration::from_millis(1500)); // 1.5 times the timeout
    for client in [&mut free, &mut known] {
        client.send(&submit(id(2), b"still here"));
        client.expect(&ack(id(2)));
    }
}

#[test]
fn write_timeout_closes_a_peer_that_reads_nothing_unless_off() {
    let requests = submit(id(1), b"").repeat(5000);
    for (time, closes) in [("400ms", true), ("off", false)] {
        let (server, addr) = Process::listening(&["--write-timeout", time, "--log", "debug"]);
        let begun = Instant::now();
        let mut peer = Client::connect(addr);
        peer.stream
            .set_write_timeout(Some(if closes {
                TIMEOUT
            } else {
                Duration::from_millis(1500)
            }))
            .unwrap();
        let error = loop {
            match peer.stream.write_all(&requests) {
                Ok(()) => assert!(begun.elapsed() < TIMEOUT),
                Err(error) => break error,
            }
        };
        if closes {
            assert!(
                matches!(
                    error.kind(),
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
                ),
                "{error}"
            );
            assert!(begun.elapsed() >= Duration::from_millis(400));
            server.wait_for_log("closed: write deadline passed: the peer took none of ");
        } else {
            assert_eq!(
                error.kind(),
                ErrorKind::WouldBlock,
                "blocked, and not closed"
            );
        }
    }
}

#[test]
fn invalid_times_are_refused_with_a_hint() {
    for flag in [
        "--idle-timeout",
        "--frame-timeout",
        "--write-timeout",
        "--handshake-timeout",
    ] {
        for (time, hint) in [
            ("soon", "expected a time such as 400ms or 10s, or `off`"),
            ("10", "expected a time such as 400ms or 10s, or `off`"),
            ("", "expected a time such as 400ms or 10s, or `off`"),
            ("OFF", "expected a time such as 400ms or 10s, or `off`"),
            ("0s", "zero would expire at once; `off` means no limit"),
            ("0ms", "zero would expire at once"),
        ] {
            let (code, stderr) = Process::server(&["--listen", "127.0.0.1:0", flag, time]).end();
            assert_eq!(code, Some(2), "{flag} {time}: {stderr}");
            assert!(
                stderr.contains(hint) && stderr.contains(flag),
                "{flag} {time}: {stderr}"
            );
        }
    }
    for (args, hint) in [
        (&["--threads", "0"][..], "0 is not in 1..=1024"),
        (&["--max-buffered", "0"], "0 is not in 1.."),
    ] {
        let (code, stderr) = Process::server(args).end();
        assert!(
            code != Some(0) && stderr.contains(hint),
            "{args:?}: {stderr}"
        );
    }
}

#[test]
fn extreme_times_are_accepted() {
    let years = [
        "--idle-timeout",
        "500years",
        "--frame-timeout",
        "500years",
        "--write-timeout",
        "1ns",
        "--drain-timeout",
        "500years",
    ];
    let (server, addr) = Process::listening(&years);
    let mut client = Client::connect(addr);
    client.send(&submit(id(1), b""));
    client.expect(&ack(id(1)));
    drop(client);
    server.signal("TERM");
    let (code, log) = server.end();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn four_threads_share_one_port_and_announce_it_once() {
    let (server, addr) = Process::listening(&["--threads", "4", "--log", "trace"]);
    let mut clients: Vec<Client> = (0..64).map(|_| Client::connect(addr)).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(&submit(id(n as u64), b""));
        client.expect(&ack(id(n as u64)));
    }
    server.expect_no_line();
    drop(clients);
    server.signal("TERM");
    let (code, log) = server.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(
        log.contains("stopped: 64 connections accepted, 64 requests handled"),
        "{log}"
    );
    // Each loop numbers its connections from 1. If one loop served all 64, their numbers would all
    // differ.
    let closed = log.lines().filter_map(|line| {
        line.split_once(": connection ")
            .or_else(|| line.split_once("] connection "))
    });
    let mut numbers: Vec<&str> = closed
        .filter_map(|(_, rest)| {
            rest.split_once(' ')
                .map(|(name, _)| name.rsplit('#').next().unwrap())
        })
        .collect();
    assert_eq!(numbers.len(), 64, "{log}");
    numbers.sort_unstable();
    numbers.dedup();
    assert!(numbers.len() < 64, "all were served by one loop");
}

#[test]
fn loops_share_one_limit_of_connections() {
    const LIMIT: u64 = 40;
    // The number does not depend on how the system spreads the connections over the four loops.
    let (server, addr) = Process::listening(&["--threads", "4", "--max-connections", "40"]);
    server.wait_for_log("room for 40 connections");
    let mut clients: Vec<Client> = Vec::new();
    for n in 0..LIMIT {
        let mut client = Client::connect(addr);
        client.send(&submit(id(n), b""));
        client.expect(&ack(id(n)));
        clients.push(client);
    }
    let mut waiting: Vec<Client> = (0..8).map(|_| Client::connect(addr)).collect();
    for client in &mut waiting {
        client.send(&submit(id(LIMIT), b""));
    }
    // Each connection that closes makes room for one that waits, even if that waits at another
    // loop.
    let is_answered = |client: &Client| {
        client.stream.set_nonblocking(true).unwrap();
        let peeked = client.stream.peek(&mut [0]);
        client.stream.set_nonblocking(false).unwrap();
        matches!(peeked, Ok(1))
    };
    assert!(!waiting.iter().any(is_answered), "more than 40 are served");
    for served in 1..=waiting.len() {
        drop(clients.remove(0));
        wait_until("one more to be served", || {
            waiting.iter().filter(|client| is_answered(client)).count() >= served
        });
        assert_eq!(
            waiting.iter().filter(|client| is_answered(client)).count(),
            served
        );
    }
    for client in &mut waiting {
        client.expect(&ack(id(LIMIT)));
    }
    drop((clients, waiting));
    server.signal("TERM");
    assert_eq!(server.end().0, Some(0));
}

#[test]
fn limit_below_the_number_of_loops_still_serves_all() {
    let (_server, addr) = Process::listening(&["--threads", "4", "--max-connections", "1"]);
    let mut clients: Vec<Client> = (0..12).map(|_| Client::connect(addr)).collect();
    for client in &mut clients {
        client.send(&submit(id(1), b""));
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    }
    for client in &mut clients {
        client.expect(&ack(id(1)));
        client.expect_eof();
    }
}

/// A socket path that no other test uses.
fn socket_path(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("glassloop-{name}-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

/// Starts the server on a Unix socket.
fn on_unix(path: &Path, args: &[&str]) -> Process {
    let listen = format!("unix:{}", path.display());
    Process::server(&[&["--listen", &listen], args].concat())
}

/// Sends a request to a Unix socket and expects its ack.
fn ask_unix(path: &Path) {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.write_all(&submit(id(1), b"by path")).unwrap();
    let mut answer = [0; 14];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[..], ack(id(1)));
}

#[test]
fn unix_socket_is_announced_served_and_removed_at_exit() {
    for threads in ["1", "4"] {
        let path = socket_path(&format!("served-{threads}"));
        let mut server = on_unix(&path, &["--threads", threads, "--listen", "127.0.0.1:0"]);
        assert_eq!(
            server.line(),
            format!("listening on unix:{}", path.display())
        );
        let mut client = Client::connect(server.listening_on());
        (0..20).for_each(|_| ask_unix(&path));
        client.send(&submit(id(2), b"and by port"));
        client.expect(&ack(id(2)));
        server.expect_no_line();
        drop(client);
        server.signal("TERM");
        assert_eq!(server.end().0, Some(0));
        assert!(!path.exists(), "the server must remove its socket file");
    }
}

#[test]
fn stale_socket_file_is_replaced_and_a_live_one_is_not() {
    let path = socket_path("stale");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let mut server = on_unix(&path, &[]);
    server.line();
    ask_unix(&path);
    let (code, stderr) = on_unix(&path, &[]).end();
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains(&format!(
            "cannot listen on unix:{}: another program listens there",
            path.display()
        )),
        "{stderr}"
    );
    ask_unix(&path); // the first server keeps its file
    // A killed server leaves its file behind, and the next one replaces it.
    server.signal("KILL");
    assert_eq!(server.end().0, None);
    assert!(path.exists());
    let mut server = on_unix(&path, &[]);
    server.line();
    ask_unix(&path);
    server.signal("TERM");
    assert_eq!(server.end().0, Some(0));
}

#[test]
fn file_that_is_not_a_socket_is_left_unchanged() {
    let path = socket_path("precious");
    std::fs::write(&path, "do not lose this").unwrap();
    let server = on_unix(&path, &[]);
    let (mut replaced, mut refused) = (false, false);
    wait_until("the server's start or error", || {
        replaced |= UnixStream::connect(&path).is_ok();
        refused |= server.log().contains("cannot listen on");
        replaced || refused
    });
    drop(server);
    let left = std::fs::read_to_string(&path);
    let _ = std::fs::remove_file(&path);
    assert!(
        refused && left.is_ok_and(|text| text == "do not lose this"),
        "the server must not change the file"
    );
}

#[test]
fn socket_file_of_another_server_is_not_removed() {
    let path = socket_path("replaced");
    let mut first = on_unix(&path, &[]);
    first.line();
    std::fs::remove_file(&path).unwrap();
    let mut second = on_unix(&path, &[]);
    second.line();
    first.signal("TERM");
    assert_eq!(first.end().0, Some(0));
    assert!(
        path.exists(),
        "the first server has removed the second one's file"
    );
    ask_unix(&path);
    second.signal("TERM");
    assert_eq!(second.end().0, Some(0));
}

#[test]
fn unusable_unix_path_is_reported_with_the_reason() {
    let missing = std::env::temp_dir().join("glassloop-no-such-directory/socket");
    let long = std::env::temp_dir().join("x".repeat(200));
    for (path, hint) in [
        (missing, "No such file or directory"),
        (long, "path must be"),
    ] {
        let (code, stderr) = on_unix(&path, &[]).end();
        assert_eq!(code, Some(1));
        assert!(
            stderr.contains("cannot listen on unix:") && stderr.contains(hint),
            "{stderr}"
        );
    }
}

/// A launcher that passes listening sockets as systemd does: from descriptor 3 on, with the
/// server's own process id.
const LAUNCHER: &str = r#"
import os, socket, sys
pid, kinds, server = str(os.getpid()), sys.argv[1].split(","), sys.argv[2:]
kept = []
for kind in kinds:
    if kind[0] in "/@":
        one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM); one.bind(kind.replace("@", "\0"))
    elif kind == "udp":
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); one.bind(("127.0.0.1", 0))
    else:
        one = socket.socket(); one.bind(("127.0.0.1", 0))
    if kind != "udp":
        one.listen(64)
    kept.append(one)
high = [os.dup2(one.fileno(), 100 + n) for n, one in enumerate(kept)]
for n, fd in enumerate(high):
    os.dup2(fd, 3 + n, inheritable=True)
os.environ.update(LISTEN_PID=pid, LISTEN_FDS=str(len(kinds)))
os.execv(server[0], server)
"#;

/// Starts the server with inherited sockets; `None` if python3 is missing.
fn with_inherited(kinds: &str, args: &[&str]) -> Option<Process> {
    if !Command::new("python3")
        .args(["-c", ""])
        .output()
        .is_ok_and(|output| output.status.success())
    {
        println!("not tested: there is no python3 here to pass sockets");
        return None;
    }
    Some(Process::run(
        Command::new("python3")
            .args(["-c", LAUNCHER, kinds])
            .arg(example("server"))
            .args(args),
    ))
}

#[test]
fn inherited_sockets_are_served_instead_of_the_default_address() {
    for threads in ["1", "3"] {
        let path = socket_path(&format!("handed-{threads}"));
        let Some(mut server) = with_inherited(
            &format!("tcp,{},tcp", path.display()),
            &["--threads", threads],
        ) else {
            return;
        };
        let first = server.listening_on();
        assert_eq!(
            server.line(),
            format!("listening on unix:{}", path.display())
        );
        let third = server.listening_on();
        assert_ne!(first, third);
        ask_unix(&path);
        for addr in [first, third].repeat(5) {
            let mut client = Client::connect(addr);
            client.send(&submit(id(1), b"inherited"));
            client.expect(&ack(id(1)));
        }
        server.wait_for_log("room for");
        server.expect_no_line();
        server.signal("TERM");
        assert_eq!(server.end().0, Some(0));
        assert!(
            path.exists(),
            "the server must not remove a socket file that systemd has made"
        );
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
#[cfg(target_os = "linux")]
fn inherited_abstract_socket_is_announced_by_name() {
    let name = format!("@glassloop-handed-{}", std::process::id());
    let Some(mut server) = with_inherited(&name, &[]) else {
        return;
    };
    assert_eq!(server.line(), format!("listening on unix:{name}"));
}

#[test]
fn inherited_sockets_are_served_beside_listen_flags() {
    let Some(mut server) = with_inherited("tcp", &["--listen", "127.0.0.1:0"]) else {
        return;
    };
    for addr in [server.listening_on(), server.listening_on()] {
        let mut client = Client::connect(addr);
        client.send(&submit(id(1), b""));
        client.expect(&ack(id(1)));
    }
}

#[test]
fn unusable_inherited_socket_is_reported() {
    let Some(server) = with_inherited("tcp,udp", &[]) else {
        return;
    };
    let (code, stderr) = server.end();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(
        stderr.contains("socket 1 of LISTEN_FDS is not usable"),
        "{stderr}"
    );
}

#[test]
fn sockets_passed_to_another_process_are_ignored() {
    let mut command = Command::new(example("server"));
    command
        .args(["--listen", "127.0.0.1:0"])
        .env("LISTEN_FDS", "1")
        .env("LISTEN_PID", "1");
    let mut server = Process::run(&mut command);
    let mut client = Client::connect(server.listening_on());
    client.send(&submit(id(1), b""));
    client.expect(&ack(id(1)));
    server.expect_no_line();
}

#[test]
fn systemd_socket_activate_passes_sockets() {
    if Command::new("systemd-socket-activate")
        .arg("--version")
        .output()
        .is_err()
    {
        println!("not tested: systemd-socket-activate is not installed here");
        return;
    }
    // The launcher does not accept port 0. Each attempt uses a port that was free a moment ago.
    for _ in 0..5 {
        let addr = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let mut command = Command::new("systemd-socket-activate");
        let mut server = Process::run(
            command
                .args(["-l", &addr.to_string()])
                .arg(example("server")),
        );
        wait_until("the launcher", || {
            server.log().contains("Listening on") || server.log().contains("Failed")
        });
        if server.log().contains("Failed") {
            continue;
        }
        // The launcher starts the server at the first connection.
        let mut client = Client::connect(addr);
        client.send(&submit(id(1), b"wake up"));
        client.expect(&ack(id(1)));
        drop(client);
        // The waiting connection is served while the process still starts. From the announcement on
        // the process handles signals.
        assert_eq!(server.listening_on(), addr);
        server.signal("TERM");
        let (code, log) = server.end();
        assert_eq!(code, Some(0), "{log}");
        assert!(
            log.contains("1 connections accepted, 1 requests handled"),
            "{log}"
        );
        return;
    }
    panic!("no port was free five times");
}

#[test]
fn ack_timeout_ends_a_client_without_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let begun = Instant::now();
    let output = client(&["--addr", &addr, "--conns", "2", "--ack-timeout", "400ms"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(begun.elapsed() >= Duration::from_millis(400));
    for number in 1..=2 {
        assert!(
            stderr.contains(&format!(
                "client: conn {number}: no submitack 00000001 within 400ms"
            )),
            "{stderr}"
        );
    }
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("0 of 20 acks\n"));
}

#[test]
fn ack_timeout_applies_to_each_ack_separately() {
    let (_server, addr) = Process::listening(&[]);
    let addr = addr.to_string();
    let output = client(&[
        "--addr",
        &addr,
        "--conns",
        "1",
        "--count",
        "3",
        "--interval",
        "1300ms",
        "--ack-timeout",
        "1s",
    ]);
    assert!(output.status.success(), "{output:?}");
    // Between two requests the client waits for no ack. With `off` there is no timeout at all.
    let output = client(&[
        "--addr",
        &addr,
        "--conns",
        "1",
        "--count",
        "1",
        "--ack-timeout",
        "off",
        "--connect-timeout",
        "off",
    ]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
#[cfg(target_os = "linux")]
fn connect_timeout_ends_a_client_that_is_not_accepted() {
    let silent = util::FullListener::listen().unwrap();
    let addr = silent.addr;
    let begun = Instant::now();
    let output = client(&[
        "--addr",
        &addr.to_string(),
        "--conns",
        "1",
        "--connect-timeout",
        "400ms",
    ]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(begun.elapsed() >= Duration::from_millis(400));
    let wanted = format!(
        "client: conn 1: 0 of 10 acks received, then: \
         cannot connect to {addr}: no answer within 400ms"
    );
    assert!(stderr.contains(&wanted), "{stderr}");
}

#[test]
fn client_refuses_invalid_times_with_a_hint() {
    for flag in ["--connect-timeout", "--ack-timeout"] {
        for (time, hint) in [
            ("never", "expected a time such as 400ms or 10s, or `off`"),
            ("0s", "zero would expire at once"),
        ] {
            let output = client(&[flag, time]);
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{stderr}");
            assert!(stderr.contains(hint) && stderr.contains(flag), "{stderr}");
        }
    }
}
