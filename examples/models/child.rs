//! One of the servers as a process of its own, and what the system knows of it.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use super::Model;
use super::sys::Call;

/// The name of the thread that answers [`Server::calls`], and is not counted as one of the server's.
pub(crate) const REPORTER: &str = "reporter";

/// A running server. It ends with this value.
pub(crate) struct Server {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
    pub(crate) addr: SocketAddr,
}

/// What the system says of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) threads: u64,
    /// Time on a processor.
    pub(crate) cpu: Duration,
    /// How often one of its threads has gone to sleep, and was woken.
    pub(crate) sleeps: u64,
    /// Memory of its own, in bytes.
    pub(crate) memory: u64,
}

impl Server {
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
            .stderr(Stdio::null()) // some are made to fail, and would say so
            .spawn()?;
        let ask = child.stdin.take().expect("it is piped");
        let mut answers = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut greeting = String::new();
        answers.read_line(&mut greeting)?;
        let addr = greeting
            .trim()
            .strip_prefix("listening on ")
            .and_then(|addr| addr.parse().ok());
        let addr = addr.ok_or_else(|| {
            io::Error::other(format!("the {} server did not start", model.name()))
        })?;
        let mut server = Self {
            child,
            ask,
            answers,
            addr,
        };
        server.calls()?; // from then on the thread that answers has its name
        Ok(server)
    }

    /// How many calls of each kind it has made, in the order of [`Call::ALL`].
    pub(crate) fn calls(&mut self) -> io::Result<[u64; Call::ALL.len()]> {
        writeln!(self.ask)?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let counts: Vec<u64> = line
            .split_whitespace()
            .filter_map(|count| count.parse().ok())
            .collect();
        counts
            .try_into()
            .map_err(|_| io::Error::other(format!("not counts: {line:?}")))
    }

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
            let look = |file| fs::read_to_string(task.join(file));
            let (Ok(name), Ok(ran), Ok(status)) = (look("comm"), look("schedstat"), look("status"))
            else {
                continue;
            }; // it has just ended
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

/// A number in a file of /proc.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}
