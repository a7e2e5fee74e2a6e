//! Formats the results as text and as JSON.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::Args;
use super::figures::{Figure, Results, Spread};
use super::peers::YARDSTICK;
use super::process::{Cores, machine};
use super::scenarios::Scenario;

/// Formats the table, with a block for each scenario.
pub(crate) fn text(results: &Results, args: &Args, cores: &Cores) -> String {
    let mut notes = Vec::new();
    let mut text = String::new();
    for scenario in &results.scenarios {
        let mut lines = vec![head(*scenario)];
        for peer in &results.peers {
            lines.push(line(results, *scenario, peer, &mut notes));
        }
        let _ = write!(
            text,
            "{}: {}\n{}\n",
            scenario.name(),
            scenario.title(),
            columns(&lines)
        );
    }
    for (number, note) in notes.iter().enumerate() {
        let _ = writeln!(text, "[{}] n/a: {note}", number + 1);
    }
    for (name, why) in &results.missing {
        let _ = writeln!(text, "{name}: n/a: {why}");
    }
    let _ = write!(
        text,
        "{} rounds of {} s, medians over the rounds; {}; {cores}\n\
         ×: ratio to {YARDSTICK} in the same round; in brackets the least and greatest of the \
         rounds, if they differ\n\
         × of {YARDSTICK} itself: ratio to its own median, which shows the noise\n\
         calls/req: system calls a request under strace, which slows a server down, so that \
         requests arrive together more often\n\
         bytes/idle: memory of the process for each idle connection, without the kernel's \
         buffers\n",
        args.rounds,
        args.secs,
        machine()
    );
    text
}

fn figures(scenario: Scenario) -> impl Iterator<Item = Figure> {
    Figure::ALL
        .into_iter()
        .filter(move |figure| figure.is_of(scenario))
}

fn head(scenario: Scenario) -> Vec<String> {
    let mut line = vec![String::new()];
    for figure in figures(scenario) {
        line.extend([figure.head().into(), "×".into()]);
    }
    line
}

fn line(results: &Results, scenario: Scenario, peer: &str, notes: &mut Vec<String>) -> Vec<String> {
    let mut line = vec![peer.to_string()];
    for figure in figures(scenario) {
        let value = results.value(scenario, peer, figure);
        line.push(value.map_or_else(
            || no_value(results, scenario, peer, figure, notes),
            |value| number(value.median),
        ));
        line.push(
            results
                .ratio(scenario, peer, figure)
                .map_or_else(String::new, ratio),
        );
    }
    line
}

/// Returns a mark for a missing value, and adds the reason to the notes below the table.
fn no_value(
    results: &Results,
    scenario: Scenario,
    peer: &str,
    figure: Figure,
    notes: &mut Vec<String>,
) -> String {
    let why = results
        .gap(scenario, peer, figure)
        .unwrap_or("no value was measured")
        .to_string();
    let number = notes
        .iter()
        .position(|note| *note == why)
        .unwrap_or_else(|| {
            notes.push(why);
            notes.len() - 1
        });
    format!("n/a [{}]", number + 1)
}

/// Formats a value with at least three significant digits.
fn number(value: f64) -> String {
    match value.abs() {
        1e6.. => format!("{:.2}M", value / 1e6),
        1e5.. => format!("{:.0}k", value / 1e3),
        100.0.. => format!("{value:.0}"), // thousands too: microseconds read badly with a k
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Formats a ratio, with its spread if there is one.
fn ratio(spread: Spread) -> String {
    let Spread {
        median,
        least,
        most,
    } = spread;
    if most - least < 0.005 {
        format!("{median:.2}")
    } else {
        format!("{median:.2} ({least:.2}–{most:.2})")
    }
}

fn columns(lines: &[Vec<String>]) -> String {
    let mut text = String::new();
    for line in lines {
        for (column, cell) in line.iter().enumerate() {
            let width = lines
                .iter()
                .filter_map(|line| line.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0);
            let pad = " ".repeat(width - cell.chars().count());
            let _ = match column {
                0 => write!(text, "  {cell}{pad}"),
                _ if column % 2 == 1 => write!(text, "   {pad}{cell}"),
                _ => write!(text, " {cell}{pad}"), // a ratio, next to its value
            };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// Formats all results as one JSON object.
pub(crate) fn json(results: &Results, args: &Args, cores: &Cores) -> Value {
    let spread = |spread: Spread| {
        let Spread {
            median,
            least,
            most,
        } = spread;
        json!({ "median": median, "min": least, "max": most })
    };
    let cell = |scenario, peer: &str, figure| {
        if let Some(value) = results.value(scenario, peer, figure) {
            let ratio = results.ratio(scenario, peer, figure).map(spread);
            json!({ "value": spread(value), "ratio": ratio })
        } else {
            let gap = results.gap(scenario, peer, figure);
            json!({ "missing": gap.unwrap_or("no value was measured") })
        }
    };
    let row = |scenario: Scenario, peer: &String| {
        let mut row = Map::new();
        row.insert("peer".into(), peer.as_str().into());
        row.extend(
            figures(scenario)
                .map(|figure| (figure.key().to_string(), cell(scenario, peer, figure))),
        );
        Value::Object(row)
    };
    let scenarios: Vec<Value> = results
        .scenarios
        .iter()
        .map(|scenario| {
            let rows: Vec<Value> = results
                .peers
                .iter()
                .map(|peer| row(*scenario, peer))
                .collect();
            json!({ "scenario": scenario.name(), "title": scenario.title(), "peers": rows })
        })
        .collect();
    let missing: Vec<Value> = results
        .missing
        .iter()
        .map(|(peer, why)| json!({ "peer": peer, "reason": why }))
        .collect();
    json!({
        "yardstick": YARDSTICK,
        "machine": machine(),
        "rounds": args.rounds,
        "secs": args.secs,
        "server_processor": cores.server,
        "load_processor": cores.load,
        "scenarios": scenarios,
        "missing": missing,
    })
}
