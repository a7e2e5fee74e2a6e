//! Small Go programs, built once a run where Go is installed, and what they print.
//!
//! Their sources are `go/*.go`. An experiment runs one with [`run`], checks what it prints, and
//! shows that with [`Beside::measured`]. Without Go the verdict depends on the experiment alone,
//! and the note says so.

use std::collections::HashMap;
use std::env;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::{self, Command, Output, Stdio};
use std::sync::OnceLock;

use super::claim::{Outcome, Verdict};
use super::value::{Lines, Values};

const SOURCES: [(&str, &str); 5] = [
    ("main.go", include_str!("go/main.go")),
    ("socket.go", include_str!("go/socket.go")),
    ("goroutine.go", include_str!("go/goroutine.go")),
    ("illusion.go", include_str!("go/illusion.go")),
    ("deadline.go", include_str!("go/deadline.go")),
];

/// What a Go program printed, line by line, and the system calls that strace saw, if asked for.
#[derive(Debug, Default)]
pub(crate) struct Said {
    lines: Lines,
    pub(crate) calls: Vec<String>,
}

impl Said {
    /// The value of this line; nothing if there is no such line.
    pub(crate) fn text(&self, what: &str) -> &str {
        let line = self.lines.iter().find(|(name, _)| name == what);
        line.map_or("", |(_, value)| value)
    }

    /// The same as a number.
    pub(crate) fn number(&self, what: &str) -> Option<u64> {
        self.text(what).parse().ok()
    }

    /// Of all lines, these only.
    pub(crate) fn only(mut self, what: &[&str]) -> Self {
        self.lines.retain(|(name, _)| what.contains(&name.as_str()));
        self
    }

    /// Adds a line.
    pub(crate) fn with(mut self, what: &str, value: &str) -> Self {
        self.lines.push((what.into(), value.into()));
        self
    }
}

/// What Go does on its own sockets, where it can run.
#[derive(Debug)]
pub(crate) struct Beside {
    /// False only if Go ran, and with another result.
    as_known: bool,
    said: Result<Said, String>,
}

impl Beside {
    /// The outcome with this verdict, if Go agrees with it, and with what Go printed.
    pub(crate) fn measured(self, verdict: Verdict, values: Values) -> io::Result<Outcome> {
        Ok(self.show(Outcome::new(verdict, values)))
    }

    /// Chooses which lines to show.
    pub(crate) fn map(self, choose: impl FnOnce(Said) -> Said) -> Self {
        Self {
            said: self.said.map(choose),
            ..self
        }
    }

    /// The same for an outcome that is made already. Call it last: a later note would replace its
    /// note.
    pub(crate) fn show(self, mut outcome: Outcome) -> Outcome {
        outcome.verdict = outcome.verdict.only_if(self.as_known);
        match self.said {
            Ok(said) => {
                let lines = said.lines.into_iter();
                outcome.with_all(lines.map(|(what, value)| (format!("Go, {what}"), value)))
            }
            Err(why) => {
                let note = format!("{} Go did not run beside it: {why}.", outcome.note);
                outcome.note(note.trim())
            }
        }
    }
}

/// Runs one of the programs, and checks what it prints.
pub(crate) fn run(
    program: &str,
    args: &[&str],
    as_known: impl FnOnce(&Said) -> bool,
) -> io::Result<Beside> {
    Ok(judged(go(program, args)?, as_known))
}

/// The same under strace, where that is installed and allowed: only then are there [`Said::calls`].
pub(crate) fn run_traced(
    program: &str,
    calls: &str,
    as_known: impl FnOnce(&Said) -> bool,
) -> io::Result<Beside> {
    match traced(program, calls) {
        Some(said) => Ok(judged(Ok(said), as_known)),
        None => run(program, &[], as_known),
    }
}

fn judged(said: Result<Said, String>, as_known: impl FnOnce(&Said) -> bool) -> Beside {
    Beside {
        as_known: said.as_ref().map_or(true, as_known),
        said,
    }
}

/// C45, C46: after a read deadline has passed every `Read` fails, even with bytes there, until it
/// is set again.
pub(crate) fn sticky_read_deadline() -> io::Result<Beside> {
    run("read-deadline", &[], |said| {
        said.text("Read, nothing there") == TIMEOUT
            && said.text("Read, 2 bytes there") == TIMEOUT
            && said.text("Read, deadline reset") == "n=2 err=<nil>"
    })
}

/// C55, C56: a `Write` that runs into its deadline returns how much it has sent. Every later one
/// fails, even with room, until the deadline is set again.
pub(crate) fn partial_write() -> io::Result<Beside> {
    run("write-deadline", &[], |said| {
        let first = said.text("Write, the peer does not read");
        let sent = first
            .strip_prefix("n=")
            .and_then(|text| text.strip_suffix(" err=i/o timeout"));
        let sent = sent.and_then(|sent| sent.parse().ok());
        sent.is_some_and(|sent: u64| sent > 0)
            && sent < said.number("bytes that Write is given")
            && sent == said.number("the peer reads")
            && said.text("Write, there is room") == TIMEOUT
            && said.text("Write, deadline reset") == "n=1 err=<nil>"
    })
}

const TIMEOUT: &str = "n=0 err=i/o timeout";

/// What a program prints; or why it prints nothing: there is no Go here, or the program fails.
///
/// # Errors
/// If it cannot be started.
fn go(program: &str, args: &[&str]) -> io::Result<Result<Said, String>> {
    let built = match built() {
        Ok(built) => built,
        Err(why) => return Ok(Err(why.to_string())),
    };
    let mut go = Command::new(path_of(built));
    let output = go.arg(program).args(args).stdin(Stdio::null()).output()?;
    if output.status.success() {
        let (lines, calls) = (lines(&output.stdout), Vec::new());
        return Ok(Ok(Said { lines, calls }));
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let first = text.lines().next().unwrap_or_default();
    let failed = format!("its program {program} failed ({}) {first}", output.status);
    Ok(Err(failed.trim().to_string()))
}

/// The same under strace. `None` without Go or strace, or if strace may not trace.
fn traced(program: &str, calls: &str) -> Option<Said> {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/stderr", "-e", "signal=none"]);
    strace.args(["-e", &format!("trace={calls}")]);
    let strace = strace.arg(path_of(built().ok()?)).arg(program);
    let output = strace.stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| Said {
        lines: lines(&output.stdout),
        calls: whole(&String::from_utf8_lossy(&output.stderr)),
    })
}

fn lines(output: &[u8]) -> Lines {
    let text = String::from_utf8_lossy(output);
    let lines = text.lines().filter_map(|line| line.split_once(": "));
    lines
        .map(|(what, value)| (what.into(), value.into()))
        .collect()
}

/// The calls of a trace, in the order in which they ended. strace writes a call in two parts if
/// other calls came between.
fn whole(trace: &str) -> Vec<String> {
    let (mut begun, mut calls) = (HashMap::new(), Vec::new());
    for line in trace.lines() {
        let Some((thread, call)) = line.split_once(' ') else {
            continue;
        };
        if let Some(first) = call.strip_suffix("<unfinished ...>") {
            begun.insert(thread, first.trim());
        } else if let Some((_, second)) = call.split_once(" resumed>") {
            let first = begun.remove(thread).unwrap_or_default();
            calls.push(format!("{first}{second}"));
        } else {
            calls.push(call.trim().to_string());
        }
    }
    calls
}

/// The program of all the sources; or why there is none.
fn built() -> Result<&'static File, &'static str> {
    static BUILT: OnceLock<Result<File, String>> = OnceLock::new();
    BUILT.get_or_init(build).as_ref().map_err(String::as_str)
}

/// The file has no name any more, and exists as long as it is open here.
fn path_of(built: &File) -> String {
    format!("/proc/{}/fd/{}", process::id(), built.as_raw_fd())
}

fn build() -> Result<File, String> {
    let path = env::var_os("PATH").unwrap_or_default();
    if !env::split_paths(&path).any(|directory| directory.join("go").is_file()) {
        return Err("go is not installed".into());
    }
    eprintln!("lab: building the Go programs, once (with an empty cache this takes a while)");
    sweep();
    let directory = env::temp_dir().join(format!("{DIRECTORY}{}", process::id()));
    // An error if it exists already: only what was built here may run.
    let created = DirBuilder::new().mode(0o700).create(&directory);
    let built = created.map_err(|error| error.to_string()).and_then(|()| {
        let built = build_in(&directory);
        let _ = fs::remove_dir_all(&directory);
        built
    });
    built.map_err(|why| format!("it cannot be built: {why}"))
}

/// The name of a directory in which it is built, before the number of the process.
const DIRECTORY: &str = "glassloop-lab-go-";

/// Removes the directories of labs that were killed.
fn sweep() {
    for entry in fs::read_dir(env::temp_dir())
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(DIRECTORY));
        let number = number.and_then(|number| number.parse::<u32>().ok());
        if number.is_some_and(|number| !Path::new(&format!("/proc/{number}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn build_in(directory: &Path) -> Result<File, String> {
    let failed = |error: io::Error| error.to_string();
    for (name, text) in SOURCES {
        fs::write(directory.join(name), text).map_err(failed)?;
    }
    let settings = [
        ("CGO_ENABLED", "0"),
        ("GO111MODULE", "off"),
        ("GOFLAGS", ""),
        ("GOTOOLCHAIN", "local"),
        ("GOWORK", "off"),
    ];
    let names = SOURCES.iter().map(|(name, _)| name);
    let mut go = Command::new("go");
    go.args(["build", "-o", "beside"])
        .args(names)
        .current_dir(directory)
        .envs(settings)
        .stdin(Stdio::null());
    let Output { status, stderr, .. } = go.output().map_err(failed)?;
    if !status.success() {
        return Err(String::from_utf8_lossy(&stderr).trim().to_string());
    }
    File::open(directory.join("beside")).map_err(failed)
}
