//! The walkthrough, `src/guide/walkthrough.md`: its code is the source's own.
//!
//! A line `<!-- src/reactor/serve.rs: serve -->` names a function, and the block below shows it.
//! After a change of the source, this takes the blocks over:
//!
//! ```sh
//! UPDATE_WALKTHROUGH=1 cargo test --test walkthrough
//! ```

use std::path::Path;

const PAGE: &str = "src/guide/walkthrough.md";
/// Lines of code that the page may have.
const MOST: usize = 300;

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The function of this name, without its indentation.
fn function(file: &str, name: &str) -> String {
    let text = read(file);
    let lines: Vec<&str> = text.lines().collect();
    let is_start = |line: &&str| {
        let (before, after) = line.split_once("fn ").unwrap_or(("//", ""));
        let is_code = !before.contains("//");
        is_code
            && after
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['(', '<']))
    };
    let start = lines.iter().position(is_start);
    let start = start.unwrap_or_else(|| panic!("no function `{name}` in {file}"));
    let first = lines[start];
    let indent = &first[..first.len() - first.trim_start().len()];
    // rustfmt closes a function at the indentation that it was opened with.
    let end = format!("{indent}}}");
    let length = lines[start..].iter().position(|line| *line == end).unwrap() + 1;
    let body: Vec<&str> = lines[start..][..length]
        .iter()
        .map(|line| line.strip_prefix(indent).unwrap_or(line))
        .collect();
    body.join("\n") + "\n"
}

/// The page with its blocks taken from the source, and the number of lines of code in it.
fn rendered(page: &str) -> (String, usize) {
    let (mut out, mut code, mut skipping) = (String::new(), 0, false);
    for line in page.lines() {
        if skipping {
            skipping = line != "```";
            continue;
        }
        out += line;
        out += "\n";
        let marker = line
            .strip_prefix("<!-- ")
            .and_then(|rest| rest.strip_suffix(" -->"));
        if let Some((file, name)) = marker.and_then(|marker| marker.split_once(": ")) {
            let block = function(file, name);
            code += block.lines().count();
            out = out + "```rust,ignore\n" + &block + "```\n";
            skipping = true;
        }
    }
    (out, code)
}

#[test]
fn walkthrough_shows_the_source_as_it_is() {
    let page = read(PAGE);
    let (wanted, code) = rendered(&page);
    if std::env::var_os("UPDATE_WALKTHROUGH").is_some() {
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE), &wanted).unwrap();
    } else {
        assert!(
            page == wanted,
            "{PAGE} is not up to date: see the top of {}",
            file!()
        );
    }
    assert!(code <= MOST, "{code} lines of code in {PAGE}");
}
