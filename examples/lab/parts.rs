//! Parts of experiments that need their own process: to be killed, with few descriptors, or without
//! a network.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{self, Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};

use super::tools::{fail, wait_for};

/// What such a process does. Its input and output depend on the experiment.
pub(crate) type Part = fn(&[String]) -> io::Result<()>;

/// All parts, by their names.
const ALL: &[&[(&str, Part)]] = &[
    super::dial::PARTS,
    super::listen::PARTS,
    super::write::PARTS,
    super::wrong::PARTS,
];

/// Is such a process. It ends with its input at the latest, so it does not survive a killed lab.
pub(crate) fn play(name: &str, args: &[String]) -> io::Result<()> {
    let part = ALL
        .iter()
        .copied()
        .flatten()
        .find(|(other, _)| *other == name);
    let (_, part) = part.ok_or_else(|| fail(format!("there is no part {name}")))?;
    thread::spawn(|| {
        // Without interest, poll(2) waits until the other end of the pipe is closed, and takes no
        // input from the part.
        if poll(&mut [PollFd::new(&io::stdin(), PollFlags::empty())], None).is_ok() {
            process::exit(0);
        }
    });
    part(args)
}

/// A process that plays a part. It is killed with this value.
pub(crate) struct Player {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Player {
    pub(crate) fn start(part: &str, args: &[&str]) -> io::Result<Self> {
        Self::run(
            Command::new(std::env::current_exe()?)
                .args(["play", part])
                .args(args),
        )
    }

    /// Runs any other program, with its input and output as pipes.
    pub(crate) fn run(command: &mut Command) -> io::Result<Self> {
        // In a group of its own: the learner's Ctrl-C is not for it, and whatever it starts can be
        // ended with it.
        let mut child = command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        Ok(Self {
            child,
            input,
            output,
        })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn tell(&mut self, line: &str) -> io::Result<()> {
        writeln!(
            self.input.as_mut().ok_or(io::ErrorKind::BrokenPipe)?,
            "{line}"
        )
    }

    /// The next line that it prints, without its end.
    ///
    /// # Errors
    /// If none comes: it has ended.
    pub(crate) fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_string())
    }

    /// Kills it, as `kill -9` does.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits until it ends by itself: its input stays open.
    ///
    /// # Errors
    /// If it does not.
    pub(crate) fn end(&mut self) -> io::Result<ExitStatus> {
        let ended = wait_for(|| !matches!(self.child.try_wait(), Ok(None)));
        if ended {
            self.child.wait()
        } else {
            Err(io::ErrorKind::TimedOut.into())
        }
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
