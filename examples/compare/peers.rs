//! The servers to compare. Each is a command that serves on a port. A server that cannot be built
//! or started is listed with the reason.

pub(crate) mod rust;

use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;

use rust::RustPeer;

/// The peer that all ratios refer to.
pub(crate) const YARDSTICK: &str = "c-epoll";
/// The name of this crate's server.
pub(crate) const OURS: &str = "glassloop";

/// A server to be compared.
pub(crate) struct Peer {
    pub(crate) name: String,
    /// The words of the command, with `{port}` in place of the port.
    command: Vec<String>,
}

impl Peer {
    fn new(name: &str, command: &[&str]) -> Self {
        Self {
            name: name.into(),
            command: command.iter().map(ToString::to_string).collect(),
        }
    }

    /// Returns the command that serves on this port.
    pub(crate) fn command(&self, port: u16) -> impl Iterator<Item = String> {
        self.command
            .iter()
            .map(move |word| word.replace("{port}", &port.to_string()))
    }
}

/// The project's own programs, in the same directory as this one.
pub(crate) struct Programs {
    compare: PathBuf,
    server: PathBuf,
    pub(crate) load: PathBuf,
    /// Directory in which peers are built.
    built: PathBuf,
}

impl Programs {
    /// Finds the programs. Builds them with cargo if cargo has started this program, or if they are
    /// missing.
    pub(crate) fn find() -> Result<Self, Box<dyn Error>> {
        let compare = std::env::current_exe()?;
        let examples = compare
            .parent()
            .ok_or("the path of this program has no directory")?;
        let profile = examples
            .parent()
            .ok_or("this program is not where cargo puts examples")?;
        let target = profile
            .parent()
            .ok_or("this program is not where cargo puts examples")?;
        let (server, load) = (examples.join("server"), examples.join("load"));
        let cargo = std::env::var_os("CARGO");
        if cargo.is_some() || !server.exists() || !load.exists() {
            build_examples(&cargo.unwrap_or_else(|| "cargo".into()), profile, target)?;
        }
        let built = target.join("compare");
        fs::create_dir_all(&built)
            .map_err(|error| format!("cannot create {}: {error}", built.display()))?;
        Ok(Self {
            compare,
            server,
            load,
            built,
        })
    }
}

fn build_examples(cargo: &OsString, profile: &Path, target: &Path) -> Result<(), Box<dyn Error>> {
    eprintln!("building the examples server and load");
    let name = profile
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or("release");
    let mut build = Command::new(cargo);
    build.current_dir(env!("CARGO_MANIFEST_DIR")).args([
        "build",
        "--quiet",
        "--example",
        "server",
        "--example",
        "load",
    ]);
    build
        .arg("--profile")
        .arg(if name == "debug" { "dev" } else { name })
        .arg("--target-dir")
        .arg(target);
    let status = build.status().map_err(|error| {
        format!(
            "the examples server and load must be next to this program, \
                 and cargo, which builds them, does not run: {error}"
        )
    })?;
    if status.success() {
        Ok(())
    } else {
        Err("cargo could not build the examples server and load".into())
    }
}

/// The peers that were found, and the names of the missing ones with the reasons.
pub(crate) type Found = (Vec<Peer>, Vec<(String, String)>);

/// Builds or finds the peers in `wanted`, or all known peers if it is empty, and adds those in
/// `also`.
pub(crate) fn all(
    programs: &Programs,
    wanted: &[String],
    also: &[(String, String)],
) -> Result<Found, String> {
    let mut names = vec![YARDSTICK.to_string(), OURS.to_string()];
    names.extend(RustPeer::value_variants().iter().map(|peer| peer.name()));
    names.extend(GO.map(|(name, _)| name.to_string()));
    if let Some(unknown) = wanted.iter().find(|name| !names.contains(name)) {
        return Err(format!(
            "--peers {unknown}: the known peers are {}; add others with --also",
            names.join(", ")
        ));
    }
    let (mut peers, mut missing) = (Vec::new(), Vec::new());
    for name in names
        .iter()
        .filter(|name| *name == YARDSTICK || wanted.is_empty() || wanted.contains(name))
    {
        match get(programs, name) {
            Ok(peer) => peers.push(peer),
            Err(why) => missing.push((name.clone(), why)),
        }
    }
    // `exec` makes the shell become the server, so the started process is the measured one.
    peers.extend(
        also.iter()
            .map(|(name, command)| Peer::new(name, &["sh", "-c", &format!("exec {command}")])),
    );
    Ok((peers, missing))
}

const GO: [(&str, &str); 2] = [
    ("go-lesson", include_str!("peers/lesson.go")),
    ("go-batched", include_str!("peers/batched.go")),
];

/// Builds a peer, if it must be built, and returns it.
fn get(programs: &Programs, name: &str) -> Result<Peer, String> {
    if name == OURS {
        return Ok(Peer::new(
            name,
            &[
                &path(&programs.server),
                "--listen",
                "127.0.0.1:{port}",
                "--log",
                "error",
            ],
        ));
    }
    if name == YARDSTICK {
        let source = write(programs, "epoll.c", include_str!("peers/epoll.c"))?;
        let program = programs.built.join(name);
        build(
            Command::new("cc")
                .args(["-O2", "-Wall", "-o"])
                .arg(&program)
                .arg(source),
            "cc (a C compiler)",
        )?;
        return Ok(Peer::new(name, &[&path(&program), "{port}"]));
    }
    if let Some((_, text)) = GO.iter().find(|(go, _)| *go == name) {
        let source = write(programs, &format!("{name}.go"), text)?;
        let program = programs.built.join(name);
        let mut go = Command::new("go");
        go.args(["build", "-o"])
            .arg(&program)
            .arg(source)
            .env("GO111MODULE", "off")
            .env("GOTOOLCHAIN", "local")
            .env("GOFLAGS", "");
        build(&mut go, "go")?;
        return Ok(Peer::new(name, &[&path(&program), "{port}"]));
    }
    Ok(Peer::new(
        name,
        &[&path(&programs.compare), "serve", name, "--port", "{port}"],
    ))
}

fn path(program: &Path) -> String {
    program.display().to_string()
}

fn write(programs: &Programs, name: &str, text: &str) -> Result<PathBuf, String> {
    let path = programs.built.join(name);
    fs::write(&path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    Ok(path)
}

/// Runs a compiler. It always runs, since an earlier build may be out of date.
fn build(command: &mut Command, what: &str) -> Result<(), String> {
    let output = command
        .output()
        .map_err(|error| format!("{what} not found ({error})"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!(
            "{what} failed to build it: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))
    }
}
