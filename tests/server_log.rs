//! The server's log never blocks the server: with a stderr that nothing reads, or that is full or
//! closed.

#![cfg(unix)]

#[path = "util/process.rs"]
mod process;
mod util;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use process::{Process, example};
use util::wait_until;

/// A server on a Unix socket. Its stderr is a pipe that nothing reads yet.
struct UnreadServer {
    child: Child,
    stderr: ChildStderr,
    path: PathBuf,
}

impl UnreadServer {
    fn start(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("glassloop-log-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let mut command = Command::new(example("server"));
        command
            .args(["--log", "debug", "--listen"])
            .arg(format!("unix:{}", path.display()));
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        wait_until("the server's socket", || UnixStream::connect(&path).is_ok());
        Self {
            child,
            stderr,
            path,
        }
    }

    /// Opens connections one after another, and waits for the end of each. Each makes a debug line.
    fn open_and_close(&self, times: usize) {
        for n in 0..times {
            let mut stream = UnixStream::connect(&self.path)
                .unwrap_or_else(|error| panic!("connection {n}: {error}"));
            stream.set_read_timeout(Some(util::TIMEOUT)).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let end = stream
                .read(&mut [0; 1])
                .unwrap_or_else(|error| panic!("connection {n} is not served: {error}"));
            assert_eq!(end, 0);
        }
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args(["-s", name, &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    fn code(&mut self) -> Option<i32> {
        let mut status = None;
        wait_until("the end of the server", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }
}

impl Drop for UnreadServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Runs the server with these arguments and this stderr; returns its exit code.
fn code_with_stderr(args: &[&str], stderr: impl Into<Stdio>) -> Option<i32> {
    Command::new(example("server"))
        .args(args)
        .stdout(Stdio::null())
        .stderr(stderr)
        .status()
        .unwrap()
        .code()
}

#[test]
fn unread_stderr_blocks_neither_connections_nor_exit() {
    let mut server = UnreadServer::start("exit");
    server.open_and_close(2_000); // some 200 KB of lines; a pipe holds 64 KiB
    server.signal("TERM");
    assert_eq!(server.code(), Some(0));
}

#[test]
fn dropped_log_lines_are_counted_and_reported() {
    const CONNECTIONS: usize = 12_000; // more lines than the pipe and the queue hold
    let mut server = UnreadServer::start("dropped");
    server.open_and_close(CONNECTIONS);
    let mut log = Vec::new();
    let mut read_until = |text: &str| {
        let mut chunk = vec![0; 65_536];
        while !String::from_utf8_lossy(&log).contains(text) {
            let n = server.stderr.read(&mut chunk).unwrap();
            assert_ne!(n, 0, "the log ended without {text:?}");
            log.extend_from_slice(&chunk[..n]);
        }
    };
    // Reported while the server runs, as soon as stderr accepts lines again.
    read_until(" log lines dropped");
    server.signal("TERM");
    let mut rest = Vec::new();
    server.stderr.read_to_end(&mut rest).unwrap();
    log.extend(rest);
    assert_eq!(server.code(), Some(0));

    let log = String::from_utf8(log).unwrap();
    let dropped = |line: &str| -> Option<usize> {
        line.strip_prefix("server: ")?
            .strip_suffix(" log lines dropped: stderr did not accept them")?
            .parse()
            .ok()
    };
    let dropped: usize = log.lines().filter_map(dropped).sum();
    let logged = log
        .lines()
        .filter(|line| line.contains("] connection "))
        .count();
    assert!(
        dropped > 0 && logged < CONNECTIONS,
        "{dropped} dropped, {logged} logged"
    );
    assert!(
        logged + dropped >= CONNECTIONS,
        "{dropped} dropped and {logged} logged are fewer than {CONNECTIONS}"
    );
    assert!(
        log.trim_end().ends_with("requests handled"),
        "the last line must be in the log"
    );
}

#[test]
fn unwritable_stderr_does_not_change_the_exit_code() {
    let refused = ["--listen", "nonsense"];
    if let Ok(full) = File::options().write(true).open("/dev/full") {
        assert_eq!(code_with_stderr(&refused, full), Some(1));
    }
    let (reader, writer) = UnixStream::pair().unwrap();
    drop(reader);
    assert_eq!(code_with_stderr(&refused, OwnedFd::from(writer)), Some(1));
}

#[test]
fn invalid_address_is_reported_on_stderr_before_exit() {
    let (code, stderr) = Process::server(&["--listen", "nonsense"]).end();
    assert_eq!(code, Some(1));
    assert!(
        stderr.starts_with("server: cannot listen on nonsense: "),
        "{stderr}"
    );
}

#[test]
fn client_exits_with_1_if_stdout_and_stderr_are_unwritable() {
    let Ok(full) = File::options().write(true).open("/dev/full") else {
        return;
    };
    let run = |args: &[&str], stdout: Stdio| {
        let mut command = Command::new(example("client"));
        command
            .args(args)
            .stdout(stdout)
            .stderr(full.try_clone().unwrap())
            .status()
            .unwrap()
            .code()
    };
    let unused = util::bound(); // nothing listens there
    let addr = unused.1.to_string();
    assert_eq!(
        run(&["--addr", &addr, "--conns", "1"], Stdio::null()),
        Some(1)
    );
    assert_eq!(
        run(
            &["--addr", &addr, "--conns", "1"],
            full.try_clone().unwrap().into()
        ),
        Some(1)
    );
}

/// A stdout that takes no byte: a socket whose buffers are full.
#[test]
fn unread_stdout_does_not_keep_the_server_from_stopping() {
    let (_unread, stdout) = UnixStream::pair().unwrap();
    stdout.set_nonblocking(true).unwrap();
    let chunk = [b'x'; 4096];
    while (&stdout).write(&chunk).is_ok() {}
    while (&stdout).write(&chunk[..1]).is_ok() {}
    stdout.set_nonblocking(false).unwrap();
    let mut command = Command::new(example("server"));
    command.args(["--listen", &format!("{}:0", util::unique_host())]);
    let mut server = command
        .stdout(OwnedFd::from(stdout))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(server.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.contains("room for"), "{line}");
    let pid = server.id().to_string();
    let kill = Command::new("kill").args(["-s", "TERM", &pid]).status();
    assert!(kill.unwrap().success());
    let code = wait_with_timeout(&mut server);
    let _ = server.kill();
    assert_eq!(code, Some(0));
}

/// The exit code of a process that ends within the timeout.
fn wait_with_timeout(process: &mut Child) -> Option<i32> {
    let end = Instant::now() + util::TIMEOUT;
    loop {
        match process.try_wait().unwrap() {
            Some(status) => return status.code(),
            None if Instant::now() >= end => return None,
            None => thread::sleep(Duration::from_millis(10)),
        }
    }
}

#[test]
fn filter_for_the_library_keeps_the_servers_own_lines() {
    let (server, _) = Process::listening(&["--log", "glassloop=warn"]);
    server.wait_for_log("room for");
    server.signal("TERM");
    let (code, log) = server.end();
    assert_eq!(code, Some(0));
    assert!(log.contains("stopped: 0 connections"), "{log}");
}
