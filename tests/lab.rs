//! The lab as a learner uses it: everything the lessons say has its number here, every number its verdict, and every wrong reactor its fix.

#![cfg(target_os = "linux")]

#[path = "util/process.rs"]
mod process;
mod util;

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use process::example;
use serde_json::Value;
use util::TIMEOUT;

/// How many claims the lessons make, by their letters.
const CLAIMS: [(char, usize); 3] = [('C', 67), ('D', 18), ('E', 8)];

fn lab(args: &[&str]) -> Output {
    Command::new(example("lab"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[track_caller]
fn text(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// An array of objects, as a program would read it.
#[track_caller]
fn json(output: &Output) -> Vec<Value> {
    serde_json::from_str::<Value>(&text(output))
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

#[test]
fn every_claim_has_a_state_and_a_reason_if_it_is_not_run() {
    let list = json(&lab(&["list", "--json"]));
    let ids: Vec<&str> = list.iter().map(|claim| word(claim, "claim")).collect();
    let all: Vec<String> = CLAIMS
        .iter()
        .flat_map(|(letter, count)| (1..=*count).map(move |number| format!("{letter}{number}")))
        .collect();
    assert_eq!(ids, all);
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
fn all_of_them_come_to_a_verdict_and_every_wrong_reactor_is_caught_and_mended() {
    // One after the other: what is timed should have the machine to itself.
    let results = json(&lab(&["run", "all", "--json"]));
    assert_eq!(
        results.len(),
        CLAIMS.iter().map(|(_, count)| count).sum::<usize>()
    );
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
    // What follows from the sockets alone, and not from how a machine is set up.
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
fn a_guess_is_asked_for_first_and_shown_beside_what_was_measured() {
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
    let output = text(&child.wait_with_output().unwrap());
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
        "the lesson's words hold the answer: {output}"
    );
    assert!(
        lesson < told && told < output.find("verdict").unwrap(),
        "{output}"
    );
    assert!(output.contains("strace"), "how to see it oneself: {output}");
}

#[test]
fn who_says_nothing_is_told_so_and_what_is_not_run_is_not_asked() {
    let output = text(&lab(&["run", "C43", "--predict"]));
    assert!(output.contains("your guess: (no guess)\n"), "{output}");
    let list = json(&lab(&["list", "--json"]));
    let not_here = list
        .iter()
        .find(|claim| word(claim, "state") == "not here")
        .unwrap();
    let output = text(&lab(&["run", word(not_here, "claim"), "--predict"]));
    assert!(
        !output.contains("your guess") && output.contains("NOT HERE"),
        "{output}"
    );
}

#[test]
fn what_cannot_be_written_is_an_error() {
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

/// The paragraphs of this name, each in one line.
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
fn what_is_to_be_looked_at_is_a_command() {
    let looks = paragraphs(&text(&lab(&["explain", "all"])), "see it");
    assert_eq!(
        looks.len(),
        CLAIMS.iter().map(|(_, count)| count).sum::<usize>()
    );
    for look in looks {
        let Ok(output) = Command::new("bash").args(["-n", "-c", &look]).output() else {
            return println!("not looked at: there is no bash");
        };
        assert!(
            output.status.success(),
            "{look}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn nothing_is_left_of_a_lab_that_was_killed() {
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
        return println!("not looked at: its parts are not to be seen in /proc");
    };
    assert!(
        until(|| (!parts.iter().any(is_of_it)).then_some(())).is_some(),
        "{parts:?}"
    );
}

/// What it comes to, as soon as it does.
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
fn ranges_are_run_in_order_and_what_is_no_claim_is_refused_with_what_there_is() {
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
fn no_experiment_begins_when_the_time_is_over() {
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
fn an_exercise_is_a_program_to_begin_with() {
    assert!(text(&lab(&["explain", "C43"])).contains("exercise"));
    let exercise = text(&lab(&["exercise", "C43"]));
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
