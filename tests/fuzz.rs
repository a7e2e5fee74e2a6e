//! What holds for any bytes, tried with many: the fuzzer's targets for some seconds, and on all that it has found before.

#[path = "fuzz/targets.rs"]
mod targets;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::{env, fs, panic};

use glassloop::submit::Dialect;
use proptest::prelude::*;
use proptest::test_runner::{TestError, TestRunner};
use targets::{Acks, Field, Line, Piece, Requests, Rules};

/// The inputs that are worth keeping, by name.
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
    assert!(
        inputs.len() >= 10,
        "the corpus of {target} is not where it was"
    );
    for (path, input) in inputs {
        if let Err(why) = panic::catch_unwind(|| run(&input)) {
            eprintln!("this came of {}", path.display());
            panic::resume_unwind(why);
        }
    }
}

#[derive(Clone, Debug)]
enum Change {
    Put(Vec<u8>),
    Overwrite(Vec<u8>),
    Remove(usize),
    Repeat(usize),
    CutOff,
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
        bytes().prop_map(Change::Put),
        bytes().prop_map(Change::Overwrite),
        prop::sample::select(lengths.to_vec())
            .prop_map(|length| Change::Overwrite(length.to_be_bytes().to_vec())),
        (1..20_usize).prop_map(Change::Remove),
        (1..60_usize).prop_map(Change::Repeat),
        Just(Change::CutOff),
    ]
}

fn changed(mut input: Vec<u8>, changes: &[(prop::sample::Index, Change)]) -> Vec<u8> {
    for (at, change) in changes {
        let at = at.index(input.len() + 1);
        match change {
            Change::Put(bytes) => drop(input.splice(at..at, bytes.iter().copied())),
            Change::Overwrite(bytes) => drop(input.splice(
                at..(at + bytes.len()).min(input.len()),
                bytes.iter().copied(),
            )),
            Change::Remove(n) => drop(input.drain(at..(at + n).min(input.len()))),
            Change::Repeat(n) => {
                let again = input[at..(at + n).min(input.len())].to_vec();
                input.splice(at..at, again);
            }
            Change::CutOff => input.truncate(at),
        }
    }
    input
}

/// Random bytes, and what is like an input of the corpus.
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
    /// Whether the panics of this thread are told already: a failing input is made smaller by failing again and again.
    static HAS_FAILED: Cell<bool> = const { Cell::new(false) };
}

fn hush_while_shrinking() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let tell = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !HAS_FAILED.replace(true) {
                tell(info);
            }
        }));
    });
    HAS_FAILED.set(false);
}

/// Tries so many inputs; `PROPTEST_CASES` asks for another number.
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
    hush_while_shrinking();
    let outcome = runner.run(&inputs(target), |input| {
        run(&input);
        Ok(())
    });
    HAS_FAILED.set(false);
    if let Err(error) = outcome {
        let TestError::Fail(reason, input) = error else {
            panic!("{error}")
        };
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{target}.input"));
        fs::write(&path, &input).unwrap();
        panic!(
            "{reason}\nthe input: {}\nIt is in {path}. To replay it:\n    cp {path} tests/fuzz/corpus/{target}/a-telling-name && cargo test --test fuzz {target}",
            input.escape_ascii(),
            path = path.display()
        );
    }
}

/// Cuts a stream in every way there is, read into place and not.
fn cut_in_every_way<R: Rules>(rules: &R, stream: &[u8]) {
    for cuts in 0..1_u32 << (stream.len() - 1) {
        let mut sizes = vec![1];
        for byte in 1..stream.len() {
            if cuts >> (byte - 1) & 1 > 0 {
                sizes.push(1);
            } else {
                *sizes.last_mut().unwrap() += 1;
            }
        }
        for placed in [false, true] {
            targets::cut(
                rules,
                stream,
                sizes.iter().map(|size| Piece {
                    size: *size,
                    placed,
                }),
            );
        }
    }
}

#[test]
fn a_short_stream_may_be_cut_in_every_way_there_is() {
    cut_in_every_way(
        &Line {
            delimiter: b'\n',
            max: 4,
        },
        b"\na\r\n\r\nabc\nabcd",
    );
    cut_in_every_way(
        &Field {
            offset: 1,
            width: 2,
            whole: true,
            min: 0,
            max: 9,
        },
        b"x\0\x03y\0\x05abz\0\x0a!",
    );
    cut_in_every_way(
        &Acks {
            dialect: Dialect::Text,
        },
        b"\0\0\0\x0e\x82\0\0\0\0\0\0\0\x01\x02",
    );
    cut_in_every_way(
        &Requests {
            dialect: Dialect::Text,
            max: 14,
        },
        b"\0\0\0\x0e\x02IDENTITY!\0\0\0\x0f",
    );
}

#[test]
fn codecs_cut_any_stream_alike() {
    replay("codecs", targets::codecs);
    fuzz("codecs", 3000, targets::codecs);
}

#[test]
fn packets_are_what_they_were_and_nothing_else_is_one() {
    replay("packets", targets::packets);
    fuzz("packets", 3000, targets::packets);
}

#[test]
fn a_connection_does_what_its_model_does() {
    replay("connection", targets::connection);
    fuzz("connection", 3000, targets::connection);
}
