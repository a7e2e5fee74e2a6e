//! Servers and loads as processes, each on a processor of its own.

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

/// How long a server may take to listen, or to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// The last resort against a load that does not end by itself.
const OVERTIME: Duration = Duration::from_secs(60);

/// Where servers run, and where the load does.
pub(crate) struct Cores {
    pub(crate) server: Option<usize>,
    pub(crate) load: Option<usize>,
}

impl Cores {
    /// The first and the last processor that this process may use: of those, no two share a core, unless there are two in all.
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
                "there is one processor only: servers and load share it, and no rate says much; the counts do"
            ),
        }
    }
}

/// What all this runs on.
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

/// Pins this process to a processor, sees to it that it ends with its parent, and becomes the program. So the program keeps this process's number.
pub(crate) fn become_one(core: Option<usize>, command: &[String]) -> Result<(), Box<dyn Error>> {
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

/// How to start this program so that it becomes another one, whose command follows.
fn itself(core: Option<usize>) -> io::Result<Vec<String>> {
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

/// A command to be run on a processor.
fn on(core: Option<usize>, command: &[String]) -> io::Result<Command> {
    let whole = [&itself(core)?[..], command].concat();
    let mut start = Command::new(&whole[0]);
    start.args(&whole[1..]);
    Ok(start)
}

/// A server that has begun to listen. It ends with this value.
pub(crate) struct Server {
    child: Child,
    pub(crate) addr: SocketAddr,
}

impl Server {
    pub(crate) fn start(peer: &Peer, cores: &Cores) -> Result<Self, String> {
        Self::start_under(peer, cores, &[])
    }

    /// The same, as the child of another program, which is the one that is watched.
    pub(crate) fn start_under(
        peer: &Peer,
        cores: &Cores,
        under: &[String],
    ) -> Result<Self, String> {
        let port = free_port().map_err(|error| format!("no free port: {error}"))?;
        let mut command = under.to_vec();
        if !under.is_empty() {
            command.extend(itself(None).map_err(|error| error.to_string())?); // to end with that one
        }
        command.extend(peer.command(port));
        let log =
            std::env::temp_dir().join(format!("glassloop-compare-{}-{port}", std::process::id()));
        let server = Self::start_at(port, &command, cores, &log);
        let said = fs::read_to_string(&log).unwrap_or_default();
        let _ = fs::remove_file(&log); // what it says from here on is nobody's to read
        server.map_err(|error| {
            format!(
                "{error}{}{}",
                if said.is_empty() { "" } else { "; it said: " },
                said.trim()
            )
        })
    }

    fn start_at(port: u16, command: &[String], cores: &Cores, log: &Path) -> Result<Self, String> {
        let log = File::create(log).map_err(|error| format!("no place for its log: {error}"))?;
        let mut start = on(cores.server, command).map_err(|error| error.to_string())?;
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
                return Err(format!("ended at once, with {status}"));
            }
            if TcpStream::connect(server.addr).is_ok() {
                return Ok(server);
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!(
                    "does not listen on {} after {PATIENCE:?}",
                    server.addr
                ));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn stop(mut self) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        let asked = pid.is_some_and(|pid| rustix::process::kill_process(pid, Signal::TERM).is_ok());
        let begun = Instant::now();
        while asked && begun.elapsed() < PATIENCE && matches!(self.child.try_wait(), Ok(None)) {
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

/// One at which nobody listens; what nobody ever connected to is free again at once.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

/// Loads a server, and returns what `load --json` says of it.
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
    let mut start = on(cores.load, &command).map_err(|error| error.to_string())?;
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
    // It says less than a pipe holds, so it could end before it was read.
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
            .unwrap_or("the load failed, and did not say why")
            .to_string());
    }
    serde_json::from_str(&stdout)
        .map_err(|error| format!("what load says is not to be read: {error}: {stdout}"))
}
