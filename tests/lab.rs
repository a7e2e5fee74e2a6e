//! The lab from outside: every claim has its text, its experiment and its verdict, and every wrong
//! reactor is caught and has its fix.

#![cfg(target_os = "linux")]

#[path = "util/pages.rs"]
mod pages;
#[path = "util/process.rs"]
mod process;
#[path = "../examples/lab/text.rs"]
mod text;
mod util;

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use process::example;
use serde_json::Value;
use util::TIMEOUT;

/// The number of claims that the lessons make, by their letters.
const CLAIMS: [(char, usize); 3] = [('C', 67), ('D', 18), ('E', 8)];

/// The ids of all claims, in order.
fn ids() -> Vec<String> {
    let ids = |(letter, count)| (1..=count).map(move |number| format!("{letter}{number}"));
    CLAIMS.into_iter().flat_map(ids).collect()
}

fn lab(args: &[&str]) -> Output {
    Command::new(example("lab"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[track_caller]
fn stdout(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The output as a JSON array.
#[track_caller]
fn json(output: &Output) -> Vec<Value> {
    serde_json::from_str::<Value>(&stdout(output))
        .unwrap()
        .as_array()
        .unwrap()
        .clone()
}

fn word<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("no {key} in {value}"))
}

/// The claims of all sections, as the lab reads them.
fn texts() -> Vec<text::Text> {
    let files = pages::files("src/guide/lab", "md");
    let sections = files.iter().filter(|file| !file.ends_with("wrong.md"));
    let texts = sections.flat_map(|file| {
        let text = std::fs::read_to_string(file).unwrap();
        text::parse(&file.display().to_string(), &text).unwrap()
    });
    texts.collect()
}

#[test]
fn every_claim_has_every_field_once() {
    // `parse` refuses a claim that lacks a field, or has one twice.
    let texts = texts();
    let found: BTreeSet<&str> = texts.iter().map(|text| &*text.id).collect();
    let all = ids();
    assert_eq!(found, all.iter().map(String::as_str).collect());
    assert_eq!(texts.len(), all.len(), "an id has two texts");
    for text in &texts {
        let fields = [&text.says, &text.asks, &text.why, &text.exercise];
        assert!(fields.iter().all(|field| field.len() > 10), "{text:?}");
        assert!(text.asks.ends_with('?'), "{text:?}");
    }
}

#[test]
fn lab_list_prints_the_texts_of_the_guide() {
    let list = json(&lab(&["list", "--json"]));
    let texts = texts();
    for claim in &list {
        let id = word(claim, "claim");
        let text = texts.iter().find(|text| text.id == id).unwrap();
        assert_eq!(word(claim, "lesson_says"), text.says);
        let (reason, state) = match (&text.not_here, &text.instead) {
            (Some(reason), _) => (reason.as_str(), "not here"),
            (None, Some(instead)) => (instead.as_str(), "substitute"),
            (None, None) => ("", "runs"),
        };
        assert_eq!(
            (word(claim, "reason"), word(claim, "state")),
            (reason, state),
            "{id}"
        );
    }
}

#[test]
fn text_errors_name_the_claim_and_what_is_wrong() {
    const WHOLE: &str = "# Title\n\n## C1\n\n**Says:** a \\*b\\* `c\\d`\nover two lines\n\n\
                         **Asks:** a?\n\n**Why:** b\n\n**Measured:**\n\n- **c**: {d}\n  e\n\n\
                         **Look:** `ls`\n\n**Exercise:** f\n";
    let claim = &text::parse("f", WHOLE).unwrap()[0];
    assert_eq!(claim.says, "a *b* `c\\d` over two lines");
    assert_eq!(claim.measured, [("c".to_string(), "{d} e".to_string())]);
    for (from, to, error) in [
        ("## C1", "## 1C", "f:3: \"1C\" is no number such as C62"),
        (
            "**Why:**",
            "**Whence:**",
            "f:10: C1 has the unknown field \"Whence\"",
        ),
        ("**Why:**", "**Asks:**", "f:10: C1 has Asks twice"),
        ("**Why:** b", "", "f: C1 has no text under Why"),
        ("**Why:** b", "**Why:**", "f: C1 has no text under Why"),
        ("`ls`", "ls", "f: C1: Look is no command in backticks"),
        (
            "- **c**: {d}",
            "- c: {d}",
            "f: C1: \"c: {d} e\" is not like `- **name**: value`",
        ),
        (
            "**Exercise:** f",
            "**Exercise:** f\n\n**Not here:** g",
            "f: C1: what is not here has neither Measured nor Instead",
        ),
        (
            "**Says:**",
            "text\n**Says:**",
            "f:5: text before the first field",
        ),
    ] {
        let changed = WHOLE.replacen(from, to, 1);
        assert_eq!(text::parse("f", &changed).unwrap_err(), error, "{changed}");
    }
}

#[test]
fn claims_that_do_not_run_have_a_reason() {
    let list = json(&lab(&["list", "--json"]));
    let listed: Vec<&str> = list.iter().map(|claim| word(claim, "claim")).collect();
    assert_eq!(listed, ids());
    for claim in &list {
        assert!(word(claim, "lesson_says").len() > 10, "{claim}");
        match word(claim, "state") {
            "runs" => {}
            "substitute" | "not here" => assert!(word(claim, "reason").len() > 20, "{claim}"),
            other => panic!("{other} is no state: {claim}"),
        }
    }
    assert!(
        list.iter()
            .filter(|claim| word(claim, "state") == "runs")
            .count()
            > 70
    );
}

#[test]
fn every_claim_has_a_verdict_and_every_mistake_is_caught() {
    // One after the other: timed experiments need the machine for themselves.
    let results = json(&lab(&["run", "all", "--json"]));
    assert_eq!(results.len(), ids().len());
    let verdicts = BTreeSet::from([
        "REPRODUCED",
        "REFINED",
        "DIFFERS",
        "WRONG-AS-WRITTEN",
        "NOT HERE",
    ]);
    for result in &results {
        let verdict = word(result, "verdict");
        assert!(verdicts.contains(verdict), "{result}");
        assert!(
            word(result, "why").len() > 20 && word(result, "lesson_says").len() > 10,
            "{result}"
        );
        assert!(
            verdict == "NOT HERE"
                || result["measured"]
                    .as_object()
                    .is_some_and(|measured| !measured.is_empty()),
            "{result}"
        );
    }
    // These follow from the sockets alone, and not from the settings of the machine.
    for (id, verdict) in [
        ("C8", "WRONG-AS-WRITTEN"),
        ("C10", "REPRODUCED"),
        ("C43", "REPRODUCED"),
        ("C44", "REPRODUCED"),
        ("C62", "REFINED"),
    ] {
        let result = results
            .iter()
            .find(|result| word(result, "claim") == id)
            .unwrap();
        assert_eq!(word(result, "verdict"), verdict, "{result}");
    }

    let wrong = json(&lab(&["wrong", "--json"]));
    let names: Vec<&str> = wrong.iter().map(|wrong| word(wrong, "wrong")).collect();
    assert_eq!(names, ["w1", "w2", "w3", "w4", "w5", "w6", "w7", "w8"]);
    for wrong in &wrong {
        assert_eq!(
            (&wrong["caught"], &wrong["fix_passes"]),
            (&Value::Bool(true), &Value::Bool(true)),
            "{wrong}"
        );
        let diff = word(wrong, "diff");
        assert!(
            diff.lines().any(|line| line.starts_with('-'))
                && diff.lines().any(|line| line.starts_with('+')),
            "{diff}"
        );
    }
}

#[test]
fn predict_asks_first_and_shows_the_guess_with_the_result() {
    let mut child = Command::new(example("lab"))
        .args(["run", "C43", "--predict"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"ten, I think\n")
        .unwrap();
    let output = stdout(&child.wait_with_output().unwrap());
    let (asked, told) = (
        output.find("your guess:").unwrap(),
        output.rfind("ten, I think").unwrap(),
    );
    let (question, lesson) = (
        output.find('?').unwrap(),
        output.find("the lesson").unwrap(),
    );
    assert!(
        question < asked && asked < lesson,
        "the lesson often has the answer: {output}"
    );
    assert!(
        lesson < told && told < output.find("verdict").unwrap(),
        "{output}"
    );
    assert!(output.contains("strace"), "{output}");
}

#[test]
fn predict_without_input_notes_that_there_is_no_guess() {
    let output = stdout(&lab(&["run", "C43", "--predict"]));
    assert!(output.contains("your guess: (no guess)\n"), "{output}");
    let list = json(&lab(&["list", "--json"]));
    let not_here = list
        .iter()
        .find(|claim| word(claim, "state") == "not here")
        .unwrap();
    let output = stdout(&lab(&["run", word(not_here, "claim"), "--predict"]));
    assert!(
        !output.contains("your guess") && output.contains("NOT HERE"),
        "{output}"
    );
}

#[test]
fn full_output_device_is_an_error() {
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let output = Command::new(example("lab"))
        .args(["list", "--json"])
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("lab: "),
        "{output:?}"
    );
}

/// The paragraphs of this name, each as one line.
fn paragraphs(text: &str, name: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut within = false;
    for line in text.lines() {
        if let Some(first) = line
            .strip_prefix("  ")
            .and_then(|line| line.strip_prefix(name))
        {
            found.push(first.trim().to_string());
            within = true;
        } else if within && line.starts_with("    ") {
            found.last_mut().unwrap().extend([" ", line.trim()]);
        } else {
            within = false;
        }
    }
    found
}

#[test]
fn every_look_is_a_valid_shell_command() {
    let looks = paragraphs(&stdout(&lab(&["explain", "all"])), "see it");
    assert_eq!(looks.len(), ids().len());
    for look in looks {
        let Ok(output) = Command::new("bash").args(["-n", "-c", &look]).output() else {
            return println!("not checked: there is no bash");
        };
        assert!(
            output.status.success(),
            "{look}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn killed_lab_leaves_no_process() {
    let mut lab = Command::new(example("lab"))
        .args(["run", "C26"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let is_of_it = |pid: &u32| {
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.contains(") Z "))
    };
    let parts = until(|| {
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", lab.id()))
            .unwrap_or_default();
        let children: Vec<u32> = children
            .split_whitespace()
            .map(|pid| pid.parse().unwrap())
            .collect();
        let spins = |pid: &u32| {
            std::fs::read_to_string(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.contains("accept-or-spin"))
        };
        children.iter().any(spins).then_some(children)
    });
    lab.kill().unwrap();
    lab.wait().unwrap();
    let Some(parts) = parts else {
        return println!("not checked: /proc does not show its parts");
    };
    assert!(
        until(|| (!parts.iter().any(is_of_it)).then_some(())).is_some(),
        "{parts:?}"
    );
}

/// The first result of a function that is called again and again, within [`PATIENCE`].
fn until<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + TIMEOUT;
    while Instant::now() < end {
        if let Some(seen) = look() {
            return Some(seen);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    None
}

#[test]
fn ranges_run_in_order_and_unknown_ids_are_refused() {
    let results = json(&lab(&["run", "C62..C63", "C43", "--json"]));
    assert_eq!(
        results
            .iter()
            .map(|result| word(result, "claim"))
            .collect::<Vec<_>>(),
        ["C62", "C63", "C43"]
    );
    for args in [
        ["run", "C68"],
        ["run", "Q1"],
        ["explain", "C0"],
        ["run", "C5..C2"],
        ["exercise", "43"],
        ["wrong", "w9"],
    ] {
        let output = lab(&args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code() == Some(2) && (said.contains("C1") || said.contains("w1")),
            "{args:?}: {said}"
        );
    }
}

#[test]
fn no_experiment_starts_after_the_budget() {
    let output = lab(&["run", "C43", "C44", "--budget", "0s", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(
        results
            .as_array()
            .unwrap()
            .iter()
            .all(|result| result["verdict"].is_null()),
        "{results}"
    );
}

#[test]
fn exercise_is_a_program_that_compiles() {
    assert!(stdout(&lab(&["explain", "C43"])).contains("exercise"));
    let exercise = stdout(&lab(&["exercise", "C43"]));
    let out = std::env::temp_dir().join(format!("glassloop-exercise-{}", std::process::id()));
    let Ok(mut rustc) = Command::new("rustc")
        .args([
            "--edition",
            "2024",
            "--crate-type",
            "bin",
            "--emit",
            "metadata",
            "-A",
            "warnings",
            "-o",
        ])
        .args([out.as_os_str(), "-".as_ref()])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
    else {
        return println!("not compiled: there is no rustc");
    };
    rustc
        .stdin
        .take()
        .unwrap()
        .write_all(exercise.as_bytes())
        .unwrap();
    let output = rustc.wait_with_output().unwrap();
    let _ = std::fs::remove_file(&out);
    assert!(
        output.status.success(),
        "{}\n{exercise}",
        String::from_utf8_lossy(&output.stderr)
    );
}
