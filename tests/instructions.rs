//! The instructions that a request costs in the program itself, counted by callgrind and compared
//! with tokio's within one run.
//!
//! It counts the release build, so run `cargo build --release --examples` first, as continuous
//! integration does. Without that build the test says so and passes.

#![cfg(target_os = "linux")]

mod util;

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use util::{Client, ack, id, submit, wait_until};

/// Requests that are sent at once, and the most instructions that one of them may take, as a
/// multiple of plain tokio's.
///
/// The aim is 0.5. These limits are a little above what is reached: lower them with each step.
const MOST: [(usize, f64); 3] = [(1, 0.95), (16, 1.2), (128, 1.55)];

#[test]
fn instructions_per_request_stay_within_limits() {
    if !Command::new("valgrind")
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
    {
        println!("not checked: valgrind is not installed");
        return;
    }
    let Some([server, compare]) = up_to_date(["server", "compare"]) else {
        println!(
            "not checked: the release build is missing or out of date; \
             run cargo build --release --examples"
        );
        return;
    };
    for (batch, most) in MOST {
        let own = instructions(
            &server,
            &[
                "--log",
                "error",
                "--spin",
                "off",
                "--listen",
                "127.0.0.1:PORT",
            ],
            batch,
        );
        let tokio = instructions(&compare, &["serve", "tokio", "--port", "PORT"], batch);
        println!(
            "{batch} at once: {own:.0} instructions per request, {:.2} of the {tokio:.0} on tokio",
            own / tokio
        );
        assert!(
            own <= most * tokio,
            "{batch} at once: {own:.0} instructions per request, {:.2} of the {tokio:.0} on tokio",
            own / tokio
        );
    }
}

/// The release builds of the examples, if none of their sources has changed since.
fn up_to_date<const N: usize>(names: [&str; N]) -> Option<[PathBuf; N]> {
    let test = std::env::current_exe().unwrap();
    let programs = names.map(|name| {
        test.ancestors()
            .nth(3)
            .unwrap()
            .join("release/examples")
            .join(name)
    });
    let changed = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
    let is_up_to_date = |program: &PathBuf| {
        // Cargo writes a list of all sources beside it.
        let sources = std::fs::read_to_string(program.with_extension("d")).unwrap_or_default();
        let mut sources = sources.split_whitespace().skip(1).map(Path::new).peekable();
        sources.peek().is_some()
            && sources.all(|source| {
                changed(source).is_some_and(|changed_at| changed(program) > Some(changed_at))
            })
    };
    programs.iter().all(is_up_to_date).then_some(programs)
}

/// The instructions per request of a server that gets `batch` requests at once. The difference
/// between many batches and few removes the cost of the start and of the connection.
fn instructions(program: &Path, args: &[&str], batch: usize) -> f64 {
    let few = total_instructions(program, args, batch, 100);
    let many = total_instructions(program, args, batch, 600);
    (many - few) / (500.0 * f64::from(u32::try_from(batch).unwrap()))
}

fn total_instructions(program: &Path, args: &[&str], batch: usize, batches: usize) -> f64 {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program);
    command.args(
        args.iter()
            .map(|arg| arg.replace("PORT", &port.to_string())),
    );
    let server = Server(
        command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    wait_until("the server under valgrind", || {
        TcpStream::connect(addr).is_ok()
    });
    let mut client = Client::connect(addr);
    let (requests, acks) = (
        submit(id(1), &[b'x'; 32]).repeat(batch),
        ack(id(1)).repeat(batch),
    );
    for _ in 0..batches {
        client.send(&requests);
        client.expect(&acks);
    }
    drop(client);
    let output = server.stop();
    let collected = output
        .lines()
        .find_map(|line| line.split_once("Collected :"));
    collected
        .unwrap_or_else(|| panic!("no count from callgrind: {output}"))
        .1
        .trim()
        .parse()
        .unwrap()
}

/// A server process that is killed when the test ends.
struct Server(Child);

impl Server {
    /// Stops the server with SIGTERM, and returns the output of valgrind.
    fn stop(mut self) -> String {
        let status = Command::new("kill")
            .args(["-s", "TERM", &self.0.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
        std::io::read_to_string(self.0.stderr.take().unwrap()).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
