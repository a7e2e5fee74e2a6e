//! The nine servers of the example `models`: one suite for all of them, and the cases that some
//! cannot pass by design.

#![cfg(target_os = "linux")]

#[path = "util/process.rs"]
mod process;
mod util;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use process::{Process, example};
use serde_json::Value;
use socket2::SockRef;
use util::{TIMEOUT, ack, id, submit};

const MODELS: [&str; 9] = [
    "iterative",
    "threads",
    "busy",
    "select",
    "poll",
    "epoll-lt",
    "epoll-et",
    "reactor",
    "netpoll",
];

/// The cases that a model cannot pass by design, and why. They run all the same: one that passes
/// fails the test, and is to be removed from here.
const BY_DESIGN: [(&str, &str, &str); 13] = [
    (
        "iterative",
        "a second client is served beside an idle one",
        "its only thread waits in read for the first one",
    ),
    (
        "iterative",
        "clients take turns",
        "its only thread waits in read for the first one",
    ),
    (
        "iterative",
        "a client that does not read does not affect others",
        "its only thread waits in write for that client",
    ),
    (
        "iterative",
        "half a request does not delay others",
        "its only thread waits in read for the other half",
    ),
    (
        "iterative",
        "1,100 clients are served at the same time",
        "it serves one at a time",
    ),
    (
        "select",
        "1,100 clients are served at the same time",
        "an fd_set has room for the descriptors 0 to 1,023",
    ),
    ("iterative", REFUSED, UNREAD),
    ("threads", REFUSED, UNREAD),
    ("busy", REFUSED, UNREAD),
    ("select", REFUSED, UNREAD),
    ("poll", REFUSED, UNREAD),
    ("epoll-lt", REFUSED, UNREAD),
    ("epoll-et", REFUSED, UNREAD),
];
const REFUSED: &str =
    "a refused client that still sends reads its last acks and the end, and no reset";
const UNREAD: &str = "it closes with bytes unread, and does not linger";

type Case = fn(SocketAddr, Duration) -> io::Result<()>;

const CASES: [(&str, Case); 21] = [
    ("a request is answered", |addr, timeout| {
        Client::connect(addr, timeout)?.ask(1)
    }),
    ("an empty payload is answered", |addr, timeout| {
        let mut client = Client::connect(addr, timeout)?;
        client.send(&submit(id(1), b""))?;
        client.expect(&ack(id(1)))
    }),
    ("the longest request is answered", |addr, timeout| {
        let mut client = Client::connect(addr, timeout)?;
        client.send(&submit(id(1), &vec![b'x'; 65_536 - 13]))?;
        client.expect(&ack(id(1)))
    }),
    (
        "a request cut at every place is answered",
        |addr, timeout| {
            let mut client = Client::connect(addr, timeout)?;
            let request = submit(id(1), b"hello");
            for cut in 1..request.len() {
                client.send(&request[..cut])?;
                thread::yield_now(); // let the first part be read by itself, as a rule
                client.send(&request[cut..])?;
                client.expect(&ack(id(1)))?;
            }
            Ok(())
        },
    ),
    (
        "a request sent byte by byte is answered",
        |addr, timeout| {
            let mut client = Client::connect(addr, timeout)?;
            for byte in submit(id(7), b"drip") {
                client.send(&[byte])?;
            }
            client.expect(&ack(id(7)))
        },
    ),
    (
        "two requests in one segment are answered",
        |addr, timeout| {
            let mut client = Client::connect(addr, timeout)?;
            client.send(&[submit(id(1), b"one"), submit(id(2), b"two")].concat())?;
            client.expect(&[ack(id(1)), ack(id(2))].concat())
        },
    ),
    (
        "one and a half requests are answered one by one",
        |addr, timeout| {
            let mut client = Client::connect(addr, timeout)?;
            let two = [submit(id(1), b"one"), submit(id(2), b"two")].concat();
            let (front, back) = two.split_at(24);
            client.send(front)?;
            client.expect(&ack(id(1)))?;
            client.send(back)?;
            client.expect(&ack(id(2)))
        },
    ),
    (
        "1,000 requests at once are answered in order",
        |addr, timeout| Client::connect(addr, timeout)?.ask(1_000),
    ),
    ("many exchanges follow one another", |addr, timeout| {
        let mut client = Client::connect(addr, timeout)?;
        (0..200).try_for_each(|_| client.ask(1))
    }),
    ("a conn is answered", |addr, timeout| {
        let mut client = Client::connect(addr, timeout)?;
        client.send(b"\x00\x00\x00\x0d\x0100000001")?;
        client.expect(b"\x00\x00\x00\x0e\x8100000001\x00")
    }),
    (
        "a client that shuts its sending side gets its acks",
        |addr, timeout| {
            let mut client = Client::connect(addr, timeout)?;
            client.send(&[submit(id(1), b"one"), submit(id(2), b"two")].concat())?;
            client.stream.shutdown(Shutdown::Write)?;
            client.expect(&[ack(id(1)), ack(id(2))].concat())?;
            client.expect_eof()
        },
    ),
    (
        "a client that ends in the middle of a request is closed",
        |addr, timeout| {
            let mut client = Client::connect(addr, timeout)?;
            client.send(&submit(id(1), b"one")[..9])?;
            client.stream.shutdown(Shutdown::Write)?;
            client.expect_eof()
        },
    ),
    (
        "an invalid length closes the connection",
        |addr, timeout| {
            for length in [0_u32, 4, 12, 65_537, 0x7fff_ffff, u32::MAX] {
                let mut client = Client::connect(addr, timeout)?;
                client.send(&submit(id(1), b"before"))?;
                client.expect(&ack(id(1)))?;
                client.send(&length.to_be_bytes())?;
                client.expect_eof()?;
            }
            Client::connect(addr, timeout)?.ask(1) // other clients are still served
        },
    ),
    (
        "an unknown command closes the connection",
        |addr, timeout| {
            let mut client = Client::connect(addr, timeout)?;
            client.send(
                &[
                    submit(id(1), b"before"),
                    b"\x00\x00\x00\x0d\x7700000002".to_vec(),
                ]
                .concat(),
            )?;
            client.expect(&ack(id(1)))?;
            client.expect_eof()
        },
    ),
    (REFUSED, |addr, timeout| {
        let mut client = Client::connect(addr, timeout)?;
        // More than any of the servers reads at a time.
        client.send(
            &[
                submit(id(1), b"before"),
                b"\x00\x00\x00\x0d\x7700000002".to_vec(),
                vec![b'x'; 60_000],
            ]
            .concat(),
        )?;
        client.expect(&ack(id(1)))?;
        match client.stream.read(&mut [0; 16])? {
            0 => Ok(()),
            _ => Err(io::Error::other(
                "further bytes instead of the end of the stream",
            )),
        }
    }),
    (
        "a reset in the middle of a request does not affect others",
        |addr, timeout| {
            for _ in 0..20 {
                let mut client = Client::connect(addr, timeout)?;
                client.send(&submit(id(1), b"one")[..9])?;
                SockRef::from(&client.stream).set_linger(Some(Duration::ZERO))?;
            }
            Client::connect(addr, timeout)?.ask(1)
        },
    ),
    (
        "500 clients connect one after the other",
        |addr, timeout| (0..500).try_for_each(|_| Client::connect(addr, timeout)?.ask(1)),
    ),
    (
        "a second client is served beside an idle one",
        |addr, timeout| {
            let mut idle = Client::connect(addr, timeout)?;
            idle.ask(1)?;
            Client::connect(addr, timeout)?.ask(1)?;
            idle.ask(1)
        },
    ),
    ("half a request does not delay others", |addr, timeout| {
        let mut half = Client::connect(addr, timeout)?;
        half.send(&submit(id(1), b"one")[..9])?;
        Client::connect(addr, timeout)?.ask(1)
    }),
    (
        "a client that does not read does not affect others",
        |addr, timeout| {
            let mut slow = Client::connect(addr, timeout)?;
            slow.stream
                .set_write_timeout(Some(Duration::from_millis(300)))?;
            let requests = submit(id(1), b"").repeat(1_000);
            // At some point the server stops reading: it does not queue acks without limit.
            let blocked = (0..10_000).find_map(|_| slow.stream.write_all(&requests).err());
            blocked.ok_or_else(|| {
                io::Error::other("the server took 130 MB of requests while no ack was read")
            })?;
            let mut other = Client::connect(addr, timeout)?;
            (0..20).try_for_each(|_| other.ask(1))
        },
    ),
    (
        "1,100 clients are served at the same time",
        |addr, timeout| {
            let mut clients = Vec::new();
            for _ in 0..1_100 {
                let mut client = Client::connect(addr, timeout)?;
                client.ask(1)?;
                clients.push(client);
            }
            clients.iter_mut().try_for_each(|client| client.ask(1))
        },
    ),
];

/// One more case, with ten connections at the same time: a client that asks must not wait for one
/// that does not.
const TURNS: (&str, Case) = ("clients take turns", |addr, timeout| {
    let mut clients = (0..10)
        .map(|_| Client::connect(addr, timeout))
        .collect::<io::Result<Vec<_>>>()?;
    (0..20).try_for_each(|_| clients.iter_mut().try_for_each(|client| client.ask(3)))
});

#[test]
fn models_pass_the_same_suite_except_for_listed_design_limits() {
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let suites: Vec<_> = MODELS
        .map(|model| (model, thread::spawn(move || failures_of(model))))
        .into();
    let failures: Vec<String> = suites
        .into_iter()
        .flat_map(|(_, suite)| suite.join().unwrap())
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn failures_of(model: &str) -> Vec<String> {
    let mut failures = Vec::new();
    for (name, case) in CASES.into_iter().chain([TURNS]) {
        let limit = BY_DESIGN
            .iter()
            .find(|(its_model, its_case, _)| (*its_model, *its_case) == (model, name));
        let timeout = if limit.is_some() {
            Duration::from_millis(300)
        } else {
            TIMEOUT
        };
        // A server of its own for each case, so that no case affects another.
        let (server, addr) = Process::run_listening(Command::new(example("models")).args([
            "serve",
            model,
            "--listen",
            "127.0.0.1:0",
        ]));
        match (case(addr, timeout), limit) {
            (Ok(()), None) | (Err(_), Some(_)) => {}
            (Err(error), None) => {
                failures.push(format!("{model}: {name}: {error}; {}", server.log()));
            }
            (Ok(()), Some((.., why))) => {
                failures.push(format!("{model}: {name}: it passes, although {why}"));
            }
        }
    }
    failures
}

#[test]
fn design_limits_name_existing_models_and_cases() {
    for (model, case, _) in BY_DESIGN {
        assert!(MODELS.contains(&model), "{model}");
        assert!(
            CASES.iter().chain([&TURNS]).any(|(name, _)| *name == case),
            "{case}"
        );
    }
}

#[test]
fn server_call_counts_match_strace() {
    if !Command::new("strace")
        .arg("true")
        .output()
        .is_ok_and(|output| output.status.success())
    {
        println!("not tested: strace is not installed here, or may not trace");
        return;
    }
    for model in MODELS {
        let summary =
            std::env::temp_dir().join(format!("glassloop-models-{}-{model}", std::process::id()));
        let calls = "trace=accept4,recvfrom,sendto,writev,readv,select,pselect6,poll,ppoll,\
                     epoll_wait,epoll_pwait,epoll_pwait2,epoll_ctl";
        let mut command = Command::new("strace");
        command
            .args(["-f", "-c", "-U", "calls", "-e", calls, "-o"])
            .arg(&summary)
            .arg(example("models"));
        let (mut server, addr) = Process::run_listening(command.args([
            "serve",
            model,
            "--listen",
            "127.0.0.1:0",
            "--report",
        ]));
        let mut client = Client::connect(addr, TIMEOUT).unwrap();
        (0..1_000).try_for_each(|_| client.ask(1)).unwrap();
        server.close_stdin(); // it prints its counts and ends
        let counted: f64 = server
            .line()
            .split(' ')
            .map(|count| count.parse::<f64>().unwrap())
            .sum();
        assert_eq!(server.end().0, Some(0));
        let text = std::fs::read_to_string(&summary).unwrap();
        std::fs::remove_file(&summary).unwrap();
        let sum = text
            .lines()
            .find_map(|line| line.trim().strip_suffix(" total"))
            .expect("a total in strace's summary");
        let seen: f64 = sum.trim().parse().unwrap();
        println!("{model}: the server counted {counted} calls, strace {seen}");
        assert!(
            (counted - seen).abs() <= seen / 100.0,
            "{model}: the server counted {counted} calls, strace {seen}:\n{text}"
        );
    }
}

#[test]
fn table_is_complete_and_shows_the_cost_of_each_model() {
    let plots = std::env::temp_dir().join(format!("glassloop-plots-{}", std::process::id()));
    let run = Command::new(example("models"))
        .args(["--json", "--idle", "100,5000", "--svg"])
        .arg(&plots)
        .output()
        .unwrap();
    assert!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
    let drawn = std::fs::read_dir(&plots)
        .unwrap()
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
    assert!(drawn.map(|plot| assert!(plot.starts_with("<svg"))).count() >= 3);
    std::fs::remove_dir_all(&plots).unwrap();

    let table: Value = serde_json::from_slice(&run.stdout).unwrap();
    let rows = table["models"].as_array().unwrap();
    assert_eq!(
        rows.iter()
            .map(|row| row["model"].as_str().unwrap())
            .collect::<Vec<_>>(),
        MODELS
    );
    let row = |model: &str| rows.iter().find(|row| row["model"] == model).unwrap();
    let number = |model: &str, what: &str| {
        row(model)[what]
            .as_f64()
            .unwrap_or_else(|| panic!("{model} has no {what}"))
    };

    // The cost of a wait grows with the number of descriptors for poll, and not for epoll.
    let wait = |call: &str, idle: &str| table["wait_ns"][call][idle].as_f64().unwrap();
    assert!(
        wait("poll", "5000") >= 10.0 * wait("poll", "100"),
        "{table}"
    );
    assert!(
        wait("epoll", "5000") <= 3.0 * wait("epoll", "100"),
        "{table}"
    );
    for model in MODELS {
        for what in [
            "threads",
            "wakeups_per_second",
            "syscalls_per_request",
            "syscalls_per_request_of_100",
            "p50_us",
            "p99_us",
        ] {
            number(model, what);
        }
        if model != "busy" {
            // A server that waits in the kernel uses no processor time; how much the busy one gets
            // depends on what else runs on the machine.
            let most = f64::min(2.0, number("busy", "idle_cpu_percent") / 10.0);
            assert!(
                number(model, "idle_cpu_percent") <= most,
                "{model}: {table}"
            );
        }
        assert_eq!(
            row(model)["slow_client_hurts"],
            model == "iterative",
            "{model}"
        );
        let served = if model == "iterative" { 1 } else { 1_000 };
        assert!(
            number(model, "clients_served") >= f64::from(served),
            "{model}: {table}"
        );
        assert_eq!(
            number(model, "threads") > 1.0,
            model == "threads",
            "{model}: {table}"
        );
    }
    assert!(number("iterative", "clients_served") < 2.0);
    assert!(number("select", "clients_served") < 1_024.0);
}

/// Runs a command line in a shell, with the program's path as `$0`.
fn shell(line: &str) -> std::process::Output {
    Command::new("sh")
        .args(["-c", line])
        .arg(example("models"))
        .output()
        .unwrap()
}

#[test]
fn table_is_printed_despite_few_descriptors_and_no_plot_directory() {
    let run = shell(
        "ulimit -n 64; \
         exec \"$0\" --models iterative,poll --idle 3,100 --svg /dev/null/plots --json",
    );
    let (stdout, stderr) = (
        String::from_utf8_lossy(&run.stdout),
        String::from_utf8_lossy(&run.stderr),
    );
    assert!(run.status.success(), "{stderr}");
    let table: Value = serde_json::from_str(&stdout).unwrap();
    let (iterative, poll) = (&table["models"][0], &table["models"][1]);
    assert!(
        iterative["p50_us"].is_number() && iterative["error"].is_null(),
        "{stdout}"
    );
    assert!(
        poll["p50_us"].is_null() && poll["error"].is_string(),
        "{stdout}"
    );
    assert!(table["wait_ns"]["poll"]["100"].is_null(), "{stdout}");
    assert!(stderr.contains("no plots"), "{stderr}");
}

#[test]
fn odd_number_of_idle_connections_is_measured() {
    let run = shell("exec \"$0\" --models iterative --idle 3 --svg /dev/null/plots --json");
    let table: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert!(table["wait_ns"]["poll"]["3"].is_number(), "{table}");
}

#[test]
fn unwritable_stdout_does_not_panic() {
    let full = shell("exec \"$0\" --models iterative --idle 2 --svg /dev/null/plots >/dev/full");
    assert_eq!(full.status.code(), Some(1), "{full:?}");
    let closed =
        shell("{ \"$0\" --models iterative --idle 2 --svg /dev/null/plots; echo $? >&2; } | true");
    assert!(
        String::from_utf8_lossy(&closed.stderr)
            .trim_end()
            .ends_with("\n0"),
        "{closed:?}"
    );
}

/// A client that returns what goes wrong instead of panicking.
struct Client {
    stream: TcpStream,
    asked: u32,
}

impl Client {
    fn connect(addr: SocketAddr, timeout: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&addr, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Self { stream, asked: 0 })
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    fn expect(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut got = vec![0; bytes.len()];
        self.stream.read_exact(&mut got)?;
        if got == bytes {
            Ok(())
        } else {
            Err(io::Error::other(format!(
                "read {got:?}, expected {bytes:?}"
            )))
        }
    }

    /// Sends `times` requests in one write, and expects all acks.
    fn ask(&mut self, times: u32) -> io::Result<()> {
        let numbers = self.asked..self.asked + times;
        self.asked = numbers.end;
        let requests: Vec<u8> = numbers
            .clone()
            .flat_map(|number| submit(id(number.into()), b"payload"))
            .collect();
        let acks: Vec<u8> = numbers.flat_map(|number| ack(id(number.into()))).collect();
        self.send(&requests)?;
        self.expect(&acks)
    }

    /// Expects the end of the stream and no further byte. A reset is accepted too: some models
    /// close with bytes unread ([`REFUSED`]).
    fn expect_eof(&mut self) -> io::Result<()> {
        match self.stream.read(&mut [0; 16]) {
            Ok(0) => Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
            Ok(_) => Err(io::Error::other(
                "further bytes instead of the end of the stream",
            )),
            Err(error) => Err(error),
        }
    }
}
