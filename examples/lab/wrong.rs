//! Eight reactors that are wrong, each in a common way: the symptom, what catches it, and the fix.
//!
//! Three servers can make these mistakes, one at a time: `MISTAKE` chooses it, and with 0 a server
//! makes none. The text of either version, and so the difference, comes from the source by
//! [`version`].

mod detect;
mod edge;
#[allow(clippy::needless_pass_by_value)] // they take their listener as the others do
mod jobs;
#[allow(clippy::needless_pass_by_value)]
mod level;
mod subject;

use std::io;
use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::atomic::AtomicUsize;
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};
use similar::TextDiff;

use super::parts::Part;
use super::report::{paragraph, say};
use super::text::{Entry, entries};
use subject::Subject;

/// The processes in which they run.
pub(crate) const PARTS: &[(&str, Part)] = &[(subject::PART, subject::play)];

const W1: u32 = 1;
const W2: u32 = 2;
const W3: u32 = 3;
const W4: u32 = 4;
const W5: u32 = 5;
const W6: u32 = 6;
const W7: u32 = 7;
const W8: u32 = 8;

/// The most reply bytes that were ever queued for a client.
static QUEUED: AtomicUsize = AtomicUsize::new(0);
static WAKE_UPS: AtomicUsize = AtomicUsize::new(0);
/// Accepts that failed.
static FAILED: AtomicUsize = AtomicUsize::new(0);

/// A mistake: a server that makes it, the same server without it, and what finds it.
#[derive(Clone, Copy)]
pub(crate) struct Wrong {
    id: &'static str,
    name: &'static str,
    /// The server, and its source below this folder.
    server: (&'static str, &'static str),
    /// With the mistake, and with the fix. They serve until they are killed.
    serve: [fn(TcpListener) -> io::Result<()>; 2],
    setting: Setting,
    /// What the server counts for the detector.
    counter: Option<&'static AtomicUsize>,
    detect: fn(&mut Subject) -> io::Result<Finding>,
}

/// What must be scarce for the mistake to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setting {
    Ordinary,
    SmallBuffers,
    FewDescriptors,
}

/// What a detector has found.
struct Finding {
    caught: bool,
    /// What it saw, with figures.
    seen: String,
}

macro_rules! wrong {
    ($($number:ident $id:literal: $server:ident $name:ident $setting:ident $counter:expr;)*) => {
        [$(Wrong {
            id: $id,
            name: stringify!($name),
            server: (
                concat!(stringify!($server), ".rs"),
                include_str!(concat!("wrong/", stringify!($server), ".rs")),
            ),
            serve: [$server::serve::<$number>, $server::serve::<0>],
            setting: Setting::$setting,
            counter: $counter,
            detect: detect::$name,
        }),*]
    };
}

const ALL: [Wrong; 8] = wrong! {
    W1 "w1": edge one_read Ordinary None;
    W2 "w2": edge write_all SmallBuffers None;
    W3 "w3": edge eof_drops Ordinary None;
    W4 "w4": level always_out Ordinary Some(&WAKE_UPS);
    W5 "w5": jobs no_generation Ordinary None;
    W6 "w6": edge no_limit SmallBuffers Some(&QUEUED);
    W7 "w7": edge no_flush Ordinary None;
    W8 "w8": level accept_spin FewDescriptors Some(&FAILED);
};

/// The text on a mistake: what it is, and what its detector does.
fn text(id: &str) -> [String; 2] {
    const FILE: &str = "src/guide/lab/wrong.md";
    const FIELDS: [&str; 2] = ["Mistake", "Detector"];
    let texts = entries(FILE, include_str!("../../src/guide/lab/wrong.md"), &FIELDS);
    let texts = texts.unwrap_or_else(|error| panic!("the lab's texts: {error}"));
    let entry: Option<&Entry> = texts.iter().find(|entry| entry.id == id);
    let entry = entry.unwrap_or_else(|| panic!("{FILE} has no text for {id}"));
    FIELDS.map(|name| {
        entry
            .text(name)
            .unwrap_or_else(|error| panic!("{FILE}: {error}"))
    })
}

/// The mistake with this id or name.
///
/// # Errors
/// If there is none: with the list of all.
pub(crate) fn find(name: &str) -> Result<Wrong, String> {
    let is_meant = |wrong: &Wrong| name.eq_ignore_ascii_case(wrong.id) || name == wrong.name;
    ALL.into_iter().find(is_meant).ok_or_else(|| {
        let names = ALL.map(|Wrong { id, .. }| format!("  {id} {}", text(id)[0]));
        format!(
            "{name} is none of the wrong reactors, which are:\n{}",
            names.join("\n")
        )
    })
}

/// Runs these, or all: each with the mistake and with the fix. Fails unless each mistake is caught
/// and each fix passes.
pub(crate) fn run(chosen: Vec<Wrong>, json: bool) -> ExitCode {
    let (begun, mut all, mut results) = (Instant::now(), true, Vec::new());
    let chosen = if chosen.is_empty() {
        ALL.to_vec()
    } else {
        chosen
    };
    let count = chosen.len();
    for wrong in chosen {
        let shown = Shown::of(&wrong);
        all &= shown.caught && shown.fix_passes;
        if json {
            results.push(shown.json());
        } else {
            say(shown.text());
        }
    }
    if json {
        say(format!("{}\n", Value::Array(results)));
    } else {
        let verdict = if all {
            "every one is caught, and every fix passes"
        } else {
            "NOT every one is caught and its fix let pass"
        };
        let took = begun.elapsed().as_secs_f64();
        say(format!(
            "wrong reactors: {count}, in {took:.1} s; {verdict}\n"
        ));
    }
    ExitCode::from(u8::from(!all))
}

/// What the detector found in both versions, and how they differ.
struct Shown {
    id: &'static str,
    title: String,
    detector: String,
    caught: bool,
    fix_passes: bool,
    /// With the mistake, and with the fix.
    seen: [String; 2],
    diff: String,
}

impl Shown {
    /// Runs the detector against both versions, which do not meet.
    fn of(wrong: &Wrong) -> Self {
        let look = |version| (wrong.detect)(&mut Subject::start(wrong, version)?);
        let findings = thread::scope(|scope| {
            let looks = [0, 1].map(|version| scope.spawn(move || look(version)));
            looks.map(|look| look.join().expect("no detector panics"))
        });
        let caught = findings
            .each_ref()
            .map(|finding| finding.as_ref().ok().map(|it| it.caught));
        let [title, detector] = text(wrong.id);
        let (file, source) = wrong.server;
        let [from, to] = [version(source, wrong.id), version(source, "")];
        let [old, new] = ["wrong", "right"].map(|version| format!("{file}, {version}"));
        Self {
            id: wrong.id,
            title,
            detector,
            caught: caught[0] == Some(true),
            fix_passes: caught[1] == Some(false),
            seen: findings.map(|finding| match finding {
                Ok(finding) => finding.seen,
                Err(error) => format!("the detector failed: {error}"),
            }),
            diff: TextDiff::from_lines(&from, &to)
                .unified_diff()
                .context_radius(2)
                .header(&old, &new)
                .to_string(),
        }
    }

    fn text(&self) -> String {
        let yes_no = |yes| if yes { "yes" } else { "NO" };
        let mut text = format!("{}  {}\n", self.id, self.title);
        for (name, value) in [
            ("symptom", &*self.seen[0]),
            ("detector", &*self.detector),
            ("caught", yes_no(self.caught)),
            ("with the fix", &*self.seen[1]),
            ("fix passes", yes_no(self.fix_passes)),
        ] {
            text += &paragraph(name, value);
        }
        for line in self.diff.lines() {
            text += format!("    {line}").trim_end();
            text.push('\n');
        }
        text + "\n"
    }

    fn json(&self) -> Value {
        json!({
            "wrong": self.id,
            "title": self.title,
            "symptom": self.seen[0],
            "detector": self.detector,
            "caught": self.caught,
            "fix_passes": self.fix_passes,
            "diff": self.diff,
        })
    }
}

/// A server's source with this mistake and no other: each `if MISTAKE == …` and `if MISTAKE != …`
/// is replaced by the branch that it takes, and an `else` that is never taken is left out.
fn version(source: &str, id: &str) -> String {
    let (mut text, mut lines) = (Vec::new(), source.lines());
    while let Some(line) = lines.next() {
        let indent = &line[..line.len() - line.trim_start().len()];
        let Some(condition) = line.trim_start().strip_prefix("if MISTAKE ") else {
            text.push(line.to_string());
            continue;
        };
        let (equal, rest) = condition.split_at(2);
        let (number, rest) = rest.trim_start().split_at(2);
        let taken = (equal == "==") == number.eq_ignore_ascii_case(id);
        let further = rest.strip_prefix(" && ").filter(|_| taken);
        text.extend(further.map(|further| format!("{indent}if {further}")));
        let mut keep = taken;
        for line in lines.by_ref() {
            match line.strip_prefix(indent) {
                Some("} else {") => keep = !keep,
                Some("}") => break,
                _ if keep && further.is_some() => text.push(line.to_string()),
                _ if keep => text.push(line.replacen("    ", "", 1)),
                _ => {}
            }
        }
        text.extend(further.map(|_| format!("{indent}}}")));
    }
    let text = text.join("\n") + "\n";
    text.replace("<const MISTAKE: u32>", "")
        .replace("::<MISTAKE>", "")
}
