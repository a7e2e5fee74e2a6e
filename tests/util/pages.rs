//! Helpers for tests of the documentation: read a file, and check that a test that it names exists.

#![allow(dead_code, unreachable_pub)] // each test file uses its own part

use std::path::{Path, PathBuf};

/// Returns the crate's directory.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the text of a file, if it exists.
pub fn read(file: &str) -> Option<String> {
    std::fs::read_to_string(root().join(file)).ok()
}

/// Returns all files below a directory that have this extension, in order.
pub fn files(dir: &str, extension: &str) -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in
            std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(dir), &mut found);
    found.retain(|path| path.extension().is_some_and(|its| its == extension));
    found.sort();
    found
}

/// Checks that a test exists: `closing::name` in `tests/closing.rs`, `src/time/timers::name` in
/// `src/time/timers.rs`.
pub fn is_there(named: &str) -> Result<(), String> {
    let (file, name) = named.rsplit_once("::").ok_or("not a test's name")?;
    let file = if file.starts_with("src/") {
        format!("{file}.rs")
    } else {
        format!("tests/{file}.rs")
    };
    let text = read(&file).ok_or(format!("there is no {file}"))?;
    let mut lines = text.lines().map(str::trim_start);
    while lines.any(|line| line == "#[test]") {
        // Other attributes may come before the function.
        let function = lines.find_map(|line| line.strip_prefix("fn "));
        if function.is_some_and(|function| {
            function
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('('))
        }) {
            return Ok(());
        }
    }
    Err(format!("no such test in {file}"))
}

/// Returns the code spans of a text, line by line.
pub fn quoted(text: &str) -> impl Iterator<Item = &str> {
    // Every second piece of a line is between backticks.
    text.lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2))
}
