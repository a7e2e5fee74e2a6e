//! The catalogue of faults, `src/guide/faults.md`: it has all its rows, and every test that a row
//! names exists.

#[path = "util/pages.rs"]
mod pages;

use pages::{is_there, quoted, read};

/// Rows of the catalogue.
const ROWS: usize = 112;
/// How a row without a test begins; the reason follows.
const WITHOUT: [&str; 2] = ["cannot arise: ", "not ours: "];
/// The shortest text that counts as a reason, in bytes.
const REASON: usize = 40;

/// The cells of each row: its number, the fault, and its tests or the reason for having none.
fn rows(text: &str) -> Vec<[&str; 3]> {
    let lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let cells = lines.map(|line| {
        let cells: Vec<&str> = line.split(" | ").collect();
        <[&str; 3]>::try_from(cells).unwrap_or_else(|cells| panic!("not three cells: {cells:?}"))
    });
    cells.skip_while(|[number, ..]| *number == "row").collect()
}

fn catalogue() -> String {
    read("src/guide/faults.md").expect("the catalogue")
}

#[test]
fn rows_are_numbered_without_gaps_and_describe_the_fault() {
    let text = catalogue();
    let rows = rows(&text);
    let numbers: Vec<&str> = rows.iter().map(|[number, ..]| *number).collect();
    assert_eq!(
        numbers,
        (1..=ROWS).map(|n| n.to_string()).collect::<Vec<_>>()
    );
    for [number, fault, _] in rows {
        assert!(
            fault.len() >= REASON && fault.ends_with('.'),
            "row {number} does not describe the fault: {fault}"
        );
    }
}

#[test]
fn rows_name_existing_tests_or_a_reason_for_having_none() {
    let text = catalogue();
    let mut wrong = Vec::new();
    for [number, _, tested_by] in rows(&text) {
        let tests: Vec<&str> = if tested_by.starts_with('`') {
            quoted(tested_by).collect()
        } else {
            Vec::new()
        };
        if tests.is_empty() {
            let reason = WITHOUT.iter().find_map(|word| tested_by.strip_prefix(word));
            if reason.is_none_or(|reason| reason.len() < REASON) {
                wrong.push(format!(
                    "row {number}: neither a test nor a reason: {tested_by:?}"
                ));
            }
        }
        if tests.len() > 3 {
            wrong.push(format!(
                "row {number}: {} tests, at most three allowed",
                tests.len()
            ));
        }
        wrong.extend(tests.iter().filter_map(|test| {
            is_there(test)
                .err()
                .map(|why| format!("row {number}: `{test}`: {why}"))
        }));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
