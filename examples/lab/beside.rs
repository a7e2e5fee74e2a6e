//! Go beside it: small Go programs of our own, built once a run where Go is installed, and what
//! they print.
//!
//! They stand in `go/*.go`. An experiment asks for one with [`run`], lets what it says count in its
//! verdict ([`Beside::agrees`]), and shows it ([`Beside::show`]). Where there is no Go, nothing
//! objects, and the note says so.

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
use super::value::Values;

const SOURCES: [(&str, &str); 5] = [
    ("main.go", include_str!("go/main.go")),
    ("socket.go", include_str!("go/socket.go")),
    ("goroutine.go", include_str!("go/goroutine.go")),
    ("illusion.go", include_str!("go/illusion.go")),
    ("deadline.go", include_str!("go/deadline.go")),
];

/// What a Go program printed, line by line, and the system calls that strace saw it make, if they
/// were asked for.
#[derive(Debug, Default)]
pub(crate) struct Said {
    lines: Vec<(String, String)>,
    pub(crate) calls: Vec<String>,
}

impl Said {
    /// What it said of a thing; nothing if it did not.
    pub(crate) fn text(&self, what: &str) -> &str {
        self.lines
            .iter()
            .find(|(name, _)| name == what)
            .map_or("", |(_, value)| value)
    }

    /// A number that it said, if it is one.
    pub(crate) fn number(&self, what: &str) -> Option<u64> {
        self.text(what).parse().ok()
    }

    /// Of all that it said, these things only.
    pub(crate) fn only(mut self, what: &[&str]) -> Self {
        self.lines.retain(|(name, _)| what.contains(&name.as_str()));
        self
    }

    /// Adds a thing that is known from all of it.
    pub(crate) fn with(mut self, what: &str, value: &str) -> Self {
        self.lines.push((what.to_string(), value.to_string()));
        self
    }
}

/// What Go does on its own sockets: a second witness, where it can be heard.
#[derive(Debug)]
pub(crate) struct Beside {
    as_known: bool,
    said: Result<Said, String>,
}

impl Beside {
    /// The outcome with this verdict, if Go agrees with it, and with what Go printed.
    pub(crate) fn measured(self, verdict: Verdict, values: Values) -> io::Result<Outcome> {
        Ok(self.show(Outcome::new(verdict, values)))
    }

    /// Chooses what is to be shown of what it said.
    pub(crate) fn map(self, choose: impl FnOnce(Said) -> Said) -> Self {
        Self {
            said: self.said.map(choose),
            ..self
        }
    }

    /// Adds what it said to what was measured, or to the note why it said nothing. To be called
    /// last: a later note would replace that.
    pub(crate) fn show(self, mut outcome: Outcome) -> Outcome {
        outcome.verdict = outcome.verdict.only_if(self.as_known);
        match self.said {
            Ok(said) => {
                let lines = said.lines.into_iter();
                outcome.with_all(lines.map(|(what, value)| (format!("Go, {what}"), value)))
            }
            Err(why) => {
                let note = format!("{} Go could not be heard beside it: {why}.", outcome.note);
                outcome.note(note.trim())
            }
        }
    }
}

/// Runs one of the programs, and judges what it says.
pub(crate) fn run(
    program: &str,
    args: &[&str],
    as_known: impl FnOnce(&Said) -> bool,
) -> io::Result<Beside> {
    Ok(heard(go(program, args)?, as_known))
}

/// The same under strace, where that is installed and allowed: only then are there [`Said::calls`].
pub(crate) fn run_traced(
    program: &str,
    calls: &str,
    as_known: impl FnOnce(&Said) -> bool,
) -> io::Result<Beside> {
    match traced(program, calls) {
        Some(said) => Ok(heard(Ok(said), as_known)),
        None => run(program, &[], as_known),
    }
}

fn heard(said: Result<Said, String>, as_known: impl FnOnce(&Said) -> bool) -> Beside {
    Beside {
        as_known: said.as_ref().map_or(true, as_known),
        said,
    }
}

/// C45, C46: after a read deadline has passed every `Read` fails, though bytes are there, until it
/// is set anew.
pub(crate) fn sticky_read_deadline() -> io::Result<Beside> {
    run("read-deadline", &[], |said| {
        said.text("Read, nothing there") == TIMEOUT
            && said.text("Read, 2 bytes there") == TIMEOUT
            && said.text("Read, deadline reset") == "n=2 err=<nil>"
    })
}

/// C55, C56: a `Write` that runs out of time says how much it has sent, and every one after it
/// fails, though there is room, until the deadline is set anew.
pub(crate) fn partial_write() -> io::Result<Beside> {
    run("write-deadline", &[], |said| {
        let sent = said
            .text("Write, nobody reads")
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

/// What a program prints; or why it cannot be heard: there is no Go here, or the program fails.
///
/// # Errors
/// If it cannot be started.
fn go(program: &str, args: &[&str]) -> io::Result<Result<Said, String>> {
    let built = match built() {
        Ok(built) => built,
        Err(why) => return Ok(Err(why.to_string())),
    };
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(path_of(built))
        .arg(program)
        .args(args)
        .stdin(Stdio::null())
        .output()?;
    if !status.success() {
        let first = String::from_utf8_lossy(&stderr)
            .lines()
            .next()
            .unwrap_or_default()
            .to_string();
        return Ok(Err(format!(
            "its program {program} failed ({status}) {first}"
        )
        .trim()
        .to_string()));
    }
    Ok(Ok(Said {
        lines: lines(&stdout),
        calls: Vec::new(),
    }))
}

/// The same, watched by strace. None if that cannot be: no Go, no strace, or it may not trace, as
/// under another strace.
fn traced(program: &str, calls: &str) -> Option<Said> {
    let mut strace = Command::new("strace");
    strace.args([
        "-f",
        "-qq",
        "-o",
        "/dev/stderr",
        "-e",
        "signal=none",
        "-e",
        &format!("trace={calls}"),
    ]);
    let output = strace
        .arg(path_of(built().ok()?))
        .arg(program)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    output.status.success().then(|| Said {
        lines: lines(&output.stdout),
        calls: whole(&String::from_utf8_lossy(&output.stderr)),
    })
}

fn lines(output: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(output);
    text.lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(what, value)| (what.to_string(), value.to_string()))
        .collect()
}

/// The calls of a trace in the order in which they ended. strace writes those that others came
/// between in two parts.
fn whole(trace: &str) -> Vec<String> {
    let (mut begun, mut calls) = (HashMap::new(), Vec::new());
    for line in trace.lines() {
        let Some((thread, call)) = line.split_once(' ') else {
            continue;
        };
        if let Some(first) = call.strip_suffix("<unfinished ...>") {
            begun.insert(thread, first.trim());
        } else if let Some((_, second)) = call.split_once(" resumed>") {
            calls.push(format!(
                "{}{second}",
                begun.remove(thread).unwrap_or_default()
            ));
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

/// It has no name any more: it lives as long as it is open here.
fn path_of(built: &File) -> String {
    format!("/proc/{}/fd/{}", process::id(), built.as_raw_fd())
}

fn build() -> Result<File, String> {
    if !env::split_paths(&env::var_os("PATH").unwrap_or_default())
        .any(|directory| directory.join("go").is_file())
    {
        return Err("go is not installed".into());
    }
    eprintln!("lab: building the Go programs, once (with an empty cache this takes a while)");
    sweep();
    let directory = env::temp_dir().join(format!("{DIRECTORY}{}", process::id()));
    // An error if it is there already: what is run is what was built here, and nobody else's.
    let built = DirBuilder::new()
        .mode(0o700)
        .create(&directory)
        .map_err(|error| error.to_string())
        .and_then(|()| {
            let built = build_in(&directory);
            let _ = fs::remove_dir_all(&directory);
            built
        });
    built.map_err(|why| format!("it cannot be built: {why}"))
}

/// What the directories are called in which it is built, before the number of the process.
const DIRECTORY: &str = "glassloop-lab-go-";

/// Takes away what labs that were killed have left, as far as it is ours.
fn sweep() {
    for entry in fs::read_dir(env::temp_dir())
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix(DIRECTORY)?.parse::<u32>().ok());
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
