//! The shape of the house, held by a program: floors, words that belong to one room only, and
//! sizes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Which module stands on which floor; see the crate's front page. Imports point down, or sideways
/// without a circle.
const FLOORS: [(&str, u8); 15] = [
    ("guide", 0), // documentation only
    ("id", 0),
    ("net", 0),
    ("error", 1),
    ("config", 2),
    ("state", 2),
    ("codec", 0),
    ("time", 3),
    ("threads", 3),
    ("buffer", 4),
    ("observe", 4),
    ("handler", 5),
    ("connection", 6),
    ("reactor", 7),
    ("sim", 8),
];

/// Words that may stand in these places only, and why.
const WORDS: [(&[&str], &[&str], &str); 5] = [
    (
        &["mio::", "std::net", "Instant::now", "std::os", "std::fs"],
        &[
            "net/mio_net.rs",
            "net/socket.rs",
            "reactor/sockets.rs",
            "sim/world.rs",
        ],
        "sockets and clocks come through the seam",
    ),
    (
        &[".read(", ".write(", ".read_vectored(", ".write_vectored("],
        &["net/transport.rs", "net/socket.rs"],
        "only `fill` reads and only `flush` writes; a socket passes it on",
    ),
    (
        &["SystemTime", "UNIX_EPOCH"],
        &[],
        "somebody may set that clock; deadlines go by the one that nobody can",
    ),
    (
        &["unsafe"],
        &["lib.rs"],
        "forbidden there, and so everywhere",
    ),
    (
        &[
            "todo!(",
            "unimplemented!(",
            ".unwrap()",
            "println!",
            "dbg!(",
        ],
        &[],
        "not in the library",
    ),
];

/// A source file without its comments and its unit tests.
struct Source {
    /// Below `src`, with slashes.
    name: String,
    /// The module of the top level that it belongs to.
    module: String,
    code: Vec<(usize, String)>,
    lines: usize,
}

fn sources() -> Vec<Source> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    assert!(paths.len() >= FLOORS.len());
    let read = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        let name = path
            .strip_prefix(&root)
            .unwrap()
            .to_str()
            .unwrap()
            .replace('\\', "/");
        let module = name.split(['/', '.']).next().unwrap().to_string();
        let code = text
            .split("#[cfg(test)]")
            .next()
            .unwrap()
            .lines()
            .enumerate();
        let code = code
            .map(|(n, line)| (n + 1, line.split("//").next().unwrap().to_string()))
            .collect();
        Source {
            name,
            module,
            code,
            lines: text.lines().count(),
        }
    };
    paths.iter().map(read).collect()
}

fn floor(module: &str) -> u8 {
    let found = FLOORS.iter().find(|(name, _)| *name == module);
    found
        .unwrap_or_else(|| {
            panic!("module `{module}` has no floor: give it one here and on the front page")
        })
        .1
}

/// The modules that a source file imports.
fn imports(source: &Source) -> BTreeSet<String> {
    let code: String = source
        .code
        .iter()
        .map(|(_, line)| line.as_str())
        .collect::<Vec<_>>()
        .join("\n");
    let names = code.split("crate::").skip(1).map(|rest| {
        rest.split(|c: char| !c.is_alphanumeric() && c != '_')
            .next()
            .unwrap()
    });
    names
        .filter(|name| *name != source.module)
        .map(str::to_string)
        .collect()
}

#[test]
fn imports_point_down_and_never_in_a_circle() {
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources().iter().filter(|source| source.name != "lib.rs") {
        for import in imports(source) {
            assert!(
                floor(&import) <= floor(&source.module),
                "{} imports {import}, which is above it",
                source.name
            );
            graph
                .entry(source.module.clone())
                .or_default()
                .insert(import);
        }
    }
    // Take away, again and again, what imports nothing that is left. A circle would remain.
    let mut left: BTreeSet<String> = graph.keys().cloned().collect();
    while let Some(free) = left
        .iter()
        .find(|module| graph[*module].is_disjoint(&left))
        .cloned()
    {
        left.remove(&free);
    }
    assert!(
        left.is_empty(),
        "these import each other in a circle: {left:?}"
    );
}

#[test]
fn each_word_stands_where_it_belongs() {
    for source in sources() {
        for (words, places, why) in &WORDS {
            if places.contains(&source.name.as_str()) {
                continue;
            }
            for (n, line) in &source.code {
                for word in *words {
                    assert!(
                        !line.contains(word),
                        "src/{}:{n}: `{word}`: {why}",
                        source.name
                    );
                }
            }
        }
    }
}

#[test]
fn files_and_functions_stay_small() {
    for source in sources() {
        assert!(
            source.lines <= 400,
            "src/{} has {} lines: more than one idea?",
            source.name,
            source.lines
        );
        // rustfmt closes a function at the indentation it was opened with.
        let mut open: Option<(usize, String, String)> = None;
        for (n, line) in &source.code {
            let body = line.trim_start();
            let indent = &line[..line.len() - body.len()];
            let words = body.split('(').next().unwrap();
            if open.is_none()
                && words.split_whitespace().any(|word| word == "fn")
                && !body.ends_with(';')
                && !body.ends_with('}')
            {
                open = Some((*n, words.to_string(), format!("{indent}}}")));
            }
            if let Some((start, name, end)) = &open {
                if line.trim_end() == end {
                    let most = if name.contains("fn turn") { 40 } else { 70 };
                    assert!(
                        n - start < most,
                        "src/{}:{start}: `{name}` has {} lines, at most {most}",
                        source.name,
                        n - start + 1
                    );
                    open = None;
                }
            }
        }
    }
}

#[test]
fn the_library_depends_on_its_four_crates_only() {
    let manifest =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let section = manifest
        .split("\n[dependencies]\n")
        .nth(1)
        .unwrap()
        .split("\n[")
        .next()
        .unwrap();
    let names: Vec<&str> = section
        .lines()
        .filter_map(|line| line.split('=').next())
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect();
    assert_eq!(names, ["bytes", "log", "mio", "slab"]);
}

/// Limits that the guide's page for operators names, each with its default.
#[test]
fn the_guide_names_every_limit() {
    let guide = read("src/guide/operating.md");
    let config = read("src/config.rs");
    let fields = config.split("pub struct Config {").nth(1).unwrap();
    let fields = fields.split("\n}").next().unwrap().lines();
    let names: Vec<&str> = fields
        .filter_map(|line| line.trim().strip_prefix("pub ")?.split(':').next())
        .collect();
    assert!(names.len() > 10);
    for name in names {
        assert!(
            guide.contains(&format!("`{name}`")),
            "src/guide/operating.md lacks `{name}`"
        );
    }
}

#[test]
fn the_root_of_src_has_few_entries() {
    let entries = std::fs::read_dir(root().join("src")).unwrap().count();
    assert!(
        entries <= 16,
        "{entries} entries in src: which two are one?"
    );
}

#[test]
fn the_readme_stays_short() {
    let lines = read("README.md").lines().count();
    assert!(lines <= 180, "README.md has {lines} lines");
}

/// What an embedder can name without the feature `sim`, modules included.
#[test]
fn the_public_surface_stays_small() {
    let face = read("src/lib.rs");
    let mut count = 0;
    for line in face.split(';') {
        let line = line.trim_start_matches(|c: char| c.is_whitespace());
        if line.contains("feature = \"sim\"") {
            continue;
        }
        if let Some((_, names)) = line.split_once("pub use ") {
            count += names
                .split(',')
                .filter(|name| !name.trim().is_empty())
                .count();
        } else if line.contains("pub mod ") {
            count += 1;
        }
    }
    for source in sources().iter().filter(|source| source.module == "codec") {
        let is_item = |line: &&(usize, String)| {
            let kinds = ["struct ", "enum ", "trait ", "const ", "fn ", "type "];
            let item = line.1.strip_prefix("pub ");
            item.is_some_and(|item| kinds.iter().any(|kind| item.starts_with(kind)))
        };
        count += source.code.iter().filter(is_item).count();
    }
    count -= 1; // `Codec`, which stands in both
    assert!(
        (30..=50).contains(&count),
        "{count} public items and modules"
    );
}

/// Words for people. A connection, a peer or a thread is *it*, and has a name.
const FOR_PEOPLE: [&str; 9] = [
    "who",
    "whoever",
    "whom",
    "somebody",
    "nobody",
    "everybody",
    "anybody",
    "he",
    "him",
];

/// Lines that may have them: where it is a quotation, or about people.
const ABOUT_PEOPLE: [&str; 1] = ["who_"];

#[test]
fn no_connection_is_spoken_of_as_a_person() {
    let mut wrong = Vec::new();
    for file in text_files() {
        for (n, line) in read(&file).lines().enumerate() {
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            let is_wrong = words.any(|word| FOR_PEOPLE.contains(&word.to_lowercase().as_str()));
            if is_wrong && !ABOUT_PEOPLE.iter().any(|allowed| line.contains(allowed)) {
                wrong.push(format!("{file}:{}: {}", n + 1, line.trim()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} lines:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn no_line_is_wider_than_100_columns() {
    let mut wrong = Vec::new();
    for file in rust_files() {
        for (n, line) in read(&file).lines().enumerate() {
            // A string without a space cannot be cut.
            let words = line.split(' ').map(|word| word.chars().count());
            let widest = line.len() - line.trim_start().len() + words.max().unwrap_or(0);
            if line.chars().count() > 100 && widest <= 90 {
                wrong.push(format!("{file}:{}", n + 1));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} lines:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap()
}

/// The files below a directory that have one of these extensions, by their paths in the project.
fn files_below(dir: &str, extensions: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut dirs = vec![root().join(dir)];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path
                .extension()
                .is_some_and(|extension| extensions.iter().any(|wanted| extension == *wanted))
            {
                let path = path.strip_prefix(root()).unwrap().to_str().unwrap();
                found.push(path.replace('\\', "/"));
            }
        }
    }
    found
}

fn rust_files() -> Vec<String> {
    ["src", "tests", "examples"]
        .iter()
        .flat_map(|dir| files_below(dir, &["rs"]))
        .collect()
}

/// What a reader of the library reads: its source, its guide and its front page.
fn text_files() -> Vec<String> {
    let mut files = files_below("src", &["rs", "md"]);
    files.push("README.md".into());
    files
}
