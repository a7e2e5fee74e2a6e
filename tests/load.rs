//! The load generator: what it counts, what it refuses, and that no server can deceive it.

#![cfg(unix)]

#[path = "util/process.rs"]
mod process;
mod util;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use process::{Process, example};
use serde_json::Value;
use util::{ack, bound, id, request};

fn load(addr: SocketAddr, args: &[&str]) -> Output {
    Command::new(example("load"))
        .args(["--addr", &addr.to_string(), "--warmup", "0.05"])
        .args(args)
        .output()
        .unwrap()
}

/// What it prints with --json, if all went well.
#[track_caller]
fn report(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[track_caller]
fn expect_failure(output: &Output, what: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(what), "{what:?} is not said: {stderr}");
}

/// A peer for one connection after the other, which says with what it answers the `n`-th request, counted from 0.
fn peer(mut answer: impl FnMut(u64) -> Vec<u8> + Send + 'static) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let serving = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        let mut n = 0;
        while read_submit(&mut stream, n) && stream.write_all(&answer(n)).is_ok() {
            n += 1;
        }
    });
    (addr, serving)
}

/// Reads a request, which must have the right ID. Tells whether one came.
fn read_submit(stream: &mut TcpStream, n: u64) -> bool {
    let mut header = [0; 13];
    if stream.read_exact(&mut header).is_err() {
        return false;
    }
    let payload = u32::from_be_bytes(header[..4].try_into().unwrap()) as usize - 13;
    assert!(
        header[4] == 0x02 && header[5..] == id(n + 1),
        "request {n}: {}",
        header.escape_ascii()
    );
    stream.read_exact(&mut vec![0; payload]).is_ok()
}

const KEYS: [&str; 20] = [
    "loop",
    "addr",
    "conns",
    "depth",
    "payload",
    "rate",
    "seconds",
    "requests",
    "requests_per_second",
    "p50_us",
    "p90_us",
    "p99_us",
    "p999_us",
    "max_us",
    "mean_us",
    "acked_total",
    "unanswered",
    "client_cpu",
    "server",
    "idle",
];

#[test]
fn report_is_complete_and_acks_match_requests_of_the_server() {
    let (server, addr) = Process::listening(&[]);
    let pid = server.pid().to_string();
    let args = [
        "--conns",
        "5",
        "--depth",
        "8",
        "--secs",
        "0.2",
        "--idle",
        "40",
        "--server-pid",
        &pid,
        "--json",
    ];
    let args = if cfg!(target_os = "linux") {
        &args[..]
    } else {
        &[
            "--conns", "5", "--depth", "8", "--idle", "40", "--secs", "0.2", "--json",
        ]
    };
    let report = report(&load(addr, args));
    server.signal("TERM");
    let (_, log) = server.end();
    let taken = format!(
        "45 connections accepted, {} requests handled",
        report["acked_total"]
    );
    assert!(
        log.contains(&taken),
        "{taken:?} is not what the server says: {log}\n{report}"
    );

    assert_eq!(report.as_object().unwrap().keys().collect::<Vec<_>>(), KEYS);
    assert_eq!(
        (&report["loop"], &report["conns"], &report["depth"]),
        (&"closed".into(), &5.into(), &8.into())
    );
    let number = |of: &Value, what: &str| {
        of[what]
            .as_f64()
            .unwrap_or_else(|| panic!("{what} is no number: {of}"))
    };
    assert!(number(&report, "seconds") >= 0.2);
    assert!(
        number(&report, "requests") > 0.0
            && number(&report, "requests") < number(&report, "acked_total")
    );
    let rising =
        ["p50_us", "p90_us", "p99_us", "p999_us", "max_us"].map(|what| number(&report, what));
    assert!(rising.is_sorted() && rising[0] > 0.0, "{report}");
    assert_eq!(
        (&report["idle"]["conns"], &report["idle"]["closed"]),
        (&40.into(), &0.into())
    );
    if cfg!(target_os = "linux") {
        let server = &report["server"];
        for what in [
            "cpu_us_per_request",
            "user_us_per_request",
            "system_us_per_request",
            "cpu",
            "voluntary_switches_per_request",
            "involuntary_switches_per_request",
        ] {
            number(server, what);
        }
        assert!(
            server
                .as_object()
                .unwrap()
                .contains_key("softirq_us_per_request")
        );
        assert!(
            number(server, "cpu_us_per_request") > 0.0
                && number(server, "threads") >= 1.0
                && number(server, "rss_bytes") > 1e5,
            "{server}"
        );
        assert!(number(&report["idle"], "bytes_per_connection").is_finite());
    }
}

#[test]
fn every_kind_of_load_is_answered() {
    let (_server, addr) = Process::listening(&[]);
    for args in [
        &["--depth", "300", "--payload", "0"][..],
        &["--depth", "40", "--payload", "65523", "--conns", "3"], // more than sockets take at once
        &["--spin"],
        &["--rate", "5000", "--conns", "7"],
        &["--rate", "100"],
    ] {
        let report = report(&load(addr, &[args, &["--secs", "0.1", "--json"]].concat()));
        assert!(
            report["requests"].as_u64().unwrap() > 0 && report["unanswered"] == 0,
            "{args:?}: {report}"
        );
    }
    let text = load(addr, &["--secs", "1.2"]);
    let (stdout, stderr) = (
        String::from_utf8_lossy(&text.stdout),
        String::from_utf8_lossy(&text.stderr),
    );
    assert!(
        stdout.contains("acks in all, each of them right"),
        "{stdout}"
    );
    assert!(
        stderr.contains("acks/s"),
        "it says once a second how it goes: {stderr}"
    );
}

#[test]
fn wrong_dialect_is_reported() {
    let (_server, addr) = Process::listening(&["--dialect", "source"]);
    let report = report(&load(
        addr,
        &["--dialect", "source", "--secs", "0.1", "--json"],
    ));
    assert!(report["requests"].as_u64().unwrap() > 0);
    expect_failure(
        &load(addr, &["--secs", "0.1"]),
        "command 0x81, and a submitack is 0x82",
    );
}

#[test]
fn hosts_beyond_loopback_need_the_owner_flag() {
    // Refused before anything is sent, or looked up.
    for addr in [
        "192.0.2.1:8888",
        "[2001:db8::1]:8888",
        "somewhere.invalid:8888",
        "0.0.0.0:8888",
    ] {
        let output = Command::new(example("load"))
            .args(["--addr", addr, "--secs", "0.1"])
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{addr}: {stderr}");
        assert!(
            stderr.contains("not on loopback") && stderr.contains("--i-own-this-host"),
            "{addr}: {stderr}"
        );
    }
    let (_server, addr) = Process::listening(&[]);
    let output = load(addr, &["--secs", "0.1", "--i-own-this-host"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn wrong_flags_are_refused_with_a_hint() {
    for (args, hint) in [
        (&["--secs", "3601"][..], "not in 0..=3600"),
        (&["--secs", "soon"], "expected a number of seconds"),
        (&["--secs", "0"], "must be more than 0"),
        (&["--rate", "5", "--depth", "2"], "cannot be used with"),
        (&["--rate", "0"], "not in 0.001..="),
        (&["--conns", "0"], "0 is not in 1..="),
        (&["--ack-timeout", "2h"], "not in 1ms..=1h"),
    ] {
        let output = Command::new(example("load")).args(args).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code() == Some(2) && stderr.contains(hint),
            "{args:?}: {stderr}"
        );
    }
    let help = Command::new(example("load"))
        .arg("--help")
        .output()
        .unwrap()
        .stdout;
    let help = String::from_utf8(help).unwrap();
    assert!(help.contains("coordinated omission"));
    let missing: Vec<&str> = KEYS.into_iter().filter(|key| !help.contains(key)).collect();
    assert!(missing.is_empty(), "not documented: {missing:?}");
}

#[test]
fn wrong_acks_are_reported() {
    type Lie = fn(u64) -> Vec<u8>;
    let lies: [(Lie, &str); 7] = [
        (
            |_| ack(id(999)),
            "received the ack of 00000999 where that of 00000102 was next",
        ),
        (
            |n| [ack(id(n + 2)), ack(id(n + 1))].concat(),
            "the ack of 00000103 where that of 00000102 was next: wrong, lost or out of order",
        ),
        (
            |n| ack(id(n)),
            "received the ack of 00000101 where that of 00000102 was next",
        ),
        (
            |n| request(0x82, id(n + 1), &[1]),
            "request 00000102 was acked with result 1, which is an error",
        ),
        (
            |n| request(0x81, id(n + 1), &[0]),
            "command 0x81, and a submitack is 0x82",
        ),
        (
            |n| ack(id(n + 1)).repeat(9),
            "although no request waits for an ack",
        ),
        (
            |_| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
            "that is not the submit protocol",
        ),
    ];
    for (lie, what) in lies {
        let (addr, serving) = peer(move |n| if n < 101 { ack(id(n + 1)) } else { lie(n) });
        let output = load(addr, &["--secs", "30", "--depth", "4", "--json"]);
        // An ack too many may come together with the next request's, which is then the one that is wrong.
        let said = String::from_utf8_lossy(&output.stderr);
        let what = if what.contains("no request waits") && said.contains("was next") {
            "was next"
        } else {
            what
        };
        expect_failure(&output, what);
        let failure: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(
            failure["error"]
                .as_str()
                .unwrap()
                .contains("connection 0 (127.0.0.1:"),
            "{failure}"
        );
        assert!(failure["acked_total"].as_u64().unwrap() >= 98, "{failure}");
        serving.join().unwrap();
    }
}

#[test]
fn closed_server_is_reported() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let serving = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        for n in 0..50 {
            assert!(read_submit(&mut stream, n));
            stream.write_all(&ack(id(n + 1))).unwrap();
        }
    });
    let output = load(addr, &["--secs", "30"]);
    serving.join().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(1)
            && said.contains("after 50 acks and with 1 requests unanswered"),
        "{said}"
    );

    let (_bound, nobody) = bound();
    expect_failure(
        &load(nobody, &[]),
        "connection refused: nothing listens there",
    );
}

#[test]
fn silent_server_ends_the_run_at_ack_timeout() {
    // It takes connections, and nothing more.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let output = load(listener.local_addr().unwrap(), &["--ack-timeout", "200ms"]);
    expect_failure(
        &output,
        "its first request was not answered within 200ms (--ack-timeout)",
    );

    // It falls silent under load.
    let (addr, serving) = peer(|n| if n < 50 { ack(id(n + 1)) } else { Vec::new() });
    let output = load(
        addr,
        &["--secs", "30", "--depth", "3", "--ack-timeout", "2s"],
    );
    expect_failure(
        &output,
        "3 requests wait, and no ack has come for 2s (--ack-timeout); 50 came before",
    );
    serving.join().unwrap();

    // Nor is the open loop fooled.
    let (addr, serving) = peer(|n| if n < 50 { ack(id(n + 1)) } else { Vec::new() });
    expect_failure(
        &load(
            addr,
            &["--secs", "30", "--rate", "1000", "--ack-timeout", "2s"],
        ),
        "no ack has come for 2s",
    );
    serving.join().unwrap();
}

/// The load of 0.6 s, without a warm-up.
fn measured(addr: SocketAddr, args: &[&str]) -> Output {
    let mut command = Command::new(example("load"));
    command
        .args([
            "--addr",
            &addr.to_string(),
            "--warmup",
            "0",
            "--secs",
            "0.6",
            "--json",
        ])
        .args(args)
        .output()
        .unwrap()
}

#[test]
fn open_loop_latency_counts_from_the_due_time() {
    // It answers at once, but for one pause: after the warm-up, which is over with the first
    // request (that of the handshake).
    let stalls_once = |n| {
        if n == 50 {
            thread::sleep(Duration::from_millis(300));
        }
        ack(id(n + 1))
    };
    // Some 300 of 600 requests are due while nothing is answered.
    let (addr, serving) = peer(stalls_once);
    let open = report(&measured(addr, &["--rate", "1000"]));
    serving.join().unwrap();
    assert!(open["max_us"].as_f64().unwrap() >= 299_000.0, "{open}");
    assert!(
        open["p90_us"].as_f64().unwrap() >= 100_000.0,
        "a third of all has waited for more than 100 ms: {open}"
    );
    assert_eq!(
        (&open["loop"], &open["depth"], &open["unanswered"]),
        (&"open".into(), &Value::Null, &0.into())
    );

    // To a closed loop that is one slow request among thousands.
    let (addr, serving) = peer(stalls_once);
    let closed = report(&measured(addr, &[]));
    serving.join().unwrap();
    assert!(closed["max_us"].as_f64().unwrap() >= 299_000.0, "{closed}");
    assert!(
        closed["p90_us"].as_f64().unwrap() < open["p90_us"].as_f64().unwrap(),
        "{closed}\n{open}"
    );
}

#[test]
fn overloaded_server_is_reported() {
    // 1,500 requests are due in 0.3 s, and it answers fewer than 500 a second.
    let slow = |n| {
        thread::sleep(Duration::from_millis(2));
        ack(id(n + 1))
    };
    let args = ["--secs", "0.3", "--rate", "5000", "--ack-timeout", "1s"];
    let (addr, serving) = peer(slow);
    let report = report(&load(addr, &[&args[..], &["--json"]].concat()));
    serving.join().unwrap();
    let unanswered = report["unanswered"].as_u64().unwrap();
    assert!(unanswered > 500, "{report}");
    assert!(
        report["p99_us"].as_f64().unwrap() >= 300_000.0,
        "who has no answer has waited, too: {report}"
    );
    let (addr, serving) = peer(slow);
    let text = String::from_utf8(load(addr, &args).stdout).unwrap();
    serving.join().unwrap();
    assert!(text.contains("the server does not keep up"), "{text}");
}

#[test]
fn closed_idle_connections_are_counted() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let serving = thread::spawn(move || {
        let greeted = || {
            let (mut stream, _) = listener.accept().unwrap();
            assert!(read_submit(&mut stream, 0));
            stream.write_all(&ack(id(1))).unwrap();
            stream
        };
        let mut active = greeted();
        let mut idle: Vec<TcpStream> = (0..20).map(|_| greeted()).collect();
        idle.truncate(8);
        let mut n = 1;
        while read_submit(&mut active, n) && active.write_all(&ack(id(n + 1))).is_ok() {
            n += 1;
        }
    });
    let report = report(&load(addr, &["--secs", "0.1", "--idle", "20", "--json"]));
    serving.join().unwrap();
    assert_eq!(
        (&report["idle"]["conns"], &report["idle"]["closed"]),
        (&20.into(), &12.into())
    );
    assert!(
        report["idle"]["bytes_per_connection"].is_null(),
        "no process was named: {report}"
    );
}
