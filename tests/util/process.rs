//! Runs the examples as processes.

#![allow(dead_code, unreachable_pub)] // each test file uses its own part

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, Once};
use std::thread::{self, JoinHandle};

use super::util::{TIMEOUT, unique_host, wait_until};

/// Builds the examples if needed, and returns the path of one.
///
/// The build uses the profile of the tests, so it reuses what `cargo test` has already built.
pub fn example(name: &str) -> PathBuf {
    static BUILD: Once = Once::new();
    BUILD.call_once(|| {
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--profile", "test", "--examples"])
            .status()
            .unwrap();
        assert!(status.success());
    });
    let test = std::env::current_exe().unwrap();
    test.parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("examples")
        .join(name)
}

/// Runs the example client to its end.
pub fn client(args: &[&str]) -> Output {
    Command::new(example("client")).args(args).output().unwrap()
}

/// A process whose output is read as it comes. It is killed when the test ends.
pub struct Process {
    child: Child,
    lines: Receiver<String>,
    log: Arc<Mutex<String>>,
    logging: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts the example server.
    pub fn server(args: &[&str]) -> Self {
        Self::run(Command::new(example("server")).args(args))
    }

    /// Starts the example server on a free port, and returns its address.
    pub fn listening(args: &[&str]) -> (Self, SocketAddr) {
        Self::run_listening(
            Command::new(example("server"))
                .args(["--listen", &format!("{}:0", unique_host())])
                .args(args),
        )
    }

    /// Starts the example server with at most `limit` descriptors.
    pub fn with_descriptors(limit: u32, args: &[&str]) -> (Self, SocketAddr) {
        let script = format!(
            "ulimit -n {limit} && exec \"$0\" --listen {}:0 \"$@\"",
            unique_host()
        );
        Self::run_listening(
            Command::new("sh")
                .arg("-c")
                .arg(script)
                .arg(example("server"))
                .args(args),
        )
    }

    /// Starts a process that prints its address first, and returns that address.
    #[track_caller]
    pub fn run_listening(command: &mut Command) -> (Self, SocketAddr) {
        let mut process = Self::run(command);
        let addr = process.listening_on();
        (process, addr)
    }

    /// Starts a process.
    pub fn run(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            stdout
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        let (log, mut stderr) = (
            Arc::new(Mutex::new(String::new())),
            child.stderr.take().unwrap(),
        );
        let kept = log.clone();
        let logging = Some(thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(n @ 1..) = stderr.read(&mut chunk) {
                kept.lock()
                    .unwrap()
                    .push_str(&String::from_utf8_lossy(&chunk[..n]));
            }
        }));
        Self {
            child,
            lines,
            log,
            logging,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes to the stdin of the process.
    pub fn write_stdin(&mut self, text: &str) {
        self.child
            .stdin
            .as_mut()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    }

    /// Closes the stdin of the process.
    pub fn close_stdin(&mut self) {
        self.child.stdin = None;
    }

    /// Returns the next line on stdout.
    #[track_caller]
    pub fn line(&mut self) -> String {
        self.lines
            .recv_timeout(TIMEOUT)
            .unwrap_or_else(|_| panic!("no further line on stdout; stderr: {}", self.log()))
    }

    /// Expects that no further line is on stdout yet.
    #[track_caller]
    pub fn expect_no_line(&self) {
        assert_eq!(self.lines.try_recv().ok(), None);
    }

    /// Expects the end of stdout without a further line.
    #[track_caller]
    pub fn expect_end_of_lines(&self) {
        assert_eq!(
            self.lines.recv_timeout(TIMEOUT),
            Err(RecvTimeoutError::Disconnected)
        );
    }

    /// Returns the address in the next line on stdout.
    #[track_caller]
    pub fn listening_on(&mut self) -> SocketAddr {
        let line = self.line();
        let addr = line
            .strip_prefix("listening on ")
            .unwrap_or_else(|| panic!("not an address line: {line:?}"));
        addr.parse().unwrap()
    }

    /// Returns the text on stderr so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until stderr contains `text`.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str) {
        wait_until(&format!("{text:?} in the log"), || {
            self.log().contains(text)
        });
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args(["-s", name, &self.pid().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Closes stdin and waits for the exit. Returns the exit code and the text on stderr.
    #[track_caller]
    pub fn end(mut self) -> (Option<i32>, String) {
        self.close_stdin();
        let mut status = None;
        wait_until("the exit of the process", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        self.logging.take().unwrap().join().unwrap();
        (status.unwrap().code(), self.log())
    }

    /// Returns the CPU time used, in clock ticks of the system (see proc(5)). Linux only.
    pub fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let field = |number: usize| {
            fields
                .split_whitespace()
                .nth(number - 3)
                .unwrap()
                .parse::<u64>()
                .unwrap()
        };
        field(14) + field(15)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
