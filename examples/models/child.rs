//! Runs one of the servers as a child process, and reads its usage from /proc.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use super::Model;
use super::sys::Call;

/// Name of the thread that answers [`Server::calls`]. [`Usage`] does not count that thread.
pub(crate) const REPORTER: &str = "reporter";

/// A running server process. Dropping this value kills it.
pub(crate) struct Server {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    pub(crate) addr: SocketAddr,
}

/// What the system has counted for a server process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) threads: u64,
    /// CPU time of all its threads.
    pub(crate) cpu: Duration,
    /// Voluntary context switches: how often a thread blocked and was woken up.
    pub(crate) sleeps: u64,
    /// Resident anonymous memory (`RssAnon`), in bytes.
    pub(crate) memory: u64,
}

impl Server {
    /// Starts a server on a free loopback port, and waits until it listens.
    pub(crate) fn start(model: Model) -> io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([
                "serve",
                &model.name(),
                "--listen",
                "127.0.0.1:0",
                "--report",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null()) // some runs make a server fail on purpose, and it would log that
            .spawn()?;
        let stdin = child.stdin.take().expect("stdin is piped");
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut greeting = String::new();
        stdout.read_line(&mut greeting)?;
        let addr = greeting
            .trim()
            .strip_prefix("listening on ")
            .and_then(|addr| addr.parse().ok());
        let addr = addr.ok_or_else(|| {
            io::Error::other(format!("the {} server did not start", model.name()))
        })?;
        let mut server = Self {
            child,
            stdin,
            stdout,
            addr,
        };
        server.calls()?; // once the reporting thread has answered, its name is set
        Ok(server)
    }

    /// Returns how many system calls of each kind it has made, in the order of [`Call::ALL`].
    pub(crate) fn calls(&mut self) -> io::Result<[u64; Call::ALL.len()]> {
        writeln!(self.stdin)?;
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        let counts: Vec<u64> = line
            .split_whitespace()
            .filter_map(|count| count.parse().ok())
            .collect();
        counts
            .try_into()
            .map_err(|_| io::Error::other(format!("not a line of counts: {line:?}")))
    }

    /// Reads its threads, CPU time, context switches and memory from /proc.
    pub(crate) fn usage(&self) -> io::Result<Usage> {
        let process = format!("/proc/{}", self.child.id());
        let mut usage = Usage {
            memory: field(
                &fs::read_to_string(format!("{process}/status"))?,
                "RssAnon:",
            ) * 1024,
            ..Usage::default()
        };
        for task in fs::read_dir(format!("{process}/task"))? {
            let task = task?.path();
            let read = |file| fs::read_to_string(task.join(file));
            let (Ok(name), Ok(ran), Ok(status)) = (read("comm"), read("schedstat"), read("status"))
            else {
                continue;
            }; // the thread has just ended
            if name.trim() == REPORTER {
                continue;
            }
            usage.threads += 1;
            usage.cpu += Duration::from_nanos(
                ran.split(' ')
                    .next()
                    .and_then(|nanos| nanos.parse().ok())
                    .unwrap_or(0),
            );
            usage.sleeps += field(&status, "voluntary_ctxt_switches:");
        }
        Ok(usage)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the number that follows `name` in the text of a /proc file, or 0.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}
