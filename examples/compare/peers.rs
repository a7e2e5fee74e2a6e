//! Who is compared: each of them a command that serves on a port. Who cannot be had is named, with the reason.

pub(crate) mod rust;

use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;

use rust::RustPeer;

/// The one whose figures are 1.
pub(crate) const YARDSTICK: &str = "c-epoll";
/// The one that all this is about.
pub(crate) const OURS: &str = "glassloop";

/// A server to be compared.
pub(crate) struct Peer {
    pub(crate) name: String,
    /// With `{port}` where the port belongs.
    command: Vec<String>,
}

impl Peer {
    fn new(name: &str, command: &[&str]) -> Self {
        Self {
            name: name.into(),
            command: command.iter().map(ToString::to_string).collect(),
        }
    }

    /// What to start for it to serve on this port.
    pub(crate) fn command(&self, port: u16) -> impl Iterator<Item = String> {
        self.command
            .iter()
            .map(move |word| word.replace("{port}", &port.to_string()))
    }
}

/// The project's own programs, beside this one.
pub(crate) struct Programs {
    compare: PathBuf,
    server: PathBuf,
    pub(crate) load: PathBuf,
    /// Where peers are built.
    built: PathBuf,
}

impl Programs {
    /// Has cargo bring them up to date if it is cargo that has started this one, and also if they are not there.
    pub(crate) fn find() -> Result<Self, Box<dyn Error>> {
        let compare = std::env::current_exe()?;
        let examples = compare.parent().ok_or("this program lies nowhere")?;
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
            .map_err(|error| format!("cannot make {}: {error}", built.display()))?;
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
    let status = build
        .status()
        .map_err(|error| format!("server and load must stand beside this program, and cargo, which builds them, does not run: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err("cargo could not build the examples server and load".into())
    }
}

/// Peers, and why some are missing.
pub(crate) type Found = (Vec<Peer>, Vec<(String, String)>);

/// All that can be had of those asked for; of all if nobody asks.
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
            "--peers {unknown}: known are {}; others come with --also",
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
    // A shell that becomes the server: so the process that is started is the one that is measured.
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
            "cc, a C compiler,",
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

/// Builds always: what was built before may be of another day.
fn build(command: &mut Command, what: &str) -> Result<(), String> {
    let output = command
        .output()
        .map_err(|error| format!("{what} is not here ({error})"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!(
            "{what} could not build it: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))
    }
}
