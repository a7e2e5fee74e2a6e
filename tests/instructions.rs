//! What a request costs in instructions of the program's own, beside a peer: counted by callgrind, and compared as a ratio within one run.
//!
//! It counts what is optimised as users have it, so it needs `cargo build --release --examples` first, as in continuous integration; else it says so and passes.

#![cfg(target_os = "linux")]

mod util;

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use util::{Client, ack, id, submit, wait_until};

/// Requests that come together, and how many times the instructions of plain tokio one of them may take at most.
///
/// The aim is 0.5. These are what is reached, and a little more: lower them with each step.
const MOST: [(usize, f64); 3] = [(1, 0.95), (16, 1.2), (128, 1.55)];

#[test]
fn a_request_takes_no_more_instructions_beside_tokio_than_it_did() {
    if !Command::new("valgrind")
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
    {
        println!("not looked at: valgrind is not installed here");
        return;
    }
    let Some([server, compare]) = fresh(["server", "compare"]) else {
        println!(
            "not looked at: the release build is not there or not of this state; cargo build --release --examples makes it"
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
            "{batch} at once: {own:.0} instructions a request, {:.2} of the {tokio:.0} on tokio",
            own / tokio
        );
        assert!(
            own <= most * tokio,
            "{batch} at once: {own:.0} instructions a request, which is {:.2} of the {tokio:.0} on tokio",
            own / tokio
        );
    }
}

/// The release build of examples, if none of what they were made of has changed since.
fn fresh<const N: usize>(names: [&str; N]) -> Option<[PathBuf; N]> {
    let test = std::env::current_exe().unwrap();
    let programs = names.map(|name| {
        test.ancestors()
            .nth(3)
            .unwrap()
            .join("release/examples")
            .join(name)
    });
    let changed = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
    let is_fresh = |program: &PathBuf| {
        // Cargo leaves a list of all sources beside it.
        let sources = std::fs::read_to_string(program.with_extension("d")).unwrap_or_default();
        let mut sources = sources.split_whitespace().skip(1).map(Path::new).peekable();
        sources.peek().is_some()
            && sources.all(|source| {
                changed(source).is_some_and(|changed_at| changed(program) > Some(changed_at))
            })
    };
    programs.iter().all(is_fresh).then_some(programs)
}

/// Instructions a request of a server that gets so many at once: what start and connection take falls out of the difference between many batches and few.
fn instructions(program: &Path, args: &[&str], batch: usize) -> f64 {
    let few = instructions_in_all(program, args, batch, 100);
    let many = instructions_in_all(program, args, batch, 600);
    (many - few) / (500.0 * f64::from(u32::try_from(batch).unwrap()))
}

fn instructions_in_all(program: &Path, args: &[&str], batch: usize, batches: usize) -> f64 {
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
    let served = Served(
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
    let said = served.end();
    let collected = said.lines().find_map(|line| line.split_once("Collected :"));
    collected
        .unwrap_or_else(|| panic!("callgrind has counted nothing: {said}"))
        .1
        .trim()
        .parse()
        .unwrap()
}

/// A server, killed with the test.
struct Served(Child);

impl Served {
    /// Ends it; returns what valgrind says of it.
    fn end(mut self) -> String {
        let status = Command::new("kill")
            .args(["-s", "TERM", &self.0.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
        std::io::read_to_string(self.0.stderr.take().unwrap()).unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
