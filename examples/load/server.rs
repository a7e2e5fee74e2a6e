//! Reads the CPU time, context switches and memory of the server's process from Linux. Elsewhere
//! there is no /proc, and `--server-pid` is refused.

use std::fs;
use std::io;
use std::thread;
use std::time::Duration;

/// The server's process.
pub(crate) struct Server {
    pid: i32,
    /// The kernel's network thread (ksoftirqd) on the server's processor, if the server is pinned
    /// to one. Under load this thread does part of the server's work.
    softirq: Option<i32>,
}

/// Resource usage of the process: up to a point in time, or between two of them.
#[derive(Clone, Copy)]
pub(crate) struct Usage {
    /// CPU time of all threads.
    pub(crate) cpu: Duration,
    /// The share of it in user mode.
    pub(crate) user_share: f64,
    /// CPU time of the kernel's network thread.
    pub(crate) softirq: Option<Duration>,
    /// Voluntary context switches.
    pub(crate) voluntary: u64,
    /// Involuntary context switches.
    pub(crate) involuntary: u64,
    pub(crate) threads: usize,
    /// Resident bytes at the end.
    pub(crate) rss: u64,
    /// User and system time, in clock ticks.
    ticks: [u64; 2],
}

impl Server {
    /// Finds the process, and the kernel thread that serves its processor.
    pub(crate) fn new(pid: i32) -> Result<Self, String> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))
            .map_err(|error| format!("--server-pid {pid}: no such process in /proc ({error})"))?;
        let core =
            text_field(&status, "Cpus_allowed_list:").and_then(|list| list.parse::<u32>().ok());
        let is_of = |pid: &i32, core: u32| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm"));
            name.is_ok_and(|name| name.trim() == format!("ksoftirqd/{core}"))
        };
        // ksoftirqd is one of the first processes, so its ID is low.
        let softirq = core.and_then(|core| (2..4096).find(|pid| is_of(pid, core)));
        Ok(Self { pid, softirq })
    }

    /// Returns the resident bytes. `smaps_rollup` is exact; the figure in `status` lags by some
    /// pages for each processor.
    fn memory(&self) -> io::Result<u64> {
        let pid = self.pid;
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
        let (text, name) = match rollup {
            Ok(text) => (text, "Rss:"),
            Err(_) => (self.read("status")?, "VmRSS:"), // another user's process
        };
        Ok(field(&text, name) * 1024)
    }

    /// Waits until the process uses no CPU time, for at most 200 ms, then returns its resident
    /// bytes. After its last ack, a server may still have work to do.
    pub(crate) fn memory_when_idle(&self) -> io::Result<u64> {
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

    /// Reads the usage before a measurement. The slow reads come first.
    pub(crate) fn usage(&self) -> io::Result<Usage> {
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

    /// Returns the usage since `start`, read in the opposite order.
    pub(crate) fn usage_since(&self, start: &Usage) -> io::Result<Usage> {
        let mut usage = Usage {
            voluntary: 0,
            involuntary: 0,
            ..*start
        };
        self.read_times(&mut usage)?;
        self.read_switches(&mut usage)?;
        usage.rss = self.memory()?;
        usage.cpu = usage.cpu.saturating_sub(start.cpu);
        usage.softirq = usage
            .softirq
            .zip(start.softirq)
            .map(|(now, then)| now.saturating_sub(then));
        usage.voluntary = usage.voluntary.saturating_sub(start.voluntary);
        usage.involuntary = usage.involuntary.saturating_sub(start.involuntary);
        let [user, system] =
            [0, 1].map(|part| usage.ticks[part].saturating_sub(start.ticks[part]) as f64);
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
                format!("cannot read /proc/{pid}/{file} of the server: {error}"),
            )
        })
    }

    fn read_times(&self, usage: &mut Usage) -> io::Result<()> {
        usage.cpu = cpu_of(self.pid)?;
        usage.softirq = self.softirq.and_then(thread_cpu);
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
            }; // the thread has just ended
            usage.threads += 1;
            usage.voluntary += field(&status, "\nvoluntary_ctxt_switches:");
            usage.involuntary += field(&status, "\nnonvoluntary_ctxt_switches:");
        }
        Ok(())
    }
}

/// Returns the CPU time of a kernel thread.
fn thread_cpu(pid: i32) -> Option<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    text.split(' ')
        .next()?
        .parse()
        .ok()
        .map(Duration::from_nanos)
}

/// Returns the word after `name` in the text of a /proc file.
fn text_field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(name)?;
    rest.split_whitespace().next()
}

/// Returns the number after `name` in the text of a /proc file, or 0.
fn field(text: &str, name: &str) -> u64 {
    text_field(text, name)
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

/// Returns the CPU time of this process.
pub(crate) fn own_cpu() -> Option<Duration> {
    cpu_of(0).ok()
}

/// Returns the CPU time of all threads of a process, in nanoseconds; 0 is this process.
///
/// It reads the process's CPU clock, which is updated when it is read. The figures in /proc for a
/// running thread are only as of the last tick, which may be some milliseconds ago.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)] // no dependency has a safe call for this
fn cpu_of(pid: i32) -> io::Result<Duration> {
    let mut clock = 0;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: both calls only write through the given pointer, which points to a local variable of
    // the right type.
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
            format!("cannot read the CPU time of process {pid}: {error}"),
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
