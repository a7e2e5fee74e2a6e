//! Checks the simulation with planted bugs: each patch in `planted/` breaks the loop in one way,
//! and the simulation must find it.
//!
//! Every test run checks that each patch still applies. Finding them takes one build for each bug,
//! about ten minutes in all:
//!
//! ```sh
//! cargo test --test planted -- --ignored --nocapture
//! ```
//!
//! It works on copies below `target`, and prints the table of the guide
//! (`src/guide/simulation.md`). `PLANTED=name,name` runs only those bugs.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

/// The most seeds that a bug may need to be found.
const SEEDS: u64 = 10_000;
/// A run that takes longer counts as not found.
const TIMEOUT: Duration = Duration::from_secs(300);

/// A planted bug.
struct Planted {
    name: String,
    /// The bug, in one sentence.
    description: String,
    changes: Vec<Change>,
}

/// Text that occurs once in a file, and its replacement.
struct Change {
    file: String,
    before: String,
    after: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn planted() -> Vec<Planted> {
    let entries = fs::read_dir(root().join("tests/planted")).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

/// Reads a patch: a sentence, an empty line, and a unified diff. Line numbers are ignored, since
/// code moves.
fn read(path: &Path) -> Planted {
    let text = fs::read_to_string(path).unwrap();
    let name = path.file_stem().unwrap().to_str().unwrap().to_string();
    let (description, diff) = text
        .split_once("\n\n")
        .unwrap_or_else(|| panic!("{name}: a sentence, an empty line, a diff"));
    let mut changes: Vec<Change> = Vec::new();
    let mut file = "";
    for line in diff.lines() {
        if let Some(name) = line.strip_prefix("+++ b/") {
            file = name;
        } else if line.starts_with("@@") {
            changes.push(Change {
                file: file.into(),
                before: String::new(),
                after: String::new(),
            });
        } else if let (Some(change), false) = (changes.last_mut(), line.starts_with("---")) {
            let (sign, line) = line.split_at_checked(1).unwrap_or((" ", ""));
            if sign != "+" {
                writeln!(change.before, "{line}").unwrap();
            }
            if sign != "-" {
                writeln!(change.after, "{line}").unwrap();
            }
        }
    }
    Planted {
        name,
        description: description.into(),
        changes,
    }
}

impl Planted {
    /// Applies the patch to the copy in `dir`.
    fn apply_to(&self, dir: &Path) {
        for Change {
            file,
            before,
            after,
        } in &self.changes
        {
            let text = fs::read_to_string(dir.join(file)).unwrap();
            assert_eq!(
                text.matches(before.as_str()).count(),
                1,
                "{}: the patch does not apply to {file}:\n{before}",
                self.name
            );
            fs::write(dir.join(file), text.replace(before, after)).unwrap();
        }
    }
}

/// Copies what the simulation is built from. Unchanged files keep their modification time, so that
/// they are not rebuilt.
fn copy_to(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    for part in [
        "Cargo.toml",
        "Cargo.lock",
        "README.md",
        "src",
        "examples/simulate",
    ] {
        copy(&root().join(part), &dir.join(part));
    }
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).unwrap();
        // A file of an earlier run that has moved since must not be built.
        for entry in fs::read_dir(to).unwrap() {
            let old = entry.unwrap().path();
            if !from.join(old.file_name().unwrap()).exists() {
                let removed = if old.is_dir() {
                    fs::remove_dir_all(&old)
                } else {
                    fs::remove_file(&old)
                };
                removed.unwrap();
            }
        }
        for entry in fs::read_dir(from).unwrap() {
            let name = entry.unwrap().file_name();
            copy(&from.join(&name), &to.join(&name));
        }
    } else if fs::read(to).ok() != Some(fs::read(from).unwrap()) {
        fs::write(to, fs::read(from).unwrap()).unwrap();
    }
}

/// Builds the copy without link-time optimization, which is slow and not needed here.
fn build(dir: &Path) -> PathBuf {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo
        .args([
            "build",
            "--quiet",
            "--locked",
            "--release",
            "--features",
            "sim",
            "--example",
            "simulate",
        ])
        .current_dir(dir);
    cargo
        .env("CARGO_TARGET_DIR", dir.join("target"))
        .env("CARGO_PROFILE_RELEASE_LTO", "off");
    cargo
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .env("CARGO_PROFILE_RELEASE_INCREMENTAL", "true");
    let built = cargo.env("RUSTFLAGS", "-A warnings").output().unwrap();
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    dir.join("target/release/examples/simulate")
}

/// Runs seeds until one fails. Returns how many that took, and the first violation.
fn search(simulate: &Path) -> Option<(u64, String)> {
    let mut run = Command::new(simulate)
        .args([
            "--first",
            "--json",
            "--threads",
            "1",
            "--seeds",
            &SEEDS.to_string(),
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = run.stderr.take().unwrap();
    let reader = thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).map(|_| text)
    });
    let begun = Instant::now();
    while run.try_wait().unwrap().is_none() {
        if begun.elapsed() > TIMEOUT {
            run.kill().unwrap();
            run.wait().unwrap();
            return None;
        }
        thread::sleep(Duration::from_millis(50));
    }
    let text = reader.join().unwrap().unwrap();
    let (seed, what) = text
        .lines()
        .find_map(|line| line.strip_prefix("seed ")?.split_once(" failed: "))?;
    Some((
        seed.parse::<u64>().unwrap() + 1,
        what.split("; ").next().unwrap().chars().take(90).collect(),
    ))
}

#[test]
fn every_planted_patch_applies() {
    let planted = planted();
    assert!(planted.len() >= 30);
    for bug in &planted {
        assert!(
            !bug.changes.is_empty()
                && bug.description.ends_with('.')
                && !bug.description.contains('\n'),
            "{}",
            bug.name
        );
        for Change {
            file,
            before,
            after,
        } in &bug.changes
        {
            let text = fs::read_to_string(root().join(file)).unwrap();
            assert_eq!(
                text.matches(before.as_str()).count(),
                1,
                "{}: the patch does not apply to {file}:\n{before}",
                bug.name
            );
            assert_ne!(before, after, "{}", bug.name);
        }
    }
}

#[test]
fn guide_lists_every_planted_bug() {
    let guide = fs::read_to_string(root().join("src/guide/simulation.md")).unwrap();
    let listed: BTreeSet<&str> = guide
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name)
        .collect();
    let planted = planted();
    assert_eq!(
        listed,
        planted.iter().map(|bug| bug.name.as_str()).collect()
    );
}

#[test]
#[ignore = "builds the crate once for each bug: ten minutes"]
fn every_planted_bug_is_found() {
    let only = env::var("PLANTED").ok();
    let is_wanted = |bug: &Planted| {
        only.as_ref()
            .is_none_or(|only| only.split(',').any(|name| name == bug.name))
    };
    let bugs = Mutex::new(
        planted()
            .into_iter()
            .filter(is_wanted)
            .collect::<Vec<_>>()
            .into_iter(),
    );
    let lines = Mutex::new(Vec::new());
    let workers = thread::available_parallelism()
        .map_or(1, usize::from)
        .min(4);
    thread::scope(|scope| {
        for worker in 0..workers {
            let (bugs, lines) = (&bugs, &lines);
            scope.spawn(move || {
                let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("planted-{worker}"));
                loop {
                    let Some(bug) = bugs.lock().unwrap().next() else {
                        break;
                    };
                    copy_to(&dir);
                    bug.apply_to(&dir);
                    let found = search(&build(&dir));
                    let (seeds, how) = found
                        .as_ref()
                        .map_or(("-".into(), "not found"), |(seeds, how)| {
                            (seeds.to_string(), how)
                        });
                    let line =
                        format!("| `{}` | {} | {seeds} | {how} |", bug.name, bug.description);
                    println!("{line}");
                    lines.lock().unwrap().push((line, found.is_some()));
                }
            });
        }
    });
    let mut lines = lines.into_inner().unwrap();
    lines.sort();
    println!("\n| bug | what is wrong | seeds | how it shows |\n|---|---|---|---|");
    for (line, _) in &lines {
        println!("{line}");
    }
    let missed: Vec<&String> = lines
        .iter()
        .filter(|(_, found)| !found)
        .map(|(line, _)| line)
        .collect();
    assert!(
        missed.is_empty(),
        "not found within {SEEDS} seeds: {missed:#?}"
    );
}
