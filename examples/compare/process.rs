//! Starts servers and loads as processes, each pinned to its processor.

use std::error::Error;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::Value;

use super::peers::Peer;

/// Time limit for a server to start listening, and to stop.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A load that runs this much longer than its duration is killed.
const OVERTIME: Duration = Duration::from_secs(60);

/// The processors of the servers and of the load; `None`: not pinned.
pub(crate) struct Cores {
    pub(crate) server: Option<usize>,
    pub(crate) load: Option<usize>,
}

impl Cores {
    /// Chooses the first and the last processor that this process may use. They may share a
    /// core if there are just two.
    pub(crate) fn choose() -> io::Result<Self> {
        let allowed = sched_getaffinity(None)?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        let (first, last) = (cores.next(), cores.next_back());
        Ok(if last.is_some() {
            Self {
                server: first,
                load: last,
            }
        } else {
            Self {
                server: None,
                load: None,
            }
        })
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.server, self.load) {
            (Some(server), Some(load)) => write!(
                f,
                "servers run on processor {server}, the load on processor {load}"
            ),
            _ => write!(
                f,
                "servers and load share the only processor: rates mean little, compare counts"
            ),
        }
    }
}

/// Describes the machine: its processors and its kernel.
pub(crate) fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models: Vec<&str> = cpus
        .lines()
        .filter(|line| line.starts_with("model name"))
        .filter_map(|line| line.split(": ").nth(1))
        .collect();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{} × {}, Linux {}",
        models.len(),
        models.first().unwrap_or(&"unknown processor"),
        kernel.trim()
    )
}

/// Pins this process to a processor, has it killed when its parent ends, and replaces it by the
/// program with `exec`. So the program keeps this process's ID.
pub(crate) fn exec_pinned(core: Option<usize>, command: &[String]) -> Result<(), Box<dyn Error>> {
    if let Some(core) = core {
        let mut only = CpuSet::new();
        only.set(core);
        sched_setaffinity(None, &only)
            .map_err(|error| format!("cannot run on processor {core}: {error}"))?;
    }
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let error = Command::new(&command[0]).args(&command[1..]).exec();
    Err(format!("{}: {error}", command[0]).into())
}

/// Returns the words before a command that run it through [`exec_pinned`].
fn exec_prefix(core: Option<usize>) -> io::Result<Vec<String>> {
    let mut command = vec![
        std::env::current_exe()?.display().to_string(),
        "become".into(),
    ];
    command.extend(
        core.into_iter()
            .flat_map(|core| ["--core".into(), core.to_string()]),
    );
    command.push("--".into());
    Ok(command)
}

/// Returns a command that runs on this processor.
fn pinned(core: Option<usize>, command: &[String]) -> io::Result<Command> {
    let whole = [&exec_prefix(core)?[..], command].concat();
    let mut start = Command::new(&whole[0]);
    start.args(&whole[1..]);
    Ok(start)
}

/// A server that listens. Dropping this value kills it.
pub(crate) struct Server {
    child: Child,
    pub(crate) addr: SocketAddr,
}

impl Server {
    /// Starts a peer on a free port, and waits until it accepts connections.
    pub(crate) fn start(peer: &Peer, cores: &Cores) -> Result<Self, String> {
        Self::start_under(peer, cores, &[])
    }

    /// The same, under another program such as strace: [`Server::pid`] is that program's ID.
    pub(crate) fn start_under(
        peer: &Peer,
        cores: &Cores,
        under: &[String],
    ) -> Result<Self, String> {
        let port = free_port().map_err(|error| format!("no free port: {error}"))?;
        let mut command = under.to_vec();
        if !under.is_empty() {
            // The server is killed when that program ends.
            command.extend(exec_prefix(None).map_err(|error| error.to_string())?);
        }
        command.extend(peer.command(port));
        let log =
            std::env::temp_dir().join(format!("glassloop-compare-{}-{port}", std::process::id()));
        let server = Self::start_at(port, &command, cores, &log);
        let output = fs::read_to_string(&log).unwrap_or_default();
        let _ = fs::remove_file(&log); // later output is not read
        server.map_err(|error| {
            format!(
                "{error}{}{}",
                if output.is_empty() { "" } else { "; its log: " },
                output.trim()
            )
        })
    }

    fn start_at(port: u16, command: &[String], cores: &Cores, log: &Path) -> Result<Self, String> {
        let log =
            File::create(log).map_err(|error| format!("cannot create its log file: {error}"))?;
        let mut start = pinned(cores.server, command).map_err(|error| error.to_string())?;
        start.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = start
            .spawn()
            .map_err(|error| format!("cannot start: {error}"))?;
        let mut server = Self {
            child,
            addr: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        };
        let begun = Instant::now();
        loop {
            if let Ok(Some(status)) = server.child.try_wait() {
                return Err(format!("exited at once with {status}"));
            }
            if TcpStream::connect(server.addr).is_ok() {
                return Ok(server);
            }
            if begun.elapsed() > TIMEOUT {
                return Err(format!(
                    "not listening on {} after {TIMEOUT:?}",
                    server.addr
                ));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGTERM, and waits until the server has ended; kills it after [`TIMEOUT`].
    pub(crate) fn stop(mut self) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        let signalled =
            pid.is_some_and(|pid| rustix::process::kill_process(pid, Signal::TERM).is_ok());
        let begun = Instant::now();
        while signalled && begun.elapsed() < TIMEOUT && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns a free port. A port without any connection is free again as soon as it is closed.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

/// Puts a server under load, and returns the report of `load --json`.
pub(crate) fn load(
    load: &Path,
    server: &Server,
    cores: &Cores,
    secs: f64,
    args: &[String],
) -> Result<Value, String> {
    let mut command = vec![
        load.display().to_string(),
        "--addr".into(),
        server.addr.to_string(),
        "--json".into(),
    ];
    command.extend(["--secs".into(), secs.to_string()]);
    command.extend_from_slice(args);
    let mut start = pinned(cores.load, &command).map_err(|error| error.to_string())?;
    let child = start
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.map_err(|error| format!("cannot start the load: {error}"))?;
    let end = Instant::now() + Duration::from_secs_f64(secs) + OVERTIME;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < end => thread::sleep(Duration::from_millis(5)),
            outcome => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("the load did not end in time ({outcome:?})"));
            }
        }
    };
    // Its output fits into a pipe, so the load could end before the pipe was read.
    let read = |pipe: Option<&mut dyn Read>| {
        let mut text = String::new();
        let _ = pipe.map(|pipe| pipe.read_to_string(&mut text));
        text
    };
    let stdout = read(child.stdout.as_mut().map(|pipe| pipe as _));
    let stderr = read(child.stderr.as_mut().map(|pipe| pipe as _));
    if !status.success() {
        return Err(stderr
            .lines()
            .last()
            .unwrap_or("the load failed without an error message")
            .to_string());
    }
    serde_json::from_str(&stdout)
        .map_err(|error| format!("cannot parse the report of load: {error}: {stdout}"))
}
