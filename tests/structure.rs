//! The shape of the house, held by a program: floors, words that belong to one room only, and sizes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Which module stands on which floor; see the crate's front page. Imports point down, or sideways without a circle.
const FLOORS: [(&str, u8); 16] = [
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
    ("internals", 8),
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

#[test]
fn the_readme_names_every_limit_with_its_default() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let config = std::fs::read_to_string(root.join("src/config.rs")).unwrap();
    let fields = config
        .split("pub struct Config {")
        .nth(1)
        .unwrap()
        .split("\n}")
        .next()
        .unwrap();
    let names: Vec<&str> = fields
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub ")?.split(':').next())
        .collect();
    assert!(names.len() > 10);
    for name in names {
        assert!(
            readme.contains(&format!("`{name}`")),
            "README's table of limits lacks `{name}`"
        );
    }
}
