//! Where the server listens: host names, wildcards, shared ports, Unix sockets; and keepalive.

#![cfg(unix)]

#[path = "util/process.rs"]
mod process;
mod util;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use process::{Process, example};
use util::{Client, TIMEOUT, ack, id, submit, wait_until};

/// Sends one request and expects its ack.
#[track_caller]
fn ask(addr: SocketAddr) {
    let mut client = Client::connect(addr);
    client.send(&submit(id(1), b""));
    client.expect(&ack(id(1)));
}

fn ask_unix(mut stream: UnixStream) {
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.write_all(&submit(id(1), b"")).unwrap();
    let mut answer = [0; 14];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[..], ack(id(1)));
}

fn has_ipv6() -> bool {
    let has = TcpListener::bind("[::1]:0").is_ok();
    if !has {
        println!("not tested: this machine has no IPv6");
    }
    has
}

/// Runs `test` with a port that was free a moment ago, up to five times, until it returns true:
/// another process may take the port meanwhile.
fn with_free_port(test: impl Fn(u16) -> bool) {
    let free = || {
        TcpListener::bind("0.0.0.0:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port()
    };
    assert!((0..5).any(|_| test(free())), "no port was free five times");
}

#[test]
fn name_with_several_addresses_is_served_at_each() {
    let mut addrs: Vec<SocketAddr> = Vec::new();
    for addr in "localhost:0".to_socket_addrs().unwrap() {
        if !addrs.contains(&addr) && TcpListener::bind(addr).is_ok() {
            addrs.push(addr);
        }
    }
    for threads in ["1", "2"] {
        let mut server = Process::server(&["--listen", "localhost:0", "--threads", threads]);
        for addr in &addrs {
            let listening = server.listening_on();
            assert_eq!(listening.ip(), addr.ip());
            ask(listening);
        }
        server.wait_for_log("room for");
        server.expect_no_line();
    }
}

#[test]
#[cfg(target_os = "linux")]
fn name_with_two_addresses_in_the_hosts_file_has_two_listeners() {
    // As above, also on a machine whose hosts file gives one address only: with its own hosts file,
    // in a mount namespace.
    let hosts = std::env::temp_dir().join(format!("glassloop-hosts-{}", std::process::id()));
    let start = |lines: &str| {
        std::fs::write(&hosts, lines).unwrap();
        let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
        let mut command = Command::new("unshare");
        command
            .args(["--map-root-user", "--mount", "sh", "-c", script])
            .arg(&hosts)
            .arg(example("server"));
        let mut server = Process::run(command.args(["--listen", "two.test:0"]));
        let (mut ended, mut started) = (false, false);
        wait_until("the server's start or end", || {
            ended = !server.is_running();
            started = server.log().contains("room for");
            ended || started
        });
        (server, started)
    };
    let (mut server, started) =
        start("127.0.0.1 two.test\n127.0.0.2 two.test\n127.0.0.1 two.test\n");
    if !started && server.log().contains("unshare") || server.log().contains("mount") {
        return println!("not tested: no mount namespace here: {}", server.log());
    }
    let two = [server.listening_on(), server.listening_on()];
    two.into_iter().for_each(ask);
    let mut ips = two.map(|addr| addr.ip().to_string());
    ips.sort();
    assert_eq!(ips, ["127.0.0.1", "127.0.0.2"], "{}", server.log());
    server.expect_no_line();

    // An address that this machine does not have is skipped if there are others.
    let (mut server, _) = start("127.0.0.1 two.test\n192.0.2.1 two.test\n");
    ask(server.listening_on());
    server.expect_no_line();
    server.wait_for_log(
        "cannot listen on 192.0.2.1:0: this machine has no such address; choose another with \
         --listen; two.test:0 is served at its other addresses",
    );
    let (server, _) = start("192.0.2.1 two.test\n");
    let (code, log) = server.end();
    assert!(
        code == Some(1)
            && log.contains("cannot listen on 192.0.2.1:0: this machine has no such address"),
        "{log}"
    );
    let _ = std::fs::remove_file(&hosts);
}

#[test]
fn wildcards_of_both_families_share_a_port_in_either_order() {
    if !has_ipv6() {
        return;
    }
    for threads in ["1", "2"] {
        for reversed in [false, true] {
            with_free_port(|port| {
                let mut wildcards = [format!("0.0.0.0:{port}"), format!("[::]:{port}")];
                if reversed {
                    wildcards.reverse();
                }
                let mut server = Process::server(&[
                    "--threads",
                    threads,
                    "--listen",
                    &wildcards[0],
                    "--listen",
                    &wildcards[1],
                ]);
                wait_until("the server's start or end", || {
                    server.log().contains("room for") || !server.is_running()
                });
                if server.log().contains("address already in use") {
                    // Used by another process, or by this server itself? Only the latter repeats.
                    return false;
                }
                assert_eq!(
                    [
                        server.listening_on().to_string(),
                        server.listening_on().to_string()
                    ],
                    wildcards
                );
                ask(SocketAddr::from(([127, 0, 0, 1], port)));
                ask(format!("[::1]:{port}").parse().unwrap());
                true
            });
        }
    }
}

#[test]
fn ipv6_wildcard_alone_takes_ipv4_connections_too() {
    if !has_ipv6() {
        return;
    }
    let mut server = Process::server(&["--listen", "[::]:0"]);
    let port = server.listening_on().port();
    ask(SocketAddr::from(([127, 0, 0, 1], port)));
}

#[test]
fn address_given_twice_is_served_once() {
    for threads in ["1", "2"] {
        with_free_port(|port| {
            let addr = format!("127.0.0.1:{port}");
            let mut server =
                Process::server(&["--threads", threads, "--listen", &addr, "--listen", &addr]);
            wait_until("the server's start or end", || {
                server.log().contains("room for") || !server.is_running()
            });
            if server.log().contains("address already in use") {
                return false;
            }
            ask(server.listening_on());
            server.expect_no_line();
            true
        });
    }
}

#[test]
fn second_server_on_a_port_is_refused_with_any_number_of_threads() {
    for threads in [["1", "1"], ["1", "2"], ["2", "1"], ["2", "2"]] {
        let (_first, addr) = Process::listening(&["--threads", threads[0]]);
        let (code, log) =
            Process::server(&["--listen", &addr.to_string(), "--threads", threads[1]]).end();
        assert_eq!(code, Some(1), "{threads:?}: {log}");
        assert!(
            log.contains(&format!(
                "cannot listen on {addr}: address already in use; stop the program that uses it"
            )),
            "{log}"
        );
        ask(addr);
    }
}

#[test]
fn servers_share_a_port_only_with_reuse_port() {
    for threads in ["1", "3"] {
        let (first, addr) = Process::listening(&["--reuse-port", "--threads", threads]);
        let mut second = Process::server(&[
            "--reuse-port",
            "--threads",
            threads,
            "--listen",
            &addr.to_string(),
        ]);
        assert_eq!(second.listening_on(), addr);
        // A server without the flag is refused, and so is one with it if the first has no flag.
        let (code, log) =
            Process::server(&["--listen", &addr.to_string(), "--threads", threads]).end();
        assert!(
            code == Some(1) && log.contains("address already in use"),
            "{log}"
        );
        let (_alone, other) = Process::listening(&[]);
        let (code, log) = Process::server(&["--listen", &other.to_string(), "--reuse-port"]).end();
        assert!(
            code == Some(1) && log.contains("share it too, with --reuse-port"),
            "{log}"
        );
        // A rolling restart: the first stops, and the second continues to serve.
        (0..32).for_each(|_| ask(addr));
        first.signal("TERM");
        assert_eq!(first.end().0, Some(0));
        (0..8).for_each(|_| ask(addr));
        second.signal("TERM");
        assert_eq!(second.end().0, Some(0));
    }
}

#[test]
#[cfg(target_os = "linux")]
fn ipv6_scope_may_be_an_interface_name() {
    if !has_ipv6() {
        return;
    }
    for scope in ["lo", "1"] {
        let mut server = Process::server(&["--listen", &format!("[::1%{scope}]:0")]);
        ask(server.listening_on());
    }
    let (code, log) = Process::server(&["--listen", "[::1%nosuch]:0"]).end();
    assert_eq!(code, Some(1));
    assert!(
        log.contains("cannot listen on [::1%nosuch]:0: no network interface is called nosuch"),
        "{log}"
    );
}

/// A socket path that no other test uses.
fn socket_path(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("glassloop-listen-{name}-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

fn lock_of(path: &Path) -> PathBuf {
    format!("{}.lock", path.display()).into()
}

#[test]
fn one_of_many_starts_on_a_stale_socket_file_listens() {
    const STARTS: usize = 8;
    let path = socket_path("race");
    for _ in 0..3 {
        drop(UnixListener::bind(&path).unwrap());
        let mut servers: Vec<Process> = (0..STARTS)
            .map(|_| Process::server(&["--listen", &format!("unix:{}", path.display())]))
            .collect();
        wait_until("all but one to end", || {
            servers
                .iter_mut()
                .map(|server| usize::from(server.is_running()))
                .sum::<usize>()
                == 1
        });
        let mut winner = None;
        for mut server in servers {
            if server.is_running() {
                winner = Some(server);
                continue;
            }
            let (code, log) = server.end();
            assert!(
                code == Some(1) && log.contains("another program listens there"),
                "{log}"
            );
        }
        let mut winner = winner.unwrap();
        assert_eq!(
            winner.line(),
            format!("listening on unix:{}", path.display())
        );
        ask_unix(UnixStream::connect(&path).unwrap());
        winner.signal("TERM");
        assert_eq!(winner.end().0, Some(0));
        assert!(
            !path.exists() && !lock_of(&path).exists(),
            "the server must remove its socket file and the lock file"
        );
    }
}

#[test]
#[cfg(target_os = "linux")]
fn start_waits_for_the_lock_of_another_start() {
    use nix::fcntl::{Flock, FlockArg};

    let path = socket_path("locked");
    drop(UnixListener::bind(&path).unwrap());
    let lock = std::fs::File::create(lock_of(&path)).unwrap();
    let lock = Flock::lock(lock, FlockArg::LockExclusive).unwrap();
    let server = Process::server(&["--listen", &format!("unix:{}", path.display())]);
    // The server has found the lock. Now this test replaces the socket file.
    let fds = PathBuf::from(format!("/proc/{}/fd", server.pid()));
    wait_until("the server to wait for the lock", || {
        let links = std::fs::read_dir(&fds)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|fd| std::fs::read_link(fd.path()).ok());
        links.into_iter().any(|link| link == lock_of(&path))
    });
    std::fs::remove_file(&path).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    std::fs::remove_file(lock_of(&path)).unwrap();
    drop(lock);
    let (code, log) = server.end();
    assert!(
        code == Some(1) && log.contains("another program listens there"),
        "{log}"
    );
    listener.set_nonblocking(true).unwrap();
    UnixStream::connect(&path).unwrap();
    assert!(
        listener.incoming().take(2).flatten().count() > 0,
        "the file must still belong to the test's listener"
    );
    std::fs::remove_file(&path).unwrap();
    assert!(!lock_of(&path).exists());
}

#[test]
#[cfg(target_os = "linux")]
fn abstract_socket_is_announced_served_and_refused_to_a_second_server() {
    use std::os::linux::net::SocketAddrExt;

    let name = format!("glassloop-listen-{}", std::process::id());
    let listen = format!("unix:@{name}");
    for threads in ["1", "3"] {
        let mut server = Process::server(&["--listen", &listen, "--threads", threads]);
        assert_eq!(server.line(), format!("listening on {listen}"));
        let addr = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        (0..8).for_each(|_| ask_unix(UnixStream::connect_addr(&addr).unwrap()));
        let (code, log) = Process::server(&["--listen", &listen]).end();
        assert!(
            code == Some(1)
                && log.contains(&format!(
                    "cannot listen on {listen}: another program listens there"
                )),
            "{log}"
        );
        server.signal("TERM");
        assert_eq!(server.end().0, Some(0));
    }
    let (code, log) = Process::server(&["--listen", "unix:@"]).end();
    assert!(
        code == Some(1) && log.contains("cannot listen on unix:@: expected a name"),
        "{log}"
    );
}

/// The kind of the timer at the server's end of a connection, and the time left in hundredths of a
/// second (`tr` and `tm->when` of `proc_net_tcp`).
#[cfg(target_os = "linux")]
fn timer(local: SocketAddr, peer: SocketAddr) -> Option<(u8, u64)> {
    let hex = |addr: SocketAddr| format!(":{:04X}", addr.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table
        .lines()
        .map(|row| row.split_whitespace().collect::<Vec<_>>());
    let row = rows
        .into_iter()
        .find(|row| row[1].ends_with(&hex(local)) && row[2].ends_with(&hex(peer)))?;
    let (kind, when) = row[5].split_once(':')?;
    Some((kind.parse().ok()?, u64::from_str_radix(when, 16).ok()?))
}

#[test]
#[cfg(target_os = "linux")]
fn keepalive_defaults_to_on_and_follows_its_flag() {
    const KEEPALIVE: u8 = 2;
    for threads in ["1", "2"] {
        for (flags, most) in [
            (&[][..], Some(60)),
            (&["--keepalive", "2h"], Some(7200)),
            (&["--keepalive", "off"], None),
        ] {
            let (_server, addr) = Process::listening(
                &[flags, &["--threads", threads, "--idle-timeout", "off"]].concat(),
            );
            let mut client = Client::connect(addr);
            client.send(&submit(id(1), b""));
            client.expect(&ack(id(1)));
            let peer = client.stream.local_addr().unwrap();
            let mut seen = None;
            // At first there may be a timer for an unacknowledged reply or a delayed
            // acknowledgement.
            wait_until("the connection's timer to settle", || {
                seen = timer(addr, peer);
                matches!(seen, Some((0 | KEEPALIVE, _)))
            });
            let (kind, when) = seen.unwrap();
            match most {
                Some(most) => assert!(
                    kind == KEEPALIVE && when / 100 <= most && when / 100 + 60 >= most,
                    "{flags:?}: {seen:?}"
                ),
                None => assert_eq!(kind, 0, "{flags:?}: {seen:?}"),
            }
        }
    }
    for time in ["500ms", "1500ms", "10h", "soon", "0s"] {
        let (code, log) = Process::server(&["--keepalive", time]).end();
        assert!(
            code == Some(2) && log.contains("--keepalive"),
            "{time}: {log}"
        );
    }
}

#[test]
#[cfg(target_os = "linux")]
fn burst_of_connections_fits_in_the_backlog() {
    use socket2::{Domain, Socket, Type};

    const BURST: usize = 500;
    let longest = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    if longest.trim().parse::<usize>().unwrap() < BURST {
        return println!(
            "not tested: this system limits a backlog to {}",
            longest.trim()
        );
    }
    let (server, addr) = Process::listening(&[]);
    // A stopped server accepts none of them, so the backlog must hold them all.
    server.signal("STOP");
    let burst: Vec<Socket> = (0..BURST)
        .map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            // Over loopback it is established, or dropped, when the call returns.
            let _ = socket.connect(&addr.into());
            socket
        })
        .collect();
    let dropped = burst
        .iter()
        .filter(|socket| socket.peer_addr().is_err())
        .count();
    server.signal("CONT");
    assert_eq!(
        dropped, 0,
        "of {BURST} connections these must retry after a second"
    );
    for socket in burst {
        socket.set_nonblocking(false).unwrap();
        let mut client = Client {
            stream: socket.into(),
        };
        client.stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        client.send(&submit(id(1), b""));
        client.expect(&ack(id(1)));
    }
}

#[test]
fn overlapping_addresses_of_one_server_are_named_in_the_error() {
    let (socket, addr) = util::bound();
    drop(socket);
    let one = addr.to_string();
    let all = format!("0.0.0.0:{}", addr.port());
    let (code, log) = Process::server(&["--listen", &one, "--listen", &all]).end();
    assert_eq!(code, Some(1));
    let expected = format!("cannot listen on {all}: this server listens on {one} already");
    assert!(log.contains(&expected), "{log}");
}
