//! The guide, `src/guide/*.md`: everything that it names exists, and no page or lab number is
//! missing.

#[path = "util/pages.rs"]
mod pages;

use std::collections::BTreeSet;

use pages::{files, is_there, quoted, read, root};

/// The chapters, in order. The other pages are for looking things up.
const CHAPTERS: [&str; 12] = [
    "sockets",
    "models",
    "turn",
    "states",
    "reading",
    "writing",
    "connecting",
    "closing",
    "deadlines",
    "sharing",
    "tasks",
    "measuring",
];
/// The lab's numbers, and the highest of each kind: claims about sockets, the protocol and the
/// speed; wrong reactors.
const LAB: [(char, u32); 4] = [('C', 67), ('D', 18), ('E', 8), ('w', 8)];
/// The beginning of a chapter's last line.
const LAST: &str = "In the lab: ";

/// Each page with its name. The parts of a page stand in a folder of its name.
fn guide() -> Vec<(String, String)> {
    let name = |path: &std::path::PathBuf| path.file_stem().unwrap().to_str().unwrap().to_string();
    let folder = root().join("src/guide");
    files("src/guide", "md")
        .iter()
        .filter(|path| path.parent() == Some(&folder))
        .map(|path| (name(path), std::fs::read_to_string(path).unwrap()))
        .collect()
}

/// The pages of the guide, its front page, and the README.
fn all_pages() -> Vec<(String, String)> {
    let others =
        ["src/guide/mod.rs", "README.md"].map(|file| (file.to_string(), read(file).unwrap()));
    guide().into_iter().chain(others).collect()
}

/// Returns all numbers that the lab should have.
fn lab() -> BTreeSet<String> {
    LAB.iter()
        .flat_map(|(letter, most)| (1..=*most).map(move |number| format!("{letter}{number}")))
        .collect()
}

/// True if a word looks like one of the lab's numbers.
fn is_number(word: &str) -> bool {
    let digits = word.strip_prefix(|letter| LAB.iter().any(|(its, _)| *its == letter));
    digits.is_some_and(|digits| {
        !digits.is_empty() && digits.len() < 3 && digits.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Returns the lab's numbers in a page's text.
fn numbers(text: &str) -> BTreeSet<String> {
    let words = text.split(|char: char| !(char.is_ascii_alphanumeric() || char == '_'));
    words
        .filter(|word| is_number(word))
        .map(str::to_string)
        .collect()
}

/// Returns the lab's numbers in a program's text: string literals that are a number, as in
/// `id: "C43"`.
fn numbers_in_code(text: &str) -> BTreeSet<String> {
    text.split('"')
        .filter(|piece| is_number(piece))
        .map(str::to_string)
        .collect()
}

#[test]
fn lab_numbers_are_found_in_prose_and_code() {
    let found = |numbers: BTreeSet<String>| numbers.into_iter().collect::<Vec<_>>().join(" ");
    assert_eq!(
        found(numbers(
            "C1, (w8) and C32..C38, but neither C10K nor 0xC5, E, D100 or twice C1."
        )),
        "C1 C32 C38 w8"
    );
    let stub = r#"Claim { id: "C43", says: "as C44 does", look: "lab run C43" },
        Wrong { id: "w1" }, ("E8", e8)"#;
    assert_eq!(found(numbers_in_code(stub)), "C43 E8 w1");
    assert_eq!(lab().len(), 67 + 18 + 8 + 8);
}

#[test]
fn lab_has_every_number() {
    let code: String = files("examples/lab", "rs")
        .iter()
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    let mut there = numbers_in_code(&code);
    // A claim that does not run has its text only.
    let texts = files("src/guide/lab", "md");
    for text in texts
        .iter()
        .map(|path| std::fs::read_to_string(path).unwrap())
    {
        let headings = text.lines().filter_map(|line| line.strip_prefix("## "));
        there.extend(headings.map(str::to_string));
    }
    let missing: Vec<_> = lab().difference(&there).cloned().collect();
    assert!(
        missing.is_empty(),
        "examples/lab lacks {}",
        missing.join(" ")
    );
    let unknown: Vec<_> = there.difference(&lab()).cloned().collect();
    assert!(
        unknown.is_empty(),
        "examples/lab has {}, which is no number of the lab",
        unknown.join(" ")
    );
}

#[test]
fn lab_numbers_are_all_in_chapters_and_none_is_unknown() {
    for (page, text) in all_pages() {
        let unknown: Vec<_> = numbers(&text).difference(&lab()).cloned().collect();
        assert!(
            unknown.is_empty(),
            "{page} names {}, which the lab does not have",
            unknown.join(" ")
        );
    }
    let chapters = guide()
        .into_iter()
        .filter(|(name, _)| CHAPTERS.contains(&name.as_str()));
    let belonging = chapters
        .flat_map(|(_, text)| numbers(text.trim_end().lines().last().unwrap()))
        .collect();
    let missing: Vec<_> = lab().difference(&belonging).cloned().collect();
    assert!(
        missing.is_empty(),
        "no chapter's last line names {}",
        missing.join(" ")
    );
}

#[test]
fn chapters_begin_with_a_sentence_and_end_with_lab_numbers() {
    let front = read("src/guide/mod.rs").unwrap();
    for name in CHAPTERS {
        let text = read(&format!("src/guide/{name}.md"))
            .unwrap_or_else(|| panic!("there is no chapter {name}"));
        let (first, last) = (
            text.lines().next().unwrap(),
            text.trim_end().lines().last().unwrap(),
        );
        assert!(
            first.ends_with('.') && !first.starts_with('#'),
            "{name} begins with {first:?}"
        );
        let named = last
            .strip_prefix(LAST)
            .and_then(|named| named.strip_suffix('.'));
        let named: Vec<&str> = named
            .unwrap_or_else(|| panic!("{name} ends with {last:?}"))
            .split(", ")
            .collect();
        assert!(
            !named.is_empty() && named.iter().all(|number| is_number(number)),
            "{name} ends with {last:?}"
        );
        assert!(
            front.contains(&format!(" | [`{name}`] | ")),
            "the front page has no line for {name}"
        );
    }
    for (name, _) in guide() {
        assert!(
            front.contains(&format!("`{name}`]")) || front.contains(&format!("`mod@{name}`]")),
            "{name} is not on the front page"
        );
        let declared = front.split("pages! {").nth(1).unwrap();
        assert!(
            declared.split_whitespace().any(|word| word == name),
            "{name} is not declared"
        );
    }
}

/// True if a code span names a test: its file is a test file or a source file, or its name is as
/// long as only a test's is. The name `name` is a placeholder; `guide::closing` is a page.
fn is_test(quoted: &str) -> bool {
    let Some((file, name)) = quoted.rsplit_once("::") else {
        return false;
    };
    let is_plain = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_/".contains(&byte))
    };
    let is_file = file.starts_with("src/") || root().join(format!("tests/{file}.rs")).exists();
    let is_page = file == "guide" && root().join(format!("src/guide/{name}.md")).exists();
    is_plain(file)
        && is_plain(name)
        && name != "name"
        && !is_page
        && (is_file || name.matches('_').count() > 2)
}

#[test]
fn tests_named_in_pages_exist() {
    let mut wrong = Vec::new();
    for (page, text) in all_pages() {
        let tests = quoted(&text).filter(|quoted| is_test(quoted));
        wrong.extend(tests.filter_map(|test| {
            is_there(test)
                .err()
                .map(|why| format!("{page}: `{test}`: {why}"))
        }));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_named_in_pages_exist() {
    let is_of_a_path = |char: char| char.is_ascii_alphanumeric() || "_-./:*@".contains(char);
    let mut wrong = Vec::new();
    for (page, text) in all_pages() {
        let words = text
            .split(|char: char| !is_of_a_path(char))
            .map(|word| word.trim_end_matches(['.', ':']));
        // The test above checks the names of tests. A path with a star stands for several files,
        // and `NAME` is a placeholder.
        let paths =
            words.filter(|word| !["::", "*", "NAME"].iter().any(|part| word.contains(part)));
        let paths = paths.filter(|word| {
            ["src/", "examples/", "tests/"]
                .iter()
                .any(|dir| word.starts_with(dir))
        });
        wrong.extend(
            paths
                .filter(|path| !root().join(path).exists())
                .map(|path| format!("{page}: there is no {path}")),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pages_fit_their_width() {
    let mut wrong = Vec::new();
    for (page, text) in guide() {
        let mut fence = None;
        for (number, line) in text.lines().enumerate() {
            if let Some(language) = line.trim_start().strip_prefix("```") {
                fence = if fence.is_none() {
                    Some(language)
                } else {
                    None
                };
                continue;
            }
            // A code block is cut by a scroll bar beyond 84 columns; the source may have 100.
            let most = match fence {
                Some("rust,ignore") | None => 100,
                Some(_) => 84,
            };
            let is_table = fence.is_none() && line.starts_with('|');
            let is_one_word = !line.trim_start_matches(['-', ' ']).contains(' ');
            if line.chars().count() > most && !is_table && !is_one_word {
                wrong.push(format!("{page}.md:{}", number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "too wide: {}", wrong.join(", "));
}
