//! What Linux knows of the server's process: processor time, context switches, memory. Elsewhere there is no /proc, and `--server-pid` is refused.

use std::fs;
use std::io;
use std::thread;
use std::time::Duration;

/// A process that is watched.
pub(crate) struct Server {
    pid: i32,
    /// The kernel's network thread on the processor that the server is pinned to, if it is: under load it does part of the server's work.
    softirq: Option<i32>,
}

/// What it has used: at some time, or between two times.
#[derive(Clone, Copy)]
pub(crate) struct Usage {
    /// By all threads.
    pub(crate) cpu: Duration,
    /// User's part of it.
    pub(crate) user_share: f64,
    pub(crate) softirq: Option<Duration>,
    pub(crate) voluntary: u64,
    pub(crate) involuntary: u64,
    pub(crate) threads: usize,
    /// At the end.
    pub(crate) rss: u64,
    ticks: [u64; 2],
}

impl Server {
    pub(crate) fn of(pid: i32) -> Result<Self, String> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))
            .map_err(|error| format!("--server-pid {pid}: no such process in /proc ({error})"))?;
        let core =
            text_field(&status, "Cpus_allowed_list:").and_then(|list| list.parse::<u32>().ok());
        let is_of = |pid: &i32, core: u32| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm"));
            name.is_ok_and(|name| name.trim() == format!("ksoftirqd/{core}"))
        };
        // It is one of the first processes.
        let softirq = core.and_then(|core| (2..4096).find(|pid| is_of(pid, core)));
        Ok(Self { pid, softirq })
    }

    /// Resident bytes. The rollup is exact, where the figure in `status` lags behind by some pages for each processor.
    fn memory(&self) -> io::Result<u64> {
        let pid = self.pid;
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
        let (text, name) = match rollup {
            Ok(text) => (text, "Rss:"),
            Err(_) => (self.read("status")?, "VmRSS:"), // another user's
        };
        Ok(field(&text, name) * 1024)
    }

    /// The same, once it has stopped working for the moment: what it has done for its last client may not be over when that has its answer.
    pub(crate) fn settled_memory(&self) -> io::Result<u64> {
        let mut before = cpu_of(self.pid)?;
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(10));
            let now = cpu_of(self.pid)?;
            if now == before {
                break;
            }
            before = now;
        }
        self.memory()
    }

    /// Its usage before a measurement: what takes long to read comes first.
    pub(crate) fn opening(&self) -> io::Result<Usage> {
        let mut usage = Usage {
            cpu: Duration::ZERO,
            user_share: 0.0,
            softirq: None,
            voluntary: 0,
            involuntary: 0,
            threads: 0,
            rss: 0,
            ticks: [0; 2],
        };
        self.read_switches(&mut usage)?;
        self.read_times(&mut usage)?;
        Ok(usage)
    }

    /// What it has used since then, read in the opposite order.
    pub(crate) fn since(&self, opening: &Usage) -> io::Result<Usage> {
        let mut usage = Usage {
            voluntary: 0,
            involuntary: 0,
            ..*opening
        };
        self.read_times(&mut usage)?;
        self.read_switches(&mut usage)?;
        usage.rss = self.memory()?;
        usage.cpu = usage.cpu.saturating_sub(opening.cpu);
        usage.softirq = usage
            .softirq
            .zip(opening.softirq)
            .map(|(now, then)| now.saturating_sub(then));
        usage.voluntary = usage.voluntary.saturating_sub(opening.voluntary);
        usage.involuntary = usage.involuntary.saturating_sub(opening.involuntary);
        let [user, system] =
            [0, 1].map(|part| usage.ticks[part].saturating_sub(opening.ticks[part]) as f64);
        usage.user_share = if user + system > 0.0 {
            user / (user + system)
        } else {
            0.0
        };
        Ok(usage)
    }

    fn read(&self, file: &str) -> io::Result<String> {
        let pid = self.pid;
        fs::read_to_string(format!("/proc/{pid}/{file}")).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("the server's process {pid} is gone, or not to be read: {error}"),
            )
        })
    }

    fn read_times(&self, usage: &mut Usage) -> io::Result<()> {
        usage.cpu = cpu_of(self.pid)?;
        usage.softirq = self.softirq.and_then(ran);
        let stat = self.read("stat")?;
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let tick = |number: usize| {
            fields
                .split_whitespace()
                .nth(number - 3)
                .and_then(|ticks| ticks.parse().ok())
                .unwrap_or(0)
        };
        usage.ticks = [tick(14), tick(15)]; // proc(5)
        Ok(())
    }

    fn read_switches(&self, usage: &mut Usage) -> io::Result<()> {
        usage.threads = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.pid))? {
            let Ok(status) = fs::read_to_string(task?.path().join("status")) else {
                continue;
            }; // a thread that has just ended
            usage.threads += 1;
            usage.voluntary += field(&status, "\nvoluntary_ctxt_switches:");
            usage.involuntary += field(&status, "\nnonvoluntary_ctxt_switches:");
        }
        Ok(())
    }
}

/// How long a kernel thread has run.
fn ran(pid: i32) -> Option<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    text.split(' ')
        .next()?
        .parse()
        .ok()
        .map(Duration::from_nanos)
}

fn text_field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(name)?;
    rest.split_whitespace().next()
}

fn field(text: &str, name: &str) -> u64 {
    text_field(text, name)
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

/// Processor time that this process has used.
pub(crate) fn own_cpu() -> Option<Duration> {
    cpu_of(0).ok()
}

/// Processor time that all threads of a process have used, to the nanosecond; 0 is this process.
///
/// What /proc says of a thread that runs is only true as of the last tick, some milliseconds ago; a clock is brought up to date when it is read.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)] // no safe crate here has the clocks of other processes
fn cpu_of(pid: i32) -> io::Result<Duration> {
    let mut clock = 0;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: both calls only write through the pointer they are given, which is to a local variable of the right type.
    let error = unsafe {
        match libc::clock_getcpuclockid(pid, &raw mut clock) {
            0 if libc::clock_gettime(clock, &raw mut time) == 0 => 0,
            0 => io::Error::last_os_error().raw_os_error().unwrap_or(0),
            error => error,
        }
    };
    if error != 0 {
        let error = io::Error::from_raw_os_error(error);
        return Err(io::Error::new(
            error.kind(),
            format!("no processor time of process {pid}: {error}"),
        ));
    }
    Ok(Duration::new(
        time.tv_sec.unsigned_abs(),
        time.tv_nsec.unsigned_abs() as u32,
    ))
}

#[cfg(not(target_os = "linux"))]
fn cpu_of(_: i32) -> io::Result<Duration> {
    Err(io::ErrorKind::Unsupported.into())
}
