//! Eight reactors that are wrong, each in a way that many are: the symptom, what catches it, and the fix.
//!
//! Each is two files, `wrong.rs` and `right.rs`, which differ by the fix and nothing else, and a detector that is run against both.

#[allow(clippy::needless_pass_by_value)] // it takes its listener as all of them do
mod accept_spin;
#[allow(clippy::needless_pass_by_value)]
mod always_out;
mod eof_drops;
mod no_flush;
mod no_generation;
mod no_limit;
mod one_read;
mod subject;
mod write_all;

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
use subject::Subject;

/// The processes in which they run.
pub(crate) const PARTS: &[(&str, Part)] = &[(subject::PART, subject::play)];

const ALL: [Wrong; 8] = [
    one_read::WRONG,
    write_all::WRONG,
    eof_drops::WRONG,
    always_out::WRONG,
    no_generation::WRONG,
    no_limit::WRONG,
    no_flush::WRONG,
    accept_spin::WRONG,
];

/// A mistake, in a reactor that makes it and in one that does not.
#[derive(Clone)]
pub(crate) struct Wrong {
    /// w1 to w8.
    name: &'static str,
    /// Where its two files are, below this directory.
    folder: &'static str,
    title: &'static str,
    /// What a test looks at.
    detector: &'static str,
    /// The text of the wrong and of the right one.
    sources: [&'static str; 2],
    /// The two of them. They serve for ever.
    serve: [fn(TcpListener) -> io::Result<()>; 2],
    setting: Setting,
    /// What the reactors count for the detector.
    counter: Option<&'static AtomicUsize>,
    detect: fn(&mut Subject) -> io::Result<Finding>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Wrong,
    Right,
}

/// What must be scarce for the mistake to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setting {
    Ordinary,
    SmallBuffers,
    FewDescriptors,
}

/// What a detector has come to.
struct Finding {
    caught: bool,
    /// What it saw, with figures.
    seen: String,
}

/// A mistake, looked for in both versions.
struct Shown {
    wrong: Wrong,
    findings: [io::Result<Finding>; 2],
}

/// The one with this name.
///
/// # Errors
/// If there is none: with the list of those that there are.
pub(crate) fn find(name: &str) -> Result<Wrong, String> {
    let found = ALL
        .into_iter()
        .find(|wrong| name.eq_ignore_ascii_case(wrong.name) || name == wrong.folder);
    found.ok_or_else(|| {
        let names: Vec<String> = ALL
            .iter()
            .map(|wrong| format!("  {} {}", wrong.name, wrong.title))
            .collect();
        format!(
            "{name} is none of the wrong reactors, which are:\n{}",
            names.join("\n")
        )
    })
}

/// Runs these, or all: each as it is wrong and as it is right. Fails unless every wrong one is caught, and no right one.
pub(crate) fn run(chosen: Vec<Wrong>, json: bool) -> ExitCode {
    let begun = Instant::now();
    let chosen = if chosen.is_empty() {
        ALL.to_vec()
    } else {
        chosen
    };
    let (mut all, mut results) = (true, Vec::new());
    let count = chosen.len();
    for wrong in chosen {
        let shown = Shown {
            findings: wrong.look(),
            wrong,
        };
        all &= shown.caught() && shown.fix_passes();
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
        say(format!(
            "wrong reactors: {count}, in {:.1} s; {verdict}\n",
            begun.elapsed().as_secs_f64()
        ));
    }
    if all {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

impl Wrong {
    /// Runs the detector against the wrong and the right one, which do not meet.
    fn look(&self) -> [io::Result<Finding>; 2] {
        let look = |version| (self.detect)(&mut Subject::start(self, version)?);
        thread::scope(|scope| {
            let looks =
                [Version::Wrong, Version::Right].map(|version| scope.spawn(move || look(version)));
            looks.map(|look| look.join().expect("no detector panics"))
        })
    }

    /// From wrong to right, as it is in the files.
    fn diff(&self) -> String {
        let [wrong, right] = self.sources;
        let file =
            |version: Version| format!("examples/lab/wrong/{}/{}.rs", self.folder, version.name());
        TextDiff::from_lines(wrong, right)
            .unified_diff()
            .context_radius(2)
            .header(&file(Version::Wrong), &file(Version::Right))
            .to_string()
    }
}

impl Version {
    fn name(self) -> &'static str {
        match self {
            Self::Wrong => "wrong",
            Self::Right => "right",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::Wrong, Self::Right]
            .into_iter()
            .find(|version| version.name() == name)
    }
}

impl Shown {
    fn caught(&self) -> bool {
        matches!(&self.findings[0], Ok(Finding { caught: true, .. }))
    }

    fn fix_passes(&self) -> bool {
        matches!(&self.findings[1], Ok(Finding { caught: false, .. }))
    }

    /// What was seen of a version, or why nothing was.
    fn seen(&self, version: Version) -> String {
        match &self.findings[version as usize] {
            Ok(finding) => finding.seen.clone(),
            Err(error) => format!("the detector failed: {error}"),
        }
    }

    fn text(&self) -> String {
        let yes_no = |yes| if yes { "yes" } else { "NO" };
        let mut text = format!("{}  {}\n", self.wrong.name, self.wrong.title);
        text += &paragraph("symptom", &self.seen(Version::Wrong));
        text += &paragraph("detector", self.wrong.detector);
        text += &paragraph("caught", yes_no(self.caught()));
        text += &paragraph("with the fix", &self.seen(Version::Right));
        text += &paragraph("fix passes", yes_no(self.fix_passes()));
        for line in self.wrong.diff().lines() {
            text += format!("    {line}").trim_end();
            text.push('\n');
        }
        text + "\n"
    }

    fn json(&self) -> Value {
        let Wrong {
            name,
            title,
            detector,
            ..
        } = &self.wrong;
        let (symptom, caught, fix_passes) =
            (self.seen(Version::Wrong), self.caught(), self.fix_passes());
        json!({
            "wrong": name,
            "title": title,
            "symptom": symptom,
            "detector": detector,
            "caught": caught,
            "fix_passes": fix_passes,
            "diff": self.wrong.diff(),
        })
    }
}
