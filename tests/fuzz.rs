//! Runs the fuzz targets for some seconds, and on all inputs of the corpus.

#[path = "fuzz/targets.rs"]
mod targets;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::{env, fs, panic};

use glassloop::submit::Dialect;
use proptest::prelude::*;
use proptest::test_runner::{TestError, TestRunner};
use targets::{Acks, Field, Line, Piece, ReferenceCodec, Requests};

/// The inputs of the corpus, by path.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(target);
    let entries = fs::read_dir(dir).unwrap();
    let mut inputs: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(&path).unwrap()))
        .collect();
    inputs.sort();
    inputs
}

fn replay(target: &str, run: fn(&[u8])) {
    let inputs = corpus(target);
    assert!(inputs.len() >= 10, "the corpus of {target} is missing");
    for (path, input) in inputs {
        if let Err(why) = panic::catch_unwind(|| run(&input)) {
            eprintln!("failed on {}", path.display());
            panic::resume_unwind(why);
        }
    }
}

#[derive(Clone, Debug)]
enum Change {
    Insert(Vec<u8>),
    Overwrite(Vec<u8>),
    Remove(usize),
    Repeat(usize),
    Truncate,
}

fn change() -> impl Strategy<Value = Change> {
    let bytes = || prop::collection::vec(any::<u8>(), 1..8);
    let lengths = [
        0_u32,
        1,
        12,
        13,
        14,
        65_536,
        65_537,
        i32::MAX as u32,
        1 << 31,
        u32::MAX,
    ];
    prop_oneof![
        bytes().prop_map(Change::Insert),
        bytes().prop_map(Change::Overwrite),
        prop::sample::select(lengths.to_vec())
            .prop_map(|length| Change::Overwrite(length.to_be_bytes().to_vec())),
        (1..20_usize).prop_map(Change::Remove),
        (1..60_usize).prop_map(Change::Repeat),
        Just(Change::Truncate),
    ]
}

fn changed(mut input: Vec<u8>, changes: &[(prop::sample::Index, Change)]) -> Vec<u8> {
    for (at, change) in changes {
        let at = at.index(input.len() + 1);
        match change {
            Change::Insert(bytes) => drop(input.splice(at..at, bytes.iter().copied())),
            Change::Overwrite(bytes) => drop(input.splice(
                at..(at + bytes.len()).min(input.len()),
                bytes.iter().copied(),
            )),
            Change::Remove(n) => drop(input.drain(at..(at + n).min(input.len()))),
            Change::Repeat(n) => {
                let again = input[at..(at + n).min(input.len())].to_vec();
                input.splice(at..at, again);
            }
            Change::Truncate => input.truncate(at),
        }
    }
    input
}

/// Random bytes, and mutations of corpus inputs.
fn inputs(target: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    let kept = corpus(target)
        .into_iter()
        .map(|(_, input)| input)
        .collect::<Vec<_>>();
    let changes = prop::collection::vec((any::<prop::sample::Index>(), change()), 1..6);
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..400),
        (prop::sample::select(kept), changes).prop_map(|(input, changes)| changed(input, &changes)),
    ]
}

thread_local! {
    /// True once a panic of this thread was printed. Shrinking repeats the failure many times.
    static FAILURE_PRINTED: Cell<bool> = const { Cell::new(false) };
}

fn print_only_first_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !FAILURE_PRINTED.replace(true) {
                print(info);
            }
        }));
    });
    FAILURE_PRINTED.set(false);
}

/// Runs `cases` inputs, or `PROPTEST_CASES` if that is set.
fn fuzz(target: &str, cases: u32, run: fn(&[u8])) {
    let default = ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    };
    let cases = if env::var_os("PROPTEST_CASES").is_some() {
        default.cases
    } else {
        cases
    };
    let mut runner = TestRunner::new(ProptestConfig { cases, ..default });
    print_only_first_panic();
    let outcome = runner.run(&inputs(target), |input| {
        run(&input);
        Ok(())
    });
    FAILURE_PRINTED.set(false);
    if let Err(error) = outcome {
        let TestError::Fail(reason, input) = error else {
            panic!("{error}")
        };
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{target}.input"));
        fs::write(&path, &input).unwrap();
        panic!(
            "{reason}\ninput: {}\nsaved as {path}; to replay it:\n    \
             cp {path} tests/fuzz/corpus/{target}/a-descriptive-name && cargo test --test fuzz {target}",
            input.escape_ascii(),
            path = path.display()
        );
    }
}

/// Cuts a stream in every possible way, with direct reads and without.
fn cut_everywhere<R: ReferenceCodec>(codec: &R, stream: &[u8]) {
    for cuts in 0..1_u32 << (stream.len() - 1) {
        let mut sizes = vec![1];
        for byte in 1..stream.len() {
            if cuts >> (byte - 1) & 1 > 0 {
                sizes.push(1);
            } else {
                *sizes.last_mut().unwrap() += 1;
            }
        }
        for direct in [false, true] {
            targets::cut(
                codec,
                stream,
                sizes.iter().map(|size| Piece {
                    size: *size,
                    direct,
                }),
            );
        }
    }
}

#[test]
fn short_streams_decode_alike_however_they_are_cut() {
    cut_everywhere(
        &Line {
            delimiter: b'\n',
            max: 4,
        },
        b"\na\r\n\r\nabc\nabcd",
    );
    cut_everywhere(
        &Field {
            offset: 1,
            width: 2,
            whole: true,
            min: 0,
            max: 9,
        },
        b"x\0\x03y\0\x05abz\0\x0a!",
    );
    cut_everywhere(
        &Acks {
            dialect: Dialect::Text,
        },
        b"\0\0\0\x0e\x82\0\0\0\0\0\0\0\x01\x02",
    );
    cut_everywhere(
        &Requests {
            dialect: Dialect::Text,
            max: 14,
        },
        b"\0\0\0\x0e\x02IDENTITY!\0\0\0\x0f",
    );
}

#[test]
fn codecs_match_their_references_on_any_stream() {
    replay("codecs", targets::codecs);
    fuzz("codecs", 3000, targets::codecs);
}

#[test]
fn packets_round_trip_and_other_bytes_are_refused() {
    replay("packets", targets::packets);
    fuzz("packets", 3000, targets::packets);
}

#[test]
fn connection_matches_its_model() {
    replay("connection", targets::connection);
    fuzz("connection", 3000, targets::connection);
}
