//! The examples as processes of their own, watched from outside.

#![allow(dead_code, unreachable_pub)] // each test file uses its own part

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, Once};
use std::thread::{self, JoinHandle};

use super::util::{PATIENCE, own_host, wait_until};

/// The path of an example, built if need be.
///
/// In the profile of tests: so it is what `cargo test` has built already, and is not built a second
/// time.
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

/// What the example client does, from its beginning to its end.
pub fn client(args: &[&str]) -> Output {
    Command::new(example("client")).args(args).output().unwrap()
}

/// A process whose output is read as it comes; it is killed with the test.
pub struct Process {
    child: Child,
    lines: Receiver<String>,
    log: Arc<Mutex<String>>,
    logging: Option<JoinHandle<()>>,
}

impl Process {
    /// The example server.
    pub fn server(args: &[&str]) -> Self {
        Self::run(Command::new(example("server")).args(args))
    }

    /// The example server on a free port, with that port.
    pub fn listening(args: &[&str]) -> (Self, SocketAddr) {
        Self::greeting(
            Command::new(example("server"))
                .args(["--listen", &format!("{}:0", own_host())])
                .args(args),
        )
    }

    /// The example server with so many descriptors and no right to more.
    pub fn with_descriptors(limit: u32, args: &[&str]) -> (Self, SocketAddr) {
        let script = format!(
            "ulimit -n {limit} && exec \"$0\" --listen {}:0 \"$@\"",
            own_host()
        );
        Self::greeting(
            Command::new("sh")
                .arg("-c")
                .arg(script)
                .arg(example("server"))
                .args(args),
        )
    }

    /// A process that says first where it listens, and that address.
    #[track_caller]
    pub fn greeting(command: &mut Command) -> (Self, SocketAddr) {
        let mut process = Self::run(command);
        let addr = process.listening_on();
        (process, addr)
    }

    pub fn run(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (tell, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            stdout
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| tell.send(line))
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

    /// What is typed into it.
    pub fn type_in(&mut self, text: &str) {
        self.child
            .stdin
            .as_mut()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    }

    /// The end of what is typed into it.
    pub fn end_of_input(&mut self) {
        self.child.stdin = None;
    }

    /// The next line on stdout.
    #[track_caller]
    pub fn line(&mut self) -> String {
        self.lines
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| panic!("no further line on stdout; on stderr: {}", self.log()))
    }

    /// No further line stands on stdout.
    #[track_caller]
    pub fn expect_no_line(&self) {
        assert_eq!(self.lines.try_recv().ok(), None);
    }

    /// No further line comes, up to the end of stdout.
    #[track_caller]
    pub fn expect_end_of_lines(&self) {
        assert_eq!(
            self.lines.recv_timeout(PATIENCE),
            Err(RecvTimeoutError::Disconnected)
        );
    }

    /// The address in the next line on stdout.
    #[track_caller]
    pub fn listening_on(&mut self) -> SocketAddr {
        let line = self.line();
        let addr = line
            .strip_prefix("listening on ")
            .unwrap_or_else(|| panic!("not a greeting: {line:?}"));
        addr.parse().unwrap()
    }

    /// What stands on stderr so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until a line on stderr has `text` in it.
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

    /// Waits for the end, with nothing more to be typed; returns the exit code and what stood on stderr.
    #[track_caller]
    pub fn end(mut self) -> (Option<i32>, String) {
        self.end_of_input();
        let mut status = None;
        wait_until("the end of the process", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        self.logging.take().unwrap().join().unwrap();
        (status.unwrap().code(), self.log())
    }

    /// Processor time that it has used, in the system's clock ticks (proc(5)); Linux only.
    pub fn ticks(&self) -> u64 {
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
