//! The comparison itself: a tiny one is complete, and what cannot be had is named.

#![cfg(target_os = "linux")]

#[path = "util/process.rs"]
mod process;
mod util;

use std::path::PathBuf;
use std::process::Command;

use process::example;
use serde_json::Value;

const TIMED: [&str; 4] = [
    "requests_per_second",
    "cpu_us_per_request",
    "p50_us",
    "p99_us",
];

/// One tiny round, whose plot goes there.
fn compare(name: &str, args: &[&str]) -> (Command, PathBuf) {
    let plots =
        std::env::temp_dir().join(format!("glassloop-compare-{name}-{}", std::process::id()));
    let mut command = Command::new(example("compare"));
    command
        .args(["--rounds", "1", "--secs", "0.05", "--svg"])
        .arg(&plots)
        .args(args);
    (command, plots)
}

/// Why somebody is missing.
fn reason<'a>(report: &'a Value, peer: &str) -> Option<&'a str> {
    let missing = report["missing"].as_array().unwrap();
    missing
        .iter()
        .find(|missing| missing["peer"] == peer)
        .map(|missing| missing["reason"].as_str().unwrap())
}

#[test]
fn tiny_round_fills_every_cell_or_gives_a_reason() {
    let server = example("server").display().to_string();
    let mine = format!("mine={server} --log error --listen 127.0.0.1:{{port}}");
    let stranger =
        format!("stranger={server} --log error --dialect source --listen 127.0.0.1:{{port}}");
    let scenarios = ["lock-step", "open-loop", "idle"];
    let asked = [
        "--json",
        "--peers",
        "glassloop,tokio-framed",
        "--scenarios",
        &scenarios.join(","),
    ];
    let (mut command, plots) = compare(
        "full",
        &[
            &asked[..],
            &[
                "--also",
                &mine,
                "--also",
                &stranger,
                "--also",
                "gone=false {port}",
            ],
        ]
        .concat(),
    );
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let plot = std::fs::read_to_string(plots.join("compare.svg")).unwrap();
    std::fs::remove_dir_all(&plots).unwrap();
    assert!(
        plot.starts_with("<svg") && plot.contains("tokio-framed"),
        "{plot}"
    );

    assert!(
        reason(&report, "stranger")
            .unwrap()
            .contains("fails the protocol check: one request: "),
        "{report:#}"
    );
    assert!(
        reason(&report, "gone").unwrap().contains("exited at once"),
        "{report:#}"
    );
    let mut peers = vec!["c-epoll", "glassloop", "tokio-framed", "mine"];
    peers.retain(|peer| reason(&report, peer).is_none());
    assert!(
        peers.len() >= 3,
        "only the yardstick needs anything that may not be here: {report:#}"
    );
    let is_there = |what: &Value| {
        what["median"].as_f64().is_some_and(f64::is_finite)
            && what["min"].is_f64()
            && what["max"].is_f64()
    };
    for (asked, block) in scenarios
        .iter()
        .zip(report["scenarios"].as_array().unwrap())
    {
        assert_eq!(block["scenario"], *asked);
        let rows = block["peers"].as_array().unwrap();
        assert_eq!(
            rows.iter()
                .map(|row| row["peer"].as_str().unwrap())
                .collect::<Vec<_>>(),
            peers
        );
        for row in rows {
            let figures: &[&str] = if *asked == "idle" {
                &["bytes_per_idle_connection"]
            } else {
                &TIMED
            };
            for figure in figures {
                assert!(is_there(&row[figure]["value"]), "{asked}: {figure}: {row}");
                assert!(
                    is_there(&row[figure]["ratio"]) || peers[0] != "c-epoll",
                    "{asked}: {figure}: {row}"
                );
            }
            let calls = &row["calls_per_request"];
            let why = calls["missing"].as_str().unwrap_or("");
            match *asked {
                "idle" => assert!(calls.is_null(), "{row}"),
                "open-loop" => assert!(!why.is_empty(), "{row}"),
                _ => assert!(
                    why.contains("strace") || is_there(&calls["value"]),
                    "{asked}: {row}"
                ),
            }
        }
    }
}

#[test]
fn missing_compilers_and_strace_are_reported_and_the_rest_runs() {
    let (mut command, plots) = compare(
        "bare",
        &["--peers", "threads,go-lesson", "--scenarios", "lock-step"],
    );
    // Nothing is found but what stands beside the program.
    let output = command
        .env("PATH", "/nowhere")
        .env_remove("CARGO")
        .output()
        .unwrap();
    std::fs::remove_dir_all(&plots).unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        output.status.code(),
        Some(0),
        "{table}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for line in [
        "c-epoll: n/a: cc (a C compiler) not found",
        "go-lesson: n/a: go not found",
        "n/a: strace not found",
    ] {
        assert!(table.contains(line), "{line:?} is not said:\n{table}");
    }
    assert!(
        table
            .lines()
            .any(|line| line.trim_start().starts_with("threads ") && line.contains("n/a [1]")),
        "{table}"
    );
}

#[test]
fn wrong_flags_are_refused_with_a_hint() {
    for (args, hint) in [
        (
            &["--peers", "nobody"][..],
            "--peers nobody: the known peers are c-epoll, glassloop, threads, tokio, \
             tokio-framed, go-lesson, go-batched",
        ),
        (
            &["--also", "mine=server"],
            "expected NAME=COMMAND with {port} in the command",
        ),
        (
            &["--scenarios", "none"],
            "possible values: lock-step, lock-step-spin, hundred",
        ),
        (&["--secs", "0"], "not in 0.01..=600"),
        (&["--rounds", "0"], "0 is not in 1..="),
    ] {
        let output = Command::new(example("compare"))
            .args(args)
            .env_remove("CARGO")
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && stderr.contains(hint),
            "{args:?}: {stderr}"
        );
    }
}
